"""The search again with other seeds or from earlier runs, and controls that search as well: on a small run, whole."""

import json
import shutil
import sqlite3

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from experiments import fitting
from experiments.earlier import learn_from, lent_scores
from experiments.progress import Reporter
from experiments.quantities import KINDS, latency, quality
from experiments.repeating import Repeat, compare_repeats
from experiments.run_folder import RunFolder
from experiments.subjects import subject
from hardware.onnx.export import export_onnx
from hardware.onnx.finishing import BATCH, free_batch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(command, finished_run, one_device, tmp_path_factory):
    """The finished run, compared with more controls, with a file, and over two seeds."""
    run = tmp_path_factory.mktemp("repeats") / "run"
    shutil.copytree(finished_run, run)
    path = run / "recipe.toml"
    text = path.read_text(encoding="utf-8")
    supernet = RunFolder(run).untrained_supernet
    shape = (BATCH, 1, 20, 20)
    (run / "own.onnx").write_bytes(
        free_batch(export_onnx(supernet.extract(supernet.space.largest).eval(), shape), shape)
    )
    more = f'timm_models = []\nonnx = ["{run / "own.onnx"}"]\ncontrols = ["random search, filtered", "local search"]'
    path.write_text(one_device(text).replace('timm_models = ["lcnet_035"]', more), encoding="utf-8")
    before = (run / "supernet.safetensors").read_bytes()
    command("compare", run, "--seeds", 2)
    assert (run / "supernet.safetensors").read_bytes() == before
    return run


def test_a_file_of_ones_own_is_measured_side_by_side_and_shown(compared):
    comparison = json.loads((compared / "comparison.json").read_text())
    for goal, device in zip(comparison["goals"], comparison["devices"], strict=True):
        (point,) = next(one["points"] for one in goal["series"] if one["name"] == "file: own")
        at = f"latency@{device['name']}"
        assert point["label"] == "own" and 0 <= point["test"] <= 1 and point["values"]["macs"] > 0
        low, high = point["intervals"][at]
        assert low <= point["values"][at] <= high
        (level,) = (session for session in device["sessions"] if session["is_level"])
        with sqlite3.connect(compared / "store.sqlite") as database:
            found = database.execute("SELECT key FROM networks WHERE session = ?", [level["id"]])
            assert (point["id"],) in found.fetchall() and level["purpose"] == "final"
    assert "file: own" in (compared / "report.html").read_text()


def planned(run, kind, number=None):
    plan = run.plan(kind, number=number)
    assert plan is not None
    return plan.archs


def test_every_search_is_its_own_and_measures_on_what_the_others_know(compared):
    run = RunFolder(compared)
    repeat = Repeat(run, run.recipe.seed + 1)
    ours, theirs = planned(run, "initial"), planned(repeat, "initial")
    assert ours[:2] == theirs[:2] and ours != theirs
    assert repeat.plan("round", number=1) is not None and repeat.front.exists()
    assert repeat.weights_digest == run.weights_digest and repeat.data is run.data
    with run.store() as store:
        scored = [score.key for score in store.scores(json.loads(run.front.read_text())["scores"], "validation")]
    assert {arch.id for arch in (*ours, *theirs)} <= set(scored) and len(scored) == len(set(scored))


def test_controls_cost_as_much_as_the_search_and_all_are_in_the_tables(compared):
    comparison = json.loads((compared / "comparison.json").read_text())
    run = RunFolder(compared)
    n = len(planned(run, "initial")) + len(planned(run, "round", 1))
    local = [plan for plan in run.all_plans() if plan.kind == "local"]
    assert sum(len(plan.archs) for plan in local) == n
    assert len(planned(run, "filtered")) == n - len(planned(run, "initial"))
    for goal in comparison["repeats"]["goals"]:
        names = [row["series"] for row in goal["hypervolume"]]
        assert names == [
            "searched front",
            "random search",
            "uniform scaling",
            "random search, filtered",
            "local search",
        ]
        assert all(len(row["values"]) == 2 for row in goal["hypervolume"])
    assert "Another search" in (compared / "report.html").read_text()
    assert (compared / "tables" / "repeats.tex").exists()


def test_what_was_searched_is_not_searched_again(compared):
    def never(repeat, report):
        raise AssertionError(f"{repeat.home} is searched again")

    found = compare_repeats(RunFolder(compared), 2, never, Reporter(Console(quiet=True)))
    assert found == json.loads((compared / "comparison.json").read_text())["repeats"]


def test_a_search_begins_with_the_front_of_an_earlier_run(command, finished_run, tmp_path):
    run, members = tmp_path / "later", json.loads((finished_run / "front.json").read_text())["goals"]["one"]["front"]
    shutil.copytree(finished_run, run)
    for name in ("plans/round-1.json", "front.json", "report.html", "comparison.json"):
        (run / name).unlink()
    for path in (run / "plans").glob("final-*.json"):
        path.unlink()
    command("fit", run)
    said = command("search", run, "--archive", finished_run).stdout
    assert f"members of fronts of {finished_run.name}" in said
    assert f"scores of {finished_run.name}, whose weights are the same, are learned from" in said
    learned = json.loads((run / "predictors" / "accuracy.card.json").read_text())["values"]
    assert {arch.id for arch in planned(RunFolder(finished_run), "random")} <= set(learned)
    plan = RunFolder(run).plan("round", number=1)
    assert plan is not None and {note["origin"] for note in plan.notes} == {f"front of {finished_run.name}"}
    first = {arch.id for arch in planned(RunFolder(run), "initial")}
    of_both = {c["id"] for c in members["candidates"]}
    assert {arch.id for arch in plan.archs} & of_both and not {arch.id for arch in plan.archs} & first
    again = command("search", run, "--archive", finished_run).stdout
    assert "had begun already" not in again and (run / "front.json").exists()


def test_scores_of_other_weights_are_a_prior_mean(command, finished_run, tmp_path):
    run, other = RunFolder(shutil.copytree(finished_run, tmp_path / "run")), tmp_path / "other"
    shutil.copytree(finished_run, other)
    weights = load_file(other / "supernet.safetensors")
    save_file({name: 1.001 * value if value.is_floating_point() else value for name, value in weights.items()},
              other / "supernet.safetensors")  # fmt: skip
    lines: list[str] = []
    report = Reporter(Console(quiet=True))
    report.say = lines.append  # type: ignore[method-assign]
    learn_from(run, [RunFolder(other)], report)
    assert lines == ["  what other, with other weights, predicts of accuracy is a prior mean here"]
    assert not lent_scores(run)
    found = subject(run, quality(KINDS)).levels
    assert found.names[-1] == "as other says" and "as other says" not in subject(run, latency("one")).levels.names
    genes = run.untrained_supernet.space.encode(planned(run, "initial"))
    theirs = fitting.load(RunFolder(other), quality(KINDS)).predictor.predict(genes)
    np.testing.assert_allclose(found(genes)[:, -1], theirs)
    command("fit", run.path)
    assert fitting.load(run, quality(KINDS)).predictor.predict(genes).shape == (len(genes),)
