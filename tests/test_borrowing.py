"""A device that learns from others: what it is told by them, what it measures, and how its front comes about."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from experiments.editing import forget
from experiments.plans import search_plans
from experiments.run_folder import RunFolder
from predictors import (
    KnownDevice,
    KnownDevices,
    RidgePredictor,
    create_predictor,
    load_predictor,
    save_predictor,
)
from predictors.testing import SPACE, subject

KINDS = {name: [i for i, gene in enumerate(SPACE.genes) if gene.name == name] for name in ("kernel", "expand")}


def sample(n, seed=0):
    return SPACE.canonical(SPACE.sample_genes(n, np.random.default_rng(seed)))


def takes(genes, kernels=1.0, launch=1.0, late=0.0):
    """Seconds on a device, by its own prices: of a kernel, of launching a block, and of the later stages."""
    values, active = np.nan_to_num(SPACE.values(genes)), SPACE.active(genes)
    area, total = (values[:, 0] / 32) ** 2, 20e-6 * launch * np.ones(len(genes))
    for place, (kernel, expand) in enumerate(zip(KINDS["kernel"][:9], KINDS["expand"], strict=True)):
        work = values[:, expand] * (20 + kernels * values[:, kernel] ** 2) * (1 + late * place / 9)
        total = total + active[:, kernel] * (5e-6 * launch + 2e-7 * work * area)
    return total


def device(name, family="", seed=0, **prices):
    genes = sample(120, 50 + seed)
    noise = np.random.default_rng(seed).normal(1, 0.01, len(genes))
    return KnownDevice(name, family or name, genes, takes(genes, **prices) * noise, lambda g: takes(g, **prices))


KNOWN = KnownDevices(
    SPACE,
    [
        device("laptop", seed=1),
        device("server", seed=2, kernels=0.5, launch=0.2),
        device("board", seed=3, kernels=2.0, late=0.5),
        device("board-b8", "board", seed=4, kernels=2.0, launch=0.1, late=0.5),
    ],
)
ABOUT = replace(subject(), devices=KNOWN)
NEW = {"kernels": 1.4, "launch": 0.6, "late": 0.3}


def error(predictor, genes, prices):
    return float(np.mean(np.abs(predictor.predict(genes) / takes(genes, **prices) - 1)))


def learned(name, rows, prices, about=ABOUT):
    y = takes(rows, **prices) * np.random.default_rng(9).normal(1, 0.01, len(rows))
    return create_predictor(name, about, "relative").fit(rows, y)


# -- what others say --------------------------------------------------------------------------------------------------


def test_ten_measurements_and_other_devices_say_more_than_ten_measurements():
    pool, unseen = sample(300, 3), sample(500, 4)
    rows = pool[KNOWN.informative(pool, 10, ABOUT.terms)]
    with_others, alone = (error(learned(name, rows, NEW), unseen, NEW) for name in ("transfer", "ridge"))
    assert with_others < 0.02 and with_others < 0.5 * alone


def test_with_many_measurements_others_do_no_harm():
    """Even if they are nothing like the new device."""
    rows, unseen, strange = sample(100, 5), sample(500, 4), {"kernels": 0.0, "launch": 30.0}
    with_others, alone = (error(learned(name, rows, strange), unseen, strange) for name in ("transfer", "ridge"))
    assert with_others < 1.3 * alone + 0.002


def test_a_burst_while_the_ten_were_measured_moves_little():
    pool, unseen = sample(300, 3), sample(500, 4)
    rows = pool[KNOWN.informative(pool, 10, ABOUT.terms)]
    y = takes(rows, **NEW)
    y[4] *= 3
    assert error(create_predictor("transfer", ABOUT, "relative").fit(rows, y), unseen, NEW) < 0.04


def test_chosen_ones_tell_more_than_drawn_ones():
    unseen, chosen, drawn = sample(500, 4), [], []
    for seed in range(6):
        pool = sample(100, 100 + seed)
        rows = pool[KNOWN.informative(pool, 5, ABOUT.terms)]
        chosen.append(error(learned("transfer", rows, NEW), unseen, NEW))
        drawn.append(error(learned("transfer", pool[:5], NEW), unseen, NEW))
    assert np.mean(chosen) < 0.9 * np.mean(drawn)


def test_what_is_chosen_is_there_each_once_and_not_the_fastest():
    pool = sample(100, 7)
    rows = KNOWN.informative(pool, 10, ABOUT.terms)
    assert len(set(rows.tolist())) == 10 and set(rows.tolist()) <= set(range(100))
    fastest = np.argsort(takes(pool))[:4]
    assert not set(rows.tolist()) & set(fastest.tolist())
    assert len(KNOWN.informative(pool[:6], 10, ABOUT.terms)) == 6


def test_the_prior_is_learned_from_the_devices():
    """Where devices are alike but for a factor, nothing is expected beside their mean."""
    alike = KnownDevices(SPACE, [device(f"d{i}", seed=i) for i in range(5)])
    groups = list(dict.fromkeys((*alike.columns.groups, *ABOUT.terms.groups)))
    means = [dict(zip(groups, one.prior(ABOUT.terms).means, strict=False)) for one in (alike, KNOWN)]
    for group in ("devices apart", "network widening", "network other", "network layers"):
        if group in means[0]:
            assert means[0][group] <= means[1][group] + 0.1
    assert sum(means[0].values()) < sum(means[1].values())


def test_one_device_is_enough_and_none_is_refused():
    one = KnownDevices(SPACE, [device("laptop")])
    assert one.columns.names == ("mean of devices",)
    rows = sample(10, 3)
    predictor = learned("transfer", rows, {"launch": 1.2}, replace(subject(), devices=one))
    assert error(predictor, sample(200, 4), {"launch": 1.2}) < 0.05
    with pytest.raises(ValueError, match="no device is known"):
        KnownDevices(SPACE, [])


def test_others_of_its_family_are_left_out_while_there_are_others(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "predictors.known_devices._variances",
        lambda device, features: seen.append((device.name, features.parts[0].names)) or {},
    )
    KnownDevices(SPACE, KNOWN.devices).prior(ABOUT.terms)
    assert dict(seen)["board"] == ("mean of devices", "laptop apart", "server apart")
    assert dict(seen)["laptop"] == ("mean of devices", "server apart", "board apart", "board-b8 apart")


def test_it_is_a_ridge_whose_file_is_refused_by_others(tmp_path):
    predictor = learned("transfer", sample(12), NEW)
    assert isinstance(predictor, RidgePredictor)
    save_predictor(predictor, tmp_path / "p.json")
    fewer = replace(ABOUT, devices=KnownDevices(SPACE, KNOWN.devices[:2]))
    with pytest.raises(ValueError, match="other costs; fit it again"):
        load_predictor(tmp_path / "p.json", create_predictor("transfer", fewer, "relative"))


def refused(command, *arguments):
    done = command(*arguments, check=2)
    assert "Traceback" not in done.stderr
    return done.stderr


# -- a run ------------------------------------------------------------------------------------------------------------


def measured_by_a_kit(command, run, folder):
    """What a stranger does: carry the kit there, run it, bring the results back."""
    shutil.rmtree(folder, ignore_errors=True)
    command("device", "kit", run, "--device", "board", "--threads", "2", "--batch-size", "3", "--out", folder)
    script = [sys.executable, "-I", str(folder / "measure.py")]
    subprocess.run(script, capture_output=True, text=True, timeout=200, check=True)
    command("device", "import", run, folder / "results.jsonl")


@pytest.mark.slow
def test_a_device_learns_from_those_of_its_run_and_of_another(finished_run, tmp_path, command):
    run, other, kit = tmp_path / "run", tmp_path / "other", tmp_path / "kit"
    shutil.copytree(finished_run, run)
    shutil.copytree(finished_run, other)
    search = ("search", run, "--device", "board", "--from", "one,other-eight", "--archive", other)
    few = refused(command, *search)
    assert "one has measured 16 networks; to be learned from it needs 20" in few
    command("profile", run, "--device", "one", "--n", "24")
    command("profile", other, "--device", "eight", "--n", "24")
    told = refused(command, *search)
    assert "board has 10 sub-networks to measure: `supernet device serve" in told
    said = ""
    for _ in range(6):  # ten, a round, what may be on the front; once more where this has changed who may be
        measured_by_a_kit(command, run, kit)
        done = command(*search, check=None)
        said = done.stdout
        if done.returncode == 0:
            break
        assert "still to measure" in done.stderr
    assert "board learns from one (" in said and "measured side by side" in said
    folder = RunFolder(run)
    known = folder.predictors / "board" / "known"
    assert {path.name for path in known.iterdir()} == {"one", "other-eight"}
    assert [plan.kind for plan in search_plans(folder, "board")] == ["transfer", "round"]
    results = json.loads((run / "front.json").read_text())["goals"]["board"]
    origins = {one["extras"]["origin"] for one in results["candidates"]}
    assert origins <= {"new device", "search round 1"} and results["front"]
    assert len(results["candidates"]) <= 26
    assert "latency" in command("query", run, "--device", "board").stdout
    # Whoever lends later or no more is up to date.
    command("search", run, "--device", "board", "--from", "one")
    assert {path.name for path in known.iterdir()} == {"one"}


def test_what_cannot_be_borrowed_is_one_line(finished_run, command):
    for options, reason in {
        ("--from", "all"): "--from needs --device",
        ("--device", "one", "--from", "eight"): "'one' is measured with the run",
        ("--device", "new", "--from", "nobody"): "no device 'nobody' to learn from; there are one, eight",
    }.items():
        said = refused(command, "search", finished_run, *options)
        assert reason in said


def test_what_was_lent_stays_when_predictors_are_made_anew(tmp_path):
    for name in ("accuracy.json", "board/latency@board.json", "board/known/one/device.json"):
        path = tmp_path / "predictors" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert forget(tmp_path, {"fit.predictors": ((), ("ridge",))}, {"board"}) == ["predictors"]
    left = [path.relative_to(tmp_path / "predictors").as_posix() for path in tmp_path.rglob("*.json")]
    assert left == ["board/known/one/device.json"]
