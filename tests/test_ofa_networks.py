"""The published spaces: their dictionary form, costs, files and exports."""

from typing import Any

import numpy as np
import pytest
import torch
from timm.models import EfficientNet, MobileNetV3, ResNet
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet import Block, SearchSpace, create_supernet, load_subnet
from supernet.ofa.config import from_ofa, to_ofa
from supernet.subnet import save_subnet

CLASSES = {"ofa_mobilenetv3_w1.2": MobileNetV3, "ofa_proxyless_w1.3": EfficientNet, "ofa_resnet50d": ResNet}


def space_of(name: str) -> SearchSpace:
    with torch.device("meta"):  # without drawing weights
        return create_supernet(name).space


@pytest.fixture(scope="module", params=CLASSES)
def published(request: pytest.FixtureRequest) -> Any:
    """A published supernet, none of its weights and statistics 0 or 1, and all of its signals near 1."""
    supernet = create_supernet(request.param, num_classes=10).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim > 1 and not name.endswith("_matrix"):
                tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return supernet


@torch.no_grad()
def test_costs_are_exact(published):
    archs = [*published.space.sample(3, np.random.default_rng(1)), published.space.smallest]
    genes = published.space.encode(archs)
    for arch, macs, parameters in zip(archs, published.macs(genes), published.n_parameters(genes), strict=True):
        subnet = published.extract(arch)
        with FlopCounterMode(display=False) as counter:
            subnet(torch.randn(1, 3, arch.resolution, arch.resolution))
        assert counter.get_total_flops() // 2 == macs
        assert sum(p.numel() for p in subnet.parameters()) == parameters


@torch.no_grad()
def test_subnets_are_timm_models_that_save_load_and_export(published, tmp_path):
    arch = published.space.restrict(resolution=(128,)).sample(1, np.random.default_rng(2))[0]
    subnet = published.extract(arch)
    assert isinstance(subnet, CLASSES[published.definition["name"]])
    save_subnet(subnet, arch, published.definition, tmp_path)
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_subnet(tmp_path)(x), subnet(x))
    features = subnet.forward_intermediates(x, intermediates_only=True)
    assert [f.shape[1] for f in features] == [info["num_chs"] for info in subnet.feature_info]
    assert onnx_parity(export_onnx(subnet, (1, 3, 128, 128)), subnet, (1, 3, 128, 128)) < 1e-4


@torch.no_grad()
def test_sorting_leaves_the_largest_network_and_then_the_trained_ones_as_they_are(published):
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))

    def check(arch: Any, **settings: Any) -> None:
        before = published(x, arch)
        first = published.state_dict()[
            next(n for n in published.state_dict() if "conv_pwl" in n or "conv3" in n)
        ].clone()
        published.sort_channels(**settings)
        after = published.state_dict()[next(n for n in published.state_dict() if "conv_pwl" in n or "conv3" in n)]
        assert not torch.equal(first, after)
        torch.testing.assert_close(published(x, arch), before, rtol=0, atol=1e-4 * before.abs().max().item())

    # Another order than the one the first call leaves, so that the second has something to do.
    rng = torch.Generator().manual_seed(0)
    check(published.space.largest)
    widths = {"expand": published.space.stages[0].blocks[0]["expand"][1:]}
    if published.space.settings:
        widths |= dict.fromkeys(("width", "stem_mid_width", "stem_out_width"), (0.8, 1.0))
    trained = published.space.restrict(**widths)
    check(trained.smallest, within=trained, importance=lambda weight: torch.rand(weight.shape[1], generator=rng))


def test_the_dictionary_form_comes_and_goes(published):
    space = published.space
    archs = [*space.sample(50, np.random.default_rng(0)), space.smallest, space.largest]
    assert [from_ofa(space, to_ofa(space, arch)) for arch in archs] == archs


