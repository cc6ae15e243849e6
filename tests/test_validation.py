"""Validation after every epoch, and the logs and pictures that show it."""

import re

import numpy as np
import pytest

from experiments.report import write_training_picture
from experiments.report.pictures import training_picture
from experiments.run_folder import RunFolder
from experiments.training.tensorboard_log import tensorboard_log
from experiments.training.validation import Validation, validated_archs
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.training import Epoch, Progress, World

EPOCHS = [
    {"phase": "largest", "loss": {"largest": 2.0}, "validation": {"largest": 0.3, "middle": 0.1, "smallest": 0.1}},
    {"phase": "kernel", "loss": {"largest": 1.5, "random": 1.9}, "validation": {"largest": 0.5, "middle": 0.4}},
]


def test_the_accuracies_are_those_of_recalibrated_subnetworks(finished_run) -> None:
    run = RunFolder(finished_run)
    archs, settings = validated_archs(run.supernet), run.recipe.score
    validation = Validation(archs, run.data, settings.calibration_images, settings.batch_size, World())
    found = validation(run.supernet)
    assert list(found) == ["largest", "middle", "smallest"]
    calibration = list(run.data.calibration_batches(settings.calibration_images, settings.batch_size))
    images = list(run.data.evaluation_batches("validation", settings.batch_size))
    for name, arch in archs.items():
        subnet = recalibrate(run.supernet.extract(arch), calibration, arch.resolution)
        assert found[name] == pytest.approx(evaluate(subnet, images, arch.resolution).value, abs=1e-6)


def test_pictures_show_every_phase_and_kind(tmp_path) -> None:
    svg = str(training_picture(EPOCHS))
    for text in ("largest", "kernel", "middle", "smallest", "accuracy on validation"):
        assert re.search(rf">\s*{text}", svg), text
    assert "accuracy on validation" not in str(training_picture([{**epoch, "validation": {}} for epoch in EPOCHS]))
    write_training_picture(EPOCHS, tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_reads_what_was_logged(tmp_path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, losses in ((0, (3.0, 2.0)), (20, (1.0,))):  # the second run begins again at step 20
        with tensorboard_log(tmp_path) as log:
            for number, loss in enumerate(losses):
                log.step(Progress("one", 0, 1, first + 20 * number, 40, 0.1, {"largest": loss}, 100.0))
    with tensorboard_log(tmp_path) as log:
        log.epoch(Epoch(0, "one", 40, 0.1, {"largest": 1.0}, 100.0, {"largest": 0.5}))
    accumulator = events.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    seen = [(event.step, event.value) for event in accumulator.Scalars("loss/largest")]
    np.testing.assert_allclose(seen, [(0, 3.0), (20, 1.0)])
    assert accumulator.Scalars("validation/largest")[0].value == 0.5
