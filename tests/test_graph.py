"""The dependency graph and the supernets made of it: networks of timm by class, of torch, and of these tests' own."""

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet import load_subnet
from supernet.families.traced import TracedSupernet
from supernet.graph.groups import DependencyGraph
from supernet.graph.proof import prove
from supernet.graph.tracing import plain_attention
from supernet.networks.from_timm import elastic
from supernet.networks.importance import l1_importance
from supernet.subnet import save_subnet
from supernet.testing import SupernetContract, randomize

SMALL: dict[str, dict[str, Any]] = {
    "convnext_atto": {"depths": (1, 2, 2, 1)},
    "convnextv2_atto": {"depths": (1, 2, 2, 1)},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
    "swinv2_tiny_window8_256": {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
    "regnety_002": {},
    "resnetv2_18": {},
    "densenet121": {"block_config": (3, 3)},
    "coatnet_nano_rw_224": {},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 3},
    "beit_base_patch16_224": {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 4},
    "cait_xxs24_224": {"img_size": 32, "depth": 3},
    "xcit_nano_12_p16_224": {"img_size": 32, "depth": 2, "cls_attn_layers": 1},
    "coat_lite_tiny": {"img_size": 32, "embed_dims": (16, 16, 24, 32), "serial_depths": (2, 2, 1, 1)},
    "efficientformerv2_s0": {"depths": (1, 1, 2, 2), "embed_dims": (16, 16, 24, 32)},
    "davit_tiny": {"embed_dims": (24, 48), "num_heads": (2, 4), "depths": (1, 2)},
    "mobilenetv4_conv_small": {},
    "mixnet_s": {},
    "ghostnet_050": {},
    "fastvit_t8": {},
    "efficientformer_l1": {},
    "mobilevit_xxs": {},
    "edgenext_xx_small": {},
    "hrnet_w18_small": {},
    "res2net50_26w_4s": {"layers": (1, 2, 1, 1)},
    "levit_128s": {"img_size": 224},
    "inception_next_atto": {},
    "fasternet_t0": {},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3, "embed_dim": 48, "num_heads": 4},
    "resnet10t": {},
}
HEADS = {  # how many of them there are to choose, at least
    "swin_tiny_patch4_window7_224": 4,
    "swinv2_tiny_window8_256": 4,
    "coatnet_nano_rw_224": 9,
    "eva02_tiny_patch14_224": 3,
    "beit_base_patch16_224": 3,
    "cait_xxs24_224": 5,
    "xcit_nano_12_p16_224": 3,
    "coat_lite_tiny": 12,
    "efficientformerv2_s0": 1,
    "davit_tiny": 6,
    "vit_tiny_patch16_224": 3,
}
SIZES = {
    "convnext_atto": 64,
    "coatnet_nano_rw_224": 224,
    "fastvit_t8": 64,
    "efficientformer_l1": 224,
    "levit_128s": 224,
    "efficientformerv2_s0": 224,
    "coat_lite_tiny": 32,
}


def example(name: str, model: Any) -> Tensor:
    fixed = getattr(getattr(model, "patch_embed", None), "img_size", None) or (SIZES.get(name, 96),) * 2
    return torch.randn(1, 3, *fixed, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_timm_is_proved(name):
    """The largest is the original, extracting is calling, and units of zeros can be removed."""
    torch.manual_seed(0)
    model = randomize(timm.create_model(name, num_classes=10, **SMALL[name]))
    images = example(name, model)
    supernet: Any = elastic(model, example_input=images, family="traced").eval()
    proof = prove(supernet, model, images)
    assert proof.holds, proof
    roles = {supernet.roles.get(gene.name, "depth") for gene in supernet.space.genes if len(gene.choices) > 1}
    assert "middle_width" in roles
    heads = [gene for gene in supernet.space.genes if supernet.roles.get(gene.name) == "heads"]
    assert sum(len(gene.choices) > 1 for gene in heads) >= HEADS.get(name, 0)
    arch = supernet.space.sample(1, np.random.default_rng(1))[0]
    subnet = supernet.extract(arch).requires_grad_(False)
    with FlopCounterMode(display=False) as counter, plain_attention():
        subnet(images)
    genes = supernet.space.encode([arch])
    assert supernet.macs(genes) == counter.get_total_flops() // 2
    assert supernet.n_parameters(genes) == sum(p.numel() for p in subnet.parameters())
    assert type(subnet) is type(model)


# -- networks of these tests' own -------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """A little of everything: concatenation, split, shuffles, groups, tied weights, gates, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.left, self.right = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 20, 3, padding=1)
        self.join = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 32)
        self.gate = nn.Conv2d(32, 32, 1)
        self.down = nn.Conv2d(64, 16, 1)
        self.up = nn.ConvTranspose2d(16, 24, 2, stride=2)
        self.last = nn.Conv2d(24, 24, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(24, 1, 1))
        self.out = nn.Linear(24 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.left(x), F.silu(self.right(x))], dim=1)
        x = F.gelu(self.norm(self.join(x)))
        first, second = self.gate(x).chunk(2, dim=1)
        x = torch.cat([x, first * torch.sigmoid(second), F.pad(first, (1, 0, 0, 0))[..., 1:]], dim=1)
        x = self.up(F.pixel_unshuffle(F.pixel_shuffle(self.down(x), 2), 2))
        x = self.last(self.last(x).relu()) * self.scale
        return self.out(F.adaptive_max_pool2d(x, 4).flatten(1))


