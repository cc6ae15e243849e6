"""Attention whose code takes the width of its heads from the width of its input: of these tests' own, and of torch."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hardware import export_onnx, onnx_parity
from supernet.families.traced import TracedSupernet, elastic_traced
from supernet.graph.loosening import loosened, sizes_read
from supernet.graph.proof import prove
from supernet.graph.tracing import plain_attention
from supernet.testing import randomize


def attend(x: Tensor, qkv: Tensor, table: Tensor, heads: int) -> Tensor:
    """A function beside the network, whose scale no shape gives away."""
    batch, n, width = x.shape
    q, k, v = (x @ qkv.t()).reshape(batch, n, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    q = q * (width // heads) ** -0.5
    weights = (q @ k.transpose(-2, -1) + table.permute(2, 0, 1)).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).reshape(x.size(0), n, width)


class Windows(nn.Module):
    """Attention in windows of 2 x 2 with a table of positions; one name is the width of the input and of the heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = 4
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn(9, 4))
        self.index: Tensor
        self.register_buffer("index", torch.randint(0, 9, (4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        shape = (batch, height // 2, 2, width // 2, 2, channels)
        y = x.view(shape).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
        y = self.proj(attend(y, self.qkv.weight, self.table[self.index.view(-1)].view(4, 4, -1), self.num_heads))
        return x + y.view(batch, height // 2, width // 2, 2, 2, channels).transpose(2, 3).reshape(x.shape)


class Checked(nn.Module):
    """What checks its sizes first follows with all uses of a name at once alone; it keeps a tensor, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads, self.ones = 4, None
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.ones is None:
            self.ones = torch.ones(1, device=x.device)
        width = x.shape[-1]
        qkv, each = self.qkv(x), width // self.heads
        if each * self.heads != width or qkv.shape[-1] != 3 * width:
            raise ValueError("the heads do not fit")
        q, k, v = qkv.unflatten(-1, (3, self.heads, each)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.proj(y.reshape(*x.shape[:-1], width))


class Scaled(nn.Module):
    """The scale of its attention is the number of heads: without one of them the others compute something else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = ((q * self.heads**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2))


class Closed(Windows):
    """Code that refers to the class that it stands in is left alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Masked(nn.Module):
    """torch's encoder with positions that are left out, which its fused way turns into nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        missing = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        missing[:, 4:] = True
        return self.head(self.encoder(x, src_key_padding_mask=missing)[:, :4])


class Decoder(nn.Module):
    """Attention to another sequence, whose packed weight is split otherwise."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, dropout=0.0) for _ in range(2))
        self.layers, self.memory, self.head = nn.ModuleList(layers), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory(x)[:, :3]
        for layer in self.layers:
            x = layer(x, memory)
        return self.head(x)


def net(block: Any, *shape: int) -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(8, 24), *(block(24) for _ in range(2)), nn.Linear(24, 5)), torch.randn(*shape, 8)


NETWORKS: dict[str, Any] = {
    "windows": lambda: net(Windows, 1, 4, 6),
    "checked": lambda: net(Checked, 1, 6),
    "masked": lambda: (Masked(), torch.randn(2, 6, 32)),
    "decoder": lambda: (Decoder(), torch.randn(2, 6, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("widths", [(), (0.5, 0.75)], ids=["inside", "outside"])
@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_heads_and_embedding_are_elastic_apart(name, widths):
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    randomize(model).eval()
    kinds = [type(module) for module in model.modules()]
    supernet = elastic_traced(model, example_input=x, widths=widths, multiple_of=1).eval()
    assert "heads" in supernet.roles.values() and not supernet.problems
    assert ("outer_width" in supernet.roles.values()) == (name in ("windows", "checked"))
    assert prove(supernet, model, x, n_archs=6).holds
    smallest = supernet.space.smallest
    subnet = supernet.extract(smallest).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, plain_attention():
        subnet(x)
    assert supernet.macs(supernet.space.encode([smallest])) == counter.get_total_flops() // 2
    assert kinds == [type(module) for module in model.modules()]
    made = [module for module in subnet.modules() if hasattr(module, "_loosened")]
    assert made and all(type(module).__bases__[0] in kinds for module in made)
    if not widths and name in ("windows", "decoder"):
        assert onnx_parity(export_onnx(subnet, tuple(x.shape)), subnet, tuple(x.shape)) <= 1e-4


def test_a_subnet_is_copied_and_becomes_a_supernet_again():
    torch.manual_seed(0)
    model, x = net(Windows, 1, 4, 6)
    supernet = elastic_traced(randomize(model).eval(), example_input=x, multiple_of=1).eval()
    subnet = supernet.extract(supernet.space.smallest).eval()
    file = io.BytesIO()
    torch.save(subnet, file)
    file.seek(0)
    with torch.no_grad():
        expected = subnet(x)
        assert torch.equal(copy.deepcopy(subnet)(x), expected)
        assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    again = elastic_traced(subnet, example_input=x, multiple_of=1).eval()
    assert [gene.choices for gene in again.space.genes if again.roles.get(gene.name) == "heads"] == [(1, 2)]
    assert prove(again, subnet, x).holds


def test_what_cannot_follow_says_why():
    torch.manual_seed(0)
    model, x = net(Scaled, 1, 6)
    supernet: Any = TracedSupernet(randomize(model), x, multiple_of=1)
    assert {supernet.graph.groups[index].heads for index in supernet.problems} == {True}
    assert "by (0.57" in next(iter(supernet.problems.values())) or "instead of (0.5,)" in str(supernet.problems)
    model, x = net(Closed, 1, 4, 6)
    assert "Closed.forward does not follow" in str(TracedSupernet(model, x, multiple_of=1).problems)


def test_a_loosened_class_takes_the_sizes_that_are_named():
    model, x = net(Checked, 1, 6)
    sizes = sizes_read(model, Checked, lambda: model(x))
    assert [type(module) for module in model] == [nn.Linear, Checked, Checked, nn.Linear]
    assert set(sizes) == {"1", "2"}
    name = sizes["1"][0]
    assert name.value == 24 and len(name.uses) == 4 and name.attribute == f"extents{name.uses[0]}"
    kind = loosened(Checked, frozenset((use, "all_heads") for use in name.uses))
    assert kind.__name__ == "Checked" and issubclass(kind, Checked)
    made: Any = kind(24)
    made.all_heads = 12
    with pytest.raises(ValueError, match="the heads do not fit"):
        made(torch.zeros(1, 6, 24))
    made.qkv, made.proj, made.heads = nn.Linear(24, 36), nn.Linear(12, 24), 2
    assert made(torch.zeros(1, 6, 24)).shape == (1, 6, 24)
