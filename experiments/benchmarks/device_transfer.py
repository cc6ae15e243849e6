"""python experiments/benchmarks/device_transfer.py --data FOLDER

How well a new device is predicted from ten measurements and the devices that are known. FOLDER is that of the data
published with HELP (Lee et al. 2021, "Hardware-Adaptive Efficient Latency Prediction"), with the folders nasbench201
and fbnet. The protocol is theirs: their training and validation devices are known, their test devices are new; what is
learned from comes from the first 900 or 4,000 networks, what is judged are the next 1,000; both without the fastest and
the slowest tenth. Means over draws and devices of Spearman's ρ and of the error. "drawn" are networks at random, as in
the protocol, "chosen" those that `KnownDevices.informative` asks for, which knows nothing of the new device. `--plain`
has other predictors learn from the same networks without any other device.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import rankdata

from predictors import KnownDevice, KnownDevices, Predictor, Subject, create_predictor, fit_best, suitable_predictors
from predictors.protocol import Values
from supernet.networks.counting import COUNTS
from supernet.space import Genes, SearchSpace, Stage

_KNOWN = "1080ti_1 1080ti_32 1080ti_{0} silver_4114 silver_4210r samsung_a50 pixel3 essential_ph_1 samsung_s7 titanx_1 titanx_32 titanx_{0} gold_6240"  # noqa: E501
_FAMILIES = ("1080ti", "titanx", "silver", "gold")
_JUDGED = 1000
_OFFERED = 300  # networks, drawn anew, of which some are chosen
_SOURCE_ROWS = 900  # of each known device: their predictors need no more


@dataclass(frozen=True)
class Setting:
    """A space whose networks were measured on many devices."""

    name: str
    subject: Subject
    genes: Genes
    """(n_archs, n_genes)"""
    n_learned: int
    """The first so many may be learned from."""
    known: tuple[str, ...]
    new: tuple[str, ...]
    folder: Path

    def seconds(self, device: str) -> Values:
        """(n_archs,)"""
        file = self.folder / "latency" / f"{device}.pt"
        return np.array(torch.load(file, weights_only=True), dtype=float) / 1e3

    def middle(self, rows: np.ndarray, y: Values) -> np.ndarray:
        """Rows without the fastest and the slowest tenth."""
        order = rows[np.argsort(y[rows], kind="stable")]
        return order[len(order) // 10 : len(order) - len(order) // 10]


# -- the two spaces ---------------------------------------------------------------------------------------------------

_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def nasbench201(folder: Path) -> Setting:
    """Cells of six operations, one kind of five at each."""
    space = SearchSpace((32,), (Stage.uniform((6,), operation=range(5)),))
    rows = torch.load(folder / "str_arch2idx.pt", weights_only=True)
    chosen = np.zeros((len(rows), 6), dtype=np.int64)
    for text, i in rows.items():
        chosen[i] = [_OPERATIONS.index(name) for name in re.findall(r"\|?(\w+)~\d", text)]
    known = tuple(_KNOWN.format(256).split())
    new = ("titan_rtx_256", "gold_6226", "fpga", "pixel2", "raspi4", "eyeriss")
    return Setting("NAS-Bench-201", Subject(space), _as_genes(space, chosen), 900, known, new, folder)


_CHANNELS = (16, *[24] * 4, *[32] * 4, *[64] * 4, *[112] * 4, *[184] * 4, 352)
_STRIDES = (1, *[1] * 4, 2, 1, 1, 1, 2, 1, 1, 1, *[1] * 4, 2, 1, 1, 1, 1)
_BLOCKS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1), None)
"""Kernel, expansion and groups; none: the input goes on, through a convolution where the shape changes."""


def fbnet(folder: Path) -> Setting:
    """22 blocks of one kind of nine each (Wu et al. 2019), here for images of 32 pixels."""
    space = SearchSpace((32,), tuple(Stage.uniform((n,), operation=range(9)) for n in (1, 4, 4, 4, 4, 4, 1)))
    chosen = np.array(torch.load(folder / "arch.pt", weights_only=True))
    known, new = tuple(_KNOWN.format(64).split()), ("fpga", "raspi4", "eyeriss")
    return Setting("FBNet", Subject(space, _BlockCosts(space)), _as_genes(space, chosen), 4000, known, new, folder)


class _BlockCosts:
    """Counts of the blocks of FBNet; see `predictors.cost_terms.PartCounts`."""

    def __init__(self, space: SearchSpace) -> None:
        self._columns = _operations(space)
        self.stages = tuple(space.genes[i].stage for i in self._columns)
        self._table = np.zeros((len(_CHANNELS), len(_BLOCKS), len(COUNTS)))
        before, side = 16, 32
        for place, (after, stride) in enumerate(zip(_CHANNELS, _STRIDES, strict=True)):
            smaller = side // stride
            for kind, block in enumerate(_BLOCKS):
                counts = dict.fromkeys(COUNTS, 0.0)
                if block is not None:
                    kernel, expansion, groups = block
                    middle = before * expansion
                    parts = {
                        "widening": before * middle * side**2 / groups,
                        "depth-wise": middle * kernel**2 * smaller**2,
                        "narrowing": middle * after * smaller**2 / groups,
                    }
                    written = middle * side**2 + (middle + after) * smaller**2
                    counts |= parts | {"macs": sum(parts.values()), "activations": written, "layers": 3}
                elif stride != 1 or before != after:
                    macs, written = before * after * smaller**2, after * smaller**2
                    counts |= {"widening": macs, "macs": macs, "activations": written, "layers": 1}
                self._table[place, kind] = [counts[name] for name in COUNTS]
            before, side = after, smaller

    def counts(self, genes: Genes) -> Values:
        return self._table[np.arange(len(_CHANNELS)), genes[:, self._columns]]

    def weighted(self, genes: Genes, weights: Values) -> Values:
        return np.tensordot(self.counts(genes), weights, axes=2)


def _operations(space: SearchSpace) -> list[int]:
    return [i for i, gene in enumerate(space.genes) if gene.name == "operation"]


def _as_genes(space: SearchSpace, chosen: np.ndarray) -> Genes:
    genes = np.zeros((len(chosen), len(space.genes)), dtype=np.int64)
    genes[:, _operations(space)] = chosen
    return genes


# -- what is judged ---------------------------------------------------------------------------------------------------


def known_devices(setting: Setting) -> KnownDevices:
    """Those that are known, each with the best of three predictors."""
    found = []
    for name in track(setting.known, description=f"{setting.name}: known devices", transient=True):
        y = setting.seconds(name)
        rows = np.flatnonzero(y[: setting.n_learned] > 0)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _SOURCE_ROWS)).astype(int)]
        makers = suitable_predictors(setting.subject, "relative", 0, ["ridge", "gaussian_process", "boosting"])
        best = fit_best(makers, setting.genes[rows], y[rows], target="relative")
        family = next((one for one in _FAMILIES if name.startswith(one)), name)
        predicted = best.predictor.predict(setting.genes)  # these networks are asked for again and again
        known = dict(zip(map(bytes, setting.genes), predicted.tolist(), strict=True))

        def predict(genes: Genes, known: dict[bytes, float] = known, best: Predictor = best.predictor) -> Values:
            looked_up = [known.get(row) for row in map(bytes, np.ascontiguousarray(genes))]
            missing = np.flatnonzero([one is None for one in looked_up])
            values = np.array([np.nan if one is None else one for one in looked_up])
            if len(missing):
                values[missing] = best.predict(genes[missing])
            return values

        found.append(KnownDevice(name, family, setting.genes[rows], y[rows], predict))
    return KnownDevices(setting.subject.space, found)


def _spearman(a: Values, b: Values) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder `data` of HELP's repository")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 20, 50, 100], help="measured on the new device")
    parser.add_argument("--seeds", type=int, default=5, help="draws")
    parser.add_argument("--plain", nargs="*", default=["ridge", "gaussian_process"], help="registered names")
    arguments = parser.parse_args()
    console = Console(width=200)
    for setting in (nasbench201(arguments.data / "nasbench201"), fbnet(arguments.data / "fbnet")):
        devices = known_devices(setting)
        subject = replace(setting.subject, devices=devices)
        pool = np.arange(setting.n_learned)
        runs = [("transfer", True), ("transfer", False), *((name, False) for name in arguments.plain)]
        table = Table("predictor", "n", "ρ", "error %", *setting.new, title=f"{setting.name}, {arguments.seeds} draws")
        chosen = []
        for seed in range(arguments.seeds):
            offered = np.random.default_rng(seed).permutation(pool)[:_OFFERED]
            chosen.append(offered[devices.informative(setting.genes[offered], max(arguments.sizes), subject.terms)])
        for name, choose in runs:
            for n in arguments.sizes:
                rho, error = [], []
                for device in setting.new:
                    y = setting.seconds(device)
                    test = setting.middle(setting.n_learned + np.arange(_JUDGED), y)
                    for seed in range(arguments.seeds):
                        drawn = np.random.default_rng(seed).permutation(setting.middle(pool, y))
                        rows = (chosen[seed] if choose else drawn)[:n]
                        predictor = create_predictor(name, subject, "relative").fit(setting.genes[rows], y[rows])
                        predicted = predictor.predict(setting.genes[test])
                        rho.append(_spearman(predicted, y[test]))
                        error.append(float(np.mean(np.abs(predicted / y[test] - 1))))
                by_device = np.reshape(rho, (len(setting.new), -1)).mean(axis=1)
                cells = [f"{np.mean(rho):.3f}", f"{100 * np.mean(error):.2f}", *(f"{one:.3f}" for one in by_device)]
                table.add_row(f"{name}, {'chosen' if choose else 'drawn'}", str(n), *cells)
        console.print(table)


if __name__ == "__main__":
    main()
