"""A bundle in the layout of the hub: timm loads it as it loads its own, and computes the same."""

import json

import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config

import supernet.hub  # noqa: F401  (timm knows it then)
from experiments.hub import write_hub_folder
from supernet import create_supernet, load_subnet
from supernet.subnet import save_subnet

CARD = {
    "input": {"shape": ["any", 3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear",
              "crop": 32, "resize": 36},
    "classes": ["ant", "bee", "cat", "dog", "eel"], "task": "classification", "device": {"runtime": "onnxruntime"},
}  # fmt: skip


def bundle(folder, name, **settings):
    folder.mkdir()
    made = create_supernet(name, num_classes=5, **settings)
    torch.manual_seed(1)
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    arch = made.space.smallest
    save_subnet(made.extract(arch), arch, made.definition, folder)
    (folder / "card.json").write_text(json.dumps(CARD))
    (folder / "README.md").write_text("# Sub-network\n")
    return folder


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ofa_mobilenetv3_w1.0", {}),
        ("elastic", {"model": "test_resnet"}),
        ("elastic", {"model": "test_vit"}),
    ],
)
def test_timm_loads_what_was_written(tmp_path, name, settings):
    made = bundle(tmp_path / "bundle", name, **settings)
    (made / "model.onnx.data").write_bytes(b"weights")  # which a file of 2 GB has beside it
    write_hub_folder(made, tmp_path / "hub")
    assert (tmp_path / "hub" / "model.onnx.data").exists()
    model = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    expected = load_subnet(made)
    assert type(model) is type(expected)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(images))
    config = resolve_model_data_config(model)
    assert (list(config["mean"]), list(config["std"])) == ([0.5] * 3, [0.2] * 3)
    assert config["crop_pct"] == pytest.approx(32 / 36) and config["interpolation"] == "bilinear"
    other = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, num_classes=3).eval()
    assert other(images).shape == (2, 3)


def test_what_is_no_bundle_is_one_line(command, tmp_path):
    for arguments, message in (
        ((tmp_path, "--folder", tmp_path / "out"), "is not a bundle: arch.json is missing"),
        ((tmp_path,), "give either USER/NAME"),
    ):
        done = command("push", *arguments, check=2)
        assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
