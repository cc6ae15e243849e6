import copy
import gc
import threading
from typing import Any, cast

import numpy as np
import pytest
import torch
from timm.data.config import resolve_model_data_config
from timm.models import MobileNetV3
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from supernet import Architecture, Block, create_supernet, supernet_names


def images(arch: Architecture, n: int = 2, channels: int = 1) -> torch.Tensor:
    return torch.randn(n, channels, arch.resolution, arch.resolution, generator=torch.Generator().manual_seed(0))


def test_an_extracted_subnet_computes_the_same(small_supernet):
    archs = small_supernet.space.sample(50, np.random.default_rng(0))
    with torch.no_grad():
        for arch in [*archs, small_supernet.space.smallest, small_supernet.space.largest]:
            subnet = small_supernet.extract(arch)
            assert isinstance(subnet, MobileNetV3)
            torch.testing.assert_close(subnet(images(arch)), small_supernet(images(arch), arch), rtol=0, atol=1e-6)


def test_architectures_differ_in_what_they_compute(small_supernet):
    archs = [a for a in set(small_supernet.space.sample(40, np.random.default_rng(0))) if a.resolution == 28]
    with torch.no_grad():
        logits = torch.stack([small_supernet(images(archs[0]), arch) for arch in archs])
    assert len(archs) > 5
    distances = torch.cdist(logits.flatten(1), logits.flatten(1)) + torch.eye(len(archs))
    assert distances.min() > 1e-3


