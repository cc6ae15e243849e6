"""The verbs that write weights to keep: bundles, levels, cascades, what is fine-tuned, merged or pushed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.arguments import Batch, DeviceName, RunPath
from experiments.commands.opening import open_run

__all__ = ["cascade", "export", "finetune", "merge", "push"]


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
    folder, report = open_run(run)
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
    folder, report = open_run(run)
    from experiments import pipeline
    from experiments.commands.tables import print_cascades

    print_cascades(pipeline.cascade(folder, device, budget, out, report))


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
    folder, report = open_run(run)
    from experiments import pipeline
    from experiments.commands.tables import print_card

    card = pipeline.finetune(folder, arch, device, out, report, epochs=epochs, peak_lr=lr, any_batch=any_batch)
    print_card(card, out)


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
    begun, report = open_run(base)
    copies = [open_run(run)[0] for run in tuned]
    from experiments.commands.tables import print_merged
    from experiments.merging import merge_runs

    print_merged(merge_runs(begun, copies, out, report, **shares), out, begun.recipe.kinds)


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


def _any_batch(batch: str | None) -> bool:
    if batch not in (None, "any"):
        raise ValueError(f"--batch {batch} is not possible: 'any', or leave it out for the batch size of the device")
    return batch == "any"
