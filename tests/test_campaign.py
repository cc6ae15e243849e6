"""Campaigns and profiles of blocks: real measurements, killed and carried on."""

import io
import json
import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments import pipeline
from experiments.known import Known
from experiments.measuring.block_profiles import _default_architecture, profile_blocks
from experiments.measuring.campaign import measured_values, run_campaign
from experiments.measuring.measure import Networks, Setup, architectures, measure_missing, measure_side_by_side
from experiments.plans import anchors, initial_plan
from experiments.progress import Reporter
from experiments.quantities import latency
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.subjects import subject
from hardware import OnnxRuntimeProfiler, Store, Workload
from hardware.store.schema import checksum
from predictors import create_predictor
from predictors.protocol import mean_error
from predictors.stopping import Goal
from supernet import Architecture

pytestmark = pytest.mark.slow


@pytest.fixture
def run(recipe_path, tmp_path) -> Path:
    """A run that was started and did nothing yet: measuring needs no trained weights."""
    return RunFolder.start(recipe_path, tmp_path / "run").path


def measured(run: Path) -> list[tuple[str, int, str]]:
    """Key, resolution and session of everything that was measured, in the order of measuring."""
    query = "SELECT key, resolution, session FROM networks WHERE n_repeats >= 20 ORDER BY rowid"
    with sqlite3.connect(run / "store.sqlite") as database:
        return database.execute(query).fetchall()


def names(rows: list[tuple[str, int, str]]) -> list[str]:
    """The networks, each once: anchors are in every session."""
    return list(dict.fromkeys(row[0] for row in rows))


def said(verb: Callable[..., None], run: Path, **arguments: Any) -> str:
    """What a verb prints; in this process, since each new one takes seconds to import torch."""
    console = Console(file=io.StringIO(), width=200)
    verb(RunFolder(run), Reporter(console), device="one", **arguments)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_campaign_measures_the_design_in_its_order_and_grows(run):
    printed = said(run_campaign, run, n=10)
    assert re.search(r"one: 10 measured in \d+\.\d min, 0 failed$", printed, re.MULTILINE)
    plan = json.loads((run / "plans" / "campaign.json").read_text())["architectures"]
    assert names(measured(run)) == [row["id"] for row in plan] and len(plan) == 10
    supernet = RunFolder(run).untrained_supernet
    ends = [supernet.space.smallest.id, supernet.space.largest.id]
    assert [row["id"] for row in plan[:2]] == ends
    before = measured(run)
    said(run_campaign, run, n=14)
    assert measured(run)[:10] == before and len(names(measured(run))) == 14
    assert names(measured(run)[10:])[:8] == names(before)[:8]  # the anchors, in the new session as well
    longer = json.loads((run / "plans" / "campaign.json").read_text())["architectures"]
    assert longer[:10] == plan and len(longer) == 14


def test_a_campaign_stops_when_a_predictor_is_good_enough_or_says_what_it_takes(run):
    printed = said(run_campaign, run, until=Goal.parse("error <= 95%"))
    assert "10 known: error " in printed and "in five folds" in printed and len(names(measured(run))) == 10
    printed = said(run_campaign, run, until=Goal.parse("error <= 0.001%"), n=13)
    assert "13 known: error " in printed and "error <= 0.001% is not reached" in printed
    assert len(names(measured(run))) == 13


def test_time_that_is_up_ends_a_campaign_which_says_how_to_go_on(command, run):
    printed = said(run_campaign, run, minutes=1e-9)
    # What had begun, and the anchors beside it, which are of the design as well.
    assert re.search(r"one: 8 measured in .* 0 failed, 56 of 64 left$", printed, re.MULTILINE)
    assert f"go on with `supernet profile {run} --device one --minutes 1e-09`" in printed
    assert len(measured(run)) == 8
    assert "56 are planned and not measured yet" in command("measurements", "list", run).stdout


def test_a_campaign_that_is_killed_carries_on_and_measures_nothing_twice(commands, run):
    process = commands.begin("profile", run, "--device", "eight", "--n", "66")
    while not process.has_ended and not ((run / "store.sqlite").exists() and "turns" in tables(run) and turns(run)):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.end()
    before, n_turns = measured(run), len(turns(run))
    assert n_turns > 0 and len(names(before)) in (0, 66)
    run_campaign(RunFolder(run), Reporter(), device="eight", n=66)
    assert measured(run)[: len(before)] == before and len(names(measured(run))) == 66
    assert len(turns(run)) >= n_turns  # the turns before the kill are there, and count
    with RunFolder(run).store() as store:
        (device,) = store.devices()
        assert len(store.measurements(device)) == 66
    again = len(turns(run))
    run_campaign(RunFolder(run), Reporter(), device="eight", n=66)
    assert len(turns(run)) == again