class UNet(nn.Module):
    """Three scales with skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()

        def block(ins: int, outs: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(ins, outs, 3, padding=1),
                nn.GroupNorm(1, outs),
                nn.ReLU(),
                nn.Conv2d(outs, outs, 3, padding=1),
            )

        self.down = nn.ModuleList([block(3, 16), block(16, 24), block(24, 32)])
        self.up = nn.ModuleList([block(56, 24), block(40, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return self.head(x)


class TwoInputs(nn.Module):
    """An image and numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.numbers = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 16))
        self.blocks = nn.ModuleList([Residual(16) for _ in range(3)])
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        x = self.image(image) * self.numbers(numbers)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Residual(nn.Module):
    """A gated MLP with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.widen, self.narrow = nn.LayerNorm(width), nn.Linear(width, 64), nn.Linear(32, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.widen(self.norm(x)).chunk(2, dim=-1)
        return x + self.narrow(F.silu(gate) * value)


class Text(nn.Module):
    """torch's own encoder between an embedding and a classifier of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.table(tokens)))


class Sized(nn.Module):
    """A block that passes the size of the image on, with a mixer in it that would be a row of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixer = Residual(width)

    def forward(self, x: Tensor, size: int) -> tuple[Tensor, int]:
        return self.mixer(x), size


class Pooled(nn.Module):
    """Blocks, then a layer that is read by the width of the embedding, far from where that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.blocks = nn.ModuleList(Sized(32) for _ in range(3))
        self.norm, self.pool, self.head = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, size = self.embed(x), 8
        for block in self.blocks:
            x, size = block(x, size)
        x = self.norm(x)
        pooled = self.pool(x).flatten(1)
        for _ in range(6):  # so far that the operation that fails has nothing of the embedding beside it
            pooled = torch.sigmoid(pooled) + 0.5 * torch.relu(pooled)
        return self.head(pooled.reshape(len(x), -1, x.shape[-1]).mean(1))


OWN: dict[str, tuple[Any, Any]] = {
    "pooled": (Pooled, lambda: torch.randn(2, 4, 8)),
    "mixture": (Mixture, lambda: torch.randn(1, 3, 16, 16)),
    "u-net": (UNet, lambda: torch.randn(1, 3, 32, 32)),
    "two inputs": (TwoInputs, lambda: (torch.randn(1, 3, 16, 16), torch.randn(1, 7))),
    "text": (Text, lambda: torch.randint(0, 50, (1, 9))),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("widths", [(), (0.5, 0.75)], ids=["inside", "outside"])
def test_a_network_of_ones_own_is_proved(name, widths):
    torch.manual_seed(0)
    make, inputs = OWN[name]
    model, given = randomize(make()), inputs()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    supernet: Any = elastic(model, example_input=given, widths=widths, multiple_of=1).eval()
    assert prove(supernet, model, given, n_archs=6).holds
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    genes = supernet.space.encode(supernet.space.sample(5, np.random.default_rng(0)))
    for row, macs in zip(supernet.space.decode(genes), supernet.macs(genes), strict=True):
        subnet = supernet.extract(row)
        with FlopCounterMode(display=False) as counter, plain_attention(), torch.no_grad():
            subnet(*(given if isinstance(given, tuple) else (given,)))
        assert macs == counter.get_total_flops() // 2


def test_what_is_elastic_of_ones_own_network():
    model = TwoInputs()
    graph = DependencyGraph.of(model, (torch.zeros(1, 3, 16, 16), torch.zeros(1, 7)))
    gates = [group for group in graph.groups if ("blocks.0.narrow.weight", 1) in group.spots]
    assert [group.n_units for group in gates] == [32]  # a gate and its value are one unit
    assert gates[0].spots["blocks.0.widen.weight", 0].shape == (32, 2)
    assert [(run.container, len(run.names), run.n_fixed) for run in graph.runs] == [("blocks", 3, 0)]
    assert graph.reasons["head.weight", 0] == "touches the output"
    assert "32 channels: blocks.0.widen.weight" in str(graph)


def test_blocks_may_pass_something_on_and_hold_a_single_mixer():
    supernet: Any = elastic(Pooled(), example_input=torch.randn(2, 4, 8), multiple_of=1)
    assert [(run.container, len(run.names)) for run in supernet.runs] == [("blocks", 3)] and supernet.lowest == (1,)
    roles = {supernet.roles[gene.name] for gene in supernet.space.genes if gene.name in supernet.roles}
    assert "middle_width" in roles


def test_a_missed_dependency_is_found():
    """Units whose positions are mixed up in one parameter compute something else: the proof must see it."""
    torch.manual_seed(0)
    model, images = randomize(Mixture()), torch.randn(1, 3, 16, 16)
    supernet: Any = elastic(model, example_input=images, importance=None, multiple_of=1).eval()
    group = next(g for g in supernet.graph.groups if ("last.weight", 1) in g.spots)
    group.spots["last.weight", 1][:] = group.spots["last.weight", 1][::-1].copy()
    assert prove(supernet, model, images).removed > 1e-3


def test_sorting_keeps_what_matters():
    """In a network that hardly reads a random half of its hidden units, the other half is enough."""
    torch.manual_seed(0)
    layers: list[Any] = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)]
    model = randomize(nn.Sequential(*layers))
    weak = torch.randperm(32)[:16]
    with torch.no_grad():
        layers[2].weight[:, weak] *= 1e-3
        layers[4].weight[:, weak] *= 1e-3
        x = torch.randn(5, 8)
        errors = []
        for importance in (None, l1_importance):
            choices: Any = {"multiple_of": 1, "widths": (0.5,), "fractions": (0.5,)}
            supernet: Any = elastic(model, example_input=x, importance=importance, **choices)
            errors.append((supernet(x, supernet.space.smallest) - model(x)).abs().max())
    assert errors[1] < 0.05 * errors[0]