def test_entries_of_absent_blocks_are_ignored_and_filled_with_the_smallest_choice():
    space = space_of("ofa_mobilenetv3_w1.0")
    config: dict[str, Any] = {"ks": [3, 5, 99, -1] * 5, "e": [4, 6, None, 0] * 5, "d": 2, "r": 224}
    arch = from_ofa(space, config)
    assert arch.stages == ((Block(kernel=3, expand=4), Block(kernel=5, expand=6)),) * 5
    filled = {"wid": None, "ks": [3, 5, 3, 3] * 5, "e": [4, 6, 3, 3] * 5, "d": [2] * 5, "r": [224]}
    assert to_ofa(space, arch) == filled
    assert from_ofa(space, {**config, "r": [160]}).resolution == 160
    assert from_ofa(space, {"ks": 7, "e": 6, "d": 4}) == space.largest
    # A restricted space counts positions as the published lists do.
    assert from_ofa(space.restrict(depth=(2,)), config) == arch


def test_proxyless_may_leave_out_its_last_stage():
    space = space_of("ofa_proxyless_w1.3")
    config = {"ks": [3] * 21, "e": [4] * 21, "d": [2, 2, 2, 2, 2, 1]}
    arch = from_ofa(space, config)
    assert arch.depths == (2, 2, 2, 2, 2, 1) and arch.resolution == 224
    assert from_ofa(space, {**config, "d": [2] * 5}) == from_ofa(space, {**config, "d": 2}) == arch
    shorter = from_ofa(space, {"ks": [3] * 20, "e": [4] * 20, "d": [2] * 5})
    assert shorter.stages[:5] == arch.stages[:5] and shorter.stages[5] == space.largest.stages[5]


def test_the_stem_of_the_resnet_is_the_first_depth():
    space = space_of("ofa_resnet50d")
    config = {"d": [1, 0, 1, 2, 0], "e": 0.25, "w": [0, 1, 2, 1, 0, 2]}
    arch = from_ofa(space, config)
    assert arch.depths == (2, 3, 6, 2)
    assert dict(arch.settings) == {"stem_residual": 0, "stem_mid_width": 0.65, "stem_out_width": 0.8}
    assert [stage[0].width for stage in arch.stages] == [1.0, 0.8, 0.65, 1.0]
    assert from_ofa(space, {**config, "d": 2, "e": [0.35] * 18, "w": 2}) == space.largest
    written = to_ofa(space, arch)
    assert written["d"] == [0, 0, 1, 2, 0] and written["w"] == config["w"] and written["r"] == [224]
    assert written["e"] == [0.25, 0.25, 0.2, 0.2] + [0.25] * 3 + [0.2] + [0.25] * 6 + [0.25, 0.25, 0.2, 0.2]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ofa_mobilenetv3_w1.0", {"ks": [4] * 20}, r"ks\[0\] = 4; possible are 3, 5, 7"),
        ("ofa_mobilenetv3_w1.0", {"e": 5}, r"e\[0\] = 5; possible are 3, 4, 6"),
        ("ofa_mobilenetv3_w1.0", {"d": [2, 2, 5, 2, 2]}, r"d\[2\] = 5; possible are 2, 3, 4"),
        ("ofa_mobilenetv3_w1.0", {"r": 130}, "r = 130; possible are 128, 132"),
        ("ofa_mobilenetv3_w1.0", {"r": [128, 160]}, "one number, or a list of one"),
        ("ofa_mobilenetv3_w1.0", {"ks": [3] * 19}, "ks has 19 entries; .* has 20"),
        ("ofa_mobilenetv3_w1.0", {"w": 1}, "w = 1 is no choice of this space; possible is None"),
        ("ofa_mobilenetv3_w1.0", {"depth": 1}, "has no 'depth'; possible are ks, e, d, r, w, wid"),
        ("ofa_mobilenetv3_w1.0", {"e": None}, "e is missing"),
        ("ofa_resnet50d", {"w": 3}, r"w\[0\] = 3; possible are 0, 1, 2"),
        ("ofa_resnet50d", {"d": [0, 0, 3, 0, 0]}, r"d\[2\] = 3; possible are 0, 1, 2"),
        ("ofa_resnet50d", {"e": 0.3}, r"e\[0\] = 0.3; possible are 0.2, 0.25, 0.35"),
    ],
)
def test_impossible_entries_are_named(name, change, message):
    space = space_of(name)
    with pytest.raises(ValueError, match=message):
        from_ofa(space, {**to_ofa(space, space.smallest), **change})


def test_a_space_of_ones_own_has_no_published_form(small_supernet):
    with pytest.raises(ValueError, match="no published form"):
        to_ofa(small_supernet.space, small_supernet.space.smallest)
