"""A bundle is complete: whoever gets it can use it with an image file and without the recipe or this project."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from experiments import bundle
from experiments.data import create_data
from experiments.data.timm_data import TimmData
from experiments.settings.sections import DataSettings
from hardware.onnx.export import export_onnx, export_onnx_of_any_size
from hardware.onnx.finishing import BATCH, ParityError, free_batch, with_metadata
from supernet.scoring.images import resize

RUN = Path(__file__).parents[1] / "experiments" / "run_bundle.py"


def answered(*arguments: object, cwd: Path) -> str:
    """What run.py prints where nothing of ours can be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "mobilenetv3_small_050"])
def test_any_number_of_images_gives_what_each_gives_alone(name):
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 8} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    shape = (BATCH, 3, 32, 32)
    free = free_batch(export_onnx(model, shape), shape)
    session = onnxruntime.InferenceSession(free, providers=["CPUExecutionProvider"])
    for n in (1, 4, BATCH):
        images = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            expected = model(images).numpy()
        found = np.asarray(session.run(None, {"images": images.numpy()})[0])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


class Mixed(nn.Module):
    """Its images are not independent of each other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=0, keepdim=True)).flatten(1)


def test_a_network_that_mixes_its_images_is_refused():
    with pytest.raises(ParityError):
        free_batch(export_onnx(Mixed(), (BATCH, 1, 4, 4)), (BATCH, 1, 4, 4))


@pytest.mark.parametrize(("in_channels", "side"), [(1, 24), (3, 24), (3, 16), (1, 20)])
def test_the_script_makes_of_an_image_file_what_scoring_makes_of_it(tmp_path, in_channels, side):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("ant", "bee"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(8):
            kind = ("RGB", "L", "P", "RGBA")[i % 4]
            pixels = rng.integers(0, 256, (30 + 3 * i, 41, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(kind).save(tmp_path / "d" / name / f"{i}.png", exif=exif)
        Image.fromarray(rng.integers(0, 65536, (31, 40)).astype(np.uint16)).save(tmp_path / "d" / name / "16.png")
    settings = {"source": "folder", "root": str(tmp_path / "d"), "batch_size": 2, "workers": 0}
    data = create_data(
        DataSettings.model_validate({**settings, "in_channels": in_channels, "test_fraction": 0.5}),
        seed=0,
        resolution=24,
    )
    how = data.preprocessing
    assert how is not None and isinstance(data, TimmData)
    preprocessing = {
        "resize": int(24 / how.crop), "crop": 24, "side": side, "interpolation": how.interpolation,
        "upright": how.upright, "mean": list(how.mean), "std": list(how.std),
    }  # fmt: skip
    told = {"preprocessing": preprocessing, "classes": [], "task": "own"}
    file = with_metadata(
        export_onnx(nn.Flatten(), (1, in_channels, side, side)),
        {name: json.dumps(value) for name, value in told.items()},
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.onnx").write_bytes(file)
    shutil.copy(RUN, tmp_path / "b" / "run.py")
    split = data.splits["test"]
    order = np.random.default_rng((0, 4)).permutation(len(split))
    paths = [split.name(place) for place in order.tolist()]
    lines = answered(tmp_path / "b" / "run.py", *paths, cwd=tmp_path).splitlines()
    batches = [resize(images, side) for images, _ in data.evaluation_batches("test", 4)]
    expected = torch.cat(batches).flatten(1).numpy()
    for line, path, pixels in zip(lines, paths, expected, strict=True):
        np.testing.assert_allclose(json.loads(line.removeprefix(path)), pixels, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_a_bundle_says_how_it_is_used_and_answers_for_an_image(command, copied_run, tmp_path, monkeypatch, beside):
    if beside:  # as if a file could hold no more
        monkeypatch.setattr(bundle, "export_onnx_of_any_size", partial(export_onnx_of_any_size, at_most=1000))
    plan = json.loads((copied_run / "plans" / "initial.json").read_text())
    arch, out = plan["architectures"][0]["id"], tmp_path / "bundle"
    command("export", copied_run, "--arch", arch, "--device", "eight", "--batch", "any", "--out", out)
    card = json.loads((out / "card.json").read_text())
    assert card["input"]["mean"] == [0.375] and card["input"]["shape"][0] == "any"
    assert card["classes"] == [str(n) for n in range(10)] and card["task"] == "classification"
    told = {one.key: json.loads(one.value) for one in onnx.load(out / "model.onnx").metadata_props}
    assert told["preprocessing"]["crop"] == card["input"]["crop"] and told["classes"] == card["classes"]
    text = (out / "README.md").read_text()
    assert "0, 1, 2, 3" in text and "0.375" in text and "run.py" in text
    Image.fromarray(np.full((50, 40), 90, np.uint8)).save(tmp_path / "i.png")
    assert (out / "model.onnx.data").exists() == beside == ("model.onnx.data" in text)
    assert "%" in answered(out / "run.py", tmp_path / "i.png", cwd=tmp_path)
    mask = os.umask(0)
    os.umask(mask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o666 & ~mask}


def test_only_one_size_of_batches_can_be_asked_for_by_name(command, tmp_path):
    message = command("export", tmp_path, "--arch", "1", "--batch", "3", "--out", tmp_path / "no", check=2).stderr
    assert "--batch 3 is not possible" in message
