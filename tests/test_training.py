"""Training: gradients against plain autograd, the schedule, teachers, and that networks learn."""

import copy
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import Architecture, Block, SearchSpace, Stage, create_supernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.scoring.calibration import batch_norms, evaluate, recalibrate
from supernet.scoring.images import resize
from supernet.training import (
    CollapseError,
    CrossEntropy,
    Distillation,
    InPlaceDistillation,
    Phase,
    Progress,
    Rollback,
    Sandwich,
    Schedule,
    Static,
    Trainer,
    Uniform,
    gradual_shrinking,
    only,
    plain,
    progressive_shrinking,
    single_stage,
)
from supernet.training.gradients import accumulate_gradients, freeze, teaching


class Digits:
    """Noisy 8 × 8 digits in batches of 64, shuffled by epoch."""

    def __init__(self, n_train: int = 1216) -> None:
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        noise = torch.randn(len(images), 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.images = (torch.tensor(images).float().view(-1, 1, 8, 8) / 8 - 1)[order] + 0.5 * noise
        self.labels = torch.tensor(labels)[order]
        self.n_train = n_train

    @property
    def steps_per_epoch(self) -> int:
        return self.n_train // 64

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.n_train, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64)[skip : self.steps_per_epoch]:
            yield self.images[rows[rank::n_ranks]], self.labels[rows[rank::n_ranks]]

    def calibration(self) -> list[Tensor]:
        return list(self.images[:512].split(128))

    def test(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.images[1216:], self.labels[1216:])]


