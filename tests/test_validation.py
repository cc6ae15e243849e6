"""Validation after every epoch, and the logs and pictures that show it."""

import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from experiments.report import write_training_picture
from experiments.report.pictures import training_picture
from experiments.run_folder import RunFolder
from experiments.training.logs import TrainingLog, training_log
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


def test_a_picture_of_one_epoch_has_room_for_its_panels(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib says so where panels have no size left
        write_training_picture(EPOCHS[1:], tmp_path / "training.png")


def test_tensorboard_reads_what_was_logged(tmp_path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, losses in ((0, (3.0, 2.0)), (20, (1.0,))):  # the second run begins again at step 20
        with training_log(tmp_path, ["tensorboard"], {}, print) as log:
            for number, loss in enumerate(losses):
                log.step(Progress("one", 0, 1, first + 20 * number, 40, 0.1, {"largest": loss}, 100.0))
    with training_log(tmp_path, ["tensorboard"], {}, print) as log:
        log.epoch(Epoch(0, "one", 40, 0.1, {"largest": 1.0}, 100.0, {"largest": 0.5}))
    accumulator = events.EventAccumulator(str(tmp_path))
    accumulator.Reload()
    seen = [(event.step, event.value) for event in accumulator.Scalars("loss/largest")]
    np.testing.assert_allclose(seen, [(0, 3.0), (20, 1.0)])
    assert accumulator.Scalars("validation/largest")[0].value == 0.5


class Failing:
    """A tracker whose server goes away after its first numbers."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        if self.seen:
            raise ConnectionError("no route\nto host")
        self.seen.append(step)

    def flush(self) -> None:
        pass

    def close(self, finished: bool) -> None:
        raise AssertionError("it is left out")


def test_a_tracker_that_fails_meanwhile_is_told_of_once_and_left_out() -> None:
    tracker, said = Failing(), []
    log = TrainingLog({"mlflow": tracker}, said.append)
    for step in (20, 30, 40, 60):
        log.step(Progress("one", 0, 1, step, 60, 0.1, {"largest": 1.0}, 100.0))
    log.close(finished=True)
    assert tracker.seen == [20]
    assert said == ["  mlflow is told no more of this training: ConnectionError: no route to host"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed, also where it is
    with (
        pytest.raises(ValueError, match=rf"^{name} is not installed: `pip install 'supernet-nas\[{name}\]'`, or leave"),
        training_log(tmp_path, [name], {"name": "run"}, print),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_mlflow_goes_on_where_a_training_was_interrupted(tmp_path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    _log_twice(tmp_path / "log", "mlflow")
    (run,) = mlflow.search_runs(experiment_names=["supernet-nas"], output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss/largest")
    assert [(one.step, one.value) for one in history] == [(20, 3.0), (40, 2.0)]
    assert run.info.status == "FINISHED"


def test_weights_and_biases_goes_on_where_a_training_was_interrupted(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    _log_twice(tmp_path / "log", "wandb")
    folders = list((tmp_path / "log" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and len({folder.name.rpartition("-")[2] for folder in folders}) == 1  # one id


def _log_twice(folder: Path, name: str) -> None:
    with pytest.raises(KeyboardInterrupt), training_log(folder, [name], {"name": "run"}, pytest.fail) as log:
        log.step(Progress("one", 0, 1, 20, 40, 0.1, {"largest": 3.0}, 100.0))
        raise KeyboardInterrupt
    with training_log(folder, [name], {"name": "run"}, pytest.fail) as log:
        log.step(Progress("one", 0, 1, 40, 40, 0.1, {"largest": 2.0}, 100.0))
