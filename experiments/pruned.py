"""What a run ends with that prunes: one small network as a folder, measured beside what it was cut out of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal

from experiments.budgets import format_count, format_seconds
from experiments.bundle import preprocessing_of
from experiments.measuring.devices import create_profiler
from experiments.measuring.measure import sampling
from experiments.progress import Reporter
from experiments.quantities import quality
from experiments.run_folder import RunFolder
from experiments.settings.training import PruningSettings
from hardware.loop.measurement import Measurements
from hardware.loop.measuring import measure
from hardware.onnx.export import export_onnx_of_any_size, onnx_parity
from hardware.onnx.external import data_file
from hardware.onnx.finishing import with_metadata
from hardware.profiling import Workload
from supernet.families.traced import TracedSupernet
from supernet.files import new_folder, write_json
from supernet.pruning.costs import share_of_macs
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.subnet import save_subnet

__all__ = ["deliver"]

_WHOLE = "whole"


def deliver(run: RunFolder, report: Reporter) -> dict[str, Any]:
    """Cut the network out that a pruning training has left, measure it, and write it as a folder; returns its card.

    For every device of the recipe there is a file of its batch size; it is what was measured, in one session with the
    network before pruning, which has the same layers at full width.

    Raises:
        ValueError: the run is not trained, or does not prune, or a file computes something else than torch.
    """
    settings, supernet, out = run.recipe.training, run.supernet, run.pruned
    if not isinstance(settings, PruningSettings) or not isinstance(supernet, TracedSupernet):
        raise ValueError(f"{run.path} does not prune: its method is {settings.method!r}")
    if out.exists():
        report.say(f"prune: {out} is there already")
        return json.loads((out / "card.json").read_text(encoding="utf-8"))
    report.say("prune")
    score, metric = run.recipe.score, run.task.metric.name
    aim, removable = settings.aim, settings.how.removable(supernet)
    gone = removable.zero
    kept, present = removable.left(gone)
    batches = list(run.data.calibration_batches(score.calibration_images, score.batch_size))
    small = recalibrate(removable.without(gone), batches).eval()
    whole, resolution = supernet.extract(supernet.space.largest).eval(), supernet.space.largest.resolution
    splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    scores = {
        split: evaluate(small, run.data.evaluation_batches(split, score.batch_size), resolution, run.task).value
        for split in splits
    }
    card: dict[str, Any] = {
        "rule": settings.by,
        "target": {**asdict(aim), "text": str(aim)},
        "macs_share": float(share_of_macs(supernet)(kept, present)),
        "units": {"of": removable.n, "gone": int(gone.sum())},
        "erased": list(present),
        "parameters": sum(p.numel() for p in small.parameters()),
        "metric": metric,
        metric: scores,
        "images": {split: run.data.n_images(split) for split in splits},
        "preprocessing": preprocessing_of(run, resolution),
        "devices": {},
        "provenance": run.provenance,
    }
    written = quality(run.recipe.kinds).format
    report.say(
        f"  {card['units']['gone']} of {removable.n} units are gone; {card['macs_share']:.0%} of the "
        f"multiply-accumulates and {format_count(card['parameters'])} parameters are left; on test {metric} "
        f"{written(scores['test'])}"
    )
    with new_folder(out) as folder:
        for device in run.recipe.devices:
            profiler = create_profiler(device)
            shape = (profiler.device.batch_size, run.data.in_channels, resolution, resolution)
            files = {}
            for name, network in (("pruned", small), (_WHOLE, whole)):
                files[name] = folder / f"{device.name}.onnx" if name == "pruned" else folder / ".whole.onnx"
                onnx = export_onnx_of_any_size(network, shape, files[name])
                onnx_parity(onnx, network, shape)
                onnx = with_metadata(onnx, {"preprocessing": json.dumps(card["preprocessing"])})
                if isinstance(onnx, bytes):
                    files[name].write_bytes(onnx)
            is_torch = profiler.device.runtime == "torch"
            models: dict[str, Any] = {"pruned": small, _WHOLE: whole} if is_torch else files
            workloads = [Workload(name, model, resolution, run.data.in_channels) for name, model in models.items()]
            (session,) = measure(profiler, workloads, sampling(run), purpose="export")
            with run.store() as store:
                store.add_session(session)
            found = Measurements(profiler.device, [session])  # alone: no earlier one has these networks
            mine, other = (found[name, resolution] for name in ("pruned", _WHOLE))
            files[_WHOLE].unlink()
            data_file(files[_WHOLE]).unlink(missing_ok=True)
            card["devices"][device.name] = {
                "file": f"{device.name}.onnx",
                "device": profiler.device.to_dict(),
                "seconds": mine.latency,
                "interval": list(mine.interval),
                "whole_seconds": other.latency,
            }
            if device.name == aim.device:
                limit = aim.value * (1 if aim.absolute else other.latency)
                card["target_kept"] = mine.latency <= limit
                beside = f"measured {format_seconds(mine.latency)} for {aim}"
                report.say(
                    f"  {beside}: {'kept' if card['target_kept'] else f'{mine.latency / limit - 1:.1%} above it'}"
                )
            report.say(
                f"  {device.name}: {format_seconds(mine.latency)}, {other.latency / mine.latency:.2f} times as fast as "
                f"the whole network ({format_seconds(other.latency)})"
            )
        save_subnet(small, supernet.space.largest, supernet.definition, folder, kept=kept, gone=list(present))
        write_json(folder / "card.json", card)
    report.say(f"  written to {out}")
    return card