class TwoWidths(nn.Module):
    """The smallest supernet of one's own: one convolution of elastic width; dropout shows who is regularised."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.space = SearchSpace((6, 8), (Stage.uniform((1,), width=(4, 6, 8)),))
        self.conv, self.norm = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(8, 10)
        self.dropped: list[bool] = []

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        n = int(arch.stages[0][0]["width"])
        self.dropped.append(self.dropout.training)
        x = F.conv2d(images, self.conv.weight[:n])
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None
        x = F.batch_norm(
            x, mean[:n], variance[:n], self.norm.weight[:n], self.norm.bias[:n], self.norm.training, 0.1
        ).relu()
        return F.linear(self.dropout(x.mean((2, 3))), self.head.weight[:, :n], self.head.bias)

    def extract(self, arch: Architecture) -> nn.Module:
        n = int(arch.stages[0][0]["width"])
        small = nn.Sequential(
            nn.Conv2d(1, n, 3, bias=False), nn.BatchNorm2d(n), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(n, 10),
        )  # fmt: skip
        own = [self.conv.weight[:n], self.norm.weight[:n], self.norm.bias[:n], self.head.weight[:, :n], self.head.bias]
        with torch.no_grad():
            for parameter, value in zip(small.parameters(), own, strict=True):
                parameter.copy_(value)
        return small


def _tiny_supernet() -> TimmSupernet:
    return create_supernet(
        "mobilenetv3", num_classes=10, in_chans=1, depths=[1, 2], kernels=[3, 5], expands=[1, 2, 4], resolutions=[6, 8],
        stages=[{"width": 8, "stride": 2}, {"width": 12, "se": True}],
        stem_width=8, stem_stride=1, head_width=24, feature_width=32,
    )  # fmt: skip


def _batch(n: int = 16) -> tuple[Tensor, Tensor]:
    return next((x[:n], y[:n]) for x, y in Digits().train_batches(0))


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return gradients


# -- one step ---------------------------------------------------------------------------------------------------------


def test_a_step_of_one_subnetwork_is_a_plain_training_step() -> None:
    images, labels = _batch()
    net = _tiny_supernet().train()
    arch = net.space.largest
    alone = copy.deepcopy(net).extract(arch).train()
    losses = accumulate_gradients(net, images, labels, [arch], CrossEntropy(0.0))
    loss = F.cross_entropy(alone(images), labels)
    loss.backward()
    torch.testing.assert_close(losses, loss.detach()[None])
    gradients = _gradients(net)
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(),
        InPlaceDistillation((0.5, 0.0)),
        InPlaceDistillation((0.5, 0.0), teacher="next larger"),
        InPlaceDistillation((0.5, 0.0), teacher="average"),
        Distillation(),
    ],
    ids=str,
)
def test_gradients_of_a_step_are_the_sum_of_separate_ones(loss: CrossEntropy) -> None:
    images, labels = _batch()
    net = _tiny_supernet().train()
    archs = Sandwich(2)(net.space, 0, 0)
    teacher = freeze(net.extract(net.space.largest)) if loss.teacher in ("frozen", "average") else None
    losses = accumulate_gradients(net, images, labels, archs, loss, 0.2, teacher)
    together = _gradients(net)
    with torch.no_grad():
        of_step = [net(resize(images, arch.resolution), arch) for arch in archs]
    for i, arch in enumerate(archs):
        x = resize(images, arch.resolution)
        frozen = teacher(x) if teacher else None
        targets = {
            "none": None,
            "in place": of_step[0] if i else None,
            "next larger": of_step[i - 1] if i else None,
            "frozen": frozen,
            "average": frozen,
        }
        value = loss(net(x, arch), labels, targets[loss.teacher], 0.2)
        value.backward()
        torch.testing.assert_close(losses[i], value.detach())
    separate = _gradients(net)
    assert together.keys() == separate.keys()
    for name, gradient in separate.items():
        torch.testing.assert_close(together[name], gradient, msg=name)


def test_blocks_that_did_not_run_are_not_touched() -> None:
    net = _tiny_supernet()
    before = {name: value.clone() for name, value in net.named_parameters()}
    space = net.space.restrict(depth=(1,))
    Trainer(net, (Phase("shallow", space, Schedule(1, 0.1), Uniform(2)),), Digits(128), weight_decay=0.1).run()
    for name, value in net.named_parameters():
        second = name.startswith(("blocks.1.1.", "blocks.2.1.", "kernel_transforms.1_1", "kernel_transforms.2_1"))
        assert torch.equal(value, before[name]) == second, name


def test_the_optimiser_is_plain_nesterov_sgd() -> None:
    """Fused, in channels_last and with blocks that come and go, against the textbook."""
    net, data = _tiny_supernet(), Digits(64 * 6)
    other = copy.deepcopy(net).train()
    phase = Phase("x", net.space, Schedule(1, 0.1), Uniform(2))
    Trainer(net, (phase,), data, weight_decay=0.01, seed=5).run()
    decay = [p for p in other.parameters() if p.ndim > 1]
    rest = [p for p in other.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, foreach=False, fused=False)
    for step, (images, labels) in enumerate(data.train_batches(0)):
        for group in sgd.param_groups:
            group["lr"] = 0.05 * (1 + np.cos(np.pi * step / 6))
        for arch in Uniform(2)(net.space, 5, step):
            x = resize(images, arch.resolution)
            F.cross_entropy(other(x, arch), labels, label_smoothing=0.1).backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)
    for (name, value), expected in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-3, msg=name)


def test_teacher_learns_nothing() -> None:
    net = _tiny_supernet()
    teacher = freeze(net.extract(net.space.largest))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images, labels = _batch()
    accumulate_gradients(net.train(), images, labels, [net.space.smallest], Distillation(), teacher=teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # In train mode: it normalises with the batch, as the largest network of the step would.
    torch.testing.assert_close(teacher(images), net.train()(images, net.space.largest))


def test_an_average_teaches_as_the_largest_network_would_and_learns_nothing() -> None:
    net = _tiny_supernet()
    images, _ = _batch()
    expected = freeze(net.extract(net.space.largest))(images)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.testing.assert_close(teaching(net.eval(), net.space.largest)(images), expected.detach())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(norm.track_running_stats and not norm.training for norm in batch_norms(net))


@pytest.mark.parametrize(("regularise", "dropped"), [("all", [True] * 4), ("largest", [True, False, False, False])])
def test_dropout_of_the_largest_alone(regularise: str, dropped: list[bool]) -> None:
    net = TwoWidths(dropout=0.5).train()
    images, labels = _batch()
    archs = Sandwich(2)(net.space, 0, 0)
    accumulate_gradients(net, images, labels, archs, CrossEntropy(), regularise=regularise)  # type: ignore[arg-type]
    assert net.dropped == dropped
    assert all(module.training for module in net.modules())


# -- the loop ---------------------------------------------------------------------------------------------------------


def _rates(schedule: Schedule, n_train: int = 640) -> list[float]:
    seen: list[Progress] = []
    net = Static(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 8)
    Trainer(net, plain(net.space, schedule), Digits(n_train)).run(only(Progress, seen.append))
    assert [p.step for p in seen] == list(range(1, len(seen) + 1))
    assert {p.n_steps for p in seen} == {len(seen)}
    return [p.lr for p in seen]


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = _rates(Schedule(4, 0.4, warmup_epochs=1, warmup_lr=0.1))
    assert len(rates) == 40
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(0.4)
    np.testing.assert_allclose(np.diff(rates[:11]), 0.03)
    cosine = 0.2 * (1 + np.cos(np.pi * np.arange(30) / 30))  # the next one, which is not taken, would be 0
    np.testing.assert_allclose(rates[10:], cosine, atol=1e-9)
    assert _rates(Schedule(1, 0.4))[0] == pytest.approx(0.4)
    floored = _rates(Schedule(1, 0.4, final_share=0.25))
    np.testing.assert_allclose(floored, 0.1 + 0.15 * (1 + np.cos(np.pi * np.arange(10) / 10)))


def test_every_phase_starts_afresh_and_the_log_tells_kinds_apart(tmp_path: Path) -> None:
    net = _tiny_supernet()
    largest, *_ = progressive_shrinking(net.space, Schedule(2, 0.1))  # at both resolutions
    phases = (largest, *single_stage(net.space, Schedule(2, 0.05)))
    steps: list[Progress] = []
    validations: list[int] = []

    def validate(supernet: object) -> dict[str, float]:
        assert supernet is net
        net.eval()
        validations.append(len(steps))
        return {"accuracy": 0.5}

    trainer = Trainer(net, phases, Digits(192), folder=tmp_path, validate=validate)
    epochs = trainer.run(only(Progress, steps.append))
    assert [e.phase for e in epochs] == ["largest", "largest", "sandwich", "sandwich"]
    assert [e.losses.keys() for e in epochs] == [{"largest"}] * 2 + [{"largest", "random", "smallest"}] * 2
    assert validations == [3, 6, 9, 12] and epochs[0].validation == {"accuracy": 0.5}
    assert steps[6].lr == pytest.approx(0.05) and all(p.images_per_second > 0 for p in steps)
    again = Trainer(net, phases, Digits(192), folder=tmp_path).run(only(Progress, steps.append))
    assert again == epochs and len(steps) == 12  # nothing was left to do


def test_a_step_trains_the_sandwich_of_what_is_open() -> None:
    net = _tiny_supernet()
    phases = gradual_shrinking(net.space, Schedule(3, 0.05), Schedule(1, 0.1), opening=0.6)
    trained: list[Architecture] = []
    net.register_forward_pre_hook(lambda _, arguments: trained.append(arguments[1]))
    kinds: list[set[str]] = []
    epochs = Trainer(net, phases, Digits(192)).run(only(Progress, lambda p: kinds.append(set(p.losses))))
    assert [e.phase for e in epochs] == ["largest"] + ["shrinking"] * 3
    assert trained[:3] == [net.space.largest] * 3
    steps = [trained[i : i + 4] for i in range(3, len(trained), 4)]
    assert len(steps) == 9 and kinds[3:] == [{"largest", "random", "smallest"}] * 9
    for i, archs in enumerate(steps):
        space = phases[1].space_at(i / 9)
        assert (archs[0], archs[-1]) == (net.space.largest, space.smallest)
        assert all(arch in space for arch in archs)
    assert len({archs[-1] for archs in steps}) == len(phases[1].opening) + 1 > 2
    assert steps[-1][-1] == net.space.smallest


def test_training_leaves_the_random_numbers_of_others_alone() -> None:
    net = TwoWidths(dropout=0.5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    Trainer(net, single_stage(net.space, Schedule(1, 0.1)), Digits(128)).run()
    assert torch.equal(state, torch.get_rng_state())


def test_clipping_limits_every_element() -> None:
    net = Static(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 8)
    before = [p.detach().clone() for p in net.parameters()]
    phases = plain(net.space, Schedule(1, 1.0), clip=1e-3)
    Trainer(net, phases, Digits(64), weight_decay=0.0).run()
    change = torch.cat([(p.detach() - q).abs().flatten() for p, q in zip(net.parameters(), before, strict=True)])
    assert 1.8e-3 < float(change.max()) < 1.901e-3  # Nesterov's first step is 1.9 times the gradient


def test_what_is_not_finite_stops_with_one_line(tmp_path: Path) -> None:
    net = Static(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 8)

    class Broken(Digits):
        def train_batches(
            self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
        ) -> Iterator[tuple[Tensor, Tensor]]:
            for i, (images, labels) in enumerate(super().train_batches(epoch), start=skip):
                yield (images / 0 if (epoch, i) == (1, 1) else images), labels

    with pytest.raises(CollapseError, match=r"in step 3.*lower learning rate") as error:
        Trainer(
            net, plain(net.space, Schedule(2, 0.1)), Broken(128), folder=tmp_path, rollback=Rollback(at_most=0)
        ).run()
    assert "\n" not in str(error.value)
    assert [path.name[:14] for path in tmp_path.glob("*.pt")] == ["step-000000002"]


def test_what_does_not_fit_is_refused() -> None:
    net = Static(nn.Flatten(), 8)
    with pytest.raises(ValueError, match="sorts channels, which Static cannot"):
        Trainer(net, (Phase("x", net.space, Schedule(1, 0.1), sort="all"),), Digits()).run()
    with pytest.raises(ValueError, match="one architecture"):
        net(torch.zeros(1, 1, 8, 8), Architecture(8, ((Block(kernel=3),),)))

    class Short(Digits):
        steps_per_epoch = 30  # type: ignore[assignment]

    net = Static(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 8)
    with pytest.raises(ValueError, match="gave 2 batches in epoch 0, but promises 30"):
        Trainer(net, plain(net.space, Schedule(1, 0.1)), Short(128)).run()


# -- learning ---------------------------------------------------------------------------------------------------------


def _score(net: TimmSupernet, arch: Architecture, data: Digits) -> tuple[float, float]:
    """Accuracy with tracked and with recalibrated statistics."""
    module, r = net.extract(arch), arch.resolution
    tracked = evaluate(module, data.test(), r).value
    return tracked, evaluate(recalibrate(module, data.calibration(), r), data.test(), r).value


def _scores(net: TimmSupernet, data: Digits) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Accuracies, tracked and recalibrated, of the largest, the smallest and four between."""
    archs = (net.space.largest, net.space.smallest, *net.space.sample(4, np.random.default_rng(0)))
    tracked, recalibrated = zip(*(_score(net, arch, data) for arch in archs), strict=True)
    return tracked, recalibrated


