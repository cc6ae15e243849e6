"""Recalibration against the published rule, written out; evaluation against counting."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.families.inverted_residual import InvertedResidualSupernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.scoring.images import resize

BATCHES = [torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n)) + n / 4 for n in (2, 5, 9)]


def _network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> Any:
    torch.manual_seed(0)
    network: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), norm(4), nn.Dropout(0.5), nn.Conv2d(4, 6, 3, stride=2), norm(6)
    )
    for module in (network[1], network[4]):
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    return network


def _by_hand(network: Any, act: bool) -> list[tuple[Tensor, Tensor]]:
    """(mean, variance) of both norms by the rule of the published code."""
    n_images = sum(len(images) for images in BATCHES)
    averages = [(torch.zeros(4), torch.zeros(4)), (torch.zeros(6), torch.zeros(6))]
    for images in BATCHES:
        x = images
        for (conv, norm), (mean, variance) in zip(((0, 1), (3, 4)), averages, strict=True):
            x = network[conv](x)
            batch_mean, batch_variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            mean += batch_mean * len(images) / n_images
            variance += batch_variance * len(images) / n_images
            x = F.batch_norm(x, batch_mean, batch_variance, network[norm].weight, network[norm].bias, eps=1e-5)
            x = x.relu() if act else x
    return averages


@pytest.mark.parametrize("act", [False, True])
@torch.no_grad()
def test_statistics_are_image_weighted_averages_of_batch_statistics(act: bool) -> None:
    network = _network(BatchNormAct2d if act else nn.BatchNorm2d)
    expected = _by_hand(network, act)
    assert recalibrate(network, BATCHES) is network
    for norm, (mean, variance) in zip((network[1], network[4]), expected, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
    tracked = _network(BatchNormAct2d if act else nn.BatchNorm2d)
    for images in BATCHES:
        tracked(images)
    assert (tracked[1].running_mean - network[1].running_mean).abs().max() > 0.1


def test_twice_is_once_and_what_was_there_does_not_matter() -> None:
    once = {k: v.clone() for k, v in recalibrate(_network(), BATCHES).state_dict().items()}
    twice = recalibrate(recalibrate(_network(), BATCHES), BATCHES)
    diverged = _network()
    diverged[1].running_mean.fill_(float("nan"))
    diverged[1].running_var.fill_(float("inf"))
    for network in (twice, recalibrate(diverged, BATCHES)):
        for name, value in once.items():
            assert torch.equal(network.state_dict()[name], value), name


def test_flags_momentum_and_weights_are_left_alone() -> None:
    network = _network(partial(nn.BatchNorm2d, momentum=0.3)).eval()
    network[4].train()
    before = {name: value.clone() for name, value in network.named_parameters()}
    recalibrate(network, ((images, torch.zeros(len(images))) for images in BATCHES))
    assert [m.training for m in network] == [False, False, False, False, True]
    assert network[1].momentum == network[4].momentum == 0.3
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert all(value.grad is None for value in network.parameters())
    assert not network[1]._forward_hooks and not network[1]._forward_pre_hooks


def test_one_forward_per_batch() -> None:
    network, calls = _network(), []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    recalibrate(network, BATCHES)
    assert len(calls) == len(BATCHES)


def test_without_norms_nothing_happens() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    assert recalibrate(network, []) is network


@pytest.mark.parametrize(("batches", "message"), [([], "got none"), ([torch.zeros(1, 3, 5, 5)], "at least 2 images")])
def test_what_cannot_be_calibrated_leaves_the_statistics(batches: list[Tensor], message: str) -> None:
    network = recalibrate(_network(), BATCHES)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        recalibrate(network, batches)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_resolution_is_that_of_the_subnetwork(small_supernet: InvertedResidualSupernet) -> None:
    images = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    arch = small_supernet.space.smallest
    by_argument = recalibrate(small_supernet.extract(arch), [images], resolution=arch.resolution)
    by_hand = recalibrate(small_supernet.extract(arch), [resize(images, arch.resolution)])
    full_size = recalibrate(small_supernet.extract(arch), [images])
    x = resize(images, arch.resolution)
    assert torch.equal(by_argument.eval()(x), by_hand.eval()(x))
    assert not torch.allclose(by_argument(x), full_size.eval()(x), atol=1e-3)


def test_recalibrated_network_normalises_like_the_batch(small_supernet: InvertedResidualSupernet) -> None:
    arch = small_supernet.space.largest
    images = torch.rand(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    module = recalibrate(small_supernet.extract(arch), [images]).eval()
    torch.testing.assert_close(module(images), small_supernet.train()(images, arch), atol=1e-4, rtol=1e-4)


def test_score_counts() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    images = torch.eye(4).reshape(4, 4, 1, 1)
    batches = [(images[:3], torch.tensor([0, 1, 0])), (images[3:], torch.tensor([3]))]
    score = evaluate(network, batches)
    assert (score.value, score.n_images) == (0.75, 4)
    assert score.loss == pytest.approx(float(F.cross_entropy(torch.eye(4), torch.tensor([0, 1, 0, 3]))))
    assert network.training
    with pytest.raises(ValueError, match="got none"):
        evaluate(network, [])


def test_resize() -> None:
    images = torch.rand(2, 3, 32, 32)
    assert resize(images, 32) is images
    small = resize(images, 16)
    assert small.shape == (2, 3, 16, 16)
    torch.testing.assert_close(small.mean(), images.mean(), atol=0.01, rtol=0)
    assert resize(torch.ones(1, 1, 30, 20), 24).allclose(torch.ones(1, 1, 24, 24))


def test_evaluating_leaves_every_part_as_it_was():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(3 * 64, 10))
    network.train()
    network[1].eval()  # frozen on purpose
    evaluate(network, [(torch.randn(4, 3, 8, 8), torch.randint(10, (4,)))])
    assert [part.training for part in network] == [True, False, True, True]
