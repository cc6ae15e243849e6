"""Properties that every supported timm model has as a supernet, over a registry of names, and what is refused."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from supernet import create_supernet, load_subnet
from supernet.networks.from_timm import elastic
from supernet.networks.importance import l1_importance
from supernet.networks.timm_supernet import TimmSupernet
from supernet.subnet import save_subnet
from supernet.testing import randomize

TINY: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 4}

INVERTED_RESIDUAL = [
    "mobilenetv2_050",
    "mobilenetv3_large_075",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_small_minimal_100",
    "efficientnet_b0",
    "efficientnet_lite0",
    "tf_efficientnet_lite0",
    "efficientnet_es",
    "mobilenet_edgetpu_v2_xs",
    "mnasnet_small",
    "semnasnet_075",
    "fbnetc_100",
    "tinynet_e",
    "test_efficientnet",
]
RESIDUAL = [
    "resnet10t",
    "resnet18",
    "resnet18d",
    "resnet26",
    "resnet26d",
    "seresnet18",
    "test_resnet",
]
TRANSFORMER = [
    "vit_tiny_patch16_224",
    "vit_base_patch16_224",
    "vit_medium_patch16_gap_240",
    "vit_base_patch16_clip_224",
    "vit_small_patch14_reg4_dinov2",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "flexivit_small",
]


class Case(NamedTuple):
    name: str
    arguments: dict[str, Any]
    model: nn.Module
    supernet: TimmSupernet[Any]


@pytest.fixture(scope="module", params=[*INVERTED_RESIDUAL, *RESIDUAL, *TRANSFORMER])
def case(request) -> Case:
    name = request.param
    arguments: dict[str, Any] = {"num_classes": 10, **(TINY if name in TRANSFORMER else {})}
    model = randomize(timm.create_model(name, **arguments))
    return Case(name, arguments, model, elastic(model, resolutions=(32,)).eval())


def images(n: int = 2, resolution: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))


def assert_equal_logits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_largest_network_is_the_model(case):
    with torch.no_grad():
        expected = case.model(images())
        largest = case.supernet.space.largest
        assert_equal_logits(case.supernet(images(), largest), expected)
        # and a state dict of timm loads as it is, into the supernet of a model with other weights
        other = elastic(case.name, model_args=case.arguments, resolutions=(32,)).eval()
        other.load_state_dict(case.model.state_dict())
        assert torch.equal(other(images(), largest), expected)


def test_subnets_are_models_of_timm(case):
    space = case.supernet.space
    for arch in (space.smallest, space.sample(1, np.random.default_rng(1))[0]):
        subnet = case.supernet.extract(arch)
        assert type(subnet) is type(case.model)
        with torch.no_grad():
            assert torch.equal(subnet(images()), case.supernet(images(), arch))
            _, features = subnet.forward_intermediates(images())
        assert [f.shape[1] for f in features] == [info["num_chs"] for info in subnet.feature_info]
        with FlopCounterMode(display=False) as counter:
            subnet(images(1))
        genes = space.encode([arch])
        assert case.supernet.macs(genes) == counter.get_total_flops() // 2
        assert case.supernet.n_parameters(genes) == sum(p.numel() for p in subnet.parameters())


def test_a_subnet_trains_with_the_optimisers_of_timm(case):
    subnet = case.supernet.extract(case.supernet.space.smallest).train()
    before = [parameter.detach().clone() for parameter in subnet.parameters()]
    optimizer = create_optimizer_v2(subnet, "adamw", lr=1e-3, weight_decay=0.01, layer_decay=0.9)
    nn.functional.cross_entropy(subnet(images(4)), torch.arange(4)).backward()
    optimizer.step()
    assert all(not torch.equal(p, b) for p, b in zip(subnet.parameters(), before, strict=True))


def test_a_subnet_survives_save_and_load(case, tmp_path):
    arch = case.supernet.space.sample(1, np.random.default_rng(2))[0]
    subnet = case.supernet.extract(arch)
    save_subnet(subnet, arch, case.supernet.definition, tmp_path)
    loaded = load_subnet(tmp_path)
    assert type(loaded) is type(case.model)
    with torch.no_grad():
        assert_equal_logits(loaded(images()), subnet(images()))


# -- sorting ----------------------------------------------------------------------------------------------------------


HALF: dict[str, tuple[dict[str, int], dict[str, Any]]] = {  # projections with the size of what moves together; choices
    "mobilenetv3_small_050": ({"conv_pwl": 1}, {"fractions": (0.5,), "kernels": (), "depths": (3,)}),
    "resnet18": ({"conv2": 1}, {"fractions": (0.5, 1), "depths": ((2,),) * 4}),
    "vit_tiny_patch16_224": ({"proj": 12, "fc2": 1}, {"heads": (2,), "mlp_ratios": (2,), "depths": (3,)}),
}


@pytest.mark.parametrize("name", HALF)
def test_sorting_keeps_what_matters(name):
    """In a network whose projections hardly read a random half of their inputs, the other half is enough."""
    projections, choices = HALF[name]
    model: Any = randomize(timm.create_model(name, num_classes=10, **(TINY if name in TRANSFORMER else {})))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for path, layer in model.named_modules():
            group = projections.get(path.split(".")[-1])
            if group and path.startswith(("blocks.", "layer")):
                units = layer.weight.shape[1] // group
                strength = np.where(rng.permutation(units) < units // 2, 1, 0.01).repeat(group)
                layer.weight.mul_(torch.tensor(strength, dtype=torch.float32).view(-1, *(1,) * (layer.weight.ndim - 2)))
        expected = model(images())
        unsorted, sorted_ = (
            elastic(model, importance=importance, resolutions=(32,), **choices).eval()
            for importance in (None, l1_importance)
        )
        errors = [(net(images(), net.space.smallest) - expected).abs().max() for net in (unsorted, sorted_)]
    assert errors[1] < 0.1 * errors[0]


# -- what can be given and what cannot --------------------------------------------------------------------------------


OWN = {"family": "own"}


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        (
            "convnext_atto",
            OWN,
            "a ConvNeXt has no family of its own; these have: MobileNetV3, EfficientNet, VisionTransformer",
        ),
        ("lcnet_050", OWN, "no stage can be elastic: its blocks are DepthwiseSeparableConv"),
        ("mobilenetv4_conv_small", OWN, "blocks.2.0 is a UniversalInvertedResidual"),
        ("mixnet_s", OWN, "blocks.1.0 has a MixedConv2d"),
        ("efficientnet_blur_b0", OWN, r"has anti-aliasing \(BlurPool2d\)"),
        ("efficientnet_cc_b0_4e", OWN, "is a CondConvResidual"),
        ("efficientnet_b0_gn", OWN, "are normalised by GroupNormAct"),
        ("mobilnetv3_small_050", {}, "no model 'mobilnetv3_small_050'; did you mean 'mobilenetv3_small_050'"),
        ("mobilenetv3_small_050", {"kernel": (3,)}, "has no choice 'kernel'; did you mean 'kernels'"),
        ("mobilenetv3_small_050", {"zzz": (3,)}, "has no choice 'zzz'; there are resolutions, depths, kernels"),
        ("mobilenetv3_small_050", {"kernels": (3, 7)}, "kernels 7: possible are 3, 5"),
        ("mobilenetv3_small_050", {"expands": (8,)}, "expands 8: possible are above 0 up to 6"),
        ("mobilenetv3_small_050", {"fractions": (1.5,)}, "fractions 1.5: possible are above 0 up to 1"),
        ("mobilenetv3_small_050", {"fractions": (0.5,), "expands": (2,)}, "give one of them"),
        ("mobilenetv3_small_050", {"depths": (0, 2)}, "depths 0: possible are 1 to 3"),
        ("mobilenetv3_small_050", {"depths": ((1,), (4,), (1,), (1,))}, "depths of stage 2 4: possible are 1 to 3"),
        ("mobilenetv3_small_050", {"depths": ((1,),)}, "depths for 1 stages; the model has 4 elastic stages"),
    ],
)
def test_what_is_impossible_is_refused_in_one_line(name, choices, message):
    with pytest.raises(ValueError, match=message) as error:
        elastic(name, **choices)
    assert "\n" not in str(error.value)


def test_choices_can_be_given():
    supernet = elastic(
        "mobilenetv3_small_050",
        resolutions=(64, 48),
        depths=((1, 2), (2, 3), (2,), (1, 2, 3)),
        kernels=(3,),
        expands=(2, 3),
    )
    assert supernet.space.resolutions == (48, 64)
    assert [stage.depths for stage in supernet.space.stages] == [(1, 2), (2, 3), (2,), (1, 2, 3)]
    # A block has what it has itself, and what was asked for below that.
    assert supernet.space.stages[0].blocks[1] == {"kernel": (3,), "expand": (2, 3, 3.5)}
    assert supernet.space.stages[1].blocks[1] == {"kernel": (3, 5), "expand": (2, 3, 6)}
    flat = elastic("mobilenetv3_small_050", depths=(2,))
    assert [stage.depths for stage in flat.space.stages] == [(2,), (2, 3), (2,), (2, 3)]


def test_blocks_without_a_skip_connection_stay():
    space = elastic("fbnetv3_b", depths=range(1, 8)).space
    assert [stage.depths[0] for stage in space.stages] == [1, 1, 1, 1, 7]


def test_a_space_can_be_given_as_a_whole():
    space = elastic("mobilenetv3_small_050").space.restrict(kernel=(5, 3), depth=(2, 3))
    assert elastic("mobilenetv3_small_050", space=space.to_dict()).space == space
    with pytest.raises(ValueError, match="remove kernels"):
        elastic("mobilenetv3_small_050", space=space, kernels=(3,))
    with pytest.raises(ValueError, match="the largest architecture of the space asks"):
        elastic("mobilenetv3_small_050", space=space.restrict(kernel=(3,)))


def test_create_supernet_knows_elastic_and_downloads_nothing_again():
    settings: dict[str, Any] = {"model": "mobilenetv3_small_050", "num_classes": 4, "in_chans": 1}
    first = create_supernet("elastic", seed=3, **settings, fractions=[0.5], resolutions=[32])
    assert first.definition is not None and "pretrained" not in first.definition
    again = create_supernet(**first.definition, seed=3)
    assert first.space == again.space and first.definition == again.definition
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="has no choice 'heads'"):
        create_supernet("elastic", **settings, heads=[2])


def test_pretrained_weights_are_loaded_by_timm_and_sorted(tmp_path):
    model = randomize(timm.create_model("test_efficientnet"))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    local = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.safetensors")}}  # instead of a download
    settings: dict[str, Any] = {"model": "test_efficientnet", "pretrained": True, "model_args": local}
    supernet: Any = create_supernet("elastic", **settings, resolutions=[32]).eval()
    with torch.no_grad():
        assert_equal_logits(supernet(images(), supernet.space.largest), model(images()))
    assert (l1_importance(supernet.blocks[supernet.elastic_stages[0]][0].conv_pwl.weight).diff() <= 1e-5).all()
    assert str(tmp_path) not in str(supernet.definition) and "pretrained" not in supernet.definition


def test_a_model_that_was_given_stays_as_it_is():
    model = randomize(timm.create_model("test_efficientnet", num_classes=3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = elastic(model)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="has been built already"):
        elastic(model, pretrained=True)


def test_without_importance_nothing_moves():
    model = randomize(timm.create_model("test_efficientnet", num_classes=3))
    supernet = elastic(model, importance=None)
    assert all(torch.equal(supernet.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_timm_cannot_build_again_has_no_definition(tmp_path):
    model: Any = timm.create_model("test_efficientnet", num_classes=3)
    model.bn1.eps = 0.5
    supernet = elastic(model)
    assert supernet.definition is None
    arch = supernet.space.smallest
    with pytest.raises(ValueError, match="has no definition"):
        save_subnet(supernet.extract(arch), arch, supernet.definition, tmp_path)
    assert elastic(timm.create_model("test_efficientnet", act_layer=nn.ReLU)).definition is None
