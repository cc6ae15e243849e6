"""Pruning while training: exact numbers of zero units, schedules, equality after removal, accuracy on real digits."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from supernet import elastic
from supernet.pruning.consensus import ConsensusGates
from supernet.pruning.costs import share_of_macs
from supernet.pruning.dhspg import Dhspg
from supernet.pruning.hesso import Hesso
from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.units import Units
from supernet.scoring.calibration import recalibrate
from supernet.testing import randomize

N_TRAIN, STEPS_PER_EPOCH = 900, 14


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        middle = 4 * n_in
        self.widen, self.norm1 = nn.Conv2d(n_in, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.deep, self.norm2 = (
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
        )
        self.narrow, self.norm3 = nn.Conv2d(middle, n_out, 1, bias=False), nn.BatchNorm2d(n_out)
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.relu6(self.norm1(self.widen(x)))
        inner = nn.functional.relu6(self.norm2(self.deep(inner)))
        out = self.norm3(self.narrow(inner))
        return x + out if self.residual else out


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's, shuffled, with noise, so that accuracy is not saturated."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    noisy = images[order] / 8 - 1 + np.random.default_rng(1).normal(0, 0.6, images.shape)
    return torch.tensor(noisy, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels[order])


IMAGES, LABELS = digits()


def supernet_of(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    widths = [(8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1)]
    stem = [nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model = nn.Sequential(*stem, *(Block(*width) for width in widths), *head)
    return elastic(model, example_input=IMAGES[:2], multiple_of=1, importance=None)


def train(supernet: Any, epochs: int, optimizer: Any, extra: Any = None, seed: int = 0) -> None:
    generator, n_steps, step = torch.Generator().manual_seed(seed), epochs * STEPS_PER_EPOCH, 0
    supernet.train()
    for _ in range(epochs):
        order = torch.randperm(N_TRAIN, generator=generator)
        for i in range(STEPS_PER_EPOCH):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 + np.cos(np.pi * step / n_steps)) * min(1, (step + 1) / STEPS_PER_EPOCH)
            batch = order[i * 64 : (i + 1) * 64]
            images = IMAGES[batch] + 0.2 * torch.randn(IMAGES[batch].shape, generator=generator)
            outputs = supernet(images, supernet.space.largest)
            loss = nn.functional.cross_entropy(outputs, LABELS[batch], label_smoothing=0.1)
            if extra is not None:
                loss = loss + extra(step / n_steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    supernet.eval()


def sgd(supernet: Any) -> torch.optim.SGD:
    return torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=3e-4)


def accuracy(network: Any) -> float:
    with torch.no_grad():
        return float((network.eval()(IMAGES[1200:]).argmax(1) == LABELS[1200:]).float().mean())


def largest_of(supernet: Any) -> Tensor:
    with torch.no_grad():
        return supernet.eval()(IMAGES[1200:], supernet.space.largest)


@pytest.fixture(scope="module")
def dense() -> Any:
    supernet = supernet_of()
    train(supernet, 12, sgd(supernet))
    return supernet


@pytest.mark.parametrize("kind", [Hesso, Dhspg])
def test_as_many_units_as_planned_are_zero_and_without_them_nothing_changes(kind, dense):
    supernet = supernet_of()
    units, optimizer = Units(supernet), sgd(supernet)
    pruner = kind(units, Plan(0.5, 2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH, 4))
    pruner.attach(optimizer)
    train(supernet, 12, optimizer)
    assert int(pruner.gone.sum()) == units.n // 2 and not bool(pruner.marked[~pruner.gone].any())
    assert int((units.sums(units.parameters) == 0).sum()) == units.n // 2
    small = pruner.network().eval()
    with torch.no_grad():
        torch.testing.assert_close(small(IMAGES[1200:]), largest_of(supernet), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in supernet.parameters())
    whole = float((largest_of(dense).argmax(1) == LABELS[1200:]).float().mean())
    scores = Units(dense).scores("l2")
    cut = Units(dense).without(Plan(0.5, 1, 1, 1).choose(Units(dense), scores, pruner.gone & False, 1.0))
    assert accuracy(small) >= whole - 0.03 and accuracy(small) >= accuracy(cut) + 0.15


def test_what_is_marked_shrinks_in_a_straight_line_and_stays_zero_under_any_optimiser():
    supernet = supernet_of()
    units = Units(supernet)
    pruner = Hesso(units, Plan(0.75, 1, 4, 1))
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.0, weight_decay=0.0)  # nothing moves by itself
    pruner.attach(optimizer)
    before = None
    shares = []
    for step in range(8):
        supernet(IMAGES[:64], supernet.space.largest).square().mean().backward()
        if step == 1:
            before = units.sums(units.parameters).sqrt()
        optimizer.step()
        if before is not None:
            marked = pruner.marked | pruner.gone
            shares.append(float((units.sums(units.parameters).sqrt()[marked] / before[marked]).mean()))
    assert shares == pytest.approx([0.75, 0.5, 0.25, 0, 0, 0, 0], abs=1e-6)
    moments = {name: optimizer.state[p]["exp_avg"] for name, p in units.parameters.items()}
    assert float(units.sums(moments)[pruner.gone].max()) == 0


def test_a_budget_of_multiply_accumulates_is_kept():
    supernet = supernet_of()
    cost = share_of_macs(supernet)
    full = supernet.graph.full
    assert cost(full) == pytest.approx(1)
    pruner = Hesso(Units(supernet), Plan(0.6, 1, 6, 3, cost))
    optimizer = sgd(supernet)
    pruner.attach(optimizer)
    train(supernet, 1, optimizer)
    left = cost(pruner.units.left(pruner.gone)[0])
    assert 0.55 < left <= 0.6
    again: Any = elastic(pruner.network(), example_input=IMAGES[:2], multiple_of=1, importance=None)
    counted = [net.macs(net.space.encode([net.space.largest]))[0] for net in (again, supernet)]
    assert counted[0] / counted[1] == pytest.approx(left)


def test_training_goes_on_where_it_stopped():
    def run(stop: int | None) -> tuple[Any, Pruner]:
        supernet = supernet_of()
        pruner, optimizer = Hesso(Units(supernet), Plan(0.5, 1, 8, 2)), sgd(supernet)
        pruner.attach(optimizer)
        for step in range(12):
            if step == stop:  # what a checkpoint holds goes into new objects
                weights, state, momenta = supernet.state_dict(), pruner.state_dict(), optimizer.state_dict()
                supernet = supernet_of(1)
                supernet.load_state_dict(weights)
                pruner, optimizer = Hesso(Units(supernet), Plan(0.5, 1, 8, 2)), sgd(supernet)
                pruner.load_state_dict(state)
                optimizer.load_state_dict(momenta)
                pruner.attach(optimizer)
            optimizer.zero_grad()
            nn.functional.cross_entropy(supernet(IMAGES[:64], supernet.space.largest), LABELS[:64]).backward()
            optimizer.step()
        return supernet, pruner

    (whole, first), (resumed, second) = run(None), run(5)
    assert torch.equal(first.gone, second.gone)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("polarising", [20.0, 0.0])
def test_gates_agree_only_where_they_are_pushed_to(polarising):
    supernet = supernet_of()
    units = Units(supernet)
    gates = ConsensusGates(units, 0.6, share_of_macs(supernet), polarising=polarising)
    weights, opening = sgd(supernet), torch.optim.Adam(gates.parameters(), lr=0.03)

    def open_and_close(*_: Any) -> None:
        opening.step()
        opening.zero_grad()

    weights.register_step_post_hook(open_and_close)
    train(supernet, 14, weights, gates.penalty)
    gates.eval()
    dynamic = float((largest_of(supernet).argmax(1) == LABELS[1200:]).float().mean())
    assert (gates.decided >= 0.95) == bool(polarising)
    if polarising:
        left = share_of_macs(supernet)(units.kept(gates.gone))
        assert 0.55 < left < 0.65
        static = recalibrate(gates.network(), IMAGES[:N_TRAIN].split(225))
        assert accuracy(static) > dynamic - 0.04


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_random_units_of_networks_of_timm_go_without_a_trace(name):
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 8} if "vit" in name else {}
    model = timm.create_model(name, num_classes=10, **arguments).eval()
    randomize(model)
    images = torch.randn(4, 3, 32, 32)
    supernet: Any = elastic(model, family="traced", example_input=images[:1], importance=None).eval()
    units = Units(supernet)
    half = units.n / 2
    gone = units.least(
        torch.rand(units.n), torch.zeros(units.n, dtype=torch.bool), lambda found: half - int(found.sum())
    )
    assert int(gone.sum()) > units.n / 3
    small = units.without(gone)
    units.scale(units.parameters, (~gone).float())
    with torch.no_grad():
        torch.testing.assert_close(small(images), supernet(images, supernet.space.largest), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_said_at_once():
    supernet = supernet_of()
    units = Units(supernet)
    with pytest.raises(ValueError, match=r"target 0\.001 cannot be reached"):
        Hesso(units, Plan(0.001, 1, 4, 2, share_of_macs(supernet)))
    with pytest.raises(ValueError, match=r"3 steps cannot be 5 periods"):
        Plan(0.5, 1, 3, 5)
    with pytest.raises(ValueError, match="above 0"):
        Plan(1.0, 1, 3, 1)
    with pytest.raises(ValueError, match="first step is 1"):
        Plan(0.5, 0, 3, 1)
    with pytest.raises(ValueError, match="0 of 5 steps are done"):
        Hesso(units, Plan(0.5, 1, 4, 2)).network()
    with pytest.raises(ValueError, match="no importance 'l9'"):
        units.scores("l9")
