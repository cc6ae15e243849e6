"""Profiles of single blocks: a look-up table of every reachable one, whether it adds up, and where the time goes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.budgets import format_count, format_seconds
from experiments.measuring.measure import Networks, Setup, measure_missing, profilers
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.counting import count_macs
from hardware.device import Device
from hardware.loop.session import Network
from hardware.profiling import Workload
from hardware.store.store import Store
from predictors.card import ErrorCard, error_card
from predictors.lookup import BlockSum
from predictors.ridge import RidgePredictor
from supernet.architecture import Architecture
from supernet.files import read_json, write_json
from supernet.networks.block_table import BlockTable, ReachableBlock, block_table
from supernet.networks.pieces import pieces_of
from supernet.networks.timm_supernet import TimmSupernet

__all__ = ["BlockMaker", "block_networks", "block_seconds", "measured_blocks", "profile_blocks"]

_TABLE = "blocks.json"
_EMPTY = ("block:empty", 1)  # a network that does nothing: what a call costs by itself
_TRUSTED = 0.9  # Kendall τ below which a sum of blocks says too little about networks
_FEWEST = 10  # measured networks to judge by
_LISTED = 5

Seconds = NDArray[np.float64]


def profile_blocks(
    run: RunFolder,
    report: Reporter,
    *,
    device: str | None = None,
    minutes: float | None = None,
    arch: Architecture | None = None,
) -> None:
    """Measure every reachable block of the run's supernet alone, on every device or on one: ``store.sqlite``.

    The blocks are in ``blocks.json``. When all are measured, the sum of blocks is compared with the networks that were
    measured, and ``blocks-DEVICE.png`` shows where the time of `arch` goes (default: the largest of the front, else of
    the space).

    Raises:
        ValueError: no such device, or a supernet that cannot be taken apart.
    """
    table, macs = _table(run, report)
    for profiler in profilers(run, device):
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        name = profiler.device.name
        with run.store() as store:
            make = BlockMaker(_in_pieces(run), table, run.data.in_channels)
            blocks = Networks(tuple(block_networks(table)), make)
            done = measure_missing(Setup.of(run), store, profiler, blocks, report, deadline=deadline)
            report.say(
                f"  {name}: {done.measured} blocks measured in {done.seconds / 60:.1f} min, {done.failed} failed, "
                f"{done.left} of {len(table.blocks)} left"
            )
            if done.left:
                report.say(f"    go on with `supernet profile {run.path} --blocks --device {name}`")
                continue
            seconds = block_seconds(store, profiler.device, table)
            report.say(f"    {_verdict(run, store, profiler.device, table, seconds)}")
        content = _picture(run, table, macs, seconds, arch or _default_architecture(run, name))
        from experiments.report import write_block_picture  # loads matplotlib

        write_block_picture(content | {"device": str(profiler.device)}, run.path / f"blocks-{name}.png")
        for line in _where_the_time_goes(content):
            report.say(f"    {line}")
        report.say(f"  {run.path / f'blocks-{name}.png'}")


# -- the blocks -------------------------------------------------------------------------------------------------------


def _table(run: RunFolder, report: Reporter) -> tuple[BlockTable, NDArray[np.int64]]:
    """The blocks and their multiply-accumulates for one image; found once, then kept in ``blocks.json``."""
    path, supernet = run.path / _TABLE, _in_pieces(run)
    if not path.exists():
        started = time.monotonic()
        table = block_table(supernet, run.data.in_channels, run.recipe.seed)
        make = BlockMaker(_in_pieces(run), table, run.data.in_channels)
        macs = [count_macs(make.module(block), (1, *block.input_shape)) for block in table.blocks]
        write_json(path, {"provenance": run.provenance, "macs": macs, **table.to_dict()})
        report.say(f"  {len(table.blocks)} distinct blocks found in {time.monotonic() - started:.0f} s")
    content = read_json(path)
    return BlockTable.from_dict(supernet.space, content), np.array(content["macs"], dtype=np.int64)


def _in_pieces(run: RunFolder) -> TimmSupernet[Any]:
    """The supernet of the run; ValueError where it is of a kind that is not made of blocks."""
    supernet = run.untrained_supernet
    if not isinstance(supernet, TimmSupernet):
        raise ValueError(f"{type(supernet).__name__} cannot be taken apart into blocks; profile whole sub-networks")
    return supernet


def block_networks(table: BlockTable) -> list[Network]:
    """What is measured for a table: a network that does nothing, and every block."""
    return [_EMPTY, *map(_network, table.blocks)]


def _network(block: ReachableBlock) -> Network:
    return block.key, _side(block.input_shape)


def _side(shape: tuple[int, ...]) -> int:
    """The side of square images; 1 for anything else, which is measured as so many channels of one pixel."""
    return shape[1] if len(shape) == 3 and shape[1] == shape[2] else 1


class BlockMaker:
    """Makes the workload of a block, by its key and the side of its input, from a network that has it."""

    def __init__(self, supernet: TimmSupernet[Any], table: BlockTable, channels: int) -> None:
        self._supernet = supernet
        self._channels = channels
        self._blocks = {_network(block): block for block in table.blocks}
        self._last: tuple[Architecture, dict[str, nn.Module]] | None = None  # neighbours are often of one network

    def __call__(self, network: Network) -> Workload:
        if network == _EMPTY:
            return Workload(*_EMPTY[:1], nn.Identity(), resolution=1, channels=1)
        block = self._blocks[network]
        module, shape = self.module(block), block.input_shape
        if _side(shape) == 1:
            return Workload(block.key, _Reshaped(module, shape).eval(), 1, int(np.prod(shape)))
        return Workload(block.key, module, shape[1], shape[0])

    def module(self, block: ReachableBlock) -> nn.Module:
        """The block itself, for images or tokens of its input shape."""
        if self._last is None or self._last[0] != block.arch:
            image = torch.zeros(1, self._channels, block.arch.resolution, block.arch.resolution)
            pieces = pieces_of(self._supernet.extract(block.arch).eval(), self._supernet.block_classes, image)
            self._last = block.arch, {piece.name: piece.module for piece in pieces}
        return self._last[1][block.place]


class _Reshaped(nn.Module):
    """Gives a block that does not work on square images its input from images of one pixel."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module = module
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        return self.module(images.reshape(images.shape[0], *self.shape))


