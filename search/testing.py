"""The laws of a tactic as a test class to inherit from; needs pytest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from search.archive import Archive
from search.front import Values, hypervolume
from search.objectives import Constraint, Objective
from search.running import run_search
from search.tactic import Tactic
from supernet.space import Genes, SearchSpace, Stage
from supernet.space.relation import Relation

__all__ = ["SPACES", "TacticContract", "Toy"]

SPACES = {
    "one": SearchSpace((16,), (Stage.uniform((1,), kernel=(3,)),)),
    "two": SearchSpace((16, 24), (Stage.uniform((1,), kernel=(3,)),)),
    "98": SearchSpace((16, 24), (Stage.uniform((0, 1, 2), kernel=(3, 5)),) * 2),
    "10^19": SearchSpace((224,), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 5),
}
"""Spaces by their size."""


class Toy:
    """Up to four objectives of a space that pull against each other, and a limit; all are known without a network."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        rng = np.random.default_rng(0)
        self._weights = rng.random((3, len(space.genes)))

    def quality(self, genes: Genes) -> Values:
        """Best in the middle of every gene, each with its own weight: neither end of the space is the best."""
        return (np.sqrt(self._shares(genes)) - 0.7 * self._shares(genes)) @ self._weights[0]

    def cost(self, genes: Genes) -> Values:
        """Small numbers, as seconds are."""
        return 1e-3 * (0.1 + self._shares(genes).sum(axis=1) * (1 + self._shares(genes)[:, 0]))

    def objectives(self, n: int) -> tuple[Objective, ...]:
        """The first `n`."""

        def memory(genes: Genes) -> Values:
            return 1e6 * self._shares(genes) ** 2 @ self._weights[1]

        def energy(genes: Genes) -> Values:
            return self._shares(genes) @ self._weights[2]

        return (
            Objective("quality", "", True, self.quality),
            Objective("cost", "s", False, self.cost),
            Objective("memory", "B", False, memory),
            Objective("energy", "J", False, energy),
        )[:n]

    def limit(self, share: float) -> Constraint:
        """Costs below `share` of what the largest architecture costs."""
        largest = self.space.encode([self.space.largest])
        return Constraint("cost", self.cost, upper=share * float(self.cost(largest)[0]))

    def _shares(self, genes: Genes) -> Values:
        """(n, n_genes) 0 to 1: how far up its choices every gene is."""
        return genes / np.maximum(self.space.n_choices - 1, 1)


