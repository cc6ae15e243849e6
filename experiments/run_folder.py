"""The folder of a run: where every artefact lies, and what it takes to work on them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.files import read_json, replacing, write_json
from experiments.provenance import provenance
from experiments.settings.recipe import Recipe, load_recipe
from supernet.architecture import Architecture

if TYPE_CHECKING:
    from experiments.data.image_data import ImageData
    from hardware.device import Device
    from hardware.store import Store
    from supernet.timm_supernet import TimmSupernet

__all__ = ["Plan", "RunFolder"]


@dataclass(frozen=True)
class Plan:
    """Architectures that are to be measured and scored, and why; `notes` has one mapping per architecture."""

    name: str
    archs: tuple[Architecture, ...]
    notes: tuple[Mapping[str, Any], ...]


class RunFolder:
    """A run on disk. Nothing is kept in memory that is not also in its files, so any step can be done by a new process.

    Attributes:
        path: the folder.
        recipe: its ``recipe.toml``, a copy of the one it was started with.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "recipe.toml").is_file():
            raise ValueError(f"{path} is not a run: it has no recipe.toml; start one with `supernet run RECIPE`")
        self.path = path
        self.recipe: Recipe = load_recipe(path / "recipe.toml")

    @classmethod
    def start(cls, recipe_path: Path, path: Path) -> RunFolder:
        """The run of a recipe: a new one, or the one that is there if it was started with the same recipe.

        Raises:
            ValueError: the folder holds something else.
            OSError: it cannot be written.
        """
        recipe = load_recipe(recipe_path)
        if (path / "recipe.toml").exists():
            run = cls(path)
            if run.recipe.digest != recipe.digest:
                raise ValueError(
                    f"{path} holds the run of another recipe ({run.recipe.digest}, not {recipe.digest}): "
                    "give another folder with --out, or remove it"
                )
            return run
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; give a folder with --out")
        if path.is_dir() and any(path.iterdir()) and not (path / "run.json").exists():
            raise ValueError(f"{path} is not empty and is not a run: give another folder with --out")
        write_json(path / "run.json", provenance(recipe.digest, recipe.seed))
        with replacing(path / "recipe.toml") as temporary:  # last: with it, the run exists
            shutil.copyfile(recipe_path, temporary)
        return cls(path)

    # -- where things are ---------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "supernet.safetensors"

    @property
    def plans(self) -> Path:
        return self.path / "plans"

    @property
    def devices(self) -> Path:
        return self.path / "devices"

    @property
    def predictors(self) -> Path:
        return self.path / "predictors"

    @property
    def front(self) -> Path:
        return self.path / "front.json"

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do: the report is the last thing that is written."""
        return self.report.exists()

    # -- what is in it ------------------------------------------------------------------------------------------------

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the run was started with, for the head of every artefact."""
        return read_json(self.path / "run.json")

    @cached_property
    def data(self) -> ImageData:
        """The images of the recipe, at the largest resolution of the space."""
        from experiments.data import create_data

        resolution = max(self.untrained_supernet.space.resolutions)
        return create_data(
            self.recipe.data, seed=self.recipe.seed, resolution=resolution, cache_folder=self.path / "decoded"
        )

    @cached_property
    def untrained_supernet(self) -> TimmSupernet[Any]:
        """The supernet of the recipe with its first weights; the head fits the data."""
        from supernet.registry import create_supernet

        settings = self.recipe.supernet
        classes, channels = self._classes_and_channels
        return create_supernet(settings.name, classes, channels, seed=self.recipe.seed, **settings.settings)

    @cached_property
    def supernet(self) -> TimmSupernet[Any]:
        """The trained supernet, in eval mode.

        Raises:
            ValueError: it is not trained yet, or the file is damaged or of another network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.require(self.weights, "train")
        supernet = self.untrained_supernet
        try:
            supernet.load_state_dict(load_file(self.weights))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{self.weights} is damaged or of another network: {reason}") from error
        return supernet.eval()

    @cached_property
    def weights_digest(self) -> str:
        """Names the trained weights: scores of other weights are other scores."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The measurements and scores of the run."""
        from hardware.store import Store

        with Store(self.path / "store.sqlite") as store:
            yield store

    def require(self, artefact: Path, verb: str) -> None:
        """Raises ValueError with the way out where an artefact of an earlier verb is missing."""
        if not artefact.exists():
            raise ValueError(f"{self.path} has no {artefact.name}; make it with `supernet {verb} {self.path}`")

    # -- devices that were added --------------------------------------------------------------------------------------

    def added_devices(self) -> dict[str, Device]:
        """The devices elsewhere that measured for this run, by name; those of the recipe are not among them."""
        from hardware.device import Device

        paths = sorted(self.devices.glob("[!.]*.json"))
        return {path.stem: Device.from_dict(read_json(path)) for path in paths}

    def added_device(self, name: str) -> Device:
        """The one of that name.

        Raises:
            ValueError: there is none; the message names those there are.
        """
        found = self.added_devices()
        if name not in found:
            names = ", ".join([*(device.name for device in self.recipe.devices), *found])
            raise ValueError(f"no device {name!r} in {self.path}; there are {names}")
        return found[name]

    # -- plans --------------------------------------------------------------------------------------------------------

    def plan(self, name: str) -> Plan | None:
        """The plan of that name; None if it was not made yet."""
        path = self.plans / f"{name}.json"
        if not path.exists():
            return None
        rows = read_json(path)["architectures"]
        archs = tuple(Architecture.from_dict(row["architecture"]) for row in rows)
        return Plan(name, archs, tuple(row["notes"] for row in rows))

    def write_plan(self, name: str, archs: Sequence[Architecture], notes: Sequence[Mapping[str, Any]]) -> Plan:
        """Write down what is to be measured and scored before any of it is, so that a resumed run does the same."""
        rows = [
            {"id": arch.id, "architecture": arch.to_dict(), "notes": dict(note)}
            for arch, note in zip(archs, notes, strict=True)
        ]
        write_json(self.plans / f"{name}.json", {"provenance": self.provenance, "architectures": rows})
        return Plan(name, tuple(archs), tuple(notes))

    def all_plans(self) -> list[Plan]:
        """Every plan there is, in the order of their names."""
        found = (self.plan(path.stem) for path in sorted(self.plans.glob("[!.]*.json")))
        return [plan for plan in found if plan is not None]

    @cached_property
    def _classes_and_channels(self) -> tuple[int, int]:
        from experiments.data import create_data

        data = create_data(self.recipe.data, seed=self.recipe.seed, resolution=8)
        return data.n_classes, data.in_channels
