"""A budget that is asked for is verified: measured again, side by side, and the answer keeps it on that level."""

import json
import shutil

import pytest

from experiments.measuring.devices import create_profiler
from experiments.progress import Reporter
from experiments.quantities import latency
from experiments.quantities import limit as read_limit
from experiments.querying import goal_results
from experiments.run_folder import RunFolder
from experiments.verifying import verified_answer


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def sessions(run):
    device = create_profiler(run.recipe.devices[0]).device
    with run.store() as store:
        return store.sessions(device)


def test_the_answer_was_measured_again_and_keeps_the_limit(command, run):
    before = {session.id for session in sessions(run)}
    candidates = goal_results(run.path, None, "one")[1]["candidates"]
    known = sorted(c["values"]["latency@one"] for c in candidates)
    asked = f"{1.3 * known[len(known) // 2] * 1e6:.3f}us"  # far from any candidate's own, whatever the machine does
    done = command("query", run.path, "--device", "one", "--latency", asked, "--verify", "--json")
    answer = json.loads(done.stdout)
    (row,), evidence = answer["found"], answer["evidence"]
    (new,) = [session for session in sessions(run) if session.id not in before]
    assert new.id == evidence["session"] and new.purpose == "again" and evidence["turns"] == new.n_turns
    arch = row["architecture"]
    assert (row["id"], arch["resolution"]) in new.names and row["id"] in evidence["tried"]
    assert evidence["probability"] >= 0.95 and evidence["latency"] < evidence["limit"]
    believed = row["posterior"]["accuracy"]["value"]
    better = [c for c in candidates if c["extras"]["posterior"]["accuracy"]["value"] > believed]
    names = {key for key, _ in new.names}
    assert {c["id"] for c in better if c["values"]["latency@one"] < evidence["limit"]} <= names
    printed = command("query", run.path, "--device", "one", "--latency", asked, "--verify", "--margin", "5%").stdout
    assert "less 5%" in printed and "needs --margin" in printed and "measured again side by side" in printed

    out = run.path.parent / "bundle"
    printed = command("export", run.path, "--device", "one", "--latency", asked, "--out", out).stdout
    card = json.loads((out / "card.json").read_text())
    kept = card["budget"]
    assert kept["kept_with"] >= 0.95 and kept["latency"] < kept["seconds"] == pytest.approx(float(asked[:-2]) / 1e6)
    assert f"keeps {kept['asked']} with" in printed and f"keeps {kept['asked']}" in (out / "README.md").read_text()
    tight = ("--arch", card["id"], "--latency", f"{kept['latency'] * 0.8e6:.3f}us", "--out", out.with_name("none"))
    done = command("export", run.path, "--device", "one", *tight, check=2)
    assert f"the file of {card['id']} takes" in done.stderr and not out.with_name("none").exists()
    assert "which sub-network?" in command("export", run.path, "--out", out, check=2).stderr


def test_what_cannot_be_verified_is_told_in_one_line(command, run):
    for arguments, message in (
        (["--macs", "300M"], "needs one upper limit on a latency"),
        (["--latency", "1s", "--probability", "30%"], "probability 0.3 must be from 0.5"),
        (["--latency", "1s", "--margin", "much"], "'much' is not a share"),
        (["--latency", "0.001us"], "no measured sub-network has latency@one"),
    ):
        done = command("query", run.path, "--device", "one", "--verify", *arguments, check=2)
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_limit_that_nothing_keeps_says_what_comes_nearest(run):
    _, results = goal_results(run.path, None, "one")
    fastest = min(c["values"]["latency@one"] for c in results["candidates"])
    tight = read_limit(f"{latency('one')} <= {0.8 * fastest * 1e6:.3f}us", ["one"])
    with pytest.raises(ValueError, match=r"none keeps .* with 95%; nearest is [0-9a-f]{10} with"):
        verified_answer(run, results, [tight], Reporter(), margin=0.3)
