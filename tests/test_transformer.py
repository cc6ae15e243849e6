from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet import Architecture, Block
from supernet.families.transformer import TransformerSupernet, elastic_transformer
from supernet.networks.from_timm import elastic
from supernet.testing import randomize

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "depth": 3,
    "embed_dim": 48,
    "num_heads": 4,
    "num_classes": 5,
}


def vit(name: str = "vit_tiny_patch16_224", **arguments: Any) -> Any:
    return randomize(timm.create_model(name, **{**TINY, **arguments}))


def images(resolution: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))


def arch(heads: int = 4, mlp_ratio: float = 4, depth: int = 3, resolution: int = 32) -> Architecture:
    return Architecture(resolution, ((Block(heads=heads, mlp_ratio=mlp_ratio),) * depth,))


@pytest.mark.parametrize(
    "arguments",
    [
        {"qk_norm": True},
        {"pos_embed": "none"},
        {"class_token": False, "global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"pre_norm": True, "reg_tokens": 2, "no_embed_class": True},
        {"dynamic_img_size": True},
        {"init_values": 0.1, "qkv_bias": False, "proj_bias": False},
        {"scale_attn_norm": True, "scale_mlp_norm": True},
        {"num_classes": 0},
        {"drop_path_rate": 0.1, "drop_rate": 0.1, "patch_drop_rate": 0.2},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_variants(arguments):
    model = vit(**arguments)
    supernet: Any = elastic(model, resolutions=(16, 24), depths=(1, 2), embed_dims=(16, 32), heads=(1, 2)).eval()
    space = supernet.space
    with torch.no_grad():
        torch.testing.assert_close(supernet(images(), space.largest), model(images()), rtol=0, atol=1e-5)
        archs = space.sample(6, np.random.default_rng(0))
        genes = space.encode(archs)
        costs = supernet.costs(genes)
        for i, sampled in enumerate(archs):
            subnet, x = supernet.extract(sampled), images(sampled.resolution)
            assert torch.equal(subnet(x), supernet(x, sampled))
            with FlopCounterMode(display=False) as counter:
                subnet(x[:1])
            assert costs.macs[i].sum() == counter.get_total_flops() // 2
            assert costs.parameters[i].sum() == sum(p.numel() for p in subnet.parameters())


def test_activations_are_what_linear_layers_write():
    supernet: Any = elastic(vit("deit_tiny_distilled_patch16_224"), resolutions=(16,), embed_dims=(16,)).eval()
    chosen = supernet.space.smallest
    subnet, written = supernet.extract(chosen), []
    for module in subnet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, output: written.append(output.numel()))
    subnet(images(16)[:1])
    assert supernet.costs(supernet.space.encode([chosen])).activations.sum() == sum(written)


def test_absent_heads_and_neurons_are_as_if_their_projection_were_zero():
    model = vit()
    supernet = elastic(model, importance=None)
    cut: Any = supernet.extract(arch(heads=2, mlp_ratio=2))
    assert [(b.attn.num_heads, b.attn.head_dim, b.mlp.fc1.out_features) for b in cut.blocks] == [(2, 12, 96)] * 3
    with torch.no_grad():
        for block in model.blocks:
            block.attn.proj.weight[:, 2 * 12 :] = 0
            block.mlp.fc2.weight[:, 96:] = 0
        torch.testing.assert_close(cut(images()), model(images()), rtol=1e-4, atol=1e-5)


def test_a_shallow_network_is_the_first_blocks():
    model = vit()
    model_of_two = elastic(model, importance=None).extract(arch(depth=2))
    assert len(model_of_two.feature_info) == 2
    model.blocks = model.blocks[:2]
    assert torch.equal(model_of_two(images()), model(images()))


def test_another_resolution_is_what_timm_makes_of_it():
    model = vit()
    subnet = elastic(model, importance=None, resolutions=(16, 24)).extract(arch(resolution=16))
    model.set_input_size((16, 16))
    torch.testing.assert_close(subnet(images(16)), model(images(16)))
    assert subnet.pretrained_cfg["input_size"] == (3, 16, 16)


def test_heads_neurons_and_embedding_are_sorted_by_all_that_belongs_to_them():
    model = vit()
    supernet: Any = elastic(model, embed_dims=(16,))
    for block in supernet.blocks:
        heads = block.attn.qkv.weight.view(3, 4, 12, 48).abs().sum(dim=(0, 2, 3))
        heads = heads + block.attn.qkv.bias.view(3, 4, 12).abs().sum(dim=(0, 2))
        heads = heads + block.attn.proj.weight.view(48, 4, 12).abs().sum(dim=(0, 2))
        mlp = block.mlp
        neurons = mlp.fc2.weight.abs().sum(dim=0) + mlp.fc1.weight.abs().sum(dim=1) + mlp.fc1.bias.abs()
        assert (heads.diff() <= 1e-4).all() and (neurons.diff() <= 1e-4).all()
    assert not torch.equal(supernet.cls_token, model.cls_token)
    assert torch.equal(supernet.cls_token.flatten().sort()[0], model.cls_token.flatten().sort()[0])


def test_sorting_within_trained_widths_keeps_the_trained_together():
    supernet: Any = elastic(vit(), importance=None, embed_dims=(16, 32)).eval()
    trained = supernet.space.restrict(heads=(3, 4), embed_dim=(32, 48))
    middle = next(a for a in trained.sample(50, np.random.default_rng(0)) if {b.heads for b in a.stages[0]} == {3})
    before = supernet(images(), middle)
    first = supernet.blocks[0].attn.qkv.weight.clone()
    supernet.sort_channels(within=trained)
    assert not torch.equal(supernet.blocks[0].attn.qkv.weight, first)
    torch.testing.assert_close(supernet(images(), middle), before, rtol=1e-4, atol=1e-5)


def test_distillation_training_gives_both_logits():
    subnet: Any = elastic(vit("deit_tiny_distilled_patch16_224")).extract(arch(heads=2, depth=1, mlp_ratio=2))
    subnet.set_distilled_training(True)
    both = subnet.train()(images())
    assert [logits.shape for logits in both] == [(2, 5), (2, 5)]


def test_a_subnet_exports_to_onnx():
    supernet = elastic(vit(depth=2), heads=(2,), mlp_ratios=(2,))
    subnet = supernet.extract(supernet.space.smallest)
    shape = (1, 3, 32, 32)
    assert onnx_parity(export_onnx(subnet, shape), subnet, shape) < 1e-4


@pytest.mark.parametrize(
    ("name", "arguments", "choices", "message"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "map"}, {}, "it pools by 'map'"),
        ("vit_small_patch16_18x2_224", {}, {}, "its blocks are ParallelThingsBlock"),
        ("vit_base_patch16_rpn_224", {}, {}, "its blocks are ResPostBlock"),
        ("vit_tiny_patch16_224", {"img_size": (32, 16)}, {}, r"its img_size is \(32, 16\)"),
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}, {}, "a block has a DiffAttention"),
        ("vit_tiny_patch16_224", {}, {"heads": (5,)}, "heads 5: possible are 1 to 4"),
        ("vit_tiny_patch16_224", {}, {"mlp_ratios": (0,)}, "mlp_ratios 0: possible are above 0 up to 4"),
        ("vit_tiny_patch16_224", {}, {"embed_dims": (64,)}, "embed_dims 64: possible are 1 to 48"),
        ("vit_tiny_patch16_224", {}, {"depths": (4,)}, "depths 4: possible are 1 to 3"),
        ("vit_tiny_patch16_224", {}, {"resolutions": (20,)}, "resolutions 20: possible are multiples of the patch"),
    ],
)
def test_what_is_impossible_is_refused(name, arguments, choices, message):
    with pytest.raises(ValueError, match=message):
        elastic_transformer(vit(name, **arguments), **choices)


