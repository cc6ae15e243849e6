"""Published once-for-all networks against an independent forward pass written down from their conventions."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from supernet import create_supernet, load_ofa_checkpoint, load_ofa_specialized
from supernet.networks.from_timm import elastic
from supernet.ofa.config import from_ofa

CLASSES = 10
NAMES = ("ofa_mobilenetv3_w1.0", "ofa_mobilenetv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50d")
RESNET_OUT, RESNET_BASE, WIDTHS = (256, 512, 1024, 2048), (2, 2, 4, 2), (0.65, 0.8, 1.0)


def divisible(value: float) -> int:
    n = max(8, int(value + 4) // 8 * 8)
    return n + 8 if n < 0.9 * value else n


# -- the published layout ----------------------------------------------------------------------------------------------


def layer(prefix: str, shape: tuple[int, ...], elastic: bool, norm: bool = True) -> dict[str, tuple[int, ...]]:
    again = {kind: f"{prefix}.{kind}.{kind}" if elastic else f"{prefix}.{kind}" for kind in ("conv", "bn")}
    shapes = {f"{again['conv']}.weight": shape}
    if norm:
        shapes |= {f"{again['bn']}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{again['bn']}.num_batches_tracked"] = ()
    return shapes


def inverted_widths(name: str) -> tuple[list[int], float]:
    proxyless = "proxyless" in name
    base = (32, 16, 24, 40, 80, 96, 192, 320, 1280) if proxyless else (16, 16, 24, 40, 80, 112, 160, 960, 1280)
    multiplier = float(name.rpartition("_w")[2])
    return [divisible(width * multiplier) for width in base], 1e-3 if proxyless else 1e-5


def inverted_layout(name: str) -> dict[str, tuple[int, ...]]:
    widths, _ = inverted_widths(name)
    proxyless = "proxyless" in name
    shapes = layer("first_conv", (widths[0], 3, 3, 3), False)
    shapes |= layer("blocks.0.conv.depth_conv", (widths[0], 1, 3, 3), False)
    shapes |= layer("blocks.0.conv.point_linear", (widths[1], widths[0], 1, 1), False)
    i, n_in = 1, widths[1]
    for s, n_out in enumerate(widths[2:8] if proxyless else widths[2:7]):
        for _ in range(1 if s == 5 else 4):
            p, mid = f"blocks.{i}.conv", divisible(round(n_in * 6))
            shapes |= layer(f"{p}.inverted_bottleneck", (mid, n_in, 1, 1), True)
            shapes |= layer(f"{p}.depth_conv", (mid, 1, 7, 7), True)
            shapes |= {f"{p}.depth_conv.conv.5to3_matrix": (9, 9), f"{p}.depth_conv.conv.7to5_matrix": (25, 25)}
            if not proxyless and s in (1, 3, 4):
                inner = divisible(mid // 4)
                shapes |= {
                    f"{p}.depth_conv.se.fc.reduce.weight": (inner, mid, 1, 1),
                    f"{p}.depth_conv.se.fc.reduce.bias": (inner,),
                    f"{p}.depth_conv.se.fc.expand.weight": (mid, inner, 1, 1),
                    f"{p}.depth_conv.se.fc.expand.bias": (mid,),
                }
            shapes |= layer(f"{p}.point_linear", (n_out, mid, 1, 1), True)
            i, n_in = i + 1, n_out
    if not proxyless:
        shapes |= layer("final_expand_layer", (widths[7], n_in, 1, 1), False)
        n_in = widths[7]
    shapes |= layer("feature_mix_layer", (widths[8], n_in, 1, 1), False, norm=proxyless)
    return shapes | {"classifier.linear.weight": (CLASSES, widths[8]), "classifier.linear.bias": (CLASSES,)}


def residual_layout() -> dict[str, tuple[int, ...]]:
    shapes = layer("input_stem.0", (32, 3, 3, 3), True) | layer("input_stem.1.conv", (32, 32, 3, 3), True)
    shapes |= layer("input_stem.2", (64, 32, 3, 3), True)
    i, n_in = 0, 64
    for n_out, base in zip(RESNET_OUT, RESNET_BASE, strict=True):
        for b in range(base + 2):
            mid = divisible(round(n_out * 0.35))
            shapes |= layer(f"blocks.{i}.conv1", (mid, n_in, 1, 1), True)
            shapes |= layer(f"blocks.{i}.conv2", (mid, mid, 3, 3), True)
            shapes |= layer(f"blocks.{i}.conv3", (n_out, mid, 1, 1), True)
            if b == 0:
                shapes |= layer(f"blocks.{i}.downsample", (n_out, n_in, 1, 1), True)
            i, n_in = i + 1, n_out
    return shapes | {
        "classifier.linear.linear.weight": (CLASSES, n_in),
        "classifier.linear.linear.bias": (CLASSES,),
    }


def published_state(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        if key.endswith("num_batches_tracked"):
            return torch.tensor(3)
        if key.endswith("running_var"):
            return torch.rand(shape, generator=generator) + 0.5
        noise = torch.randn(shape, generator=generator)
        if key.endswith("_matrix"):
            return torch.eye(shape[0]) + 0.1 * noise
        if len(shape) == 1:
            return 0.2 * noise + (1.0 if re.search(r"\.bn\.weight$", key) else 0.0)
        return noise * (1.5 / np.prod(shape[1:])) ** 0.5

    layout = residual_layout() if "resnet" in name else inverted_layout(name)
    return {key: tensor(key, shape) for key, shape in layout.items()}


# -- the published forward pass ----------------------------------------------------------------------------------------


def norm(x: torch.Tensor, state: dict[str, torch.Tensor], prefix: str, eps: float) -> torch.Tensor:
    prefix = f"{prefix}.bn.bn" if f"{prefix}.bn.bn.weight" in state else f"{prefix}.bn"
    weight, bias, mean, var = (
        state[f"{prefix}.{name}"][: x.shape[1]].view(-1, 1, 1)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def conv(x: torch.Tensor, state: Any, prefix: str, n_out: int, stride: int = 1) -> torch.Tensor:
    name = f"{prefix}.conv.conv.weight"
    weight = state[name if name in state else f"{prefix}.conv.weight"][:n_out, : x.shape[1]]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)


def kernel_of(state: Any, prefix: str, n: int, kernel: int) -> torch.Tensor:
    weight = state[f"{prefix}.depth_conv.conv.conv.weight"][:n]
    for size in (5, 3):
        if kernel <= size:
            flat = weight[:, :, 1:-1, 1:-1].reshape(n, size * size)
            weight = F.linear(flat, state[f"{prefix}.depth_conv.conv.{size + 2}to{size}_matrix"]).view(n, 1, size, size)
    return weight


def hard_swish(x: torch.Tensor) -> torch.Tensor:
    return x * F.relu6(x + 3) / 6


def inverted_forward(name: str, state: dict[str, torch.Tensor], config: Any, x: torch.Tensor) -> torch.Tensor:
    widths, eps = inverted_widths(name)
    proxyless = "proxyless" in name
    head = F.relu6 if proxyless else hard_swish
    acts = (F.relu6,) * 6 if proxyless else (F.relu, F.relu, hard_swish, hard_swish, hard_swish)
    x = head(norm(conv(x, state, "first_conv", widths[0], 2), state, "first_conv", eps))
    y = F.conv2d(x, state["blocks.0.conv.depth_conv.conv.weight"], padding=1, groups=x.shape[1])
    y = (F.relu6 if proxyless else F.relu)(norm(y, state, "blocks.0.conv.depth_conv", eps))
    y = norm(conv(y, state, "blocks.0.conv.point_linear", widths[1]), state, "blocks.0.conv.point_linear", eps)
    x = y if proxyless else x + y
    for s, n_out in enumerate(widths[2:8] if proxyless else widths[2:7]):
        for b in range(1 if s == 5 else config["d"][s]):
            i = 4 * s + b
            p, mid = f"blocks.{i + 1}.conv", divisible(round(x.shape[1] * config["e"][i]))
            y = acts[s](norm(conv(x, state, f"{p}.inverted_bottleneck", mid), state, f"{p}.inverted_bottleneck", eps))
            kernel, weight = config["ks"][i], kernel_of(state, p, mid, config["ks"][i])
            stride = (2, 2, 2, 1, 2, 1)[s] if b == 0 else 1
            y = F.conv2d(y, weight, stride=stride, padding=kernel // 2, groups=mid)
            y = acts[s](norm(y, state, f"{p}.depth_conv", eps))
            if not proxyless and s in (1, 3, 4):
                se, inner = f"{p}.depth_conv.se.fc", divisible(mid // 4)
                z = y.mean(3, keepdim=True).mean(2, keepdim=True)
                z = F.conv2d(z, state[f"{se}.reduce.weight"][:inner, :mid], state[f"{se}.reduce.bias"][:inner])
                z = F.conv2d(F.relu(z), state[f"{se}.expand.weight"][:mid, :inner], state[f"{se}.expand.bias"][:mid])
                y = y * F.relu6(z + 3) / 6
            y = norm(conv(y, state, f"{p}.point_linear", n_out), state, f"{p}.point_linear", eps)
            x = y if b == 0 else x + y
    if proxyless:
        x = head(norm(conv(x, state, "feature_mix_layer", widths[8]), state, "feature_mix_layer", eps))
        x = x.mean(3).mean(2)
    else:
        x = head(norm(conv(x, state, "final_expand_layer", widths[7]), state, "final_expand_layer", eps))
        x = x.mean(3, keepdim=True).mean(2, keepdim=True)
        x = hard_swish(conv(x, state, "feature_mix_layer", widths[8])).flatten(1)
    return F.linear(x, state["classifier.linear.weight"], state["classifier.linear.bias"])


def residual_forward(state: dict[str, torch.Tensor], config: Any, x: torch.Tensor) -> torch.Tensor:
    ratios = [WIDTHS[index] for index in config["w"]]
    mid, out = divisible(32 * ratios[0]), divisible(64 * ratios[1])

    def step(x: torch.Tensor, prefix: str, n_out: int, stride: int = 1) -> torch.Tensor:
        return norm(conv(x, state, prefix, n_out, stride), state, prefix, 1e-5)

    x = F.relu(step(x, "input_stem.0", mid, 2))
    if config["d"][0] == 2:
        x = x + F.relu(step(x, "input_stem.1.conv", mid))
    x = F.max_pool2d(F.relu(step(x, "input_stem.2", out)), 3, 2, 1)
    start = 0
    for s, base in enumerate(RESNET_BASE):
        n_out = divisible(RESNET_OUT[s] * ratios[2 + s])
        for b in range(base + config["d"][1 + s]):
            p, mid = f"blocks.{start + b}", divisible(round(n_out * config["e"][start + b]))
            stride = 2 if b == 0 and s > 0 else 1
            y = F.relu(step(x, f"{p}.conv1", mid))
            y = F.relu(step(y, f"{p}.conv2", mid, stride))
            y = step(y, f"{p}.conv3", n_out)
            if b == 0:
                x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
                x = step(x, f"{p}.downsample", n_out)
            x = F.relu(y + x)
        start += base + 2
    x = x.mean(3).mean(2)
    return F.linear(
        x, state["classifier.linear.linear.weight"][:, : x.shape[1]], state["classifier.linear.linear.bias"]
    )


def published_forward(name: str, state: dict[str, torch.Tensor], config: Any, x: torch.Tensor) -> torch.Tensor:
    return residual_forward(state, config, x) if "resnet" in name else inverted_forward(name, state, config, x)


def random_config(name: str, rng: np.random.Generator, resolution: int) -> dict[str, Any]:
    """What the published code samples, entries of absent blocks included."""
    if "resnet" in name:
        e = rng.choice([0.2, 0.25, 0.35], 18).tolist()
        return {"d": rng.integers(0, 3, 5).tolist(), "e": e, "w": rng.integers(0, 3, 6).tolist(), "r": resolution}
    n, stages = (21, [*rng.choice([2, 3, 4], 5).tolist(), 1]) if "proxyless" in name else (20, [])
    return {
        "wid": None,
        "ks": rng.choice([3, 5, 7], n).tolist(),
        "e": rng.choice([3, 4, 6], n).tolist(),
        "d": stages or rng.choice([2, 3, 4], 5).tolist(),
        "r": [resolution],
    }


# -- specialised networks ----------------------------------------------------------------------------------------------


def cut(state: Any, source: str, target: str, n_out: int, n_in: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A published layer without its elastic wrappers: its tensors under the prefix `target`, and its description."""
    static = {}
    for key, tensor in state.items():
        if key.startswith(f"{source}.") and not key.endswith("_matrix"):
            name = re.sub(r"\.(bn|conv|linear)\.\1\.", r".\1.", key.replace(source, target, 1))
            static[name] = (
                tensor[:n_out, :n_in] if tensor.ndim > 1 else tensor[:n_out] if tensor.ndim else tensor
            ).clone()
    size = static[f"{target}.conv.weight"].shape[-1]
    described = {"name": "ConvLayer", "kernel_size": size, "stride": 1, "dilation": 1, "groups": 1, "bias": False}
    return static, {**described, "in_channels": n_in, "out_channels": n_out, "use_bn": True, "act_func": "relu"}