def turns(run: Path) -> list[tuple[str, int]]:
    with sqlite3.connect(run / "store.sqlite") as database:
        return database.execute("SELECT session, turn FROM turns").fetchall()


def tables(run: Path) -> set[str]:
    with sqlite3.connect(run / "store.sqlite") as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master")}


class Unknown(torch.nn.Module):
    """Calls an operator that neither exporter has a name for."""

    def forward(self, x):
        return torch.special.bessel_j0(x).mean(dim=(2, 3))


def test_what_does_not_run_is_written_down_and_not_tried_again(run, tmp_path):
    tried = []

    def make(network):
        tried.append(network[0])
        module = Unknown() if network[0] == "broken" else torch.nn.Conv2d(1, 4, 3)
        return Workload(network[0], module.eval(), network[1], 1)

    networks = Networks((("a", 16), ("broken", 16), ("b", 16)), make)
    folder, profiler = RunFolder(run), OnnxRuntimeProfiler("cpu")
    tied = {(arch.id, arch.resolution) for arch in anchors(folder)}
    with Store(tmp_path / "store.sqlite") as store:
        done = measure_missing(Setup.of(folder), store, profiler, networks, Reporter())
        assert (done.measured, done.failed, done.left) == (2, 1, 0)
        assert store.measured(profiler.device) == {("a", 16), ("b", 16)} | tied
        (failure,) = store.failures(profiler.device)
        assert failure.key == "broken" and "Unknown cannot be written as ONNX: No ONNX function" in failure.reason
        done = measure_missing(Setup.of(folder), store, profiler, networks, Reporter())
        assert (done.measured, done.failed, done.left) == (0, 0, 0) and tried == ["a", "broken", "b"]


def test_what_is_compared_is_in_one_session_and_measured_once(run):
    folder, profiler = RunFolder(run), OnnxRuntimeProfiler("one")
    plan = initial_plan(folder)
    few, more = architectures(folder, plan.archs[8:10]), architectures(folder, plan.archs[8:12])
    with folder.store() as store:
        measure_missing(Setup.of(folder), store, profiler, few, Reporter())
        session = measure_side_by_side(Setup.of(folder), store, profiler, more, Reporter())
        assert session is not None and session.purpose == "final"
        assert set(session.names) == {(arch.id, arch.resolution) for arch in plan.archs}
        found = measure_side_by_side(Setup.of(folder), store, profiler, few, Reporter())
        assert found is not None and found.id == session.id  # it has them
        assert len(store.sessions(profiler.device)) == 2
        assert store.measurements(profiler.device).at.id == session.id


def test_what_is_measured_again_comes_to_what_was_known(command, run):
    said(pipeline.profile, run)
    before = names(measured(run))
    printed = said(pipeline.profile_again, run)
    assert re.search(r"one: (all 12, since there is no doubt|\d+ with a doubt)", printed)
    assert names(measured(run)) == before
    with RunFolder(run).store() as store:
        sessions = store.sessions(store.devices()[0])
    assert [session.purpose for session in sessions] == ["planned", "again"]
    assert "stands alone" in command("profile", run, "--again", "--n", 5, check=2).stderr


def test_latency_is_learned_from_the_campaign_too_and_never_from_another_device(run, monkeypatch):
    said(run_campaign, run, n=12)
    folder = RunFolder(run)
    plan = folder.plan("campaign")
    assert plan is not None
    known = Known(folder, Scorer(folder), Reporter())
    archs, seconds, level = measured_values(folder, known, latency("one"), plan.archs[:8], Reporter())
    assert archs == list(plan.archs) and len(seconds) == 12 and level == known.measurements("one").at.id
    monkeypatch.setattr("onnxruntime.__version__", "99.0")
    with pytest.raises(ValueError, match="of nothing planned is measured") as caught:
        measured_values(folder, Known(folder, Scorer(folder), Reporter()), latency("one"), plan.archs[:8], Reporter())
    assert "12 measurements are kept apart, since runtime_version" in str(caught.value)
    assert f"supernet profile {run}" in str(caught.value)


