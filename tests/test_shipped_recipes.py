"""The recipes that come with the project: each loads, fits its supernet, and says what was published."""

from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch

import experiments
from experiments.settings.recipe import Recipe, load_recipe
from experiments.settings.training import NoTrainingSettings, TrainedSettings
from experiments.training.phases import alone_phases, training_phases
from supernet.registry import AnySupernet, open_supernet
from supernet.training import (
    AttentionRelation,
    Attentive,
    Distillation,
    Largest,
    MacBins,
    Nested,
    Pathways,
    Phase,
    Sandwich,
    Shift,
    Uniform,
)
from supernet.training.checkpoint import as_plain
from supernet.training.phases import check_phases

RECIPES = {path.stem: path for path in (Path(experiments.__file__).parent / "recipes").glob("*.toml")}


@cache
def built(name: str) -> tuple[Recipe, AnySupernet, tuple[Phase, ...]]:
    """A recipe, its supernet without weights, and the phases of its training."""
    recipe = load_recipe(RECIPES[name])
    settings = {**recipe.supernet.settings, "pretrained": False}  # nothing is downloaded here
    if recipe.supernet.name != "elastic":
        del settings["pretrained"]
    digits = recipe.data.source == "digits"
    with torch.device("meta"):
        net = open_supernet(recipe.supernet.name, 10 if digits else 1000, 1 if digits else 3, **settings)
    return recipe, net, training_phases(recipe, net)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_fits_its_supernet(name: str) -> None:
    recipe, net, phases = built(name)
    if isinstance(recipe.training, NoTrainingSettings):
        assert recipe.supernet.weights and not phases
        return
    check_phases(phases, net.space)
    assert phases[-1].space == net.space  # in the end everything is trained
    as_plain(phases)  # goes into checkpoints
    alone = alone_phases(recipe, net, net.space)
    assert len(alone) == 1 and alone[0].schedule.epochs == sum(phase.schedule.epochs for phase in phases)
    n_images = recipe.data.batch_size
    assert not phases[-1].split_batch or n_images % len(phases[-1].sampler(net.space, 0, 0)) == 0  # type: ignore[operator]


def test_every_method_has_a_small_recipe_and_the_main_ones_a_full_size_one() -> None:
    def methods(digits: bool) -> set[str]:
        recipes = [built(name)[0] for name in RECIPES]
        return {r.training.method for r in recipes if (r.data.source == "digits") == digits}

    methods_of = TrainedSettings.__subclasses__()
    possible = {get_args(settings.model_fields["method"].annotation)[0] for settings in methods_of}
    assert methods(digits=True) == possible
    assert methods(digits=False) == {
        "none",
        "progressive_shrinking",
        "gradual_shrinking",
        "single_stage",
        "fine_tuning",
    }


def test_progressive_shrinking_is_as_published_on_32_gpus() -> None:
    recipe, _, phases = built("imagenet_progressive_shrinking")
    rows = [(p.name, *astuple(p.schedule), p.sampler, p.sort) for p in phases]
    assert recipe.data.batch_size == 32 * 64
    assert rows == [
        ("largest", 180, 2.6, 5, 2.6 / 32, 0, Uniform(1), "none"),
        ("kernel", 125, 0.96, 5, 0.96 / 32, 0, Uniform(1), "none"),
        ("depth 1", 25, 0.08, 0, 0, 0, Uniform(2), "none"),
        ("depth 2", 125, 0.24, 5, 0.24 / 32, 0, Uniform(2), "none"),
        ("expand 1", 25, 0.08, 0, 0, 0, Uniform(4), "all"),
        ("expand 2", 125, 0.24, 5, 0.24 / 32, 0, Uniform(4), "within trained widths"),
    ]
    assert all(phase.loss.teacher == ("none" if phase.name == "largest" else "frozen") for phase in phases)


