"""Recipes: read once, unchangeable, and every mistake answered in one line that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from experiments import settings
from experiments.settings import devices, engine, sections, training
from experiments.settings.recipe import Recipe, RecipeError, load_recipe

SMALL = """
title = "small"
seed = 3

[data]
train_images = 2000
batch_size = 50

[supernet.space]
stages = [{ width = 16, stride = 2, act = "relu" }, { width = 24, stride = 2, se = true, depths = [1, 2] }]
kernels = [3, 5]
expands = [2, 3, 4.5]
depths = [1, 2, 3]
resolutions = [24, 28, 32]
stem_width = 8
head_width = 64
feature_width = 96

[training]
method = "single_stage"
schedule = { epochs = 20, peak_lr = 0.1, warmup_epochs = 1 }
largest = { epochs = 5, peak_lr = 0.1 }

[[devices]]
name = "cpu-1"

[[devices]]
name = "cpu-32"
runtime = "torch"
batch_size = 32
"""

SHRINKING = """
method = "progressive_shrinking"
largest = { epochs = 9, peak_lr = 0.1 }
full = { epochs = 4, peak_lr = 0.03 }
step = { epochs = 2, peak_lr = 0.01 }
last_step = { epochs = 4, peak_lr = 0.02, warmup_epochs = 1, warmup_lr = 0.02 }
subnets = { depth = 3 }
"""


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "small.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def complaint(tmp_path: Path, old: str, new: str) -> str:
    assert old in SMALL
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, SMALL.replace(old, new, 1))
    return str(caught.value)


def test_a_recipe_is_read(tmp_path):
    recipe = load(tmp_path, SMALL)
    space = recipe.supernet.space
    assert space is not None and space.stages[1].depths == (1, 2) and space.expands == (2, 3, 4.5)
    assert all(type(expand) is int for expand in space.expands[:2])
    assert isinstance(recipe.training, training.SingleStageSettings) and recipe.training.schedule.epochs == 20
    assert [device.name for device in recipe.devices] == ["cpu-1", "cpu-32"]
    with pytest.raises(ValidationError):
        recipe.seed = 4


def test_settings_are_what_create_supernet_takes(tmp_path):
    from supernet.registry import create_supernet

    recipe = load(tmp_path, SMALL)
    supernet = create_supernet(recipe.supernet.name, num_classes=10, in_chans=1, **recipe.supernet.settings)
    assert supernet.space.resolutions == (24, 28, 32) and supernet.space.largest.depths == (3, 2)


@pytest.mark.parametrize(
    ("model", "choices"),
    [
        ("resnet26", "widths = [0.5]\nfractions = [0.5]"),
        ("test_efficientnet", "expands = [2, 3]\ndepths = [[1], [1]]"),
        ("test_vit", "heads = [1, 2]\nembed_dims = [32]"),
    ],
)
def test_a_timm_model_takes_what_its_family_takes(tmp_path, model, choices):
    from supernet.registry import create_supernet

    start, end = SMALL.index("[supernet.space]"), SMALL.index("[training]")
    text = f'{SMALL[:start]}[supernet]\nname = "elastic"\n[supernet.timm]\nmodel = "{model}"\n'
    recipe = load(tmp_path, f"{text}{choices}\n{SMALL[end:]}")
    net = create_supernet("elastic", num_classes=10, in_chans=1, **recipe.supernet.settings)
    names = {gene.name for gene in net.space.genes if len(gene.choices) > 1}
    assert names >= {"resnet26": {"width1", "expand"}, "test_vit": {"embed_dim"}}.get(model, {"expand"})
    first = choices.partition(" ")[0]
    wrong = load(tmp_path, f"{text}{first}s = [1]\n{SMALL[end:]}")
    with pytest.raises(ValueError, match=f"has no choice '{first}s'; did you mean '{first}'"):
        create_supernet("elastic", num_classes=10, in_chans=1, **wrong.supernet.settings)
    with pytest.raises(RecipeError, match=f"supernet.timm.{first}: 3 is not a list in"):
        load(tmp_path, f"{text}{first} = 3\n{SMALL[end:]}")


def test_progressive_shrinking_is_read(tmp_path):
    start, end = SMALL.index('method = "single_stage"'), SMALL.index("[[devices]]")
    recipe = load(tmp_path, SMALL[:start] + SHRINKING + SMALL[end:])
    assert isinstance(recipe.training, training.ProgressiveShrinkingSettings)
    assert recipe.training.subnets.depth == 3 and recipe.training.last_step.warmup_lr == 0.02


def test_a_published_space_needs_no_settings(tmp_path):
    start, end = SMALL.index("[supernet.space]"), SMALL.index("[training]")
    recipe = load(tmp_path, SMALL[:start] + '[supernet]\nname = "ofa_mobilenetv3_w1.0"\n' + SMALL[end:])
    assert recipe.supernet.settings == {}


def test_the_digest_follows_what_changes_results(tmp_path):
    digest = load(tmp_path, SMALL).digest
    assert load(tmp_path, SMALL.replace('"small"', '"other title"') + "\n# a comment\n").digest == digest
    assert load(tmp_path, SMALL.replace("[data]", "[data]\nworkers = 7")).digest == digest
    assert load(tmp_path, SMALL.replace("[data]", '[data]\nsource = "digits"')).digest == digest  # the default, written
    assert load(tmp_path, SMALL.replace("seed = 3", "seed = 4")).digest != digest
    training = ("seed", "data", "supernet", "training")
    searched = load(tmp_path, SMALL + "\n[search]\nevaluations = 3\n")
    assert searched.digest != digest and searched.digest_of(*training) == load(tmp_path, SMALL).digest_of(*training)


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        ("seed = 3", "sed = 3", "sed", "did you mean 'seed'?"),
        ("batch_size = 50", "batchsize = 50", "data.batchsize", "did you mean 'batch_size'?"),
        ("stem_width", "stem_with", "supernet.space.stem_with", "did you mean 'stem_width'?"),
        ("stride = 2, act", "strides = 2, act", "supernet.space.stages[1].strides", "did you mean 'stride'?"),
        ("largest = {", "bigest = {", "training.bigest", "did you mean 'largest'?"),
        ("warmup_epochs = 1", "warm_up = 1", "training.schedule.warm_up", "did you mean 'warmup_"),
        ("[data]", "[data]\nzzz = 1", "data.zzz", "there are source, root,"),
        ("[data]", "[data.augmentation]\nflop = 1\n[data]", "data.augmentation.flop", "did you mean 'flip'?"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, old, new, where, says):
    text = complaint(tmp_path, old, new)
    assert text.startswith(f"{tmp_path / 'small.toml'}: {where}: unknown key; ") and says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kernels = [3, 5]", "kernels = [3, 4]", "space.kernels[2]: 4 is not an odd number from 3 on; take 3, 5 or 7"),
        ("depths = [1, 2, 3]", "depths = [0, 2]", "supernet.space.depths[1]: 0 must be at least 1"),
        ("depths = [1, 2, 3]", "depths = [3, 2]", "space.depths: [3, 2] must ascend and not repeat; write [2, 3]"),
        ("expands = [2, 3, 4.5]", "expands = [0, 3]", "supernet.space.expands[1]: 0 is not a number above 0"),
        ("[24, 28, 32]", "[24, 30]", "space.resolutions[2]: 30 is not a multiple of 4 from 8 on; the nearest is"),
        ("[24, 28, 32]", "[]", "supernet.space.resolutions: has 0 entries; give at least 1"),
        ("batch_size = 50", "batch_size = 0", "data.batch_size: 0 must be at least 1"),
        ("batch_size = 50", "batch_size = 2001", "data: train_images 2000 are fewer than one batch of 2001"),
        ("batch_size = 50", "batch_size = 5.5", "data.batch_size: 5.5 is not a whole number"),
        ("batch_size = 50", 'batch_size = "50"', "data.batch_size: '50' is not a whole number"),
        ("batch_size = 50", "batch_size = true", "data.batch_size: True is not a whole number"),
        ("batch_size = 50", "root = 'x'", "data: root has no meaning for source 'digits'; remove it or set source"),
        ("batch_size = 50", "source = 'folder'", "data: source 'folder' needs root"),
        ("peak_lr = 0.1, warm", "peak_lr = -0.1, warm", "training.schedule: peak_lr -0.1 must be above 0"),
        ("peak_lr = 0.1, warm", "peak_lr = nan, warm", "training.schedule.peak_lr: nan"),
        ("warmup_epochs = 1", "warmup_epochs = 20", "schedule: warmup_epochs 20 must be from 0 to below epochs"),
        ("{ epochs = 20, ", "{ ", "training.schedule.epochs: is missing (Epochs, the warm-up included.)"),
        ('"single_stage"', '"two_stage"', "training.method: 'two_stage' is not possible; choose 'single_stage', 'pro"),
        ('method = "single_stage"', "", "training.method: is missing; choose 'single_stage', "),
        ('runtime = "torch"', 'runtime = "tensorrt"', "devices[2].runtime: 'tensorrt' is not possible; choose 'onnx"),
        ('runtime = "torch"', 'runtime = "torch"\nprecision = "int8"', "'int8' is not possible with torch on 'cpu'"),
        ('runtime = "torch"', 'compile = true', "devices[2]: compile has no meaning for runtime 'onnxruntime', only"),
        ('runtime = "torch"', 'provider = "npu"', "devices[2]: provider 'npu' is not one of onnxruntime's: cpu, cuda"),
        ('runtime = "torch"', 'runtime = "torch"\ncuda_graph = true', "cuda_graph and flush_l2 need provider 'cuda'"),
        ('runtime = "torch"', 'options = { a = 1 }', "options are for runtimes of other packages"),
        ('"cpu-32"', '"cpu-1"', "two devices are named 'cpu-1'; give each a name of its own"),
        ('"cpu-32"', '"../up"', "devices[2].name: '../up' may only consist of letters"),
        ("stride = 2, act", "stride = 3, act", "supernet.space.stages[1].stride: 3 is not possible; choose 1 or 2"),
        ("[supernet.space]", "[supernet]\nname='other'\n[supernet.space]", "supernet: 'other' brings its own space"),
        ("train_images = 2000", "train_images = 1000", "score.calibration_images 2000 are more than the 1000 training"),
        ("[training]", "[search]\nmodel_calls = 50\n[training]", "search: model_calls 50 must be at least the"),
    ],
)  # fmt: skip
def test_an_impossible_choice_gets_one_line(tmp_path, old, new, says):
    text = complaint(tmp_path, old, new)
    assert says in text and text.startswith(str(tmp_path)) and "\n" not in text


METHODS = {
    "single_stage": "schedule = { epochs = 9, peak_lr = 0.1 }",
    "gradual_shrinking": "schedule = { epochs = 9, peak_lr = 0.1 }",
    "fine_tuning": "schedule = { epochs = 9, peak_lr = 0.1 }\nlargest = { epochs = 2, peak_lr = 0.1 }",
    "random_sampling": "schedule = { epochs = 9, peak_lr = 0.1 }",
    "progressive_shrinking": SHRINKING.split("\n", 2)[2],
}
ALPHA = 'imitation = { kind = "alpha_divergence" }'


@pytest.mark.parametrize(
    ("method", "lines", "says"),
    [
        ("progressive_shrinking", ALPHA, "an α-divergence from a frozen teacher explodes"),
        ("fine_tuning", f'teacher = "frozen"\n{ALPHA}', "an α-divergence from a frozen teacher explodes"),
        ("random_sampling", ALPHA, "imitation is of a teacher, and with distillation_weight 0 or split_batch there is"),
        ("gradual_shrinking", f"split_batch = true\n{ALPHA}", "or split_batch there is none; remove one"),
        (
            "gradual_shrinking",
            "split_batch = true\nlabel_weight = [1.0, 0.5]",
            "label_weight is against a teacher, and with split_batch there is none; remove one",
        ),
        ("fine_tuning", ALPHA, "without clip lets single steps destroy the weights; set clip = 1.0"),
        (
            "fine_tuning",
            f"clip = 1.0\ndistillation_weight = 2.0\n{ALPHA}",
            "weight 2 beside an α-divergence",
        ),
        (
            "single_stage",
            'imitation = { kind = "alpha_divergence", clamp = 5.0 }',
            "imitation: an α-divergence of clamp 5",
        ),
        (
            "single_stage",
            'imitation = { kind = "alpha_divergence", alphas = [0.0, 1.0] }',
            "imitation: alphas [0.0, 1.0]",
        ),
        ("single_stage", "imitation = { clamp = 0.5 }", "imitation: clamp has no meaning for kind 'soft_labels'"),
        (
            "single_stage",
            "label_weight = [0, 0]",
            "soft labels alone and has 9 epochs; in fewer than 30",
        ),
        (
            "random_sampling",
            "distillation_weight = 1.0",
            "distillation_weight 1 needs a trained teacher: give `largest`",
        ),
        (
            "single_stage",
            "sampling = { attentive = {} }",
            "sampling: attentive sampling compares MAC bins; draw by these",
        ),
        (
            "single_stage",
            'sampling = { draw = "nested", shift = {} }',
            "sampling and a nested family both decide what is tra",
        ),
        (
            "single_stage",
            'sampling = { draw = "mac_bins", attentive = {}, shift = {} }',
            "attentive and shift both decide",
        ),
        (
            "single_stage",
            "sampling = { n_bins = 5 }",
            "n_bins has no meaning for draw 'genes'; remove it, or set 'mac_bins'",
        ),
        (
            "single_stage",
            'sampling = { draw = "mac_bins", levels = 5 }',
            "levels has no meaning for draw 'mac_bins'; rem",
        ),
        (
            "single_stage",
            'sampling = { draw = "nested", level_weights = [1, 2] }',
            "2 weights of levels for a fam",
        ),
        (
            "single_stage",
            'sampling = { draw = "mac_bins", shift = { even_share = 0.0 } }',
            "even_share 0.0 is not in (0, 1]",
        ),
        ("single_stage", 'sampling = { drow = "genes" }', "training.sampling.drow: unknown key; did you mean 'draw'?"),
        ("gradual_shrinking", "pathways = { groups = 0 }", "tokens cannot be in 0 groups"),
        ("gradual_shrinking", "relation = { heads = 0 }", "0 relation heads; the least is 1"),
        ("random_sampling", "relation = {}", "relations are those of a teacher, and no phase has one"),
        ("gradual_shrinking", "opening = 1.5", "opening 1.5 is a share of the steps, from 0 to below 1"),
        ("gradual_shrinking", "label_weight = [0, 0]", "starts from soft labels alone and has 9 epochs"),
        ("gradual_shrinking", 'sampling = { draw = "nested" }', "a nested family has levels of the whole space"),
        (
            "random_sampling",
            'split_batch = true\nsampling = { draw = "mac_bins", shift = {} }',
            "with split_batch the losses of a step are of different images",
        ),
    ],
)
def test_known_bad_combinations_are_refused_when_loading(tmp_path, method, lines, says):
    start, end = SMALL.index('method = "single_stage"'), SMALL.index("[[devices]]")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, f'{SMALL[:start]}method = "{method}"\n{METHODS[method]}\n{lines}\n\n{SMALL[end:]}')
    text = str(caught.value)
    assert says in text and "small.toml: training" in text and "\n" not in text


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_read(tmp_path, method):
    start, end = SMALL.index('method = "single_stage"'), SMALL.index("[[devices]]")
    recipe = load(tmp_path, f'{SMALL[:start]}method = "{method}"\n{METHODS[method]}\n\n{SMALL[end:]}')
    assert recipe.training.method == method


def test_fine_tuning_starts_from_a_trained_network(tmp_path):
    start, end = SMALL.index("[supernet.space]"), SMALL.index("[[devices]]")
    text = SMALL[:start] + '[supernet]\nname = "elastic"\n[supernet.timm]\nmodel = "test_vit"\n'
    training = '[training]\nmethod = "fine_tuning"\nschedule = { epochs = 9, peak_lr = 0.1 }\n'
    with pytest.raises(RecipeError, match=r"starts from a trained network: set supernet\.timm\.pretrained = true"):
        load(tmp_path, text + training + SMALL[end:])
    assert load(tmp_path, f"{text}pretrained = true\n{training}{SMALL[end:]}").training.method == "fine_tuning"


def test_every_problem_has_its_line(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("sed = 1\ndevices = []\n[training]\nmethod = 'single_stage'\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and all(line.startswith(f"{path}: ") for line in lines)
    assert [line.split(": ")[1] for line in lines] == ["supernet", "training.schedule", "devices", "sed"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no such recipe"), (b"seed = ", "not a TOML file"), (b"\xff\xfe", "not a TOML file")],
)
def test_a_file_that_is_no_recipe_gets_one_line(tmp_path, content, says):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=says) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_every_field_says_what_it_means():
    modules = (sections, devices, engine, training)
    classes: list[Any] = [getattr(module, name) for module in modules for name in module.__all__]
    for section in [Recipe, *classes]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            for name, field in section.model_fields.items():
                assert field.description and field.description.endswith("."), f"{section.__name__}.{name}"


def test_the_recipes_that_come_with_the_project_are_valid():
    for path in (Path(settings.__file__).parents[1] / "recipes").glob("*.toml"):
        assert load_recipe(path).digest
