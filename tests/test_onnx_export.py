"""The ONNX file computes what the torch module computes, and is made in milliseconds."""

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from hardware import OnnxRuntimeProfiler, ParityError, Workload, export_onnx, onnx_parity
from hardware.onnx.export import export_onnx_of_any_size
from hardware.onnx.external import TooLargeError, data_file, file_bytes, packed
from hardware.onnx.finishing import BATCH, free_batch, with_metadata
from hardware.onnx.graph import oldest_runtime
from hardware.onnx.recorder import UnsupportedError, record

FAST = [
    "mobilenetv3_small_050",
    "lcnet_050",
    "mobilenetv2_035",
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "resnet10t",
    "resnet18",
    "test_efficientnet",
]


def lively(module: nn.Module) -> nn.Module:
    """Statistics and weights that no test can hide behind."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 2, generator=generator)
                nn.init.normal_(part.bias, 0, 0.1, generator=generator)
    return module


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FAST)
def test_stock_networks_are_exported_the_fast_way(name, channels):
    torch.manual_seed(0)  # float32 itself leaves up to 1e-4 for some weights
    module = lively(timm.create_model(name, num_classes=10, in_chans=channels))
    shape = (2, channels, 64, 64)
    module.eval()
    model = packed(record(module, shape))
    assert onnx_parity(model, module, shape) <= 1e-4
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def test_subnets_are_exported_the_fast_way(small_supernet):
    for arch in small_supernet.space.sample(5, np.random.default_rng(0)):
        shape = (1, 1, arch.resolution, arch.resolution)
        subnet = small_supernet.extract(arch)
        assert onnx_parity(packed(record(subnet.eval(), shape)), subnet, shape) <= 1e-4


TRANSFORMERS = {
    "test_vit": {"img_size": 64},
    "test_vit3": {"img_size": 64},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 1},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 1},
    "vit_base_patch16_clip_quickgelu_224": {"img_size": 64, "depth": 1, "embed_dim": 96, "num_heads": 2},
    "convnext_atto": {"depths": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_exported_the_fast_way(name):
    torch.manual_seed(0)
    shape = (2, 3, TRANSFORMERS[name].get("img_size", 64), TRANSFORMERS[name].get("img_size", 64))
    module = timm.create_model(name, num_classes=10, **TRANSFORMERS[name]).eval()
    model = packed(record(module, shape))
    assert onnx_parity(model, module, shape) <= 1e-4
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def test_another_network_takes_the_slow_way_and_is_as_exact(capfd):
    module = timm.create_model("test_vit4", num_classes=10, img_size=64, depth=1).eval()  # RMSNorm
    shape = (1, 3, 64, 64)
    with pytest.raises(UnsupportedError):
        packed(record(module, shape))
    model = export_onnx(module, shape)
    assert onnx_parity(model, module, shape) <= 1e-4
    assert capfd.readouterr() == ("", "")


def test_batch_norm_is_gone_and_names_are_fixed():
    graph = onnx.load_from_string(export_onnx(timm.create_model("resnet10t"), (4, 3, 64, 64))).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [value.name for value in (*graph.input, *graph.output)] == ["images", "logits"]
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == [4, 3, 64, 64]


def test_the_module_stays_as_it_was():
    module = lively(timm.create_model("mobilenetv3_small_050", num_classes=10))
    module.train()
    module.get_submodule("conv_stem").eval()
    flags = [part.training for part in module.modules()]
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_onnx(module, (1, 3, 64, 64))
    assert [part.training for part in module.modules()] == flags
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])


class Branches(nn.Module):
    """A convolution read twice, in-place operations, numbers, padding, pooling, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.free_norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.free_norm(x))
        z = self.norm(y)
        z += 1 - y / 2
        shortcut = z
        nn.functional.relu(z, inplace=True)
        z = nn.functional.pad(0.5 * z + shortcut, (1, 2, 0, 1), value=-1.0)
        pooled = nn.functional.max_pool2d(z, 3, 2, 1, ceil_mode=True), nn.functional.avg_pool2d(z, 3, 2, 1, True, False)
        y = torch.cat([p.mean((2, 3)) for p in pooled] + [z.amax((-1, -2))], 1)
        return torch.tanh(y - self.conv.weight.mean()) * nn.functional.silu(y) + nn.functional.gelu(y)


def test_odd_graphs_are_exact():
    module = lively(Branches()).eval()
    shape = (2, 3, 17, 13)
    assert onnx_parity(packed(record(module, shape)), module, shape) <= 1e-5


