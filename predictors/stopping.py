"""When enough is measured: the error of a predictor in cross-validation, with how unsure it is, against a limit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from predictors.protocol import Values

__all__ = ["Goal", "Progress"]

_FORM = re.compile(r"\s*(error|tau)\s*(<=|>=|≤|≥)\s*([0-9]*\.?[0-9]+)\s*(%?)\s*")
# Times the mean error that errors spread at least: a dozen of them may not have seen a burst, and would be too sure.
_LEAST_SPREAD = 1.3
_FEWEST = 3  # steps from which a curve can be drawn
_FARTHEST = 20  # times what is measured, beyond which a curve says nothing


@dataclass(frozen=True)
class Progress:
    """How good a predictor of `n` measured architectures is."""

    n: int
    value: float
    """Mean error as a share of the measurement, or Kendall τ, in cross-validation."""
    deviation: float
    """Its standard error over the architectures."""


@dataclass(frozen=True)
class Goal:
    """What a predictor is to reach before measuring stops: ``error <= 5%`` or ``tau >= 0.9``."""

    of_error: bool
    limit: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what people write; ValueError where it is not of that form."""
        match = _FORM.fullmatch(text)
        goal = None
        if match and (match[1] == "error") == (match[2] in ("<=", "≤")):
            goal = cls(match[1] == "error", float(match[3]) / (100 if match[4] else 1))
        if goal is None or not 0 < goal.limit < 1:
            raise ValueError(f"{text!r} is no goal of a predictor; write 'error <= 5%' or 'tau >= 0.9'")
        return goal

    def __str__(self) -> str:
        return f"error <= {100 * self.limit:g}%" if self.of_error else f"tau >= {self.limit:.3g}"

    def progress(self, y: Values, out_of_fold: Values) -> Progress:
        """Of y (n,) and predictions (n,) by models fitted anew without the architecture."""
        n = len(y)
        if self.of_error:
            error = np.abs(out_of_fold / y - 1)
            spread = max(float(error.std(ddof=1)), _LEAST_SPREAD * float(error.mean()))
            return Progress(n, float(error.mean()), spread / math.sqrt(n))
        agreement = np.sign(y[:, None] - y) * np.sign(out_of_fold[:, None] - out_of_fold)
        of_each = agreement.sum(axis=1) / (n - 1)
        return Progress(n, float(of_each.mean()), float(2 * of_each.std(ddof=1) / np.sqrt(n)))

    def met(self, progress: Progress) -> bool:
        """Whether the limit is kept even if the estimate is a standard error too good."""
        if self.of_error:
            return progress.value + progress.deviation <= self.limit
        return progress.value - progress.deviation >= self.limit

    def describe(self, progress: Progress) -> str:
        """One line for people."""
        form = ".1%" if self.of_error else ".3f"
        name = "error" if self.of_error else "τ"
        return f"{progress.n} known: {name} {progress.value:{form}} ± {progress.deviation:{form}} in five folds"

    def verdict(self, steps: Sequence[Progress]) -> str:
        """What to say where the goal was not reached."""
        needed = self.needed(steps)
        if needed is not None:
            return f"{self} is not reached; by the curve so far it takes about {needed} architectures"
        if len(steps) < _FEWEST:
            return f"{self} is not reached; measure more to see what it takes"
        return f"{self} is not reached, and by the curve so far no number of architectures is enough"

    def needed(self, steps: Sequence[Progress]) -> int | None:
        """How many architectures it would take, by the curve so far; None where it does not get there, or no one knows.

        An error is taken to fall towards a floor, the noise, as 1 / n; the steps count by how many they are of.
        """
        if len(steps) < _FEWEST:
            return None
        n = np.array([step.n for step in steps], dtype=float)
        safe = np.array([step.value + (step.deviation if self.of_error else -step.deviation) for step in steps])
        slope, floor = np.polyfit(1 / n, safe, 1, w=np.sqrt(n))
        missing = self.limit - floor
        if missing * slope <= 0 or slope / missing > _FARTHEST * n[-1]:
            return None
        return max(int(np.ceil(slope / missing)), int(n[-1]) + 1)
