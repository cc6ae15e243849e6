"""The `[task]` section of a recipe: what networks are for, where that is not classification."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from experiments.quantities import KINDS, Kind, kinds_with
from experiments.settings.values import Address, Count, Section

__all__ = ["TaskSettings"]

_RESERVED = {*KINDS, "loss", "n_images"}  # what already means something beside a metric


def _free(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} is no name of a metric; take letters, digits and _, not beginning with a digit")
    if name in _RESERVED:
        raise ValueError(f"{name!r} already means something else; give the metric another name")
    return name


class TaskSettings(Section):
    """A metric and a loss of one's own, in the place of accuracy and cross-entropy."""

    metric: Address
    """'package.module:function' of outputs and targets of a batch: one row for every example, (n,) or (n, k)."""
    larger_is_better: bool
    """The direction of the metric."""
    loss: Address
    """'package.module:function' of outputs and targets of a batch: their mean loss, such as
    'torch.nn.functional:mse_loss'."""
    summary: Address | None = None
    """'package.module:function' of the rows of a whole split: the metric, a number; default their mean."""
    name: Annotated[str, AfterValidator(_free)] | None = None
    """What the metric is called in goals and tables; default the name of its function."""
    unit: Annotated[str, Field(max_length=12)] = ""
    """Of the metric, for people, such as 'px'."""
    n_outputs: Count | None = None
    """Outputs of the networks (`num_classes`); default the classes of integer targets, else the second size of
    targets."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name is None:
            try:
                _free(self.metric_name)
            except ValueError as error:
                raise ValueError(f"{error}: set task.name") from None
        if self.unit != self.unit.strip() or re.search(r"[\d<>=]", self.unit):
            raise ValueError(f"unit {self.unit!r} cannot be told from numbers and limits; take letters")
        return self

    @property
    def metric_name(self) -> str:
        """What the metric is called."""
        return self.name or re.split(r"[:.]", self.metric)[-1]

    @property
    def told(self) -> dict[str, Any]:
        """What files say of the metric, for `kinds_with`."""
        return {"name": self.metric_name, "unit": self.unit, "larger_is_better": self.larger_is_better}

    @property
    def kinds(self) -> dict[str, Kind]:
        """The quantities that there are for this task."""
        return kinds_with(self.told)
