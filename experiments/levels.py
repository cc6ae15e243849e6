"""Sub-networks of several sizes in one folder with one file of weights, to be switched while they run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.budgets import format_bytes, format_seconds
from experiments.bundle import given_by, measured, profiler_of
from experiments.progress import Reporter
from experiments.quantities import kinds_with, quality
from experiments.querying import goal_results, objectives
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from hardware.onnx.export import export_with_factors, onnx_parity
from hardware.onnx.finishing import with_metadata
from hardware.onnx.sharing import SharedWeights
from hardware.profiling import Workload
from supernet.architecture import Architecture
from supernet.files import new_folder, write_json
from supernet.space.nested import best_chain

__all__ = ["chosen_levels", "write_levels"]

_WEIGHTS = "weights.bin"


def chosen_levels(run: RunFolder, device: str | None, n: int) -> list[Architecture]:
    """The `n` measured sub-networks of a device's goal of which each contains the one before, and which together are
    the best for a budget of time that changes (`best_chain`).

    Raises:
        ValueError: no search was done, the goal has no latency of the device, or no chain is so long.
    """
    name, results = goal_results(run.path, None, device)
    device = device or next(iter(results["devices"]), None)
    first, *others = objectives(results)
    latency = f"latency@{device}"
    if latency not in [one.name for one in others]:
        raise ValueError(f"the goal {name!r} does not trade a latency, which levels are switched by; name a --device")
    known = [one for one in results["candidates"] if {first.name, latency} <= one["values"].keys()]
    archs = [Architecture.from_dict(one["arch"]) for one in known]
    space = run.untrained_supernet.space
    own = [gene.name != "resolution" for gene in space.genes]
    values = np.array([-first.axis.loss(one["values"][first.name]) for one in known])
    seconds = np.array([one["values"][latency] for one in known])
    return [archs[place] for place in best_chain(space.encode(archs)[:, own], seconds, values, n)]


def write_levels(
    run: RunFolder,
    archs: Sequence[Architecture],
    device: str | None,
    out: Path,
    report: Reporter,
    *,
    cascade: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write several sub-networks for a device as levels into a new folder; returns its manifest.

    Every level is a small ONNX file, with BatchNorm statistics calibrated for it alone; its weights are slices of those
    in one file, which holds the weights of the smallest network that contains all levels: of the largest, where they
    are a chain. What is one level's alone (kernels that are made out of larger ones, corrected weights) is stored
    beside. Every file is measured and scored as the one that `export` writes.

    Args:
        cascade: what the manifest says of it.

    Raises:
        ValueError: `out` exists and is not empty; there are fewer than two levels; the device does not run ONNX Runtime
            on a CPU in fp32; or a file computes something else than torch.
        OSError: the folder cannot be written.
    """
    if len({arch.id for arch in archs}) < max(2, len(archs)):
        raise ValueError(f"levels {', '.join(arch.id for arch in archs)}: give at least two different sub-networks")
    with new_folder(out) as folder:
        profiler = profiler_of(run, device or run.recipe.devices[0].name)
        on = profiler.device
        if (on.runtime, on.provider, on.precision) != ("onnxruntime", "CPUExecutionProvider", "fp32"):
            raise ValueError(
                f"levels run in onnxruntime on a CPU in fp32; {on.name} is {on.runtime} ({on.provider}) in "
                f"{on.precision}: name another --device"
            )
        scorer, name = Scorer(run), run.task.metric.name
        scores = {split: scorer.score(archs, split, report) for split in ("validation", "test")}
        space, channels = run.untrained_supernet.space, run.data.in_channels
        genes = space.encode(archs)
        macs, parameters = run.untrained_supernet.macs(genes), run.untrained_supernet.n_parameters(genes)
        shared = SharedWeights(_WEIGHTS)
        (cover,) = space.decode(genes.max(axis=0, keepdims=True))
        if cover not in archs:
            shared.add(*export_with_factors(scorer.subnet(cover), _shape(on.batch_size, channels, cover)))
        rows = {}
        for arch in sorted(archs, key=lambda arch: -int(parameters[archs.index(arch)])):
            subnet, shape, place = scorer.subnet(arch), _shape(on.batch_size, channels, arch), archs.index(arch)
            model, factors = export_with_factors(subnet, shape)
            told = {"id": arch.id, **given_by(run, arch.resolution)}
            small = shared.add(model, factors)
            text = {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
            named = with_metadata(small, text)
            assert isinstance(named, bytes)  # as what was given is
            (folder / f"{arch.id}.onnx").write_bytes(named)
            rows[arch.id] = {
                "id": arch.id,
                "file": f"{arch.id}.onnx",
                "settings": str(arch),
                "architecture": arch.to_dict(),
                "resolution": arch.resolution,
                name: {split: scores[split][arch.id].metrics[name] for split in scores},
                "macs": int(macs[place]),
                "parameters": int(parameters[place]),
                "bytes": {"own": len(small), "alone": len(model)},
                "onnx_difference": onnx_parity(model, subnet, shape),
            }
        shared.write(folder)
        workloads = [Workload(a.id, folder / f"{a.id}.onnx", a.resolution, channels) for a in archs]
        measurements, slower = measured(run, profiler, workloads, report)
        for arch, (measurement, repeats) in zip(archs, measurements, strict=True):
            rows[arch.id]["latency"] = {
                "seconds": measurement.latency,
                "interval": list(measurement.interval),
                "warnings": list(measurement.warnings),
                "repeats": repeats,
            }
        given = given_by(run, run.data.resolution)
        manifest = {
            "levels": [rows[arch.id] for arch in archs]
            if cascade is not None  # the first of which answers first, whatever the noise of this session says
            else sorted(rows.values(), key=lambda row: row["latency"]["seconds"]),
            "weights": {"file": _WEIGHTS, "bytes": shared.n_bytes},
            "input": {
                "batch": on.batch_size,
                "channels": channels,
                "side": run.data.resolution,
                **(given["preprocessing"] or {"made by": run.recipe.data.source}),
            },
            "classes": given["classes"],
            "metric": None if run.recipe.task is None else run.recipe.task.told,
            "device": on.to_dict(),
            "fingerprint": on.fingerprint,
            "machine_slower": slower,
            "cascade": None if cascade is None else dict(cascade),
            "provenance": run.provenance,
        }
        write_json(folder / "levels.json", manifest)
        shutil.copyfile(Path(__file__).with_name("run_levels.py"), folder / "levels.py")
        (folder / "README.md").write_text(_text(manifest), encoding="utf-8")
    return manifest


def _shape(batch: int, channels: int, arch: Architecture) -> tuple[int, int, int, int]:
    return batch, channels, arch.resolution, arch.resolution


def _text(manifest: Mapping[str, Any]) -> str:
    good = quality(kinds_with(manifest["metric"])).kind
    rows = "\n".join(
        f"| `{row['file']}` | `{row['settings']}` | {format_seconds(row['latency']['seconds'])} | "
        f"{good.exactly(row[good.name]['validation'])} | {good.exactly(row[good.name]['test'])} |"
        for row in manifest["levels"]
    )
    alone = sum(row["bytes"]["alone"] for row in manifest["levels"])
    together = manifest["weights"]["bytes"] + sum(row["bytes"]["own"] for row in manifest["levels"])
    device, given, cascade = manifest["device"], manifest["input"], manifest["cascade"]
    twice = (
        ""
        if cascade is None
        else f"\n`cascade(images)` asks the largest where the first level's largest softmax is below "
        f"{cascade['threshold']:.4g}.\n"
    )
    return f"""# {len(manifest["levels"])} levels of one network

| file | settings | latency (batch {device["batch_size"]}) | {good.words}, validation | {good.words}, test |
|---|---|---|---|---|
{rows}

Measured on {device["hardware"]}; {device["runtime"]} {device["runtime_version"]}, {device["threads"]} thread(s).

```python
from levels import Levels  # levels.py in this folder; needs numpy and onnxruntime

levels = Levels()
outputs, level = levels(images, budget=0.002)  # seconds; the level is chosen for every call
```

Images are float32 ({given["batch"]}, {given["channels"]}, {given["side"]}, {given["side"]}); a level of a lower
resolution makes them smaller itself.
{twice}
`{manifest["weights"]["file"]}` has the weights of all levels; together the files have
{format_bytes(together)}, a file of its own for each would have {format_bytes(alone)}. `levels.json` is the manifest.
"""
