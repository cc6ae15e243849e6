"""The folder of a run: where every artefact lies, and what it takes to work on them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from experiments.editing import binding, changes, forget
from experiments.origin import data_in_place, write_origin
from experiments.provenance import provenance
from experiments.settings.recipe import Recipe, load_recipe, parse_recipe
from supernet.architecture import Architecture
from supernet.files import read_json, replacing, write_json

if TYPE_CHECKING:
    from experiments.data.digits import ComposedDigits
    from experiments.data.image_data import ImageData
    from experiments.data.own_data import OwnData
    from experiments.data.timm_data import TimmData
    from hardware.device import Device
    from hardware.store.store import Store
    from supernet.registry import AnySupernet
    from supernet.task import Task

__all__ = ["Plan", "PlanKind", "RunFolder", "weights_file"]

_WEIGHTS = "supernet.safetensors"
_IMAGES = "images.npz"


PlanKind = Literal["initial", "transfer", "round", "campaign", "final", "random", "uniform", "filtered", "local"]
"""What is planned: what the first predictors learn from, what those of a new device learn from beside what is known of
others, a round of search, a campaign, a measuring side by side before
a front is final, and the sub-networks of baselines."""


@dataclass(frozen=True)
class Plan:
    """Architectures that are to be measured and scored, and why.

    Attributes:
        kind: what they are planned for.
        archs: the architectures.
        notes: one mapping per architecture.
        number: of a round.
        device: whose final measuring it is, or the added device for whose front alone a round is; None for all.
    """

    kind: PlanKind
    archs: tuple[Architecture, ...]
    notes: tuple[Mapping[str, Any], ...]
    number: int | None = None
    device: str | None = None


class RunFolder:
    """A run on disk. Nothing is kept in memory that is not also in its files, so any step can be done by a new process.

    Attributes:
        path: the folder.
        recipe: its ``recipe.toml``, a copy of the one it was started with.
        news: what has changed in the recipe since the last time, for people.
        held: the lock of the process that works in it; see `lock.hold`.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "recipe.toml").is_file():
            raise ValueError(f"{path} is not a run: it has no recipe.toml; start one with `supernet run RECIPE`")
        self.path = path
        self.recipe: Recipe = load_recipe(path / "recipe.toml")
        self.news: list[str] = []
        self.held: object = None

    @classmethod
    def start(cls, recipe_path: Path, path: Path) -> RunFolder:
        """The run of a recipe: a new one, or the one that is there.

        That one goes on with what was changed in the recipe since, unless what was trained depends on it; what follows
        from the change is removed, to be made anew, and `news` says so.

        Raises:
            ValueError: the folder holds something else, or the run of a recipe with other trained weights.
            OSError: it cannot be written.
        """
        recipe = load_recipe(recipe_path)
        if (path / "recipe.toml").exists():
            run = cls(path)
            changed = changes(run.recipe, recipe)
            bound = [key for key in changed if binding(key)]
            if bound and (run.has_begun or run.plans.exists()):
                shown = [f"{key} was {changed[key][0]!r} and is {changed[key][1]!r}" for key in bound[:3]]
                more = f" and {len(bound) - 3} more" if len(bound) > 3 else ""
                raise ValueError(
                    f"{path} holds the run of another recipe: {'; '.join(shown)}{more}. Its trained weights depend on "
                    f"that: put it back, or give another folder with --out (where supernet.weights = '{path}' goes on "
                    "from these weights)"
                )
            if not bound and run._goes_on_with(recipe):
                return run._taking(recipe_path, recipe, changed)
        elif path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; give a folder with --out")
        elif path.is_dir() and any(path.iterdir()) and not (path / "run.json").exists():
            raise ValueError(f"{path} is not empty and is not a run: give another folder with --out")
        weights = _weights(recipe)
        write_json(path / "run.json", provenance(recipe.digest, recipe.seed, weights))
        (path / _IMAGES).unlink(missing_ok=True)
        write_origin(recipe_path, path)
        with replacing(path / "recipe.toml") as temporary:  # last: with it, the run exists
            shutil.copyfile(recipe_path, temporary)
        return cls(path)

    def _taking(self, recipe_path: Path, recipe: Recipe, changed: Mapping[str, tuple[Any, Any]]) -> RunFolder:
        """The run with a recipe that may have changed since, in keys that are free."""
        if recipe_path.resolve() == (self.path / "recipe.toml").resolve():
            return self
        write_origin(recipe_path, self.path)
        if not changed:
            return self
        added = set(self.added_devices())
        if twice := added & {device.name for device in recipe.devices}:
            raise ValueError(
                f"{self.path} has an added device {min(twice)}, and now the recipe has one; take another name there"
            )
        with recipe_path.open("rb") as file:
            return self._replacing_recipe(file.read(), recipe, changed, added)

    def _replacing_recipe(
        self, content: bytes, recipe: Recipe, changed: Mapping[str, tuple[Any, Any]], added: set[str]
    ) -> RunFolder:
        gone = forget(self.path, changed, added)
        edit = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "keys": sorted(changed)}
        head = {**self.provenance, "recipe": recipe.digest}
        write_json(self.path / "run.json", {**head, "edits": [*self.provenance.get("edits", ()), edit]})
        with replacing(self.path / "recipe.toml") as temporary:
            temporary.write_bytes(content)
        run = type(self)(self.path)
        run.news = [f"recipe: {key} was {before!r} and is {after!r}" for key, (before, after) in changed.items()]
        if gone:
            run.news.append(f"  to be made anew: {', '.join(gone)}; what was trained, measured and scored is kept")
        return run

    def with_recipe(self, text: str, check: Callable[[Recipe], object]) -> RunFolder:
        """The run with another text of its recipe, in keys that no trained weights depend on.

        Args:
            check: raises ValueError where the recipe cannot be used; nothing has been changed then.

        Raises:
            ValueError: it is no recipe.
        """
        recipe = parse_recipe(text, self.path / "recipe.toml")
        check(recipe)
        changed = changes(self.recipe, recipe)
        return self._replacing_recipe(text.encode(), recipe, changed, set(self.added_devices()))

    @staticmethod
    def is_run(path: Path) -> bool:
        """Whether there is a run in a folder."""
        return (path / "recipe.toml").is_file()

    @property
    def has_begun(self) -> bool:
        """Whether there are weights of its own, or checkpoints: then the weights it began with are not read again."""
        return self.weights.exists() or any(self.checkpoints.glob("step-*.pt"))

    def _goes_on_with(self, recipe: Recipe) -> bool:
        """Whether the run is that of a recipe, which is equal but may name other weights; False if it can start anew.

        Raises:
            ValueError: it has begun with other weights.
        """
        if self.has_begun and recipe.supernet.weights and not Path(recipe.supernet.weights).exists():
            return True  # what they were is not needed any more
        weights = _weights(recipe)
        same = (weights or {}).get("sha256") == (self.provenance.get("weights") or {}).get("sha256")
        if self.has_begun and not same:
            raise ValueError(
                f"{self.path} began with other weights than {recipe.supernet.weights or 'random ones'}: give another "
                "folder with --out, or remove it"
            )
        return same and (self.has_begun or self.recipe.supernet.weights == recipe.supernet.weights)

    # -- where things are ---------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / _WEIGHTS

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
        """Whether there is nothing left to do: the report is the last thing that is written, or the pruned network."""
        return self.report.exists() or self.pruned.exists()

    @property
    def pruned(self) -> Path:
        """Where the small network of a run lies that prunes."""
        return self.path / "pruned"

    # -- what is in it ------------------------------------------------------------------------------------------------

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the run was started with, for the head of every artefact."""
        return read_json(self.path / "run.json")

    @cached_property
    def data(self) -> ImageData:
        """The images of the recipe, at the largest resolution of the space."""
        return replace(self._data_of_any_size, resolution=max(self.untrained_supernet.space.resolutions))

    @cached_property
    def task(self) -> Task:
        """What the networks are for.

        Raises:
            ValueError: a function that the recipe names cannot be found.
        """
        from experiments.task import create_task

        return create_task(self.recipe.task)

    @cached_property
    def n_outputs(self) -> int:
        """Of every network: the classes, or what the task and its targets ask for."""
        task = self.recipe.task
        return task.n_outputs if task is not None and task.n_outputs else self._data_of_any_size.n_classes

    @cached_property
    def untrained_supernet(self) -> AnySupernet:
        """The supernet of the recipe as it is made: what needs no trained weights, such as latency, is asked of it."""
        return self.new_supernet()

    def new_supernet(self) -> AnySupernet:
        """One of the recipe for the caller to train or to load weights into; the head fits the data and the task."""
        from supernet.registry import open_supernet

        settings = self.recipe.supernet
        channels = self._data_of_any_size.in_channels
        return open_supernet(settings.name, self.n_outputs, channels, seed=self.recipe.seed, **settings.settings)

    @cached_property
    def supernet(self) -> AnySupernet:
        """The trained supernet, in eval mode.

        Raises:
            ValueError: it is not trained yet, or the file is damaged or of another network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.require(self.weights, "train")
        supernet = self.new_supernet()
        try:
            supernet.load_state_dict(load_file(self.weights))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{self.weights} is damaged or of another network: {reason}") from error
        return supernet.eval()

    @cached_property
    def weights_digest(self) -> str:
        """Names the trained weights: scores of other weights are other scores."""
        return _digest(self.weights)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The measurements and scores of the run."""
        from hardware.store.store import Store

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

    def plan_file(self, kind: PlanKind, *, number: int | None = None, device: str | None = None) -> Path:
        """Where a plan lies. What it is stands in the file; nobody reads it from the name."""
        parts = [kind, *([] if number is None else [str(number)]), *([] if device is None else [device])]
        return self.plans / f"{'-'.join(parts)}.json"

    def plan(self, kind: PlanKind, *, number: int | None = None, device: str | None = None) -> Plan | None:
        """The plan of that kind; None if it was not made yet."""
        path = self.plan_file(kind, number=number, device=device)
        return _read_plan(path) if path.exists() else None

    def write_plan(
        self,
        kind: PlanKind,
        archs: Sequence[Architecture],
        notes: Sequence[Mapping[str, Any]],
        *,
        number: int | None = None,
        device: str | None = None,
    ) -> Plan:
        """Write down what is to be measured and scored before any of it is, so that a resumed run does the same."""
        rows = [
            {"id": arch.id, "architecture": arch.to_dict(), "notes": dict(note)}
            for arch, note in zip(archs, notes, strict=True)
        ]
        head = {"provenance": self.provenance, "kind": kind, "number": number, "device": device}
        write_json(self.plan_file(kind, number=number, device=device), {**head, "architectures": rows})
        return Plan(kind, tuple(archs), tuple(notes), number, device)

    def all_plans(self) -> list[Plan]:
        """Every plan there is: by kind, then those for all devices before those for one, rounds by their number."""
        kinds = get_args(PlanKind)
        found = map(_read_plan, self.plans.glob("[!.]*.json"))
        return sorted(found, key=lambda plan: (kinds.index(plan.kind), plan.device or "", plan.number or 0))

    @cached_property
    def _data_of_any_size(self) -> ComposedDigits | TimmData | OwnData:
        """The data as it is before one knows the supernet, which decides the size of images and needs their classes."""
        from experiments.data import create_data

        return create_data(
            data_in_place(self.recipe.data, self.path),
            seed=self.recipe.seed,
            resolution=8,
            cache_folder=self.path / "decoded",
            supernet=self.recipe.supernet,
            begun=self.path / _IMAGES,
        )


def _read_plan(path: Path) -> Plan:
    content = read_json(path)
    rows = content["architectures"]
    archs = tuple(Architecture.from_dict(row["architecture"]) for row in rows)
    return Plan(content["kind"], archs, tuple(row["notes"] for row in rows), content["number"], content["device"])


def weights_file(given: str) -> Path:
    """The file that `supernet.weights` of a recipe means: itself, or in the folder of a run the weights of that.

    Raises:
        ValueError: there is no such file.
    """
    path = Path(given)
    if path.is_dir():
        path /= _WEIGHTS
        if not path.is_file():
            raise ValueError(f"supernet.weights: {given} has no {path.name}; give a file, or a run that is trained")
    if not path.is_file():
        raise ValueError(f"supernet.weights: there is no file {given}")
    return path


def _weights(recipe: Recipe) -> dict[str, str] | None:
    """What a run of the recipe begins with, for its provenance; None for random weights."""
    given = recipe.supernet.weights
    if given is None:
        return None
    path = weights_file(given)
    return {"file": path.name, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
