"""Losses: their values and gradients against the formulas."""

import pytest
import torch
from torch.nn import functional as F

from supernet.training import CrossEntropy, Distillation, InPlaceDistillation
from supernet.training.imitation import soft_cross_entropy

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(5, (8,), generator=GENERATOR)
TEACHER = torch.randn(8, 5, generator=GENERATOR)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()


def test_gradient_of_distillation_is_the_difference_of_probabilities(logits: torch.Tensor) -> None:
    soft_cross_entropy(logits, TEACHER).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.softmax(1) - TEACHER.softmax(1)).detach() / len(logits))


def test_soft_cross_entropy_is_smallest_at_the_teacher(logits: torch.Tensor) -> None:
    assert soft_cross_entropy(TEACHER, TEACHER) < soft_cross_entropy(logits, TEACHER)
    entropy = torch.distributions.Categorical(logits=TEACHER).entropy().mean()
    torch.testing.assert_close(soft_cross_entropy(TEACHER, TEACHER), entropy)


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
def test_frozen_teacher_adds_to_the_labels(logits: torch.Tensor, weight: float) -> None:
    labels = F.cross_entropy(logits, LABELS, label_smoothing=0.1)
    expected = labels + weight * soft_cross_entropy(logits, TEACHER)
    torch.testing.assert_close(Distillation(weight)(logits, LABELS, TEACHER, 0.3), expected)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_in_place_labels_ramp_out(logits: torch.Tensor, progress: float) -> None:
    loss = InPlaceDistillation((1.0, 0.0))
    labels = CrossEntropy()(logits, LABELS, None, progress)
    expected = (1 - progress) * labels + progress * soft_cross_entropy(logits, TEACHER)
    torch.testing.assert_close(loss(logits, LABELS, TEACHER, progress), expected)
    torch.testing.assert_close(loss(logits, LABELS, None, progress), labels)  # the largest has labels only


def test_label_free_loss_does_not_see_the_labels(logits: torch.Tensor) -> None:
    loss = InPlaceDistillation((0.0, 0.0))
    assert loss(logits, LABELS, TEACHER, 0.5) == loss(logits, (LABELS + 1) % 5, TEACHER, 0.5)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label smoothing 1\.5"):
        CrossEntropy(1.5)
    with pytest.raises(ValueError, match=r"label weight -1"):
        InPlaceDistillation((1, -1))
    with pytest.raises(ValueError, match="use CrossEntropy"):
        Distillation(0)
