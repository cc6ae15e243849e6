"""The task of a run: its metric and loss found by their names, and tried out before anything is paid for."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments.settings.task import TaskSettings
from supernet.plugins import imported
from supernet.task import CLASSIFICATION, Metric, Task

if TYPE_CHECKING:
    from experiments.run_folder import RunFolder

__all__ = ["create_task", "try_task"]

_TRIED = 16  # examples


def create_task(settings: TaskSettings | None) -> Task:
    """The task that a recipe names; classification where it names none.

    Raises:
        ValueError: a function cannot be found, or cannot be called with outputs and targets.
    """
    if settings is None:
        return CLASSIFICATION
    rows, loss = _function("metric", settings.metric, 2), _function("loss", settings.loss, 2)
    summary = None if settings.summary is None else _function("summary", settings.summary, 1)
    metric = Metric(
        settings.metric_name, settings.unit, settings.larger_is_better, rows,
        **({} if summary is None else {"summary": summary}),
    )  # fmt: skip
    said = [settings.metric, settings.summary, settings.larger_is_better, _source(rows), summary and _source(summary)]
    return Task(metric, loss, hashlib.sha256(repr(said).encode()).hexdigest()[:16])


def try_task(run: RunFolder, network: Callable[[Tensor], Tensor], who: str) -> Tensor:
    """The outputs (n, ...) of a network for some validation images, once loss and metric were found to take them.

    Args:
        run: its data, at the largest resolution, and its task.
        network: from images (n, channels, height, width) to outputs.
        who: it is, for messages.

    Raises:
        ValueError: the network does not take the images, or loss or metric not its outputs; or they give something else
            than finite numbers.
    """
    task, settings = run.task, run.recipe.task
    images, targets = next(iter(run.data.evaluation_batches("validation", 2 if settings is None else _TRIED)))
    n, shapes = len(images), f"{who} on images {list(images.shape)} with targets {list(targets.shape)}"
    try:
        with torch.no_grad():
            outputs = network(images)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{who} does not run on images {list(images.shape)}: {_line(error)}") from error
    if not isinstance(outputs, Tensor) or outputs.shape[:1] != (n,):
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"{who} returns {found} for {n} images; outputs must be a tensor [{n}, ...]")
    if settings is None:
        if tuple(outputs.shape) != (n, run.n_outputs):
            raise ValueError(
                f"{who} returns {list(outputs.shape)} for {n} images; the data has {run.n_outputs} classes: logits "
                f"must be [{n}, {run.n_outputs}]"
            )
        if targets.dtype != torch.int64 or targets.ndim != 1:
            raise ValueError(
                f"{run.recipe.data.source} has targets {list(targets.shape)} of {targets.dtype}, and labels of classes "
                "are int64 (n,); say what the networks are for in [task]"
            )
        return outputs
    outputs = outputs.detach().requires_grad_()
    loss = _tried("loss", settings.loss, lambda: task.loss(outputs, targets), shapes, list(outputs.shape))
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad or not torch.isfinite(loss):
        found = f"{list(loss.shape)} {loss.detach().flatten()[:1].tolist()}" if isinstance(loss, Tensor) else repr(loss)
        raise ValueError(
            f"task.loss {settings.loss} gives {found} for {shapes}; it must be one finite number with a gradient, the "
            "mean over the batch"
        )
    outputs = outputs.detach()
    rows = _tried("metric", settings.metric, lambda: task.metric.rows(outputs, targets), shapes, list(outputs.shape))
    if not isinstance(rows, Tensor) or rows.ndim not in (1, 2) or len(rows) != n:
        found = list(rows.shape) if isinstance(rows, Tensor) else repr(rows)
        raise ValueError(
            f"task.metric {settings.metric} gives {found} for {n} examples; give a row for every one, [{n}] or [{n}, "
            "k]; task.summary makes one number of all rows"
        )
    try:
        value = float(task.metric.summary(rows))
    except Exception as error:  # somebody else's code
        name = settings.summary or f"{settings.metric} has rows {list(rows.shape)}: their mean"
        raise ValueError(f"task.summary {name} failed: {type(error).__name__}: {_line(error)}") from error
    task.metric.checked(value, shapes)
    return outputs


def _tried(what: str, name: str, call: Callable[[], Any], shapes: str, outputs: list[int]) -> Any:
    """What a function of the user's gives; its troubles in one line."""
    try:
        with warnings.catch_warnings():
            # torch's losses take a column against a row for a matrix, and only warn.
            warnings.filterwarnings("error", message="Using a target size")
            return call()
    except Exception as error:
        reason = f"{type(error).__name__}: {_line(error)}"
        raise ValueError(f"task.{what} {name} failed on outputs {outputs} of {shapes}: {reason}") from error


def _function(what: str, name: str, n: int) -> Callable[..., Any]:
    """The function of that name, if it can be called with so many arguments."""
    found = imported(name, f"task.{what} {name}")
    if not callable(found):
        raise ValueError(f"task.{what} {name} is a {type(found).__name__}, not a function")
    try:
        inspect.signature(found).bind(*[None] * n)
    except TypeError as error:
        given = "outputs and targets" if n == 2 else "the rows of all examples"
        raise ValueError(f"task.{what} {name} cannot be called with {given}: {_line(error)}") from error
    except ValueError:
        pass  # a function of C may have no signature
    return found


def _source(function: Callable[..., Any]) -> str:
    """The code of the module of a function, or as much of it as there is to see."""
    try:
        return inspect.getsource(inspect.getmodule(function) or function)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return repr(getattr(function, "__name__", function))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
