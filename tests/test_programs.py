"""Programs: one text gives module and space; the page's space over operators, through recipe, training and search."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from experiments import pipeline
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from supernet.architecture import Architecture
from supernet.programs import ProgramSupernet, choice, layer, one_of, optional, repeat, residual, sequential
from supernet.testing import SupernetContract, randomize

PAGE = (Path(__file__).parents[1] / "docs" / "programs.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page defines."""
    known: dict[str, Any] = {"__name__": "page"}
    exec("\n".join(CODE), known)  # noqa: S102
    return known


class TestPage(SupernetContract):
    @pytest.fixture
    def supernet(self, page: dict[str, Any]) -> ProgramSupernet:
        torch.manual_seed(0)
        return randomize(page["create"]())

    def images(self, arch: Architecture) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(8, 1, arch.resolution, arch.resolution, generator=generator)


def test_the_space_is_that_of_the_program(page):
    space = page["supernet"].space
    block = 2 * 2 + 2 + 3
    assert space.size == 2 * 2 * 2 * (block + block**2 + block**3)
    assert space.settings == {"width": (16, 24)} and [stage.depths for stage in space.stages] == [(1,), (1, 2, 3)]
    assert page["supernet"].roles["present"] == "switch" and page["supernet"].roles["depthwise_kernel"] == "kernel"
    names = {name for block in page["arch"].stages[1] for name in block}
    assert names <= {"operator", "width", "depthwise_kernel", "depthwise_expand", "fused_expand", "attention_heads"}
    assert all("attention_heads" in one for one in page["arch"].stages[1] if one["operator"] == 2)
    assert isinstance(page["subnet"], nn.Sequential)


def test_kernels_are_cut_from_the_middle():
    conv = layer(nn.Conv2d, in_channels=1, out_channels=one_of(2, 4), kernel_size=one_of(1, 3))
    end = sequential(layer(nn.AdaptiveAvgPool2d, output_size=1), layer(nn.Flatten))
    net = ProgramSupernet(sequential(repeat(lambda _: conv, (1,)), end), (8,))
    small = net.extract(net.space.smallest)
    assert torch.equal(small[0][0].weight, net.parts[0].inner[0].largest.weight[:2, :, 1:2, 1:2])  # type: ignore


def test_choices_belong_where_they_are_used():
    inside, outside = one_of(8, 16), one_of(4, 8, name="outside")

    def block(_):
        return residual(layer(Bottleneck, width=6, middle=inside, heads=outside, own=one_of(1, 2)))

    net = ProgramSupernet(
        sequential(repeat(block, (1, 2)), layer(Bottleneck, width=6, middle=outside, heads=1, own=1)), (8,)
    )
    (stage,) = net.space.stages
    assert net.space.settings == {"outside": (4, 8)} and dict(stage.shared) == {"middle": (8, 16)}
    assert all(dict(block) == {"own": (1, 2)} for block in stage.blocks)
    deep = optional(sequential(choice(a=layer(nn.Identity), b=optional(layer(Bottleneck, width=6, middle=one_of(2, 3),
                                                                            heads=1, own=1), "more"))))  # fmt: skip
    (stage,) = ProgramSupernet(deep, (8,)).space.stages
    assert stage.when == {"operator": ("present", (1,)), "b_more": ("operator", (1,)), "b_middle": ("b_more", (1,))}
    assert stage.size == 1 + 1 + 1 + 2


class Bottleneck(nn.Module):
    """Ignores two of its arguments."""

    def __init__(self, width: int, middle: int, heads: int, own: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, middle, 1), nn.Conv2d(middle, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class Shrinking(nn.Module):
    def __init__(self, parts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(12 // parts))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layer(nn.Identity), "a program needs a repeat, a choice or an optional part"),
        (lambda: repeat(lambda _: sequential(repeat(lambda _: layer(nn.Identity), (1, 2))), (1,)), "inside of a block"),
        (lambda: residual(optional(layer(nn.Identity))), "write optional"),
        (lambda: choice(one=layer(nn.Identity)), "a choice of 1 options is none; give at least 2"),
        (lambda: repeat(lambda _: layer(nn.Identity), ()), "times .* must be numbers of blocks"),
        (lambda: layer(nn.Identity, a=one_of(3, 3)), "choices of one_of must ascend and not repeat; got 3, 3"),
        (lambda: repeat(lambda _: layer(Shrinking, parts=one_of(2, 3)), (1,)), "its weight has .6,., which is not"),
    ],
)  # fmt: skip
def test_what_makes_no_program_is_one_line(make, message):
    with pytest.raises(ValueError, match=message) as told:
        ProgramSupernet(make(), (8,))
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_space_over_operators_goes_the_whole_way(command, recipe_path, tmp_path, monkeypatch):
    (tmp_path / "operators.py").write_text("\n".join(CODE[:2]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = recipe_path.read_text()
    start, stop = text.index("[supernet.space]"), text.index("[training]")
    text = f'{text[:start]}[supernet]\nname = "operators:create"\n{text[stop : text.index("[baselines]")]}'
    text += "[engine]\nvalidate_every = 0\n"  # which counts what networks cost once more
    (tmp_path / "operators.toml").write_text(
        text.replace("640", "192").replace('[[devices]]\nname = "eight"\nbatch_size = 8\n', "").replace("= 12", "= 8")
    )
    run = tmp_path / "run"
    command("train", tmp_path / "operators.toml", "--out", run)
    folder, report = RunFolder(run), Reporter(Console(quiet=True))
    for step in (pipeline.profile, pipeline.score, pipeline.fit, pipeline.search):
        step(folder, report)  # on one run, since what a network costs is found by running many
    found = json.loads((run / "front.json").read_text())["goals"]["one"]
    blocks = [block for one in found["candidates"] for block in one["arch"]["stages"][1]]
    assert {block["operator"] for block in blocks} == {0, 1, 2} and len(found["candidates"]) >= 8
    assert all(("attention_heads" in block) == (block["operator"] == 2) for block in blocks)
    best = found["front"]["candidates"][0]["id"]
    command("export", run, "--arch", best, "--out", tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "card.json").read_text())["onnx_difference"] < 1e-4
