"""Training as a recipe asks for it: the supernet, and baselines in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from experiments.data.timm_data import TimmData
from experiments.progress import Reporter
from experiments.quantities import quality
from experiments.run_folder import RunFolder, weights_file
from experiments.settings.training import NoTrainingSettings
from experiments.training.beginning import check_beginning, timm_model
from experiments.training.logs import training_log
from experiments.training.phases import alone_phases, training_phases
from experiments.training.pricing import priced
from experiments.training.validation import Validation, validated_archs
from experiments.training.watching import Shown
from supernet.files import replacing
from supernet.networks.dropout import set_dropout
from supernet.networks.measured import MeasuredSupernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.protocol import Supernet
from supernet.registry import AnySupernet
from supernet.training import (
    Engine,
    Phase,
    Rollback,
    Static,
    Trainer,
    World,
)
from supernet.weights import load_weights

__all__ = [
    "baseline_weights",
    "course_of_training",
    "load_first_weights",
    "train_baseline",
    "train_module",
    "train_supernet",
]


def train_supernet(run: RunFolder, report: Reporter, world: World) -> None:
    """Train to the end from wherever the last attempt stopped, and write the weights; on all processes of `world`.

    With method "none" the weights are those that the recipe names.
    """
    supernet, score = run.new_supernet(), run.recipe.score
    world.share(lambda: check_beginning(run, world.size))
    world.share(lambda: load_first_weights(run, supernet, report))  # the others get them when training begins
    world.share(lambda: _initialise(run, supernet, report))
    if isinstance(run.recipe.training, NoTrainingSettings):
        report.say("  nothing to train")
        if world.is_first:
            _write_weights(supernet, run.weights)
        world.barrier()
        return
    phases = priced(run, training_phases(run.recipe, supernet), report, world)
    validate = Validation(
        validated_archs(supernet), run.data, score.calibration_images, score.batch_size, world, run.task
    )
    train_module(
        run, supernet, phases, run.checkpoints, run.weights, "training the supernet", report,
        world=world, validate=validate,
    )  # fmt: skip


def load_first_weights(run: RunFolder, supernet: AnySupernet, report: Reporter | None = None) -> None:
    """Load what `supernet.weights` names into a new supernet, if the run has not begun yet.

    Raises:
        ValueError: no such file, or it does not fit.
    """
    given, weights = run.recipe.supernet.weights, run.provenance.get("weights")
    if given is None or run.has_begun:
        return
    load_weights(supernet, weights_file(given))
    if report is not None and weights is not None:
        report.say(f"  beginning with {weights['file']}, SHA-256 {weights['sha256']}")


def _initialise(run: RunFolder, supernet: AnySupernet, report: Reporter) -> None:
    """Have a new supernet that can begin in closed form, such as with fitted stitches, do so from training images."""
    initialise, score = getattr(supernet, "initialise", None), run.recipe.score
    if initialise is None or run.has_begun or run.recipe.supernet.weights is not None:
        return
    initialise(run.data.calibration_batches(score.calibration_images, score.batch_size))
    report.say(f"  begun in closed form, from {score.calibration_images} training images")


def baseline_weights(run: RunFolder, name: str) -> Path:
    """Where the weights of the timm model `name` lie once it is trained."""
    return run.path / "baselines" / f"{name}.safetensors"


def train_baseline(run: RunFolder, name: str, report: Reporter) -> nn.Module:
    """The timm model `name` with its weights after training, in eval mode; trained here if it was not yet."""
    model = timm_model(run, name)
    weights = baseline_weights(run, name)
    if not weights.exists():
        static = Static(model, run.data.resolution)
        phases = alone_phases(run.recipe, run.untrained_supernet, static.space, run.recipe.baselines.epochs)
        train_module(run, static, phases, run.path / "baselines" / name, weights, f"training {name}", report, model)
    model.load_state_dict(load_file(weights))
    return model.eval()


def course_of_training(folder: Path) -> list[dict[str, Any]]:
    """Phase, losses and validation of every finished epoch of the training with checkpoints in `folder`; none without
    a training."""
    if not (folder / "epochs.jsonl").exists():
        return []
    lines = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {"epoch": e["epoch"] + 1, "phase": e["phase"], "loss": e["losses"], "validation": e["validation"]}
        for e in map(json.loads, lines)
    ]


def train_module(
    run: RunFolder,
    supernet: Supernet,
    phases: tuple[Phase, ...],
    folder: Path,
    weights: Path,
    what: str,
    report: Reporter,
    module: nn.Module | None = None,
    world: World | None = None,
    validate: Callable[[Supernet], Mapping[str, float]] | None = None,
) -> None:
    """Train `supernet` with checkpoints in `folder`; then write the weights (of `module`, if it is only a part).

    On the processes of `world`, of which the first one writes; on this one alone without.
    """
    training, settings, world = run.recipe.optimisation, run.recipe.engine, world or World()
    weights_before = run.provenance.get("weights") if module is None else None
    assert isinstance(supernet, nn.Module)
    _set_dropout(module or supernet, training.drop_rate, training.drop_path_rate)
    supernet.to(world.device)
    trainer = Trainer(
        supernet,
        phases,
        run.data,
        seed=run.recipe.seed,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        engine=_engine(run, supernet),
        rollback=_rollback(run),
        world=world,
        folder=folder,
        save_seconds=settings.save_seconds,
        keep=settings.keep,
        identity={"data": run.data.digest, **({"first weights": weights_before["sha256"]} if weights_before else {})},
        validate=validate if settings.validate_every else None,
        validate_every=max(1, settings.validate_every),
    )
    n_steps = sum(phase.schedule.epochs for phase in phases) * run.data.steps_per_epoch
    trackers = (*(("tensorboard",) if settings.tensorboard else ()), *settings.log) if world.is_first else ()
    with (
        report.bar(what, n_steps) as advance,
        training_log(run.path / "tensorboard" / folder.name, trackers, _told(run, folder), report.say) as log,
    ):
        draw = partial(_draw_course, run, folder)
        try:
            trainer.run(Shown(report, advance, draw, quality(run.recipe.kinds), log))
        finally:
            if isinstance(run.data, TimmData):
                run.data.close()
    supernet.to("cpu")
    if world.is_first:
        _draw_course(run, folder)
        _write_weights(module or supernet, weights)
    world.barrier()


def _told(run: RunFolder, folder: Path) -> dict[str, Any]:
    """What other programs are told of a training."""
    recipe, name = run.recipe, run.path.resolve().name
    told = {"run": name, "title": recipe.title, "seed": recipe.seed, "method": recipe.training.method}
    return {"name": f"{name} {folder.name}", **told, "commit": str(run.provenance.get("commit"))}


def _write_weights(module: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, temporary)


def _rollback(run: RunFolder) -> Rollback:
    """As the recipe has it; how far a metric of one's own may fall nobody knows, so there only what is not finite is a
    collapse."""
    rollback = run.recipe.engine.rollback.rollback
    return rollback if run.recipe.task is None else replace(rollback, margin=None)


def _draw_course(run: RunFolder, folder: Path) -> None:
    from experiments.report import write_training_picture  # loads matplotlib

    metric = None if run.recipe.task is None else run.recipe.task.told
    write_training_picture(course_of_training(folder), folder / "training.png", metric)


def _set_dropout(network: nn.Module, drop_rate: float, drop_path_rate: float) -> None:
    if isinstance(network, TimmSupernet):
        network.set_dropout(drop_rate, drop_path_rate)
    elif isinstance(network, MeasuredSupernet):
        _set_dropout(network.network, drop_rate, drop_path_rate)
    elif drop_rate or drop_path_rate:  # a baseline may be any timm model
        set_dropout(network, drop_rate, drop_path_rate)


def _engine(run: RunFolder, supernet: Supernet) -> Engine:
    engine = run.recipe.engine.engine(run.n_outputs)
    return replace(engine, compile=engine.compile and not isinstance(supernet, Static))
