"""How steps are computed: precision, optimisers, averages, micro-batches, mixed images; and that all resume."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import create_supernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.training import (
    CrossEntropy,
    Engine,
    InPlaceDistillation,
    Largest,
    Mixing,
    Phase,
    Progress,
    Sandwich,
    Schedule,
    Static,
    Trainer,
    Uniform,
    only,
    plain,
)
from supernet.training.gradients import accumulate_gradients, mean_losses


def _batch(seed: int = 0, n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=generator)
    return torch.randn(n, 1, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) / 5, labels


class Noise:
    """Random images, the same for the same epoch."""

    steps_per_epoch = 4

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(skip, self.steps_per_epoch):
            images, labels = _batch(100 * epoch + step)
            yield images[rank::n_ranks], labels[rank::n_ranks]


def _supernet() -> TimmSupernet:
    return create_supernet(
        "mobilenetv3", num_classes=10, in_chans=1, depths=[1, 2], kernels=[3, 5], expands=[2, 3], resolutions=[6, 8],
        stages=[{"width": 8, "stride": 2}], stem_width=8, stem_stride=1, head_width=16, feature_width=16,
    )  # fmt: skip


def _trainer(engine: Engine, folder: Path | None = None, lr: float = 0.01) -> Trainer:
    net = _supernet()
    first = Phase("largest", net.space, Schedule(1, lr), Largest())
    loss = CrossEntropy() if engine.ema is None else InPlaceDistillation((0.5, 0.5), teacher="average")
    sandwich = Phase("sandwich", net.space, Schedule(1, lr), Sandwich(1), loss, clip=1.0)
    return Trainer(net, (first, sandwich), Noise(), engine=engine, folder=folder, save_steps=1)


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    assert isinstance(trainer.supernet, nn.Module)
    return {name: value.clone() for name, value in trainer.supernet.state_dict().items()}


def _gradients(net: nn.Module) -> dict[str, Tensor]:
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return gradients


# -- what resumes -----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "engine",
    [
        Engine(optimizer="adamw", ema=0.9),
        Engine(optimizer="lamb", precision="bf16"),
        Engine(precision="fp16", accumulation=2),
        Engine(mixing=Mixing(10, mixup=0.2, cutmix=1.0), channels_last=False),
    ],
    ids=lambda engine: f"{engine.optimizer}-{engine.precision}",
)
def test_every_engine_resumes_with_the_same_bits(tmp_path: Path, engine: Engine) -> None:
    def stop(progress: Progress) -> None:
        if progress.step in (3, 6) and progress.step not in stopped:
            stopped.append(progress.step)
            raise Stopped

    stopped: list[int] = []
    whole, resumed = _trainer(engine), _trainer(engine, tmp_path)
    before = _weights(whole)
    epochs = whole.run()
    for _ in range(2):
        with pytest.raises(Stopped):
            _trainer(engine, tmp_path).run(only(Progress, stop))
    again = resumed.run()
    assert [epoch.losses for epoch in again] == [epoch.losses for epoch in epochs]
    found = _weights(resumed)
    for name, value in _weights(whole).items():
        assert torch.equal(found[name], value), name
    assert any(not torch.equal(found[name], value) for name, value in before.items() if name.endswith("weight"))


def test_half_precision_computes_almost_the_same() -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        epochs = _trainer(Engine(precision=precision)).run()  # type: ignore[arg-type]
        losses[precision] = [value for epoch in epochs for value in epoch.losses.values()]
    for precision in ("bf16", "fp16"):
        assert losses[precision] != losses["fp32"]
        np.testing.assert_allclose(losses[precision], losses["fp32"], rtol=0.03)


def test_an_average_that_is_not_kept_cannot_teach() -> None:
    net = _supernet()
    phase = Phase("x", net.space, Schedule(1, 0.1), Sandwich(1), InPlaceDistillation(teacher="average"))
    with pytest.raises(ValueError, match="the average of the weights is to teach, and none is kept; set ema"):
        Trainer(net, (phase,), Noise()).run()


# -- the average ------------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_validated_and_kept_and_starts_afresh_with_a_phase() -> None:
    trainer = _trainer(Engine(ema=0.7), lr=0.1)
    net = trainer.supernet
    assert isinstance(net, nn.Module)
    expected: dict[str, Tensor] = {}
    validated: list[dict[str, Tensor]] = []

    def on_step(progress: Progress) -> None:
        if progress.step in (1, 5):  # the first of a phase: from what the weights were before it
            start = initial if progress.step == 1 else last
            expected.update({name: value.clone() for name, value in start.items()})
        t = (progress.step - 1) % 4
        decay = (
            min(0.7, 1 - t ** (-2 / 3)) if t > 1 else 0.0
        )  # smaller at first: a short phase forgets its first weights
        for name, value in net.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach()
        last.update({name: value.detach().clone() for name, value in net.named_parameters()})

    def validate(averaged: object) -> dict[str, float]:
        assert isinstance(averaged, nn.Module)
        validated.append({name: value.detach().clone() for name, value in averaged.named_parameters()})
        torch.testing.assert_close(validated[-1], {name: expected[name] for name in validated[-1]})
        return {}

    initial = {name: value.detach().clone() for name, value in net.named_parameters()}
    last: dict[str, Tensor] = {}
    trainer.validate = validate
    trainer.run(only(Progress, on_step))
    assert len(validated) == 2
    assert all(torch.equal(value, validated[-1][name]) for name, value in net.named_parameters())
    assert any(not torch.equal(value, validated[-1][name]) for name, value in last.items())


# -- how images are shared out ----------------------------------------------------------------------------------------


def test_micro_batches_are_averaged() -> None:
    net, (images, labels) = _supernet().train(), _batch()
    archs = Sandwich(1)(net.space, 0, 0)
    losses = accumulate_gradients(net, images, labels, archs, CrossEntropy(), accumulation=3)
    together = _gradients(net)
    separate = [
        accumulate_gradients(net, images[rows], labels[rows], archs, CrossEntropy())
        for rows in (slice(0, 4), slice(4, 8), slice(8, 12))
    ]
    torch.testing.assert_close(losses, torch.stack(separate).mean(0))
    torch.testing.assert_close(together, {name: g / 3 for name, g in _gradients(net).items()})


def test_a_split_batch_trains_every_subnetwork_on_its_own_images() -> None:
    net, (images, labels) = _supernet().train(), _batch()
    archs = Uniform(3)(net.space, 0, 0)
    losses = accumulate_gradients(net, images, labels, archs, CrossEntropy(), split_batch=True)
    together = _gradients(net)
    for i, arch in enumerate(archs):
        rows = slice(4 * i, 4 * i + 4)
        own = accumulate_gradients(net, images[rows], labels[rows], [arch], CrossEntropy())
        torch.testing.assert_close(losses[i], own[0])
    torch.testing.assert_close(together, {name: g / 3 for name, g in _gradients(net).items()})
    with pytest.raises(ValueError, match=r"12 images per step.* in 5.*multiple of 5"):
        accumulate_gradients(net, images, labels, Uniform(5)(net.space, 0, 0), CrossEntropy(), split_batch=True)


def test_a_probe_trains_nothing() -> None:
    net, (images, labels) = _supernet().train(), _batch()
    archs = Sandwich(1)(net.space, 0, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    probed = mean_losses(net, images, labels, archs, CrossEntropy())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(module.training for module in net.modules())
    trained = accumulate_gradients(net, images, labels, archs, CrossEntropy())
    np.testing.assert_allclose(probed, trained.numpy(), rtol=1e-6)
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())  # statistics do move


# -- mixing -----------------------------------------------------------------------------------------------------------


def test_mixing_blends_images_and_labels_alike_and_leaves_random_numbers_alone() -> None:
    images, labels = _batch()
    np.random.seed(3)  # noqa: NPY002
    state, copy = str(np.random.get_state()), images.clone()  # noqa: NPY002
    mixup = Mixing(10, mixup=1.0)
    mixed, soft = mixup(images, labels, 0, 1, 0)
    assert torch.equal(images, copy) and str(np.random.get_state()) == state  # noqa: NPY002
    one_hot = F.one_hot(labels, 10).float()
    share = float(((mixed - images.flip(0)) / (images - images.flip(0))).median())
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot.flip(0), atol=1e-5, rtol=1e-5)
    for key in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert torch.equal(mixup(images, labels, *key)[0], mixed) == (key == (0, 1, 0))
    cut, soft = Mixing(10, cutmix=1.0)(images, labels, 0, 1, 0)
    kept = (cut == images).float().mean(dim=(1, 2, 3))
    assert bool((cut == images).logical_or(cut == images.flip(0)).all())
    torch.testing.assert_close(soft, kept[:, None] * one_hot + (1 - kept[:, None]) * one_hot.flip(0))
    with pytest.raises(ValueError, match="even number of images"):
        mixup(images[:3], labels[:3], 0, 0, 0)


@pytest.mark.slow
def test_training_with_compiled_blocks_gives_the_same_weights():
    whole, compiled = _trainer(Engine()), _trainer(Engine(compile=True))
    net = compiled.supernet
    assert isinstance(net, TimmSupernet)
    # Everything but the compiler of C++, which takes minutes.
    net.compile_blocks = partial(net.compile_blocks, backend="aot_eager")  # pyright: ignore[reportAttributeAccessIssue]
    torch.compiler.reset()
    compiled.run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    whole.run()
    weights = _weights(compiled)
    for name, expected in _weights(whole).items():
        torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5, msg=name)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="0 micro-batches"):
        Engine(accumulation=0)
    with pytest.raises(ValueError, match=r"ema 1\.0"):
        Engine(ema=1.0)
    with pytest.raises(ValueError, match="switch off compile"):
        Engine(compile=True, sync_batch_norm=True)
    with pytest.raises(ValueError, match="mix nothing"):
        Mixing(10)
    net = Static(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 8)
    with pytest.raises(ValueError, match="Static has no blocks that can be compiled"):
        Trainer(net, plain(net.space, Schedule(1, 0.1)), Noise(), engine=Engine(compile=True)).run()
