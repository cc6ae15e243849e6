"""A sub-network as a folder that can be handed on: the file that runs, its weights, and a card that says how good."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.budgets import format_count, format_seconds
from experiments.measuring.devices import create_profiler
from experiments.measuring.measure import architectures, profilers, sampling
from experiments.measuring.quantized import file_score, quantized_file
from experiments.measuring.remote import StoredProfiler
from experiments.plans import anchors
from experiments.progress import Reporter
from experiments.quantities import KINDS, Kind, kinds_with, quality
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.settings.devices import DeviceSettings
from experiments.verifying import Budget, check_budget
from hardware.loop.measurement import Measurement, Measurements
from hardware.loop.measuring import measure
from hardware.onnx.export import export_onnx_of_any_size, onnx_parity
from hardware.onnx.external import data_file, opened
from hardware.onnx.finishing import BATCH, free_batch, with_metadata
from hardware.onnx.graph import oldest_runtime
from hardware.profiling import Profiler, Workload
from supernet.architecture import Architecture
from supernet.files import new_folder, write_json
from supernet.subnet import save_subnet

__all__ = ["find_architecture", "given_by", "measured", "preprocessing_of", "profiler_of", "write_bundle"]


def find_architecture(run: RunFolder, key: str) -> Architecture:
    """The architecture whose id is, or begins with, `key`.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = {a.id: a for plan in run.all_plans() for a in plan.archs if key and a.id.startswith(key)}
    if not found:
        raise ValueError(f"no architecture of {run.path} has the id {key!r}; `supernet query {run.path}` lists some")
    if len(found) > 1:
        raise ValueError(
            f"{key!r} begins the ids of {len(found)} architectures: {', '.join(sorted(found)[:4])}; give more"
        )
    return next(iter(found.values()))


