"""The search again with other seeds or from earlier runs, and controls that search as well: on a small run, whole."""

import json
import shutil

import pytest
from rich.console import Console

from experiments.progress import Reporter
from experiments.repeating import Repeat, compare_repeats
from experiments.run_folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(command, finished_run, recipe_path, tmp_path_factory):
    """The finished run, compared with more controls and over two seeds."""
    run = tmp_path_factory.mktemp("repeats") / "run"
    shutil.copytree(finished_run, run)
    path = run / "recipe.toml"
    text = path.read_text(encoding="utf-8")
    more = 'timm_models = []\ncontrols = ["random search, filtered", "local search"]'
    path.write_text(text.replace('timm_models = ["lcnet_035"]', more), encoding="utf-8")
    before = (run / "supernet.safetensors").read_bytes()
    command("compare", run, "--seeds", 2)
    assert (run / "supernet.safetensors").read_bytes() == before
    return run


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
    plan = RunFolder(run).plan("round", number=1)
    assert plan is not None and {note["origin"] for note in plan.notes} == {f"front of {finished_run.name}"}
    first = {arch.id for arch in planned(RunFolder(run), "initial")}
    of_both = {c["id"] for c in members["candidates"]}
    assert {arch.id for arch in plan.archs} & of_both and not {arch.id for arch in plan.archs} & first
    again = command("search", run, "--archive", finished_run).stdout
    assert "had begun already" not in again and (run / "front.json").exists()
