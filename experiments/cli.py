"""The command line: the verbs of the pipeline. Heavy libraries are imported inside the verbs that need them."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands import device, measurements

if TYPE_CHECKING:
    from experiments.progress import Reporter
    from experiments.quantities import Limit
    from experiments.run_folder import RunFolder
    from experiments.verifying import Evidence
    from supernet.training import World

__all__ = ["app", "main"]

app = typer.Typer(
    help="One supernet, trained once; for every device its own sub-network, by measured latency.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(device.app, name="device")
app.add_typer(measurements.app, name="measurements")

_INTERRUPTED = 130  # what typer ends with after Ctrl-C
_ASKED_TO_STOP = 143  # what training ends with after SIGTERM

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/digits.")]
Out = Annotated[Path | None, typer.Option("--out", help="The folder of the run.  [default: runs/NAME OF THE RECIPE]")]
AddedDevice = Annotated[
    str | None, typer.Option("--device", help="Only for this device, such as one that was added to the run.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="The longest latency that is of use, such as 5ms.")]
Batch = Annotated[
    str | None,
    typer.Option("--batch", help="'any' for a file that takes any number of images.  [default: the device's]"),
]
DeviceName = Annotated[str | None, typer.Option("--device", help="A device of the recipe, by name.")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"supernet-nas {version('supernet-nas')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command()
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


def _write_first_recipe(folder: Path, out: Path, budget: str | None) -> None:
    from experiments.initial_recipe import first_recipe, look_into
    from supernet.files import write_text

    write_text(out, first_recipe(folder, look_into(folder), budget))


@app.command()
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
    folder, report = _start(recipe, out)
    if folder.is_finished:
        report.say(f"{folder.path} is finished already; nothing to do")
    else:
        from experiments import pipeline

        pipeline.run(folder, report)
    if folder.recipe.training.method != "pruning":  # which ends with a file, and nothing to ask about
        report.say(_what_next(folder))


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="The folder of the run.")] = Path("runs/digits")) -> None:
    """The whole way on embedded data, in 5 to 8 minutes: `supernet run` of a recipe that comes with the package."""
    run(Path(__file__).parent / "recipes" / "digits.toml", out, None, None)


@app.command("data")
def data_(
    recipe: RecipePath,
    check: Annotated[bool, typer.Option("--check", help="Open every image; tell which cannot be read.")] = False,
) -> None:
    """Say what is in the data of a recipe: splits, classes, formats, what is carved and what is left out."""
    from experiments.commands.data import print_data

    if not print_data(recipe, check):
        sys.exit(1)


@app.command()
def train(recipe: RecipePath, out: Out = None) -> None:
    """Train the supernet of a recipe; under torchrun, on all its processes."""
    from experiments.settings.recipe import load_recipe

    load_recipe(recipe)  # a mistake is told at once, not after the libraries have been loaded
    from experiments import pipeline
    from supernet.training import join

    with join() as world:
        pipeline.train(*_start(recipe, out, world), world)


@app.command()
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
    folder, report = _open(run)
    from experiments import pipeline

    if again:
        pipeline.profile_again(folder, report, device)
    elif blocks:
        pipeline.profile_blocks(folder, arch, device, minutes, report)
    elif n is not None or minutes is not None or goal is not None:
        pipeline.profile_campaign(folder, device, n, minutes, goal, report)
    else:
        pipeline.profile(folder, report, device)


@app.command()
def score(run: RunPath) -> None:
    """Recalibrate sub-networks and evaluate them on the validation split; under torchrun, on all its processes."""
    _found(run)  # a mistake is told at once, not after the libraries have been loaded
    from experiments import pipeline
    from supernet.training import join

    with join() as world:
        pipeline.score(*_open(run, world), world=world)


@app.command()
def fit(run: RunPath, device: AddedDevice = None) -> None:
    """Fit the predictors of latency, accuracy and whatever else the goals are about."""
    _verb("fit", run, device)


@app.command()
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
    folder, report = _open(run)
    from experiments import pipeline
    from experiments.borrowing import Lenders
    from experiments.quantities import limit as read_limit
    from experiments.rounds import Focus

    known = [*(one.name for one in folder.recipe.devices), *folder.added_devices(), *([device] if lenders else [])]
    texts = [*([] if latency is None else [f"latency{f'@{device}' if device else ''} <= {latency}"]), *(limit or [])]
    limits = tuple(read_limit(text, known, folder.recipe.kinds) for text in texts)
    lent, archives = None, tuple(map(_found, archive or ()))
    if lenders is not None:
        names = () if lenders == "all" else tuple(name.strip() for name in lenders.split(","))
        lent = Lenders(names, archives)
    asked = Focus(limits, evaluations, device) if limits else None
    pipeline.search(folder, report, device, asked, lent, () if lent else archives)


@app.command()
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
    folder = _found(run)
    from rich.console import Console

    from experiments.foretelling import unmeasured_answer
    from experiments.progress import Reporter

    report = Reporter(Console(stderr=True, highlight=False))
    return unmeasured_answer(folder, results, limits, top, report, probability)


def _verified(
    run: Path, results: dict[str, Any], limits: list[Limit], probability: float, margin: float
) -> tuple[list[dict[str, Any]], Evidence]:
    folder = _found(run)
    from experiments.lock import check_writable

    check_writable(run)
    from rich.console import Console

    from experiments.progress import Reporter
    from experiments.verifying import verified_answer

    report = Reporter(Console(stderr=True, highlight=False))  # the answer alone goes to stdout
    row, evidence = verified_answer(folder, results, limits, report, probability=probability, margin=margin)
    return [row], evidence


@app.command()
def export(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", help="The new folder of the bundle.")],
    arch: Annotated[str | None, typer.Option("--arch", help="Id of the sub-network, or how it begins.")] = None,
    archs: Annotated[
        str | None, typer.Option("--archs", help="Ids of several, A,B,C: levels that share their weights.")
    ] = None,
    levels: Annotated[
        int | None, typer.Option("--levels", min=2, help="So many levels, each of which contains the one before.")
    ] = None,
    device: DeviceName = None,
    latency: Annotated[
        str | None,
        typer.Option(help="What the file must keep, such as 5ms; without --arch the best that does is looked for."),
    ] = None,
    probability: Annotated[str, typer.Option(help="With --latency: how surely, such as 95%.")] = "95%",
    margin: Annotated[str, typer.Option(help="With --latency: share of it to leave, such as 10%.")] = "0%",
    batch: Batch = None,
) -> None:
    """Write a sub-network as ONNX and safetensors, with the latency measured on the finished file; or several in one
    folder, to be switched while they run."""
    n_given = sum(given is not None for given in (arch, archs, levels))
    if n_given > 1 or (n_given == 0 and latency is None):
        raise ValueError(
            "which sub-network? Give one of --arch A, --archs A,B,C and --levels N, or --latency 5ms for the best that "
            "keeps it"
        )
    several = archs is not None or levels is not None
    any_batch = _any_batch(batch)
    if several and (any_batch or latency is not None):
        raise ValueError("--batch any and --latency are for one network: levels have the batch size of the device")
    folder, report = _open(run)
    from experiments import pipeline, querying
    from experiments.budgets import parse_seconds, read_share
    from experiments.commands.tables import print_card, print_levels
    from experiments.quantities import Limit
    from experiments.quantities import latency as latency_on
    from experiments.verifying import Budget, verified_answer

    if several:
        keys = [key.strip() for key in (archs or "").split(",")]
        print_levels(pipeline.export_levels(folder, keys, levels, device, out, report), out)
        return
    budget = None
    if latency is not None:
        budget = Budget(parse_seconds(latency), read_share(probability), read_share(margin))
    if arch is None and budget is not None:
        _, results = querying.goal_results(run, None, device)
        limits = [Limit(latency_on(device or next(iter(results["devices"]))), budget.seconds, True)]
        found, _ = verified_answer(
            folder, results, limits, report, probability=budget.probability, margin=budget.margin
        )
        arch = found["id"]
    assert arch is not None
    print_card(pipeline.export(folder, arch, device, out, report, any_batch, budget), out)


def _any_batch(batch: str | None) -> bool:
    if batch not in (None, "any"):
        raise ValueError(f"--batch {batch} is not possible: 'any', or leave it out for the batch size of the device")
    return batch == "any"


@app.command()
def cascade(
    run: RunPath,
    device: DeviceName = None,
    latency: Annotated[
        str | None, typer.Option(help="The expected latency of the one to take, at most, such as 0.04ms.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --latency: the new folder of that one, as levels.")
    ] = None,
) -> None:
    """Two networks of a front, of which the second answers where the first is not sure; beside the front, on test."""
    from experiments.budgets import parse_seconds

    budget = None if latency is None else parse_seconds(latency)
    if out is not None and budget is None:
        raise ValueError("--out needs --latency, which says which cascade to write")
    folder, report = _open(run)
    from experiments import pipeline
    from experiments.commands.tables import print_cascades

    print_cascades(pipeline.cascade(folder, device, budget, out, report))


@app.command()
def finetune(
    run: RunPath,
    arch: Annotated[str, typer.Option("--arch", help="Id of the sub-network, or how it begins.")],
    out: Annotated[Path, typer.Option("--out", help="The new folder of the bundle.")],
    device: DeviceName = None,
    epochs: Annotated[int, typer.Option(min=1, help="How long.")] = 5,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate at first.  [default: a tenth of the training's]")
    ] = None,
    batch: Batch = None,
) -> None:
    """Train one sub-network alone for a few epochs, taught by the largest, and export it. Run again, it carries on."""
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"--lr {lr:g} must be above 0")
    any_batch = _any_batch(batch)
    folder, report = _open(run)
    from experiments import pipeline
    from experiments.commands.tables import print_card

    card = pipeline.finetune(folder, arch, device, out, report, epochs=epochs, peak_lr=lr, any_batch=any_batch)
    print_card(card, out)


@app.command()
def merge(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The run whose weights the others began with.")],
    tuned: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs with `supernet.weights = BASE`.")],
    out: Annotated[Path, typer.Option("--out", help="The new file of weights, for `supernet.weights`.")],
    scale: Annotated[float, typer.Option(help="Of what a run has changed.")] = 0.3,
    smallest: Annotated[str, typer.Option(help="Share of the smallest changes to leave out.")] = "85%",
    largest: Annotated[str, typer.Option(help="Share of the largest changes to leave out.")] = "1%",
) -> None:
    """Make one supernet of fine-tuned copies of it, and say what it scores on the data of each."""
    from experiments.budgets import read_share

    if not 0 < scale < float("inf"):
        raise ValueError(f"--scale {scale:g} must be above 0")
    shares = {"scale": scale, "smallest": read_share(smallest), "largest": read_share(largest)}
    begun, report = _open(base)
    copies = [_open(run)[0] for run in tuned]
    from experiments.commands.tables import print_merged
    from experiments.merging import merge_runs

    print_merged(merge_runs(begun, copies, out, report, **shares), out, begun.recipe.kinds)


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `supernet export` or `finetune` wrote.")],
    repository: Annotated[
        str | None, typer.Argument(metavar="USER/NAME", help="On the Hugging Face hub; made if it is not there.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by you alone.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Write what would be pushed here instead.")] = None,
) -> None:
    """Push a bundle to the Hugging Face hub, where `timm.create_model` loads it."""
    from experiments.hub import push_to_hub, write_hub_folder

    if (repository is None) == (folder is None):
        raise ValueError("give either USER/NAME, to push, or --folder, to write what would be pushed")
    if folder is not None:
        write_hub_folder(bundle, folder)
        print(
            f'{folder}: after `import supernet.hub`, timm.create_model("local-dir:{folder}", pretrained=True) loads it'
        )
    elif repository is not None:
        print(push_to_hub(bundle, repository, private))


@app.command()
def compare(
    run: RunPath,
    seeds: Annotated[
        int, typer.Option(min=1, help="Searches: beyond 1, the search again with other seeds and the same weights.")
    ] = 1,
) -> None:
    """Compare the fronts with baselines on the test split, and write report.html and tables."""
    folder, report = _open(run)
    from experiments import pipeline

    pipeline.compare(folder, report, seeds)
    report.say(f"{folder.report}")


@app.command()
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
    everything: Annotated[bool, typer.Option("--all", help="Every group of parameters.")] = False,
    draw: Annotated[Path | None, typer.Option("--draw", help="An SVG of which layers shrink together.")] = None,
) -> None:
    """What becomes elastic of a network, how many sub-networks that makes, and what the smallest and largest cost."""
    from experiments.budgets import read_share
    from experiments.commands.explain import explain as show

    show(model, family, size, tuple(read_share(width) for width in widths or ()), everything, draw)


def main() -> None:
    """Run the command; what a person can mend is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal has no letters for is spelled out, and nothing raises.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        first = os.environ.get("RANK", "0") == "0"
        if end.code == _INTERRUPTED and first:
            print("supernet: interrupted; the same command carries on from here", file=sys.stderr)
        if end.code == _ASKED_TO_STOP and first:
            print(f"supernet: {end}", file=sys.stderr)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        sys.exit(1)
    except (ValueError, OSError) as error:
        if os.environ.get("SUPERNET_TRACEBACK"):
            raise
        reason = str(error) if isinstance(error, ValueError) or not error.strerror else _os_error(error)
        print("\n".join(f"supernet: {line}" for line in reason.splitlines()), file=sys.stderr)
        sys.exit(2)


