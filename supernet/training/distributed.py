"""Processes that train together: who is among them, and the few things that they tell each other."""

from __future__ import annotations

import json
import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["LostProcessError", "World", "agree", "average_gradients", "join"]

# torchrun sees at once that a process has died and ends the others; this is for whoever only hangs. It must be longer
# than a validation, for which the processes without a part of it wait.
_TIMEOUT = timedelta(hours=1)
_CPU = torch.device("cpu")
_JOIN_SECONDS, _POLL_SECONDS = 600.0, 0.01


class LostProcessError(ConnectionError):
    """Another process of the run is gone; the last checkpoint is sound."""


@dataclass(frozen=True)
class World:
    """The processes of one training run, and which of them this one is.

    Attributes:
        rank: number of this process, from 0. The first one prints, logs and writes.
        size: number of processes; 1 without torchrun.
        local_rank: number of this process on its machine.
        device: where this process computes and talks.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = _CPU

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; the same bits on each."""
        if self.size > 1:
            _talk(dist.all_reduce, tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, which must have one shape: (size, *shape)."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        _talk(dist.all_gather, parts, tensor.contiguous())
        return torch.stack(parts)

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                _talk(dist.broadcast, tensor.detach(), 0)

    def share(self, make: Callable[[], bytes | None]) -> bytes | None:
        """What `make` returns on the first process, which alone calls it.

        Raises:
            Exception: what `make` raised, on the first process.
            SystemExit: on the others; the first one says why.
        """
        if self.size == 1:
            return make()
        content, error = b"", None
        length = -1
        if self.is_first:
            try:
                made = make()
                content, length = made or b"", -1 if made is None else len(made)
            except Exception as raised:
                error, length = raised, -2
        header = torch.tensor([length], device=self.device)
        self.spread([header])
        if error is not None:
            raise error
        length = int(header)
        if length == -2:
            raise SystemExit(2)
        if length == -1:
            return None
        buffer = torch.empty(length, dtype=torch.uint8, device=self.device)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else buffer)
        self.spread([buffer])
        return content if self.is_first else buffer.cpu().numpy().tobytes()

    def merge(self, part: Mapping[str, float]) -> dict[str, float]:
        """The entries of all processes by name; where several have the same, that of the first of them."""
        if self.size == 1:
            return dict(sorted(part.items()))
        text = torch.frombuffer(bytearray(json.dumps(dict(part)).encode()), dtype=torch.uint8).to(self.device)
        lengths = self.gather(torch.tensor([len(text)], device=self.device)).flatten().tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device=self.device)
        padded[: len(text)] = text
        texts = self.gather(padded).cpu().numpy()
        merged: dict[str, float] = {}
        for row, length in reversed(list(zip(texts, lengths, strict=True))):
            merged |= json.loads(row[:length].tobytes())
        return dict(sorted(merged.items()))

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.sum(torch.zeros(1, device=self.device)).cpu()


@contextmanager
def join() -> Iterator[World]:
    """The processes that torchrun started; alone where it did not start this one.

    Talks through nccl where there is a GPU and through gloo where not. A process that fails leaves without waiting for
    the others.

    Raises:
        ValueError: there are more processes than GPUs on this machine.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        yield World(device=torch.device("cuda", 0) if torch.cuda.is_available() else _CPU)
        return
    local_rank, device = int(os.environ.get("LOCAL_RANK", "0")), _CPU
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
                "lower --nproc-per-node, or hide the GPUs with CUDA_VISIBLE_DEVICES="
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    store, rank, size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    store = PrefixStore(_name_of_attempt(store, rank, size), store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    world = World(rank, size, local_rank, device)
    yield world
    world.barrier()  # the first process may still have been writing
    dist.destroy_process_group()


def agree(
    world: World, module: nn.Module, n_images: int, wishes: Sequence[bool], losses: Tensor
) -> tuple[list[bool], Tensor]:
    """What all processes know after one short message: which wishes any of them has, and the mean losses (n_archs,).

    Raises:
        ValueError: the processes have gradients for different parameters, or different numbers of images, so that
            averaging would mix them up.
    """
    if world.size == 1:
        return list(wishes), losses
    has_gradient = np.array([parameter.grad is not None for parameter in module.parameters()])
    # 16 bits, so that the sums of squares below are exact.
    mark = zlib.crc32(np.packbits(has_gradient).tobytes(), n_images) & 0xFFFF
    numbers = torch.tensor([mark, mark**2, *wishes], dtype=torch.float64, device=losses.device)
    message = world.sum(torch.cat([numbers, losses.double()]))
    total, squares, *granted = message[: len(numbers)].tolist()
    if world.size * squares != total**2:
        raise ValueError(
            "the processes trained different blocks, or on different numbers of images, in one step; architectures "
            "and batch sizes must follow from the seed and the step alone"
        )
    return [wish > 0 for wish in granted], (message[len(numbers) :] / world.size).to(losses.dtype)


def average_gradients(world: World, module: nn.Module) -> int:
    """Replace every gradient that exists by its mean over all processes; returns the bytes that were sent.

    One message per type of number. Which parameters have a gradient follows from the architectures of the step, which
    are the same everywhere, so nothing is scanned for and blocks that did not run are not sent.
    """
    if world.size == 1:
        return 0
    gradients: dict[torch.dtype, list[Tensor]] = {}
    for parameter in module.parameters():
        if parameter.grad is not None:
            gradients.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    n_bytes = 0
    for group in gradients.values():
        flat = torch.cat([gradient.flatten() for gradient in group])
        world.sum(flat).div_(world.size)
        parts = flat.split([gradient.numel() for gradient in group])
        for gradient, part in zip(group, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        n_bytes += flat.numel() * flat.element_size()
    return n_bytes


def _name_of_attempt(store: Store, rank: int, size: int) -> str:
    """A name that only the processes have that are alive now.

    torchrun keeps one store over all its restarts, and does not tell the attempts apart: without a name of its own for
    each, a process finds the address of one that has died and waits for it. A process says hello with a number of its
    own, and takes the name from the answer that has this number.
    """
    deadline = time.monotonic() + _JOIN_SECONDS
    own = uuid.uuid4().hex
    waiting = set(range(1, size)) if rank == 0 else {rank}
    if rank:
        store.set(f"hello/{rank}", own)
    while waiting:
        for other in tuple(waiting):
            if rank == 0:
                store.set(f"answer/{other}", _read(store, f"hello/{other}") + own)
                if _read(store, f"joined/{other}") == own:
                    waiting.remove(other)
            elif (answer := _read(store, f"answer/{rank}")).startswith(own):
                own = answer.removeprefix(own)
                store.set(f"joined/{rank}", own)
                waiting.remove(rank)
        if time.monotonic() > deadline:
            raise LostProcessError(f"processes {sorted(waiting)} of {size} did not join within {_JOIN_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
    return own


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def _talk(message: Callable[..., Any], *arguments: Any) -> None:
    try:
        message(*arguments)
    except RuntimeError as error:
        reason = str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]  # without the file it comes from
        raise LostProcessError(
            f"another process of this run does not answer ({reason}); the same command carries on from the last "
            "checkpoint"
        ) from error
