"""Losses: their values and gradients against the formulas."""

import pytest
import torch
from torch.nn import functional as F

from supernet.training import (
    AlphaDivergence,
    CrossEntropy,
    Distillation,
    InPlaceDistillation,
    Loss,
    MeanSquare,
    SoftLabels,
)
from supernet.training.imitation import alpha_divergence, soft_cross_entropy

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


LOSSES = [
    CrossEntropy(),
    Distillation(0.5),
    Distillation(imitation=MeanSquare()),
    Distillation(teacher="in place", imitation=AlphaDivergence()),
    InPlaceDistillation((0.7, 0.2)),
    InPlaceDistillation((0.7, 0.2), imitation=AlphaDivergence(clamp=5, weight=0.3)),
]


def _value_and_gradient(loss: Loss, labels: torch.Tensor, teacher: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    value = loss(logits, labels, teacher, 0.3)
    return value.detach(), *torch.autograd.grad(value, logits)


@pytest.mark.parametrize("teacher", [None, TEACHER], ids=["alone", "taught"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_labels_may_be_probabilities(loss: Loss, teacher: torch.Tensor | None) -> None:
    """Those of one image say the same as its integer, and those of two mixed images the same mixed."""
    other = LABELS.roll(1)
    one, two = (F.one_hot(labels, 5).float() for labels in (LABELS, other))
    plain = [_value_and_gradient(loss, labels, teacher) for labels in (LABELS, other)]
    torch.testing.assert_close(_value_and_gradient(loss, one, teacher), plain[0])
    mixed = _value_and_gradient(loss, 0.3 * one + 0.7 * two, teacher)
    torch.testing.assert_close(mixed, tuple(0.3 * a + 0.7 * b for a, b in zip(*plain, strict=True)))


def test_mean_square_is_of_the_logits(logits: torch.Tensor) -> None:
    MeanSquare()(logits, TEACHER).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, 2 * (logits.detach() - TEACHER) / logits.numel())


# -- α-divergence -----------------------------------------------------------------------------------------------------


def _double(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(16, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [-2.0, -1.0, 0.5, 1.0, 2.0])
def test_gradient_of_the_alpha_divergence_is_that_of_its_formula(alpha: float) -> None:
    logits, teacher = _double(0).requires_grad_(), _double(1)
    p, q = teacher.softmax(1), logits.softmax(1)
    if alpha == 1:
        formula = (p * (p.log() - q.log())).sum(1)
    else:
        formula = (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))
    value = alpha_divergence(logits, teacher, alpha)
    torch.testing.assert_close(value, formula, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v.sum(), logits)[0] for v in (value, formula))
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() < 1e-12 * max(1.0, float(scale))
    assert (formula > 0).all() and alpha_divergence(teacher, teacher, alpha).abs().max() < 1e-12


def test_a_clamp_limits_what_a_single_class_can_do() -> None:
    logits, teacher = torch.tensor([[9.0, 8, 0]], requires_grad=True), torch.tensor([[-9.0, 5, 0]])
    size = [
        torch.autograd.grad(alpha_divergence(logits, teacher, -1.0, clamp).sum(), logits)[0].abs().max()
        for clamp in (float("inf"), 5.0, 1.0)
    ]
    assert size[0] > 1e5 and size[1] < 5 and size[2] < 1
    surest = alpha_divergence(1e4 * logits, teacher, -1.0, 1.0)
    assert surest.isfinite().all() and torch.autograd.grad(surest.sum(), logits)[0].isfinite().all()


def test_the_larger_divergence_counts_image_by_image() -> None:
    logits, teacher = (0.5 * _double(2)).requires_grad_(), 0.5 * _double(3)
    both = torch.stack([alpha_divergence(logits, teacher, alpha, 1.0) for alpha in (-1.0, 1.0)])
    expected = both.max(dim=0).values.mean()
    assert 0 < int(both.argmax(0).sum()) < 16  # either of them somewhere
    value = AlphaDivergence()(logits, teacher)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(AlphaDivergence(weight=0.2)(logits, teacher), 0.2 * expected)


def test_unsafe_divergences_are_refused() -> None:
    for wrong, says in (
        (lambda: AlphaDivergence(clamp=5), "clamp 5 and weight 1 collapses.*clamp of at most 1, or a weight of at mo"),
        (lambda: AlphaDivergence((0.0, 1.0)), "must not be 0"),
        (lambda: AlphaDivergence(weight=0), "must be above 0"),
        (lambda: Distillation(imitation=AlphaDivergence()), "frozen teacher explodes.*imitate soft labels"),
        (lambda: Distillation(2, teacher="in place", imitation=AlphaDivergence()), "beside an α-divergence"),
        (lambda: alpha_divergence(TEACHER, TEACHER, 0), "alpha 0"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()
    assert Distillation(2, teacher="in place", imitation=SoftLabels()).weight == 2


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"label smoothing 1\.5"):
        CrossEntropy(1.5)
    with pytest.raises(ValueError, match=r"label weight -1"):
        InPlaceDistillation((1, -1))
    with pytest.raises(ValueError, match="use CrossEntropy"):
        Distillation(0)
