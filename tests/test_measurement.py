"""Measurements: what is said from the raw repeats."""

import json
import math

import numpy as np
import pytest

from hardware import Device, Measurement
from hardware.measurement import median_interval

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)


def test_the_median_lies_in_its_interval():
    seconds = tuple(np.random.default_rng(0).lognormal(size=31))
    measurement = Measurement(DEVICE, "a", 32, seconds)
    low, high = measurement.interval
    assert min(seconds) <= low <= measurement.median <= high <= max(seconds)
    assert measurement.relative_half_width == pytest.approx((high - low) / 2 / measurement.median)


@pytest.mark.parametrize("n", [6, 20, 101])
def test_the_interval_covers_the_true_median_at_least_95_times_in_100(n):
    rng = np.random.default_rng(n)
    intervals = [median_interval(list(row)) for row in rng.exponential(size=(2000, n))]
    covered = np.mean([low <= math.log(2) <= high for low, high in intervals])
    assert covered > 0.94


def test_the_interval_follows_the_binomial_table():
    assert median_interval(range(1, 21)) == (6, 15)  # Conover 1999: ranks 6 and 15 of 20
    assert median_interval(range(1, 6)) == (0, math.inf)  # 5 samples cannot give 95 %
    low, high = median_interval(range(5000))
    assert high - low < 150  # no underflow for many samples


def test_dictionary_round_trip_through_json():
    measurement = Measurement(
        DEVICE,
        "a",
        32,
        (1e-3, 1.1e-3),
        3,
        (2e-4,),
        ("be careful",),
        started=(0.5, 1.5),
        reference_started=(1.0,),
        disturbed=((0.2, 3e-3),),
        extras={"file_bytes": 1e6},
    )
    assert Measurement.from_dict(json.loads(json.dumps(measurement.to_dict()))) == measurement
    assert "1.050 ms" in str(measurement)
    assert measurement.median == pytest.approx(1.05e-3)  # the disturbed repeat takes no part


def test_what_older_versions_wrote_is_read():
    data = Measurement(DEVICE, "a", 32, (1e-3, 1.1e-3), 3, (2e-4,), ("be careful",)).to_dict()
    for name in ("started", "reference_started", "disturbed", "extras"):
        del data[name]
    del data["device"]["options"]
    again = Measurement.from_dict(data)
    assert again.seconds == (1e-3, 1.1e-3) and again.started == () and again.extras == {}
    assert again.device == DEVICE


@pytest.mark.parametrize("seconds", [(), (0.0,), (-1.0,), (math.nan,), (math.inf,)])
def test_impossible_times_are_refused(seconds):
    with pytest.raises(ValueError, match="repeat"):
        Measurement(DEVICE, "a", 32, seconds)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": None},
        {"device": 3},
        {"resolution": 0},
        {"seconds": ["x"]},
        {"started": [0.1, 0.2]},
        {"started": [-0.1]},
        {"reference_started": [0.1]},
        {"disturbed": [[0.1, -1.0]]},
        {"disturbed": [0.1]},
        {"extras": {"energy_joules": math.nan}},
        {"extras": [1.0]},
    ],
)
def test_what_is_not_a_measurement_is_refused(change):
    data = Measurement(DEVICE, "a", 32, (1e-3,)).to_dict()
    with pytest.raises(ValueError):
        Measurement.from_dict({**data, **change})
