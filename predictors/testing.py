"""The laws of a predictor as a test class to inherit from; needs pytest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictors.card import kendall_tau
from predictors.cost_terms import KnownCosts
from predictors.protocol import Predictor, Target, Values
from predictors.registry import NotSuitedError, Subject
from predictors.storage import load_predictor, save_predictor
from supernet.space import Genes, SearchSpace, Stage

__all__ = ["SPACE", "PredictorContract", "subject"]

SPACE = SearchSpace(
    (16, 24, 32),
    (Stage.uniform((1, 2, 3), kernel=(3, 5, 7), expand=(2, 3, 4)),) * 3
    + (Stage((0, 1), ({"kernel": (3, 5)},), {"width": (8, 16)}),),
    {"stem_width": (8, 12)},
)

_FITTED: dict[tuple[Any, ...], Predictor] = {}


def subject(known: bool = True) -> Subject:
    """Some 10^8 networks, of which the costs of all blocks are known or not."""
    return Subject(SPACE, KnownCosts(SPACE, {"macs": _costs}) if known else None)


def _costs(genes: Genes) -> Values:
    """Area × expand × kernel² of every block, (n_archs, 9)."""
    values = np.nan_to_num(SPACE.values(genes))
    kernels = [i for i, gene in enumerate(SPACE.genes) if gene.name == "kernel" and gene.stage != 3]
    return values[:, :1] ** 2 * values[:, [i + 1 for i in kernels]] * (20 + values[:, kernels] ** 2)


class PredictorContract:
    """Tests that hold for every predictor.

    A test class inherits from this one and gives the fixture ``create``: a maker as one registers it,
    ``create(subject, target, seed) -> Predictor``.
    """

    targets: tuple[Target, ...] = ("value", "relative")
    """What it learns errors in; others it must refuse."""
    tau = 0.7
    """The rank correlation that it must reach on what it has not seen, from `n_train` architectures."""
    calibration = 0.08
    """How far the share of architectures that hold a budget may be from what was said."""
    n_train = 150

    @pytest.fixture
    def create(self) -> Callable[[Subject, Target, int], Predictor]:
        """Makes a predictor that is not fitted."""
        raise NotImplementedError

    # -- what it learns -----------------------------------------------------------------------------------------------

    def test_it_ranks_what_it_has_not_seen(self, create: Any) -> None:
        for target in self.targets:
            predictor = self._fitted(create, target)
            unseen = self._sample(400, seed=1)
            assert kendall_tau(self._truth(unseen), predictor.predict(unseen)) > self.tau

    def test_fitting_returns_itself_and_knows_every_row_without_itself(self, create: Any) -> None:
        for target in self.targets:
            genes, y = self._training()
            predictor = create(subject(), target, 0)
            assert predictor.fit(genes, y) is predictor and predictor.target == target
            assert predictor.out_of_fold_.shape == y.shape and np.isfinite(predictor.out_of_fold_).all()
            errors = np.abs(predictor.out_of_fold_ - y), np.abs(predictor.predict(genes) - y)
            assert errors[0].mean() >= 0.9 * errors[1].mean(), "rows it was fitted to are told from those it was not"

    def test_a_constant_is_learned(self, create: Any) -> None:
        for target in self.targets:
            predicted = create(subject(), target, 0).fit(self._sample(20), np.full(20, 0.5)).predict(self._sample(5, 1))
            np.testing.assert_allclose(predicted, 0.5, rtol=1e-6)

    def test_it_can_do_without_costs_or_says_so(self, create: Any) -> None:
        try:
            predictor = create(subject(known=False), self.targets[0], 0)
        except NotSuitedError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert np.isfinite(predictor.fit(*self._training()).predict(self._sample(5))).all()

    # -- what it depends on -------------------------------------------------------------------------------------------

    def test_the_same_again(self, create: Any) -> None:
        """From the same seed; and nothing of an earlier fit is left."""
        genes, y = self._training()
        before = str(np.random.get_state(legacy=False))  # noqa: NPY002 the global generator is not its own
        for target in self.targets:
            predictor = create(subject(), target, 3).fit(genes[:40], 2 * y[:40]).fit(genes, y)
            expected = create(subject(), target, 3).fit(genes, y)
            np.testing.assert_array_equal(predictor.predict(genes), expected.predict(genes))
            np.testing.assert_array_equal(predictor.out_of_fold_, expected.out_of_fold_)
        assert str(np.random.get_state(legacy=False)) == before  # noqa: NPY002

    def test_blocks_that_do_not_exist_do_not_count(self, create: Any) -> None:
        genes = self._sample(200, seed=1)
        anything = np.random.default_rng(9).integers(SPACE.n_choices, size=genes.shape)
        scrambled = np.where(SPACE.active(genes), genes, anything)
        assert (scrambled != genes).any()
        for target in self.targets:
            predictor = self._fitted(create, target)
            np.testing.assert_array_equal(predictor.predict(scrambled), predictor.predict(genes))

    def test_a_row_is_predicted_alike_alone_and_among_others(self, create: Any) -> None:
        genes = self._sample(50, seed=1)
        for target in self.targets:
            predictor = self._fitted(create, target)
            together = predictor.predict(genes)
            np.testing.assert_allclose(predictor.predict(genes[7:8]), together[7:8], rtol=1e-9)
            np.testing.assert_allclose(predictor.predict(genes[::-1]), together[::-1], rtol=1e-9)
            assert predictor.predict(genes[:0]).shape == (0,)

    def test_it_changes_nothing_that_it_is_given(self, create: Any) -> None:
        given = self._training()
        kept = [array.copy() for array in given]
        for target in self.targets:
            create(subject(), target, 0).fit(*given).predict(given[0])
            for array, before in zip(given, kept, strict=True):
                np.testing.assert_array_equal(array, before)

    # -- how sure it is -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("coverage", [0.8, 0.9])
    def test_intervals_cover_what_they_promise(self, create: Any, coverage: float) -> None:
        for target in self.targets:
            inside = []
            for seed in range(3):
                predictor = self._fitted(create, target, seed)
                genes = self._sample(500, seed=20 + seed)
                lower, upper = predictor.predict_interval(genes, coverage).T
                y = self._truth(genes, seed=50 + seed)
                inside.append(np.mean((lower <= y) & (y <= upper)))
                assert (lower <= predictor.predict(genes)).all() and (predictor.predict(genes) <= upper).all()
            assert abs(np.mean(inside) - coverage) < 0.08

    def test_more_coverage_takes_wider_intervals_and_more_than_it_knows_is_refused(self, create: Any) -> None:
        for target in self.targets:
            predictor = self._fitted(create, target)
            genes = self._sample(50, seed=1)
            widths = [np.ptp(predictor.predict_interval(genes, coverage), axis=1) for coverage in (0.5, 0.9)]
            assert (widths[0] <= widths[1]).all() and (widths[0] < widths[1]).any()
            for coverage in (0.9999, 0.0, 90.0):
                with pytest.raises(ValueError, match="coverage"):
                    predictor.predict_interval(genes, coverage)

    def test_the_probability_of_a_budget_is_calibrated(self, create: Any) -> None:
        for target in self.targets:
            predictor, genes = self._fitted(create, target), self._sample(800, seed=1)
            y = self._truth(genes, seed=2)
            limit = float(np.median(y))
            probability = predictor.probability_below(genes, limit)
            assert ((probability > 0) & (probability < 1)).all()
            assert abs(probability.mean() - np.mean(y <= limit)) < self.calibration
            assert (predictor.probability_below(genes, 2 * limit) >= probability).all()

    # -- how it is kept -----------------------------------------------------------------------------------------------

    def test_a_stored_one_predicts_the_same_bits(self, create: Any, tmp_path: Path) -> None:
        """In plain data, read into one that was made anew."""
        genes = self._sample(100, seed=1)
        for target in self.targets:
            predictor = self._fitted(create, target)
            path = tmp_path / f"{target}.json"
            save_predictor(predictor, path)
            loaded = load_predictor(path, create(subject(), target, 0))
            assert loaded.predict(genes).tobytes() == predictor.predict(genes).tobytes()
            assert loaded.predict_interval(genes).tobytes() == predictor.predict_interval(genes).tobytes()
            below = [one.probability_below(genes, float(np.median(self._truth(genes)))) for one in (loaded, predictor)]
            assert below[0].tobytes() == below[1].tobytes()
            np.testing.assert_array_equal(loaded.out_of_fold_, predictor.out_of_fold_)
            assert loaded.target == target

    def test_damaged_files_are_refused_in_one_line(self, create: Any, tmp_path: Path) -> None:
        predictor, path = self._fitted(create, self.targets[0]), tmp_path / "predictor.json"
        save_predictor(predictor, path)
        document = json.loads(path.read_text())
        learned = document["learned"]
        assert isinstance(learned, dict) and learned
        for content in (
            *({**document, "learned": {k: v for k, v in learned.items() if k != key}} for key in learned),
            {**document, "learned": []},
            {**document, "kind": "something else"},
            {**document, "features": "0" * 16},
        ):
            path.write_text(json.dumps(content))
            with pytest.raises(ValueError, match="predictor") as refused:
                load_predictor(path, predictor)
            assert "\n" not in str(refused.value)

    # -- what it refuses ----------------------------------------------------------------------------------------------

    def test_what_cannot_be_learned_says_so_in_one_line(self, create: Any) -> None:
        genes = self._sample(10)
        wrong = [(genes, np.ones(9)), (genes[:2], np.ones(2)), (genes, np.r_[np.ones(9), np.nan])]
        for target in self.targets:
            impossible = [*wrong, (genes, np.r_[0.0, np.ones(9)])] if target == "relative" else wrong
            for x, y in impossible:
                with pytest.raises(ValueError, match=r".") as refused:
                    create(subject(), target, 0).fit(x, y)
                assert "\n" not in str(refused.value)

    def test_targets_that_it_is_not_for_are_refused(self, create: Any) -> None:
        for target in {"value", "relative", "anything"} - set(self.targets):
            with pytest.raises(ValueError, match=r"."):
                create(subject(), target, 0).fit(*self._training())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _sample(self, n: int, seed: int = 0) -> Genes:
        return SPACE.sample_genes(n, np.random.default_rng(seed))

    def _truth(self, genes: Genes, seed: int | None = None) -> Values:
        """Seconds: a launch and some arithmetic per block, with relative noise where there is a seed."""
        costs = _costs(genes)
        truth = 2e-5 + (costs > 0).sum(axis=1) * 1e-5 + costs @ np.linspace(1.5, 0.5, costs.shape[1]) * 2e-9
        return truth if seed is None else truth * (1 + 0.05 * np.random.default_rng(seed).standard_normal(len(genes)))

    def _training(self, seed: int = 0) -> tuple[Genes, Values]:
        genes = self._sample(self.n_train, seed=10 + seed)
        return genes, self._truth(genes, seed=seed)

    def _fitted(self, create: Any, target: Target, seed: int = 0) -> Predictor:
        """One that learned from `_training`; fitted once for all laws of a test class."""
        made = create(subject(), target, seed)
        key = (type(self), type(made), made.features.digest, target, seed)
        if key not in _FITTED:
            _FITTED[key] = made.fit(*self._training(seed))
        return _FITTED[key]
