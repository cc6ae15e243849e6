"""What happens when training collapses: back to the last good checkpoint with a lower rate, so many times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CollapseError", "Rollback"]


class CollapseError(ValueError):
    """Training has collapsed: something is not finite, or the largest network has lost what it had learnt.

    Attributes:
        reason: what was seen, without the way out that the message ends with.
    """

    def __init__(self, reason: str, way_out: str = "train with a lower learning rate, or clip gradients") -> None:
        super().__init__(f"{reason}; {way_out}")
        self.reason = reason


@dataclass(frozen=True)
class Rollback:
    """What happens when training collapses: back to the last good checkpoint, with a lower learning rate.

    Collapse is a loss or a weight that is not finite, or a validation in which the largest network is more than
    `margin` worse than its best so far. A checkpoint is good when it passed that.

    Attributes:
        at_most: rollbacks of a run; after them a collapse is an error.
        factor: of the learning rate, each time.
        margin: of the accuracy that `validate` calls "largest", in [0, 1]; None, as where that is no accuracy: only
            what is not finite is a collapse.
    """

    at_most: int = 3
    factor: float = 0.5
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.at_most < 0:
            raise ValueError(f"{self.at_most} rollbacks are not possible; 0 is none")
        if not 0 < self.factor < 1:
            raise ValueError(f"a rollback must lower the learning rate: factor {self.factor} is not between 0 and 1")
        if self.margin is not None and not 0 < self.margin <= 1:
            raise ValueError(f"margin {self.margin} is no fall of accuracy in (0, 1]; None is no limit")

    def check(self, validation: Mapping[str, float], best: float | None, step: int) -> float | None:
        """The best accuracy of the largest network so far, this validation included; None before the first, and without
        a margin.

        Raises:
            CollapseError: it has fallen by more than the margin, or is not finite.
        """
        accuracy = validation.get("largest")
        if accuracy is None:
            return best
        if not math.isfinite(accuracy):
            raise CollapseError(f"the validation of the largest network is {accuracy} after step {step}")
        if self.margin is None:
            return best
        if best is not None and accuracy < best - self.margin:
            raise CollapseError(
                f"the largest network has fallen from {best:.1%} to {accuracy:.1%} after step {step}, by more than the "
                f"margin of {self.margin:.1%}"
            )
        return accuracy if best is None else max(best, accuracy)
