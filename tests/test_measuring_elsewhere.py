"""The loop that devices elsewhere measure with, in JavaScript and in the bundle's script, on a clock of our own."""

import itertools
import json
import math
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hardware.measurement import median_interval
from hardware.remote import measure

BROWSER = Path(measure.__file__).parent / "browser"
SAMPLING = {
    "relative_half_width": 0.02, "min_repeats": 15, "max_repeats": 60, "max_seconds": 10.0, "min_repeat_seconds": 2e-4,
    "settling_seconds": 1e-3, "group_size": 8, "drift": 0.05, "seed": 0,
}  # fmt: skip

# A machine whose calls take 1 ms times its speed, ten times that in the first three of a network, with noise.
SCENARIO = """
import { Campaign } from "BROWSER/measuring.js";
const { sampling, noise, level, speeds, backwards, every } = JSON.parse(process.argv[1]);
let now = 0, turns = 0, state = 1;
const order = [];
const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
function network(name) {
  let made = 0;
  return async (calls) => {
    order.push(name);
    for (let i = 0; i < calls; i++) {
      const spread = Math.exp(noise * (random() + random() + random() - 1.5));
      now += (made++ < 3 ? 10 : 1) * speeds[name] * spread;
    }
    if (++turns % every === 0) now -= backwards;
  };
}
let beats = 0;
const pulse = setInterval(() => beats++);
const ticks = () => (now += 1e-4);
const campaign = new Campaign(network("reference"), sampling, ticks);
const names = Object.keys(speeds).filter((name) => name !== "reference");
campaign.measure(names.map(network), level).finally(() => clearInterval(pulse)).then(
  (measured) => console.log(JSON.stringify({ ...measured, order, beats })),
  (error) => console.log(JSON.stringify({ error: error.message })),
);
"""


