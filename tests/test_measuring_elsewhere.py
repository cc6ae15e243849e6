"""The measuring loop, of this machine, of a kit as it is shipped, and in JavaScript: one set of laws for all."""

import inspect
import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hardware.loop import turns as loop_module
from hardware.loop.turns import half_widths
from hardware.remote import measure
from hardware.remote.kit import write_loop

BROWSER = Path(measure.__file__).parent / "browser"
SAMPLING = {
    "relative_half_width": 0.02, "min_turns": 15, "max_turns": 60, "max_seconds": 10.0, "min_repeat_seconds": 2e-4,
    "settling_seconds": 1e-3, "session_networks": 40, "turn_seconds": 2.0, "patience_seconds": 0.0, "seed": 0,
}  # fmt: skip
SCENARIO = {
    "sampling": SAMPLING,
    "milliseconds": {"a": 1.0, "b": 2.0, "c": 0.01, "d": 1.0},
    "noise": 0.0,  # of every call
    "mood": 0.0,  # how much the machine's speed moves, for all networks alike
    "fails": {},  # after how many calls a network fails
    "gone": 1e9,  # seconds after which nothing runs
    "backwards": 0.0,  # seconds by which the clock is set back at every `every`-th run
    "every": 7,
    "doubted": 0,  # every so many turns is doubted
}


def machine(loop, random, math, scenario):
    """Networks on a simulated machine; what it needs is given to it, so that its source runs in a kit as well."""
    rng, order, clock, made, runs = random.Random(1), [], [0.0], {}, [0]

    def network(name):
        def run(calls):
            order.append(name)
            start = clock[0]
            if start > scenario["gone"]:
                raise RuntimeError("the device was unplugged")
            for _ in range(calls):
                made[name] = n = made.get(name, 0) + 1
                if n > scenario["fails"].get(name, 1e9):
                    raise RuntimeError(f"{name} failed\nin two lines")
                spread = math.exp(scenario["noise"] * (rng.random() + rng.random() + rng.random() - 1.5))
                mood = 1 + scenario["mood"] * math.sin(clock[0] / 0.1)
                clock[0] += 1e-3 * (10 if n <= 3 else 1) * scenario["milliseconds"][name] * spread * mood
            runs[0] += 1
            if runs[0] % scenario["every"] == 0:
                clock[0] -= scenario["backwards"]
            return clock[0] - start

        return run

    sampling = loop.Sampling(**scenario["sampling"])
    courses = [loop.Course(name, network(name), sampling) for name in scenario["milliseconds"]]
    return courses, sampling, lambda: clock[0], order


def in_python(scenario, **_):
    courses, sampling, now, order = machine(loop_module, random, math, scenario)
    turns, gone = [], None
    for course in courses:
        course.warm_up()
    warm, start = len(order), now()
    try:
        for number, turn in enumerate(
            loop_module.take_turns(courses, sampling, lambda: now() - start, sampling.seed + 1)
        ):
            turn.doubt = "doubted" if scenario["doubted"] and number % scenario["doubted"] == 0 else ""
            turns.append({"started": turn.started, "seconds": turn.seconds, "doubt": turn.doubt})
    except loop_module.DeviceGoneError as error:
        gone = str(error)
    failed = {course.name: loop_module.one_line(course.error) for course in courses if course.error is not None}
    calls = [course.calls for course in courses]
    return {"turns": turns, "gone": gone, "failed": failed, "calls": calls, "order": order[warm:]}


IN_A_KIT = """
import json, math, random, sys
sys.path.insert(0, sys.argv[1])
import measure
from hardware.loop import turns as loop
MACHINE
courses, sampling, now, order = machine(loop, random, math, json.loads(sys.argv[2]))
entrants = [measure.Entrant({"key": course.name, "resolution": 8}, course, 0.0) for course in courses]
parts, gone = [], None
for course in courses:
    course.warm_up()
warm = len(order)
try:
    for part, share in measure.take_session(entrants, sampling, sampling.seed + 1, [], now):
        parts.append(part)
except loop.DeviceGoneError as error:
    gone = str(error)
turns = [turn | {"doubt": ""} for part in parts for turn in part["turns"]]
failed = {failure["key"]: failure["reason"] for part in parts for failure in part["failures"]}
calls = [network["calls_per_repeat"] for network in parts[0]["networks"]]
told = {"turns": turns, "gone": gone, "failed": failed, "calls": calls, "order": order[warm:], "n": len(parts)}
print(json.dumps(told))
"""


