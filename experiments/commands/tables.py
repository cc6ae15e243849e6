"""Answers as a person reads them in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.budgets import describe_costs, format_count, format_seconds

__all__ = ["next_commands", "print_answer", "print_card"]


def print_answer(device: str, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], run: Path) -> None:
    """What `querying.answer` found."""
    hardware = results["device"]
    console = Console(highlight=False)
    console.print(
        f"{device}: {hardware['hardware']}, {hardware['runtime']} {hardware['runtime_version']}, "
        f"{hardware['threads']} thread(s), batch {hardware['batch_size']}",
        soft_wrap=True,
    )
    within = "share_of_runs_within" in rows[0]
    table = Table(box=None, pad_edge=False)
    for heading in ["id", "accuracy", "latency", "95 % interval", "MACs", "params"] + ["runs within"] * within:
        table.add_column(heading, justify="left" if heading == "id" else "right", no_wrap=True)
    for row in rows:
        low, high = row["latency_interval"]
        cells = [
            row["id"],
            f"{row['accuracy']:.1%}",
            format_seconds(row["latency"]),
            f"{format_seconds(low)} to {format_seconds(high)}",
            format_count(row["macs"]),
            format_count(row["parameters"]),
        ]
        table.add_row(*cells, *([f"{row['share_of_runs_within']:.0%}"] if within else []))
    console.print(table)
    for row in rows:
        accuracy = _maybe(row["predicted_accuracy"], lambda value: f"{value:.1%}")
        latency = _maybe(row["predicted_latency"], format_seconds)
        console.print(
            f"{row['id']}: {row['settings']}; predicted {accuracy} and {latency}", soft_wrap=True, markup=False
        )
        if costs := describe_costs(row["costs"]):
            console.print("  " + ", ".join(f"{what} {value}" for what, value in costs.items()), soft_wrap=True)
        for warning in row["warnings"]:
            console.print(f"  warning: {warning}", soft_wrap=True, markup=False)
    console.print(
        f"export it: supernet export {run} --arch {rows[0]['id']} --device {device} --out bundle", soft_wrap=True
    )


def print_card(card: Mapping[str, Any], out: Path) -> None:
    """What `bundle.write_bundle` wrote."""
    low, high = card["latency"]["interval"]
    device = card["device"]
    console = Console(highlight=False)
    console.print(f"{out}: sub-network {card['id']}", soft_wrap=True)
    console.print(
        f"  latency {format_seconds(card['latency']['seconds'])} (95 % interval {format_seconds(low)} to "
        f"{format_seconds(high)}) on {device['name']}, measured on this file",
        soft_wrap=True,
    )
    for warning in card["latency"]["warnings"]:
        console.print(f"  warning: {warning}", soft_wrap=True, markup=False)
    console.print(
        f"  accuracy {card['accuracy']['validation']:.2%} on validation, {card['accuracy']['test']:.2%} on test; "
        f"{format_count(card['macs'])} MACs, {format_count(card['parameters'])} parameters",
        soft_wrap=True,
    )
    if card["accuracy_int8"]:
        quantized = card["accuracy_int8"]
        console.print(
            f"  in int8 {quantized['validation']:.2%} on validation, {quantized['test']:.2%} on test", soft_wrap=True
        )
    console.print(f"  ONNX and torch agree to {card['onnx_difference']:.1e} of the largest logit", soft_wrap=True)


def next_commands(run: Path) -> str:
    """Where the report is, and three commands to try, with a budget that some sub-networks hold."""
    name, results = next(iter(json.loads((run / "front.json").read_text(encoding="utf-8"))["devices"].items()))
    front = results["front"]["candidates"]
    middle = front[len(front) // 2]
    budget = f"{middle['values']['latency'] * 1.02 * 1e3:.2g}ms"
    return f"""
The report: {run / "report.html"} (open it in a browser)
Try next:
  supernet query {run} --device {name} --latency {budget} --top 5
  supernet export {run} --arch {middle["id"]} --device {name} --out {run / "bundle"}
  supernet compare {run}"""


def _maybe(value: float | None, text: Any) -> str:
    return "–" if value is None else text(value)
