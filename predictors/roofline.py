"""The higher of two lines: what launching takes, and what computing takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from predictors.line import Groups, Line
from predictors.protocol import Target

__all__ = ["Roofline"]

Numbers = NDArray[np.float64]
Indices = NDArray[np.intp]

_STARTS = (0.35, 0.6)  # shares of the rows that begin on the launch line: those with the least work per layer
_PASSES = 6  # of assigning rows to the lines
_FEWEST = 8  # rows of a line
_GAIN = 0.05  # of the mean leave-one-out error, without which one line is enough
_ERRORS = 2.0  # standard errors of that gain


@dataclass(frozen=True)
class Roofline:
    """One line in all columns or, where it is surely better, the higher of that and one in the layers alone.

    A GPU that is given one image at a time waits for its kernels to be launched until there is more to compute than
    that takes (the roofline model, Williams et al. 2009, with launches in the place of memory).
    """

    coefficients: Numbers
    """(n_lines, n_columns) in the unit of y."""
    intercepts: Numbers
    """(n_lines,) in the unit of y."""
    without_itself: Numbers
    """(n_rows,) every row predicted from the others, with the variances and the assignment of all."""
    lines: tuple[Line, ...]
    """The computing one first."""

    @classmethod
    def fit(
        cls, columns: Numbers, y: Numbers, target: Target, groups: tuple[str, ...], start: Roofline | None = None
    ) -> Self:
        """Of columns (n_rows, n_columns), y (n_rows,) and the name of each column's group (n_columns,).

        Two lines are tried where columns count layers and errors are relative.

        Args:
            start: an earlier fit to rows of the like, near which the variances are sought.
        """
        compute = Line.fit(columns, y, target, Groups.of(groups), start.lines[0].logs if start else None)
        one = cls(compute.coefficients[None], np.array([compute.intercept]), compute.without_itself, (compute,))
        launches = np.array([i for i, group in enumerate(groups) if group.endswith(" layers")], dtype=np.intp)
        if target != "relative" or not len(launches):
            return one
        warm = (compute.logs, start.lines[1].logs if start is not None and len(start.lines) > 1 else None)
        tried = [_two(cls, columns, y, groups, launches, below, warm) for below in _starts(columns, groups)]
        found = [two for two in tried if two is not None]
        if not found:
            return one
        errors = [np.minimum(np.abs(model.without_itself / y - 1), 1) for model in (one, *found)]
        best = 1 + int(np.argmin([error.mean() for error in errors[1:]]))
        gain = errors[0] - errors[best]
        sure = gain.mean() > max(_ERRORS * gain.std(ddof=1) / np.sqrt(len(y)), _GAIN * errors[0].mean())
        return found[best - 1] if sure else one

    def predict(self, columns: Numbers) -> Numbers:
        """(n_rows,) of columns (n_rows, n_columns)."""
        return (columns @ self.coefficients.T + self.intercepts).max(axis=1)


def _starts(columns: Numbers, groups: tuple[str, ...]) -> list[NDArray[np.bool_]]:
    """Which rows (n_rows,) may begin on the launch line: those with the least work in the network per layer."""
    of_network = [group.startswith("network ") for group in groups]
    is_layers = [group == "network layers" for group in groups]
    if not any(is_layers) or sum(of_network) == sum(is_layers):
        return []
    layers = columns[:, is_layers].sum(axis=1)
    work = columns[:, of_network].sum(axis=1) - layers
    per_layer = work / np.maximum(layers, 1e-12)
    return [per_layer <= np.quantile(per_layer, share) for share in _STARTS]


def _two(
    cls: type[Roofline],
    columns: Numbers,
    y: Numbers,
    groups: tuple[str, ...],
    launches: Indices,
    below: NDArray[np.bool_],
    warm: tuple[Numbers, Numbers | None],
) -> Roofline | None:
    """Both lines, each from the rows on which it is the higher one; None where a line is left with too few."""
    layers = Groups.of(tuple(groups[i] for i in launches))
    compute_logs, launch_logs = warm
    for _ in range(_PASSES):
        if min(below.sum(), (~below).sum()) < _FEWEST:
            return None
        launch = Line.fit(columns[np.ix_(below, launches)], y[below], "relative", layers, launch_logs)
        compute = Line.fit(columns[~below], y[~below], "relative", Groups.of(groups), compute_logs)
        compute_logs, launch_logs = compute.logs, launch.logs
        launching, computing = launch(columns[:, launches]), compute(columns)
        before, below = below, launching > computing
        if (below == before).all():
            break
    coefficients = np.zeros((2, columns.shape[1]))
    coefficients[0], coefficients[1, launches] = compute.coefficients, launch.coefficients
    launching[before] = launch.without_itself
    computing[~before] = compute.without_itself
    return cls(
        coefficients,
        np.array([compute.intercept, launch.intercept]),
        np.maximum(launching, computing),
        (compute, launch),
    )