@pytest.mark.slow
def test_supernet_learns_and_must_be_recalibrated() -> None:
    net, data = _tiny_supernet(), Digits()
    phases = single_stage(net.space, Schedule(8, 0.2), n_random=1, warmup=Schedule(4, 0.2, 0.5))
    Trainer(net, phases, data).run()
    tracked, recalibrated = _scores(net, data)
    assert recalibrated[0] > 0.8 and recalibrated[1] > 0.7 and min(recalibrated) > 0.55, recalibrated
    assert np.mean(recalibrated) - np.mean(tracked) > 0.12, (tracked, recalibrated)


@pytest.mark.slow
def test_shrinking_trains_small_networks_that_the_largest_alone_does_not() -> None:
    net, data = _tiny_supernet(), Digits()
    short, phases = Schedule(2, 0.02), progressive_shrinking(net.space, largest=Schedule(8, 0.2, 0.5))
    phases = (phases[0], *(Phase(p.name, p.space, short, Uniform(1), p.loss, p.sort) for p in phases[1:]))
    smallest: list[float] = []

    def validate(_: object) -> dict[str, float]:
        smallest.append(_score(net, net.space.smallest, data)[1])
        return {}

    epochs = Trainer(net, phases, data, validate=validate).run()
    assert [e.phase for e in epochs[8::2]] == ["kernel", "depth 1", "expand 1", "expand 2"]
    assert smallest[-1] > smallest[7] + 0.12, smallest
    tracked, recalibrated = _scores(net, data)
    assert np.mean(recalibrated) - np.mean(tracked) > 0.15, (tracked, recalibrated)


