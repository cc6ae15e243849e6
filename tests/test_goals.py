"""Goals: quantities as people write them, limits that a search keeps, three objectives, and a new kind in one entry."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import pipeline, quantities
from experiments.cli import app
from experiments.goals import Goal, goals
from experiments.known import Known
from experiments.progress import Reporter
from experiments.quantities import KINDS, Kind, Limit, latency, limit, quality, quantity
from experiments.rounds import Rounds, within
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.searching import changed_places
from search.contenders import contenders

DEVICES = ["phone", "server"]


@pytest.mark.parametrize("name", KINDS)
def test_what_a_quantity_writes_it_reads(name):
    kind = KINDS[name]
    values = {"accuracy": (0.5,), "stability": (0.912,), "latency": (1.2e-3, 2.5), "energy": (1.2e-3, 2.5)}.get(
        name, (3.0, 4.56e6)
    )
    for value in values:
        assert kind.parse(kind.format(value).replace(" ", "")) == pytest.approx(value, rel=6e-3)


def test_quantities_and_limits_are_read_as_people_write_them():
    assert quantity("latency@phone", DEVICES) == latency("phone")
    assert quantity("latency", ["phone"]) == latency("phone")
    assert quantity("accuracy@phone", DEVICES).name == "accuracy@phone"
    assert limit("latency@phone <= 12ms", DEVICES) == Limit(latency("phone"), 0.012, True)
    assert limit("accuracy>=92.5%", DEVICES) == Limit(quality(KINDS), pytest.approx(0.925), False)  # type: ignore[arg-type]
    kept = limit("size<=5MB", ["phone"])
    assert kept.holds(5e6) and not kept.holds(5.1e6) and str(kept) == "size@phone <= 5.00 MB"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latnecy@phone <= 1ms", "did you mean 'latency'"),
        ("latency@phoen <= 1ms", "latency@phone"),
        ("latency <= 1ms", "of which device"),
        ("macs@phone <= 1M", "the same on every device"),
        ("size <= 3 bananas", "not a size"),
        ("size = 3MB", "no limit"),
        ("accuracy >= 120%", "not a share"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_way_out(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        limit(text, DEVICES)
    assert "\n" not in str(caught.value)


def test_contenders_are_the_front_and_whatever_errors_do_not_separate_from_it():
    losses = np.array([[1.0, 4.0], [2.0, 2.0], [2.0, 2.1], [4.0, 1.0], [4.0, 4.0]])
    assert contenders(losses, np.zeros_like(losses)).tolist() == [True, True, False, True, False]
    unsure = np.zeros_like(losses)
    unsure[:, 1] = 0.1
    assert contenders(losses, unsure).tolist() == [True, True, True, True, False]
    for seed in range(20):  # no member of the true front is left out, wherever the errors fall
        rng = np.random.default_rng(seed)
        truth, sd = rng.uniform(size=(200, 2)), np.full((200, 2), 0.01)
        seen = truth + np.clip(rng.normal(0, 0.01, truth.shape), -0.014, 0.014)
        assert set(np.flatnonzero(contenders(truth, np.zeros_like(sd)))) <= set(np.flatnonzero(contenders(seen, sd)))
    with pytest.raises(ValueError, match="one shape"):
        contenders(losses, unsure[:2])


def test_a_front_that_changes_says_who_lost_a_place():
    assert "all 2 keep" in changed_places(["a", "b"], ["b", "a"])
    text = changed_places(["a", "b"], ["b", "c"])
    assert "1 lost its place (a)" in text and "1 came on it (c)" in text


def with_goals(finished_run, tmp_path, objectives, constraints=()):
    """A finished run whose recipe has other goals."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "front.json").unlink()
    text = (run / "recipe.toml").read_text()
    keys = f"objectives = {json.dumps(objectives)}\nconstraints = {json.dumps(list(constraints))}\n"
    (run / "recipe.toml").write_text(text.replace("[search]\n", f"[search]\n{keys}"))
    return run


def test_by_default_every_device_has_its_goal(finished_run):
    found = goals(RunFolder(finished_run))
    assert [goal.name for goal in found] == ["one", "eight"]
    assert found[1].objectives == (quality(KINDS), latency("eight")) and found[1].devices == ("eight",)


