"""`supernet finetune`: one sub-network trained alone, exported like any other, and honest about it."""

import json
import shutil
import signal
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from experiments.bundle import find_architecture
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.training.finetuning import Pupil, Tuning, tune
from supernet import load_subnet

KILLED = """
import os, signal, sys
from experiments.training.watching import Shown

def step(self, progress):
    if progress.step == 15:  # in the middle of the second of two epochs
        os.kill(os.getpid(), signal.SIGKILL)

Shown._step = step
from pathlib import Path
import torch
from tests.test_finetune import tuned
torch.set_num_threads(1)
tuned(Path(sys.argv[1]))
"""


def tuned(folder: Path) -> Path:
    """The weights of the first sub-network of a run after two epochs alone."""
    run = RunFolder(folder)
    first = json.loads((folder / "plans" / "initial.json").read_text())["architectures"][0]["id"]
    return tune(run, find_architecture(run, first), Tuning(2, 0.02), Reporter())


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def test_the_teacher_is_the_largest_of_two_and_is_not_trained():
    student, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
    pupil = Pupil(student, teacher, 8)
    assert {id(p) for p in pupil.parameters()} == {id(p) for p in student.parameters()}
    assert pupil.extract(pupil.space.largest) is teacher and not any(p.requires_grad for p in teacher.parameters())
    assert pupil.space.size == 2 and pupil.arch == pupil.space.smallest


def test_a_sub_network_is_trained_alone_and_its_bundle_says_so(run, command, tmp_path):
    arch = json.loads((run / "plans" / "initial.json").read_text())["architectures"][1]["id"]
    scores = command("query", run, "--device", "one", "--top", "50", "--json").stdout
    command("export", run, "--arch", arch, "--device", "eight", "--out", tmp_path / "before")
    command("finetune", run, "--arch", arch[:6], "--device", "eight", "--epochs", "2", "--out", tmp_path / "tuned")
    before, after = (json.loads((tmp_path / name / "card.json").read_text()) for name in ("before", "tuned"))
    assert before["finetuned"] is None and after["id"] == arch
    assert after["finetuned"]["before"] == before["accuracy"] and after["finetuned"]["epochs"] == 2
    text = (tmp_path / "tuned" / "README.md").read_text()
    assert "trained alone for 2 more epochs" in text and "without retraining" not in text
    images = torch.randn(8, *after["input"]["shape"][1:], generator=torch.Generator().manual_seed(0))
    models = [load_subnet(tmp_path / name) for name in ("before", "tuned")]
    with torch.no_grad():
        old, new = (model(images) for model in models)
    assert not torch.allclose(old, new, atol=1e-3)
    session = onnxruntime.InferenceSession(tmp_path / "tuned" / "model.onnx", providers=["CPUExecutionProvider"])
    torch.testing.assert_close(
        torch.as_tensor(session.run(None, {"images": images.numpy()})[0]), new, atol=1e-3, rtol=1e-3
    )
    # Nothing else of the run has changed; and what is trained is not trained again.
    assert command("query", run, "--device", "one", "--top", "50", "--json").stdout == scores
    again = command("finetune", run, "--arch", arch, "--epochs", "2", "--out", tmp_path / "again").stdout
    assert "finetune: done already" in again
    for arguments, message in (
        (("--arch", "zzz", "--out", tmp_path / "no"), "no architecture"),
        (("--arch", arch, "--out", tmp_path / "tuned"), "exists and is not empty"),
        (("--arch", arch, "--out", tmp_path / "no", "--lr", "-1"), "--lr -1 must be above 0"),
    ):
        assert message in command("finetune", run, *arguments, check=2).stderr
    assert not (tmp_path / "no").exists()


def test_killed_it_carries_on_and_ends_with_the_same_weights(run, commands, tmp_path):
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text() + "[engine]\nsave_seconds = 0.001\n")
    (tmp_path / "killed.py").write_text(KILLED)
    child = commands.begin(run, program=tmp_path / "killed.py", path=[Path(__file__).parents[1]]).end()
    assert child.returncode == -signal.SIGKILL, child.stderr
    (folder,) = (path for path in (run / "finetuned").iterdir() if path.is_dir())
    steps = sorted(int(path.name.split("-")[1].split(".")[0]) for path in folder.glob("step-*.pt"))
    assert 10 < steps[-1] < 20 and not folder.with_name(f"{folder.name}.safetensors").exists()
    resumed = tuned(run).read_bytes()
    shutil.rmtree(run / "finetuned")
    assert tuned(run).read_bytes() == resumed
