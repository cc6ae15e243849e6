"""The command line as a stranger uses it, on a small run: real training, real measurements, real files."""

import csv
import io
import json
import re
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from timm.models import MobileNetV3

from experiments import querying
from experiments.commands.tables import next_commands, print_answer
from experiments.fitting import Fitted
from experiments.front_schema import FrontFile, json_schema
from experiments.goals import Goal
from experiments.known import Known
from experiments.optima import optima_of
from experiments.quantities import KINDS, Limit, latency, quality, quantity
from experiments.run_folder import RunFolder
from experiments.subjects import subject
from predictors import GaussianProcessPredictor, RidgePredictor
from supernet import Architecture, load_subnet


def front(run):
    return json.loads((run / "front.json").read_text())


def believed(told):
    return told["posterior"]["accuracy"]["value"]


def test_a_run_leaves_every_artefact(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert names >= {
        "recipe.toml", "run.json", "checkpoints", "supernet.safetensors", "store.sqlite", "plans", "predictors",
        "front.json", "comparison.json", "front.png", "report.html", "baselines",
    }  # fmt: skip
    provenance = json.loads((finished_run / "run.json").read_text())
    assert provenance["seed"] == 0 and provenance["libraries"]["torch"] == torch.__version__.partition("+")[0]


def test_a_finished_run_is_left_alone(command, copied_run, recipe_path):
    before = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*") if path.is_file()}
    done = command("run", recipe_path, "--out", copied_run)
    assert "is finished already; nothing to do" in done.stdout
    assert "report.html" in done.stdout and done.stdout.count("supernet ") >= 3
    after = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*") if path.is_file()}
    passing = (".in-use", "origin.json")  # the lock, and where the recipe lay that was named last
    assert {p: t for p, t in after.items() if "sqlite-" not in p.name and p.name not in passing} == {
        p: t for p, t in before.items() if p.name not in passing
    }


def test_the_front_is_measured_and_ordered(finished_run):
    content = front(finished_run)
    assert set(content["goals"]) == {"one", "eight"}
    for name, results in content["goals"].items():
        at = f"latency@{name}"
        points = [(c["values"][at], c["values"]["accuracy"]) for c in results["front"]["candidates"]]
        assert points == sorted(points) and len({a for _, a in points}) == len(points)
        with sqlite3.connect(finished_run / "store.sqlite") as database:
            query = "SELECT key FROM networks JOIN sessions ON sessions.id = session WHERE fingerprint = ?"
            measured = {key for (key,) in database.execute(query, [results["devices"][name]["fingerprint"]])}
        assert {c["id"] for c in results["candidates"]} <= measured
    slow, fast = (content["goals"][d]["reference"][f"latency@{d}"] for d in ("eight", "one"))
    assert slow > 2 * fast  # two devices of really different cost


def test_nothing_is_scored_twice_or_planned_twice_and_what_is_compared_is_in_one_session(finished_run):
    anchors = [row["id"] for row in json.loads((finished_run / "plans/initial.json").read_text())["architectures"]]
    with sqlite3.connect(finished_run / "store.sqlite") as database:
        n, distinct = database.execute("SELECT count(*), count(DISTINCT key || digest || split) FROM scores").fetchone()
        assert n == distinct > 0
        times = database.execute(
            """SELECT key, resolution, fingerprint, count(*) FROM networks JOIN sessions ON sessions.id = session
            WHERE purpose = 'planned' GROUP BY 1, 2, 3"""
        ).fetchall()
        assert times and all(count == 1 for key, _, _, count in times if key not in anchors[:8])
    comparison = json.loads((finished_run / "comparison.json").read_text())
    for device, goal in zip(comparison["devices"], comparison["goals"], strict=True):
        (level,) = (session for session in device["sessions"] if session["is_level"])
        with sqlite3.connect(finished_run / "store.sqlite") as database:
            query = "SELECT key FROM networks WHERE session = ? AND n_repeats >= 20"
            together = {key for (key,) in database.execute(query, [level["id"]])}
        chosen = {point["id"] for one in goal["series"] if one["name"] != "measured sub-networks"
                  for point in one["points"]}  # fmt: skip
        assert chosen and together >= chosen and level["purpose"] == "final"
        assert front(finished_run)["goals"][goal["name"]]["devices"][device["name"]]["session"] == level["id"]


def test_query_finds_the_most_accurate_that_holds_the_budget(command, finished_run):
    results, at = front(finished_run)["goals"]["one"], "latency@one"
    candidates = sorted(results["candidates"], key=lambda c: c["values"][at])
    budget = candidates[len(candidates) // 2]["values"][at]
    holding = [c for c in candidates if c["values"][at] <= budget]
    done = command("query", finished_run, "--device", "one", "--latency", f"{budget * 1e3:.17g}ms", "--json")
    (best,) = json.loads(done.stdout)["found"]
    assert believed(best) == max(believed(c["extras"]) for c in holding)
    assert best["values"][at] <= budget
    low, high = best["intervals"][at]
    assert low <= best["values"][at] <= high and 0 <= best["share_of_runs_within"][at] <= 1
    listed = command("query", finished_run, "--device", "one", "--latency", f"{budget * 1e3:.17g}ms", "--top", 5)
    ids = re.findall(r"^([0-9a-f]{10}) ", listed.stdout, flags=re.MULTILINE)
    assert ids[0] == best["id"] and len(ids) == min(5, len(holding))


def test_the_front_is_a_table_for_other_programs(command, finished_run):
    members = front(finished_run)["goals"]["one"]["front"]["candidates"]
    rows = list(
        csv.DictReader(io.StringIO(command("query", finished_run, "--device", "one", "--front", "--csv").stdout))
    )
    assert [row["id"] for row in rows] == [member["id"] for member in members]
    for row, member in zip(rows, members, strict=True):
        assert float(row["latency@one"]) == member["values"]["latency@one"]
        assert [float(row[f"latency@one {end}"]) for end in ("low", "high")] == member["extras"]["intervals"][
            "latency@one"
        ]
    limit = f"latency@one <= {members[0]['values']['latency@one'] * 1e3 * 1.0001:.17g}ms"
    only = command("query", finished_run, "--device", "one", "--front", "--csv", "--limit", limit).stdout
    assert len(only.splitlines()) == 2
    for more, message in ((("--csv", "--json"), "give one"), (("--front", "--verify"), "without --front")):
        done = command("query", finished_run, "--device", "one", *more, check=2)
        assert message in done.stderr and done.stderr.count("\n") == 1


def test_the_file_of_fronts_is_as_its_schema_says(finished_run):
    found = front(finished_run)
    FrontFile.model_validate(found)
    assert json_schema() == (Path(__file__).parents[1] / "docs" / "front.schema.json").read_text(encoding="utf-8")
    for goal in found["goals"].values():
        believed, ids = goal["posterior"], {candidate["id"] for candidate in goal["candidates"]}
        assert set(believed["front"]) <= set(believed["membership"]) <= ids
        assert all(0 < chance <= 1 for chance in believed["membership"].values())
        assert believed["hypervolume"] > 0 and 0 <= believed["weights"]["accuracy"] <= 1
        for candidate in goal["candidates"]:
            low, high = candidate["extras"]["intervals"][goal["objectives"][1]]
            assert 0.9 * low < candidate["extras"]["posterior"][goal["objectives"][1]]["value"] < 1.1 * high
    with pytest.raises(ValidationError, match="extra"):
        FrontFile.model_validate(found | {"extra": 1})


def test_where_models_are_sums_a_query_says_the_optimum_and_its_bound(finished_run, capsys):
    run = RunFolder(finished_run)
    space, macs = run.untrained_supernet.space, run.untrained_supernet.macs
    accuracy, cost = quality(KINDS), quantity("macs", [])
    goal = Goal("accuracy, macs", (accuracy, cost))
    some = np.unique(space.sample_genes(40, np.random.default_rng(0)), axis=0)
    scores = 0.5 + 0.4 * (macs(some) / macs(some).max()) ** 0.3
    known = Known(run, None, None)  # type: ignore[arg-type]  # of no device
    for predictor, is_sum in ((RidgePredictor, True), (GaussianProcessPredictor, False)):
        features = subject(run, accuracy).terms if is_sum else subject(run, accuracy).levels
        model = predictor(features, n_folds=2).fit(some, scores)
        optima = optima_of(run, goal, known, {accuracy: Fitted(model, {}, "")})
        assert (optima is not None) == is_sum
        if optima is None:
            continue
        entry = front(finished_run)["goals"]["one"]
        results = entry | {"objectives": ["accuracy", "macs"], "limits": [], "optima": json.loads(json.dumps(optima))}
        many = space.sample_genes(3000, np.random.default_rng(1))
        held = Limit(cost, float(np.median(macs(many))), upper=True)
        found = querying.optimum(results, [held])
        assert found is not None
        best = found["predicted"]["accuracy"]
        assert found["predicted"]["macs"] <= held.value and best <= found["bound"]["accuracy"] < best + 0.02
        assert best >= model.predict(many[macs(many) <= held.value]).max() - 1e-9
        genes = space.encode([Architecture.from_dict(found["architecture"])])
        assert model.predict(genes)[0] == pytest.approx(best)
        print_answer(results, querying.answer(results, [held], 1), [held], finished_run, found)
        assert f"the models expect most of {found['id']}" in capsys.readouterr().out
        assert querying.optimum(results, [Limit(latency("one"), 1.0, upper=True)]) is None
        assert querying.optimum(results, [Limit(cost, 1.0, upper=True)]) is None


def test_a_budget_nobody_meets_says_what_the_fastest_needs(command, finished_run):
    done = command("query", finished_run, "--device", "one", "--latency", "1ns", check=2)
    assert "not a time" in done.stderr
    done = command("query", finished_run, "--device", "one", "--latency", "0.001us", check=2)
    assert re.search(
        r"no measured sub-network has latency@one ≤ .*: the fastest sub-network needs [\d.]+ µs", done.stderr
    )


def test_query_holds_budgets_of_what_was_measured_beside_the_latency(command, finished_run):
    candidates = front(finished_run)["goals"]["one"]["candidates"]
    sizes = sorted(candidate["values"]["size@one"] for candidate in candidates)
    limit = sizes[len(sizes) // 2]
    found = json.loads(command("query", finished_run, "--device", "one", "--size", f"{limit:.0f}B", "--json").stdout)
    (row,) = found["found"]
    assert row["values"]["size@one"] <= limit
    small = [c for c in candidates if c["values"]["size@one"] <= limit]
    assert believed(row) == max(believed(c["extras"]) for c in small)
    done = command("query", finished_run, "--device", "one", "--size", "1B", check=2)
    assert "no measured sub-network has size@one ≤ 1.00 B: the smallest sub-network needs" in done.stderr
    calls = {c["id"]: (c["values"], c["extras"]["intervals"]) for c in candidates}
    for values, intervals in calls.values():
        low, high = intervals["stability@one"]
        assert 0 <= low <= values["stability@one"] <= high <= 1
        assert intervals["latency.p95@one"][0] <= values["latency.p95@one"] <= intervals["latency.p95@one"][1]
    steady = sorted(values["stability@one"] for values, _ in calls.values())[-3]
    asked = ("query", finished_run, "--device", "one", "--limit", f"stability@one >= {steady:.6f}")
    row = json.loads(command(*asked, "--json").stdout)["found"][0]
    assert calls[row["id"]][0]["stability@one"] >= steady and "stability" in command(*asked).stdout
    done = command("query", finished_run, "--device", "one", "--memory", "20MB", check=2)
    assert "memory@one was not measured here; the costs of [[devices]]" in done.stderr


def test_help_and_query_come_at_once(command, finished_run):
    def seconds(*arguments):
        started = time.perf_counter()
        command(*arguments)
        return time.perf_counter() - started

    # The promised limits; importing torch alone would take seconds. The fastest of three, since machines stutter.
    assert min(seconds("--help") for _ in range(3)) < 0.5
    assert min(seconds("query", finished_run, "--device", "one") for _ in range(3)) < 1


def test_a_bundle_runs_without_anything_of_ours(command, copied_run, tmp_path):
    arch = front(copied_run)["goals"]["eight"]["front"]["candidates"][0]
    out = tmp_path / "bundle"
    printed = command("export", copied_run, "--arch", arch["id"], "--device", "eight", "--out", out).stdout
    assert arch["id"] in printed and "on test" in printed
    card = json.loads((out / "card.json").read_text())
    assert card["accuracy"]["validation"] == pytest.approx(arch["values"]["accuracy"])
    assert card["latency"]["interval"][0] <= card["latency"]["seconds"] <= card["latency"]["interval"][1]
    assert card["device"]["batch_size"] == 8 and card["onnx_difference"] <= 1e-4
    subnet = load_subnet(out)
    assert isinstance(subnet, MobileNetV3)
    images = np.random.default_rng(0).standard_normal(card["input"]["shape"], dtype=np.float32)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images})
    with torch.no_grad():
        expected = subnet(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(np.asarray(logits), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    again = command("export", copied_run, "--arch", arch["id"], "--out", out, check=2)
    assert "exists and is not empty" in again.stderr


def test_an_interrupted_step_is_done_again_and_no_more(command, finished_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    expected = front(run)
    (run / "front.json").unlink()
    missing = command("compare", run, check=2)
    assert "has no front.json; make it with `supernet search" in missing.stderr
    printed = command("search", run).stdout
    assert "everything planned is measured" in printed and "measured on" not in printed
    for name, results in front(run)["goals"].items():  # predictions were made anew, from all that was measured since
        before = {c["id"]: c["values"] for c in expected["goals"][name]["candidates"]}
        assert {c["id"] for c in results["candidates"]} == before.keys()
        for candidate in results["candidates"]:
            for name, value in before[candidate["id"]].items():
                by_chance = ".p9" in name or name.startswith("stability")  # the slowest of twenty repeats
                near = 0.5 if by_chance else 0.1  # on another session's level, each known to 10 % in this recipe
                assert candidate["values"][name] == pytest.approx(value, rel=near), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", "{empty}"), "{empty} has no front.json; search first: `supernet search {empty}`"),
        (("query", "{empty}/none"), "{empty}/none is not a folder"),
        (("profile", "{empty}"), "{empty} is not a run: it has no recipe.toml"),
        (("query", "{run}"), "has 2 goals; name one with --device or --goal: one; eight"),
        (("query", "{run}", "--device", "three"), "no device 'three' in {run}; there are one, eight"),
        (("query", "{run}", "--device", "one", "--latency", "15 parsecs"), "'15 parsecs' is not a time"),
        (("query", "{run}", "--device", "one", "--macs", "many"), "'many' is not a count"),
        (("query", "{run}", "--device", "one", "--limit", "latenz <= 3ms"), "did you mean 'latency'?"),
        (("query", "{run}", "--device", "one", "--limit", "latency@two <= 3ms"), "there is no device 'two'"),
        (("query", "{run}", "--device", "one", "--limit", "latency: 3ms"), "'latency: 3ms' is no limit"),
        (("query", "{run}", "--goal", "three"), "no goal 'three' in {run}; there are one; eight"),
        (("export", "{run}", "--arch", "zzz", "--out", "{empty}/b"), "no architecture of {run} has the id 'zzz'"),
        (("run", "{empty}/none.toml"), "none.toml: there is no such recipe"),
    ],
)
def test_bad_input_gets_one_line(command, finished_run, tmp_path, arguments, message):
    places = {"empty": tmp_path, "run": finished_run}
    done = command(*(argument.format(**places) for argument in arguments), check=2)
    assert message.format(**places) in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("evaluations = 4", "evaluation = 4", "did you mean 'evaluations'"),
        ("kernels = [3, 5]", "kernels = [3, 4]", "4 is not an odd number"),
        ("depths = [1, 2]", "depths = [0, 2]", "depths"),
        ('timm_models = ["lcnet_035"]', 'timm_models = ["lcnet_036"]', "timm has no model 'lcnet_036'"),
        ("[data]\n", '[data]\nsource = "folder"\nroot = "/nowhere/images"\n', "/nowhere/images"),
        ('name = "eight"', 'name = "one"', "two devices are named 'one'"),
        ("evaluations = 4", 'evaluations = 4\nobjectives = ["accuracy", "latenzy@one"]', "did you mean 'latency'?"),
        ("evaluations = 4", 'evaluations = 4\nobjectives = ["accuracy"]', "a front needs two or more"),
        ("evaluations = 4", 'evaluations = 4\nconstraints = ["size <= 5 bananas"]', "'5 bananas' is not a size"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_done(
    command, recipe_path, tmp_path, old, new, message
):
    text = recipe_path.read_text()
    assert old in text
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace(old, new))
    done = command("run", broken, "--out", tmp_path / "run", check=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_progressive_shrinking_runs_on_the_same_way(command, recipe_path, tmp_path):
    one = "{ epochs = 1, peak_lr = 0.05 }"
    text = recipe_path.read_text().replace("640", "128")
    start, stop = text.index("[training]"), text.index("[[devices]]")
    shrinking = f"""[training]
method = "progressive_shrinking"
largest = {one}
full = {one}
step = {one}
last_step = {one}
"""
    recipe = tmp_path / "shrinking.toml"
    recipe.write_text(text[:start] + shrinking + text[stop:])
    command("train", recipe, "--out", tmp_path / "run")
    lines = (tmp_path / "run" / "checkpoints" / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["largest", "kernel", "depth 1", "expand 1"]
    assert (tmp_path / "run" / "supernet.safetensors").exists()


@pytest.mark.slow
def test_a_timm_model_becomes_the_supernet_of_a_run(command, recipe_path, tmp_path):
    text = recipe_path.read_text().replace("640", "128")
    start, stop = text.index("[supernet.space]"), text.index("[training]")
    model = """[supernet]
name = "elastic"
[supernet.timm]
model = "test_efficientnet"
resolutions = [24, 32]
"""
    recipe = tmp_path / "elastic.toml"
    recipe.write_text(text[:start] + model + text[stop:])
    command("train", recipe, "--out", tmp_path / "run")
    weights = load_file(tmp_path / "run" / "supernet.safetensors")
    timm_model = timm.create_model("test_efficientnet", num_classes=10, in_chans=1)
    assert timm_model.state_dict().keys() <= weights.keys()  # timm's names, hence a timm checkpoint
    recipe.write_text(text[:start] + model.replace("test_efficientnet", "test_efficientnett") + text[stop:])
    done = command("train", recipe, "--out", tmp_path / "other", check=2)
    assert "test_efficientnett" in done.stderr and done.stderr.count("\n") == 1


def test_suggested_commands_can_be_run_where_no_shell_would_find_them(finished_run, monkeypatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/supernet", "demo"])
    monkeypatch.setenv("PATH", "")
    assert "\n  .venv/bin/supernet query " in next_commands(finished_run)
    monkeypatch.setattr("sys.argv", ["/somewhere/__main__.py", "demo"])
    assert "\n  supernet query " in next_commands(finished_run)


def test_a_folder_of_another_recipe_or_of_something_else_is_refused(command, finished_run, recipe_path, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(recipe_path.read_text().replace("epochs = 2, peak_lr = 0.1", "epochs = 2, peak_lr = 0.2"))
    done = command("run", other, "--out", finished_run, check=2)
    assert "holds the run of another recipe: training.schedule.peak_lr was 0.1 and is 0.2" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    done = command("run", other, "--out", tmp_path / "mine", check=2)
    assert "is not empty and is not a run" in done.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    done = command("run", other, "--out", tmp_path / "mine" / "letter.txt", check=2)
    assert "is a file; give a folder" in done.stderr
    done = command("run", other, "--out", "/proc/run", check=2)
    assert done.stderr.count("\n") == 1 and "/proc" in done.stderr


@pytest.mark.parametrize("damage", ["truncated", "another network"])
def test_wrong_weights_are_refused(command, finished_run, tmp_path, damage):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    (run / "front.json").unlink()
    (run / "report.html").unlink()
    weights = run / "supernet.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        shutil.copy(run / "baselines" / "lcnet_035.safetensors", weights)
    arch = json.loads((run / "plans" / "initial.json").read_text())["architectures"][0]["id"]
    done = command("export", run, "--arch", arch, "--out", tmp_path / "bundle", check=2)
    assert f"{weights} is damaged or of another network" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("verb", ["train", "run"])
@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_one_line_and_no_half_files(commands, recipe_path, tmp_path, verb):
    # A limit on the size of files fails like a full disk: in the middle of a write.
    run = tmp_path / "run"
    done = commands.begin(verb, recipe_path, "--out", run, file_bytes=40 * 1024).end()
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert not list(run.rglob("*.safetensors")) and not list(run.rglob("step-*.pt"))


def test_a_folder_that_cannot_be_written_is_one_line(command, finished_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    report = (run / "report.html").read_bytes()
    (run / "comparison.json").unlink()
    (run / "comparison.json").mkdir()  # also for root, whom permissions do not stop, no file can take its place
    done = command("compare", run, check=2)
    assert done.stderr.count("\n") == 1 and "directory" in done.stderr
    assert (run / "report.html").read_bytes() == report
