"""ResNets of timm as supernets, by their dependency graph."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import ResNet
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet import elastic
from supernet.families.traced import TracedSupernet
from supernet.testing import randomize

NAMES = ("resnext50_32x4d", "seresnet50", "resnetrs50", "resnet50_gn")


def noisy(name: str, **settings: Any) -> Any:
    return randomize(timm.create_model(name, num_classes=10, **settings)).eval()


def images(resolution: int, n: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_laws_hold_for_models_of_timm(name):
    """Beside those of tests/test_elastic.py: layers that a plain ResNet has not, at several resolutions."""
    model = noisy(name, layers=(1, 2, 1, 1))
    expected = model(images(64))
    limit = 1e-5 * expected.abs().max().item()
    supernet = elastic(model, resolutions=(33, 64), importance=None).eval()
    assert isinstance(supernet, TracedSupernet)
    space = supernet.space
    archs = [space.largest, space.smallest, *space.sample(1, np.random.default_rng(0))]
    genes = space.encode(archs)
    macs, parameters = supernet.macs(genes), supernet.n_parameters(genes)
    assert macs[1] < macs[0]
    for i, arch in enumerate(archs):
        subnet = supernet.extract(arch)
        assert type(subnet) is ResNet
        with FlopCounterMode(display=False) as counter:
            logits = subnet(images(arch.resolution))
        torch.testing.assert_close(logits, supernet(images(arch.resolution), arch), rtol=0, atol=limit)
        assert counter.get_total_flops() // 2 == macs[i]
        assert sum(p.numel() for p in subnet.parameters()) == parameters[i]
        features: Any = subnet.forward_intermediates(images(arch.resolution), intermediates_only=True)
        assert [f.shape[1] for f in features] == [info["num_chs"] for info in subnet.feature_info]
    state = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    supernet.sort_channels()
    assert any(not torch.equal(tensor, state[key]) for key, tensor in supernet.state_dict().items())
    torch.testing.assert_close(supernet(images(64), space.largest), expected, rtol=0, atol=10 * limit)


@torch.no_grad()
def test_widths_of_stages_can_be_elastic():
    model = noisy("resnet26d")
    expected = model(images(64))
    supernet = elastic(model, widths=(0.5, 0.75), resolutions=(64,)).eval()
    torch.testing.assert_close(supernet(images(64), supernet.space.largest), expected, rtol=1e-4, atol=1e-4)
    arch = supernet.space.smallest
    subnet = supernet.extract(arch)
    assert [info["num_chs"] for info in subnet.feature_info] == [32, 128, 256, 512, 1024]
    assert subnet.num_features == subnet.head_hidden_size == 1024
    subnet.reset_classifier(3)
    assert subnet(images(64)).shape == (1, 3)
    with FlopCounterMode(display=False) as counter:
        supernet(images(64), arch)
    assert counter.get_total_flops() // 2 == supernet.macs(supernet.space.encode([arch]))[0]
    trained = supernet.space.restrict(**dict.fromkeys((*supernet.space.settings, "expand"), (0.75, 1.0)))
    before = supernet(images(64), trained.smallest)
    first = supernet.get_parameter("layer1.0.conv3.weight").clone()
    generator = torch.Generator().manual_seed(0)
    supernet.sort_channels(lambda weight: torch.rand(weight.shape[1], generator=generator), within=trained)
    assert not torch.equal(supernet.get_parameter("layer1.0.conv3.weight"), first)
    torch.testing.assert_close(supernet(images(64), trained.smallest), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_two_poolings_that_are_joined_tell_the_width_of_one():
    subnet = elastic(noisy("resnet10t", global_pool="catavgmax"), widths=(0.5,), resolutions=(32,))
    subnet = subnet.extract(subnet.space.smallest)
    assert (subnet.fc.in_features, subnet.num_features, subnet.feature_info[-1]["num_chs"]) == (512, 256, 256)
    subnet.reset_classifier(3)
    assert subnet(images(32)).shape == (1, 3)


@torch.no_grad()
def test_grouped_convolutions_are_narrowed_by_whole_groups():
    supernet = elastic(noisy("resnext50_32x4d", layers=(2, 1, 1, 1)), resolutions=(64,)).eval()
    subnet = supernet.extract(supernet.space.smallest)
    block = subnet.layer1[0]
    assert (block.conv2.groups, block.conv2.in_channels, block.conv2.weight.shape[1]) == (16, 64, 4)
    scores = supernet.get_parameter("layer1.0.conv3.weight").abs().sum(dim=(0, 2, 3)).view(32, 4).sum(dim=1)
    assert (scores.diff() <= 1e-4).all()
    assert onnx_parity(export_onnx(subnet, (1, 3, 64, 64)), subnet, (1, 3, 64, 64)) < 1e-4


def test_gradients_reach_what_is_active_and_nothing_else():
    supernet = elastic(noisy("resnet18"), resolutions=(32,))
    arch = supernet.space.smallest
    supernet.train()
    supernet(images(32, 4), arch).square().mean().backward()
    subnet = supernet.extract(arch).train()
    subnet(images(32, 4)).square().mean().backward()
    gradients = dict(subnet.named_parameters())
    for name, parameter in supernet.named_parameters():
        if name not in gradients:
            assert parameter.grad is None, name
            continue
        own, grad = gradients[name].grad, parameter.grad
        assert own is not None and grad is not None
        torch.testing.assert_close(grad[tuple(slice(n) for n in own.shape)], own)
        assert grad.count_nonzero() == own.count_nonzero(), name


def test_choices_are_as_asked_for():
    model = timm.create_model("resnet10t", layers=(2, 3, 1, 1))
    space = elastic(model, depths=[(1,), (2,)], fractions=(0.25, 0.5), resolutions=(96,)).space
    assert [stage.depths for stage in space.stages] == [(1, 2), (2, 3)]
    assert space.stages[1].blocks[0]["expand"] == (0.25, 0.5, 1.0) and space.resolutions == (96,)
    default = elastic(model).space
    assert [stage.depths for stage in default.stages] == [(1, 2), (2, 3)] and default.resolutions == (176,)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"depths": (3,)}, "depths 3: possible are 1 to 2"),
        ({"fractions": (1.5,)}, "fractions 1.5: possible are above 0 up to 1"),
        ({"widths": (0,)}, "widths 0: possible are above 0 up to 1"),
        ({"family": "own"}, "a ResNet has no family of its own"),
        ({"fraction": (0.5,)}, "a ResNet has no choice 'fraction'; did you mean 'fractions'"),
    ],
)
def test_what_cannot_be_elastic_is_refused_in_one_line(choices, message):
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=message) as error:
        elastic(model, **{"resolutions": (64,), **choices})
    assert "\n" not in str(error.value)