def test_three_objectives_and_limits_through_the_command_line(command, finished_run, tmp_path):
    sizes = [
        c["values"]["size@one"]
        for c in json.loads((finished_run / "front.json").read_text())["goals"]["one"]["candidates"]
    ]
    most = float(np.quantile(sizes, 0.7))
    run = with_goals(finished_run, tmp_path, ["accuracy", "latency@one", "latency@eight"], [f"size <= {most:.0f}B"])
    command("search", run)
    command("compare", run)
    (results,) = json.loads((run / "front.json").read_text())["goals"].values()
    assert results["objectives"] == ["accuracy", "latency@one", "latency@eight"] and set(results["devices"]) == {
        "one",
        "eight",
    }
    front = results["front"]["candidates"]
    assert front and all(c["values"]["size"] <= most for c in front)
    assert any(c["values"]["size"] > most for c in results["candidates"])
    rows = np.array(
        [[-c["values"]["accuracy"], c["values"]["latency@one"], c["values"]["latency@eight"]] for c in front]
    )
    assert not any((rows <= row).all(axis=1)[(rows != row).any(axis=1)].any() for row in rows)
    budget = sorted(c["values"]["latency@eight"] for c in front)[len(front) // 2]
    done = command("query", run, "--limit", f"latency@eight <= {budget * 1e3:.17g}ms", "--json")
    (best,) = json.loads(done.stdout)["found"]
    assert best["values"]["latency@eight"] <= budget
    page = (run / "report.html").read_text()
    assert "Every panel shows two of the 3 quantities" in page and "latency on eight" in page


def test_a_new_kind_of_quantity_is_one_entry(finished_run, tmp_path, monkeypatch):
    kind = Kind("activations", "values written", "", False, float, "{:.0f}".format, "counted",
                count=lambda supernet, genes: supernet.costs(genes).activations.sum(axis=1))  # fmt: skip
    monkeypatch.setitem(quantities.KINDS, "activations", kind)
    run = RunFolder(with_goals(finished_run, tmp_path, ["accuracy", "activations"], ["activations <= 1e9"]))
    from experiments import pipeline

    pipeline.search(run, Reporter())
    (results,) = json.loads(run.front.read_text())["goals"].values()
    assert results["objectives"] == ["accuracy", "activations"] and results["front"]["candidates"]
    plan = run.plan("initial")
    assert plan is not None
    column = Known(run, Scorer(run), Reporter()).column(quantity("activations", []), plan.archs)
    assert (column.values > 0).all() and not column.deviations.any()


# -- the best within limits -------------------------------------------------------------------------------------------


def test_a_search_for_the_best_within_limits_proposes_only_for_them(finished_run, tmp_path, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    space, macs = run.untrained_supernet.space, run.untrained_supernet.macs
    known = [arch for plan in run.all_plans() if plan.kind in ("initial", "round") for arch in plan.archs]
    most = float(np.median(macs(space.encode(known))))
    before = len([plan for plan in run.all_plans() if plan.kind == "round"])

    asked = []
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "search", lambda *arguments: asked.append(arguments))
        line = ["search", str(run.path), "--device", "one", "--limit", f"macs <= {most:.0f}", "--evaluations", "3"]
        CliRunner().invoke(app, line, catch_exceptions=False)
    _, _, device, focus, lenders, earlier_runs = asked[0]
    assert device == "one" and focus.evaluations == 3 and lenders is None and not earlier_runs
    rounds = Rounds(run, Reporter(), focus=focus)
    *earlier, plan = iter(rounds.next, None)
    assert len(earlier) == before and len(plan.archs) == 3 and not set(plan.archs) & set(known)
    assert (macs(space.encode(plan.archs)) <= most).all()
    assert {note["proposed_for"] for note in plan.notes} == {"one"}
    assert Rounds(run, Reporter())._n_done() == run.recipe.search.evaluations + 3
    with pytest.raises(ValueError, match=r"nothing learns energy@one for one; name it in search.constraints"):
        within(goals(run), [limit("energy@one <= 3mJ", ["one"])])


def test_limits_belong_to_the_goals_that_are_about_their_devices():
    wanted = [Goal(name, (quality(KINDS), latency(name))) for name in DEVICES]
    fast, small = limit("latency@phone <= 1ms", DEVICES), limit("macs <= 1M", DEVICES)
    assert [(goal.name, goal.limits) for goal in within(wanted, [fast, small])] == [("phone", (fast, small))]
    assert [goal.name for goal in within(wanted, [small])] == DEVICES
    assert [goal.name for goal in within(wanted, [small], "server")] == ["server"]
    with pytest.raises(ValueError, match=r"no goal is about latency@phone .* goals are server"):
        within(wanted[1:], [fast])