def test_a_baseline_trains_in_the_same_way() -> None:
    data, net = Digits(), TwoWidths()
    baseline = Static(net.extract(net.space.largest), resolution=8)
    assert baseline.space.size == 1
    Trainer(baseline, plain(baseline.space, Schedule(10, 0.5)), data).run()
    assert evaluate(baseline.model, data.test()).value > 0.3  # of one convolution; chance is 0.1
    copied = baseline.extract(baseline.space.largest).eval()
    images, _ = data.test()[0]
    assert torch.equal(copied(images), baseline.eval()(images, baseline.space.largest))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_is_kept_while_training_and_given_back_after() -> None:
    """In a process of its own: the heap of an old one may have holes, from which memory is taken, and which stay."""
    subprocess.run([sys.executable, "-c", KEEPING], check=True, timeout=100)


KEEPING = """
import resource
from pathlib import Path
import torch
from supernet.training.memory import keep_freed_memory

def resident():  # MB
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

torch.ones(16 << 20)
before = resident()
with keep_freed_memory():
    torch.ones(16 << 20)  # 64 MB, touched and freed
    assert resident() > before + 50, "it was given back"
assert resident() < before + 14, "it was kept after"
torch.ones(16 << 20)
assert resident() < before + 14, "the usual thresholds are not there again"
"""
