"""Laws of the non-dominated filter, the front and its questions."""

import subprocess
import sys

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from search.front import Axis, Candidate, ParetoFront, hypervolume, non_dominated
from supernet.architecture import Architecture, Block

AXES = (Axis("accuracy", "", True), Axis("latency", "s", False))


def candidate(resolution: int, accuracy: float, latency: float) -> Candidate:
    arch = Architecture(resolution, ((Block(kernel=3),),))
    return Candidate(arch, {"accuracy": accuracy, "latency": latency}, {"note": "x"})


def dominated(losses: np.ndarray) -> np.ndarray:
    no_worse = (losses[:, None] <= losses[None]).all(axis=2)
    better = (losses[:, None] < losses[None]).any(axis=2)
    return np.any(no_worse & better, axis=0)


@pytest.mark.parametrize("n_axes", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [4, 1000])
def test_non_dominated_is_what_no_row_dominates(n_axes: int, levels: int) -> None:
    rng = np.random.default_rng(n_axes)
    for n in (0, 1, 2, 60):
        losses = rng.integers(levels, size=(n, n_axes)).astype(float)
        expected = ~dominated(losses) if n else np.zeros(0, dtype=bool)
        np.testing.assert_array_equal(non_dominated(losses), expected)


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_hypervolume_equals_pymoo(n_axes: int) -> None:
    losses = np.random.default_rng(1).random((50, n_axes)) * 1.2
    reference = np.ones(n_axes)
    inside = losses[(losses < 1).all(axis=1)]
    assert hypervolume(losses, reference) == pytest.approx(float(HV(ref_point=reference)(inside)), rel=1e-12)  # type: ignore[arg-type]


def test_front_keeps_the_best_once_and_starts_with_the_fastest() -> None:
    members = [candidate(3, 0.9, 3.0), candidate(1, 0.7, 1.0), candidate(2, 0.8, 2.0)]
    front = ParetoFront([*members, candidate(4, 0.75, 2.5), candidate(1, 0.99, 0.1)], AXES)
    assert [c.arch.resolution for c in front] == [1, 2, 3]  # the second candidate of resolution 1 does not count
    np.testing.assert_array_equal(front.values("latency"), [1.0, 2.0, 3.0])


def test_hypervolume_of_a_front_in_units() -> None:
    front = ParetoFront([candidate(1, 0.7, 1.0), candidate(2, 0.8, 2.0)], AXES)
    assert front.hypervolume({"latency": 3.0, "accuracy": 0.5}) == pytest.approx(0.2 * 2 + 0.1 * 1)
    with pytest.raises(ValueError, match="needs a value of accuracy, latency"):
        front.hypervolume({"latency": 3.0})


def test_best_holds_the_budget() -> None:
    front = ParetoFront([candidate(1, 0.7, 0.001), candidate(2, 0.8, 0.002), candidate(3, 0.9, 0.003)], AXES)
    assert front.best("accuracy").arch.resolution == 3
    assert front.best("accuracy", latency=0.002).arch.resolution == 2
    assert front.best("latency", accuracy=0.75).arch.resolution == 2
    assert [c.arch.resolution for c in front.within("accuracy", latency=0.0025)] == [2, 1]
    with pytest.raises(ValueError, match=r"no candidate fits latency ≤ 0.0005; the nearest .* comes is latency 0.001"):
        front.best("accuracy", latency=0.0005)
    with pytest.raises(ValueError, match="no axis 'energy'; it has accuracy, latency"):
        front.best("accuracy", energy=1.0)
    with pytest.raises(ValueError, match="empty"):
        ParetoFront([], AXES).best("accuracy")


def test_front_survives_json() -> None:
    import json

    front = ParetoFront([candidate(1, 0.7, 1 / 3), candidate(2, 0.8, 2.0)], AXES)
    assert ParetoFront.from_dict(json.loads(json.dumps(front.to_dict()))) == front
    for broken in ({}, {"axes": 3, "candidates": []}, {**front.to_dict(), "candidates": [{"arch": 1}]}):
        with pytest.raises(ValueError, match="not a"):
            ParetoFront.from_dict(broken)


def test_candidates_need_finite_values() -> None:
    with pytest.raises(ValueError, match="no finite latency"):
        ParetoFront([candidate(1, 0.5, float("nan"))], AXES)
    with pytest.raises(ValueError, match="different names"):
        ParetoFront([], [AXES[0], AXES[0]])


def test_reading_a_front_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'pymoo', 'scipy', 'sklearn', 'xgboost', 'moocore', 'timm'}"
    code = f"import predictors, sys; from search import ParetoFront; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