def test_the_space_must_fit_the_model():
    space = elastic(vit()).space
    with pytest.raises(ValueError, match="the largest architecture must be the model"):
        TransformerSupernet(vit(num_heads=3), space)


@torch.no_grad()
def test_the_general_way_has_the_same_choices_where_the_model_takes_several_sizes():
    sizes: Any = {"resolutions": (16, 32), "widths": (0.5,), "family": "traced"}
    supernet: Any = elastic(vit(dynamic_img_size=True), **sizes).eval()
    for chosen in (supernet.space.smallest, supernet.space.restrict(resolution=(16,)).largest):
        subnet, x = supernet.extract(chosen), images(chosen.resolution)
        assert torch.equal(subnet(x), supernet(x, chosen))
        genes = supernet.space.encode([chosen])
        with FlopCounterMode(display=False) as counter:
            subnet(x[:1])
        assert supernet.macs(genes) == counter.get_total_flops() // 2
        assert supernet.n_parameters(genes) == sum(p.numel() for p in subnet.parameters())
        _, features = subnet.forward_intermediates(x)
        assert [f.shape[1] for f in features] == [info["num_chs"] for info in subnet.feature_info]
        subnet.reset_classifier(3)
        assert subnet(x).shape == (2, 3) and subnet.embed_dim == subnet.num_features == features[0].shape[1]
    with pytest.raises(ValueError, match="for 32 pixels does not take 16: leave out `resolutions`, or"):
        elastic(vit(), **sizes)
