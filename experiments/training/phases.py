"""The phases of training that a recipe asks for, of the supernet and of one network alone."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from experiments.settings.recipe import Recipe
from experiments.settings.training import NoTrainingSettings, TrainedSettings
from experiments.task import create_task
from supernet.space import SearchSpace
from supernet.space.roles import roles_of
from supernet.training import (
    CrossEntropy,
    Distillation,
    InPlaceDistillation,
    MeanSquare,
    OwnLoss,
    Phase,
    Schedule,
    plain,
    with_loss,
)
from supernet.training.draws import CountsMacs

__all__ = ["alone_phases", "for_task", "highest_rate", "training_phases"]


def training_phases(recipe: Recipe, supernet: CountsMacs) -> tuple[Phase, ...]:
    """The phases of the supernet's training, with the loss of the recipe's task; none with method "none".

    Raises:
        ValueError: the recipe does not fit the space of the supernet, or the loss cannot be found.
    """
    training = recipe.training
    if isinstance(training, NoTrainingSettings):
        return ()
    return training.with_options(_phases(recipe, training, supernet), supernet.space, supernet)


def alone_phases(recipe: Recipe, supernet: CountsMacs, space: SearchSpace, epochs: int | None = None) -> tuple[Phase]:
    """Phases of `space`'s largest network alone, trained like the supernet: as many epochs, and its highest rate.

    Raises:
        ValueError: the supernet is not trained, and there are no `epochs`; or the loss of a task cannot be found.
    """
    training, peak_lr = recipe.training, recipe.baselines.peak_lr
    if isinstance(training, NoTrainingSettings):
        if epochs is None:
            raise ValueError("the supernet is not trained, so its baselines need epochs of their own: baselines.epochs")
        schedule, clip = Schedule(epochs, peak_lr or _usual_rate(recipe)), None
    else:
        phases = _phases(recipe, training, supernet)
        schedule, clip = (
            Schedule(
                epochs or sum(phase.schedule.epochs for phase in phases),
                peak_lr or max(phase.schedule.peak_lr for phase in phases),
                phases[0].schedule.warmup_epochs,
                phases[0].schedule.warmup_lr,
            ),
            phases[-1].clip,
        )
    (phase,) = for_task(recipe, plain(space, schedule, recipe.optimisation.label_smoothing, clip))
    return (phase,)


def highest_rate(recipe: Recipe, supernet: CountsMacs) -> float:
    """The highest learning rate of a recipe's training; where it has none, one that suits its batch size."""
    training = recipe.training
    if isinstance(training, NoTrainingSettings):
        return _usual_rate(recipe)
    return max(phase.schedule.peak_lr for phase in _phases(recipe, training, supernet))


def _usual_rate(recipe: Recipe) -> float:
    return 0.1 * recipe.data.batch_size / 256  # linear in the batch size (Goyal et al. 2017)


def _phases(recipe: Recipe, training: TrainedSettings, supernet: CountsMacs) -> tuple[Phase, ...]:
    # Outputs that are no probabilities can only be imitated as numbers.
    imitation = MeanSquare() if recipe.task is not None else None
    return for_task(recipe, training.phases(supernet.space, roles_of(supernet), imitation))


def _weighted(phase: Phase, weights: tuple[float, ...], label_smoothing: float) -> Phase:
    """The phase with weights of classes in its cross-entropy with the labels; what a teacher teaches has none."""
    if not weights:
        return phase

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        weight = logits.new_tensor(weights)
        return F.cross_entropy(logits, labels, weight, label_smoothing=label_smoothing)

    own = OwnLoss(f"cross-entropy with weights {weights}", cross_entropy)
    if isinstance(phase.loss, CrossEntropy):
        return replace(phase, loss=own)
    assert isinstance(phase.loss, Distillation | InPlaceDistillation)  # whatever methods of ours make
    return replace(phase, loss=replace(phase.loss, own=own))


def for_task(recipe: Recipe, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The phases with the loss that a recipe asks for: that of its task, or with weights of classes.

    Raises:
        ValueError: the loss of a task cannot be found.
    """
    if recipe.task is None:
        weights = recipe.data.class_weights
        return tuple(_weighted(phase, weights, recipe.optimisation.label_smoothing) for phase in phases)
    return with_loss(phases, OwnLoss(recipe.task.loss, create_task(recipe.task).loss))
