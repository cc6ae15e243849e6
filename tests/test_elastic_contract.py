"""Every law of a supernet for one small timm model per family, and that broken supernets break the laws."""

from functools import cache

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet import Architecture, Block, SearchSpace, Stage
from supernet.networks.from_timm import elastic
from supernet.networks.timm_supernet import TimmSupernet
from supernet.testing import SupernetContract, randomize

CASES = {
    "mobilenetv3_small_050": ({}, {"resolutions": (32, 40)}),
    "tf_efficientnet_lite0": ({}, {"resolutions": (33,), "fractions": (0.5,)}),  # pads as TensorFlow does
    "test_resnet": ({}, {"resolutions": (32, 48)}),
    "vit_tiny_patch16_224": (
        {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 4},
        {"resolutions": (16, 24)},
    ),
    "deit_tiny_distilled_patch16_224": (
        {"img_size": 32, "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2},
        {"embed_dims": (16, 24), "heads": (1, 2)},
    ),
}


@cache
def built(name: str) -> tuple[nn.Module, TimmSupernet]:
    arguments, choices = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomize(timm.create_model(name, num_classes=5, **arguments))
    return model, elastic(model, **choices)


@pytest.mark.parametrize("name", CASES)
class TestTimmModels(SupernetContract):
    @pytest.fixture
    def original(self, name):
        return built(name)[0]

    @pytest.fixture
    def supernet(self, name):
        return built(name)[1]


class Toy(nn.Module):
    """One hidden layer of 2, 4 or 8 neurons, and a second one that may be absent; subclasses are broken."""

    space = SearchSpace((4,), (Stage.uniform((0, 1), width=(2, 4, 8)),), {"neurons": (2, 4, 8)})

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(48, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        return self.run(images.flatten(1), int(arch.settings.neurons), [int(b.width) for b in arch.stages[0]])

    def run(self, x: Tensor, n: int, widths: list[int]) -> Tensor:
        x = F.gelu(F.linear(x, self.first.weight[:n], self.first.bias[:n]))
        if widths:
            m = min(n, widths[0])
            x = torch.cat([x[:, :m] + F.linear(x, self.second.weight[:m, :n], self.second.bias[:m]), x[:, m:]], dim=1)
        return F.linear(x, self.last.weight[:, :n], self.last.bias)

    def extract(self, arch: Architecture) -> nn.Module:
        return ToySubnet(self, arch)


class ToySubnet(nn.Module):
    def __init__(self, toy: Toy, arch: Architecture) -> None:
        super().__init__()
        self.toy, self.arch = type(toy)(), arch
        self.toy.load_state_dict(toy.state_dict())

    def forward(self, images: Tensor) -> Tensor:
        return self.toy(images, self.arch)


class Deaf(Toy):
    """Does not listen to the architecture."""

    def run(self, x: Tensor, n: int, widths: list[int]) -> Tensor:
        return super().run(x, 8, [8])


class Detached(Toy):
    """A slice was copied, so no gradient comes back."""

    def run(self, x: Tensor, n: int, widths: list[int]) -> Tensor:
        return super().run(x, n, widths) + x[:, :1] * self.second.weight.detach().mean()


class Masked(Toy):
    """What is absent is multiplied by zero."""

    def run(self, x: Tensor, n: int, widths: list[int]) -> Tensor:
        return super().run(x, n, widths) + 0 * self.second.weight.sum()


class Stateful(Toy):
    """Remembers the widest it has been."""

    widest = 0

    def run(self, x: Tensor, n: int, widths: list[int]) -> Tensor:
        self.widest = max(self.widest, n)
        return super().run(x, self.widest, widths)


class Sharing(Toy):
    """Extracts its own weights."""

    def extract(self, arch: Architecture) -> nn.Module:
        subnet = ToySubnet(self, arch)
        subnet.toy.last = self.last
        return subnet


class TestToy(SupernetContract):
    @pytest.fixture
    def supernet(self):
        return randomize(Toy())


LAWS = [name for name in dir(SupernetContract) if name.startswith("test_") and "original" not in name]


@pytest.mark.parametrize(
    ("broken", "laws"),
    [
        (Deaf, {"test_the_architecture_decides_what_is_computed"}),
        (Detached, {"test_gradients_reach_what_is_active_and_nothing_else"}),
        (Masked, {"test_gradients_reach_what_is_active_and_nothing_else"}),
        (Stateful, {"test_nothing_is_remembered_between_calls"}),
        (Sharing, {"test_an_extracted_network_has_weights_of_its_own"}),
    ],
)
def test_a_broken_supernet_breaks_a_law(broken, laws):
    broken_laws = set()
    for law in LAWS:
        try:
            getattr(SupernetContract(), law)(randomize(broken()))
        except AssertionError:
            broken_laws.add(law)
    assert broken_laws >= laws


def test_randomized_networks_hide_nothing():
    norm = randomize(nn.BatchNorm2d(4))
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None and not torch.isin(tensor, torch.tensor([0.0, 1.0])).any()


def test_an_absent_block_of_the_toy_has_no_settings():
    assert Toy.space.smallest.stages == ((),) and Toy.space.largest.stages == ((Block(width=8),),)
