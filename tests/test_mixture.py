"""Mixtures of experts by architecture: one expert is the plain supernet; what is taken out is an ordinary network."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from supernet import create_supernet, elastic
from supernet.networks.mixture import layers_of
from supernet.networks.timm_supernet import TimmSupernet
from supernet.subnet import load_subnet, save_subnet
from supernet.training import Schedule, Trainer, fine_tuning, gradual_shrinking

SMALL = {
    "stages": [{"width": 8, "stride": 2}, {"width": 12, "se": True}], "depths": [1, 2], "kernels": [3, 5],
    "expands": [2, 3, 4], "resolutions": [32], "stem_width": 8, "head_width": 24, "feature_width": 32,
}  # fmt: skip
VIT = {
    "model": "test_vit", "model_args": {"img_size": 32, "patch_size": 8}, "depths": (4, 6), "heads": (1, 2),
    "mlp_ratios": (1, 3),
}  # fmt: skip


class Branches(nn.Module):
    """A network of no family."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (nn.Conv2d(a, 16, 3, padding=1) for a in (1, 16, 16))
        self.mixing = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(self.mixing(self.left(x) + self.right(x)).relu().mean((2, 3)))


def _traced() -> TimmSupernet:
    torch.manual_seed(0)
    return elastic(Branches(), example_input=torch.zeros(1, 1, 32, 32), fractions=(0.5,))


