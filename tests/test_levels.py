"""Levels: several networks with one file of weights give what each gives alone, and are switched while they run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from time import perf_counter
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from torch import nn

from hardware.onnx.export import export_with_factors
from hardware.onnx.sharing import SharedWeights
from supernet import elastic
from supernet.scoring.images import resize
from supernet.space.nested import NestedFamily, best_chain

SCRIPT = Path(__file__).parents[1] / "experiments" / "run_levels.py"
WEIGHTS = "weights.bin"


def write(folder: Path, modules: Sequence[nn.Module], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Levels of modules from the smallest to the largest in a folder, and each alone; their sizes alone."""
    folder.mkdir()
    shared, rows, sizes = SharedWeights(WEIGHTS), [], []
    for number in reversed(range(len(modules))):
        model, factors = export_with_factors(modules[number], shapes[number])
        (folder / f"{number}.onnx").write_bytes(shared.add(model, factors))
        (folder / f"alone-{number}.onnx").write_bytes(model)
        rows.append({"file": f"{number}.onnx", "latency": {"seconds": 1e-3 * (number + 1)}})
        sizes.append(len(model))
    shared.write(folder)
    side = max(shape[-1] for shape in shapes)
    told = {"levels": rows[::-1], "input": {"side": side}, "device": {"threads": 1}, "cascade": {"threshold": 0.5}}
    (folder / "levels.json").write_text(json.dumps(told))
    shutil.copyfile(SCRIPT, folder / "levels.py")
    return sizes[::-1]


