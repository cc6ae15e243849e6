"""A run that begins with weights: a published checkpoint, a supernet.safetensors, the folder of another run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.run_folder import RunFolder
from experiments.settings.recipe import RecipeError, load_recipe
from experiments.training.phases import alone_phases
from supernet import create_supernet
from supernet.ofa.checkpoints import _published_names
from supernet.weights import load_weights

pytestmark = pytest.mark.slow

NONE = '[training]\nmethod = "none"\n'


def recipe_with(text: str, weights: object, training: str | None = NONE, models: str = "[]") -> str:
    """The small recipe with first weights, another training, and no models to compare with."""
    start, stop = text.index("[training]"), text.index("[[devices]]")
    text = text[:start] + (training or text[start:stop]) + text[stop:]
    text = text.replace('timm_models = ["lcnet_035"]', f"timm_models = {models}")
    return text.replace("[supernet.space]", f'[supernet]\nweights = "{weights}"\n[supernet.space]')


@pytest.fixture
def write(recipe_path, one_device, tmp_path):
    """Writes a recipe with first weights; returns its path."""

    def written(weights: object, name: str = "begun", **others: Any) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(recipe_with(one_device(recipe_path.read_text()), weights, **others))
        return path

    return written


def made(recipe: Path) -> Any:
    settings = load_recipe(recipe).supernet
    return create_supernet(settings.name, 10, 1, **settings.settings)


def published(finished_run: Path, path: Path) -> Path:
    """The weights of a run as the published code would have saved them."""
    net = made(finished_run / "recipe.toml")
    names = _published_names(net, elastic=True)
    tensors = load_file(finished_run / "supernet.safetensors")
    torch.save({"state_dict": {names[name]: tensor for name, tensor in tensors.items()}}, path)
    return path


def test_from_a_published_checkpoint_to_a_bundle_without_training(command, finished_run, write, tmp_path):
    """The commonest job: somebody has a supernet and a device."""
    checkpoint = published(finished_run, tmp_path / "ofa_published")
    recipe, run = write(checkpoint), tmp_path / "run"
    printed = command("run", recipe, "--out", run).stdout
    provenance = json.loads((run / "run.json").read_text())
    assert provenance["weights"]["file"] == "ofa_published" and provenance["weights"]["sha256"] in printed
    assert "nothing to train" in printed and "epoch 1" not in printed and not (run / "checkpoints").exists()
    trained, begun = (load_file(folder / "supernet.safetensors") for folder in (finished_run, run))
    assert trained.keys() == begun.keys() and all(torch.equal(trained[name], begun[name]) for name in trained)
    assert json.loads((run / "comparison.json").read_text())["training"] == []
    checkpoint.unlink()  # the run has its own copy
    (found,) = json.loads(command("query", run, "--device", "one", "--json").stdout)["found"]
    command("export", run, "--arch", found["id"], "--device", "one", "--out", tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle" / "card.json").read_text())
    assert card["provenance"]["weights"] == provenance["weights"]
    assert "finished already" in command("run", recipe, "--out", run).stdout


@pytest.mark.parametrize("source", ["folder", "safetensors", "checkpoint of torch"])
def test_scores_are_those_of_the_weights(command, finished_run, write, tmp_path, source):
    weights = finished_run
    if source == "safetensors":
        weights = shutil.copy(finished_run / "supernet.safetensors", tmp_path / "mine.bin")  # whatever it is called
    elif source == "checkpoint of torch":
        weights = tmp_path / "mine.pth"
        tensors = load_file(finished_run / "supernet.safetensors")
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, weights)
    run = tmp_path / "run"
    command("train", write(weights), "--out", run)
    before, after = RunFolder(finished_run), RunFolder(run)
    assert before.weights_digest == after.weights_digest
    if source != "folder":
        return  # scores are kept by that digest
    command("score", run)
    archs = after.plan("initial").archs  # type: ignore[union-attr]
    from experiments.scoring.scorer import Scorer

    digest = Scorer(after).digest
    assert digest == Scorer(before).digest
    with before.store() as one, after.store() as other:
        for arch in archs:
            assert (
                one.score(arch.id, digest, "validation").metrics == other.score(arch.id, digest, "validation").metrics
            )


def test_training_begins_with_the_weights_of_another_run(command, finished_run, recipe_path, write, tmp_path):
    run = tmp_path / "more"
    one = '[training]\nmethod = "single_stage"\nschedule = { epochs = 1, peak_lr = 1e-9 }\nweight_decay = 0.0\n'
    recipe = write(finished_run, training=one)
    printed = command("train", recipe, "--out", run).stdout
    assert "beginning with supernet.safetensors, SHA-256" in printed
    before, after = (load_file(folder / "supernet.safetensors") for folder in (finished_run, run))
    weight = "blocks.1.0.conv_pw.weight"
    torch.testing.assert_close(after[weight], before[weight], rtol=0, atol=1e-5)  # it hardly moved
    fresh = made(recipe).state_dict()
    assert not torch.allclose(after[weight], fresh[weight], atol=1e-2)
    assert "done already" in command("train", recipe, "--out", run).stdout
    other = tmp_path / "other.safetensors"
    save_file({name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in after.items()}, other)
    done = command("train", write(other, training=one), "--out", run, check=2)
    assert "began with other weights than" in done.stderr and done.stderr.count("\n") == 1


def test_wrong_weights_are_one_line_and_nothing_is_paid(command, finished_run, write, tmp_path):
    tensors = load_file(finished_run / "supernet.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("weights?")
    (tmp_path / "half.safetensors").write_bytes((finished_run / "supernet.safetensors").read_bytes()[:5000])
    save_file({n: t for n, t in tensors.items() if n != "classifier.bias"}, tmp_path / "part.safetensors")
    classes = {n: torch.cat([t, t]) if n.startswith("classifier") else t for n, t in tensors.items()}
    save_file(classes, tmp_path / "classes.safetensors")
    torch.save({"blocks.0.conv.conv.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickle.pth")  # would run code
    for name, message in {
        "nowhere.pth": "supernet.weights: there is no file",
        "empty": "has no supernet.safetensors; give a file, or a run that is trained",
        "text.pth": "is not a checkpoint of tensors",
        "half.safetensors": "is damaged",
        "part.safetensors": "does not fit this network; missing: classifier.bias",
        "classes.safetensors": "of another shape: classifier.bias (20,) float32 instead of (10,) float32",
        "foreign.pth": "does not fit this network; unknown: blocks.0.conv.conv.weight",
        "pickle.pth": "is not a checkpoint of tensors",
    }.items():
        for verb in ("train", "run")[: 2 if name in ("nowhere.pth", "part.safetensors") else 1]:
            run = tmp_path / "run"
            done = command(verb, write(tmp_path / name), "--out", run, check=2)
            assert message in done.stderr and done.stderr.count("\n") == 1, (name, done.stderr)
            assert not list(run.glob("*.s*")) and not (run / "plans").exists()
    # Once the file is right, the same folder serves: nothing had been done in it.
    command("train", write(finished_run), "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"]["file"] == "supernet.safetensors"


@pytest.mark.parametrize(
    ("weights", "others", "message"),
    [
        (None, {}, "training.method 'none' needs a trained network: set supernet.weights"),
        ("w", {"models": '["lcnet_035"]'}, "baselines.timm_models are trained as long as the supernet, which"),
        ("w", {"training": NONE + "epochs = 3\n"}, "training.epochs: unknown key"),
    ],
)
def test_what_makes_no_sense_without_training_is_refused_when_loading(write, weights, others, message):
    recipe = write(weights, **others)
    if weights is None:
        recipe.write_text(recipe.read_text().replace('weights = "None"\n', ""))
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")) as caught:
        load_recipe(recipe)
    assert "\n" not in str(caught.value)


def test_baselines_beside_a_supernet_that_is_not_trained_have_epochs_of_their_own(write):
    recipe = write("w", models='["lcnet_035"]\nepochs = 3\npeak_lr = 0.2')
    net = made(recipe)
    (phase,) = alone_phases(load_recipe(recipe), net, net.space, 3)
    assert (phase.schedule.epochs, phase.schedule.peak_lr) == (3, 0.2)
    (phase,) = alone_phases(load_recipe(write("w", models='["lcnet_035"]\nepochs = 3')), net, net.space, 3)
    assert phase.schedule.peak_lr == pytest.approx(0.1 * 64 / 256)


def test_where_weights_lie_is_no_part_of_the_recipe_and_what_they_are_is_of_the_run(write, finished_run, tmp_path):
    for name, shift in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        tensors = load_file(finished_run / "supernet.safetensors")
        tensors["classifier.bias"] += shift
        save_file(tensors, tmp_path / f"{name}.safetensors")
    a, b, c = (write(tmp_path / f"{name}.safetensors", name) for name in "abc")
    assert load_recipe(a).digest == load_recipe(b).digest == load_recipe(c).digest
    run = RunFolder.start(a, tmp_path / "run")
    first = run.provenance["weights"]
    assert RunFolder.start(b, run.path).recipe.supernet.weights == str(tmp_path / "b.safetensors")
    assert RunFolder.start(c, run.path).provenance["weights"] != first  # nothing was done yet
    shutil.copy(tmp_path / "c.safetensors", run.weights)
    with pytest.raises(ValueError, match="began with other weights than"):
        RunFolder.start(a, run.path)
    (tmp_path / "c.safetensors").unlink()
    assert RunFolder.start(c, run.path).weights.exists()  # it is not needed any more


def test_a_pretrained_model_and_weights_exclude_each_other(write, recipe_path, tmp_path):
    text = recipe_with(recipe_path.read_text(), "w")
    start, stop = text.index("[supernet.space]"), text.index("[training]")
    model = 'name = "elastic"\n[supernet.timm]\nmodel = "test_vit"\npretrained = true\n'
    path = tmp_path / "both.toml"
    path.write_text(text[:start] + model + text[stop:])
    with pytest.raises(RecipeError, match=r"weights and timm\.pretrained both say what to begin with"):
        load_recipe(path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_checkpoint_is_known_by_its_names(small_supernet, tmp_path, prefix):
    names = _published_names(small_supernet, elastic=True)
    state = {prefix + names[name]: tensor.clone() for name, tensor in small_supernet.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "published")
    expected = {name: tensor.clone() for name, tensor in small_supernet.state_dict().items()}
    with torch.no_grad():
        for parameter in small_supernet.parameters():
            parameter.zero_()
    load_weights(small_supernet, tmp_path / "published")
    for name, tensor in small_supernet.state_dict().items():
        assert torch.equal(tensor, expected[name])