@pytest.mark.parametrize(
    ("name", "choices"), [("test_convnext", {}), ("test_resnet", {"multiple_of": 4}), ("test_vit_relpos", {})]
)
def test_a_traced_subnet_survives_save_and_load(name, choices, tmp_path):
    model = randomize(timm.create_model(name, num_classes=4))
    supernet: Any = elastic(model, family="traced", **choices)
    arch = supernet.space.sample(1, np.random.default_rng(2))[0]
    subnet = supernet.extract(arch).eval()
    save_subnet(subnet, arch, supernet.definition, tmp_path)
    loaded = load_subnet(tmp_path)
    with torch.no_grad():
        x = torch.randn(supernet.graph.inputs[0].shape)
        assert type(loaded) is type(model) and torch.equal(loaded(x), subnet(x))


def test_several_resolutions_are_counted():
    supernet = elastic(timm.create_model("regnety_002", num_classes=4), resolutions=(64, 96), example_input=IMAGE)
    assert supernet.space.resolutions == (64, 96, 128)
    for arch in (supernet.space.smallest, supernet.space.largest):
        subnet = supernet.extract(arch).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(torch.zeros(1, 3, arch.resolution, arch.resolution))
        assert supernet.macs(supernet.space.encode([arch])) == counter.get_total_flops() // 2
    with pytest.raises(ValueError, match="cannot be run on the example input"):
        elastic(timm.create_model("swin_tiny_patch4_window7_224"), resolutions=(100,))


IMAGE = torch.zeros(1, 3, 128, 128)

DIMS = (8, 16, 16, 24)
CONTRACTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 2, 1), dims=(8, 16, 16, 24)),
        32,
        {},
    ),
    "regnet": (lambda: timm.create_model("test_resnet", num_classes=5), 32, {"widths": (0.5,)}),
    "mixture": (Mixture, 16, {"multiple_of": 1}),
}


@pytest.mark.parametrize("name", CONTRACTS)
class TestTracedNetworks(SupernetContract):
    n_archs = 4

    @pytest.fixture
    def original(self, name):
        torch.manual_seed(0)
        return randomize(CONTRACTS[name][0]())

    @pytest.fixture
    def supernet(self, name, original):
        _, size, choices = CONTRACTS[name]
        return elastic(original, example_input=torch.zeros(1, 3, size, size), family="traced", **choices)


# -- what is refused --------------------------------------------------------------------------------------------------


def hooked() -> nn.Module:
    model = Mixture()
    model.stem.register_forward_hook(lambda module, inputs, output: None)
    return model


def on_two_devices() -> nn.Module:
    model = Mixture()
    model.out.to("meta")
    return model


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no")


