"""The elastic residual family on networks of timm."""

from typing import Any

import numpy as np
import pytest
import torch
from timm.models import ResNet, create_model
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet.families.residual import elastic_resnet

NAMES = ("resnet18", "resnet26d", "resnet26t", "resnext50_32x4d", "wide_resnet50_2", "seresnet50", "resnetrs50")


def noisy(name: str, **settings: Any) -> ResNet:
    """A model none of whose statistics and affine weights are 0 or 1."""
    model = create_model(name, num_classes=10, **settings).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    assert isinstance(model, ResNet)
    return model


def images(resolution: int, n: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_laws_hold_for_models_of_timm(name):
    model = noisy(name) if name == "resnet18" else noisy(name, layers=(1, 2, 1, 2))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected = model(images(64))
    limit = 1e-5 * expected.abs().max().item()
    supernet = elastic_resnet(model, resolutions=(33, 64))
    space = supernet.space
    assert set(supernet.state_dict()) == set(state)
    torch.testing.assert_close(supernet(images(64), space.largest), expected, rtol=0, atol=limit)
    archs = [*space.sample(3, np.random.default_rng(0)), space.smallest]
    genes = space.encode(archs)
    macs, parameters = supernet.macs(genes), supernet.n_parameters(genes)
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
    supernet.sort_channels()
    assert any(not torch.equal(tensor, state[key]) for key, tensor in supernet.state_dict().items())
    torch.testing.assert_close(supernet(images(64), space.largest), expected, rtol=0, atol=10 * limit)
    supernet.load_state_dict(state)
    torch.testing.assert_close(supernet(images(64), space.largest), expected, rtol=0, atol=limit)


@torch.no_grad()
def test_stage_widths_can_be_elastic_where_nothing_ties_them():
    model = noisy("resnet26d")
    expected = model(images(64))
    supernet = elastic_resnet(model, widths=(0.5, 0.75), resolutions=(64,))
    assert (supernet(images(64), supernet.space.largest) - expected).abs().max() < 1e-4
    arch = supernet.space.smallest
    subnet = supernet.extract(arch)
    assert [info["num_chs"] for info in subnet.feature_info] == [64, 128, 256, 512, 1024]
    assert subnet.num_features == 1024
    subnet.reset_classifier(3)
    assert subnet(images(64)).shape == (1, 3)
    genes = supernet.space.encode([arch])
    with FlopCounterMode(display=False) as counter:
        supernet(images(64), arch)
    assert counter.get_total_flops() // 2 == supernet.macs(genes)[0]
    supernet.sort_channels()
    torch.testing.assert_close(supernet(images(64), supernet.space.largest), expected, rtol=1e-4, atol=1e-4)
    trained = supernet.space.restrict(width=(0.75, 1.0), expand=(0.75, 1.0))
    before = supernet(images(64), trained.smallest)
    generator = torch.Generator().manual_seed(0)
    supernet.sort_channels(lambda weight: torch.rand(weight.shape[1], generator=generator), within=trained)
    torch.testing.assert_close(supernet(images(64), trained.smallest), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_grouped_convolutions_are_narrowed_by_whole_groups():
    supernet = elastic_resnet(noisy("resnext50_32x4d"))
    subnet: Any = supernet.extract(supernet.space.smallest)
    block = subnet.layer1[0]
    assert (block.conv2.groups, block.conv2.in_channels, block.conv2.weight.shape[1]) == (16, 64, 4)
    supernet.sort_channels()
    scores = supernet.get_parameter("layer1.0.conv3.weight").abs().sum(dim=(0, 2, 3)).view(32, 4).sum(dim=1)
    assert (scores.diff() <= 1e-4).all()


def test_gradients_reach_what_is_active_and_nothing_else():
    supernet = elastic_resnet(noisy("resnet18"), resolutions=(32,))
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


@torch.no_grad()
def test_a_subnet_exports_with_parity():
    supernet = elastic_resnet(noisy("resnext50_32x4d"), resolutions=(64,))
    subnet = supernet.extract(supernet.space.smallest)
    assert onnx_parity(export_onnx(subnet, (1, 3, 64, 64)), subnet, (1, 3, 64, 64)) < 1e-4


def test_choices_are_as_asked_for():
    with torch.device("meta"):
        model: Any = create_model("resnet50")
    space = elastic_resnet(model, depths=[(2,), (2, 3), (4,), ()], fractions=(0.25, 0.5), resolutions=(96,)).space
    assert [stage.depths for stage in space.stages] == [(2, 3), (2, 3, 4), (4, 6), (3,)]
    assert space.stages[0].blocks[0]["expand"] == (0.25, 0.5, 1.0)
    default = elastic_resnet(model).space
    assert [stage.depths for stage in default.stages] == [(2, 3), (2, 3, 4), (3, 4, 5, 6), (2, 3)]
    assert default.resolutions == (128, 160, 192, 224)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("resnet50_gn", {}, "layer1.0.bn1 is of class GroupNorm: only BatchNorm"),
        ("resnetblur50", {}, "layer2.0.aa is of class BlurPool2d: anti-aliasing"),
        ("skresnet18", {}, "layer1.0 is of class SelectiveKernelBasic; only BasicBlock and Bottleneck"),
        ("ecaresnet26t", {}, "layer1.0.se is of class EcaModule: .* only squeeze-excite"),
        ("senet154", {}, "two middle widths"),
        ("mobilenetv3_small_050", {}, "MobileNetV3 is not a timm ResNet"),
        ("resnet18", {"widths": (0.5,)}, "layer1 adds its input to its output"),
        ("seresnet50", {"widths": (0.5,)}, "layer1 has squeeze-excite on its outputs"),
        ("resnet18", {"depths": (3,)}, "depths 3: possible are 1 to 2"),
        ("resnet18", {"fractions": (1.5,)}, "fractions 1.5: possible are above 0 up to 1"),
    ],
)
def test_what_cannot_be_elastic_is_refused(name, choices, message):
    with torch.device("meta"):
        model: Any = create_model(name)
    with pytest.raises(ValueError, match=message):
        elastic_resnet(model, **choices)
