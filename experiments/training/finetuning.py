"""A few epochs of one sub-network alone, taught by the largest: its weights, and scores of what came out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.training.phases import for_task
from experiments.training.train import train_module
from supernet.architecture import Architecture
from supernet.space import SearchSpace, Stage
from supernet.training import Distillation, MeanSquare, Phase, Schedule, SoftLabels, Static, World
from supernet.training.gradients import freeze

__all__ = ["LR_SHARE", "TunedScorer", "Tuning", "tune"]

LR_SHARE = 0.1  # of the largest rate of the supernet's training: the weights are good already


@dataclass(frozen=True)
class Tuning:
    """How a sub-network is fine-tuned: for so many epochs, from the rate `peak_lr` down to 0."""

    epochs: int
    peak_lr: float


class Pupil(Static):
    """A network and its teacher as a supernet of two, of which the first alone is trained.

    Args:
        model: trained in place.
        teacher: what a frozen teacher is, in the place of the largest network.
        resolution: of the images of both.
    """

    def __init__(self, model: nn.Module, teacher: nn.Module, resolution: int) -> None:
        super().__init__(model, resolution)
        self._teacher = (freeze(teacher),)  # no part of the module: neither trained nor kept
        self.space = SearchSpace((resolution,), (Stage.uniform((1, 2)),))

    def extract(self, arch: Architecture) -> nn.Module:
        """The teacher for the larger of the two; else a copy of the network."""
        return self._teacher[0] if arch == self.space.largest else super().extract(arch)


class TunedScorer(Scorer):
    """Scores a fine-tuned sub-network as others are scored, and no other.

    Args:
        run: the run it is from.
        arch: the sub-network.
        weights: what `tune` wrote.
    """

    def __init__(self, run: RunFolder, arch: Architecture, weights: Path) -> None:
        super().__init__(run)
        self._arch, self._weights = arch, weights

    @cached_property
    def digest(self) -> str:
        """As of the supernet's own, with the weights that it has now."""
        content = hashlib.sha256(self._weights.read_bytes()).hexdigest()
        return hashlib.sha256(f"{super().digest} {content}".encode()).hexdigest()[:16]

    @property
    def _correction_images(self) -> int:
        return 0  # it has been trained

    def _extracted(self, arch: Architecture) -> nn.Module:
        assert arch == self._arch
        subnet = self.run.untrained_supernet.extract(arch)
        subnet.load_state_dict(load_file(self._weights))
        return subnet


def tune(run: RunFolder, arch: Architecture, tuning: Tuning, report: Reporter, world: World | None = None) -> Path:
    """Train the sub-network alone, from its weights in the supernet, on the labels and on what the largest network says
    of the same images; returns the file of its weights. Called again after a kill, it carries on.

    Raises:
        ValueError: the supernet is not trained, or a task's loss cannot be found.
    """
    folder = run.path / "finetuned" / f"{arch.id}-{tuning.epochs}-{tuning.peak_lr:g}"
    weights = folder.with_name(f"{folder.name}.safetensors")
    if weights.exists():
        report.say("finetune: done already")
        return weights
    scorer = Scorer(run)
    student, teacher = scorer.subnet(arch), scorer.subnet(run.supernet.space.largest)
    pupil = Pupil(student, teacher, arch.resolution)
    own = run.recipe.task is not None
    imitation = MeanSquare() if own else SoftLabels()
    loss = Distillation(1.0, run.recipe.optimisation.label_smoothing, "frozen", imitation)
    space = SearchSpace((arch.resolution,), (Stage.uniform((1,)),))
    phases = for_task(run.recipe, (Phase("fine-tuning", space, Schedule(tuning.epochs, tuning.peak_lr), loss=loss),))
    train_module(run, pupil, phases, folder, weights, f"fine-tuning {arch.id}", report, student, world)
    return weights
