"""From a program to its search space: which choice is a gene of what, and what it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from supernet.architecture import Architecture, Number
from supernet.programs.parts import Choice, Layer, OneOf, OptionalPart, Part, Repeat, Sequential
from supernet.space import SearchSpace, Stage
from supernet.space.roles import ROLES, Role
from supernet.space.stage import Choices, Condition

__all__ = ["Gene", "Reading", "read"]

_Chosen = OneOf | Choice | OptionalPart


@dataclass(frozen=True)
class Gene:
    """Where an architecture says what was chosen."""

    name: str
    stage: int | None = None
    block: int | None = None

    def of(self, arch: Architecture) -> Number:
        """The value that an architecture has; KeyError where it has none, since what it hangs on was not taken."""
        if self.stage is None or self.block is None:
            return arch.settings[self.name]
        return arch.stages[self.stage][self.block][self.name]


@dataclass(frozen=True)
class _Use:
    """A choice somewhere in a program."""

    chosen: _Chosen
    name: str
    argument: str
    stage: int | None
    block: int | None
    conditions: tuple[tuple[_Chosen, int], ...]  # what it hangs on, from the outside to the inside


@dataclass(frozen=True)
class Reading:
    """What was found in a program."""

    space: SearchSpace
    stages: tuple[tuple[Part, ...], ...]  # the blocks of each, in the order of the space
    genes: Mapping[tuple[int, int | None, int | None], Gene]  # by id of what is chosen, stage and block
    roles: Mapping[str, Role]

    def gene(self, chosen: _Chosen, stage: int | None, block: int | None) -> Gene:
        return self.genes[id(chosen), stage, block]


def stages_of(program: Part) -> Iterator[tuple[Part, tuple[Part, ...] | None, tuple[int, ...]]]:
    """The parts of a program in order: each with its blocks and how many there may be, if it is a stage."""
    for part in program.inner if isinstance(program, Sequential) else (program,):
        if isinstance(part, Sequential):
            yield from stages_of(part)
        elif isinstance(part, Repeat):
            yield part, part.blocks, part.times
        elif any(isinstance(one, Choice | OptionalPart) for one in _all(part)):
            yield part, (part,), (1,)  # a stage of one block, since only what blocks choose can hang on something
        else:
            yield part, None, ()


def read(program: Part, resolutions: Sequence[int]) -> Reading:
    """The space of a program.

    Raises:
        ValueError: nothing is repeated or chosen by kind, a repeat is inside of something, or choices of a stage that
            are called alike hang on different ones.
    """
    uses: list[_Use] = []
    stages: list[tuple[tuple[Part, ...], tuple[int, ...]]] = []
    for part, blocks, times in stages_of(program):
        if blocks is None:
            uses += _uses(part, None, None, (), "")
            continue
        for b, block in enumerate(blocks):
            uses += _uses(block, len(stages), b, (), "")
        stages.append((blocks, times))
    if not stages:
        raise ValueError("a program needs a repeat, a choice or an optional part; what else can be chosen are numbers")
    return _Names(uses, stages).reading(tuple(resolutions))


def _all(part: Part) -> Iterator[Part]:
    yield part
    for inner in part.parts():
        yield from _all(inner)


def _uses(
    part: Part, stage: int | None, block: int | None, conditions: tuple[tuple[_Chosen, int], ...], prefix: str
) -> Iterator[_Use]:
    """Every choice in a part, what it hangs on before it."""
    if isinstance(part, Repeat):
        raise ValueError("a repeat inside of a block is not possible; write its blocks as optional parts")
    if isinstance(part, Layer):
        for argument, value in part.arguments.items():
            if isinstance(value, OneOf) and len(value.choices) > 1:
                yield _Use(value, value.name or prefix + argument, argument, stage, block, conditions)
    elif isinstance(part, Choice):
        yield _Use(part, prefix + part.name, "", stage, block, conditions)
        for i, (name, option) in enumerate(part.options.items()):
            yield from _uses(option, stage, block, (*conditions, (part, i)), f"{prefix}{name}_")
    elif isinstance(part, OptionalPart):
        yield _Use(part, prefix + part.name, "switch", stage, block, conditions)
        yield from _uses(part.inner, stage, block, (*conditions, (part, 1)), prefix)
    else:
        for inner in part.parts():
            yield from _uses(inner, stage, block, conditions, prefix)


class _Names:
    """The genes of all uses: every choice belongs to the smallest of block, stage and network that it is used in."""

    def __init__(self, uses: Sequence[_Use], stages: Sequence[tuple[tuple[Part, ...], tuple[int, ...]]]) -> None:
        self.stages = stages
        self.settings: dict[str, Choices] = {}
        self.shared: list[dict[str, Choices]] = [{} for _ in stages]
        self.blocks: list[list[dict[str, Choices]]] = [[{} for _ in blocks] for blocks, _ in stages]
        self.when: list[dict[str, Condition]] = [{} for _ in stages]
        self.genes: dict[tuple[int, int | None, int | None], Gene] = {}
        self.roles: dict[str, Role] = {}
        together: dict[int, list[_Use]] = {}
        for use in uses:
            together.setdefault(id(use.chosen), []).append(use)
        for use in uses:
            if (id(use.chosen), use.stage, use.block) not in self.genes:
                self._add(together[id(use.chosen)])

    def reading(self, resolutions: tuple[int, ...]) -> Reading:
        stages = tuple(
            Stage(times, tuple(blocks), shared, when)
            for (_, times), blocks, shared, when in zip(self.stages, self.blocks, self.shared, self.when, strict=True)
        )
        space = SearchSpace(resolutions, stages, self.settings)
        return Reading(space, tuple(blocks for blocks, _ in self.stages), self.genes, self.roles)

    def _add(self, uses: Sequence[_Use]) -> None:
        """One choice, with all its uses."""
        first = uses[0]
        places = {(use.stage, use.block) for use in uses}
        stage = first.stage if len({use.stage for use in uses}) == 1 else None
        choices = _choices(first.chosen)
        if stage is None:
            name = _unused(first.name, self.settings)
            self.settings[name] = choices
        elif len(places) > 1:
            taken = {name for block in self.blocks[stage] for name in block}
            name = _unused(first.name, {**self.shared[stage], **dict.fromkeys(taken)})
            self.shared[stage][name] = choices
        else:
            assert first.block is not None
            own = self.blocks[stage][first.block]
            name = _unused(first.name, {**self.shared[stage], **own})
            self._hang(stage, name, uses)
            own[name] = choices
        for place in places:
            self.genes[id(first.chosen), *place] = Gene(name, *(place if stage is not None else (None, None)))
        role = "switch" if first.argument == "switch" else ROLES.get(first.argument)
        if role is not None and name not in ROLES:
            self.roles[name] = role

    def _hang(self, stage: int, name: str, uses: Sequence[_Use]) -> None:
        """What a choice of a block hangs on: the innermost that all its uses have in common."""
        common = [condition for condition in uses[0].conditions if all(condition in use.conditions for use in uses)]
        condition: Condition | None = None
        if common:
            chosen, value = common[-1]
            condition = (self.genes[id(chosen), uses[0].stage, uses[0].block].name, (value,))
        there = any(name in block for block in self.blocks[stage])
        if there and self.when[stage].get(name) != condition:
            raise ValueError(
                f"{name} of stage {stage + 1} hangs on different choices in its blocks; name one otherwise"
            )
        if condition is not None:
            self.when[stage][name] = condition


def _choices(chosen: _Chosen) -> Choices:
    if isinstance(chosen, OneOf):
        return chosen.choices
    return (0, 1) if isinstance(chosen, OptionalPart) else tuple(range(len(chosen.options)))


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number behind it where it is taken."""
    number = 2
    found = name
    while found in taken:
        found, number = f"{name}{number}", number + 1
    return found
