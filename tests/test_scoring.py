"""Scores: the same whoever makes them and however, each made once, and given up early only within the bound."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.onnx_module import OnnxModule, fast_evaluator
from experiments.scoring.scorer import Scorer
from hardware.onnx.recorder import record
from supernet.scoring.calibration import evaluate, evaluate_all
from supernet.scoring.images import resize

pytestmark = pytest.mark.slow


@pytest.fixture
def unscored(finished_run, tmp_path):
    """A copy of the finished run without its scores."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    with sqlite3.connect(folder / "store.sqlite") as database:
        database.execute("DELETE FROM scores")
    database.close()
    return RunFolder(folder)


def rows(folder: Path) -> dict[tuple[str, str], str]:
    database = sqlite3.connect(folder / "store.sqlite")
    found = database.execute("SELECT key, split, metrics FROM scores").fetchall()
    database.close()
    return {(key, split): metrics for key, split, metrics in found}


def sampled(run: RunFolder, n: int):
    return run.supernet.space.sample(n, np.random.default_rng(3))


def test_scores_are_those_of_the_plain_loop(unscored):
    archs, settings, data = sampled(unscored, 6), unscored.recipe.score, unscored.data
    scores = Scorer(unscored).score(archs, "validation", Reporter())
    for arch in archs:
        subnet = unscored.supernet.extract(arch)
        calibration = data.calibration_batches(settings.calibration_images, settings.batch_size)
        update_bn([resize(batch, arch.resolution) for batch in calibration], subnet)
        plain = evaluate(subnet, data.evaluation_batches("validation", settings.batch_size), arch.resolution)
        found = scores[arch.id].metrics
        assert abs(found["accuracy"] - plain.value) < 1.5 / 200  # one image: update_bn's variance is unbiased
        assert found["loss"] == pytest.approx(plain.loss, abs=0.02) and found["n_images"] == 200


def test_a_network_in_onnx_runtime_computes_the_same_at_any_batch_size(small_supernet):
    subnet = small_supernet.extract(small_supernet.space.smallest).eval()
    fast = OnnxModule(subnet, channels=1, resolution=24)
    images = torch.randn(fast.batch_size * 2 + 3, 1, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), subnet(images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fast(images[:1]), subnet(images[:1]), rtol=1e-4, atol=1e-4)


def test_a_file_that_computes_something_else_scores_nothing(small_supernet, monkeypatch):
    subnet = small_supernet.extract(small_supernet.space.smallest).eval()
    assert isinstance(fast_evaluator(subnet, 1, 24), OnnxModule)
    other = small_supernet.extract(small_supernet.space.largest).eval()
    monkeypatch.setattr("experiments.scoring.onnx_module.record", lambda module, shape: record(other, shape))
    assert fast_evaluator(subnet, 1, 24) is subnet


def test_images_that_do_not_fit_into_memory_give_the_same_scores(unscored, monkeypatch):
    archs = sampled(unscored, 5)
    kept = Scorer(unscored).score(archs, "validation", Reporter())
    with sqlite3.connect(unscored.path / "store.sqlite") as database:
        database.execute("DELETE FROM scores")
    database.close()
    monkeypatch.setattr("experiments.scoring.kept_images._MEMORY", 0)
    monkeypatch.setattr("experiments.scoring.scorer._GROUP", 2)
    read_again = Scorer(unscored).score(archs, "validation", Reporter())
    assert {key: dict(s.metrics) for key, s in kept.items()} == {key: dict(s.metrics) for key, s in read_again.items()}


def test_a_recipe_has_the_layers_corrected_and_scores_are_told_apart(unscored):
    arch = unscored.supernet.space.smallest
    plain = Scorer(unscored)
    recipe = unscored.path / "recipe.toml"
    text = recipe.read_text()
    assert "[score]" in text
    recipe.write_text(text.replace("[score]", "[score]\ncorrection_images = 100"))
    corrected = Scorer(RunFolder(unscored.path))
    assert corrected.run.recipe.score.correction_images == 100 and corrected.digest != plain.digest
    largest = replace(unscored.supernet.space.largest, resolution=arch.resolution)
    (images, _) = next(iter(plain._calibration.at(arch.resolution)))
    with torch.no_grad():
        wanted, *found = (
            net(images[:100]) for net in (plain.subnet(largest), plain.subnet(arch), corrected.subnet(arch))
        )
    before, after = ((one - wanted).norm() for one in found)
    assert after < 0.8 * before


def test_two_processes_score_what_one_does_and_a_kill_loses_little(unscored, begin_two):
    both = begin_two("score", unscored.path)
    while not rows(unscored.path) and not any(process.has_ended for process in both):
        time.sleep(0.02)
    for process in both:
        os.killpg(process.pid, signal.SIGKILL)
        process.end()
    before = rows(unscored.path)
    assert before
    for done in [process.end() for process in begin_two("score", unscored.path)]:
        assert done.returncode == 0, done.stderr
    after = rows(unscored.path)
    assert before.items() <= after.items()  # what was there is neither lost nor made again
    planned = [arch for plan in unscored.all_plans() for arch in plan.archs if plan.kind not in ("random", "uniform")]
    assert {key for key, _ in after} == {arch.id for arch in planned}
    with sqlite3.connect(unscored.path / "store.sqlite") as database:
        database.execute("DELETE FROM scores")
    database.close()
    Scorer(unscored).score(planned, "validation", Reporter())
    assert rows(unscored.path) == after  # by one process


def test_networks_evaluated_together_are_evaluated_as_alone(small_supernet):
    archs = small_supernet.space.sample(3, np.random.default_rng(0))
    subnets = [small_supernet.extract(arch) for arch in archs]
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(20, 1, 32, 32, generator=generator), torch.randint(10, (20,), generator=generator))
        for _ in range(4)
    ]
    together = evaluate_all(subnets, batches, resolution=24)
    assert together == [evaluate(subnet, batches, resolution=24) for subnet in subnets]
