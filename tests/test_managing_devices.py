"""Devices of a run: one of this machine added by one command, added ones renamed and removed."""

import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from experiments.run_folder import RunFolder


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def measured_by_a_kit(command, run, name, folder):
    command("device", "kit", run, "--device", name, "--batch-size", "3", "--out", folder)
    subprocess.run([sys.executable, folder / "measure.py"], check=True, capture_output=True)
    printed = command("device", "import", run, folder / "results.jsonl").stdout
    return int(re.findall(r"(\d+) networks measured", printed)[0])


def trained(run):
    return (run / "supernet.safetensors").stat().st_mtime_ns


def test_a_device_of_this_machine_is_added_by_one_command(run, command, one_device):
    (run / "recipe.toml").write_text(one_device((run / "recipe.toml").read_text()).replace('"lcnet_035"', ""))
    before, recipe = trained(run), (run / "recipe.toml").read_text()
    printed = command("device", "add", run, "--name", "two", "--threads", "2", "--precision", "int8").stdout
    assert "[[devices]]" in printed and "latency@two" in printed
    added = tomllib.loads((run / "recipe.toml").read_text())["devices"][-1]
    assert (added["name"], added["threads"], added["precision"]) == ("two", 2, "int8")
    assert (run / "recipe.toml").read_text().startswith(recipe.rstrip())
    found = json.loads(command("query", run, "--device", "two", "--json").stdout)
    assert found["devices"]["two"]["device"]["threads"] == 2 and found["found"]
    assert trained(run) == before and (run / "report.html").exists()


def test_what_cannot_be_added_changes_nothing(run, command):
    (run / "devices").mkdir(exist_ok=True)
    board = {"name": "board", "hardware": "h", "runtime": "onnxruntime", "runtime_version": "1", "provider": "p",
             "threads": 1, "batch_size": 1, "precision": "fp32", "options": []}  # fmt: skip
    (run / "devices" / "board.json").write_text(json.dumps(board))
    before = (run / "recipe.toml").read_bytes(), (run / "report.html").read_bytes()
    for arguments, message in (
        (["--name", "one"], "two devices are named 'one'"),
        (["--name", "board"], "has an added device 'board'"),
        (["--name", "x", "--precision", "int9"], "'int9' is not possible"),
        (["--name", "x", "--provider", "cuda"], "CUDAExecutionProvider"),
        (["--name", "x", "--runtime", "nothing"], "'nothing' is not possible"),
        (["--name", "a/b"], "devices[3].name"),
    ):
        done = command("device", "add", run, *arguments, check=2)
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert ((run / "recipe.toml").read_bytes(), (run / "report.html").read_bytes()) == before


def test_a_renamed_device_keeps_what_it_has_measured_and_a_removed_one_frees_its_name(run, command, tmp_path):
    n = measured_by_a_kit(command, run, "phone", tmp_path / "first")
    command("search", run, "--device", "phone", check=2)  # proposes, and wants that measured
    command("device", "rename", run, "phone", "tablet")
    folder = RunFolder(run)
    assert set(folder.added_devices()) == {"tablet"} and folder.added_device("tablet").name == "tablet"
    assert {plan.device for plan in folder.all_plans()} & {"phone", "tablet"} == {"tablet"}
    listed = command("measurements", "list", run, "--device", "tablet").stdout
    assert " tablet: " in listed and "phone" not in listed
    # Results of a kit of the old name are of the device that has the new one.
    assert "0 networks measured" in command("device", "import", run, tmp_path / "first" / "results.jsonl").stdout
    assert set(RunFolder(run).added_devices()) == {"tablet"}
    done = command("search", run, "--device", "tablet", check=2)
    assert "still to measure" in done.stderr
    for arguments, message in (
        (("rename", run, "tablet", "one"), "'one' is a device of the recipe"),
        (("rename", run, "one", "first"), "'one' is a device of the recipe: change it there"),
        (("rename", run, "phone", "other"), "no device 'phone'"),
        (("rename", run, "tablet", "a b"), "no name of a device"),
        (("remove", run, "phone"), "no device 'phone'"),
        (("remove", run, "eight"), "'eight' is a device of the recipe"),
    ):
        assert message in command("device", *arguments, check=2).stderr
    printed = command("device", "remove", run, "tablet").stdout
    assert f"tablet is removed; {n} networks" in printed
    folder = RunFolder(run)
    assert not folder.added_devices() and not [plan for plan in folder.all_plans() if plan.device == "tablet"]
    # The name is free, and an equal device has what was measured.
    assert "0 networks measured" in command("device", "import", run, tmp_path / "first" / "results.jsonl").stdout
    assert set(RunFolder(run).added_devices()) == {"phone"}
