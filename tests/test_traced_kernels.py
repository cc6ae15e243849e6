"""Kernels of the general family: their centre, learned maps of it, what they cost, and which cannot shrink."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet import create_supernet, elastic
from supernet.families.traced import TracedSupernet
from supernet.graph.proof import prove
from supernet.space.roles import roles_of
from supernet.testing import randomize
from supernet.training import Schedule, gradual_shrinking


class Block(nn.Module):
    def __init__(self, width: int, size: int, **how: object) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, size, padding="same", groups=width, **how)  # pyright: ignore[reportArgumentType]
        self.norm, self.widen = nn.BatchNorm2d(width), nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.relu(self.widen(self.norm(self.spread(x)))))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        Block(16, 7),
        Block(16, 5, dilation=2),
        nn.Conv2d(16, 16, 5),  # without padding it puts out more where it is smaller
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    randomize(model)
    return model.eval()


IMAGES = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def supernet_of(model: nn.Module, **choices: object) -> TracedSupernet:
    made = elastic(model, example_input=torch.zeros(1, 3, 20, 20), **choices)  # pyright: ignore[reportArgumentType]
    assert isinstance(made, TracedSupernet)
    return made.eval()


@pytest.mark.parametrize("transforms", [False, True])
def test_smaller_kernels_hold_what_every_choice_holds(transforms: bool) -> None:
    model = network()
    supernet = supernet_of(model, kernels=(3, 5), kernel_transforms=transforms)
    if transforms:
        for matrix in supernet.kernel_transforms.parameters():
            nn.init.normal_(matrix)  # what they learn is in the calls and in what is extracted
    assert prove(supernet, model, IMAGES).holds


def test_what_can_be_chosen() -> None:
    genes = {gene.label: gene.choices for gene in supernet_of(network(), kernels=(3, 5)).space.genes}
    kernels = {label: choices for label, choices in genes.items() if "kernel" in label}
    assert kernels == {"kernel1": (3, 5), "stage1.block1.kernel": (3, 5, 7), "stage1.block2.kernel": (3, 5)}
    assert not any("kernel" in gene.label for gene in supernet_of(network()).space.genes)


def test_costs_are_those_of_the_extracted_network() -> None:
    supernet = supernet_of(network(), kernels=(3, 5))
    for arch in (supernet.space.smallest, supernet.space.largest, *supernet.space.sample(4, np.random.default_rng(3))):
        subnet, genes = supernet.extract(arch), supernet.space.encode([arch])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(IMAGES[:1])
        assert int(supernet.macs(genes)[0]) * 2 == counter.get_total_flops()
        assert int(supernet.n_parameters(genes)[0]) == sum(p.numel() for p in subnet.parameters())


def test_a_smaller_kernel_is_the_centre_of_the_larger() -> None:
    model = network()
    supernet = supernet_of(model, kernels=(3,), importance=None)
    subnet = supernet.extract(supernet.space.smallest)
    assert torch.equal(subnet[0].weight, model[0].weight[:, :, 1:4, 1:4])  # pyright: ignore[reportIndexIssue]
    assert subnet[0].kernel_size == (3, 3) and subnet[0].padding == (1, 1)
    assert subnet[-4].kernel_size == (5, 5)


def test_maps_begin_as_the_centre_and_gradients_reach_them() -> None:
    plain, learned = (supernet_of(network(), kernels=(3, 5), depths=(2,), kernel_transforms=t) for t in (False, True))
    smallest = plain.space.smallest
    torch.testing.assert_close(learned(IMAGES, smallest), plain(IMAGES, smallest))
    learned(IMAGES, smallest).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned.kernel_transforms.parameters())
    learned.load_state_dict(plain.state_dict())  # which has no maps: those there are stay


def test_a_network_of_timm_comes_back_from_its_definition() -> None:
    learned = elastic("convnext_atto", kernels=(3, 5), kernel_transforms=True, model_args={"num_classes": 4})
    assert learned.definition is not None
    rebuilt = create_supernet(**learned.definition)
    assert rebuilt.space == learned.space
    assert rebuilt.state_dict().keys() == learned.state_dict().keys()
    assert any("7to5" in name for name in rebuilt.state_dict())


def test_its_onnx_says_the_same() -> None:
    supernet = supernet_of(network(), kernels=(3,))
    subnet = supernet.extract(supernet.space.smallest).eval()
    assert onnx_parity(export_onnx(subnet, IMAGES.shape), subnet, IMAGES.shape) < 1e-5


def test_kernels_open_first_when_ranges_open() -> None:
    supernet = supernet_of(network(), kernels=(3,))
    (phase,) = gradual_shrinking(supernet.space, Schedule(6, 0.1), roles=roles_of(supernet))
    first = phase.space_at(0.0)
    opened = {gene.label for gene in first.genes if len(gene.choices) > 1}
    assert opened == {"kernel1", "stage1.block1.kernel", "stage1.block2.kernel"}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"kernels": (4,)}, "odd numbers from 3"),
        ({"kernel_transforms": True}, "give `kernels`"),
    ],
)
def test_what_is_refused(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        supernet_of(network(), **choices)


def test_a_network_without_kernels_says_so() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    with pytest.raises(ValueError, match="no kernel that can shrink"):
        elastic(model, example_input=torch.zeros(1, 3, 4, 4), kernels=(3,))


def test_kernels_over_signals_stay_their_centre() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    signals = torch.randn(2, 2, 16)
    made = elastic(model.eval(), example_input=signals[:1], kernels=(3,), kernel_transforms=True, importance=None)
    assert isinstance(made, TracedSupernet) and not list(made.kernel_transforms)
    assert prove(made.eval(), model, signals).holds
    subnet = made.extract(made.space.smallest)
    assert subnet[0].weight.shape[2] == 3
