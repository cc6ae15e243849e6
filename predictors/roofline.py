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
Mask = NDArray[np.bool_]
Logs = tuple[Numbers, Numbers | None]

_STARTS = (0.35, 0.6)  # shares of the rows that begin on the launch line: those with the least work per layer
_PASSES = 6  # of assigning rows to the lines
_ROUNDS, _ROUGH = 4, 1  # of re-weighting: for what is kept, and to see whether two lines are worth trying
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
    logs: Logs
    """Logarithms of the variances of the computing and, if there is one, of the launching line; see `Line.logs`."""

    @classmethod
    def fit(
        cls, columns: Numbers, y: Numbers, target: Target, groups: tuple[str, ...], start: Roofline | None = None
    ) -> Roofline:
        """Of columns (n_rows, n_columns), y (n_rows,) and the name of each column's group (n_columns,).

        Two lines are tried where columns count layers and errors are relative. They are kept where a paired test of
        leave-one-out errors says so.

        Args:
            start: an earlier fit to rows of the like, near which the variances are sought.
        """
        line = Line.fit(columns, y, target, Groups.of(groups), start.logs[0] if start else None)
        one = cls(line.coefficients[None], np.array([line.intercept]), line.without_itself, (line.logs, None))
        if target != "relative":
            return one
        errors = _errors(one.without_itself, y)
        # Rows are assigned with the variances of the one line: most devices need no second one, and that is soon seen.
        tried = [_Pair.assigned(columns, y, groups, below, one.logs, _ROUGH) for below in _starts(columns, groups)]
        pairs = [pair for pair in tried if pair is not None and pair.errors.mean() < errors.mean()]
        if not pairs:
            return one
        pair = min(pairs, key=lambda pair: pair.errors.mean())
        logs = start.logs if start is not None and start.logs[1] is not None else pair.logs
        learned = pair.learned(columns, y, groups, logs)
        gain = errors - learned.errors
        sure = gain.mean() > max(_ERRORS * gain.std(ddof=1) / np.sqrt(len(y)), _GAIN * errors.mean())
        return learned.model(columns) if sure else one

    def predict(self, columns: Numbers) -> Numbers:
        """(n_rows,) of columns (n_rows, n_columns)."""
        return (columns @ self.coefficients.T + self.intercepts).max(axis=1)


@dataclass(frozen=True)
class _Pair:
    """A line for the rows that are launched and one for those that are computed."""

    compute: Line
    launch: Line
    use: NDArray[np.intp]  # the columns of the launch line
    below: Mask  # (n_rows,) which rows the launch line is of
    without_itself: Numbers  # (n_rows,)
    errors: Numbers  # (n_rows,)

    @property
    def logs(self) -> Logs:
        return self.compute.logs, self.launch.logs

    @classmethod
    def fit(
        cls, columns: Numbers, y: Numbers, names: tuple[str, ...], below: Mask, logs: Logs, learn: bool, rounds: int
    ) -> Self:
        """To rows that are assigned. Without two lines' logarithms, the launch line takes its own from the one's."""
        use = np.flatnonzero([name.endswith(" layers") for name in names])
        groups, layers = Groups.of(names), Groups.of(tuple(names[i] for i in use))
        of_launch = groups.some(logs[0], layers) if logs[1] is None else logs[1]
        launch = Line.fit(columns[np.ix_(below, use)], y[below], "relative", layers, of_launch, learn, rounds)
        compute = Line.fit(columns[~below], y[~below], "relative", groups, logs[0], learn, rounds)
        launching, computing = launch(columns[:, use]), compute(columns)
        launching[below], computing[~below] = launch.without_itself, compute.without_itself
        highest = np.maximum(launching, computing)
        return cls(compute, launch, use, below, highest, _errors(highest, y))

    @classmethod
    def assigned(
        cls, columns: Numbers, y: Numbers, names: tuple[str, ...], below: Mask, logs: Logs, rounds: int
    ) -> Self | None:
        """To the rows on which each is the higher one, found in turn; None where a line is left with too few."""
        pair = None
        for _ in range(_PASSES):
            if min(below.sum(), (~below).sum()) < _FEWEST:
                return None
            pair = cls.fit(columns, y, names, below, logs, learn=False, rounds=rounds)
            before, below = below, pair.launches(columns)
            if (below == before).all():
                break
        return pair

    def learned(self, columns: Numbers, y: Numbers, names: tuple[str, ...], logs: Logs) -> Self:
        """With variances that are learned, and rows assigned once more by the lines that come of it."""
        pair = self.fit(columns, y, names, self.below, logs, learn=True, rounds=_ROUNDS)
        return self.assigned(columns, y, names, pair.launches(columns), pair.logs, _ROUNDS) or pair

    def launches(self, columns: Numbers) -> Mask:
        """(n_rows,) where launching takes longer than computing."""
        return self.launch(columns[:, self.use]) > self.compute(columns)

    def model(self, columns: Numbers) -> Roofline:
        coefficients = np.zeros((2, columns.shape[1]))
        coefficients[0], coefficients[1, self.use] = self.compute.coefficients, self.launch.coefficients
        intercepts = np.array([self.compute.intercept, self.launch.intercept])
        return Roofline(coefficients, intercepts, self.without_itself, self.logs)


def _errors(predicted: Numbers, y: Numbers) -> Numbers:
    """(n_rows,) errors as shares of y, of which none counts for more than all of it."""
    return np.minimum(np.abs(predicted / y - 1), 1)


def _starts(columns: Numbers, groups: tuple[str, ...]) -> list[Mask]:
    """Which rows (n_rows,) may begin on the launch line: those with the least work in the network per layer."""
    is_layers = np.array([group == "network layers" for group in groups])
    is_work = np.array([group.startswith("network ") for group in groups]) & ~is_layers
    if not is_layers.any() or not is_work.any():
        return []
    per_layer = columns[:, is_work].sum(axis=1) / np.maximum(columns[:, is_layers].sum(axis=1), 1e-12)
    return [per_layer <= np.quantile(per_layer, share) for share in _STARTS]
