"""The embedded digits: deterministic, disjoint, readable by position, and fast."""

from __future__ import annotations

import itertools

import pytest
import torch

from experiments.data.digits import ComposedDigits


@pytest.fixture(scope="module")
def digits() -> ComposedDigits:
    return ComposedDigits(
        seed=3, resolution=32, batch_size=50, train_images=220, validation_images=120, test_images=600
    )


def test_batches_have_the_promised_form(digits):
    batches = list(digits.train_batches(epoch=0))
    assert len(batches) == digits.steps_per_epoch == 4
    for images, labels in batches:
        assert images.shape == (50, 1, 32, 32) and images.dtype == torch.float32
        assert labels.shape == (50,) and labels.dtype == torch.int64
        assert set(labels.tolist()) <= set(range(digits.n_classes))
    images = torch.cat([images for images, _ in batches])
    assert abs(float(images.mean())) < 0.15 and abs(float(images.std()) - 1) < 0.15


def test_an_epoch_is_the_same_again_and_another_one_is_not(digits):
    first, again, other = (list(digits.train_batches(epoch)) for epoch in (1, 1, 2))
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])


@pytest.mark.parametrize("skip", range(5))
def test_skipping_resumes_exactly(digits, skip):
    whole, rest = list(digits.train_batches(7)), list(digits.train_batches(7, skip=skip))
    assert len(rest) == 4 - skip
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[skip:], rest, strict=True))


def test_splits_are_made_of_disjoint_digits(digits):
    real = {split: digits._real[split] for split in ("train", "validation", "test")}
    parts = {split: {row.numpy().tobytes() for row in part.ink} for split, part in real.items()}
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts.values(), 2))
    assert sum(len(part.labels) for part in real.values()) == 1797
    for part in real.values():  # every class in its share
        counts = torch.bincount(part.labels).float()
        assert counts.max() / counts.min() < 1.2


def test_evaluation_batches_do_not_depend_on_the_batch_size(digits):
    small, large = (list(digits.evaluation_batches("test", size)) for size in (70, 600))
    assert sum(len(labels) for _, labels in small) == 600 and len(large) == 1
    assert torch.equal(torch.cat([images for images, _ in small]), large[0][0])
    assert digits.n_images("validation") == sum(len(y) for _, y in digits.evaluation_batches("validation", 50)) == 120


def test_calibration_images_are_fixed(digits):
    first, again = (torch.cat(list(digits.calibration_batches(130, size))) for size in (50, 130))
    assert first.shape == (130, 1, 32, 32) and torch.equal(first, again)
    with pytest.raises(ValueError, match="221 calibration images; the training split has 220"):
        next(digits.calibration_batches(221, 10))


def test_the_digest_names_seed_and_sizes(digits):
    same = ComposedDigits(3, 32, 50, 220, 120, 600)
    others = [ComposedDigits(4, 32, 50, 220, 120, 600), ComposedDigits(3, 28, 50, 220, 120, 600)]
    assert same.digest == digits.digest
    assert len({digits.digest, *(other.digest for other in others)}) == 3


def test_other_random_numbers_stay_as_they_are(digits):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(digits.train_batches(5))
    assert torch.equal(before, torch.get_rng_state())
