"""Killed with SIGKILL at any moment, the same command carries on and ends where an undisturbed run ends."""

import json
import os
import random
import signal
import sqlite3
import time

import pytest

pytestmark = pytest.mark.slow

ARTEFACTS = [  # in the order in which they appear: each is a stretch of the run to be killed in
    "checkpoints/epochs.jsonl",
    "supernet.safetensors",
    "plans/initial.json",
    "predictors/accuracy.json",
    "plans/round-1.json",
    "plans/random.json",
]


def rows(run, table):
    with sqlite3.connect(run / "store.sqlite") as database:
        return database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()


def test_a_run_that_is_killed_again_and_again_ends_the_same(commands, finished_run, recipe_path, tmp_path):
    run = tmp_path / "run"
    command = ("run", recipe_path, "--out", run)
    rng = random.Random(0)
    kept = {"turns": [], "scores": []}
    kills = 0
    for artefact in ARTEFACTS:
        process = commands.begin(*command)
        while not process.has_ended and not (run / artefact).exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.6))  # somewhere in what follows the artefact
        if not process.has_ended:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.end()
        if (run / "store.sqlite").exists():
            for table, before in kept.items():
                now = rows(run, table)
                assert now[: len(before)] == before  # what was measured stays, to the turn
                kept[table] = now
    assert kills >= len(ARTEFACTS) - 2
    done = commands.begin(*command).end()
    assert done.returncode == 0, done.stdout + done.stderr

    for name in ("supernet.safetensors", "baselines/lcnet_035.safetensors"):
        assert (run / name).read_bytes() == (finished_run / name).read_bytes(), name
    initial = [json.loads((folder / "plans/initial.json").read_text()) for folder in (run, finished_run)]
    assert initial[0]["architectures"] == initial[1]["architectures"]
    for table, before in kept.items():
        now = rows(run, table)
        assert now[: len(before)] == before
    scores = [{row[:3]: row[3] for row in rows(folder, "scores")} for folder in (run, finished_run)]
    common = scores[0].keys() & scores[1].keys()
    assert len(common) >= 12 and all(scores[0][key] == scores[1][key] for key in common)
    with sqlite3.connect(run / "store.sqlite") as database:
        times = database.execute(  # in how many sessions that ended each network was measured for the plans
            """SELECT key, resolution, fingerprint, count(*) FROM networks JOIN sessions ON sessions.id = session
            WHERE purpose = 'planned' AND n_repeats >= 20 GROUP BY 1, 2, 3"""
        ).fetchall()
    tied = {row["id"] for row in initial[0]["architectures"][:8]}
    assert all(n == 1 for key, _, _, n in times if key not in tied)  # nothing is measured a second time
    fronts = [json.loads((folder / "front.json").read_text())["goals"] for folder in (run, finished_run)]
    assert fronts[0].keys() == fronts[1].keys()
    assert not list(run.rglob(".*.json")) and not list(run.rglob("*.tmp"))