def dispatcher(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("levels_of_test", folder / "levels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alone(folder: Path, number: int, images: np.ndarray, lean: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if lean:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    file = str(folder / f"alone-{number}.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


@pytest.fixture
def mobile(small_supernet, tmp_path):
    """Three levels of a convolutional supernet, with BatchNorm statistics of their own; kernels are transformed."""
    levels = NestedFamily.between(small_supernet.space, 3).levels
    modules = [small_supernet.extract(arch).eval() for arch in levels]
    generator = torch.Generator().manual_seed(3)
    for module in modules:
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
    shapes = [(1, 1, arch.resolution, arch.resolution) for arch in levels]
    sizes = write(tmp_path / "mobile", modules, shapes)
    return tmp_path / "mobile", shapes, sizes


@pytest.mark.parametrize("lean", [False, True])
def test_levels_say_bit_for_bit_what_each_says_alone(mobile, lean):
    folder, shapes, sizes = mobile
    levels = dispatcher(folder).Levels(folder, lean=lean)
    for number, shape in enumerate(shapes):
        images = np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
        found = levels.sessions[number].run(None, {"images": images})[0]
        assert np.array_equal(found, alone(folder, number, images, lean))
    # Kernels of 3 and 5 are made out of larger ones and so are no slices: nothing else is stored twice.
    assert (folder / WEIGHTS).stat().st_size < 1.1 * sizes[-1] < 0.8 * sum(sizes)


def test_sections_and_depth_of_a_transformer_are_slices(tmp_path):
    model = timm.create_model("test_vit", num_classes=5, img_size=32, patch_size=8)
    supernet = elastic(model, depths=[5, 6], heads=[1, 2], mlp_ratios=[1, 2, 3])
    archs = NestedFamily.between(supernet.space, 3).levels
    shapes = [(2, 3, 32, 32)] * 3
    sizes = write(tmp_path / "vit", [supernet.extract(arch).eval() for arch in archs], shapes)
    assert (tmp_path / "vit" / WEIGHTS).stat().st_size < sizes[-1]  # of the largest alone, with its vectors
    images = np.random.default_rng(0).standard_normal(shapes[0], dtype=np.float32)
    levels = dispatcher(tmp_path / "vit").Levels(tmp_path / "vit")
    for number in range(3):
        assert np.array_equal(levels(images, level=number)[0], alone(tmp_path / "vit", number, images))


def test_what_is_no_slice_is_stored_as_it_is(tmp_path):
    modules = [nn.Sequential(nn.Flatten(), nn.Linear(16, width)).eval() for width in (4, 8)]
    sizes = write(tmp_path / "other", modules, [(1, 1, 4, 4)] * 2)
    assert (tmp_path / "other" / WEIGHTS).stat().st_size == 4 * 16 * (4 + 8)
    images = np.random.default_rng(0).standard_normal((1, 1, 4, 4), dtype=np.float32)
    levels = dispatcher(tmp_path / "other").Levels(tmp_path / "other")
    assert np.array_equal(levels(images, level=0)[0], alone(tmp_path / "other", 0, images)) and len(sizes) == 2


def test_the_level_follows_the_budget_and_the_speed_of_the_machine(mobile):
    levels = dispatcher(mobile[0]).Levels(mobile[0])
    assert [levels.choose(budget) for budget in (None, 5e-3, 2.5e-3, 1e-3, 1e-5)] == [2, 2, 1, 0, 0]
    levels.recent = [2.0] * 20  # everything takes twice as long
    assert [levels.choose(budget) for budget in (None, 5e-3, 2.5e-3)] == [2, 1, 0]
    images = np.zeros((1, 1, 32, 32), np.float32)
    for _ in range(20):  # levels.json has milliseconds, and these take microseconds
        levels(images, level=0)
    assert levels.choose(1e-3) == 2


def test_a_level_of_a_lower_resolution_gets_what_it_was_scored_on(mobile):
    folder, shapes, _ = mobile
    module = dispatcher(folder)
    images = np.random.default_rng(0).standard_normal((1, 1, 32, 32), dtype=np.float32)
    assert shapes[0][-1] < 32
    expected = alone(folder, 0, resize(torch.from_numpy(images), shapes[0][-1]).numpy())
    found, level = module.Levels(folder)(images, budget=1e-9)
    assert level == 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_switching_costs_less_than_a_millisecond(mobile):
    folder, _, _ = mobile
    levels = dispatcher(folder).Levels(folder)
    images = np.zeros((1, 1, 32, 32), np.float32)

    def seconds(order: Sequence[int]) -> float:
        started = perf_counter()
        for number in order:
            levels(images, level=number)
        return perf_counter() - started

    switched = min(seconds([0, 1, 2] * 20) for _ in range(5))
    stayed = sum(min(seconds([number] * 20) for _ in range(5)) for number in (0, 1, 2))
    assert (switched - stayed) / 60 < 1e-3


_GROWTH = """
import sys
sys.path.insert(0, ".")
import levels
def own():
    rows = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return int(rows["Anonymous:"]) * 1024
levels.Levels(lean=True)  # what a first session costs
before = own()
kept = levels.Levels(lean=sys.argv[1] == "lean")
print(own() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say")
def test_lean_levels_keep_no_weights_of_their_own(tmp_path):
    width, narrow, n_layers = 600, 500, 12
    weights, modules = torch.randn(n_layers, width, width), []
    for n in (narrow, width):
        layers = [nn.Linear(n, n, bias=False) for _ in range(n_layers)]
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight = nn.Parameter(weight[:n, :n].contiguous())
        modules.append(nn.Sequential(nn.Conv2d(1, n, 4), nn.Flatten(), *layers).eval())
    write(tmp_path / "big", modules, [(1, 1, 4, 4)] * 2)
    largest, both = (4 * n_layers * size for size in (width**2, width**2 + narrow**2))
    assert (tmp_path / "big" / WEIGHTS).stat().st_size < 1.02 * largest
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    grown = {}
    for way in ("lean", "copies"):
        command = [sys.executable, "-c", _GROWTH, way]
        done = subprocess.run(
            command, cwd=tmp_path / "big", env=environment, capture_output=True, text=True, check=True
        )
        grown[way] = int(done.stdout)
    assert grown["lean"] < 0.4 * largest  # what one layer needs while it is computed
    assert both < grown["copies"]


def test_a_cascade_asks_the_largest_where_the_first_is_not_sure(mobile):
    folder, _, _ = mobile
    module = dispatcher(folder)
    levels = module.Levels(folder)
    images = np.random.default_rng(1).standard_normal((12, 1, 32, 32), dtype=np.float32)
    first = np.concatenate([levels(image[None], level=0)[0] for image in images])
    shares = torch.from_numpy(first).softmax(1).amax(1).numpy()
    np.testing.assert_allclose(module.confidence(first), shares, rtol=1e-5)
    threshold = float(np.median(shares))
    outputs, asked = levels.cascade(images, threshold)
    assert asked == [0 if share >= threshold else 2 for share in shares] and len(set(asked)) == 2
    for image, found, level in zip(images, outputs, asked, strict=True):
        assert np.array_equal(levels(image[None], level=level)[0][0], found)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_chain_is_the_best_of_all_chains(seed):
    rng = np.random.default_rng(seed)
    genes, costs = rng.integers(0, 4, (14, 2)), rng.uniform(1, 10, 14)
    costs += genes.sum(1)
    values = genes.sum(1) + rng.normal(0, 1, 14)

    def area(chain: Sequence[int]) -> float:
        spent, best = np.log(costs[list(chain)]), values[list(chain)] - values.min()
        end = np.log(1.25 * costs.max())
        return float((np.diff(best, prepend=0) * (end - spent)).sum())

    def is_chain(chain: Sequence[int]) -> bool:
        steps = list(pairwise(chain))
        return all((genes[a] <= genes[b]).all() and values[a] < values[b] and costs[a] < costs[b] for a, b in steps)

    orders = (sorted(chosen, key=lambda place: costs[place]) for chosen in combinations(range(14), 3))
    best = max(filter(is_chain, orders), key=area)
    assert best_chain(genes, costs, values, 3) == best
    with pytest.raises(ValueError, match="the longest such chain has"):
        best_chain(genes, costs, values, 14)


def test_levels_of_a_run_by_the_command(command, copied_run, tmp_path):
    out = tmp_path / "levels"
    command("export", copied_run, "--levels", 2, "--device", "one", "--out", out)
    told = json.loads((out / "levels.json").read_text())
    small, large = told["levels"]
    assert small["latency"]["seconds"] < large["latency"]["seconds"]
    assert 0 < small["accuracy"]["validation"] < large["accuracy"]["validation"] <= 1
    assert told["weights"]["bytes"] < large["bytes"]["alone"]
    images = np.zeros((told["input"]["batch"], 1, told["input"]["side"], told["input"]["side"]), np.float32)
    outputs, level = dispatcher(out).Levels(out)(images)
    assert outputs.shape == (1, 10) and level == 1
    for wrong, why in (
        (["--levels", 2, "--arch", small["id"]], "Give one of"),
        (["--archs", small["id"]], "at least two different"),
        (["--archs", f"{small['id']},no"], "no architecture"),
        (["--levels", 40], "the longest such chain has"),
    ):
        message = command("export", copied_run, *wrong, "--device", "one", "--out", tmp_path / "no", check=2).stderr
        assert why in message and not (tmp_path / "no").exists()
