"""Answers as a person reads them in a terminal."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from experiments.budgets import format_bytes, format_count, format_seconds, signed_share
from experiments.quantities import Kind, Limit, kinds_with, quality, quantity
from experiments.querying import kinds, objectives

if TYPE_CHECKING:  # which would load torch
    from experiments.verifying import Evidence

__all__ = [
    "next_commands",
    "print_answer",
    "print_card",
    "print_cascades",
    "print_evidence",
    "print_levels",
    "print_merged",
    "print_unmeasured",
]


def print_answer(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    limits: Sequence[Limit],
    run: Path,
    optimum: Mapping[str, Any] | None = None,
) -> None:
    """What `querying.answer` found, and `querying.optimum` beside it."""
    console = Console(highlight=False, markup=False)
    devices = results["devices"]
    for name, found in devices.items():
        hardware = found["device"]
        console.print(
            f"{name}: {hardware['hardware']}, {hardware['runtime']} {hardware['runtime_version']}, "
            f"{hardware['threads']} thread(s), batch {hardware['batch_size']}",
            soft_wrap=True,
        )
    traded, known = objectives(results), kinds(results)
    more = [quantity(name, devices, known) for name in ("macs", "parameters")]
    columns = list(dict.fromkeys([*traded, *(one.quantity for one in limits), *more]))
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    for column in columns:
        name = column.kind.name if len(devices) == 1 else column.name
        table.add_column({"macs": "MACs", "parameters": "params"}.get(name, name), justify="right", no_wrap=True)
        if column is traded[0] and column.name in rows[0]["posterior"]:
            table.add_column("believed", justify="right", no_wrap=True)
        if column.kind.name == "latency":
            table.add_column("95 % interval", justify="right", no_wrap=True)
        if column.name in rows[0].get("share_of_runs_within", {}):
            table.add_column("runs within", justify="right", no_wrap=True)
    for row in rows:
        cells = [row["id"]]
        for column in columns:
            cells.append(_maybe(row["values"].get(column.name), column.format))
            if column is traded[0] and column.name in rows[0]["posterior"]:
                cells.append(column.format(row["posterior"][column.name]["value"]))
            if column.kind.name == "latency":
                low, high = row["intervals"][column.name]
                cells.append(f"{format_seconds(low)} to {format_seconds(high)}")
            if column.name in row.get("share_of_runs_within", {}):
                cells.append(f"{row['share_of_runs_within'][column.name]:.0%}")
        table.add_row(*cells)
    _print_table(table)
    for row in rows:
        predicted = row["predicted"]
        foretold = [column.format(predicted[column.name]) for column in traded if column.name in predicted]
        text = f"predicted {' and '.join(foretold)}" if foretold else f"found by {row['origin']}"
        console.print(f"{row['id']}: {row['settings']}; {text}", soft_wrap=True, markup=False)
        told = {quantity(name, devices, known): value for name, value in row["values"].items() if "@" not in name}
        costs = [f"{one.kind.words} {one.format(value)}" for one, value in told.items() if one.kind.extra]
        if costs:
            console.print("  " + ", ".join(costs), soft_wrap=True)
        slow = {
            one: value for name, value in row["values"].items() if (one := quantity(name, devices, known)).kind.quantile
        }
        if slow:
            calls = [
                one.format(value) + (f" [{' to '.join(map(one.format, ends))}]" if ends is not None else "")
                for one, value in slow.items()
                for ends in [row["intervals"].get(one.name)]
            ]
            told = ", ".join(
                f"stability {text}" if one.kind.of_median else f"{one.kind.quantile:.0%} within {text}"
                for one, text in zip(slow, calls, strict=True)
            )
            console.print(f"  slow calls: {told}", soft_wrap=True)
        for warning in row["warnings"]:
            console.print(f"  warning: {warning}", soft_wrap=True, markup=False)
    if optimum is not None:
        first, second = traded
        best, bound = (optimum[key][first.name] for key in ("predicted", "bound"))
        console.print(
            f"of all networks of the space the models expect most of {optimum['id']}: {first.kind.exactly(best)} at "
            f"{second.format(optimum['predicted'][second.name])}; none can be above {first.kind.exactly(bound)} there, "
            f"by these models\n  {optimum['settings']}",
            soft_wrap=True,
        )
    device = f" --device {next(iter(devices))}" if devices else ""
    console.print(
        f"export it: supernet export {quote(str(run))} --arch {rows[0]['id']}{device} --out bundle", soft_wrap=True
    )


def print_evidence(evidence: Evidence) -> None:
    """What a verifying session has said of the answer."""
    low, high = evidence.interval
    slowest, fastest = evidence.levels[1] - 1, evidence.levels[0] - 1
    limit = format_seconds(evidence.limit) + (f" less {evidence.margin:.0%}" if evidence.margin else "")
    console = Console(highlight=False, markup=False)
    margin = math.ceil(100 * max(slowest, 0) / (1 + max(slowest, 0)))
    low_now, high_now = (signed_share(moved - 1) for moved in evidence.moved)
    for line in (
        f"verified: {format_seconds(evidence.latency)} [{format_seconds(low)} to {format_seconds(high)}], keeps "
        f"{limit} with {evidence.probability:.1%}; measured again side by side with {len(evidence.tried) - 1} others, "
        f"{evidence.turns} turns",
        f"  meanwhile the machine's speed moved by {low_now} to {high_now}; all sessions of this device lay "
        f"{signed_share(fastest)} to {signed_share(slowest)} from this one's level: a limit that must hold in all of "
        f"them needs --margin {margin}%",
    ):
        console.print(line, soft_wrap=True, markup=False)


def print_unmeasured(
    results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], limits: Sequence[Limit], run: Path
) -> None:
    """What `foretelling.unmeasured_answer` found."""
    devices, known = results["devices"], kinds(results)
    console = Console(highlight=False, markup=False)
    console.print("\nnot measured yet, by the predictors:")
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    columns = [quantity(name, devices, known) for name in rows[0]["predicted"]]
    for column in columns:
        table.add_column(column.kind.name if len(devices) == 1 else column.name, justify="right", no_wrap=True)
        if column.name in rows[0]["intervals"]:
            table.add_column("90 % interval", justify="right", no_wrap=True)
    if limits:
        table.add_column("keeps the limits", justify="right", no_wrap=True)
    for row in rows:
        cells = [row["id"]]
        for column in columns:
            cells.append(column.format(row["predicted"][column.name]))
            if column.name in rows[0]["intervals"]:
                cells.append(" to ".join(_maybe(end, column.format) for end in row["intervals"][column.name]))
        table.add_row(*cells, *([f"{row['probability']:.0%}"] if limits else []))
    _print_table(table)
    for row in rows:
        console.print(f"{row['id']}: {row['settings']}", soft_wrap=True, markup=False)
    upper = [f" --limit {quote(str(one))}" for one in limits]
    device = f" --device {next(iter(devices))}" if devices else ""
    console.print(
        f"measure what may be best: supernet search {quote(str(run))}{device}{''.join(upper)}", soft_wrap=True
    )


def _print_table(table: Table) -> None:
    """As wide as it is: what a narrow terminal wraps can still be read, what is cut off cannot."""
    wide = Console(highlight=False, markup=False, width=1000)
    wide.print(table, width=Measurement.get(wide, wide.options, table).maximum)


def print_card(card: Mapping[str, Any], out: Path) -> None:
    """What `bundle.write_bundle` wrote."""
    low, high = card["latency"]["interval"]
    device = card["device"]
    console = Console(highlight=False, markup=False)
    console.print(f"{out}: sub-network {card['id']}", soft_wrap=True)
    console.print(
        f"  latency {format_seconds(card['latency']['seconds'])} (95 % interval {format_seconds(low)} to "
        f"{format_seconds(high)}) on {device['name']}, measured on this file",
        soft_wrap=True,
    )
    if (kept := card["budget"]) is not None:
        console.print(
            f"  keeps {kept['asked']} with {kept['kept_with']:.1%}, at the machine's speed when the file was measured",
            soft_wrap=True,
        )
    for warning in card["latency"]["warnings"]:
        console.print(f"  warning: {warning}", soft_wrap=True, markup=False)
    good = quality(kinds_with(card["metric"])).kind
    scored = card[good.name]
    console.print(
        f"  {good.words} {good.exactly(scored['validation'])} on validation, {good.exactly(scored['test'])} on test; "
        f"{format_count(card['macs'])} MACs, {format_count(card['parameters'])} parameters",
        soft_wrap=True,
    )
    if card[f"{good.name}_int8"]:
        quantized = {split: good.exactly(value) for split, value in card[f"{good.name}_int8"].items()}
        console.print(f"  in int8 {quantized['validation']} on validation, {quantized['test']} on test", soft_wrap=True)
    console.print(f"  ONNX and torch agree to {card['onnx_difference']:.1e} of the largest output", soft_wrap=True)


def print_levels(manifest: Mapping[str, Any], out: Path) -> None:
    """What `levels.write_levels` wrote."""
    good = quality(kinds_with(manifest["metric"])).kind
    table = Table(box=None, pad_edge=False)
    for name, side in {"level": "left", "latency": "right", "validation": "right", "test": "right"}.items():
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row in manifest["levels"]:
        scores = (good.exactly(row[good.name][split]) for split in ("validation", "test"))
        table.add_row(row["id"], format_seconds(row["latency"]["seconds"]), *scores)
    alone = sum(row["bytes"]["alone"] for row in manifest["levels"])
    together = manifest["weights"]["bytes"] + sum(row["bytes"]["own"] for row in manifest["levels"])
    console = Console(highlight=False, markup=False)
    console.print(f"{out}: {len(manifest['levels'])} levels, measured on {manifest['device']['name']}", soft_wrap=True)
    console.print(table)
    console.print(f"  {format_bytes(together)} together, files of their own {format_bytes(alone)}", soft_wrap=True)


def print_cascades(found: Mapping[str, Any]) -> None:
    """What `cascade.cascade_run` found."""
    console = Console(highlight=False, markup=False, width=1000)
    table = Table(box=None, pad_edge=False)
    for name in ("network", "latency", "on test", "best cascade within it", "passed on", "expected", "on test"):
        table.add_column(name, justify="left" if name.startswith(("network", "best")) else "right", no_wrap=True)
    gains = []
    for row in found["beside"]:
        single, best = row["single"], row["cascade"]
        cells = [single["id"], format_seconds(single["seconds"]), f"{single['test']:.2%}"]
        if best is not None:
            test = best["test"]
            gains.append(test["accuracy"] - single["test"])
            cells += [f"{best['small']} ({best['threshold']:.3f}) {best['large']}", f"{test['passed_on']:.1%}"]
            cells += [format_seconds(test["seconds"]), f"{test['accuracy']:.2%}"]
        table.add_row(*cells)
    console.print(table)
    if gains:
        mean = 100 * sum(gains) / len(gains)
        console.print(
            f"within the same latency cascades are {mean:+.2f} points from single networks, over {len(gains)}"
        )
    if "best" in found:
        best = found["best"]
        console.print(
            f"{best['small']}, and below {best['threshold']:.4g} {best['large']}: "
            f"{format_seconds(best['test']['seconds'])} expected, {best['test']['accuracy']:.2%} on test"
        )


def print_merged(rows: Sequence[Mapping[str, Any]], out: Path, kinds: Mapping[str, Kind]) -> None:
    """What `merging.merge_runs` found."""
    good, ways = quality(kinds).kind, ("base", "own", "merged")
    table = Table("run", "network", *(f"{way}, test" for way in ways), box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["run"], row["network"], *(good.exactly(row[way]) for way in ways))
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"{out} is written", soft_wrap=True)


def next_commands(run: Path) -> str:
    """Where the report is, and three commands to try, with a budget that some sub-networks hold."""
    name, results = next(iter(json.loads((run / "front.json").read_text(encoding="utf-8"))["goals"].items()))
    front = results["front"]["candidates"]
    device = next(iter(results["devices"]), None)
    lines = [f"\nThe report: {run / 'report.html'} (open it in a browser)", "Try next:"]
    if front:
        middle = front[len(front) // 2]
        which = f" --device {device}" if name == device else f' --goal "{name}"'
        at = f"latency@{device}"
        budget = f' --limit "{at} <= {middle["values"][at] * 1.02 * 1e3:.2g}ms"' if at in middle["values"] else ""
        if name == device and budget:
            budget = f" --latency {middle['values'][at] * 1.02 * 1e3:.2g}ms"
        lines.append(f"  {_command()} query {quote(str(run))}{which}{budget} --top 5")
        where = f" --device {device}" if device else ""
        lines.append(
            f"  {_command()} export {quote(str(run))} --arch {middle['id']}{where} --out {quote(str(run / 'bundle'))}"
        )
    return "\n".join([*lines, f"  {_command()} compare {quote(str(run))}"])


def _command() -> str:
    """How this command is called from here: by its path where no shell would find it, as after `make demo`."""
    here = sys.argv[0]
    return "supernet" if shutil.which("supernet") or Path(here).name != "supernet" else quote(here)


def _maybe(value: float | None, text: Any) -> str:
    return "–" if value is None else text(value)