def test_every_block_is_measured_alone_and_the_sum_is_judged(command, run):
    said(run_campaign, run, n=12)
    printed = command("profile", run, "--device", "one", "--blocks", "--minutes", 1e-9).stdout
    assert re.search(r"1 blocks measured in .*, 0 failed, (\d+) of (\d+) left", printed) and "go on with" in printed
    assert not list(run.glob("blocks-*.png"))
    before = measured(run)
    printed = said(profile_blocks, run)
    assert measured(run)[: len(before)] == before
    blocks = json.loads((run / "blocks.json").read_text())["blocks"]
    keys = [key for key in names(measured(run)) if key.startswith("block:")]
    assert sorted(keys) == sorted([*(block["key"] for block in blocks), "block:empty"])
    assert "sum of blocks against measured networks: Kendall τ" in printed and "12 held out" in printed
    shares = [int(share) for share in re.findall(r"\): (\d+)% of the time", printed)]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 101
    assert (run / "blocks-one.png").read_bytes().startswith(b"\x89PNG")
    plan = json.loads((run / "plans" / "campaign.json").read_text())["architectures"]
    smallest = Architecture.from_dict(plan[0]["architecture"])
    assert smallest.id in said(profile_blocks, run, arch=smallest)
    folder = RunFolder(run)
    table = subject(folder, latency("one"))
    assert table.blocks is not None and subject(folder, latency("eight")).blocks is None
    genes = table.space.encode([Architecture.from_dict(row["architecture"]) for row in plan])
    column = Known(folder, Scorer(folder), Reporter()).column(latency("one"), table.space.decode(genes))
    predictor = create_predictor("block_table", table, "relative").fit(genes, column.values)
    assert mean_error(column.values, predictor.predict(genes), "relative") < 0.2


def test_wrong_requests_are_one_line(command, run):
    for arguments, message in (
        (("--minutes", "0"), "--minutes 0 must be above 0"),
        (("--minutes", "nan"), "--minutes nan must be above 0"),
        (("--blocks", "--n", "5"), "--n and --until are for sub-networks"),
        (("--arch", "abc"), "--arch needs --blocks"),
        (("--until", "tau <= 0.9"), "'tau <= 0.9' is no goal of a predictor; write 'error <= 5%' or 'tau >= 0.9'"),
    ):
        done = command("profile", run, *arguments, check=2)
        assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert not (run / "plans").exists()


def test_what_has_changed_since_is_said(command, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert "not here what it was" not in command("query", run, "--device", "one").stderr  # of moods it may speak
    front = json.loads((run / "front.json").read_text())
    front["goals"]["one"]["devices"]["one"]["device"] |= {"runtime_version": "0.1", "hardware": "abacus"}
    (run / "front.json").write_text(json.dumps(front))
    done = command("query", run, "--device", "one", "--json")
    assert "one is not here what it was when it was measured: hardware abacus → " in done.stderr
    assert "runtime_version 0.1 → " in done.stderr and f"supernet search {run}" in done.stderr
    assert len(json.loads(done.stdout)["changed"]) == 2
    with pytest.raises(ValueError, match="the front of one was measured before this changed: hardware abacus"):
        pipeline.compare(RunFolder(run), Reporter())
    with sqlite3.connect(run / "store.sqlite") as database:  # as if all had been measured by an older runtime
        for table in ("sessions", "planned"):
            database.execute(
                f'UPDATE {table} SET device = replace(device, \'"runtime_version": "\', \'"runtime_version": "0.\')'
            )
        rows = database.execute("SELECT DISTINCT device FROM sessions").fetchall()
    from hardware import Device

    with sqlite3.connect(run / "store.sqlite") as database:
        for (text,) in rows:
            fingerprint = Device.from_dict(json.loads(text)).fingerprint
            for table in ("sessions", "planned"):
                database.execute(f"UPDATE {table} SET fingerprint = ? WHERE device = ?", [fingerprint, text])
        database.row_factory = sqlite3.Row
        for row in database.execute("SELECT rowid, * FROM sessions").fetchall():
            values = [checksum("sessions", dict(row)), row["rowid"]]
            database.execute("UPDATE sessions SET checksum = ? WHERE rowid = ?", values)
    with pytest.raises(ValueError, match="of nothing planned is measured on one") as caught:
        pipeline.fit(RunFolder(run), Reporter())
    assert re.search(r"one: \d+ measurements are kept apart, since runtime_version 0\.[\d.]+ → ", str(caught.value))


def test_where_the_time_goes_is_shown_of_the_slowest_of_a_front(finished_run):
    fronts = json.loads((finished_run / "front.json").read_text())["goals"]
    slowest = max(fronts["eight"]["front"]["candidates"], key=lambda one: one["values"]["latency@eight"])
    assert _default_architecture(RunFolder(finished_run), "eight").id == slowest["id"]
