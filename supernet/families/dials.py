"""What can be chosen of a traced network: dials, each of which turns the groups that one choice is about."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from supernet.architecture import Number
from supernet.graph.blocks import Run
from supernet.graph.groups import DependencyGraph, Group
from supernet.graph.kernels import Kernel
from supernet.graph.rehearsal import Rehearsal
from supernet.networks.choices import own_and_below
from supernet.space import SearchSpace, Stage
from supernet.space.roles import Role

__all__ = ["Dial", "dials_of", "space_of"]

_OUTER: tuple[Role, ...] = ("outer_width", "embedding")


@dataclass(frozen=True, eq=False)
class Dial:
    """What one choice turns: groups that shrink together, by their share or by the number of heads; or kernels."""

    name: str
    role: Role
    groups: tuple[Group, ...]
    stage: int | None = None
    block: int | None = None
    leaders: Mapping[int, Group] = field(default_factory=dict)  # whose number of units a group that is tied keeps
    kernels: tuple[Kernel, ...] = ()

    @property
    def label(self) -> str:
        """The gene's label in the space."""
        return self.name if self.stage is None else f"stage{self.stage + 1}.block{(self.block or 0) + 1}.{self.name}"

    @property
    def full(self) -> Number:
        """The value of the largest network."""
        if self.role == "kernel":
            return max(kernel.size for kernel in self.kernels)
        return max(group.n_units for group in self.groups) if self.role == "heads" else 1.0

    def kept(self, group: Group, value: Number, multiple_of: int) -> int:
        """How many units of one of its groups stay."""
        stands = self.leaders.get(group.index, group)
        return stands.kept(value / self.full if self.role == "heads" else value, multiple_of)

    def choices(self, shares: Sequence[float], multiple_of: int) -> tuple[Number, ...]:
        """The values for shares of the largest that make a difference, and the largest; kernels have sizes."""
        if self.role == "kernel":
            return own_and_below(int(self.full), shares)
        if self.role == "heads":
            return own_and_below(int(self.full), (math.ceil(int(self.full) * share) for share in shares))
        found: dict[tuple[int, ...], float] = {}
        for share in own_and_below(1.0, shares):
            found[tuple(self.kept(group, share, multiple_of) for group in self.groups)] = share
        return tuple(found.values())


def dials_of(graph: DependencyGraph, rehearsal: Rehearsal, runs: Sequence[Run]) -> tuple[Dial, ...]:
    """One dial per role and block, and one for every set of groups that belongs to no single block."""
    together: dict[int, list[Group]] = defaultdict(list)
    for group in graph.groups:
        if group.index not in rehearsal.fixed:
            together[rehearsal.leader(group.index)].append(group)
    blocks = {f"{path}.": (s, b) for s, run in enumerate(runs) for b, path in enumerate(run.paths)}
    inside: dict[tuple[int, int, Role], list[Group]] = defaultdict(list)
    outside: list[tuple[Role, list[Group]]] = []
    ends = graph.ends
    leaders = {group.index: graph.groups[rehearsal.leader(group.index)] for group in graph.groups}
    for groups in together.values():
        names = set().union(*(group.parameters for group in groups))
        places = {next((p for p in blocks if name.startswith(p)), None) for name in names}
        place = places.pop() if len(places) == 1 else None
        role: Role = "heads" if all(group.heads for group in groups) else "middle_width"
        if place is not None:
            inside[(*blocks[place], role)] += groups
        elif role != "heads" and (places - {None} or any(group.index in ends for group in groups)):
            mixed = any("layer norm" in group.mixed for group in groups)
            outside.append(("embedding" if mixed else "outer_width", groups))
        else:
            outside.append((role, groups))
    if not inside and all(role in _OUTER for role, _ in outside):  # a network of a single hidden layer
        outside = [("middle_width", groups) for _, groups in outside]
    names_of: dict[Role, str] = {
        "heads": "heads", "middle_width": "middle", "outer_width": "width", "embedding": "embed"
    }  # fmt: skip
    dials, counts = [], defaultdict[Role, int](int)
    for role, groups in outside:
        counts[role] += 1
        dials.append(Dial(f"{names_of[role]}{counts[role]}", role, tuple(groups), leaders=leaders))
    for (stage, block, role), groups in sorted(inside.items(), key=lambda item: item[0]):
        dials.append(Dial("heads" if role == "heads" else "expand", role, tuple(groups), stage, block, leaders))
    return (*dials, *_kernel_dials(rehearsal.kernels, blocks))


def _kernel_dials(kernels: Sequence[Kernel], blocks: Mapping[str, tuple[int, int]]) -> Iterator[Dial]:
    """One dial for the kernels of every block, and one for every other kernel."""
    inside: dict[tuple[int, int], list[Kernel]] = defaultdict(list)
    outside = 0
    for kernel in kernels:
        place = next((place for path, place in blocks.items() if kernel.name.startswith(path)), None)
        if place is None:
            outside += 1
            yield Dial(f"kernel{outside}", "kernel", (), kernels=(kernel,))
        else:
            inside[place].append(kernel)
    for (stage, block), found in sorted(inside.items()):
        yield Dial("kernel", "kernel", (), stage, block, kernels=tuple(found))


def space_of(
    dials: Sequence[Dial],
    runs: Sequence[Run],
    resolutions: tuple[int, ...],
    choices: Callable[[Dial], tuple[Number, ...]],
    depths: Sequence[Sequence[int]],
) -> SearchSpace:
    """The space in which every dial has its choices; those of the network that have one choice alone are left out."""
    settings = {dial.name: found for dial in dials if dial.stage is None and len(found := choices(dial)) > 1}
    stages = []
    for s, run in enumerate(runs):
        blocks: list[dict[str, tuple[Number, ...]]] = [{} for _ in run.names]
        for dial in dials:
            if dial.stage == s and (len(found := choices(dial)) > 1 or dial.role != "kernel"):
                blocks[dial.block or 0][dial.name] = found
        stages.append(Stage(tuple(depths[s]), tuple(blocks)))
    return SearchSpace(resolutions, tuple(stages) or (Stage((1,), ({},)),), settings)
