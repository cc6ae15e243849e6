"""Multi-stage vision transformers, and batches in which every image has its own architecture."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import experiments
from experiments.settings.recipe import load_recipe
from experiments.training.phases import training_phases
from hardware.onnx.export import export_onnx, onnx_parity
from supernet import Architecture, create_supernet
from supernet.families.multi_stage_supernet import MultiStageSupernet
from supernet.networks.masking import MaskedLayerNorm, forward_of_many, union
from supernet.networks.measured import MeasuredSupernet
from supernet.testing import SupernetContract, randomize
from supernet.training import (
    AttentionRelation,
    CrossEntropy,
    Cycles,
    Distillation,
    Phase,
    Schedule,
    Trainer,
    Uniform,
    random_sampling,
    with_relation,
)
from supernet.training.gradients import accumulate_gradients, freeze

SIZES: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 2,
    "stem_width": 4,
    "depths": [[1, 2], [1, 2], [1]],
    "widths": [[4, 6], [8, 12], [12, 16]],
    "heads": [[1, 2], [1, 2], [2, 3]],
    "hidden": [[6, 10], [8, 12], [8, 16]],
    "head_dims": [2, 4, 4],
}
SHORT = Schedule(1, 1e-2)


def _supernet() -> MultiStageSupernet:
    torch.manual_seed(0)
    return randomize(MultiStageSupernet(5, 3, **SIZES))


def _images(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=dtype)


class TestMultiStageSupernet(SupernetContract):
    n_archs = 4

    @pytest.fixture
    def supernet(self) -> MultiStageSupernet:
        return _supernet()


def test_a_masked_layer_norm_is_that_of_the_slice() -> None:
    torch.manual_seed(0)
    masked, counts = randomize(MaskedLayerNorm(8)), (8, 3, 5)
    mask = torch.stack([(torch.arange(8) < n).float() for n in counts])[:, None]
    x = (5 + 3 * torch.randn(3, 4, 8)).requires_grad_()
    weights = torch.randn(3, 4, 8)
    found = masked(x, mask)
    (found * weights).sum().backward()
    assert x.grad is not None and masked.weight.grad is not None and masked.bias.grad is not None
    grads = torch.zeros(2, 8)
    for i, n in enumerate(counts):
        norm = nn.LayerNorm(n)
        norm.load_state_dict({"weight": masked.weight[:n].detach(), "bias": masked.bias[:n].detach()})
        part = x[i, :, :n].detach().requires_grad_()
        expected = norm(part)
        (expected * weights[i, :, :n]).sum().backward()
        torch.testing.assert_close(found[i, :, :n], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x.grad[i, :, :n], part.grad, rtol=1e-5, atol=1e-5)
        assert not found[i, :, n:].any() and not x.grad[i, :, n:].any()
        assert norm.weight.grad is not None and norm.bias.grad is not None
        grads[0, :n] += norm.weight.grad
        grads[1, :n] += norm.bias.grad
    torch.testing.assert_close(masked.weight.grad, grads[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(masked.bias.grad, grads[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(masked(x), nn.LayerNorm.forward(masked, x), rtol=0, atol=0)  # without a mask


def test_images_with_one_architecture_are_what_the_slice_says() -> None:
    net, images = _supernet(), _images(3)
    with torch.no_grad():
        for arch in [net.space.smallest, *Cycles()(net.space, 3, 0, 0), net.space.largest]:
            torch.testing.assert_close(net.forward_many(images, [arch] * 3), net(images, arch), rtol=1e-5, atol=1e-5)


def test_every_image_of_a_batch_has_its_own_architecture() -> None:
    net = _supernet()
    archs = [net.space.smallest, *Cycles()(net.space, 6, 0, 1), net.space.largest]
    images = _images(len(archs))
    with torch.no_grad():
        together = net.forward_many(images, archs)
        for i, arch in enumerate(archs):
            torch.testing.assert_close(together[i : i + 1], net(images[i : i + 1], arch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distilled", [False, True])
def test_one_pass_has_the_gradients_of_one_after_the_other(distilled: bool) -> None:
    """Also what no architecture of the batch has: it has no gradient, and not one of zeros."""
    nets = [_supernet().double().train() for _ in range(2)]
    space = nets[0].space.restrict(depth=(1,))  # the second blocks are in none
    archs = Cycles()(space, 4, 0, 2)
    images, labels = _images(8, torch.float64), torch.arange(8) % 5
    teacher = freeze(_supernet().double().extract(nets[0].space.largest)) if distilled else None
    loss = Distillation(1.0, teacher="frozen") if distilled else CrossEntropy()
    losses = [
        accumulate_gradients(
            net, images, labels, archs, loss, teacher=teacher, split_batch=True, one_pass=one_pass, accumulation=2
        )
        for net, one_pass in zip(nets, (False, True), strict=True)
    ]
    torch.testing.assert_close(*losses)
    absent = 0
    for (name, p), q in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is None:
            absent += 1
        else:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-10, msg=name)
    assert absent == 24  # the tensors of two blocks


def test_cycles_give_every_choice_its_share_of_the_architectures() -> None:
    space = create_supernet("multi_stage_vit", 5, **{**SIZES, "widths": [[4, 5, 6], [8, 12], [12, 16]]}).space
    for step in range(5):
        archs = Cycles()(space, 6, 0, step)
        assert Counter(arch.stages[0][0].embed_dim for arch in archs) == {4: 2, 5: 2, 6: 2}
        assert Counter(arch.stages[2][0].heads for arch in archs) == {2: 3, 3: 3}
        assert Counter(arch.depths[1] for arch in archs) == {1: 3, 2: 3}
    assert Cycles()(space, 6, 0, 0) == Cycles()(space, 6, 0, 0) != Cycles()(space, 6, 0, 1)
    fewer = Counter(arch.stages[0][0].embed_dim for arch in Cycles()(space, 4, 0, 0))
    assert sum(fewer.values()) == 4 and max(fewer.values()) <= 2


def test_every_architecture_of_a_step_trains_on_as_many_images() -> None:
    net, seen = _supernet(), []
    plain = net.forward_many

    def counted(images: Tensor, archs: list[Architecture]) -> Tensor:
        seen.append(list(archs))
        return plain(images, archs)

    net.forward_many = counted  # type: ignore[method-assign]
    archs = [net.space.smallest, net.space.largest, *Cycles()(net.space, 1, 0, 0)]
    labels = torch.arange(12) % 5
    accumulate_gradients(net, _images(12), labels, archs, CrossEntropy(), split_batch=True, one_pass=True)
    assert seen == [[arch for arch in archs for _ in range(4)]]
    with pytest.raises(ValueError, match=r"11 images per step.*shared out equally in 3"):
        accumulate_gradients(net, _images(11), labels[:11], archs, CrossEntropy(), split_batch=True, one_pass=True)


def test_the_union_has_what_any_architecture_has() -> None:
    space = _supernet().space
    archs = Cycles()(space, 5, 0, 3)
    whole = union(space, archs)
    assert whole.depths == tuple(max(arch.depths[s] for arch in archs) for s in range(3))
    first = [arch.stages[0][0] for arch in archs]
    assert whole.stages[0][0].hidden == max(block.hidden for block in first)
    assert union(space, [space.smallest] * 2) == space.smallest
    with pytest.raises(ValueError, match="one resolution, not 16, 32"):
        union(space, [space.smallest, replace(space.smallest, resolution=32)])
    with pytest.raises(ValueError, match="2 images need as many architectures, not 3"):
        _supernet().forward_many(_images(2), [space.smallest] * 3)


class _Noise:
    steps_per_epoch = 3

    def train_batches(self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1) -> Any:
        for step in range(skip, self.steps_per_epoch):
            generator = torch.Generator().manual_seed(step)
            yield torch.randn(8, 3, 16, 16, generator=generator), torch.randint(5, (8,), generator=generator)


def test_a_training_with_several_architectures_per_batch() -> None:
    net = create_supernet("multi_stage_vit", 5, **SIZES)
    assert isinstance(net, MeasuredSupernet)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.set_dropout(drop_path_rate=0.2)
    phases = random_sampling(net.space, SHORT, n=4, multi_architecture=True)
    assert phases[0].split_batch and phases[0].sampler == Uniform(4, Cycles())
    (epoch,) = Trainer(net, phases, _Noise()).run()
    assert set(epoch.losses) <= {"smallest", "random", "largest"}
    moved = [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])]
    assert "largest.stages.0.blocks.1.qkv.weight" in moved and "largest.head.weight" in moved


def test_choices_grow_from_the_largest_alone() -> None:
    """At the share t of the opening there are 1 + floor(t (m - 1)) of m choices."""
    space = create_supernet("multi_stage_vit", 5, **{**SIZES, "widths": [[3, 4, 5, 6], [8, 10, 12], [16]]}).space
    (phase,) = random_sampling(space, SHORT, 2, multi_architecture=True, opening=0.3)
    for t, first, second in [
        (0.0, (6,), (12,)), (0.32, (6,), (12,)), (0.34, (5, 6), (12,)), (0.51, (5, 6), (10, 12)),
        (0.68, (4, 5, 6), (10, 12)), (0.99, (4, 5, 6), (10, 12)),
    ]:  # fmt: skip
        found = phase.space_at(0.3 * t)
        assert [found.stages[s].shared["embed_dim"] for s in (0, 1)] == [first, second]
        assert found.stages[0].depths == (2,) and found.largest == space.largest
    assert phase.space_at(0.3) == space and not random_sampling(space, SHORT)[0].opening
    with pytest.raises(ValueError, match="opening 1 is a share of the steps"):
        random_sampling(space, SHORT, opening=1.0)


def test_what_cannot_share_a_batch_is_refused_in_one_line() -> None:
    published = create_supernet("elastic", model="resnet10t", num_classes=5)
    with pytest.raises(
        ValueError, match=r"^architectures cannot share a batch in a network with BatchNorm.*LayerNorm$"
    ):
        Trainer(published, random_sampling(published.space, SHORT, 2, multi_architecture=True), _Noise()).run()
    normed = _supernet()
    normed.add_module("extra", nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="BatchNorm \\(it has 1\\)"):
        forward_of_many(normed)
    with pytest.raises(ValueError, match="has no forward_many"):
        forward_of_many(nn.LayerNorm(3))
    space = _supernet().space
    with pytest.raises(ValueError, match="set split_batch, too"):
        Phase("x", space, SHORT, Uniform(2), one_pass=True)
    phases = random_sampling(space, SHORT, 2, 1.0, largest=SHORT, multi_architecture=True)
    with pytest.raises(ValueError, match="remove `relation`"):
        with_relation(phases, AttentionRelation())
    with pytest.raises(ValueError, match="multi_stage_vit has no experts"):
        create_supernet("multi_stage_vit", 5, experts={"n": 2}, **SIZES)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 20}, "image_size 20 with patch_size 2: .*a multiple of 8"),
        ({"patch_size": 1}, "the patch must be even"),
        ({"heads": [[1], [1]]}, "heads has 2 stages and widths 3"),
        ({"hidden": [[1], [], [1]]}, r"hidden of a stage are \[\]"),
        ({"depths": [[0, 1], [1], [1]]}, r"depths of a stage are \[0, 1\]"),
        ({"widths": [[4, 6], [5], [8]]}, "width 5 of a stage is below 6 of the one before"),
    ],
)
def test_sizes_that_do_not_go_together(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiStageSupernet(**{**SIZES, **sizes})


def test_the_recipe() -> None:
    recipe = load_recipe(Path(experiments.__file__).parent / "recipes" / "digits_multi_stage_vit.toml")
    net = create_supernet(recipe.supernet.name, 10, 1, **recipe.supernet.settings)
    phase = training_phases(recipe, net)[-1]
    assert phase.one_pass and phase.space == net.space and phase.opening and phase.sampler == Uniform(4, Cycles())
    assert create_supernet(**net.definition).space == net.space  # type: ignore[arg-type]


def test_costs_are_those_of_what_is_extracted() -> None:
    net = create_supernet("multi_stage_vit", 5, **SIZES)
    archs = [net.space.smallest, *net.space.sample(2, np.random.default_rng(0)), net.space.largest]
    genes = net.space.encode(archs)
    for arch, macs, n_parameters in zip(archs, net.macs(genes), net.n_parameters(genes), strict=True):
        small = net.extract(arch).eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            small(_images(1))
        assert macs == counter.get_total_flops() // 2
        assert n_parameters == sum(p.numel() for p in small.parameters())


def test_a_sub_network_becomes_an_onnx_file_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardware.onnx.export._exported_by_torch", None)  # the slow way, for what is not known
    net = _supernet()
    small = net.extract(net.space.smallest).eval()
    assert onnx_parity(export_onnx(small, (1, 3, 16, 16)), small, (1, 3, 16, 16)) < 1e-5
