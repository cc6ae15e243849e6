"""Laws of features, and what the predictors of this project do beyond the contract."""

import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from predictors import (
    BlockCosts,
    BlockTerms,
    BoostingPredictor,
    CostTerms,
    Features,
    Joined,
    KnownCosts,
    Levels,
    OneHot,
    Predictor,
    RidgePredictor,
    error_card,
    fit_best,
    load_predictor,
    save_predictor,
)
from predictors.protocol import Residuals, folds
from supernet.space import Genes, SearchSpace, Stage

SPACE = SearchSpace(
    (16, 24, 32),
    (Stage.uniform((1, 2, 3), kernel=(3, 5, 7), expand=(2, 3, 4)),) * 3
    + (Stage((0, 1), ({"kernel": (3, 5)},), {"width": (8, 16)}),),
    {"stem_width": (8, 12)},
)


def block_costs(genes: Genes) -> np.ndarray:
    """Area × expand × kernel² of every block, (n_archs, 9)."""
    values = np.nan_to_num(SPACE.values(genes))
    kernels = [i for i, gene in enumerate(SPACE.genes) if gene.name == "kernel" and gene.stage != 3]
    return values[:, :1] ** 2 * values[:, [i + 1 for i in kernels]] * (20 + values[:, kernels] ** 2)


def latency(genes: Genes, noise: float, seed: int = 0) -> np.ndarray:
    """Seconds: a launch and some arithmetic per block, with relative noise."""
    rng = np.random.default_rng(seed)
    costs = block_costs(genes)
    truth = 2e-5 + (costs > 0).sum(axis=1) * 1e-5 + costs @ np.linspace(1.5, 0.5, costs.shape[1]) * 2e-9
    return truth * (1 + noise * rng.standard_normal(len(genes)))


FEATURES: dict[str, Callable[[], Features]] = {
    "one hot": lambda: OneHot(SPACE),
    "terms": lambda: BlockTerms(SPACE),
    "costs": lambda: BlockCosts(SPACE, block_costs),
    "joined": lambda: Joined(BlockTerms(SPACE), BlockCosts(SPACE, block_costs)),
    "cost terms": lambda: CostTerms(SPACE, KnownCosts(SPACE, {"macs": block_costs})),
    "levels": lambda: Levels(SPACE, KnownCosts(SPACE, {"macs": block_costs})),
}
PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "ridge": lambda: RidgePredictor(FEATURES["cost terms"](), "relative"),
    "ridge of values": lambda: RidgePredictor(FEATURES["joined"](), "value"),
    "boosting": lambda: BoostingPredictor(FEATURES["costs"](), "relative"),
    "boosting of values": lambda: BoostingPredictor(FEATURES["one hot"](), "value"),
}
every_features = pytest.mark.parametrize("make", FEATURES.values(), ids=FEATURES)


def sample(n: int, seed: int = 0) -> Genes:
    return SPACE.sample_genes(n, np.random.default_rng(seed))


def scrambled(genes: Genes) -> Genes:
    """The same architectures with arbitrary inactive genes."""
    anything = np.random.default_rng(9).integers(SPACE.n_choices, size=genes.shape)
    return np.where(SPACE.active(genes), genes, anything)


@every_features
def test_features_do_not_see_dead_genes(make: Callable[[], Features]) -> None:
    features, genes = make(), sample(200)
    other = scrambled(genes)
    assert (other != genes).any()
    columns = features(genes)
    assert columns.shape == (200, len(features.names)) and len(features.groups) == len(features.names)
    assert len(set(features.names)) == len(features.names)
    np.testing.assert_array_equal(features(other), columns)


@every_features
def test_dot_is_the_product_with_the_columns(make: Callable[[], Features]) -> None:
    features, genes = make(), scrambled(sample(100))
    coefficients = np.random.default_rng(0).standard_normal(len(features.names))
    np.testing.assert_allclose(features.dot(genes, coefficients), features(genes) @ coefficients, atol=1e-9)


def test_one_hot_lights_one_column_per_active_gene() -> None:
    genes = sample(200)
    several = SPACE.n_choices > 1
    np.testing.assert_array_equal(OneHot(SPACE)(genes).sum(axis=1), SPACE.active(genes)[:, several].sum(axis=1))
    fixed = SPACE.restrict(kernel=(3,))
    assert not any("kernel" in name for name in OneHot(fixed).names)


def test_block_terms_count_choices() -> None:
    terms, arch = BlockTerms(SPACE), SPACE.largest
    row = dict(zip(terms.names, terms(SPACE.encode([arch]))[0], strict=True))
    assert row["n(kernel=7)"] == 9
    assert row["stage2.n(expand=4)"] == 3
    assert row["stage2.block3.kernel=7"] == row["side"] == row["area"] == 1
    single = BlockTerms(SPACE.restrict(resolution=(24,)))
    assert not any("area" in name for name in single.names)
    assert single(single.space.encode([single.space.smallest])).shape == (1, len(single.names))


def test_a_digest_names_the_meaning() -> None:
    for make in FEATURES.values():
        assert make().digest == make().digest
    assert len({make().digest for make in FEATURES.values()}) == len(FEATURES)
    assert OneHot(SPACE).digest != OneHot(SPACE.restrict(kernel=(3, 5))).digest
    assert BlockCosts(SPACE, block_costs).digest != BlockCosts(SPACE, lambda genes: block_costs(genes) ** 2).digest