def test_an_extracted_subnet_has_weights_of_its_own(small_supernet):
    arch = small_supernet.space.smallest
    before = small_supernet(images(arch), arch)
    subnet = small_supernet.extract(arch).train()
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        subnet(images(arch)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(small_supernet(images(arch), arch), before)
    assert all(p.grad is not None for p in subnet.parameters())


def test_gradients_reach_what_is_active_and_nothing_else(small_supernet):
    arch = small_supernet.space.smallest
    small_supernet.train()
    small_supernet(images(arch, 4), arch).square().mean().backward()
    subnet = small_supernet.extract(arch).train()
    subnet(images(arch, 4)).square().mean().backward()
    gradients = dict(subnet.named_parameters())
    for name, parameter in small_supernet.named_parameters():
        if name.startswith("kernel_transforms"):
            continue
        if name not in gradients:
            assert parameter.grad is None, name
        elif "conv_dw" not in name:
            own = gradients[name].grad
            inside = parameter.grad[tuple(slice(n) for n in own.shape)]
            torch.testing.assert_close(inside, own)
            assert parameter.grad.count_nonzero() == own.count_nonzero(), name
    # Smallest: kernel 3 out of 7, so both matrices of an active block learn and those of an absent one do not.
    assert small_supernet.kernel_transforms["1_0"].get_parameter("5to3_matrix").grad is not None
    assert small_supernet.kernel_transforms["1_1"].get_parameter("5to3_matrix").grad is None


def test_training_updates_the_running_statistics_of_the_active_channels_only(small_supernet):
    arch = small_supernet.space.smallest
    norm = small_supernet.blocks[1][0].bn1
    before = norm.running_mean.clone()
    small_supernet.train()
    small_supernet(images(arch, 4), arch)
    active = small_supernet.extract(arch).blocks[1][0].bn1.num_features
    assert active < len(before)
    assert (norm.running_mean[:active] != before[:active]).all()
    assert (norm.running_mean[active:] == before[active:]).all()


def test_identity_transforms_crop_the_centre_bit_for_bit():
    supernet: Any = create_supernet("ofa_mobilenetv3_w1.0", num_classes=2)
    largest = supernet.space.largest
    for kernel in (3, 5):
        stages = ((Block(kernel=kernel, expand=6),) * 4,) * 5
        weight = supernet.extract(Architecture(largest.resolution, stages)).blocks[2][1].conv_dw.weight
        crop = (7 - kernel) // 2
        assert torch.equal(weight, supernet.blocks[2][1].conv_dw.weight[:, :, crop : 7 - crop, crop : 7 - crop])


def test_the_published_network_is_the_published_size_and_a_timm_model():
    supernet: Any = create_supernet("ofa_mobilenetv3_w1.0", num_classes=1000)
    transforms = sum(p.numel() for p in supernet.kernel_transforms.parameters())
    assert transforms == 14_120
    assert sum(p.numel() for p in supernet.parameters()) - transforms == 7_664_760
    assert supernet.space.size == 7371**5 * 25


def test_an_extracted_network_works_with_the_tools_of_timm(small_supernet):
    subnet = small_supernet.extract(small_supernet.space.largest)
    x = images(small_supernet.space.largest)
    final, features = subnet.forward_intermediates(x)
    assert final.shape == (2, 48, 4, 4) and len(features) == len(subnet.feature_info)
    config = resolve_model_data_config(subnet)
    assert config["input_size"] == (1, 32, 32)
    subnet.reset_classifier(3)
    assert subnet(x).shape == (2, 3)


def test_a_timm_state_dict_loads_as_it_is(small_supernet):
    arch = small_supernet.space.largest
    timm_state = small_supernet.extract(arch).state_dict()
    fresh = create_supernet(**small_supernet.definition, seed=5).eval()
    fresh.load_state_dict(timm_state)
    torch.testing.assert_close(fresh(images(arch), arch), small_supernet(images(arch), arch))
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict({name: t for name, t in timm_state.items() if "conv_stem" not in name})


def test_sorting_leaves_the_largest_network_as_it_is_and_puts_important_channels_first(small_supernet):
    largest, smallest = small_supernet.space.largest, small_supernet.space.smallest
    before = small_supernet(images(largest), largest), small_supernet(images(smallest), smallest)
    small_supernet.sort_channels()
    torch.testing.assert_close(small_supernet(images(largest), largest), before[0], rtol=1e-4, atol=1e-4)
    assert (small_supernet(images(smallest), smallest) - before[1]).abs().max() > 1e-3
    for stage in small_supernet.elastic_stages:
        for block in small_supernet.blocks[stage]:
            scores = block.conv_pwl.weight.abs().sum(dim=(0, 2, 3))
            assert (scores.diff() <= 1e-6).all()


def test_sorting_within_trained_widths_keeps_the_trained_channels_together(small_supernet):
    trained = small_supernet.space.restrict(expand=(3, 4))
    middle = trained.restrict(expand=(3,), kernel=(7,)).largest
    block = small_supernet.blocks[2][0]
    before = small_supernet(images(middle), middle)
    rows = {tuple(row) for row in block.conv_pw.weight[:48].flatten(1).tolist()}
    small_supernet.sort_channels(within=trained)
    assert {tuple(row) for row in block.conv_pw.weight[:48].flatten(1).tolist()} == rows
    assert not torch.equal(before, small_supernet(images(middle), middle))  # the order did change
    torch.testing.assert_close(before, small_supernet(images(middle), middle), rtol=1e-4, atol=1e-4)


def test_counts_are_exact(small_supernet):
    archs = small_supernet.space.sample(20, np.random.default_rng(3))
    genes = small_supernet.space.encode(archs)
    macs, parameters = small_supernet.macs(genes), small_supernet.n_parameters(genes)
    costs = small_supernet.costs(genes)
    for i, arch in enumerate(archs):
        subnet = small_supernet.extract(arch)
        with FlopCounterMode(display=False) as counter:
            subnet(images(arch, 1))
        assert macs[i] == counter.get_total_flops() // 2
        assert parameters[i] == sum(p.numel() for p in subnet.parameters())
        written = 0

        def count(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            nonlocal written
            written += output.numel()

        for module in subnet.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        subnet(images(arch, 1))
        assert costs.activations[i].sum() == written


def test_sorting_within_a_shallower_space_sorts_the_blocks_it_does_not_have_as_a_whole(small_supernet):
    largest = small_supernet.space.largest
    before = small_supernet(images(largest), largest)
    small_supernet.sort_channels(within=small_supernet.space.restrict(depth=(1,)))
    torch.testing.assert_close(small_supernet(images(largest), largest), before, rtol=1e-4, atol=1e-4)
    scores = small_supernet.blocks[2][2].conv_pwl.weight.abs().sum(dim=(0, 2, 3))
    assert (scores.diff() <= 1e-6).all()


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_for_every_architecture(small_supernet):
    archs = [a for a in small_supernet.space.sample(12, np.random.default_rng(0)) if a.resolution == 28]
    expected = [small_supernet(images(arch), arch) for arch in archs]
    small_supernet(images(archs[0]), archs[0]).sum().backward()
    gradient = small_supernet.conv_stem.weight.grad.clone()
    small_supernet.zero_grad()
    torch.compiler.reset()
    small_supernet.compile_blocks(backend="aot_eager")  # everything but the compiler of C++, which takes minutes
    for arch, logits in zip(archs, expected, strict=True):
        torch.testing.assert_close(small_supernet(images(arch), arch), logits, rtol=1e-4, atol=1e-4)
    small_supernet(images(archs[0]), archs[0]).sum().backward()
    torch.testing.assert_close(small_supernet.conv_stem.weight.grad, gradient, rtol=1e-3, atol=1e-3)
    assert "forward" not in small_supernet.extract(archs[0]).blocks[1][0].__dict__
    # More shapes than torch's own limit of eight, and none of them fell back to eager.
    assert not torch._dynamo.utils.counters["recompile_limit"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 8


def test_two_threads_do_not_know_of_each_other(small_supernet):
    archs = [small_supernet.space.smallest, small_supernet.space.largest]
    with torch.no_grad():
        expected = [small_supernet(images(arch), arch) for arch in archs]
    wrong = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(small_supernet(images(archs[i]), archs[i]), expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_running_and_extracting_leaves_nothing_behind(small_supernet):
    def bytes_held() -> int:
        gc.collect()
        tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
        return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

    archs = small_supernet.space.sample(20, np.random.default_rng(0))
    with torch.no_grad():
        small_supernet(images(archs[0]), archs[0])
        before = bytes_held()
        for arch in archs:
            small_supernet(images(arch), arch)
            small_supernet.extract(arch)
        assert bytes_held() == before
        assert before >= sum(p.numel() * 4 for p in small_supernet.parameters())


def test_copies_are_independent(small_supernet):
    arch = small_supernet.space.smallest
    other = copy.deepcopy(small_supernet)
    before = small_supernet(images(arch), arch)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(small_supernet(images(arch), arch), before)
    assert other(images(arch), arch).abs().max() < before.abs().max()


def test_what_is_outside_the_space_is_refused(small_supernet):
    stages = ((Block(kernel=4, expand=2),), (Block(kernel=3, expand=2),))
    with pytest.raises(ValueError, match=r"stage1.block1.kernel 4 is not a choice; possible are 3, 5, 7"):
        small_supernet.extract(Architecture(24, stages))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ofa_mobilnetv3_w1.0", {}, "did you mean 'ofa_mobilenetv3_w1.0'"),
        ("mobilenetv3", {"stages": [{"width": 16}], "kernels": [4]}, "kernels 4: each must be odd"),
        ("mobilenetv3", {"stages": [{"width": 16}], "depths": [0]}, "depths 0: each must be at least 1"),
        ("mobilenetv3", {"stages": [{"width": 16, "strid": 1}]}, "stage 1 has unknown strid"),
        ("mobilenetv3", {"stages": [{"width": 16, "act": "gelu"}]}, "act 'gelu' of stage 1; possible are relu"),
        ("mobilenetv3", {"stagez": []}, "no setting 'stagez'; did you mean 'stages'"),
    ],
)
def test_impossible_supernets_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        create_supernet(name, **settings)


def test_creating_is_deterministic_and_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    settings = {"stages": [{"width": 16}], "num_classes": 3}
    first, second, other = (cast(Any, create_supernet("mobilenetv3", seed=seed, **settings)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.conv_stem.weight, second.conv_stem.weight)
    assert not torch.equal(first.conv_stem.weight, other.conv_stem.weight)
    assert "ofa_mobilenetv3_w1.2" in supernet_names()