# -- what they say ----------------------------------------------------------------------------------------------------


def block_seconds(store: Store, device: Device, table: BlockTable) -> Seconds:
    """(n_blocks,) seconds of each block without the cost of a call; NaN for one that was not measured."""
    found = store.measurements(device)
    networks = [_network(block) for block in table.blocks]
    seconds = np.array([found[name].latency if name in found else np.nan for name in networks])
    call = found[_EMPTY].latency if _EMPTY in found else 0.0
    # A block cannot take nothing: a hundredth of the call stays.
    return np.maximum(seconds - call, 0.01 * call)


def measured_blocks(run: RunFolder, device: str) -> BlockSum | None:
    """The sum of what blocks took alone on a device as features; None where not every block was measured there."""
    path = run.path / _TABLE
    if not path.exists():
        return None
    space = run.untrained_supernet.space
    table = BlockTable.from_dict(space, read_json(path))
    with run.store() as store:
        seconds = block_seconds(store, profilers(run, device)[0].device, table)
    return None if np.isnan(seconds).any() else BlockSum(space, table.lookup, seconds)


def _verdict(run: RunFolder, store: Store, device: Device, table: BlockTable, seconds: Seconds) -> str:
    """Whether the sum of blocks, scaled and shifted, tells the latency of networks it was not fitted to."""
    if np.isnan(seconds).any():
        return f"{int(np.isnan(seconds).sum())} blocks do not run alone on {device.name}; no sums without them"
    card = _card(run, store, device, table, seconds)
    if card is None:
        return (
            f"fewer than {_FEWEST} networks are measured on {device.name}; `supernet profile` measures some to judge by"
        )
    text = f"sum of blocks against measured networks: {card}"
    if not card.kendall_tau >= _TRUSTED:
        text += f"; below τ {_TRUSTED} do not trust the table: a network is not the sum of its blocks here"
    return text


def _card(run: RunFolder, store: Store, device: Device, table: BlockTable, seconds: Seconds) -> ErrorCard | None:
    found = store.measurements(device)
    archs = {(arch.id, arch.resolution): arch for plan in run.all_plans() for arch in plan.archs}
    measured = [name for name in archs if name in found]
    if len(measured) < _FEWEST:
        return None
    genes = table.space.encode([archs[name] for name in measured])
    latencies = np.array([found[name].latency for name in measured])
    features = BlockSum(table.space, table.lookup, seconds)
    return error_card(lambda: RidgePredictor(features, "relative"), genes, latencies, seed=run.recipe.seed)


def _default_architecture(run: RunFolder, device: str) -> Architecture:
    """The slowest of the fronts: most of what there is to understand."""
    goals = read_json(run.front)["goals"].values() if run.front.exists() else ()
    latency = f"latency@{device}"
    known = [one for goal in goals for one in goal["front"]["candidates"] if latency in one["values"]]
    if not known:
        return run.untrained_supernet.space.largest
    return Architecture.from_dict(max(known, key=lambda one: one["values"][latency])["arch"])


def _picture(
    run: RunFolder, table: BlockTable, macs: NDArray[np.int64], seconds: Seconds, arch: Architecture
) -> dict[str, Any]:
    stages = {position.name: position.stage for position in table.positions}

    def entry(number: int, place: str) -> dict[str, Any]:
        block, stage = table.blocks[number], stages[place]
        group = block.kind if stage is None else f"stage {stage + 1}"
        return {"name": place, "group": group, "seconds": float(seconds[number]), "macs": int(macs[number])}

    (row,) = table.lookup(table.space.encode([arch]))
    names = [position.name for position in table.positions]
    return {
        "arch": arch.id,
        "settings": str(arch),
        "positions": [entry(number, name) for number, name in zip(row, names, strict=True) if number >= 0],
        "blocks": [entry(number, block.place) for number, block in enumerate(table.blocks)],
    }


def _where_the_time_goes(content: dict[str, Any]) -> list[str]:
    positions = content["positions"]
    seconds, macs = (sum(position[what] for position in positions) for what in ("seconds", "macs"))
    slowest = sorted(positions, key=lambda position: -position["seconds"])[:_LISTED]
    lines = [f"{content['arch']}, blocks alone {format_seconds(seconds)}, {format_count(macs)} MACs; most of it:"]
    return lines + [
        f"  {p['name']} ({p['group']}): {p['seconds'] / seconds:.0%} of the time, {p['macs'] / macs:.0%} of the MACs"
        for p in slowest
    ]