def specialized_residual(state: Any, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    ratios = [WIDTHS[index] for index in config["w"]]
    mid, out = divisible(32 * ratios[0]), divisible(64 * ratios[1])
    static, first = cut(state, "input_stem.0", "input_stem.0", mid, 3)
    stem = [{**first, "stride": 2}]
    if config["d"][0] == 2:
        more, inner = cut(state, "input_stem.1.conv", "input_stem.1.conv", mid, mid)
        static |= more
        stem.append({"name": "ResidualBlock", "conv": inner, "shortcut": {"name": "IdentityLayer"}})
    more, last = cut(state, "input_stem.2", f"input_stem.{len(stem)}", out, mid)
    static |= more
    stem.append(last)
    blocks: list[dict[str, Any]] = []
    start, n_in = 0, out
    for s, base in enumerate(RESNET_BASE):
        n_out = divisible(RESNET_OUT[s] * ratios[2 + s])
        for b in range(base + config["d"][1 + s]):
            expand = config["e"][start + b]
            source, target, mid = f"blocks.{start + b}", f"blocks.{len(blocks)}", divisible(round(n_out * expand))
            for part, n, m in (("conv1", mid, n_in), ("conv2", mid, mid), ("conv3", n_out, mid)):
                static |= cut(state, f"{source}.{part}", f"{target}.{part}", n, m)[0]
            if b == 0:
                static |= cut(state, f"{source}.downsample", f"{target}.downsample", n_out, n_in)[0]
            block = {"name": "ResNetBottleneckBlock", "in_channels": n_in, "out_channels": n_out, "kernel_size": 3}
            block |= {"stride": 2 if b == 0 and s else 1, "expand_ratio": expand, "mid_channels": mid, "groups": 1}
            blocks.append({**block, "act_func": "relu", "downsample_mode": "avgpool_conv"})
            n_in = n_out
        start += base + 2
    classifier = {"name": "LinearLayer", "in_features": n_in, "out_features": CLASSES, "bias": True, "dropout_rate": 0}
    static["classifier.linear.weight"] = state["classifier.linear.linear.weight"][:, :n_in].clone()
    static["classifier.linear.bias"] = state["classifier.linear.linear.bias"]
    described = {"name": "ResNets", "bn": {"momentum": 0.1, "eps": 1e-5, "ws_eps": None}, "input_stem": stem}
    return {**described, "blocks": blocks, "classifier": classifier}, static


def specialized_inverted(name: str, state: Any, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    widths, eps = inverted_widths(name)
    proxyless = "proxyless" in name
    head = "relu6" if proxyless else "h_swish"
    acts = ("relu6",) * 6 if proxyless else ("relu", "relu", "h_swish", "h_swish", "h_swish")
    static, first = cut(state, "first_conv", "first_conv", widths[0], 3)
    static |= {key: tensor for key, tensor in state.items() if key.startswith("blocks.0.")}
    layers = {"name": "MBInvertedConvLayer", "in_channels": widths[0], "out_channels": widths[1], "kernel_size": 3}
    layers |= {"stride": 1, "expand_ratio": 1, "mid_channels": None, "act_func": acts[0], "use_se": False}
    identity = {"name": "IdentityLayer", "use_bn": False}
    blocks = [{"mobile_inverted_conv": layers, "shortcut": None if proxyless else identity}]
    n_in = widths[1]
    for s, n_out in enumerate(widths[2:8] if proxyless else widths[2:7]):
        for b in range(1 if s == 5 else config["d"][s]):
            i, target = 4 * s + b, f"blocks.{len(blocks)}.conv"
            kernel, expand, source = config["ks"][i], config["e"][i], f"blocks.{i + 1}.conv"
            mid, stride = divisible(round(n_in * expand)), (2, 2, 2, 1, 2, 1)[s] if b == 0 else 1
            static |= cut(state, f"{source}.inverted_bottleneck", f"{target}.inverted_bottleneck", mid, n_in)[0]
            static |= cut(state, f"{source}.depth_conv", f"{target}.depth_conv", mid, mid)[0]
            static[f"{target}.depth_conv.conv.weight"] = kernel_of(state, source, mid, kernel)
            if f"{target}.depth_conv.se.fc.reduce.weight" in static:
                inner, se = divisible(mid // 4), f"{target}.depth_conv.se.fc"
                for key in (f"{se}.reduce.weight", f"{se}.reduce.bias"):
                    static[key] = static[key][:inner]
                static[f"{se}.expand.weight"] = static[f"{se}.expand.weight"][:, :inner]
            static |= cut(state, f"{source}.point_linear", f"{target}.point_linear", n_out, mid)[0]
            layers = {"name": "MBInvertedConvLayer", "in_channels": n_in, "out_channels": n_out, "kernel_size": kernel}
            layers |= {"stride": stride, "expand_ratio": expand, "mid_channels": mid, "act_func": acts[s]}
            layers["use_se"] = not proxyless and s in (1, 3, 4)
            blocks.append({"mobile_inverted_conv": layers, "shortcut": identity if b else None})
            n_in = n_out
    described = {
        "name": name,
        "bn": {"momentum": 0.1, "eps": eps},
        "first_conv": {**first, "stride": 2, "act_func": head},
    }
    described["blocks"] = blocks
    if not proxyless:
        more, last = cut(state, "final_expand_layer", "final_expand_layer", widths[7], n_in)
        static, n_in = static | more, widths[7]
        described["final_expand_layer"] = {**last, "act_func": head}
    more, mix = cut(state, "feature_mix_layer", "feature_mix_layer", widths[8], n_in)
    static |= more | {key: state[key] for key in ("classifier.linear.weight", "classifier.linear.bias")}
    described["feature_mix_layer"] = {**mix, "act_func": head, "use_bn": proxyless}
    described["classifier"] = {"name": "LinearLayer", "in_features": widths[8], "out_features": CLASSES}
    return described, static


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Per name: a random state in the published layout, and a supernet that has read it from a file."""
    made = {}

    def make(name: str) -> Any:
        if name not in made:
            path = tmp_path_factory.mktemp("published") / "checkpoint.pth"
            state = published_state(name)
            torch.save(state, path)
            supernet = create_supernet(name, num_classes=CLASSES).eval()
            load_ofa_checkpoint(supernet, path)
            made[name] = state, supernet
        return made[name]

    return make


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_are_those_of_the_published_forward_pass(published, name):
    state, supernet = published(name)
    rng = np.random.default_rng(5)
    for i, resolution in enumerate((128, 132, 160, 132, 128, 132)):
        config = random_config(name, rng, resolution)
        arch = from_ofa(supernet.space, config)
        x = torch.randn(1 + i % 2, 3, resolution, resolution, generator=torch.Generator().manual_seed(i))
        expected = published_forward(name, state, config, x)
        tolerance = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(supernet(x, arch), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(supernet.extract(arch)(x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("ofa_mobilenetv3_w1.0", "nested"),
        ("ofa_mobilenetv3_w1.0", "older names"),
        ("ofa_mobilenetv3_w1.0", "static names"),
        ("ofa_mobilenetv3_w1.0", "data parallel"),
        ("ofa_resnet50d", "static names"),
    ],
)
def test_checkpoints_are_read_under_every_name(published, name, form, tmp_path):
    state, supernet = published(name)

    def renamed(key: str) -> str:
        if form == "older names":
            return re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", key)
        if form == "static names":
            key = key.replace(".bn.bn.", ".bn.").replace(".linear.linear.", ".linear.")
            return key.replace(".conv.conv.weight", ".conv.weight")
        return f"module.{key}" if form == "data parallel" else key

    other = {renamed(key): tensor for key, tensor in state.items()}
    torch.save({"state_dict": other, "epoch": 3}, tmp_path / "checkpoint.pth")
    fresh = create_supernet(name, num_classes=CLASSES, seed=3)
    load_ofa_checkpoint(fresh, tmp_path / "checkpoint.pth")
    for key, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, supernet.state_dict()[key]), key


def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(published, tmp_path):
    state, _ = published("ofa_mobilenetv3_w1.0")
    fresh = create_supernet("ofa_mobilenetv3_w1.0", num_classes=CLASSES, seed=3)
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    path = tmp_path / "checkpoint.pth"
    key = "blocks.3.conv.depth_conv.conv.conv.weight"
    for wrong, message in (
        ({**state, "blocks.3.conv.gate": torch.zeros(1)}, r"unknown: blocks\.3\.conv\.gate"),
        ({k: v for k, v in state.items() if k != key}, rf"missing: {re.escape(key)}"),
        ({**state, key: state[key][:8]}, rf"of another shape: {re.escape(key)} \(8, 1, 7, 7\) float32 instead of"),
        (
            {**state, "blocks.3.mobile_inverted_conv.depth_conv.conv.conv.weight": state[key]},
            "unknown: blocks.3.mobile",
        ),
        ({}, r"missing: first_conv.conv.weight.* and 467 more"),
        ([1, 2], "holds a list"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match=message):
            load_ofa_checkpoint(fresh, path)
        assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is not a checkpoint of tensors"):
        load_ofa_checkpoint(fresh, path)
    with pytest.raises(ValueError, match="is not a checkpoint of tensors"):
        load_ofa_checkpoint(fresh, tmp_path / "absent.pth")


def test_only_published_networks_have_published_checkpoints(small_supernet, tmp_path):
    torch.save(published_state("ofa_mobilenetv3_w1.0"), tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="does not fit this network; unknown: blocks"):
        load_ofa_checkpoint(small_supernet, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"fit the supernets named ofa_\.\.\.; this is a TracedSupernet"):
        load_ofa_checkpoint(elastic("resnet10t"), tmp_path / "checkpoint.pth")


@pytest.mark.parametrize("name", ["ofa_mobilenetv3_w1.2", "ofa_proxyless_w1.3", "ofa_resnet50d"])
@torch.no_grad()
def test_specialized_networks_load_into_plain_timm_networks(published, name, tmp_path):
    state, supernet = published(name)
    rng = np.random.default_rng(7)
    for i, resolution in enumerate((128, 132, 128)):
        config = random_config(name, rng, resolution)
        if "resnet" in name:
            config["d"][0] = i
        made = specialized_residual(state, config) if "resnet" in name else specialized_inverted(name, state, config)
        (tmp_path / "net.config").write_text(json.dumps(made[0]))
        torch.save({"state_dict": made[1]}, tmp_path / "init")
        network = load_ofa_specialized(tmp_path / "net.config", tmp_path / "init")
        assert type(network) is type(supernet.extract(supernet.space.smallest))
        x = torch.randn(1, 3, resolution, resolution, generator=torch.Generator().manual_seed(i))
        expected = published_forward(name, state, config, x)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_func": "gelu"}, "act_func 'gelu' of first_conv; possible are relu, relu6"),
        ({"stride": 4}, "stride 4 of first_conv; possible is 2"),
        ({"out_channels": 16}, "in_channels 24 of blocks.0; possible is 16"),
    ],
)
def test_descriptions_that_timm_cannot_build_are_refused(published, change, message, tmp_path):
    name = "ofa_mobilenetv3_w1.2"
    state, _ = published(name)
    described, _ = specialized_inverted(name, state, random_config(name, np.random.default_rng(0), 128))
    wrong = {**described, "first_conv": {**described["first_conv"], **change}}
    with pytest.raises(ValueError, match=message):
        load_ofa_specialized(wrong, tmp_path / "init")
    with pytest.raises(ValueError, match=r"not a published net\.config"):
        load_ofa_specialized({"name": "MobileNetV3"}, tmp_path / "init")