NETS: dict[str, tuple[Callable[[], TimmSupernet], tuple[str, ...]]] = {
    "mobilenet": (lambda: create_supernet("mobilenetv3", 10, 1, **SMALL), ()),
    "resnet": (lambda: create_supernet("elastic", 10, 1, model="test_resnet", resolutions=(32,)), ()),
    "vit": (lambda: create_supernet("elastic", 10, 1, **VIT), ("*.mlp.fc?",)),
    "traced": (_traced, ("mixing", "head")),
}
IMAGES = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def _mixed(name: str, **options: object) -> TimmSupernet:
    make, layers = NETS[name]
    net = make()
    torch.manual_seed(1)
    return net.mix_experts(layers=layers, **options).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("neuron_wise", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_one_expert_is_the_plain_supernet_to_the_bit(name: str, neuron_wise: bool) -> None:
    plain, mixed = NETS[name][0]().eval(), _mixed(name, n=1, neuron_wise=neuron_wise)
    for arch in plain.space.sample(4, np.random.default_rng(0)):
        assert torch.equal(mixed(IMAGES, arch), plain(IMAGES, arch))


@pytest.mark.parametrize("neuron_wise", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_what_is_taken_out_is_ordinary_and_computes_the_same(name: str, neuron_wise: bool) -> None:
    plain, mixed = NETS[name][0]().eval(), _mixed(name, n=3, neuron_wise=neuron_wise)
    before = {key: value.clone() for key, value in mixed.state_dict().items()}
    for arch in mixed.space.sample(4, np.random.default_rng(0)):
        subnet = mixed.extract(arch).eval()
        torch.testing.assert_close(subnet(IMAGES), mixed(IMAGES, arch), atol=1e-6, rtol=1e-6)
        assert subnet.state_dict().keys() == plain.extract(arch).state_dict().keys()
        assert not torch.allclose(mixed(IMAGES, arch), plain(IMAGES, arch), atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in mixed.state_dict().items())
    genes = mixed.space.sample_genes(5, np.random.default_rng(1))
    assert (mixed.n_parameters(genes) == plain.n_parameters(genes)).all()


@pytest.mark.parametrize("neuron_wise", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_gradients_reach_routers_and_experts(name: str, neuron_wise: bool) -> None:
    mixed = _mixed(name, neuron_wise=neuron_wise)
    for norm in (module for module in mixed.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # timm begins residual branches at 0, and so would their gradients
    mixed(IMAGES, mixed.space.largest).square().sum().backward()
    assert mixed.mixture is not None
    for key, parameter in mixed.mixture.named_parameters():
        assert parameter.grad is not None, key
    assert sum(float(p.grad.abs().sum()) for p in mixed.mixture.routers.parameters() if p.grad is not None) > 0
    assert all(float(p.grad.abs().sum()) > 0 for p in mixed.mixture.experts.values() if p.grad is not None)


@pytest.mark.parametrize("name", NETS)
def test_shares_follow_the_architecture_and_add_up(name: str) -> None:
    mixed = _mixed(name, n=3)
    assert mixed.mixture is not None
    small, large = (mixed.mixture.shares(arch) for arch in (mixed.space.smallest, mixed.space.largest))
    assert list(small) == list(mixed.mixture.layers)
    for layer, share in small.items():
        assert share.shape == (3,) and float(share.detach().sum()) == pytest.approx(1) and (share > 0).all()
        assert not torch.equal(share, large[layer])
    per_output = _mixed(name, neuron_wise=True).mixture
    assert per_output is not None
    for layer, share in per_output.shares(mixed.space.smallest).items():
        assert share.shape == (2, len(mixed.get_submodule(layer)._parameters["weight"]))  # type: ignore[arg-type]
        torch.testing.assert_close(share.sum(0), torch.ones(share.shape[1]))


def test_experts_that_are_alike_make_no_difference() -> None:
    plain, mixed = NETS["vit"][0]().eval(), _mixed("vit", n=2)
    assert mixed.mixture is not None
    with torch.no_grad():
        for name, expert in mixed.mixture.experts.items():
            path = next(key for key in mixed.state_dict() if f"{key.replace('.', '_')}_2" == name)
            expert.copy_(mixed.get_parameter(path))
    for arch in plain.space.sample(4, np.random.default_rng(0)):
        torch.testing.assert_close(mixed(IMAGES, arch), plain(IMAGES, arch), atol=1e-5, rtol=1e-5)


def test_layers_of_a_block_share_a_router_and_patterns_choose() -> None:
    mixed = _mixed("vit")
    assert mixed.mixture is not None
    assert len(mixed.mixture.layers) == 12 and len(mixed.mixture.routers) == 6
    separate = _mixed("vit", neuron_wise=True).mixture
    assert separate is not None and len(separate.routers) == 12
    net = NETS["mobilenet"][0]()
    names = layers_of(net, net.block_classes)
    assert names and all(name.startswith("blocks.") for name in names) and not any("dw" in name for name in names)
    with pytest.raises(ValueError, match="no linear layer or 1x1 convolution is called 'mlp'; there are"):
        net.mix_experts(layers=["mlp"])
    with pytest.raises(ValueError, match="a mixture of 0 experts"):
        net.mix_experts(n=0)
    with pytest.raises(ValueError, match="mixes 2 experts already"):
        mixed.mix_experts()


def test_a_definition_makes_the_mixture_again_and_a_subnet_is_read(tmp_path: Path) -> None:
    experts = {"n": 2, "neuron_wise": False, "layers": ["*.mlp.fc?"]}
    net = create_supernet("elastic", 10, 1, experts=experts, **VIT).eval()
    assert net.definition is not None and net.definition["experts"] == experts
    again = create_supernet(**copy.deepcopy(net.definition)).eval()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
    arch = net.space.smallest
    save_subnet(net.extract(arch), arch, net.definition, tmp_path)
    torch.testing.assert_close(load_subnet(tmp_path)(IMAGES), net(IMAGES, arch), atol=1e-6, rtol=1e-6)


def test_a_mixture_trains_and_is_never_sorted() -> None:
    class Noise:
        steps_per_epoch = 3

        def train_batches(
            self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
        ) -> Iterator[tuple[Tensor, Tensor]]:
            for step in range(skip, self.steps_per_epoch):
                generator = torch.Generator().manual_seed(10 * epoch + step)
                yield torch.randn(8, 1, 32, 32, generator=generator), torch.randint(10, (8,), generator=generator)

    net = _mixed("mobilenet")
    before = {name: value.clone() for name, value in net.named_parameters()}
    Trainer(net, gradual_shrinking(net.space, Schedule(1, 0.05)), Noise()).run()
    moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
    assert any("experts" in name for name in moved) and any("routers" in name for name in moved)
    with pytest.raises(ValueError, match="no order is right for all experts of a mixture"):
        Trainer(net, fine_tuning(net.space, Schedule(1, 0.05)), Noise()).run()
