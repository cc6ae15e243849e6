"""A supernet of one's own, three members and no more, through the whole command line."""

import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from supernet import load_subnet
from supernet.networks.measured import MeasuredSupernet, measured_costs
from supernet.protocol import KnowsCosts
from supernet.registry import open_supernet

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "bring-your-own-supernet.md"
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)[:2])
OWN = '[supernet]\nname = "mixers:ElasticMixer"\n'


@pytest.fixture
def mixers(tmp_path, monkeypatch) -> Iterator[ModuleType]:
    """The module of docs/bring-your-own-supernet.md, in a folder where one works."""
    (tmp_path / "mixers.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mixers", raising=False)
    yield import_module("mixers")
    sys.modules.pop("mixers", None)


def own(recipe: str, supernet: str = OWN) -> str:
    start, stop = recipe.index("[supernet.space]"), recipe.index("[training]")
    text = recipe[:start] + supernet + recipe[stop:]
    text = text.replace('[[devices]]\nname = "eight"\nbatch_size = 8\n', "")  # its networks take seconds to export
    return text.replace('timm_models = ["lcnet_035"]', "timm_models = []")


def test_three_members_are_enough_for_the_whole_way(command, mixers, recipe_path, tmp_path):
    recipe, run = tmp_path / "mixer.toml", tmp_path / "run"
    recipe.write_text(own(recipe_path.read_text()))
    printed = command("run", recipe, "--out", run).stdout
    assert "epoch 1 (largest)" in printed and "validation largest" in printed and "smallest" in printed
    assert (run / "report.html").exists()
    assert "largest.head.weight" in load_file(run / "supernet.safetensors")  # the names of one's own
    (found,) = json.loads(command("query", run, "--device", "one", "--json").stdout)["found"]
    command("export", run, "--arch", found["id"], "--device", "one", "--out", tmp_path / "bundle")
    card = json.loads((tmp_path / "bundle" / "card.json").read_text())
    subnet = load_subnet(tmp_path / "bundle", mixers.ElasticMixer)
    assert type(subnet).__name__ == "Mixer" and not subnet.training
    assert card["parameters"] == sum(parameter.numel() for parameter in subnet.parameters())
    with pytest.raises(ValueError, match=r"mixers:ElasticMixer, which is not imported because a file says so"):
        load_subnet(tmp_path / "bundle")
    done = command("profile", run, "--blocks", check=2)
    assert "cannot be taken apart into blocks" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("supernet", "message"),
    [
        ('name = "mixer:ElasticMixer"', "mixer:ElasticMixer: cannot import mixer: ModuleNotFoundError"),
        ('name = "mixers:Mixr"', "mixers has no 'Mixr'; did you mean 'Mixer'?"),
        ('name = "mixers:Mixer"', "mixers:Mixer failed: TypeError: Mixer.__init__() missing 2 required"),
        ('name = "mixers:ElasticMixer"\noptions = { width = 3 }', "mixers:ElasticMixer has no option 'width'"),
        ('name = "mixers:nn.Identity"', "a Identity is no supernet: a supernet has `space`"),
        ('name = "mixers:"', "name 'mixers:' is not of the form 'package.module:factory'"),
        ('name = "elastik"', "no supernet is named 'elastik'; did you mean 'elastic'?"),
        ('name = "ofa_resnet50d"\noptions = { a = 1 }', "options are for a supernet of one's own"),
    ],
)
@pytest.mark.usefixtures("mixers")
def test_what_is_no_supernet_is_one_line(command, recipe_path, tmp_path, supernet, message):
    recipe = tmp_path / "wrong.toml"
    recipe.write_text(own(recipe_path.read_text(), f"[supernet]\n{supernet}\n"))
    done = command("train", recipe, "--out", tmp_path / "run", check=2)
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_other_classes_or_images_than_the_data_has_are_told_before_training(command, mixers, recipe_path, tmp_path):
    code = Path(mixers.__file__).read_text()
    for old, new, message in [
        ("nn.Linear(width, 10)", "nn.Linear(width, 5)", "returns [2, 5] for 2 images; the data has 10 classes"),
        ("nn.Conv2d(1, width", "nn.Conv2d(3, width", "mixers:ElasticMixer does not run on images [2, 1, 8, 8]"),
    ]:
        (tmp_path / "mixers.py").write_text(code.replace(old, new))
        recipe = tmp_path / "wrong.toml"
        recipe.write_text(own(recipe_path.read_text()))
        done = command("run", recipe, "--out", tmp_path / "run", check=2, apart=True)
        assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "run" / "checkpoints").exists()


