"""The recipe of a run: everything that can be chosen, read once from TOML and then unchangeable."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from experiments.goals import check_goals
from experiments.quantities import KINDS, Kind
from experiments.settings.devices import DeviceSettings, MeasureSettings
from experiments.settings.engine import EngineSettings
from experiments.settings.errors import RecipeError, explained
from experiments.settings.sections import (
    DIGITS_IMAGES,
    BaselineSettings,
    DataSettings,
    FitSettings,
    ScoreSettings,
    SearchSettings,
)
from experiments.settings.supernet import SupernetSettings
from experiments.settings.task import TaskSettings
from experiments.settings.training import (
    FineTuningSettings,
    NoTrainingSettings,
    OptimisationSettings,
    PruningSettings,
    TrainingSettings,
)
from experiments.settings.values import Section

__all__ = ["WITHOUT_EFFECT", "Recipe", "RecipeError", "load_recipe", "parse_recipe"]


WITHOUT_EFFECT = {
    "data": {"root", "workers", "cache", "on_damaged"},
    "engine": {"save_seconds", "keep", "tensorboard", "log"},
    "supernet": {"weights"},  # where they lie: what they are is in the provenance of a run
}  # on results


class Recipe(Section):
    """Everything that can be chosen about a run."""

    title: str = "A once-for-all supernet and its sub-networks"
    """Of the report."""
    seed: Annotated[int, Field(ge=0)] = 0
    """All random numbers follow from it."""
    data: DataSettings = DataSettings()
    """Images and their splits."""
    task: TaskSettings | None = None
    """What networks are for; default classification."""
    supernet: SupernetSettings
    """The elastic network."""
    training: Annotated[TrainingSettings, Field(discriminator="method")]
    """How it is trained."""
    engine: EngineSettings = EngineSettings()
    """How training computes, saves and recovers."""
    devices: Annotated[tuple[DeviceSettings, ...], Field(min_length=1)]
    """What latency is measured on."""
    measure: MeasureSettings = MeasureSettings()
    """Measuring latency."""
    score: ScoreSettings = ScoreSettings()
    """Scoring accuracy."""
    fit: FitSettings = FitSettings()
    """Learning to predict both."""
    search: SearchSettings = SearchSettings()
    """The search."""
    baselines: BaselineSettings = BaselineSettings()
    """What the front is compared with."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = [name for name, n in Counter(device.name.lower() for device in self.devices).items() if n > 1]
        if twice:
            alike = dict.fromkeys(repr(device.name) for device in self.devices if device.name.lower() == twice[0])
            names = " and ".join(alike)
            raise ValueError(
                f"two devices are named {names}; give each a name of its own: files are named after them, on disks "
                "that may not tell capitals apart"
            )
        check_goals(
            self.search.objectives, self.search.constraints, [device.name for device in self.devices], self.kinds
        )
        self._check_task()
        self._check_pruning()
        n_train = self.data.train_images or (DIGITS_IMAGES["train"] if self.data.source == "digits" else None)
        if n_train is not None and self.score.calibration_images > n_train:
            raise ValueError(
                f"score.calibration_images {self.score.calibration_images} are more than the {n_train} training images"
            )
        if self.data.batch_size % self.engine.accumulation:
            raise ValueError(
                f"data.batch_size {self.data.batch_size} cannot be taken in {self.engine.accumulation} equal parts; "
                "change engine.accumulation"
            )
        if self.data.batch_size % 2 and self.engine.mixup + self.engine.cutmix > 0:
            raise ValueError(f"engine.mixup and engine.cutmix need an even data.batch_size, not {self.data.batch_size}")
        trained = self.supernet.begins_trained
        if isinstance(self.training, FineTuningSettings) and self.training.largest is None and not trained:
            raise ValueError(
                "training.method 'fine_tuning' starts from a trained network: set supernet.timm.pretrained = true or "
                "supernet.weights, or train it first with training.largest"
            )
        if isinstance(self.training, NoTrainingSettings):
            if not trained:
                raise ValueError(
                    "training.method 'none' needs a trained network: set supernet.weights to a published checkpoint, a "
                    "supernet.safetensors or the folder of a run"
                )
            if self.baselines.timm_models and self.baselines.epochs is None:
                raise ValueError(
                    "baselines.timm_models are trained as long as the supernet, which training.method 'none' does not "
                    "train: set baselines.epochs, or remove timm_models"
                )
        return self

    def _check_pruning(self) -> None:
        """A latency is that of a device that there is."""
        if isinstance(self.training, PruningSettings):
            name, known = self.training.aim.device, [device.name for device in self.devices]
            if name is not None and name not in known:
                raise ValueError(f"training.target names the device {name!r}; there are {', '.join(known)}")

    def _check_task(self) -> None:
        """Whatever only means something for classes is refused for other tasks, and never dropped."""
        if self.task is None:
            return
        training, engine = self.training, self.engine
        if self.data.class_weights:
            raise ValueError("data.class_weights are for labels of classes, which a [task] has not; remove them")
        if engine.mixup or engine.cutmix:
            raise ValueError("engine.mixup and engine.cutmix mix the labels of classes, which a [task] has not; remove")
        if engine.rollback.margin is not None and "margin" in engine.rollback.model_fields_set:
            raise ValueError("engine.rollback.margin is a fall of accuracy, which a [task] has not; remove it")
        if isinstance(training, NoTrainingSettings):
            return
        if training.label_smoothing and "label_smoothing" in training.model_fields_set:
            raise ValueError("training.label_smoothing is for labels of classes, which a [task] has not; remove it")
        if training.imitation.kind != "mean_square" and "kind" in training.imitation.model_fields_set:
            raise ValueError(
                f"training.imitation.kind {training.imitation.kind!r} is of probabilities of classes, which a [task] "
                "has not; take 'mean_square' of the outputs, or remove it: it is the default there"
            )

    @property
    def kinds(self) -> dict[str, Kind]:
        """The quantities that there are: with the metric of a task of one's own in the place of accuracy."""
        return KINDS if self.task is None else self.task.kinds

    @property
    def optimisation(self) -> OptimisationSettings:
        """How whatever is trained is optimised; with the defaults where the supernet is not trained."""
        return OptimisationSettings() if isinstance(self.training, NoTrainingSettings) else self.training

    @property
    def digest(self) -> str:
        """Hash of all that changes results: not of the title, where images and weights lie, or how often training is
        saved."""
        return self.digest_of(*(name for name in type(self).model_fields if name != "title"))

    def digest_of(self, *sections: str) -> str:
        """Like `digest`, of some sections only: ``recipe.digest_of("seed", "data", "supernet", "training")``."""
        data = self.model_dump(mode="json", include=set(sections), exclude=WITHOUT_EFFECT)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        RecipeError: no such file, not TOML, an unknown key (the nearest known one is named) or an impossible value; one
            line per problem, ready to be printed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    return parse_recipe(text, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe that a text is; `path` is for messages.

    Raises:
        RecipeError: as `load_recipe`.
    """
    try:
        data = tomllib.loads(text)
    except ValueError as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    try:
        return Recipe.model_validate(_tuples(data))
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in explained(error, Recipe))) from None


def _tuples(data: Any) -> Any:
    """TOML's lists as tuples, which is what an unchangeable recipe holds."""
    if isinstance(data, dict):
        return {name: _tuples(value) for name, value in data.items()}
    return tuple(_tuples(value) for value in data) if isinstance(data, list) else data