def in_javascript(node, **scenario):
    script = SCENARIO.replace("BROWSER", BROWSER.as_uri())
    command = [node, "--input-type=module", "-e", script, json.dumps(scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def in_python(node, *, sampling, noise, level, speeds, backwards, every):
    rng, order, turns = random.Random(1), [], itertools.count(1)
    clock = [0.0]

    def network(name):
        made = itertools.count()

        def run(calls):
            order.append(name)
            for _ in range(calls):
                spread = math.exp(noise * (rng.random() + rng.random() + rng.random() - 1.5))
                clock[0] += 1e-3 * (10 if next(made) < 3 else 1) * speeds[name] * spread
            if next(turns) % every == 0:
                clock[0] -= backwards * 1e-3

        return measure.Course(run, sampling, lambda: clock[0])

    reference = network("reference")
    courses = [network(name) for name in speeds if name != "reference"]
    try:
        measure.measure_group(reference, courses, level, sampling, np.random.default_rng(sampling["seed"]))
    except ValueError as error:
        return {"error": str(error)}
    results = [{"seconds": c.seconds, "started": c.started, "calls_per_repeat": c.calls} for c in courses]
    told = {"reference_seconds": reference.seconds, "reference_started": reference.started}
    return {**told, "results": results, "order": order}


@pytest.fixture(params=[in_javascript, in_python], ids=["javascript", "python"])
def loop(request, node):
    def run(noise=0.0, level=None, speeds=None, backwards=0.0, every=7, **changes):
        speeds = speeds or {"reference": 1.0, "a": 1.0, "b": 2.0, "c": 0.01}
        sampling = {**SAMPLING, **changes}
        return request.param(
            node, sampling=sampling, noise=noise, level=level, speeds=speeds, backwards=backwards, every=every
        )

    return run


def test_the_medians_are_those_of_the_networks_and_warm_up_is_not_among_them(loop):
    measured = loop(noise=0.01)
    for result, expected in zip(measured["results"], (1e-3, 2e-3, 1e-5), strict=True):
        assert np.median(result["seconds"]) == pytest.approx(expected, rel=0.03)
        assert max(result["seconds"]) < 1.1 * expected
        assert np.median(result["seconds"]) * result["calls_per_repeat"] >= 0.9 * SAMPLING["min_repeat_seconds"]
    assert np.median(measured["reference_seconds"]) == pytest.approx(1e-3, rel=0.03)


def test_the_start_of_every_repeat_is_told(loop):
    measured = loop(noise=0.01)
    own = {"seconds": measured["reference_seconds"], "started": measured["reference_started"], "calls_per_repeat": 1}
    spans = []
    for result in [own, *measured["results"]]:
        assert len(result["started"]) == len(result["seconds"]) >= SAMPLING["min_repeats"]
        spans += [
            (start, start + seconds * result["calls_per_repeat"])
            for start, seconds in zip(result["started"], result["seconds"], strict=True)
        ]
    spans.sort()
    assert spans[0][0] > 0  # warming up comes first
    assert all(end <= start + 2e-6 for (_, end), (start, _) in itertools.pairwise(spans))  # one after the other


def test_repeats_go_on_until_the_interval_is_tight(loop):
    measured = loop(noise=0.2, relative_half_width=0.03, max_repeats=400)
    numbers = [len(result["seconds"]) for result in measured["results"]]
    assert max(numbers) > SAMPLING["min_repeats"] and len(set(numbers)) > 1
    for result in measured["results"]:
        low, high = median_interval(result["seconds"])
        assert (high - low) / 2 / np.median(result["seconds"]) <= 0.03
        low, high = median_interval(result["seconds"][:-1])  # and no longer than that
        assert len(result["seconds"]) == 15 or (high - low) / 2 / np.median(result["seconds"][:-1]) > 0.03


def test_repeats_are_bounded(loop):
    assert [len(r["seconds"]) for r in loop(noise=3.0)["results"]] == [60, 60, 60]
    speeds = {"reference": 1.0, "a": 1.0, "b": 2.0}
    for result in loop(noise=0.5, speeds=speeds, relative_half_width=1e-6, max_seconds=0.05)["results"]:
        assert len(result["seconds"]) < 60
        assert sum(result["seconds"]) * result["calls_per_repeat"] < 0.1


def test_turns_are_interleaved_in_random_order_with_the_reference_network(loop):
    order = loop()["order"]
    turns = [tuple(order[i : i + 8 : 2]) for i in range(len(order) - 15 * 8, len(order), 8)]
    assert all(set(turn) == {"reference", "a", "b", "c"} for turn in turns)
    assert len(set(turns)) > 5
    assert loop()["order"] == order
    assert loop(seed=1)["order"] != order


def test_a_reference_network_off_its_level_makes_the_group_be_measured_again(loop):
    calm, drifted = (len(loop(level=level)["order"]) for level in (1e-3, 2e-3))
    assert drifted >= calm + 15 * 8


def test_a_clock_that_is_set_back_is_asked_again(loop):
    measured = loop(backwards=30.0)
    for result, expected in zip(measured["results"], (1e-3, 2e-3, 1e-5), strict=True):
        assert np.median(result["seconds"]) == pytest.approx(expected, rel=0.05)
        assert min(result["seconds"]) > 0


def test_a_clock_that_never_goes_forward_is_an_error(loop):
    assert "the clock of this device does not go forward" in loop(backwards=1e9, every=1)["error"]


def test_the_client_stays_in_touch_while_it_measures(node):
    """Its pulse and the messages of the page are timers and events, which promises alone never let in."""
    scenario = {"sampling": SAMPLING, "noise": 0, "level": None, "speeds": {"reference": 50, "a": 50}}
    assert in_javascript(node, **scenario, backwards=0, every=7)["beats"] >= 10


def test_the_interval_of_the_median_is_the_same_everywhere(node):
    rng = np.random.default_rng(0)
    samples = [rng.lognormal(size=n).tolist() for n in (6, 7, 15, 16, 40, 399, 400, 1000)]
    script = f"""import {{ halfWidth }} from "{BROWSER.as_uri()}/measuring.js";
console.log(JSON.stringify(JSON.parse(process.argv[1]).map(halfWidth)))"""
    command = [node, "--input-type=module", "-e", script, json.dumps(samples)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for values, javascript in zip(samples, told, strict=True):
        low, high = median_interval(values)
        expected = (high - low) / 2 / np.median(values)
        assert javascript == pytest.approx(expected)
        assert measure.half_width(values) == pytest.approx(expected)