def test_costs_are_those_of_what_is_extracted(mixers):
    net = open_supernet("mixers:ElasticMixer", num_classes=10, in_chans=1)
    assert isinstance(net, MeasuredSupernet) and isinstance(net, KnowsCosts)
    archs = net.space.sample(20, np.random.default_rng(1))
    genes = net.space.encode(archs)
    costs = net.costs(genes)
    assert len(costs.names) > 3  # a table, so that 100,000 are no problem
    for arch, macs, parameters in zip(archs, net.macs(genes), net.n_parameters(genes), strict=True):
        subnet = net.extract(arch)
        assert parameters == sum(p.numel() for p in subnet.parameters())
        width, hidden = int(arch.settings.width), [int(block.hidden) for block in arch.stages[0]]
        blocks = sum(16 * 16 * width + 2 * 16 * width * h for h in hidden)
        assert macs == 16 * 4 * width + blocks + 10 * width
    many = net.space.sample_genes(100_000, np.random.default_rng(0))
    assert net.macs(many).shape == (100_000,)


def test_costs_that_no_table_gives_are_measured_one_by_one(mixers):
    class Tied(mixers.ElasticMixer):
        """The middle of every block follows from all blocks together."""

        def _cut(self, arch):
            hidden = [int(block.hidden) for block in arch.stages[0]]
            mean = sum(hidden) // len(hidden)
            blocks = tuple(
                block.__class__(hidden=min(self.sizes, key=lambda s: abs(s - mean))) for block in arch.stages[0]
            )
            return super()._cut(arch.__class__(arch.resolution, (blocks,), arch.settings))

        sizes = (16, 32, 48, 64)

    net = Tied()
    costs = measured_costs(net, 1)
    archs = net.space.sample(10, np.random.default_rng(3))
    found = costs(net.space.encode(archs)).parameters.sum(axis=1)
    assert found.tolist() == [sum(p.numel() for p in net.extract(arch).parameters()) for arch in archs]


def test_the_factory_gets_what_it_asks_for(mixers):
    def factory(num_classes: int, depth: int = 1, **rest: Any) -> torch.nn.Module:
        asked.append((num_classes, depth, rest))
        return mixers.ElasticMixer()

    asked: list[Any] = []
    mixers.factory = factory
    net = open_supernet("mixers:factory", num_classes=10, in_chans=1, seed=3, depth=2, kind="a")
    assert asked == [(10, 2, {"in_chans": 1, "kind": "a"})]
    assert net.definition == {"name": "mixers:factory", "num_classes": 10, "in_chans": 1, "depth": 2, "kind": "a"}
    again = open_supernet("mixers:factory", num_classes=10, in_chans=1, seed=3)
    for one, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)  # the seed decides


def test_a_supernet_with_roles_can_shrink(command, mixers, recipe_path, tmp_path):
    code = Path(mixers.__file__).read_text()
    schedule = "{ epochs = 1, peak_lr = 0.05 }"
    names = ("largest", "step", "last_step")
    shrinking = "\n".join(['method = "progressive_shrinking"', *(f"{name} = {schedule}" for name in names)])
    recipe = tmp_path / "shrinking.toml"
    text = own(recipe_path.read_text()).replace("640", "128")
    start, stop = text.index("[training]"), text.index("[[devices]]")
    recipe.write_text(f"{text[:start]}[training]\n{shrinking}\n{text[stop:]}")
    done = command("train", recipe, "--out", tmp_path / "run", check=2)
    assert "hidden would never shrink: it has no role among" in done.stderr and done.stderr.count("\n") == 1
    roles = '    roles = {"hidden": "middle_width"}\n    def sort_channels(self, within=None): pass\n'
    (tmp_path / "mixers.py").write_text(code.replace("    space = SearchSpace(", f"{roles}    space = SearchSpace("))
    command("train", recipe, "--out", tmp_path / "run")
    lines = (tmp_path / "run" / "checkpoints" / "epochs.jsonl").read_text().splitlines()
    phases = ["largest", "depth 1", "depth 2", "hidden 1", "hidden 2", "hidden 3", "width 1"]
    assert [json.loads(line)["phase"] for line in lines] == phases


def test_an_installed_package_brings_a_supernet(mixers, tmp_path):
    info = tmp_path / "mixers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mixers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[supernet.supernets]\nmixer = mixers:ElasticMixer\n")
    assert isinstance(open_supernet("mixer", 10, 1), MeasuredSupernet)
    from experiments.settings.supernet import SupernetSettings

    assert SupernetSettings(name="mixer", options={"a": 1}).is_own
