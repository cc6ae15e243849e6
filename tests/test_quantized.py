"""A run on a device that computes in int8: what is exported, and what it loses."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest

from experiments.goals import goals
from experiments.known import Known
from experiments.measuring.quantized import compare_precisions, file_score, quantized_file
from experiments.progress import Reporter
from experiments.quantities import KINDS, quality
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from hardware.onnx.quantization import is_quantized
from supernet.scoring.images import resize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(finished_run, one_device, tmp_path_factory):
    """A finished run with another second device."""
    folder = tmp_path_factory.mktemp("int8") / "run"
    shutil.copytree(finished_run, folder)
    recipe = folder / "recipe.toml"
    recipe.write_text(one_device(recipe.read_text()) + '\n[[devices]]\nname = "int8"\nprecision = "int8"\n')
    return folder


def test_an_exported_int8_file_comes_with_its_own_accuracy(run, command, tmp_path):
    arch = json.loads((run / "front.json").read_text())["goals"]["one"]["front"]["candidates"][-1]["id"]
    done = command("export", run, "--arch", arch, "--device", "int8", "--out", tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle" / "card.json").read_text())
    assert card["device"]["precision"] == "int8"
    assert is_quantized(tmp_path / "bundle" / "model.onnx")
    assert card["costs"]["file_bytes"] == (tmp_path / "bundle" / "model.onnx").stat().st_size
    assert card["costs"]["peak_memory_bytes"] > 1e5
    text = (tmp_path / "bundle" / "README.md").read_text()
    assert "accuracy of the int8 file on test" in text and "peak memory" in text
    assert "in int8" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == card["input"]["shape"]
    resolution = card["input"]["shape"][-1]
    for split, expected in card["accuracy_int8"].items():
        right = total = 0
        for images, labels in RunFolder(run).data.evaluation_batches(split, 50):
            for image, label in zip(resize(images, resolution).numpy(), labels.tolist(), strict=True):
                logits = np.asarray(session.run(None, {"images": image[None]})[0])
                right, total = right + int(logits.argmax() == label), total + 1
        assert expected == pytest.approx(right / total) and total == card["images"][split]


def test_profile_says_what_the_ends_of_the_space_lose(run, capsys):
    folder = RunFolder(run)
    for _ in range(2):  # the second time from the store
        compare_precisions(folder, Reporter())
        text = capsys.readouterr().out
        assert "int8: the smallest sub-network has" in text and "int8: the largest sub-network has" in text
        assert text.count("in fp32") == 2


def test_an_int8_device_is_searched_by_the_accuracy_of_its_files(run):
    folder = RunFolder(run)
    (goal,) = (goal for goal in goals(folder) if goal.name == "int8")
    assert [one.name for one in goal.objectives] == ["accuracy@int8", "latency@int8"]
    scorer, plan = Scorer(folder), folder.plan("initial")
    assert plan is not None
    found = Known(folder, scorer, Reporter()).column(quality(KINDS, "int8"), plan.archs[:2]).values
    for arch, value in zip(plan.archs[:2], found, strict=True):
        model = quantized_file(folder, scorer, arch, 1)
        assert value == file_score(folder, model, arch.resolution, "validation")


def test_what_is_compared_on_an_int8_device_is_the_accuracy_of_its_files(run, command):
    command("search", run)
    command("compare", run)
    folder = RunFolder(run)
    (goal,) = (one for one in json.loads(folder.comparison.read_text())["goals"] if one["name"] == "int8")
    series = {one["name"]: one["points"] for one in goal["series"]}
    archs = {arch.id: arch for plan in folder.all_plans() for arch in plan.archs}
    point = series["searched front"][-1]
    model = quantized_file(folder, Scorer(folder), archs[point["id"]], 1)
    for split in ("validation", "test"):
        expected = file_score(folder, model, archs[point["id"]].resolution, split)
        assert point[split] == expected
    assert point["values"]["accuracy@int8"] == point["validation"]
    (timm,) = series["timm: lcnet_035"]
    assert 0 < timm["test"] <= 1 and timm["values"]["accuracy@int8"] == timm["validation"]
    assert timm["values"]["latency@int8"] > 0