def in_a_kit(scenario, kit, **_):
    script = IN_A_KIT.replace("MACHINE", inspect.getsource(machine))
    command = [sys.executable, "-I", "-c", script, str(kit), json.dumps(scenario)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


IN_JAVASCRIPT = """
import { Course, DeviceGone, firstLine, takeTurns, withTick } from "BROWSER/measuring.js";
const { sampling, milliseconds, noise, mood, fails, gone, backwards, every, doubted } = JSON.parse(process.argv[1]);
let clock = 0, runs = 0, state = 1, warm = 0;
const order = [], made = {}, turns = [];
const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
const network = (name) => async (calls) => {
  order.push(name);
  if (clock > gone * 1000) throw new Error("the device was unplugged");
  for (let i = 0; i < calls; i++) {
    made[name] = (made[name] ?? 0) + 1;
    if (made[name] > (fails[name] ?? 1e9)) throw new Error(`${name} failed\\nin two lines`);
    const spread = Math.exp(noise * (random() + random() + random() - 1.5));
    const speed = 1 + mood * Math.sin(clock / 100);
    clock += (made[name] <= 3 ? 10 : 1) * milliseconds[name] * spread * speed;
  }
  if (++runs % every === 0) clock -= backwards * 1000;
};
let beats = 0;
const pulse = setInterval(() => beats++);
const now = () => (clock += 1e-6);
const limits = withTick(sampling, now);
const names = Object.keys(milliseconds);
const courses = names.map((name) => new Course(network(name), limits, now));
let ended = null;
try {
  for (const course of courses) await course.warmUp();
  warm = order.length;
  for await (const turn of takeTurns(courses, limits, now, limits.seed + 1)) {
    if (doubted && turns.length % doubted === 0) turn.doubt = "doubted";
    turns.push(turn);
  }
} catch (error) {
  ended = firstLine(error);
}
clearInterval(pulse);
const failed = Object.fromEntries(names.map((name, i) => [name, courses[i].error]).filter(([, error]) => error)
  .map(([name, error]) => [name, firstLine(error)]));
const calls = courses.map((course) => course.calls);
console.log(JSON.stringify({ turns, gone: ended, failed, calls, order: order.slice(warm), beats }));
"""


def in_javascript(scenario, node, **_):
    script = IN_JAVASCRIPT.replace("BROWSER", BROWSER.as_uri())
    command = [node, "--input-type=module", "-e", script, json.dumps(scenario)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


LOOPS = {"python": in_python, "kit": in_a_kit, "javascript": in_javascript}


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    write_loop(folder)
    return folder


@pytest.fixture(params=LOOPS)
def run(request, node, kit):
    """What a loop did in a scenario, which the arguments change."""

    def measured(**changes):
        sampling = SAMPLING | {name: changes.pop(name) for name in SAMPLING if name in changes}
        scenario = SCENARIO | {"sampling": sampling} | changes
        return LOOPS[request.param](scenario, node=node, kit=kit)

    return measured


def columns(measured):
    """(n_networks, n_turns) seconds, NaN where one did not take part."""
    return np.array([turn["seconds"] for turn in measured["turns"]], dtype=float).T


def test_the_latencies_are_those_of_the_networks_and_warm_up_is_not_among_them(run):
    measured = run(noise=0.01)
    for calls, seconds, expected in zip(measured["calls"], columns(measured), (1e-3, 2e-3, 1e-5, 1e-3), strict=True):
        assert np.median(seconds) == pytest.approx(expected, rel=0.03)
        assert max(seconds) < 1.1 * expected
        assert np.median(seconds) * calls >= 0.9 * SAMPLING["min_repeat_seconds"]


def test_the_start_of_every_repeat_is_told_and_repeats_come_one_after_the_other(run):
    measured = run(noise=0.01)
    spans = sorted(
        (start, start + seconds * calls)
        for turn in measured["turns"]
        for start, seconds, calls in zip(turn["started"], turn["seconds"], measured["calls"], strict=True)
    )
    assert spans[0][0] >= 0 and len(spans) == 4 * len(measured["turns"])
    assert all(end <= start + 3e-6 for (_, end), (start, _) in itertools.pairwise(spans))


def test_it_ends_when_relative_latencies_are_known_and_no_later(run):
    measured = run(noise=0.4, relative_half_width=0.03, max_turns=400)
    turns = [turn["seconds"] for turn in measured["turns"]]
    assert SAMPLING["min_turns"] < len(turns) < 400 and len(turns) % 5 == 0
    assert max(half_widths(turns)) <= 0.03 < max(half_widths(turns[:-5]))


def test_what_the_machine_does_to_all_networks_costs_no_turns(run):
    measured = run(mood=0.3, noise=0.001, min_turns=50, max_turns=200)
    assert len(measured["turns"]) == 50
    assert np.ptp(np.log(columns(measured)[1])) > 0.2


def test_turns_are_bounded_and_so_is_the_time_of_a_network(run):
    assert len(run(noise=3.0)["turns"]) == SAMPLING["max_turns"]
    measured = run(relative_half_width=1e-6, noise=0.5, milliseconds={"a": 1.0, "b": 50.0, "c": 0.1}, max_seconds=2.0)
    n_turns = (~np.isnan(columns(measured))).sum(axis=1)
    assert n_turns[0] == n_turns[2] == SAMPLING["max_turns"]
    spent = np.nansum(columns(measured)[1]) * measured["calls"][1]
    assert SAMPLING["min_turns"] < n_turns[1] < SAMPLING["max_turns"] and 2.0 <= spent < 2.2
    assert not np.isnan(columns(measured)[1][: n_turns[1]]).any()  # it left, and did not come back


def test_every_turn_has_each_network_once_in_a_new_order_settled_before_it_is_timed(run):
    measured = run(noise=0.01)
    order = measured["order"]
    assert order[::2] == order[1::2] and len(order) == 8 * len(measured["turns"])
    turns = [tuple(order[i : i + 8 : 2]) for i in range(0, len(order), 8)]
    assert all(set(turn) == {"a", "b", "c", "d"} for turn in turns) and len(set(turns)) > 5
    firsts = Counter(turn[0] for turn in run(noise=3.0, max_turns=200)["order"][::8])
    assert len(firsts) == 4 and max(firsts.values()) < 90  # of 200 turns, each network begins about fifty
    assert run(noise=0.01)["order"] == order
    assert run(noise=0.01, seed=1)["order"] != order


def test_small_networks_are_called_often_and_large_ones_once(run):
    measured = run(milliseconds={"a": 0.001, "b": 0.02, "c": 1.0, "d": 60.0})
    at_least = [200, 10, 1, 1]
    assert all(n <= calls <= n + 2 for calls, n in zip(measured["calls"], at_least, strict=True))
    assert len(measured["turns"]) == SAMPLING["min_turns"]


def test_a_network_that_fails_leaves_and_the_others_go_on(run):
    measured = run(fails={"b": 30}, noise=0.01)
    assert list(measured["failed"]) == ["b"] and measured["failed"]["b"].startswith("b failed")
    assert "\n" not in measured["failed"]["b"] and measured["gone"] is None
    there = ~np.isnan(columns(measured))
    assert there[[0, 2, 3]].all() and 0 < there[1].sum() < there.shape[1]


def test_a_device_that_is_gone_ends_it_and_what_was_handed_out_is_good(run):
    measured = run(gone=1.0, relative_half_width=1e-6, noise=0.1, max_turns=400)
    assert "unplugged" in measured["gone"] and 3 < len(measured["turns"]) < 400
    assert not np.isnan(columns(measured)).any()


def test_a_clock_that_is_set_back_is_asked_again(run):
    measured = run(backwards=30.0)
    for seconds, expected in zip(columns(measured), (1e-3, 2e-3, 1e-5, 1e-3), strict=True):
        assert np.median(seconds) == pytest.approx(expected, rel=0.05) and min(seconds) > 0


@pytest.mark.parametrize("run", ["python", "javascript"], indirect=True)
def test_turns_that_are_doubted_do_not_count(run):
    measured = run(doubted=3)
    doubts = [bool(turn["doubt"]) for turn in measured["turns"]]
    assert doubts.count(False) == SAMPLING["min_turns"] and doubts.count(True) >= 7


# -- the kit and the browser alone ------------------------------------------------------------------------------------


def test_a_kit_is_the_files_of_this_project_as_they_are(kit):
    for name in ("cpu.py", "turns.py"):
        assert (kit / "hardware" / "loop" / name).read_bytes() == Path(loop_module.__file__).with_name(
            name
        ).read_bytes()
    assert (kit / "measure.py").read_bytes() == Path(measure.__file__).read_bytes()


def test_a_session_is_written_about_every_ten_seconds(node, kit):
    measured = in_a_kit(SCENARIO | {"milliseconds": {"a": 200.0, "b": 300.0}, "noise": 0.01}, kit)
    assert len(measured["turns"]) == SAMPLING["min_turns"] and measured["n"] in (2, 3)


def test_the_client_stays_in_touch_while_it_measures(node):
    """Its pulse and the messages of the page are timers and events, which promises alone never let in."""
    assert in_javascript(SCENARIO | {"milliseconds": {"a": 50, "b": 50}}, node)["beats"] >= 10


@pytest.mark.parametrize("n_networks", [1, 2, 3, 9])
def test_half_widths_are_the_same_everywhere(node, n_networks):
    rng = np.random.default_rng(n_networks)
    inputs = []
    for n_turns in (6, 15, 29, 30, 61):
        seconds = np.exp(rng.normal(size=n_networks) + 0.2 * rng.standard_t(3, size=(n_turns, n_networks))) * 1e-3
        values = np.where(rng.random(seconds.shape) < 0.2, np.nan, seconds)
        inputs.append([[None if np.isnan(value) else value for value in row] for row in values.tolist()])
    script = f"""import {{ halfWidths }} from "{BROWSER.as_uri()}/measuring.js";
console.log(JSON.stringify(JSON.parse(process.argv[1]).map(halfWidths)))"""
    command = [node, "--input-type=module", "-e", script, json.dumps(inputs)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for turns, javascript in zip(inputs, told, strict=True):
        finite = [math.inf if value is None else value for value in javascript]  # JSON has no word for infinity
        assert finite == pytest.approx(half_widths(turns), rel=1e-6)
