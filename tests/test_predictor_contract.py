"""Every law of a predictor for every registered one, and that broken predictors break the laws."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.settings.sections import FitSettings
from predictors import (
    KnownDevice,
    KnownDevices,
    NotSuitedError,
    OneHot,
    RidgePredictor,
    Subject,
    create_predictor,
    fit_best,
    predictor_names,
    register_predictor,
    suitable_predictors,
)
from predictors import registry as registry_module
from predictors.lookup import BlockSum
from predictors.testing import SPACE, PredictorContract, subject

OWN = {"block_table", "boosting", "ensemble", "gaussian_process", "k_nearest", "ridge", "transfer"}


@pytest.mark.parametrize("name", sorted(set(predictor_names()) - {"k_nearest"}))
class TestRegistered(PredictorContract):
    @pytest.fixture
    def create(self, name):
        return lambda subject, target, seed: create_predictor(name, with_help(subject), target, seed)


class TestNearest(PredictorContract):
    tau, calibration = 0.5, 0.12  # a mean of a few of 150 out of 10^8 networks

    @pytest.fixture
    def create(self):
        return lambda subject, target, seed: create_predictor("k_nearest", subject, target, seed)


def with_help(subject):
    """The same, with the seconds of six blocks that every network has some of, and with two devices that are known."""
    space = subject.space
    columns = [i for i, gene in enumerate(space.genes) if gene.name == "kernel"]

    def lookup(genes):
        return np.where(space.active(genes), genes, -1)[:, columns]

    def device(name, each):
        def seconds(genes):
            return 1e-5 + each * (lookup(genes) + 2).sum(axis=1)

        genes = space.canonical(space.sample_genes(40, np.random.default_rng(0)))
        return KnownDevice(name, name, genes, seconds(genes), seconds)

    return replace(
        subject,
        blocks=BlockSum(space, lookup, np.array([1e-5, 2e-5, 3e-5])),
        devices=KnownDevices(space, [device("a", np.array([1e-6])), device("b", 3e-6)]),
    )


def test_those_of_this_project_are_registered_as_any_package_would_its_own():
    assert set(predictor_names()) >= OWN


# -- the laws are laws ------------------------------------------------------------------------------------------------


class Lying(RidgePredictor):
    """Says that it had not seen what it had."""

    def fit(self, genes, y):
        super().fit(genes, y)
        self.residuals_ = replace(self.residuals_, errors=0.1 * self.residuals_.errors)
        return self


class Remembering(RidgePredictor):
    """Adds every fit to the last."""

    shift = 0.0

    def predict(self, genes):
        return super().predict(genes) + self.shift

    def fit(self, genes, y):
        self.shift += float(y.mean())
        return super().fit(genes, y)


class Dead(RidgePredictor):
    """Sees blocks that do not exist."""

    def predict(self, genes):
        return super().predict(genes) + 1e-6 * genes.sum(axis=1)


class Rounding(RidgePredictor):
    """Writes down less than it knows."""

    def to_dict(self):
        return json.loads(json.dumps(super().to_dict()), parse_float=lambda text: float(f"{float(text):.4g}"))


class Careless(RidgePredictor):
    """Learns from anything."""

    def fit(self, genes, y):
        return super().fit(np.resize(genes, (len(y), genes.shape[-1])), np.nan_to_num(y))


LAWS = [name for name in dir(PredictorContract) if name.startswith("test_")]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Lying, "test_intervals_cover_what_they_promise"),
        (Remembering, "test_the_same_again"),
        (Dead, "test_blocks_that_do_not_exist_do_not_count"),
        (Rounding, "test_a_stored_one_predicts_the_same_bits"),
        (Careless, "test_what_cannot_be_learned_says_so_in_one_line"),
    ],
)
def test_a_broken_predictor_breaks_a_law(broken, law, tmp_path):
    arguments = {"coverage": 0.9, "tmp_path": tmp_path}
    run = getattr(PredictorContract(), law)
    names = run.__code__.co_varnames[2 : run.__code__.co_argcount]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(
            lambda subject, target, seed: broken(subject.terms, target),
            **{name: arguments[name] for name in names},
        )


# -- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry_module._MAKERS, "_registered", {})


@pytest.mark.usefixtures("registered")
def test_one_more_is_a_function_and_takes_part():
    @register_predictor("plain")
    def plain(subject, target, seed):
        return RidgePredictor(OneHot(subject.space), target)

    assert "plain" in predictor_names()
    makers = suitable_predictors(subject(), "relative")
    assert set(makers) == set(predictor_names()) - {"block_table", "transfer"}
    genes = SPACE.sample_genes(60, np.random.default_rng(0))
    best = fit_best(makers, genes, 1.0 + genes.sum(axis=1), target="relative")
    assert set(best.errors) == set(makers)
    assert list(suitable_predictors(subject(), names=["plain"])) == ["plain"]


def test_those_that_need_what_is_not_there_are_left_out():
    bare = Subject(SPACE)
    assert set(suitable_predictors(bare)) == OWN - {"block_table", "transfer"}
    with pytest.raises(NotSuitedError, match="'block_table' does not suit: the blocks of these networks were not"):
        suitable_predictors(bare, names=["block_table"])


def test_unknown_names_name_the_nearest():
    with pytest.raises(ValueError, match="no predictor is named 'rigde'; did you mean 'ridge'"):
        create_predictor("rigde", subject())
    with pytest.raises(ValidationError, match="'rigde' is not possible; choose 'block_table', 'boosting'"):
        FitSettings(predictors=("rigde",))
