"""Stitched networks: the anchors are what they were, stitches fit by least squares, and a sub-network is ordinary."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import experiments
from experiments.settings.recipe import load_recipe
from experiments.training.phases import training_phases
from hardware.onnx.export import export_onnx, onnx_parity
from supernet.architecture import Architecture
from supernet.registry import open_supernet
from supernet.stitching import Route, StitchedSupernet, stitched
from supernet.stitching.anchors import places
from supernet.subnet import load_subnet, save_subnet
from supernet.testing import SupernetContract, randomize
from supernet.training import Schedule, Trainer, random_sampling

RECIPE = Path(experiments.__file__).parent / "recipes" / "digits_stitched.toml"


def _resnet(layers: list[int], channels: list[int]) -> nn.Module:
    return timm.create_model("test_resnet", num_classes=10, layers=layers, channels=channels, stem_width=8)


def _vit(width: int, depth: int, **more: Any) -> nn.Module:
    given = {"img_size": 32, "patch_size": 8, "embed_dim": width, "depth": depth, "num_heads": 2, **more}
    return timm.create_model("test_vit", num_classes=10, **given)


def _models(kind: str) -> list[nn.Module]:
    torch.manual_seed(0)
    if kind == "resnet":
        made = [_resnet([1, 1, 1, 1], [8, 8, 12, 16]), _resnet([1, 2, 2, 1], [8, 12, 16, 24])]
    else:
        made = [_vit(16, 3), _vit(24, 3), _vit(32, 4)]
    return [randomize(model) for model in made]


@pytest.fixture(params=["resnet", "vit"])
def models(request: pytest.FixtureRequest) -> list[nn.Module]:
    return _models(request.param)


@pytest.fixture
def supernet(models: list[nn.Module]) -> StitchedSupernet:
    torch.manual_seed(1)
    return StitchedSupernet(models, resolutions=(32,), overlap=1).eval()


def _images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


class TestResNets(SupernetContract):
    n_archs = 3

    @pytest.fixture
    def supernet(self) -> StitchedSupernet:
        torch.manual_seed(1)
        return StitchedSupernet(_models("resnet"), resolutions=(32,)).eval()

    @pytest.fixture
    def original(self) -> nn.Module:
        return _models("resnet")[-1]


class TestTransformers(SupernetContract):
    n_archs = 3

    @pytest.fixture
    def supernet(self) -> StitchedSupernet:
        torch.manual_seed(1)
        return StitchedSupernet(_models("vit")).eval()  # the resolution is that of the models

    @pytest.fixture
    def original(self) -> nn.Module:
        return _models("vit")[-1]


def test_every_anchor_is_what_it_was(models: list[nn.Module], supernet: StitchedSupernet) -> None:
    alone = [arch for arch in supernet.space if supernet.route(arch).skipped is None]
    assert alone[0] == supernet.space.smallest and alone[-1] == supernet.space.largest
    with torch.no_grad():
        for model, arch in zip(models, alone, strict=True):
            expected, n_weights = model(_images()), sum(p.numel() for p in model.parameters())
            torch.testing.assert_close(supernet(_images(), arch), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(supernet.extract(arch)(_images()), expected, rtol=0, atol=1e-5)
            assert sum(p.numel() for p in supernet.extract(arch).parameters()) == n_weights


def test_a_stitch_leads_from_the_first_to_the_second() -> None:
    first, second = (model.eval() for model in _models("vit")[:2])
    net = StitchedSupernet([first, second]).eval()
    arch = next(arch for arch in net.space if net.route(arch) == Route(0, 2, 2))
    with torch.no_grad():
        x = first.blocks[:2](first.norm_pre(first._pos_embed(first.patch_embed(_images()))))  # type: ignore[operator,index]
        x = second.norm(second.blocks[2](net.stitches["1_after_2"](x)))  # type: ignore[operator,index]
        torch.testing.assert_close(net(_images(), arch), second.forward_head(x))  # type: ignore[operator]


def test_the_space_of_three_transformers_of_twelve_blocks_is_the_published_one() -> None:
    """71 configurations of DeiT-Ti, -S and -B, the three themselves among them (Pan et al. 2023)."""
    with torch.device("meta"):
        models = [_vit(width, 12) for width in (8, 12, 16)]
    assert StitchedSupernet(models, overlap=2).space.size == 71
    assert StitchedSupernet(models).space.size == 3 + 2 * 11


def test_stages_correspond_and_blocks_by_their_share() -> None:
    maps = [torch.Size((1, 8, side, side)) for side in (16, 16, 16, 8, 8)]
    more = [torch.Size((1, 9, side, side)) for side in (16, 16, 16, 16, 16, 8, 8, 8)]
    assert places(((2, 2), (4, 3)), (maps, more), 0) == {1: [2], 2: [4], 3: [6]}
    assert places(((2, 2), (4, 3)), (maps, more), 2) == {1: [2, 1, 0], 2: [4, 3, 2], 3: [6, 5], 4: [6, 5]}


def test_least_squares_leave_less_than_what_is_random(supernet: StitchedSupernet) -> None:
    def error(images: Tensor) -> dict[str, float]:
        found = [anchor.activations(images) for anchor in supernet._anchors]
        return {
            name: float((supernet.stitches[name](found[k][n]) - torch.stack([found[k + 1][q] for q in goals]).mean(0))
                        .square().mean())
            for name, (k, n, goals) in supernet._goals.items()
        }  # fmt: skip

    with torch.no_grad():
        before = error(_images(32, seed=1))
        anchors = [p.clone() for p in supernet.anchors.parameters()]
        told = supernet.initialise(_images(256).split(100))
        after = error(_images(32, seed=1))  # other images than those it was fitted to
    assert all(torch.equal(p, q) for p, q in zip(supernet.anchors.parameters(), anchors, strict=True))
    assert before.keys() == after.keys() == told.keys() == set(supernet.stitches)
    # Untrained transformers have little in common; in the residual ones, which rectify, at least the means are found.
    share = 0.5 if supernet.stitches["1_after_1"].weight.dim() == 4 else 0.8  # type: ignore[operator]
    assert all(after[name] < share * before[name] for name in before)
    assert all(0 <= left <= 1 for left in told.values())


def test_a_stitch_is_the_pseudo_inverse_of_the_activations() -> None:
    first, second = (model.double() for model in _models("vit")[:2])
    supernet = StitchedSupernet([first, second]).double()
    images = _images(20).double()
    supernet.initialise(images.split(8))
    with torch.no_grad():
        before, after = (anchor.activations(images)[2].flatten(0, 1) for anchor in supernet._anchors)
    with_one = torch.cat([before, before.new_ones(len(before), 1)], dim=1)
    expected = torch.linalg.pinv(with_one) @ after
    stitch = supernet.stitches["1_after_2"]
    assert isinstance(stitch, nn.Linear)
    torch.testing.assert_close(torch.cat([stitch.weight.T, stitch.bias[None]]), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_map_that_is_linear_is_found_exactly(kind: str) -> None:
    model = _models(kind)[0]
    supernet = StitchedSupernet([model, model], resolutions=(32,)).eval()  # what fits is the identity
    told = supernet.initialise([_images(64)])
    assert max(told.values()) < 1e-6
    with torch.no_grad():
        expected = model(_images(seed=2))
        for arch in supernet.space:
            torch.testing.assert_close(supernet(_images(seed=2), arch), expected, rtol=0, atol=1e-3)


class _Blobs:
    """Two classes that differ in brightness."""

    digest, steps_per_epoch, resolution, n_classes = "blobs", 12, 32, 10

    def train_batches(self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1):
        for step in range(skip, self.steps_per_epoch):
            labels = torch.arange(16) % 2
            yield _images(16, seed=epoch * 100 + step) + 2 * labels.view(-1, 1, 1, 1), labels


def test_random_stitches_train_all_of_it(supernet: StitchedSupernet) -> None:
    images, labels = next(_Blobs().train_batches(9))

    def losses() -> list[float]:
        with torch.no_grad():
            return [float(nn.functional.cross_entropy(supernet(images, arch), labels)) for arch in supernet.space]

    before = losses()
    stitches = [p.clone() for p in supernet.stitches.parameters()]
    Trainer(supernet, random_sampling(supernet.space, Schedule(2, 0.02)), _Blobs(), seed=0).run()
    supernet.eval()
    after = losses()
    assert sum(after) < 0.7 * sum(before)
    moved = [not torch.equal(p, old) for p, old in zip(supernet.stitches.parameters(), stitches, strict=True)]
    assert sum(moved) > len(moved) / 2


def test_a_sub_network_becomes_an_onnx_file(supernet: StitchedSupernet) -> None:
    arch = list(supernet.space)[1]
    assert supernet.route(arch).skipped is not None
    subnet = supernet.extract(arch)
    assert isinstance(subnet, nn.Sequential)
    assert onnx_parity(export_onnx(subnet, (2, 3, 32, 32)), subnet, (2, 3, 32, 32)) < 1e-5


def test_a_recipe_names_it_and_a_bundle_is_read_again(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    net = open_supernet(recipe.supernet.name, 10, 1, **recipe.supernet.settings).eval()
    phases = training_phases(recipe, net)
    assert net.space.size == 9 and phases[-1].space == net.space
    assert (macs := net.macs(net.space.encode(list(net.space)))).tolist() == sorted(macs.tolist())
    arch: Architecture = list(net.space)[3]
    subnet, x = net.extract(arch), _images()[:, :1]
    assert net.n_parameters(net.space.encode([arch])) == sum(p.numel() for p in subnet.parameters())
    assert net.definition is not None and net.definition["name"] == "stitched"
    save_subnet(subnet, arch, net.definition, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_subnet(tmp_path)(x), subnet(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["resnet18"]}, "1 network cannot be stitched; give at least 2"),
        ({"models": "resnet18"}, "give a list of at least 2"),
        ({"models": ["test_resnet", "test_vit"]}, "must be alike in kind; these have ResNet, VisionTransformer"),
        ({"models": ["test_convnext"] * 2}, "a ConvNeXt cannot be stitched; a ResNet or a VisionTransformer"),
        ({"models": ["test_resnet"] * 2, "overlap": -1}, "overlap -1 is no number of blocks"),
        ({"models": ["test_vit"] * 2, "resolutions": [40]}, "takes no images of 40 pixels"),
        ({"models": ["test_vit"] * 2, "model_args": [{"patch_size": 16}, {"patch_size": 32}]}, "nowhere maps"),
        ({"models": ["test_vit"] * 2, "model_args": [{}]}, "model_args of 1 networks for 2 models"),
        ({"models": ["test_rsnet"] * 2}, "did you mean 'test_resnet'"),
    ],
)  # fmt: skip
def test_what_cannot_be_stitched_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        stitched(**options)
    assert "\n" not in str(told.value)


def test_stitches_need_images(supernet: StitchedSupernet) -> None:
    with pytest.raises(ValueError, match="give at least one batch"):
        supernet.initialise([])
