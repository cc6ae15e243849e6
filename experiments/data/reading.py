"""Reading and transforming batches of images, in this process or in a pool of processes that stays."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.data.image_data import Split
from experiments.data.image_files import Rows
from experiments.data.splits import ImageSplit

__all__ = ["BatchReader", "Request", "Transform", "global_randomness_kept"]

_PREFETCH = 4  # batches that every process has ready
_LEAVING_SECONDS = 10  # in which a step ends


@dataclass(frozen=True)
class Request:
    """One batch: which images of a split, and the seed of each; without seeds they are transformed for evaluation."""

    split: Split
    places: Rows
    seeds: Rows | None = None


@dataclass(frozen=True)
class Transform:
    """What becomes of an image in PIL's `mode`, turned `upright` or not: uint8 transforms one by one, then normalising
    the batch.

    `training` and `evaluation` take a PIL image and return uint8 (channels, height, width). `erase` changes a
    normalised training image in place, or is None. `mean` and `std` are of values in [0, 1].
    """

    mode: str
    upright: bool
    training: Any
    evaluation: Any
    erase: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]


class BatchReader:
    """Makes requested batches, with `workers` processes; what a batch holds follows from its request alone."""

    def __init__(self, splits: Mapping[Split, ImageSplit], transform: Transform, workers: int) -> None:
        self.workers = workers
        self._batches = _Batches(splits, transform)
        self._requests = _Requests()
        self._pool: DataLoader[Any] | None = None

    def read(self, requests: Sequence[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches in their order, by processes that end with the last of them.

        Raises:
            ValueError: an image cannot be read, or a process was killed; one line.
        """
        yield from self._read(self._loader(list(requests), min(self.workers, len(requests))))

    def read_in_pool(self, requests: Sequence[Request]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same by processes that stay for the next call, which ends this one."""
        if self._pool is None:
            self._pool = self._loader(self._requests, self.workers, persistent_workers=self.workers > 0)
        self._requests.batches, self._requests.turn = list(requests), self._requests.turn + 1
        turn = self._requests.turn
        for batch in self._read(self._pool):
            yield batch
            if turn != self._requests.turn:
                raise RuntimeError("another epoch was begun before this one ended; read one at a time")

    def close(self) -> None:
        """End the processes that stay; the next call starts others."""
        self._pool = None
        gc.collect()  # torch ends them when its iterator goes, which cycles may keep

    def _read(self, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        with _child_signal_kept():
            batches = iter(loader)
        while (batch := _next(batches, self.workers)) is not None:
            if isinstance(batch, str):
                self._pool = None
                del loader, batches  # else the processes live as long as the traceback
                raise ValueError(batch)
            yield batch

    def _loader(self, requests: Any, workers: int, **settings: Any) -> DataLoader[Any]:
        return DataLoader(
            self._batches,
            batch_sampler=requests,
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=_PREFETCH if workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_begin_process,
            generator=torch.Generator(),  # a generator of its own, so that the global one is left alone
            **settings,
        )


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """What the processes have: it must not refer to the loader, or they do not end when asked to."""

    def __init__(self, splits: Mapping[Split, ImageSplit], transform: Transform) -> None:
        self.splits, self.transform = splits, transform

    def __getitems__(self, request: Request) -> tuple[Tensor, Tensor] | str:
        """A batch, or what is wrong with it: an exception would come out of another process as many lines."""
        try:
            return self._batch(request)
        except (ValueError, OSError) as error:
            return str(error)

    def _batch(self, request: Request) -> tuple[Tensor, Tensor]:
        """Images float32 (n, channels, height, width) and labels int64 (n,)."""
        split, transform = self.splits[request.split], self.transform
        images = [split.pixels(place, transform.mode, transform.upright) for place in request.places.tolist()]
        if request.seeds is None:
            pixels = torch.stack([transform.evaluation(image) for image in images])
        else:
            pixels = torch.stack(list(_seeded_map(transform.training, images, request.seeds)))
        mean, std = (torch.tensor(values).mul_(255).reshape(-1, 1, 1) for values in (transform.mean, transform.std))
        batch = pixels.to(torch.float32).sub_(mean).div_(std)
        if request.seeds is not None and transform.erase is not None:
            for _ in _seeded_map(transform.erase, batch, request.seeds + 1):
                pass
        return batch, torch.from_numpy(split.labels[request.places])


def _begin_process(number: int) -> None:
    """A process that reads images ends when the training does, and some time after it was asked to end. torchrun, Slurm
    and terminals send their signals to the whole group, and the training still has to finish its step. It also says
    nothing where the training goes while a batch is being handed over."""
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_LEAVING_SECONDS))
    sys.excepthook = _except_of_one_that_left


def _except_of_one_that_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For multiprocessing's thread that hands the memory of batches over; what reading raises does not come here."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


def _next(batches: Iterator[Any], workers: int) -> Any:
    """The next batch, None after the last, or what is wrong as a string."""
    try:
        return next(batches, None)
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        # The last three come out of the socket over which a killed process was handing the memory of a batch.
        if workers == 0 or (isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error)):
            raise
        return (
            "data: a process that reads images was killed, perhaps because memory ran out; run the same again to go "
            f"on, with fewer data.workers than {workers} if it happens again"
        )


@contextmanager
def _child_signal_kept() -> Iterator[None]:
    """torch's handler of a killed process raises in whatever is being done; without it, the next batch raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


class _Requests:
    """The batches of the present epoch, for a loader that outlives epochs."""

    def __init__(self) -> None:
        self.batches: list[Request] = []
        self.turn = 0

    def __iter__(self) -> Iterator[Request]:
        return iter(self.batches)


def _seeded_map(function: Any, images: Any, seeds: Rows) -> Iterator[Any]:
    """`function` of every image with random numbers that follow from its seed."""
    with global_randomness_kept():
        for image, seed in zip(images, seeds.tolist(), strict=True):
            # timm's transforms draw from the three global generators and take no other.
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            yield function(image)


@contextmanager
def global_randomness_kept() -> Iterator[None]:
    """The generators of random, numpy and torch are after the block as they were before it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def _as_it_is(batch: Any) -> Any:
    return batch
