"""The phases of training that a recipe asks for, of the supernet and of one network alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import overload

from experiments.settings.recipe import Recipe
from experiments.settings.training import (
    FineTuningSettings,
    ImitationSettings,
    NoTrainingSettings,
    ProgressiveShrinkingSettings,
    SamplingSettings,
    ScheduleSettings,
    SingleStageSettings,
    TrainedSettings,
)
from experiments.task import create_task
from supernet.space import SearchSpace
from supernet.space.nested import NestedFamily
from supernet.space.roles import roles_of
from supernet.training import (
    AdaptiveSampler,
    AlphaDivergence,
    Attentive,
    Draw,
    Evenly,
    Imitation,
    MacBins,
    MeanSquare,
    Nested,
    OwnLoss,
    Phase,
    Sandwich,
    Schedule,
    Shift,
    SoftLabels,
    Uniform,
    fine_tuning,
    plain,
    progressive_shrinking,
    random_sampling,
    single_stage,
    with_draw,
    with_loss,
)
from supernet.training.draws import CountsMacs

__all__ = ["alone_phases", "training_phases"]


def training_phases(recipe: Recipe, supernet: CountsMacs) -> tuple[Phase, ...]:
    """The phases of the supernet's training, with the loss of the recipe's task; none with method "none".

    Raises:
        ValueError: the recipe does not fit the space of the supernet, or the loss cannot be found.
    """
    training = recipe.training
    if isinstance(training, NoTrainingSettings):
        return ()
    sampling = training.sampling
    return with_draw(_phases(recipe, training, supernet), _draw(sampling, supernet), _adapt(sampling))


def alone_phases(recipe: Recipe, supernet: CountsMacs, space: SearchSpace, epochs: int | None = None) -> tuple[Phase]:
    """Phases of `space`'s largest network alone, trained like the supernet: as many epochs, and its highest rate.

    Raises:
        ValueError: the supernet is not trained, and there are no `epochs`; or the loss of a task cannot be found.
    """
    training, peak_lr = recipe.training, recipe.baselines.peak_lr
    if isinstance(training, NoTrainingSettings):
        if epochs is None:
            raise ValueError("the supernet is not trained, so its baselines need epochs of their own: baselines.epochs")
        # Linear in the batch size (Goyal et al. 2017).
        schedule, clip = Schedule(epochs, peak_lr or 0.1 * recipe.data.batch_size / 256), None
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
    (phase,) = _for_task(recipe, plain(space, schedule, recipe.optimisation.label_smoothing, clip))
    return (phase,)


def _phases(recipe: Recipe, training: TrainedSettings, supernet: CountsMacs) -> tuple[Phase, ...]:
    # Outputs that are no probabilities can only be imitated as numbers.
    imitation = MeanSquare() if recipe.task is not None else _imitation(training.imitation)
    return _for_task(recipe, _of_method(training, supernet, imitation))


def _for_task(recipe: Recipe, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    if recipe.task is None:
        return phases
    return with_loss(phases, OwnLoss(recipe.task.loss, create_task(recipe.task).loss))


def _of_method(training: TrainedSettings, supernet: CountsMacs, imitation: Imitation) -> tuple[Phase, ...]:
    space, roles = supernet.space, roles_of(supernet)
    smoothing = training.label_smoothing
    largest = _schedule(training.largest)
    if isinstance(training, SingleStageSettings):
        return single_stage(
            space,
            _schedule(training.schedule),
            n_random=training.n_random,
            label_weight=training.label_weight,
            warmup=largest,
            label_smoothing=smoothing,
            clip=training.clip,
            imitation=imitation,
        )
    if isinstance(training, ProgressiveShrinkingSettings):
        return progressive_shrinking(
            space,
            largest=largest,
            full=_schedule(training.full),
            step=_schedule(training.step),
            last_step=_schedule(training.last_step),
            subnets=training.subnets.model_dump(exclude_none=True),
            distillation_weight=training.distillation_weight,
            label_smoothing=smoothing,
            imitation=imitation,
            roles=roles,
        )
    if isinstance(training, FineTuningSettings):
        return fine_tuning(
            space,
            _schedule(training.schedule),
            n_random=training.n_random,
            teacher="frozen" if training.teacher == "frozen" else "in place",
            distillation_weight=training.distillation_weight,
            largest=largest,
            label_smoothing=smoothing,
            clip=training.clip,
            imitation=imitation,
        )
    return random_sampling(
        space,
        _schedule(training.schedule),
        n=training.n,
        distillation_weight=training.distillation_weight,
        largest=largest,
        label_smoothing=smoothing,
        clip=training.clip,
        split_batch=training.split_batch,
        imitation=imitation,
    )


def _draw(sampling: SamplingSettings, supernet: CountsMacs) -> Draw | None:
    if sampling.draw == "mac_bins":
        return MacBins(supernet, sampling.n_bins, sampling.prior)
    if sampling.draw == "nested":
        return Nested(NestedFamily.between(supernet.space, sampling.levels), sampling.level_weights)
    return Evenly("architectures") if sampling.draw == "architectures" else None


def _adapt(sampling: SamplingSettings) -> Callable[[Uniform | Sandwich], AdaptiveSampler] | None:
    if sampling.attentive is not None:
        return partial(Attentive, candidates=sampling.attentive.candidates, train=sampling.attentive.train)
    if sampling.shift is not None:
        return partial(Shift, **sampling.shift.model_dump())
    return None


def _imitation(settings: ImitationSettings) -> Imitation:
    if settings.kind == "alpha_divergence":
        return AlphaDivergence(settings.alphas, settings.clamp, settings.weight)
    return MeanSquare() if settings.kind == "mean_square" else SoftLabels()


@overload
def _schedule(settings: ScheduleSettings) -> Schedule: ...
@overload
def _schedule(settings: ScheduleSettings | None) -> Schedule | None: ...
def _schedule(settings: ScheduleSettings | None) -> Schedule | None:
    if settings is None:
        return None
    return Schedule(**settings.model_dump())