def test_sixty_measurements_are_enough_for_latency() -> None:
    train, test = sample(60, seed=2), sample(500, seed=3)
    predictor = RidgePredictor(FEATURES["cost terms"](), "relative").fit(train, latency(train, 0.02))
    error = np.abs(predictor.predict(test) / latency(test, 0.02, seed=4) - 1)
    assert np.mean(error <= 0.1) >= 0.95


def test_residuals_refuse_more_coverage_than_they_know() -> None:
    residuals = Residuals.of(np.arange(1.0, 21.0), np.ones(20), "value")
    with pytest.raises(ValueError, match=r"coverage 0.99 needs 99 training architectures; there were 20"):
        residuals.interval(np.ones(1), 0.99)
    with pytest.raises(ValueError, match="between 0 and 1"):
        residuals.interval(np.ones(1), 90)


@pytest.mark.parametrize(
    ("genes", "y", "message"),
    [
        (sample(10), np.ones(9), "shape"),
        (sample(2), np.ones(2), "too few"),
        (sample(10), np.r_[np.ones(9), np.nan], r"y\[9\] = nan is not positive"),
        (sample(10), np.r_[0.0, np.ones(9)], r"y\[0\] = 0.0 is not positive"),
    ],
)
def test_what_cannot_be_learned_says_so(genes: Genes, y: np.ndarray, message: str) -> None:
    for make in (PREDICTORS["ridge"], PREDICTORS["boosting"]):
        with pytest.raises(ValueError, match=message):
            make().fit(genes, y)


def test_saving_again_replaces_the_file_and_leaves_no_other(tmp_path) -> None:
    train = sample(40)
    predictor = PREDICTORS["ridge"]().fit(train, latency(train, 0.05))
    for _ in range(2):
        save_predictor(predictor, tmp_path / "latency.json")
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"]


@pytest.mark.parametrize("name", ["ridge", "boosting"])
def test_wrong_files_are_refused_in_one_line(name: str, tmp_path) -> None:
    train = sample(40)
    predictor = PREDICTORS[name]().fit(train, latency(train, 0.05))
    path = tmp_path / "latency.json"
    save_predictor(predictor, path)
    whole = path.read_text()

    def refused(text: str, message: str, features: Features = predictor.features) -> None:
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            load_predictor(path, type(predictor)(features))  # type: ignore[call-arg]
        assert "\n" not in str(error.value)

    refused(whole, "another search space", OneHot(SPACE))
    refused(whole[: len(whole) // 2], "damaged or cut short")
    refused("[]", "not a predictor")
    refused("{}", f"not a {predictor.kind} predictor of this version")
    document = json.loads(whole)
    for key in document["learned"]:
        refused(
            json.dumps({**document, "learned": {k: v for k, v in document["learned"].items() if k != key}}), "damaged"
        )
    refused(
        json.dumps({**document, "learned": {**document["learned"], "coefficients": [[1.0]], "booster": {}}}), "damaged"
    )
    with pytest.raises(ValueError, match="there is no predictor"):
        load_predictor(tmp_path / "none.json", predictor)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    train = sample(40)
    predictor = PREDICTORS["ridge"]().fit(train, latency(train, 0.05))
    path = tmp_path / "latency.json"
    path.write_text("old")
    predictor.intercepts_ = np.array([np.nan])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="JSON"):
        save_predictor(predictor, path)
    assert [file.name for file in tmp_path.iterdir()] == ["latency.json"] and path.read_text() == "old"


def test_error_card_by_folds_and_held_out() -> None:
    genes = sample(120)
    y = latency(genes, 0.03)
    card = error_card(PREDICTORS["ridge"], genes, y, seed=1)
    assert (card.n_train, card.n_test) == (96, 120)
    assert card.kendall_tau > 0.8 and card.mape < 0.06 and card.within_10_percent > 0.9
    assert 0 < card.median_error < card.mape
    assert abs(card.interval_coverage - 0.9) < 0.1
    assert card == error_card(PREDICTORS["ridge"], genes, y, seed=1)
    held_out = error_card(PREDICTORS["ridge"], genes[:80], y[:80], held_out=(genes[80:], y[80:]))
    assert (held_out.n_train, held_out.n_test) == (80, 40)
    few = error_card(PREDICTORS["ridge"], genes[:8], y[:8])
    assert few.to_dict()["interval_coverage"] is None and "nan" not in str(few) and "too few" in str(few)
    json.dumps(card.to_dict(), allow_nan=False)


def test_folds_hold_every_row_out_once() -> None:
    pairs = list(folds(23, 5, seed=0))
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in pairs])), np.arange(23))
    assert all(len(np.intersect1d(train, test)) == 0 for train, test in pairs)
    with pytest.raises(ValueError, match="at least 2"):
        list(folds(5, 1, seed=0))


def test_the_best_candidate_wins_reproducibly() -> None:
    genes = sample(80)
    y = latency(genes, 0.03)
    candidates = {name: PREDICTORS[name] for name in ("boosting", "ridge")}
    chosen = fit_best(candidates, genes, y, target="relative")
    assert chosen.name == "ridge" and chosen.errors["ridge"] < chosen.errors["boosting"]
    assert chosen.errors == fit_best(candidates, genes, y, target="relative").errors
    np.testing.assert_array_equal(chosen.predictor.predict(genes), PREDICTORS["ridge"]().fit(genes, y).predict(genes))
    with pytest.raises(ValueError, match="no candidates"):
        fit_best({}, genes, y)


def test_importing_the_package_is_light() -> None:
    code = "import predictors, sys; assert not {'xgboost', 'sklearn', 'scipy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