class TacticContract:
    """Tests that hold for every tactic.

    A test class inherits from this one and gives the fixture ``create``: a function
    ``create(space, n_objectives, seed) -> Tactic`` that makes a tactic of a small population, `population` or fewer.
    """

    population = 20
    """Architectures that a tactic of `create` asks for at a time, at most."""
    n_objectives: Iterable[int] = (1, 2, 3, 4)
    """For how many objectives it is; others it must refuse."""
    learns = True
    """Whether it does better than chance; a control does not."""

    @pytest.fixture
    def create(self) -> Callable[[SearchSpace, int, int], Tactic]:
        """Makes a tactic from a space, a number of objectives and a seed."""
        raise NotImplementedError

    # -- what it asks for ---------------------------------------------------------------------------------------------

    def test_it_asks_for_canonical_architectures_and_for_no_more_than_is_wanted(self, create: Any) -> None:
        space = SPACES["10^19"]
        for genes, _, _ in self._course(create, space, wanted=(7, 1, 50, 3) * 4):
            assert genes.ndim == 2 and genes.shape[1] == len(space.genes)
            np.testing.assert_array_equal(space.canonical(genes), genes)

    @pytest.mark.parametrize("size", ["98", "10^19"])
    def test_it_never_asks_twice(self, create: Any, size: str) -> None:
        """Neither for what was told, nor for what was asked for but not told yet, nor for what it was told unasked."""
        space, toy = SPACES[size], Toy(SPACES[size])
        tactic = create(space, self._usual, 0)
        known = [tactic.ask(self.population // 2), tactic.ask(self.population // 2)]
        others = np.unique(space.sample_genes(3 * self.population, np.random.default_rng(5)), axis=0)
        others = others[~(others[:, None] == np.concatenate(known)).all(axis=2).any(axis=1)]
        for genes in (others, *known[::-1]):
            tactic.tell(genes, *self._worth(toy, genes))
        known.append(others)
        for _ in range(5):
            first, second = tactic.ask(self.population // 2), tactic.ask(self.population // 2)
            known += [first, second]
            for genes in (second, first):
                tactic.tell(genes, *self._worth(toy, genes))
        everything = np.concatenate(known)
        assert len(np.unique(everything, axis=0)) == len(everything)

    @pytest.mark.parametrize("size", ["one", "two", "98"])
    def test_a_small_space_is_asked_for_completely_and_then_nothing(self, create: Any, size: str) -> None:
        space, toy = SPACES[size], Toy(SPACES[size])
        tactic = create(space, self._usual, 0)
        asked = []
        while len(genes := tactic.ask(7)):
            assert len(asked) <= space.size
            asked.append(genes)
            tactic.tell(genes, *self._worth(toy, genes))
        assert len(np.unique(np.concatenate(asked), axis=0)) == sum(map(len, asked)) == space.size
        assert tactic.ask(1).shape == (0, len(space.genes))

    def test_relations_of_the_space_hold(self, create: Any) -> None:
        ascending = Relation.parse("stage1.depth <= stage2.depth")
        space = SearchSpace((16, 24), (Stage.uniform((1, 2, 3), kernel=(3, 5)),) * 2, relations=(ascending,))
        for genes, _, _ in self._course(create, space, wanted=(self.population,) * 5):
            assert space.holds(genes).all()

    # -- what it depends on -------------------------------------------------------------------------------------------

    def test_the_seed_decides(self, create: Any) -> None:
        before = str(np.random.get_state(legacy=False))  # noqa: NPY002 the global generator is not its own
        one, again, other = (self._asked(create, seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one, again)
        assert one.shape != other.shape or (one != other).any()
        assert str(np.random.get_state(legacy=False)) == before  # noqa: NPY002

    @pytest.mark.parametrize("limited", [False, True])
    def test_a_new_one_that_is_told_the_archive_goes_on_as_the_old_one(self, create: Any, limited: bool) -> None:
        """Whether it is told all at once or row by row; also where a generation is half told, and from plain data."""
        space, toy = SPACES["10^19"], Toy(SPACES["10^19"])
        tactic = create(space, self._usual, 0)
        archive = Archive(space, toy.objectives(self._usual))
        limit = toy.limit(0.2) if limited else None
        for wanted in (self.population, self.population, self.population // 2, self.population, 3, self.population):
            expected = tactic.ask(wanted)
            kept = Archive.from_dict(archive.to_dict())
            for n in (max(len(kept), 1), 1):
                resumed = create(space, self._usual, 0)
                for start in range(0, len(kept), n):
                    rows = slice(start, start + n)
                    resumed.tell(kept.genes[rows], kept.losses[rows], kept.violations[rows])
                np.testing.assert_array_equal(resumed.ask(wanted), expected)
            losses, violations = self._worth(toy, expected, limit)
            tactic.tell(expected, losses, violations)
            archive.add(expected, np.stack([o.values(expected) for o in toy.objectives(self._usual)], 1), violations)

    def test_it_changes_nothing_that_it_is_given(self, create: Any) -> None:
        space, toy = SPACES["10^19"], Toy(SPACES["10^19"])
        tactic = create(space, self._usual, 0)
        for _ in range(4):
            genes = tactic.ask(self.population)
            told = genes.copy(), *self._worth(toy, genes, toy.limit(0.3))
            kept = [array.copy() for array in told]
            tactic.tell(*told)
            tactic.ask(1)
            for array, before in zip(told, kept, strict=True):
                np.testing.assert_array_equal(array, before)

    # -- what it does -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("n", [1, 2, 3, 4])
    def test_any_number_of_objectives(self, create: Any, n: int) -> None:
        space = SPACES["10^19"]
        if n not in self.n_objectives:
            with pytest.raises(ValueError, match=r".+") as refused:
                create(space, n, 0)
            assert "\n" not in str(refused.value)
            return
        found, chance = self._volumes(create, n, seeds=2)
        assert found > chance or not self.learns

    def test_it_does_better_than_chance(self, create: Any) -> None:
        if not self.learns:
            pytest.skip("it learns nothing")
        found, chance = self._volumes(create, self._usual, seeds=3)
        assert found > 1.02 * chance

    def test_it_goes_where_the_constraints_hold(self, create: Any) -> None:
        space, toy = SPACES["10^19"], Toy(SPACES["10^19"])
        result = run_search(
            space,
            toy.objectives(self._usual),
            tactic=create(space, self._usual, 0),
            budget=12 * self.population,
            seed=0,
            constraints=(toy.limit(0.25),),
        )
        assert len(result.front) and all(toy.limit(0.25).upper >= c.values["cost"] for c in result.front)  # type: ignore[operator]
        early, late = result.feasible[: self.population].mean(), result.feasible[-3 * self.population :].mean()
        assert late > early or not self.learns

    def test_constraints_that_nothing_holds_do_not_stop_it(self, create: Any) -> None:
        for _, values, violations in self._course(create, SPACES["10^19"], wanted=(self.population,) * 5, share=0.001):
            assert len(values) and (violations > 0).all()

    def test_values_that_are_all_equal_do_not_stop_it(self, create: Any) -> None:
        tactic = create(SPACES["10^19"], self._usual, 0)
        for _ in range(6):
            genes = tactic.ask(self.population)
            assert len(genes)
            tactic.tell(genes, np.full((len(genes), self._usual), 0.5), np.zeros(len(genes)))

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _usual(self) -> int:
        return 2 if 2 in self.n_objectives else min(self.n_objectives)

    def _worth(self, toy: Toy, genes: Genes, limit: Constraint | None = None) -> tuple[Values, Values]:
        """Losses (n, n_objectives) and violations (n,)."""
        losses = np.stack([o.loss(o.values(genes)) for o in toy.objectives(self._usual)], axis=1)
        return losses, np.zeros(len(genes)) if limit is None else np.maximum(limit.violation(genes), 0.0)

    def _course(
        self, create: Any, space: SearchSpace, wanted: Iterable[int], seed: int = 0, share: float | None = None
    ) -> list[tuple[Genes, Values, Values]]:
        toy, tactic = Toy(space), create(space, self._usual, seed)
        course = []
        for n in wanted:
            genes = tactic.ask(n)
            assert 0 < len(genes) <= n
            losses, violations = self._worth(toy, genes, None if share is None else toy.limit(share))
            tactic.tell(genes, losses, violations)
            course.append((genes, losses, violations))
        return course

    def _asked(self, create: Any, seed: int) -> Genes:
        course = self._course(create, SPACES["10^19"], wanted=(self.population,) * 6, seed=seed, share=0.3)
        return np.concatenate([genes for genes, _, _ in course])

    def _volumes(self, create: Any, n: int, seeds: int) -> tuple[float, float]:
        """Mean hypervolumes of the tactic and of random search."""
        space, toy = SPACES["10^19"], Toy(SPACES["10^19"])
        objectives = toy.objectives(n)
        sample = space.sample_genes(500, np.random.default_rng(0))
        corner = np.array([o.loss(o.values(sample)).max() for o in objectives])
        volumes = []
        for seed, mine in itertools.product(range(seeds), (True, False)):
            tactic = create(space, n, seed) if mine else "random"
            result = run_search(space, objectives, tactic=tactic, budget=15 * self.population, seed=seed)
            volumes.append(hypervolume(result.losses, corner))
        return float(np.mean(volumes[::2])), float(np.mean(volumes[1::2]))
