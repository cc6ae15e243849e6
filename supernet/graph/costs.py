"""What a network costs as a function of what its groups keep: operations that were watched, and parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from supernet.graph.groups import DependencyGraph, Quantity
from supernet.graph.tracing import Step
from supernet.networks.counting import COUNTS

__all__ = ["Term", "terms_of"]


@dataclass(frozen=True)
class Term:
    """A product of sizes that is added to some of `COUNTS`, by the module that it belongs to."""

    module: str
    counts: tuple[int, ...]
    factors: tuple[Quantity, ...]

    @property
    def groups(self) -> frozenset[int]:
        """The groups that it depends on."""
        return frozenset(group for factor in self.factors for group, _ in factor.per_unit)

    def __call__(self, kept: Sequence[int]) -> int:
        """For one input."""
        return math.prod(factor(kept) for factor in self.factors)

    def addends(self) -> Iterator[Term]:
        """The same as a sum of terms, none of which depends on more groups than it has factors.

        What reads the outputs of many layers side by side has a width that is a sum over all of them.
        """
        split = [
            [*([Quantity(q.fixed, ())] if q.fixed else []), *(Quantity(0, (one,)) for one in q.per_unit)]
            for q in self.factors
        ]
        for factors in itertools.product(*split):
            yield Term(self.module, self.counts, factors)


def terms_of(graph: DependencyGraph, model: nn.Module) -> list[Term]:
    """All that a network costs, in an order that does not depend on the size of its images."""
    terms = [term for step in graph.steps if step.factors is not None for term in _of_step(graph, step)]
    parameters = (COUNTS.index("parameters"),)
    for name, parameter in model.named_parameters():
        sizes = tuple(graph.axis(name, axis, size) for axis, size in enumerate(parameter.shape))
        terms.append(Term(name.rpartition(".")[0], parameters, sizes))
    return terms


def _of_step(graph: DependencyGraph, step: Step) -> Iterator[Term]:
    written = graph.sizes(step.outputs[0])
    written[0] = _per_example(written[0], graph.batch)
    base = written
    if step.base is not None:
        base = graph.sizes(step.base)
        base[0] = _per_example(base[0], graph.batch)
    factors = [graph.quantity(factor) for factor in step.factors or ()]
    columns = [COUNTS.index("macs")]
    convolution = len(factors) == 2
    if step.weights or convolution:
        full = graph.full
        channels = 1 if convolution else len(written) - 1
        inputs, outputs = factors[0](full), written[channels](full)
        if math.prod(q(full) for i, q in enumerate(written) if i != channels) == 1:
            columns.append(COUNTS.index("pooled"))
        elif convolution and inputs == 1:
            columns.append(COUNTS.index("depth-wise"))
        elif not convolution or factors[1](full) == 1:
            columns.append(COUNTS.index("widening" if outputs > inputs else "narrowing"))
        yield Term(step.module, (COUNTS.index("activations"),), tuple(written))
        yield Term(step.module, (COUNTS.index("layers"),), ())
    kernel = next((graph.kernels[name] for name in step.weights if name in graph.kernels), None)
    if kernel is not None:
        factors = [factors[0], *(Quantity(0, ((kernel.index, 1),)) for _ in range(len(base) - 2))]
    yield Term(step.module, tuple(columns), (*base, *factors))


def _per_example(size: Quantity, batch: int) -> Quantity:
    """Without the examples of the batch that the network was watched with."""
    return size if size.per_unit or size.fixed % batch else Quantity(size.fixed // batch, ())
