"""The one place where a sign flips, and the limits of constraints."""

import numpy as np
import pytest

from search.front import Axis
from search.objectives import Constraint, Objective

GENES = np.arange(3)[:, None]


def test_a_loss_is_small_where_the_value_is_good() -> None:
    values = np.array([1.0, 2.0])
    np.testing.assert_array_equal(Axis("accuracy", "", True).loss(values), [-1.0, -2.0])
    np.testing.assert_array_equal(Axis("latency", "s", False).loss(values), [1.0, 2.0])


def test_violation_is_a_share_of_the_limit() -> None:
    def cost(genes: np.ndarray) -> np.ndarray:
        return 10.0 * genes[:, 0]

    np.testing.assert_allclose(Constraint("cost", cost, upper=10).violation(GENES), [-1, 0, 1])
    np.testing.assert_allclose(Constraint("cost", cost, lower=10).violation(GENES), [1, 0, -1])
    assert (Constraint("cost", cost, upper=15, lower=5).violation(GENES) <= 0).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="no limit"):
        Constraint("cost", cost)
    with pytest.raises(ValueError, match="lower 3 is above upper 2"):
        Constraint("cost", cost, upper=2, lower=3)


@pytest.mark.parametrize("values", [np.zeros(2), np.zeros((3, 1)), np.array([1.0, np.nan, 2.0])])
def test_values_are_checked(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"accuracy (gave values of shape|is nan)"):
        Objective("accuracy", "", True, lambda genes: values).values(GENES)