def write_bundle(
    run: RunFolder,
    arch: Architecture,
    device: str | None,
    out: Path,
    report: Reporter,
    any_batch: bool = False,
    *,
    budget: Budget | None = None,
    scorer: Scorer | None = None,
    tuned: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the bundle of a sub-network for a device into a new folder; returns its card.

    The ONNX file has the batch size of the device, or with `any_batch` takes any number of images, and is itself what
    the latency on the card was measured on; for a device that was added to the run, the latency is what that device
    measured for the same network. Its metadata say how an image becomes its input and what its outputs are.

    Args:
        budget: what the latency of the file may be, now.
        scorer: gives the sub-network and its scores; default, as the supernet has it.
        tuned: what became of it since it left the supernet, for the card.

    Raises:
        ValueError: `out` exists and is not empty, no such device, the ONNX file computes something else than torch, or
            does not keep the budget.
        OSError: the folder cannot be written.
    """
    with new_folder(out) as folder:
        profiler = profiler_of(run, device or run.recipe.devices[0].name)
        scorer = scorer or Scorer(run)
        name = run.task.metric.name
        scores = {split: scorer.score([arch], split, report)[arch.id].metrics[name] for split in ("validation", "test")}
        subnet = scorer.subnet(arch)
        shape = (profiler.device.batch_size, run.data.in_channels, arch.resolution, arch.resolution)
        made = (BATCH, *shape[1:]) if any_batch else shape
        file = folder / "model.onnx"
        onnx = export_onnx_of_any_size(subnet, made, file)
        difference = onnx_parity(onnx, subnet, made)
        int8 = None
        if profiler.device.precision == "int8":
            data_file(file).unlink(missing_ok=True)  # of the network in fp32, if it is so large
            onnx = quantized_file(run, scorer, arch, made[0])
        if any_batch:
            onnx = free_batch(onnx, made)
        if profiler.device.precision == "int8":
            int8 = {split: file_score(run, onnx, arch.resolution, split) for split in ("validation", "test")}
        given = given_by(run, arch.resolution)
        metadata = {"id": arch.id, **given}
        told = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
        onnx = with_metadata(onnx, told)
        if isinstance(onnx, bytes):
            file.write_bytes(onnx)
        needs = oldest_runtime(opened(onnx))
        if given["preprocessing"] is not None:
            shutil.copyfile(Path(__file__).with_name("run_bundle.py"), folder / "run.py")
        # The torch runtime cannot run the file: there the module that the file was made from is measured.
        model = subnet if profiler.device.runtime == "torch" else file
        workload = Workload(arch.id, model, arch.resolution, run.data.in_channels)
        ((measurement, repeats),), slower = measured(run, profiler, [workload], report)
        kept = None if budget is None else check_budget(budget, _known(run, profiler), arch)
        genes = run.untrained_supernet.space.encode([arch])
        card = {
            "id": arch.id,
            "settings": str(arch),
            "input": {
                "name": "images",
                "shape": ["any" if any_batch else shape[0], *shape[1:]],
                **(given["preprocessing"] or {"made by": run.recipe.data.source}),
            },
            "classes": given["classes"],
            "task": given["task"],
            "latency": {
                "seconds": measurement.latency,
                "interval": list(measurement.interval),
                "warnings": list(measurement.warnings),
                # How it ran when the file was measured: every repeat, and how fast the machine was just then.
                "repeats": repeats,
                "machine_slower": slower,
            },
            "device": measurement.device.to_dict(),
            "budget": kept,
            "fingerprint": measurement.device.fingerprint,
            "costs": dict(measurement.extras),
            "metric": None if run.recipe.task is None else run.recipe.task.told,
            name: scores,
            f"{name}_int8": int8,  # of model.onnx itself where it is quantised
            "images": {split: run.data.n_images(split) for split in ("validation", "test")},
            "macs": int(run.untrained_supernet.macs(genes)[0]),
            "parameters": int(run.untrained_supernet.n_parameters(genes)[0]),
            "onnxruntime": needs,  # the oldest that runs the file
            "onnx_difference": difference,
            "finetuned": tuned,
            "provenance": run.provenance,
        }
        assert run.supernet.definition is not None  # every supernet of a run comes from create_supernet
        save_subnet(subnet, arch, run.supernet.definition, folder)
        write_json(folder / "card.json", card)
        (folder / "README.md").write_text(_card_text(card, data_file(file).exists()), encoding="utf-8")
    return card


def given_by(run: RunFolder, resolution: int) -> dict[str, Any]:
    """What somebody needs to know to use the network: how images become its input, and what its outputs are."""
    task = run.recipe.task
    return {
        "preprocessing": preprocessing_of(run, resolution),
        "classes": list(run.data.classes) if task is None else [],
        "task": "classification" if task is None else "own",
        "metric": run.task.metric.name,
    }


def preprocessing_of(run: RunFolder, resolution: int) -> dict[str, Any] | None:
    """How an image becomes an input, for images that were read from files."""
    how = run.data.preprocessing
    if how is None:
        return None
    return {
        "resize": int(run.data.resolution / how.crop),
        "crop": run.data.resolution,
        "side": resolution,
        "interpolation": how.interpolation,
        "upright": how.upright,
        "mean": list(how.mean),
        "std": list(how.std),
    }


def measured(
    run: RunFolder, profiler: Profiler | StoredProfiler, workloads: Sequence[Workload], report: Reporter
) -> tuple[list[tuple[Measurement, list[float]]], float | None]:
    """What is known of networks now that their files were measured beside the anchors, on the level of the run.

    Beside each the repeats of its file, in seconds; and how many times slower than on that level the machine was
    meanwhile; neither for a device elsewhere, which has measured the same networks before.

    Raises:
        ValueError: a file does not run, or a device elsewhere has not measured its network.
    """
    names = [workload.name for workload in workloads]
    with run.store() as store:
        if isinstance(profiler, StoredProfiler):
            profiler.require(names)
            measurements = store.measurements(profiler.device)
            return [(measurements[name], []) for name in names], None
        tied = architectures(run, [arch for arch in anchors(run) if (arch.id, arch.resolution) not in names])
        beside = [tied.make(name) for name in tied.names]
        files = "the file" if len(names) == 1 else f"{len(names)} files"
        report.say(f"  measuring {files} beside {len(beside)} sub-networks of the run")
        (session,) = measure(profiler, workloads, sampling(run), anchors=beside, purpose="export")
        store.add_session(session)
        measurements = store.measurements(profiler.device)
    shifts = dict(zip((one.id for one in measurements.sessions), measurements.tie.shifts, strict=True))
    slower = float(np.exp(shifts[session.id]))
    found = [(measurements[name], session.repeats(name).tolist()) for name in names]
    return found, slower if slower == slower else None


def _known(run: RunFolder, profiler: Profiler | StoredProfiler) -> Measurements:
    with run.store() as store:
        return store.measurements(profiler.device)


def profiler_of(run: RunFolder, name: str) -> Profiler | StoredProfiler:
    """Of a device of the recipe, or of one that was added to the run."""
    for settings in run.recipe.devices:
        if settings.name == name:
            return create_profiler(_with_memory(settings))
    return profilers(run, name)[0]


def _with_memory(settings: DeviceSettings) -> DeviceSettings:
    """The device with its peak memory measured as well, where the runtime can: one file more or less is no matter."""
    if settings.runtime != "onnxruntime" or settings.provider != "cpu":
        return settings
    return settings.model_copy(update={"costs": tuple(sorted({*settings.costs, "memory"}))})


def _machine(slower: float | None) -> dict[str, str]:
    """How the level of the run relates to the moment at which the file was measured."""
    if slower is None:
        return {}
    percent = f"{abs(slower - 1):.0%}"
    text = (
        "as fast as then" if abs(slower - 1) < 0.01 else f"{percent} {'slower' if slower > 1 else 'faster'} than then"
    )
    return {"that is on the level of the run's final measuring; when the file was measured": f"the machine was {text}"}


def _kept(budget: Mapping[str, Any] | None) -> dict[str, str]:
    """What was asked of its latency."""
    if budget is None:
        return {}
    text = f"with {budget['kept_with']:.1%}, at the speed that the machine had when the file was measured"
    return {f"keeps {budget['asked']}": f"{text} ({format_seconds(budget['latency'])})"}


def _input(card: Mapping[str, Any]) -> str:
    how, names = card["input"], card["classes"]
    mean, std = (", ".join(f"{value:g}" for value in how[key]) for key in ("mean", "std"))
    smaller = f", then made {how['side']} (bilinear, antialiased)" if how["side"] != how["crop"] else ""
    turned = ", turned as its EXIF orientation says" if how["upright"] else ""
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more, all in card.json" if len(names) > 10 else "")
    classes = f"- Classes, in the order of the outputs: {shown}.\n" if names else ""
    return (
        f"- An image becomes its input so: {'grey' if len(how['mean']) == 1 else 'RGB'}{turned}, shorter side resized "
        f"to {how['resize']} ({how['interpolation']}), {how['crop']} cropped in the centre, divided by 255, minus mean "
        f"({mean}), divided by standard deviation ({std}){smaller}. The metadata of the file says the same.\n{classes}"
    )


def _origin(card: Mapping[str, Any], good: Kind) -> str:
    """Where its weights come from."""
    tuned = card["finetuned"]
    if tuned is None:
        return "Taken out of a once-for-all supernet without retraining"
    before = " and ".join(f"{good.exactly(value)} on {split}" for split, value in tuned["before"].items())
    return (
        f"Taken out of a once-for-all supernet, where it had {before}, and trained alone for {tuned['epochs']} more "
        f"epochs (learning rate {tuned['peak_lr']:g} to 0), taught by the supernet's largest network"
    )


def _card_text(card: Mapping[str, Any], beside: bool) -> str:
    latency, device, provenance = card["latency"], card["device"], card["provenance"]
    low, high = map(format_seconds, latency["interval"])
    runtime = f"{device['runtime']} {device['runtime_version']}, {device['threads']} thread(s), {device['precision']}"
    good = quality(kinds_with(card["metric"])).kind
    scored = {
        split: f"{good.exactly(value)} over {card['images'][split]} images" for split, value in card[good.name].items()
    }
    int8 = card[f"{good.name}_int8"] or {}
    rows = {
        f"latency of one call (batch {device['batch_size']})": f"{format_seconds(latency['seconds'])}, "
        f"95 % interval {low} to {high}",
        **_machine(latency["machine_slower"]),
        **_kept(card["budget"]),
        "measured on": f"{device['hardware']}; {runtime}",
        "device fingerprint": card["fingerprint"],
        f"{good.words} on validation": f"{scored['validation']} (the search saw these)",
        f"{good.words} on test": f"{scored['test']} (the search never saw these)",
        **{f"{good.words} of the int8 file on {split}": good.exactly(value) for split, value in int8.items()},
        **{
            kind.words: kind.format(card["costs"][kind.extra]) for kind in KINDS.values() if kind.extra in card["costs"]
        },
        "multiply-accumulates": format_count(card["macs"]),
        "parameters": format_count(card["parameters"]),
        **({"oldest onnxruntime that runs it": card["onnxruntime"]} if card["onnxruntime"] else {}),
        "ONNX (fp32) against torch": f"largest difference {card['onnx_difference']:.1e} of the largest output",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    warnings = "".join(f"\nWarning: {warning}\n" for warning in latency["warnings"])
    output = "`logits`" if card["metric"] is None else "`logits` (whatever the task predicts)"
    shape = " × ".join(map(str, card["input"]["shape"]))
    runs = (
        f"- `run.py`: `python run.py IMAGE` prints the answer; needs numpy, Pillow and onnxruntime.\n{_input(card)}"
        if "mean" in card["input"]
        else f"- Its input is what `{card['input']['made by']}` makes.\n"
    )
    weights = "  Its weights lie in `model.onnx.data`, which has to stay beside it.\n" if beside else ""
    return f"""# Sub-network {card["id"]}

`{card["settings"]}`: the input resolution, and per stage its blocks (e: expansion, k: kernel).

| | |
|---|---|
{table}
{warnings}
## Files
{runs}- `model.onnx`: input `images` {shape} (float32), output {output}; runs in plain onnxruntime.
{weights}- `model.safetensors`, `arch.json`: the weights and what they are the weights of;
  `supernet.load_subnet("this folder")` gives the torch module, an ordinary timm model.
- `card.json`: this card with every repeat of the measurement.

## How it was made
{_origin(card, good)}; its BatchNorm statistics were calibrated for it alone on training images.
Recipe {provenance["recipe"]}, seed {provenance["seed"]}, commit {provenance["commit"] or "unknown"}.
"""