class Tokens(nn.Module):
    """Indices, parts, permutations and products of sequences, with constants among them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.mix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).permute((0, 2, 1))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        first, *others = x.unbind(1)
        a, b, c = x[:, 1:].chunk(3, dim=-1)
        y = torch.softmax(a @ b.transpose(-2, -1), dim=-1) @ (c @ self.mix)
        d, e = y[..., :3].split([1, 2], dim=2)
        z = nn.functional.layer_norm(x[:, -1], (12,)) + first * others[0]
        mask = torch.full((len(others), len(others)), -1e9).triu(1)
        attended = nn.functional.scaled_dot_product_attention(a, b, c, attn_mask=mask)
        scaled = nn.functional.scaled_dot_product_attention(a, b, c, scale=0.3).contiguous()
        pooled = d.squeeze(2).mean(1, keepdim=True).unsqueeze(1).expand(-1, 2, 3)
        return torch.cat([z, e.mean(1), attended.amax(1), scaled[:, 0, 1:3], pooled[:, 1]], dim=1)


def test_sequences_are_exact():
    torch.manual_seed(0)
    module, shape = Tokens().eval(), (2, 3, 12, 8)
    assert onnx_parity(packed(record(module, shape)), module, shape) <= 1e-5


class Switch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * (2 if x.sum().item() > 0 else 3)


def test_a_branch_on_data_is_never_recorded():
    with pytest.raises(UnsupportedError):
        record(Switch(), (1, 3, 8, 8))


def test_parity_refuses_another_network():
    first, second = (timm.create_model("resnet10t", num_classes=n) for n in (10, 11))
    shape = (1, 3, 64, 64)
    with pytest.raises(ParityError, match="shape"):
        onnx_parity(export_onnx(first, shape), second, shape)
    with pytest.raises(ParityError, match="differ"):
        onnx_parity(export_onnx(first, shape), timm.create_model("resnet10t", num_classes=10), shape)


@pytest.mark.parametrize(
    ("layers", "opset", "runtime"),
    [
        ([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()], 13, "1.7"),
        ([nn.Conv2d(3, 4, 3), nn.Hardswish()], 14, "1.8"),
        ([nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 4)], 17, "1.12"),
        ([nn.Flatten(2), nn.LayerNorm(64), nn.GELU()], 20, "1.17"),
        ([nn.MaxPool2d(3, 2, ceil_mode=True)], 19, "1.15"),
    ],
)
def test_a_file_is_as_old_as_its_operators_allow(layers, opset, runtime):
    module = nn.Sequential(*layers).eval()
    model = export_onnx(module, (2, 3, 8, 8))
    proto = onnx.load_from_string(model)
    assert proto.opset_import[0].version == opset and oldest_runtime(proto) == runtime
    assert proto.ir_version <= {13: 7, 14: 7, 17: 8, 19: 9, 20: 9}[opset]
    onnx.checker.check_model(proto, full_check=True)
    onnx_parity(model, module, (2, 3, 8, 8))


@pytest.mark.parametrize("recorded", [True, False])
def test_weights_above_a_limit_lie_beside_the_file_and_move_with_it(tmp_path, recorded):
    activation = nn.ReLU() if recorded else nn.CELU(0.7)  # for which torch's exporter is needed
    module = nn.Sequential(nn.Conv2d(3, 16, 3), activation, nn.Flatten(), nn.Linear(16 * 6 * 6, 10))
    shape = (BATCH, 3, 8, 8)
    (tmp_path / "made").mkdir()
    path = tmp_path / "made" / "model.onnx"
    assert isinstance(export_onnx_of_any_size(module.eval(), shape, path), bytes) and not path.exists()
    for _ in range(2):  # the second time nothing of the first is left
        assert export_onnx_of_any_size(module, shape, path, at_most=1000) == path
    whole = export_onnx(module, shape)
    assert path.stat().st_size < len(whole) / 2 and len(whole) < file_bytes(path) < 1.1 * len(whole)
    assert onnx_parity(path, module, shape) == onnx_parity(whole, module, shape)
    assert free_batch(with_metadata(path, {"id": "1"}), shape) == path  # which runs it with another batch
    moved = tmp_path / "elsewhere"
    (tmp_path / "made").rename(moved)
    onnx_parity(moved / "model.onnx", module, (3, 3, 8, 8))
    onnx.checker.check_model(moved / "model.onnx", full_check=True)
    assert [prop.value for prop in onnx.load(moved / "model.onnx").metadata_props] == ["1"]
    profiler = OnnxRuntimeProfiler("cpu", batch_size=BATCH)
    workload = Workload("n", moved / "model.onnx", 8)
    assert profiler.prepare(workload).extras["file_bytes"] == file_bytes(moved / "model.onnx")
    data_file(moved / "model.onnx").unlink()
    with pytest.raises(ValueError, match=r"cannot load 'n': .*model\.onnx\.data"):
        profiler.prepare(workload)


def test_weights_that_one_file_cannot_hold_are_refused_where_there_is_no_folder():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 10, bias=False)).eval()
    with pytest.raises(
        TooLargeError, match=r"weights of 7.7e-06 GB do not fit into one ONNX file, which holds 7e-06 GB"
    ):
        packed(record(module, (1, 3, 8, 8)), at_most=7000)
