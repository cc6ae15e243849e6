"""Training as other programs show it: losses and learning rate over steps, validation over epochs.

TensorBoard by files in the run; MLflow and Weights & Biases through their own packages, which know from their own
settings (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``, a login) where it goes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from supernet.files import read_json, write_json
from supernet.training import Epoch, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TRACKERS", "TrainingLog", "training_log"]

_PROJECT = "supernet-nas"  # unless their own settings name another
_EVERY = 20  # of the steps one in so many is told


class Tracker(Protocol):
    """Where numbers go."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by names such as ``loss/largest``."""
        ...

    def flush(self) -> None:
        """An epoch is over: nothing of it is to be lost."""
        ...

    def close(self, finished: bool) -> None:
        """Nothing more comes from this process; `finished`: from no other either."""
        ...


class TrainingLog:
    """Hand it every step and every epoch; of the steps it keeps one in 20.

    A tracker that fails while training goes on is told of once and left out from then on.
    """

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._say = say

    def step(self, progress: Progress) -> None:
        """One step of training."""
        if progress.step % _EVERY:
            return
        state = {"learning_rate": progress.lr, "images_per_second": progress.images_per_second}
        values = _named("loss", progress.losses) | _named("training", state)
        self._each(lambda tracker: tracker.add(progress.step, values))

    def epoch(self, epoch: Epoch) -> None:
        """One epoch of training, with what validation found after it."""
        values = _named("epoch_loss", epoch.losses) | _named("validation", epoch.validation)

        def add(tracker: Tracker) -> None:
            tracker.add(epoch.step, values)
            tracker.flush()

        self._each(add)

    def close(self, finished: bool) -> None:
        """Write what is not written yet."""
        self._each(lambda tracker: tracker.close(finished))

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                do(tracker)
            except Exception as error:  # of the network, mostly; training is worth more than its picture
                del self._trackers[name]
                self._say(f"  {name} is told no more of this training: {_line(error)}")


@contextmanager
def training_log(
    folder: Path, names: Sequence[str], told: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[TrainingLog]:
    """A log that the trackers of these names get, closed at the end of the block.

    Args:
        folder: TensorBoard's files lie here, and under which names the others know this training, so that resuming goes
            on in the same place.
        told: of the training, for the others: its name under ``name``, and plain values.
        say: says what goes wrong later.

    Raises:
        ValueError: a package is not installed, or cannot begin.
    """
    log = TrainingLog({name: _begun(name, folder, told) for name in names}, say)
    try:
        yield log
    except BaseException:
        log.close(finished=False)
        raise
    log.close(finished=True)


def _begun(name: str, folder: Path, told: Mapping[str, Any]) -> Tracker:
    try:
        return TRACKERS[name](folder, told)
    except ImportError as error:
        raise ValueError(
            f"{name} is not installed: `pip install 'supernet-nas[{name}]'`, or leave it out of [engine] ({error})"
        ) from None
    except Exception as error:
        raise ValueError(
            f"{name} cannot begin: {_line(error)}; leave it out of engine.log to train without it"
        ) from error


class _TensorBoard:
    """What an interrupted run wrote from the first step on that comes here is hidden: it comes again."""

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._kind = folder, SummaryWriter
        self._writer: SummaryWriter | None = None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._kind(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self, finished: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _MLflow:
    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        self._mlflow = mlflow
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            mlflow.set_experiment(_PROJECT)
        known = _known(folder, "mlflow")
        run = mlflow.start_run(run_id=known, run_name=None if known else told["name"])
        _remember(folder, "mlflow", run.info.run_id)
        mlflow.set_tags({name: str(value) for name, value in told.items()})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def flush(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


class _WeightsAndBiases:
    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=_known(folder, "wandb"),
            resume="allow",
            name=told["name"],
            dir=str(folder),
            config=dict(told),
        )
        _remember(folder, "wandb", self._run.id)
        # Its own count of steps never goes back, as a training does when it is resumed or rolled back.
        self._run.define_metric("*", step_metric="step")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _WeightsAndBiases,
}
_IDS = "trackers.json"


def _known(folder: Path, tracker: str) -> str | None:
    """The id of this training with a tracker, if it was there before."""
    return read_json(folder / _IDS).get(tracker) if (folder / _IDS).exists() else None


def _remember(folder: Path, tracker: str, identity: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = read_json(folder / _IDS) if (folder / _IDS).exists() else {}
    write_json(folder / _IDS, {**known, tracker: identity})


def _named(group: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": float(value) for name, value in values.items()}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