def parametrised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "hooks": (hooked, IMAGE, r"stem \(Sequential\) has hooks.*remove them"),
    "half": (lambda: Mixture().half(), IMAGE, r"is float16; call .float\(\)"),
    "devices": (on_two_devices, IMAGE, r"several devices \(cpu, meta\)"),
    "compiled": (lambda: torch.compile(nn.Linear(4, 4)), IMAGE, "the network is compiled"),
    "scripted": (lambda: torch.jit.script(nn.Linear(4, 4)), IMAGE, "TorchScript"),
    "traced": (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4))), IMAGE, "a traced graph"),
    "parametrised": (parametrised, IMAGE, "remove_parametrizations"),
    "no weights": (nn.ReLU, IMAGE, "nothing of a ReLU can be made smaller: it has no weights"),
    "fixed": (lambda: nn.Linear(4, 4), torch.zeros(1, 4), "nothing of a Linear can be made smaller"),
    "fails": (Fails, torch.zeros(1, 4), "a Fails cannot be run on the example input: RuntimeError: no"),
    "lazy": (lambda: nn.LazyLinear(4), torch.zeros(1, 4), "has no weights yet; run the network once"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_a_supernet_is_refused_in_one_line(name):
    make, given, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        elastic(make(), example_input=given)
    assert "\n" not in str(error.value)


def test_a_network_that_says_nothing_of_its_input_needs_an_example():
    with pytest.raises(ValueError, match="give example_input"):
        elastic(Mixture())


def test_a_wrong_space_is_refused():
    model = Mixture()
    supernet = TracedSupernet(model, IMAGE[..., :16, :16])
    with pytest.raises(ValueError, match="fractions 2: possible are above 0 up to 1"):
        elastic(model, example_input=IMAGE[..., :16, :16], fractions=(2,))
    with pytest.raises(ValueError, match="has no choice 'strides'"):
        elastic(model, example_input=IMAGE[..., :16, :16], strides=(3,))
    other = elastic("test_efficientnet").space
    with pytest.raises(ValueError, match="the network has 1 rows of blocks; the space 2 stages"):
        TracedSupernet(model, IMAGE[..., :16, :16], other)
    assert supernet.space.size == 1


# -- beyond the module ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convnext_atto", "swinv2_tiny_window8_256", "beit_base_patch16_224", "mixnet_s"])
def test_a_traced_subnet_is_exported_with_parity(name):
    torch.manual_seed(0)
    model = randomize(timm.create_model(name, num_classes=4, **SMALL[name]))
    images = example(name, model)
    supernet: Any = elastic(model, example_input=images, family="traced")
    subnet = supernet.extract(supernet.space.smallest).eval()
    shape = tuple(images.shape)
    assert onnx_parity(export_onnx(subnet, shape), subnet, shape) <= 1e-4


def test_explain_says_what_becomes_elastic(command, tmp_path):
    told = command("explain", "test_convnext", "--draw", tmp_path / "graph.svg")
    picture = ElementTree.parse(tmp_path / "graph.svg").getroot()
    tips = [title.text or "" for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert any("stages.0.blocks.0.mlp.fc2.weight axis 1" in tip and "expand" in tip for tip in tips)
    model = timm.create_model("test_convnext")
    graph = DependencyGraph.of(model, torch.zeros(1, 3, 160, 160))
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}line"))) == len(graph.groups)
    assert len(tips) == len({(g.index, name.rpartition(".")[0]) for g in graph.groups for name in g.parameters})
    assert "search space of" in told.stdout and "smallest:" in told.stdout and "largest:" in told.stdout
    assert "stage1.block1.expand" in told.stdout and "2 residual blocks, at least 1 stay" in told.stdout
    assert "touches the output" in told.stdout
    assert "kernel 3, 5" in command("explain", "mobilenetv3_small_050").stdout  # its own family
    wider = command("explain", "test_convnext", "--width", "50%", "--size", "1x3x64x64")
    assert "embed1 0.5, 1" in wider.stdout and "resolution 64" in wider.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mobilnetv3",), "timm has no model 'mobilnetv3'"),
        (("torch.nn:ReLU", "--size", "1x3"), "nothing of a ReLU can be made smaller"),
        (("test_convnext", "--size", "1-3"), "--size '1-3' is not of the form 1x3x224x224"),
        (("test_convnext", "--width", "7"), "'7' is not a share"),
        (("test_convnext", "--family", "other"), "family 'other': possible are 'own' and 'traced'"),
        (("test_convnext", "--draw", "graph.png"), "give a name that ends in .svg"),
        (("math:sqrt",), "math:sqrt failed: TypeError"),
    ],
)
def test_explain_refuses_in_one_line(command, arguments, message):
    told = command("explain", *arguments, check=2)
    assert message in told.stderr and told.stderr.count("\n") == 1 and not told.stdout
