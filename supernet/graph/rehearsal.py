"""Try smaller networks out without data: which attributes have to follow, and what cannot be made smaller after all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from supernet.graph.assembly import Assembler, Fit
from supernet.graph.attributes import fits_of, follows, known_sizes
from supernet.graph.blocks import Run
from supernet.graph.groups import DependencyGraph, Quantity, moved
from supernet.graph.kernels import Kernel
from supernet.graph.loosening import sizes_read
from supernet.graph.rules import shapes_of
from supernet.graph.tracing import Step, numbers_in, performed, plain_attention

__all__ = ["Rehearsal"]

_MOVES = {"view", "_unsafe_view", "_reshape_alias", "clone", "alias", "contiguous", "detach", "expand", "_to_copy"}
_FRACTIONS = (0.5, 0.75, 1.0)
_MOST_TRIALS = 240
_MOST_OF_SIZES = 120  # trials after which no size that code reads is tried any more


class _Differs(Exception):
    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class _Follower(TorchDispatchMode):
    """Compares what a smaller network does with what the graph expects of it, operation by operation."""

    def __init__(self, expected: Iterator[tuple[int, Step, list[tuple[int, ...]]]], whole: bool) -> None:
        super().__init__()
        self.expected = expected
        self.whole = whole  # whether the network must end where the expectation does
        self._next()

    def _next(self) -> None:
        self.at, self.step, self.shapes = next(self.expected, (-1, Step("aten::nothing", ""), []))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = performed(func, args, kwargs or {})
        name = func._schema.name.split("::")[1]
        if name not in _MOVES and (self.whole or self.at >= 0):
            if func._schema.name != self.step.name:
                raise _Differs(self.at, f"{name} instead of {self.step.name.split('::')[1]}")
            if (found := shapes_of(out)[: len(self.shapes)]) != self.shapes:
                raise _Differs(self.at, f"{name} puts out {found} instead of {self.shapes}")
            if (numbers := numbers_in(args)) != self.step.numbers:
                raise _Differs(self.at, f"{name} by {numbers} instead of {self.step.numbers}")
            self._next()
        return out


class Rehearsal:
    """Finds out what of a graph really works with the code of the network.

    Attributes:
        assembler: puts sub-networks together.
        fixed: groups that cannot shrink after all, with the reason.
        ties: groups that must keep the same share, as the group that stands for each.
        lowest: the fewest blocks of every row with which the code of the network still works.
        kernels: those that can shrink.
    """

    def __init__(self, graph: DependencyGraph, model: nn.Module, multiple_of: int = 8) -> None:
        self.graph = graph
        self.multiple_of = multiple_of
        self.model = model
        self._modules = dict(model.named_modules())
        self.fixed: dict[int, str] = {}
        self.ties: dict[int, int] = {}
        self.lowest: dict[Run, int] = {}
        self.kernels: tuple[Kernel, ...] = ()
        self.known = known_sizes(graph, self._modules)
        self.fits: dict[str, list[Fit]] = fits_of(graph, self._modules, self.known)
        self._read: set[type[nn.Module]] = set()  # classes whose code has been read for sizes
        self.assembler = Assembler(graph, self.fits, model)
        self._sizes = [[graph.sizes(o) for o in step.outputs] for step in graph.steps]
        self._inputs = moved(graph.inputs, graph.device)
        # From where shapes follow values, as after the selection of boxes, all that is asked is that it runs.
        self._n_steps = next((i for i, step in enumerate(graph.steps) if step.by_value), len(graph.steps))
        self._trials = 0

    def run(self) -> None:
        """Try out the smallest network and some others, and draw the conclusions."""
        rng = np.random.default_rng(0)
        everything = {run: len(run.names) for run in self.graph.runs}
        self._settle(lambda: self._kept([0.5] * len(self.graph.groups)), everything)
        for _ in range(2):
            shares = rng.choice(_FRACTIONS, len(self.graph.groups)).tolist()
            self._settle(lambda shares=shares: self._kept(shares), everything, tie=True)
        half = self._kept([0.5] * len(self.graph.groups))
        self.lowest = {run: max(1, run.n_fixed) for run in self.graph.runs}
        if self._fails(half, self.lowest):
            for run in self.graph.runs:
                n, low = len(run.names), self.lowest[run]
                tries = dict.fromkeys((low, *(max(low, k) for k in (-(-n // 2), -(-3 * n // 4), n - 2, n - 1)), n))
                fits = (d for d in tries if d == n or not self._fails(self._full(), {**everything, run: d}))
                self.lowest[run] = next(fits)
        self.kernels = self._shrinking(tuple(self.graph.kernels.values()), everything)

    def _shrinking(self, kernels: tuple[Kernel, ...], depths: Mapping[Run, int]) -> tuple[Kernel, ...]:
        """Those kernels of which the centre alone changes the shape of nothing."""
        kept = self._full()
        for kernel in kernels:
            kept[kernel.index] = 3
        if not kernels or self._fails(kept, depths) is None:
            return kernels
        half = len(kernels) // 2
        return (*self._shrinking(kernels[:half], depths), *self._shrinking(kernels[half:], depths)) if half else ()

    # -- one trial ----------------------------------------------------------------------------------------------------

    def _kept(self, shares: Sequence[float]) -> list[int]:
        kept = self._full()
        for group in self.graph.groups:
            leader = self.leader(group.index)
            if group.index not in self.fixed:
                kept[group.index] = self.graph.groups[leader].kept(shares[leader], self.multiple_of)
        return kept

    def _full(self) -> list[int]:
        return self.graph.full

    def leader(self, group: int) -> int:
        """The group whose share this one has."""
        while group in self.ties:
            group = self.ties[group]
        return group

    def _fails(self, kept: Sequence[int], depths: Mapping[Run, int]) -> _Differs | None:
        self._trials += 1
        gone = tuple(f"{path}." for run, n in depths.items() for path in run.paths[n:])
        follower = _Follower(self._expected(kept, gone), self._n_steps == len(self.graph.steps))
        try:
            network = self.assembler.assemble(self.model, kept, depths, copy=False)
            with follower:
                self._run(network)
        except _Differs as found:
            return found
        except Exception as error:  # whatever the code of a network may raise
            return _Differs(follower.at, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")
        return None if follower.at < 0 else _Differs(follower.at, "the network ends early")

    def _expected(
        self, kept: Sequence[int], gone: tuple[str, ...]
    ) -> Iterator[tuple[int, Step, list[tuple[int, ...]]]]:
        for i, (step, sizes) in enumerate(zip(self.graph.steps[: self._n_steps], self._sizes, strict=False)):
            name = step.name.split("::")[1]
            if name in _MOVES or f"{step.module}.".startswith(gone or ("\0",)):
                continue
            found = [tuple(q(kept) for q in axes) for axes in sizes]
            yield i, step, found

    # -- conclusions --------------------------------------------------------------------------------------------------

    def _settle(self, kept: Any, depths: Mapping[Run, int], tie: bool = False) -> None:
        """Change what is wrong until the network does what the graph expects."""
        while (found := self._fails(kept(), depths)) is not None:
            if self._trials > _MOST_TRIALS:
                for group in self.graph.groups:
                    self.fixed.setdefault(group.index, f"the code of the network does not follow: {found}")
                return
            step = self.graph.steps[found.step]
            if self._refit(step.module, found, kept, depths):
                continue
            groups = self._involved(found.step, kept())
            if tie and self._tie(found, kept, depths):
                continue
            self._fix(groups, step.module, found, kept, depths)

    def _refit(self, path: str, found: _Differs, kept: Any, depths: Mapping[Run, int]) -> bool:
        """Whether other values of some attribute of the module's class go further, or of a size that its code reads."""
        while True:
            module = self._modules[path]
            attributes = [fit for fit in self.fits.get(path, ()) if not fit.uses]
            if any(self._furthest([fit], path, found, kept, depths) for fit in attributes):
                return True
            container = isinstance(module, nn.Sequential | nn.ModuleList)
            if not container and self._trials < _MOST_OF_SIZES:
                self._read_sizes(type(module))
                sizes = [fit for fit in self.fits.get(path, ()) if fit.uses]
                if self._furthest(sizes, path, found, kept, depths):
                    return True
            if not path or (module._modules and not container):
                return False
            path = path.rpartition(".")[0]

    def _furthest(self, fits: Sequence[Fit], path: str, found: _Differs, kept: Any, depths: Mapping[Run, int]) -> bool:
        """Change the one attribute with which it goes furthest, if it goes further at all, in all modules like this."""
        best, step = None, found.step
        for fit in fits:
            for option in range(len(fit.options)):
                if option == fit.chosen:
                    continue
                before = self._choose(path, fit, option)
                after = self._fails(kept(), depths)
                if after is None:
                    return True
                if after.step > step:
                    best, step = (fit, option), after.step
                for other, chosen in before:
                    other.chosen = chosen
        if best is not None:
            self._choose(path, *best)
        return best is not None

    def _choose(self, path: str, chosen: Fit, option: int) -> list[tuple[Fit, int]]:
        """Set an attribute in all modules like this; what was chosen before.

        What has the same class and other choices follows in sizes that its code reads, unless it has been tried itself.
        """
        like, meant = self._options(path), self._heads(chosen.options[option])
        before = []
        for other, module in self._modules.items():
            if type(module) is not like[0]:
                continue
            same = self._options(other) == like
            for fit in self.fits.get(other, ()):
                if (fit.attribute, fit.place) != (chosen.attribute, chosen.place):
                    continue
                before.append((fit, fit.chosen))
                if same:
                    fit.chosen = option
                elif fit.uses and not fit.follows:
                    fit.chosen = next((i for i, q in enumerate(fit.options) if q and self._heads(q) == meant), 0)
        return before

    def _options(self, path: str) -> tuple[Any, ...]:
        """What modules that are changed as one have in common: their class, and what there is to choose."""
        fits = self.fits.get(path, ())
        choices = [(fit.attribute, fit.place, [self._heads(q) for q in fit.options]) for fit in fits]
        return type(self._modules[path]), choices

    def _heads(self, quantity: Quantity | None) -> list[bool] | None:
        """Whether each of the groups that a size depends on is one of heads."""
        return None if quantity is None else [self.graph.groups[group].heads for group, _ in quantity.per_unit]

    def _read_sizes(self, kind: type[nn.Module]) -> None:
        """The sizes that the code of a class of modules reads, as attributes; at first they are as the code says."""
        if kind in self._read:
            return
        self._read.add(kind)
        network = self.assembler.assemble(self.model, self._full(), {}, copy=False)  # it may keep what it computes
        for path, sizes in sizes_read(network, kind, lambda: self._run(network)).items():
            known = ((size, follows(self.known[path], size.value, self._full())) for size in sizes)
            new = (Fit(size.attribute, None, [None, *options], size.uses) for size, options in known if options)
            self.fits[path] = [*self.fits.get(path, ()), *new]
            self.assembler.touch([path])

    def _run(self, network: nn.Module) -> None:
        with torch.no_grad(), plain_attention():
            network(*self._inputs)

    def _involved(self, step: int, kept: Sequence[int]) -> list[int]:
        """Groups that could be to blame: those in the operation that failed, the smallest first, then all others."""
        near: list[int] = []
        for i in range(step, max(-1, step - 12), -1):
            for axes in self._sizes[i]:
                near += [g for quantity in axes for g, _ in quantity.per_unit]
        full = self._full()
        found = [g for g in dict.fromkeys(near) if kept[g] < full[g]]
        return sorted(found, key=lambda g: len(self.graph.groups[g].spots))

    def _tie(self, found: _Differs, kept: Any, depths: Mapping[Run, int]) -> bool:
        """Whether it goes further where groups of the same size keep the same share, in every block.

        These are the groups that this operation takes apart, or those that one attribute of its module stands for.
        """
        step = self.graph.steps[found.step]
        kind = type(self._modules.get(step.module))
        taken = [
            [q for axes in sizes for q in axes]
            for other, sizes in zip(self.graph.steps, self._sizes, strict=True)
            if other.name == step.name and type(self._modules.get(other.module)) is kind
        ]
        alike = [path for path, module in self._modules.items() if type(module) is kind]
        named = [[q for q in fit.options if q is not None] for path in alike for fit in self.fits.get(path, ())]
        return any(self._tied(together, found, kept, depths) for together in (taken, named))

    def _tied(
        self, together: Sequence[Sequence[Quantity]], found: _Differs, kept: Any, depths: Mapping[Run, int]
    ) -> bool:
        """Whether it goes further where groups of one row of quantities keep the same share."""
        before = dict(self.ties)
        for row in together:
            inside = sorted({self.leader(g) for q in row for g, _ in q.per_unit})
            for first, second in itertools.pairwise(inside):
                if self.graph.groups[first].n_units == self.graph.groups[second].n_units:
                    self.ties[self.leader(second)] = self.leader(first)
        after = self._fails(kept(), depths)
        if self.ties != before and (after is None or after.step > found.step):
            return True
        self.ties = before
        return False

    def _fix(self, groups: Sequence[int], path: str, found: _Differs, kept: Any, depths: Mapping[Run, int]) -> None:
        """Fix the first group without which it goes further, and all that are like it."""
        kind = type(self._modules.get(path, self.model)).__name__
        reason = f"{kind}.forward does not follow: {found}"
        for group in [*groups, *self._elsewhere(groups)]:
            alike = self._alike(group)
            self.fixed |= dict.fromkeys(alike, reason)
            after = self._fails(kept(), depths)
            if after is None or after.step > found.step:
                return
            for one in alike:
                del self.fixed[one]
        rest = groups or [g.index for g in self.graph.groups if g.index not in self.fixed]
        for group in rest:
            self.fixed |= dict.fromkeys(self._alike(group), reason)

    def _elsewhere(self, near: Sequence[int]) -> list[int]:
        """One of every other kind of group that can shrink, those on most parameters first: an embedding, say, whose
        width a module reads far from where it was made."""
        kinds = {repr(self._pattern(group)) for group in near}
        found: list[int] = []
        for group in sorted(self.graph.groups, key=lambda group: -len(group.spots)):
            if group.index not in self.fixed and repr(self._pattern(group.index)) not in kinds:
                kinds.add(repr(self._pattern(group.index)))
                found.append(group.index)
        return found

    def _alike(self, group: int) -> list[int]:
        """Groups of the same place in other blocks."""
        key = self._pattern(group)
        return [g.index for g in self.graph.groups if g.index not in self.fixed and self._pattern(g.index) == key]

    def _pattern(self, index: int) -> Any:
        group = self.graph.groups[index]
        return group.heads, sorted({(re.sub(r"\d+", "#", name), axis) for name, axis in group.spots})
