"""Where artefacts come from, and files that are never half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime

import pytest

from experiments import provenance as module
from experiments.provenance import provenance
from supernet.files import read_json, replacing, write_json, write_text


def test_everything_needed_to_make_a_number_again_is_there():
    facts = provenance("0123abcd", seed=7)
    assert facts["recipe"] == "0123abcd" and facts["seed"] == 7
    assert facts["libraries"]["torch"] and facts["cpu"] and facts["python"].count(".") == 2
    assert datetime.fromisoformat(facts["time"]).utcoffset() is not None
    assert json.loads(json.dumps(facts)) == facts


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance("x", 0)["commit"] is None


def test_a_repository_that_does_not_track_the_code_does_not_count(monkeypatch):
    monkeypatch.setattr(module, "_git", lambda *arguments: None if arguments[0] == "ls-files" else "a commit")
    assert module._commit() == (None, None)


def test_uncommitted_changes_are_told(monkeypatch):
    answers = {"ls-files": "x", "rev-parse": "0a1b2c", "status": " M somewhere.py"}
    monkeypatch.setattr(module, "_git", lambda *arguments: answers[arguments[0]])
    assert module._commit() == ("0a1b2c", True)


def test_importing_it_is_light():
    code = "import sys, experiments.provenance, experiments.budgets, supernet.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_json_comes_back(tmp_path):
    path = tmp_path / "deep" / "data.json"
    write_json(path, {"latency": 1.5e-3, "unit": "µs"})
    assert read_json(path) == {"latency": 1.5e-3, "unit": "µs"}
    assert [p.name for p in path.parent.iterdir()] == ["data.json"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "data.json"
    write_text(path, "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"accuracy": float("nan")})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("the disk is full")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["data.json"]


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("{", "is not JSON"), ("\xff", "is not JSON")])
def test_unreadable_json_gets_one_line(tmp_path, text, message):
    path = tmp_path / "data.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_killed_writer_left_is_removed_when_the_file_is_written_again(tmp_path):
    path = tmp_path / "front.json"
    code = "import os, sys; from supernet.files import replacing\nwith replacing(sys.argv[1]): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    beside = tmp_path / f".front.{os.getpid()}-abc.json"  # of a process that is still there
    beside.touch()
    write_json(path, {"a": 1})
    assert not left.exists() and beside.exists() and read_json(path) == {"a": 1}
