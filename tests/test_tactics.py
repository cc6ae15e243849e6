"""Every law of a tactic for every registered one, that broken tactics break the laws, and the loop itself."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.settings.sections import SearchSettings
from search import (
    Archive,
    Constraint,
    Objective,
    check_tactic,
    create_tactic,
    register_tactic,
    run_search,
    tactic_names,
)
from search.tactics import generator
from search.tactics.array_nsga2 import _vary
from search.tactics.generator import Generator
from search.tactics.random_search import RandomTactic
from search.testing import SPACES, TacticContract, Toy
from supernet.space import Genes, SearchSpace, Stage
from supernet.space.relation import Relation

if "generator" not in tactic_names():  # installed before it had an entry point
    register_tactic("generator")(generator)
PAGE = Path(__file__).parents[1] / "docs" / "new-tactic.md"
FROM_TWO_ON = {"age_moea2", "c_taea", "moead"}
EXTRAS = {"optuna": "optuna", "qnehvi": "botorch"}  # packages that tactics need
SMALL_STEPS = {"bandit", "local"}
CHEAPER = {
    "linas": {"model_calls": 300},
    "guided_mcts": {"walks": 60},
    "qnehvi": {"pool": 40},
}  # so that the laws take no time


@pytest.mark.parametrize("name", [name for name in tactic_names() if name not in EXTRAS])
class TestRegistered(TacticContract):
    @pytest.fixture(autouse=True)
    def _what_it_is_for(self, name):
        self.learns = name != "random"
        self.n_objectives = (2, 3, 4) if name in FROM_TWO_ON else (1, 2, 3, 4)
        if name in SMALL_STEPS:
            self.n_objectives = (1, 2, 3)

    @pytest.fixture
    def create(self, name):
        options = {"population": self.population, **CHEAPER.get(name, {})}
        return lambda space, n, seed: create_tactic(name, space, n, seed, **options)


class _OfExtras(TacticContract):
    """In small: a call of theirs takes a tenth of a second."""

    population = 8
    name, options = "", {}

    @pytest.fixture
    def create(self):
        pytest.importorskip(EXTRAS[self.name])
        return lambda space, n, seed: create_tactic(
            self.name, space, n, seed, population=self.population, **self.options
        )


class TestOptuna(_OfExtras):
    name = "optuna"


class TestQnehvi(_OfExtras):
    name, options = "qnehvi", {"pool": 40}


def test_without_their_package_tactics_of_extras_say_what_to_install():
    for name, package in EXTRAS.items():
        code = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from search import create_tactic; from search.testing import SPACES\n"
            f"try: create_tactic({name!r}, SPACES['two'], 2, 0)\n"
            "except ValueError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert f"pip install 'supernet-nas[{package}]'" in done.stdout and done.stdout.count("\n") == 1


def test_those_of_this_project_are_registered_as_any_package_would_its_own():
    named = {"nsga3", "u_nsga3", "age_moea", "age_moea2", "c_taea", "moead", "sms_emoa"}
    own = {"aging", "bandit", "generator", "guided_mcts", "linas", "local", "mcts", "ofa_evolution", "stagewise"}
    assert {"nsga2", "random", "pymoo", *named, *own} <= set(tactic_names())


def test_a_generator_answers_a_cost_at_once_with_networks_like_the_good_ones_of_it():
    space, toy = SPACES["10^19"], Toy(SPACES["10^19"])
    tactic = Generator(space, 2, 0, population=50)
    objectives = toy.objectives(2)
    run_search(space, objectives, tactic=tactic, budget=600, seed=0)
    asked = np.quantile(tactic.values[:, 1], [0.2, 0.5, 0.8]).repeat(40)[:, None]
    started = time.process_time()
    found = tactic.networks_for(asked, np.random.default_rng(0))
    assert time.process_time() - started < 1
    np.testing.assert_array_equal(space.canonical(found), found)
    costs = toy.cost(found).reshape(3, 40)
    assert (np.diff(costs.mean(axis=1)) > 0).all()
    near = np.abs(costs / asked.reshape(3, 40) - 1)
    assert np.median(near) < 0.2
    chance = space.sample_genes(2000, np.random.default_rng(1))
    for row, limit in zip(found.reshape(3, 40, -1), asked[::40, 0], strict=True):
        alike = np.abs(toy.cost(chance) / limit - 1) < 0.15
        if alike.sum() >= 20:
            assert toy.quality(row).mean() > toy.quality(chance[alike]).mean()


# -- the laws are laws ------------------------------------------------------------------------------------------------


class Forgetful(RandomTactic):
    """Does not remember what it was told."""

    def tell(self, genes, values, violations):
        pass


class Repeating(RandomTactic):
    """Asks for the same until it is told."""

    def ask(self, n):
        rng = np.random.default_rng([self.seed, self._n_told])
        return self._unseen.space.sample_genes(min(n, self.population), rng)


class Stateful(RandomTactic):
    """Counts how often it was asked."""

    n_asked = 0

    def ask(self, n):
        self.n_asked += 1
        return self._unseen.take_random(min(n, self.population), np.random.default_rng(self.n_asked))


class Global(RandomTactic):
    """Draws from the generator that all share."""

    def ask(self, n):
        np.random.random()  # noqa: NPY002
        return super().ask(n)


class Sorting(RandomTactic):
    """Sorts what it was told where it lies."""

    def tell(self, genes, values, violations):
        super().tell(genes, values, violations)
        values.sort(axis=0)


class Batched(RandomTactic):
    """Counts calls, not rows."""

    def tell(self, genes, values, violations):
        super().tell(genes, values, violations)
        self._n_told += 1 - len(genes)


LAWS = [name for name in dir(TacticContract) if name.startswith("test_")]
ARGUMENTS = {
    "test_it_never_asks_twice": ("98",),
    "test_a_small_space_is_asked_for_completely_and_then_nothing": ("98",),
    "test_a_new_one_that_is_told_the_archive_goes_on_as_the_old_one": (False,),
    "test_any_number_of_objectives": (2,),
}


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Forgetful, "test_it_never_asks_twice"),
        (Repeating, "test_it_never_asks_twice"),
        (Stateful, "test_a_new_one_that_is_told_the_archive_goes_on_as_the_old_one"),
        (Batched, "test_a_new_one_that_is_told_the_archive_goes_on_as_the_old_one"),
        (Global, "test_the_seed_decides"),
        (Sorting, "test_it_changes_nothing_that_it_is_given"),
        (RandomTactic, "test_it_goes_where_the_constraints_hold"),
        (RandomTactic, "test_it_does_better_than_chance"),
    ],
)
def test_a_broken_tactic_breaks_a_law(broken, law):
    broken_laws = set()
    for name in LAWS:
        try:
            getattr(TacticContract(), name)(
                lambda space, n, seed: broken(space, seed, TacticContract.population), *ARGUMENTS.get(name, ())
            )
        except AssertionError:
            broken_laws.add(name)
    assert law in broken_laws


# -- by name ----------------------------------------------------------------------------------------------------------


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(ValueError, match="no tactic is named 'nsga4'; did you mean 'nsga"):
        check_tactic("nsga4", {})
    with pytest.raises(ValueError, match="'nsga2' has no option 'popluation'; did you mean 'population'"):
        check_tactic("nsga2", {"popluation": 3})
    with pytest.raises(ValueError, match=r"pymoo.algorithms.moo has no 'nsga9.NSGA9'; write module.Class"):
        create_tactic("pymoo", SPACES["two"], 2, 0, algorithm="nsga9.NSGA9")
    with pytest.raises(ValueError, match="a population of 2; a generation needs at least 4"):
        create_tactic("nsga2", SPACES["two"], 2, 0, population=2)


def test_a_recipe_names_it_without_loading_pymoo():
    code = (
        "import sys; from experiments.settings.sections import SearchSettings; "
        "settings = SearchSettings(tactic='pymoo', options={'algorithm': 'spea2.SPEA2'}, population=20); "
        "assert settings.tactic_options == {'population': 20, 'algorithm': 'spea2.SPEA2'}; "
        "assert not {'pymoo', 'scipy', 'torch', 'xgboost'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ValidationError, match="no tactic is named 'nsga22'; did you mean 'nsga2'"):
        SearchSettings(tactic="nsga22")
    with pytest.raises(ValidationError, match="has no option 'directions'"):
        SearchSettings(tactic="nsga3", options={"directions": 12})


def test_any_algorithm_of_pymoo_comes_in_by_its_name():
    toy = Toy(SPACES["10^19"])
    one, again = (
        run_search(
            toy.space, toy.objectives(3), tactic="pymoo", budget=200, seed=0, population=20, algorithm="spea2.SPEA2"
        )
        for _ in range(2)
    )
    assert one.n_evaluated == 200 and one.tactic == "pymoo"
    # pymoo keeps the scales of one search of it for the next.
    np.testing.assert_array_equal(one.genes, again.genes)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("rvea.RVEA", "no tactic: Please use the n_gen"),
        ("gde3.GDE3", "breeds in a way of its own"),
        ("rnsga2.RNSGA2", "no tactic: .*ref_points"),
        ("cmopso.CMOPSO", "not an algorithm with a population"),
        ("nsga2.RankAndCrowdingSurvival", "not an algorithm with a population"),
    ],
)
def test_algorithms_of_pymoo_that_cannot_be_asked_are_refused(algorithm, message):
    with pytest.raises(ValueError, match=message) as refused:
        create_tactic("pymoo", SPACES["two"], 2, 0, algorithm=algorithm)
    assert "\n" not in str(refused.value)


def test_without_numba_it_says_what_to_install():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from search import create_tactic; from search.testing import SPACES\n"
        "try: create_tactic('age_moea', SPACES['two'], 2, 0)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'supernet-nas[numba]'" in done.stdout and done.stdout.count("\n") == 1


# -- the loop ---------------------------------------------------------------------------------------------------------

SPACE = SearchSpace((16, 24, 32), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 4)
TINY = SearchSpace((16, 24), (Stage.uniform((1, 2), kernel=(3, 5)),) * 2)
ENDS = SPACE.encode([SPACE.smallest, SPACE.largest])


def cost(genes: Genes) -> np.ndarray:
    return np.nansum(SPACE.values(genes)[:, 1:], axis=1) * (2 + genes[:, 0])


def quality(genes: Genes) -> np.ndarray:
    """Concave in each gene and with its own weight per place, so that the front is not where the costs are equal."""
    weights = np.random.default_rng(0).random(genes.shape[1])
    return np.sqrt(np.nan_to_num(SPACE.values(genes)[:, 1:])) @ weights[1:] * (4 + genes[:, 0])


REFERENCE = {"quality": float(quality(ENDS).min()), "cost": float(cost(ENDS).max())}
OBJECTIVES = (Objective("quality", "", True, quality), Objective("cost", "", False, cost))
two_tactics = pytest.mark.parametrize("tactic", ["nsga2", "random"])


def test_nsga2_beats_random_search():
    for seed in range(3):
        searched, control = (
            run_search(SPACE, OBJECTIVES, tactic=name, budget=1000, seed=seed).front.hypervolume(REFERENCE)
            for name in ("nsga2", "random")
        )
        assert searched > 1.05 * control


@two_tactics
def test_no_architecture_is_evaluated_twice_and_the_ends_come_first(tactic):
    seen = []

    def watched(genes: Genes) -> np.ndarray:
        seen.append(genes.copy())
        return cost(genes)

    objectives = (OBJECTIVES[0], Objective("cost", "", False, watched))
    result = run_search(SPACE, objectives, tactic=tactic, budget=777, seed=0)
    genes = np.concatenate(seen)
    assert len(genes) == result.n_evaluated == 777 == len(np.unique(genes, axis=0))
    np.testing.assert_array_equal(genes, SPACE.canonical(genes))
    np.testing.assert_array_equal(genes, result.genes)
    np.testing.assert_array_equal(genes[:2], ENDS)


@two_tactics
def test_relations_of_the_space_hold_for_everything_that_is_evaluated(tactic):
    related = dataclasses.replace(SPACE, relations=(Relation.parse("stage1.depth <= stage2.depth"),))
    result = run_search(related, OBJECTIVES, tactic=tactic, budget=400, seed=0)
    assert result.n_evaluated == 400 and related.holds(result.genes).all()
    assert not related.holds(SPACE.sample_genes(400, np.random.default_rng(0))).all()


@two_tactics
def test_everything_evaluated_and_the_front_agree(tactic):
    result = run_search(SPACE, OBJECTIVES, tactic=tactic, budget=500, seed=1, batch=30)
    assert result.n_evaluated == 500
    rows = {row.tobytes() for row in result.genes}
    front = SPACE.encode([candidate.arch for candidate in result.front])
    assert all(row.tobytes() in rows for row in front)
    np.testing.assert_allclose([c.values["cost"] for c in result.front], cost(front))


@two_tactics
def test_constraints_hold_on_the_front(tactic):
    limit = Constraint("cost", cost, upper=330.0, lower=250.0)
    result = run_search(SPACE, OBJECTIVES, tactic=tactic, budget=600, seed=0, constraints=(limit,))
    assert len(result.front) > 0
    assert all(250 <= candidate.values["cost"] <= 330 for candidate in result.front)
    never = (Constraint("cost", cost, upper=-1.0),)
    nothing = run_search(SPACE, OBJECTIVES, tactic=tactic, budget=60, seed=0, constraints=never)
    assert len(nothing.front) == 0


def test_a_tiny_space_is_searched_completely():
    objective = Objective("sum", "", True, lambda genes: genes.sum(axis=1).astype(float))
    result = run_search(TINY, (objective,), tactic="nsga2", budget=10_000, seed=0)
    assert result.n_evaluated == TINY.size
    assert [candidate.arch for candidate in result.front] == [TINY.largest]


def test_a_warm_start_is_evaluated_first():
    initial = SPACE.sample_genes(7, np.random.default_rng(0))
    for budget in (5, 50):
        result = run_search(
            SPACE,
            OBJECTIVES,
            tactic="nsga2",
            budget=budget,
            seed=0,
            population=20,
            initial=np.concatenate([initial, initial]),
        )
        assert result.n_evaluated == budget
        np.testing.assert_array_equal(result.genes[:9], [*ENDS, *initial][:budget])


@two_tactics
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tactic):
    """In every batch; what had been evaluated is not evaluated again."""
    whole = run_search(SPACE, OBJECTIVES, tactic=tactic, budget=200, seed=0, population=30, batch=17)
    for stop in range(3, 200, 40):
        archive, left = Archive(SPACE, OBJECTIVES), stop

        def interrupted(genes: Genes) -> np.ndarray:
            nonlocal left
            left -= len(genes)
            if left < 0:
                raise KeyboardInterrupt
            return cost(genes)

        objectives = (OBJECTIVES[0], Objective("cost", "", False, interrupted))
        with pytest.raises(KeyboardInterrupt):
            run_search(SPACE, objectives, tactic=tactic, budget=200, seed=0, population=30, batch=17, archive=archive)
        kept = Archive.from_dict(json.loads(json.dumps(archive.to_dict())))
        assert 0 < len(kept) <= stop
        result = run_search(SPACE, OBJECTIVES, tactic=tactic, budget=200, seed=0, population=30, batch=17, archive=kept)
        np.testing.assert_array_equal(result.genes, whole.genes)
        assert result.front == whole.front


def test_a_search_begins_where_one_of_another_tactic_has_ended():
    archive = Archive(SPACE, OBJECTIVES)
    first = run_search(SPACE, OBJECTIVES, tactic="random", budget=200, seed=0, archive=archive)
    second = run_search(SPACE, OBJECTIVES, tactic="moead", budget=500, seed=0, archive=archive)
    assert len(archive) == second.n_evaluated == 500
    np.testing.assert_array_equal(second.genes[:200], first.genes)
    assert second.front.hypervolume(REFERENCE) > first.front.hypervolume(REFERENCE)


def test_an_archive_is_plain_data_and_holds_nothing_twice():
    archive = Archive(SPACE, OBJECTIVES)
    archive.add(ENDS, np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.0, 0.5]))
    again = Archive.from_dict(json.loads(json.dumps(archive.to_dict())))
    for name in ("genes", "values", "losses", "violations", "feasible"):
        np.testing.assert_array_equal(getattr(again, name), getattr(archive, name))
    assert again.axes == archive.axes and again.space == SPACE
    for genes, message in ((ENDS[:1], "of 1 architectures 0 are new"), (ENDS[:1].repeat(2, axis=0), "of 2")):
        with pytest.raises(ValueError, match=message):
            archive.add(genes, np.zeros((len(genes), 2)), np.zeros(len(genes)))
    with pytest.raises(ValueError, match=r"values of shape \(1, 3\)"):
        archive.add(ENDS[:1], np.zeros((1, 3)), np.zeros(1))
    assert len(archive) == 2
    for broken in ({}, {**archive.to_dict(), "batches": [1]}, {**archive.to_dict(), "axes": 3}):
        with pytest.raises(ValueError, match=r"archive|batches"):
            Archive.from_dict(broken)


def test_mutation_is_no_mere_rounding():
    rng = np.random.default_rng(0)
    genes = SPACE.sample_genes(500, rng)
    children = _vary(np.stack([genes, genes]), SPACE.n_choices - 1, rng)  # equal parents: only mutation is left
    canonical = SPACE.canonical(children)  # which raises outside the choices
    changed = (canonical != np.concatenate([genes, genes])).any(axis=1)
    assert changed.mean() > 0.5


@pytest.mark.parametrize(
    ("objectives", "settings", "message"),
    [
        ((), {}, "axes of different names; got none"),
        (OBJECTIVES[:1] * 2, {}, "different names"),
        (OBJECTIVES, {"budget": 0}, "at least 1"),
        (OBJECTIVES, {"batch": 0}, "at least 1"),
        (OBJECTIVES, {"population": 2}, "at least 4"),
        (OBJECTIVES, {"archive": Archive(SPACE, OBJECTIVES[:1])}, "an archive of quality"),
        (OBJECTIVES, {"tactic": RandomTactic(SPACE, 0, 10), "population": 5}, "option population for a tactic that is"),
    ],
)
def test_impossible_searches_say_so(objectives, settings, message):
    with pytest.raises(ValueError, match=message):
        run_search(SPACE, objectives, **{"tactic": "nsga2", "budget": 10, "seed": 0, **settings})


def test_a_tactic_that_asks_twice_is_stopped():
    class Broken(RandomTactic):
        def ask(self, n):
            return ENDS[:n]

    with pytest.raises(ValueError, match="of 2 architectures 0 are new to the archive"):
        run_search(SPACE, OBJECTIVES, tactic=Broken(SPACE, 0, 10), budget=10, seed=0)
