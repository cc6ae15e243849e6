"""python experiments/benchmarks/own_devices.py runs/digits --out runs/own_devices.sqlite

Seven ways in which this machine can run the networks of a run, each taken for a new device of which ten networks are
measured: how well are the others predicted by what the six other ways know, and without these? Networks are those that
the run has planned; each way measures all of them side by side, in one session with the run's anchors. What is in --out
already is not measured again.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.borrowing import N_MEASURED
from experiments.measuring.devices import create_profiler
from experiments.measuring.measure import Setup, architectures, measure_missing
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.quantities import latency
from experiments.run_folder import RunFolder
from experiments.settings.devices import DeviceSettings
from experiments.subjects import subject
from hardware import Store
from predictors import KnownDevice, KnownDevices, create_predictor, fit_best, suitable_predictors
from predictors.card import kendall_tau
from predictors.protocol import Values
from supernet.space import Genes

_WAYS = (
    DeviceSettings(name="cpu-b1"),
    DeviceSettings(name="cpu-b32", batch_size=32),
    DeviceSettings(name="cpu-b8", batch_size=8),
    DeviceSettings(name="two-threads", threads=2, batch_size=8),
    DeviceSettings(name="int8", precision="int8"),
    DeviceSettings(name="openvino", runtime="openvino"),
    DeviceSettings(name="torch", runtime="torch"),
)


def measured(run: RunFolder, out: Path, report: Reporter) -> dict[str, tuple[Genes, Values]]:
    """Genes (n_archs, n_genes) and seconds (n_archs,) by device."""
    archs = list(dict.fromkeys(arch for plan in search_plans(run) for arch in plan.archs))
    found = {}
    with Store(out) as store:
        for settings in _WAYS:
            profiler = create_profiler(settings)
            measure_missing(Setup.of(run), store, profiler, architectures(run, archs), report)
            known = store.measurements(profiler.device)
            there = [arch for arch in archs if (arch.id, arch.resolution) in known]
            seconds = np.array([known[arch.id, arch.resolution].latency for arch in there])
            found[settings.name] = run.untrained_supernet.space.encode(there), seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run that is finished")
    parser.add_argument("--out", type=Path, required=True, help="the store of what is measured")
    parser.add_argument("--n", type=int, default=N_MEASURED, help="networks measured on a new device")
    parser.add_argument("--alone", nargs="*", default=["ridge"], help="predictors that learn from these alone")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    found = measured(run, arguments.out, Reporter())
    about = replace(subject(run, latency(run.recipe.devices[0].name)), blocks=None, devices=None)
    known = []
    for name, (genes, seconds) in found.items():
        makers = suitable_predictors(about, "relative", 0, ["ridge", "gaussian_process"])
        best = fit_best(makers, genes, seconds, target="relative")
        known.append(KnownDevice(name, name, genes, seconds, best.predictor.predict))
    table = Table(
        "new device", *(f"{what} {way}" for way in ("with others", *arguments.alone) for what in ("τ", "error"))
    )
    for new in known:
        others = KnownDevices(about.space, [one for one in known if one is not new])
        helped = replace(about, devices=others)
        rows = others.informative(new.genes, arguments.n, helped.terms)
        rest = np.setdiff1d(np.arange(len(new.seconds)), rows)
        cells = []
        for name in ("transfer", *arguments.alone):
            predictor = create_predictor(name, helped, "relative").fit(new.genes[rows], new.seconds[rows])
            predicted, y = predictor.predict(new.genes[rest]), new.seconds[rest]
            cells += [f"{kendall_tau(y, predicted):.3f}", f"{float(np.mean(np.abs(predicted / y - 1))):.1%}"]
        table.add_row(new.name, *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