def test_the_residual_network_shrinks_in_depth_then_inside_then_outside() -> None:
    _, net, phases = built("imagenet_resnet50d_progressive_shrinking")
    assert [phase.name for phase in phases] == [
        "largest", "depth 1", "depth 2", "expand 1", "expand 2", "width 1", "width 2",
    ]  # fmt: skip
    assert [phase.sort for phase in phases] == ["none"] * 3 + ["all"] + ["within trained widths"] * 3
    opened = [{gene.label for gene in phase.space.genes if len(gene.choices) > 1} for phase in phases]
    assert opened[0] == {"resolution"} and "stem_residual" in opened[1]
    assert {"stage1.width", "stem_mid_width", "stem_out_width"} <= opened[5] - opened[4]
    assert phases[-1].space == net.space


def test_the_single_stage_is_that_of_attentivenas() -> None:
    recipe, _, (phase,) = built("imagenet_single_stage")
    assert (phase.schedule.peak_lr, phase.schedule.epochs, phase.clip) == (0.1 * recipe.data.batch_size / 256, 360, 1.0)
    assert phase.sampler == Sandwich(2) and phase.regularise == "largest"
    optimisation = recipe.optimisation
    assert (optimisation.drop_rate, optimisation.drop_path_rate, optimisation.weight_decay) == (0.2, 0.2, 1e-5)


def test_the_transformer_has_the_published_choices() -> None:
    recipe, net, (phase,) = built("imagenet_vit_fine_tuning")
    assert sum((4 * 3) ** depth for depth in (10, 11, 12)) == net.space.size
    assert phase.sampler == Sandwich(1, smallest=False) and phase.loss.teacher == "in place"
    assert recipe.engine.optimizer == "adamw" and recipe.supernet.timm is not None and recipe.supernet.timm.pretrained


@pytest.mark.parametrize(
    ("name", "n_random"), [("digits", 4), ("cifar10_gradual_shrinking", 1), ("imagenet_gradual_shrinking", 2)]
)
def test_gradual_shrinking_opens_all_in_the_first_sixth_of_one_schedule(name: str, n_random: int) -> None:
    _, net, (largest, shrinking) = built(name)
    assert largest.space == net.space and isinstance(largest.sampler, Largest)
    assert shrinking.sampler == Sandwich(n_random)
    assert shrinking.loss.teacher == "in place"
    assert shrinking.schedule.warmup_epochs == pytest.approx(shrinking.schedule.epochs / 6)
    assert shrinking.opening[-1][0] == pytest.approx(1 / 6) and len(shrinking.opening) == 4
    assert shrinking.space_at(0.17) == net.space


def test_samplers_of_small_recipes() -> None:
    found = {name: built(name)[2][-1].sampler for name in RECIPES if name.startswith("digits_")}
    assert isinstance(found["digits_attentive"], Attentive) and isinstance(found["digits_shift"], Shift)
    assert isinstance(found["digits_shift"].places.draw, MacBins)
    sorted_sampler = found["digits_sorted"]
    assert isinstance(sorted_sampler, Uniform) and isinstance(sorted_sampler.draw, Nested)


def test_the_options_of_transformers() -> None:
    assert (
        built("digits_pathways")[2][-1].pathways == Pathways(4) and built("digits_pathways")[2][0].pathways is not None
    )
    first, last = built("digits_relations")[2]
    assert first.loss.teacher == "none" and isinstance(last.loss, Distillation)
    assert last.loss.teacher == "frozen" and last.loss.relation == AttentionRelation(2, 0.1)
    mixture = built("digits_experts")[1].mixture
    assert mixture is not None and (mixture.n, len(mixture.layers)) == (2, 12)


def test_the_options_that_a_comment_shows_are_possible(tmp_path: Path) -> None:
    text = RECIPES["imagenet_single_stage"].read_text(encoding="utf-8")
    shown = ("# sampling =", "# imitation =")
    options = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(shown)]
    assert len(options) == 5
    _, net, phases = built("imagenet_single_stage")
    for option in options:
        path = tmp_path / "changed.toml"
        path.write_text(text.replace("clip = 1.0\n", f"clip = 1.0\n{option}\n"), encoding="utf-8")
        assert training_phases(load_recipe(path), net) != phases
