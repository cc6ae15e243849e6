"""``supernet query``: the best sub-network within limits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.arguments import DeviceName, RunPath
from experiments.commands.opening import found_run

if TYPE_CHECKING:
    from experiments.quantities import Limit
    from experiments.verifying import Evidence

__all__ = ["query"]


def query(
    run: RunPath,
    device: DeviceName = None,
    latency: Annotated[str | None, typer.Option(help="Upper limit, such as 1.5ms.")] = None,
    macs: Annotated[str | None, typer.Option(help="Upper limit, such as 300M.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Upper limit, such as 5M.")] = None,
    size: Annotated[str | None, typer.Option(help="Upper limit of the file, such as 5MB.")] = None,
    memory: Annotated[str | None, typer.Option(help="Upper limit of the peak, such as 20MB, where measured.")] = None,
    energy: Annotated[str | None, typer.Option(help="Upper limit of a run, such as 3mJ, where measured.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="On any quantity, such as 'latency@phone <= 5ms'; may be given again."),
    ] = None,
    goal: Annotated[str | None, typer.Option("--goal", help="A goal of the run, by name, instead of --device.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to list.")] = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Measure the best again until one surely keeps the limit on the latency.")
    ] = False,
    unmeasured: Annotated[
        bool, typer.Option("--unmeasured", help="Also what nobody measured yet: the best by the predictors.")
    ] = False,
    probability: Annotated[
        str, typer.Option(help="With --verify or --unmeasured: how surely limits are kept, such as 95%.")
    ] = "95%",
    margin: Annotated[str, typer.Option(help="With --verify: share of the limit to leave, such as 10%.")] = "0%",
    front: Annotated[bool, typer.Option("--front", help="Every member of the front that keeps the limits.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table for other programs: seconds and counts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: seconds and counts.")] = False,
) -> None:
    """The best sub-network that keeps the limits; of the usual goals, the one of the highest quality."""
    if as_csv and as_json:
        raise ValueError("--csv and --json are two ways to write the same: give one")
    if front and verify:
        raise ValueError("--verify is about one answer: give it without --front")
    if unmeasured and (verify or front or as_csv):
        raise ValueError("--unmeasured goes with --top and --json alone: what it lists has no measured value")
    from experiments import querying
    from experiments.budgets import read_share
    from experiments.quantities import limit as read_limit

    name, results = querying.goal_results(run, goal, device)
    about = list(results["devices"])
    where = device if device is not None else about[0] if len(about) == 1 else None
    short = {
        f"latency@{where}" if where else "latency": latency,
        "macs": macs,
        "parameters": parameters,
        "size": size,
        "memory": memory,
        "energy": energy,
    }
    texts = [f"{what} <= {text}" for what, text in short.items() if text is not None]
    limits = [read_limit(text, about, querying.kinds(results)) for text in [*texts, *(limit or [])]]
    evidence, rows, failures, foretold = None, [], [], None
    try:
        if verify:
            rows, evidence = _verified(run, results, limits, read_share(probability), read_share(margin))
        else:
            rows = querying.front_rows(results, limits) if front else querying.answer(results, limits, top)
    except ValueError as error:
        if not unmeasured:
            raise
        failures.append(str(error))
    if unmeasured:
        try:
            foretold = _unmeasured(run, results, limits, top, read_share(probability))
        except ValueError as error:
            failures.append(str(error))
    if failures and not rows and foretold is None:
        raise ValueError("\n".join(failures))
    for failure in failures:
        print(f"supernet: {failure}", file=sys.stderr)
    changed = querying.what_changed(run, results)
    if changed:
        print(
            f"supernet: {name} is not here what it was when it was measured: {'; '.join(changed)}\n"
            f"supernet: these are the old numbers; for new ones: `supernet search {run}`",
            file=sys.stderr,
        )
    for note in (note for found in results["devices"].values() for note in found["notes"]):
        print(f"supernet: {note}", file=sys.stderr)
    if as_csv:
        print(querying.as_csv(rows), end="")
        return
    if as_json:
        told = {} if evidence is None else {"evidence": evidence.to_dict()}
        told |= {} if foretold is None else {"unmeasured": foretold}
        best = {"optimum": querying.optimum(results, limits)}
        found = {"goal": name, "devices": results["devices"], "changed": changed, "found": rows, **best, **told}
        print(json.dumps(found, indent=1))
        return
    from experiments.commands.tables import print_answer, print_evidence, print_unmeasured

    if rows:
        print_answer(results, rows, limits, run, querying.optimum(results, limits))
    if evidence is not None:
        print_evidence(evidence)
    if foretold is not None:
        print_unmeasured(results, foretold, limits, run)


def _unmeasured(
    run: Path, results: dict[str, Any], limits: list[Limit], top: int, probability: float
) -> list[dict[str, Any]]:
    folder = found_run(run)
    from rich.console import Console

    from experiments.foretelling import unmeasured_answer
    from experiments.progress import Reporter

    report = Reporter(Console(stderr=True, highlight=False))
    return unmeasured_answer(folder, results, limits, top, report, probability)


def _verified(
    run: Path, results: dict[str, Any], limits: list[Limit], probability: float, margin: float
) -> tuple[list[dict[str, Any]], Evidence]:
    folder = found_run(run)
    from experiments.lock import check_writable

    check_writable(run)
    from rich.console import Console

    from experiments.progress import Reporter
    from experiments.verifying import verified_answer

    report = Reporter(Console(stderr=True, highlight=False))  # the answer alone goes to stdout
    row, evidence = verified_answer(folder, results, limits, report, probability=probability, margin=margin)
    return [row], evidence