def _start(recipe: Path, out: Path | None, world: World | None = None) -> tuple[RunFolder, Reporter]:
    """The run of a recipe, started by the first process; by one on every machine where these share no folder."""
    from experiments.lock import hold
    from experiments.run_folder import RunFolder

    path = out or Path("runs") / recipe.stem
    news: list[str] = []
    held: list[object] = []

    def begun() -> bytes:
        if RunFolder.is_run(path):
            held.append(hold(path))  # before anything in it is changed
        news.extend(RunFolder.start(recipe, path).news)
        held[:] = held or [hold(path)]
        return b"started"

    if world is None:
        begun()
    else:
        world.share(begun)
        if world.local_rank == 0:
            RunFolder.start(recipe, path)
        world.barrier()
    folder, report = _ready(RunFolder.start(recipe, path), quiet=world is not None and not world.is_first)
    folder.held = held
    for line in news:
        report.say(line)
    return folder, report


def _open(run: Path, world: World | None = None) -> tuple[RunFolder, Reporter]:
    """A run to work in, which no other process does meanwhile."""
    from experiments.lock import hold

    folder = _found(run)

    def begun() -> bytes:
        folder.held = hold(run)
        return b"held"

    if world is None:
        begun()
    else:
        world.share(begun)
    return _ready(folder, quiet=world is not None and not world.is_first)


def _found(run: Path) -> RunFolder:
    from experiments.run_folder import RunFolder

    if not run.is_dir():
        raise ValueError(f"{run} is not a folder; give the folder of a run, such as runs/digits")
    return RunFolder(run)


def _ready(folder: RunFolder, quiet: bool = False) -> tuple[RunFolder, Reporter]:
    """The run, and the process set up for it."""
    import torch
    from rich.console import Console

    from experiments.progress import Reporter

    # With another busy process beside it, small networks on several threads run many times slower than on one.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return folder, Reporter(Console(quiet=True) if quiet else None)


def _verb(name: str, run: Path, device: str | None = None) -> None:
    folder, report = _open(run)
    from experiments import pipeline

    verb: Callable[..., None] = getattr(pipeline, name)
    verb(folder, report, device)


def _os_error(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _what_next(run: RunFolder) -> str:
    from experiments.commands.tables import next_commands

    return next_commands(run.path)
