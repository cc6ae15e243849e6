"""The verbs of a run: from what is looked at before, to fronts and their comparison."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.arguments import AddedDevice, Budget, DeviceName, Out, RecipePath, RunPath
from experiments.commands.opening import found_run, open_run, start

if TYPE_CHECKING:
    from experiments.run_folder import RunFolder

__all__ = ["compare", "data", "demo", "explain", "fit", "init", "profile", "run", "score", "search", "train"]


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images, such as one per class.")],
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.toml"),
    budget: Budget = None,
) -> None:
    """Write a recipe for a folder of images, with every key explained in a comment."""
    if out.exists():
        raise ValueError(f"{out} exists; give another file with --out")
    _write_first_recipe(folder, out, budget)
    name = quote(str(out))
    print(f"{out} is written; look at the data with `supernet data {name}`, then `supernet run {name}`")


def run(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="The recipe, a TOML file.")] = None,
    out: Out = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Instead of a recipe: a folder of images; all else is chosen for you.")
    ] = None,
    budget: Budget = None,
) -> None:
    """Do everything: train, profile, score, fit, search, compare. Run again, it carries on."""
    if (recipe is None) == (data is None):
        raise ValueError("give either a RECIPE or --data FOLDER")
    if budget is not None and data is None:
        raise ValueError("--budget belongs to --data; in a recipe it is search.constraints")
    if data is not None:
        recipe = Path("runs") / f"{data.resolve().name}.toml"
        if not recipe.exists():
            _write_first_recipe(data, recipe, budget)
            print(f"{recipe} is written: what was chosen, and why")
        elif budget is not None and budget not in recipe.read_text(encoding="utf-8"):
            raise ValueError(
                f"{recipe} is there without the budget {budget}: change search.constraints in it, and run it"
            )
    assert recipe is not None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("`run` is one process: train on many with `torchrun ... -m supernet_nas train`, then run it")
    folder, report = start(recipe, out)
    if folder.is_finished:
        report.say(f"{folder.path} is finished already; nothing to do")
    else:
        from experiments import pipeline

        pipeline.run(folder, report)
    if folder.recipe.training.method != "pruning":  # which ends with a file, and nothing to ask about
        report.say(_what_next(folder))


def demo(out: Annotated[Path, typer.Option("--out", help="The folder of the run.")] = Path("runs/digits")) -> None:
    """The whole way on embedded data, in 5 to 8 minutes: `supernet run` of a recipe that comes with the package."""
    run(Path(__file__).parents[1] / "recipes" / "digits.toml", out, None, None)


def data(
    recipe: RecipePath,
    check: Annotated[bool, typer.Option("--check", help="Open every image; tell which cannot be read.")] = False,
) -> None:
    """Say what is in the data of a recipe: splits, classes, formats, what is carved and what is left out."""
    from experiments.commands.data import print_data

    if not print_data(recipe, check):
        sys.exit(1)


def train(recipe: RecipePath, out: Out = None) -> None:
    """Train the supernet of a recipe; under torchrun, on all its processes."""
    from experiments.settings.recipe import load_recipe

    load_recipe(recipe)  # a mistake is told at once, not after the libraries have been loaded
    from experiments import pipeline
    from supernet.training import join

    with join() as world:
        pipeline.train(*start(recipe, out, world), world)


def profile(
    run: RunPath,
    device: DeviceName = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="So many sub-networks in all: a campaign.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin nothing new after so long on a device.")] = None,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Measure every block alone; see where the time goes.")
    ] = False,
    arch: Annotated[str | None, typer.Option("--arch", help="With --blocks: id of the sub-network to look at.")] = None,
    until: Annotated[
        str | None, typer.Option(help="A campaign until a predictor is so good: 'error <= 5%' or 'tau >= 0.9'.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure what there is a doubt about, or everything, in a new session.")
    ] = False,
) -> None:
    """Measure what is planned on every device of the recipe, or a campaign: --n sub-networks, --minutes, or --until."""
    if minutes is not None and not 0 < minutes < float("inf"):
        raise ValueError(f"--minutes {minutes:g} must be above 0")
    if blocks and (n is not None or until is not None):
        raise ValueError(
            "--n and --until are for sub-networks; with --blocks give --minutes, or neither: it carries on where it was"
        )
    if arch is not None and not blocks:
        raise ValueError("--arch needs --blocks")
    if again and (blocks or n is not None or minutes is not None or until is not None):
        raise ValueError("--again stands alone: it measures what is planned, in a new session")
    from predictors.stopping import Goal

    goal = None if until is None else Goal.parse(until)
    folder, report = open_run(run)
    from experiments import pipeline

    if again:
        pipeline.profile_again(folder, report, device)
    elif blocks:
        pipeline.profile_blocks(folder, arch, device, minutes, report)
    elif n is not None or minutes is not None or goal is not None:
        pipeline.profile_campaign(folder, device, n, minutes, goal, report)
    else:
        pipeline.profile(folder, report, device)


def score(run: RunPath) -> None:
    """Recalibrate sub-networks and evaluate them on the validation split; under torchrun, on all its processes."""
    found_run(run)  # a mistake is told at once, not after the libraries have been loaded
    from experiments import pipeline
    from supernet.training import join

    with join() as world:
        pipeline.score(*open_run(run, world), world=world)


def fit(run: RunPath, device: AddedDevice = None) -> None:
    """Fit the predictors of latency, accuracy and whatever else the goals are about."""
    folder, report = open_run(run)
    from experiments import pipeline

    pipeline.fit(folder, report, device)


def search(
    run: RunPath,
    device: AddedDevice = None,
    latency: Annotated[str | None, typer.Option(help="Look for the best within it alone, such as 1.5ms.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="The same of any quantity, such as 'macs <= 300M'; may be given again."),
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, help="Sub-networks for the best within limits.")] = 10,
    lenders: Annotated[
        str | None, typer.Option("--from", help="Devices that a new one learns from, such as laptop,server, or 'all'.")
    ] = None,
    archive: Annotated[
        list[Path] | None,
        typer.Option(
            help="An earlier run whose fronts to begin with; with --from, whose devices are known. Repeatable."
        ),
    ] = None,
) -> None:
    """Search, measure what the search proposes, and write the fronts; or look for the best within limits."""
    folder, report = open_run(run)
    from experiments import pipeline
    from experiments.borrowing import Lenders
    from experiments.quantities import limit as read_limit
    from experiments.rounds import Focus

    known = [*(one.name for one in folder.recipe.devices), *folder.added_devices(), *([device] if lenders else [])]
    texts = [*([] if latency is None else [f"latency{f'@{device}' if device else ''} <= {latency}"]), *(limit or [])]
    limits = tuple(read_limit(text, known, folder.recipe.kinds) for text in texts)
    lent, archives = None, tuple(map(found_run, archive or ()))
    if lenders is not None:
        names = () if lenders == "all" else tuple(name.strip() for name in lenders.split(","))
        lent = Lenders(names, archives)
    asked = Focus(limits, evaluations, device) if limits else None
    pipeline.search(folder, report, device, asked, lent, () if lent else archives)


def compare(
    run: RunPath,
    seeds: Annotated[
        int, typer.Option(min=1, help="Searches: beyond 1, the search again with other seeds and the same weights.")
    ] = 1,
) -> None:
    """Compare the fronts with baselines on the test split, and write report.html and tables."""
    folder, report = open_run(run)
    from experiments import pipeline

    pipeline.compare(folder, report, seeds)
    report.say(f"{folder.report}")


def explain(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name of timm's, or package.module:function."),
    ],
    size: Annotated[
        str | None,
        typer.Option("--size", help="Of the input, such as 1x3x224x224.  [default: the model's]"),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="'own' or 'traced'.  [default: its own family where it has one]")
    ] = None,
    widths: Annotated[
        list[str] | None,
        typer.Option("--width", help="A share of the widths between blocks as well, such as 50%; may be given again."),
    ] = None,
    kernels: Annotated[
        list[int] | None,
        typer.Option("--kernel", help="A smaller size of kernels as well, such as 3; may be repeated."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every group of parameters.")] = False,
    draw: Annotated[Path | None, typer.Option("--draw", help="An SVG of which layers shrink together.")] = None,
) -> None:
    """What becomes elastic of a network, how many sub-networks that makes, and what the smallest and largest cost."""
    from experiments.budgets import read_share
    from experiments.commands.explain import explain as show

    choices = {"widths": tuple(read_share(width) for width in widths or ()), "kernels": tuple(kernels or ())}
    show(model, family, size, {name: given for name, given in choices.items() if given}, everything, draw)


def _write_first_recipe(folder: Path, out: Path, budget: str | None) -> None:
    from experiments.initial_recipe import first_recipe, look_into
    from supernet.files import write_text

    write_text(out, first_recipe(folder, look_into(folder), budget))


def _what_next(run: RunFolder) -> str:
    from experiments.commands.tables import next_commands

    return next_commands(run.path)
