"""A recipe that prunes ends with one small network: files that run, and a card that says how good and how fast."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from supernet.subnet import load_subnet

pytestmark = pytest.mark.slow

RECIPE = """
seed = 0

[data]
source = "digits"
batch_size = 64
train_images = 320
validation_images = 200
test_images = 200

[supernet]
name = "elastic"

[supernet.timm]
model = "test_resnet"
resolutions = [32]

[training]
method = "pruning"
target = "latency@cpu-b4 <= 75%"
by = "tas"
begin = 0.1
end = 0.8
periods = 4
schedule = { epochs = 2, peak_lr = 0.1 }

[[devices]]
name = "cpu-b1"
threads = 1

[[devices]]
name = "cpu-b4"
batch_size = 4
threads = 1

[measure]
n_architectures = 10
max_turns = 20

[score]
calibration_images = 128
batch_size = 64
"""


def test_a_run_that_prunes_ends_with_one_network(tmp_path, command):
    recipe, folder = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    said = command("run", recipe, "--out", folder).stdout
    pruned = folder / "pruned"
    assert "units are gone" in said and f"written to {pruned}" in said
    assert "cpu-b4: 10 sub-networks of" in said and "for latency@cpu-b4 <= 75%:" in said
    prices = json.loads((folder / "prices.json").read_text())
    assert prices["n"] == 10 and prices["device"]["batch_size"] == 4 and prices["error"] < 0.2
    card = json.loads((pruned / "card.json").read_text())
    of_target = card["devices"]["cpu-b4"]
    assert card["target_kept"] == (of_target["seconds"] <= 0.75 * of_target["whole_seconds"])
    assert of_target["seconds"] < 0.95 * of_target["whole_seconds"]
    assert 0.2 < card["macs_share"] < 0.9 and set(card["accuracy"]) == {"validation", "test"}
    network = load_subnet(pruned)
    for name, n in (("cpu-b1", 1), ("cpu-b4", 4)):
        measured = card["devices"][name]
        assert (
            measured["interval"][0] <= measured["seconds"] <= measured["interval"][1] and measured["whole_seconds"] > 0
        )
        images = np.random.default_rng(0).normal(size=(n, 1, 32, 32)).astype(np.float32)
        session = onnxruntime.InferenceSession(pruned / measured["file"], providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images})
        with torch.no_grad():
            np.testing.assert_allclose(np.asarray(found), network(torch.from_numpy(images)), rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in pruned.iterdir() if path.suffix == ".onnx") == ["cpu-b1.onnx", "cpu-b4.onnx"]
    assert "finished already" in command("run", recipe, "--out", folder).stdout
    refused = command("profile", folder, check=2)
    assert "prunes, so there is nothing to search" in refused.stderr and "Traceback" not in refused.stderr


def test_what_cannot_be_pruned_is_refused_before_the_training(tmp_path, command):
    recipe = tmp_path / "small.toml"
    for i, (old, new, why) in enumerate(
        (
            ('model = "test_resnet"', 'model = "test_efficientnet"', "family = 'traced'"),
            ('target = "latency@cpu-b4 <= 75%"', "target = 0.01", "cannot be reached"),
            ('target = "latency@cpu-b4 <= 75%"', "target = 1.5", "not between 0 and 1"),
            ("periods = 4", "begin = 0.9", "begin must be below end"),
            ('target = "latency@cpu-b4 <= 75%"', 'target = "latency@phone <= 1ms"', "there are cpu-b1, cpu-b4"),
            ('target = "latency@cpu-b4 <= 75%"', 'target = "fast"', "is no target; write such as 'macs <= 60%'"),
            ('target = "latency@cpu-b4 <= 75%"', 'target = "units <= 30"', "units are counted as a share"),
        )
    ):
        text = RECIPE.replace("begin = 0.1\n", "") if "begin = 0.9" in new else RECIPE
        recipe.write_text(text.replace(old, new))
        refused = command("run", recipe, "--out", tmp_path / f"run{i}", check=2)
        assert why in refused.stderr and "Traceback" not in refused.stderr, refused.stderr
