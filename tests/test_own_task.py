"""Tasks beyond classification: a regression through the whole command line, a segmentation, and what is refused."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import querying
from experiments.quantities import KINDS, kinds_with, limit
from experiments.settings.recipe import RecipeError, load_recipe

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[1] / "docs" / "new-task.md").read_text()
CENTRES, OVERLAP = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
(SECTIONS,) = re.findall(r"^```toml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
DISTANCE = {"name": "mean_distance", "unit": "px", "larger_is_better": False}


def for_task(recipe: str, sections: str = SECTIONS) -> str:
    """The small recipe with other data and another task."""
    text = sections + recipe[recipe.index("[supernet.space]") :]
    text = text.replace('[[devices]]\nname = "eight"\nbatch_size = 8\n', "").replace("= 12", "= 8")
    text = text.replace('[fit]\npredictors = ["ridge"]\n', "")  # here all predictors are tried
    return text.replace("schedule = { epochs = 2", "schedule = { epochs = 1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Where one works, with the module of docs/new-task.md."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "centres.py").write_text(CENTRES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder
    for name in ("centres", "overlap", "wrong"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def finished(command, folder, recipe_path) -> tuple[Path, str]:
    """The run of the page's recipe, and what it printed."""
    (folder / "centres.toml").write_text(for_task(recipe_path.read_text()))
    printed = command("run", folder / "centres.toml", "--out", folder / "run").stdout
    return folder / "run", printed


def test_the_whole_way_knows_no_accuracy(finished):
    run, printed = finished
    assert "mean_distance: " in printed and re.search(r"validation largest [\d.]+ px", printed)
    found = printed + (run / "report.html").read_text()
    assert "mean distance on validation against latency" in found and "Lower and further left is better" in found
    assert not re.search(r"accura|classes|accuracy", re.sub(r"<style>.*?</style>", "", found, flags=re.DOTALL))
    for path in [run / "front.json", run / "comparison.json", *(run / "predictors").iterdir()]:
        assert "accuracy" not in path.read_text(), path


def test_a_smaller_distance_is_better_in_search_and_comparison(finished):
    results = json.loads((finished[0] / "front.json").read_text())["goals"]["one"]
    assert results["objectives"] == ["mean_distance", "latency@one"] and results["metric"] == DISTANCE
    values = [(c["values"]["latency@one"], c["values"]["mean_distance"]) for c in results["front"]["candidates"]]
    everything = [(c["values"]["latency@one"], c["values"]["mean_distance"]) for c in results["candidates"]]
    assert min(everything, key=lambda pair: pair[1])[1] == min(distance for _, distance in values)
    for latency, distance in values:
        assert not any(t <= latency and d <= distance and (t, d) != (latency, distance) for t, d in everything)
    assert results["reference"]["mean_distance"] == max(distance for _, distance in everything)
    comparison = json.loads((finished[0] / "comparison.json").read_text())
    (goal,) = comparison["goals"]
    series = {one["name"]: one["points"] for one in goal["series"]}
    (model,) = series["timm: lcnet_035"]  # two outputs, trained with the same loss
    assert 0 < model["test"] < 10 and model["values"]["mean_distance"] == model["validation"]
    tested = [point["test"] for points in series.values() for point in points if point["test"] is not None]
    assert goal["reference"]["mean_distance"] <= max(tested) and comparison["spread"]["largest"] < 3
    assert all(row["value"] >= 0 for row in goal["hypervolume"])


def test_a_score_is_the_metric_of_what_is_extracted(finished):
    import centres  # pyright: ignore[reportMissingImports]

    from experiments.measuring.quantized import file_score, quantized_file
    from experiments.progress import Reporter
    from experiments.run_folder import RunFolder
    from experiments.scoring.scorer import Scorer

    run = RunFolder(finished[0])
    scorer, arch = Scorer(run), run.supernet.space.largest
    stored = scorer.score([arch], "test", Reporter())[arch.id].metrics
    images, targets = centres.data(0)["test"]
    assert images.shape == (397, 1, 16, 16) and run.data.n_images("test") == stored["n_images"] == 397
    from supernet.scoring.images import resize

    with torch.inference_mode():
        outputs = scorer.subnet(arch)(resize(torch.from_numpy(images), arch.resolution))
    distances = np.linalg.norm(outputs.numpy() - targets, axis=1)
    assert stored["mean_distance"] == pytest.approx(distances.mean(), rel=1e-4)
    assert stored["loss"] == pytest.approx(float(centres.loss(outputs, torch.from_numpy(targets))), rel=1e-4)
    int8 = file_score(run, quantized_file(run, scorer, arch, 7), arch.resolution, "test")  # batches that do not fit
    assert int8 != stored["mean_distance"] and abs(int8 - stored["mean_distance"]) < 1


def test_query_and_export_speak_of_the_metric(command, finished, folder):
    run, _ = finished
    found = json.loads((run / "front.json").read_text())["goals"]["one"]["front"]["candidates"]
    distances = sorted(c["values"]["mean_distance"] for c in found)
    limits = ("--limit", f"mean_distance <= {distances[0] * 1.001:.6g}px")
    text = command("query", run, *limits).stdout
    assert "mean_distance" in text and f"{distances[0]:.4g} px" in text and "accuracy" not in text
    _, results = querying.goal_results(run, None)
    (best,) = querying.answer(results, [], 1)
    assert best["values"]["mean_distance"] == distances[0]
    held = limit(f"mean_distance <= {distances[0] / 2:.3g}", ["one"], querying.kinds(results))
    with pytest.raises(ValueError, match=f"the best sub-network needs {distances[0]:.4g} px"):
        querying.answer(results, [held], 1)
    with pytest.raises(ValueError, match="'accuracy' is no quantity"):
        limit("accuracy >= 90%", ["one"], querying.kinds(results))
    text = command("export", run, "--arch", best["id"], "--out", folder / "bundle").stdout
    card = json.loads((folder / "bundle" / "card.json").read_text())
    assert card["mean_distance"]["validation"] == distances[0] and card["metric"] == DISTANCE
    text += (folder / "bundle" / "README.md").read_text() + json.dumps(card)
    assert f"mean distance {distances[0]:.4g} px on validation" in text and "accuracy" not in text


NETWORK = '''

class Masker(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images):
        return self.outer(F.relu(self.inner(images)))


class Maskers(nn.Module):
    space = SearchSpace(resolutions=(8,), stages=(Stage.uniform(depths=(1,), width=(4, 6, 8)),))

    def __init__(self):
        super().__init__()
        self.largest = Masker(8)

    def _cut(self, arch):
        full, width = dict(self.largest.named_parameters()), int(arch.stages[0][0].width)
        return Masker(width), {
            "inner.weight": full["inner.weight"][:width], "inner.bias": full["inner.bias"][:width],
            "outer.weight": full["outer.weight"][:, :width], "outer.bias": full["outer.bias"],
        }

    def forward(self, images, arch):
        return functional_call(*self._cut(arch), (images,))

    def extract(self, arch):
        small, weights = self._cut(arch)
        small.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()})
        return small


class Noisy(Dataset):
    """Digits under noise, and where their ink is."""

    def __init__(self, digits, seed):
        self.digits, self.seed = digits, seed

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, row):
        noise = np.random.default_rng((self.seed, row)).normal(0, 0.2, (1, 8, 8))
        return self.digits[row] / 16 + noise, (self.digits[row] > 6).astype(np.float32)


def data(seed):
    digits = load_digits().images[:, None]
    return {"train": Noisy(digits[:800], 1), "validation": Noisy(digits[800:1000], 2), "test": Noisy(digits[1000:], 3)}
'''
IMPORTS = """
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import Dataset

from supernet import SearchSpace, Stage
"""
SEGMENTATION = """
[data]
source = "overlap:data"
batch_size = 50
[task]
metric = "overlap:iou"
summary = "overlap:over_all"
larger_is_better = true
loss = "torch.nn.functional:binary_cross_entropy_with_logits"
[supernet]
name = "overlap:Maskers"
"""


def segmentation(recipe: str) -> str:
    start, stop = recipe.index("[training]"), recipe.index('[[devices]]\nname = "eight"')
    training = recipe[start:stop].replace("peak_lr = 0.1", "peak_lr = 0.3")
    rest = recipe[recipe.index("[measure]") :].replace('timm_models = ["lcnet_035"]', "timm_models = []")
    return SEGMENTATION + training + rest


def test_masks_are_learned_and_scored_over_all_images(folder, recipe_path):
    """Targets as large as images, from a data set; the metric is no mean over examples."""
    from experiments import pipeline
    from experiments.progress import Reporter
    from experiments.run_folder import RunFolder
    from experiments.scoring.scorer import Scorer
    from supernet.training import World

    (folder / "overlap.py").write_text(OVERLAP.replace("\nimport torch\n", IMPORTS) + NETWORK)
    (folder / "overlap.toml").write_text(segmentation(recipe_path.read_text()))
    run = RunFolder.start(folder / "overlap.toml", folder / "masks")
    from experiments.training.train import check_beginning

    check_beginning(run)
    pipeline.train(run, Reporter(), World())
    scorer, archs = Scorer(run), [run.supernet.space.smallest, run.supernet.space.largest]
    scores = scorer.score(archs, "validation", Reporter())
    import overlap  # pyright: ignore[reportMissingImports]

    split = overlap.data(0)["validation"]
    images, masks = (torch.tensor(np.stack(column), dtype=torch.float32) for column in zip(*split, strict=True))
    for arch in archs:
        with torch.inference_mode():
            found = scorer.subnet(arch)(images) > 0
        expected = (found & (masks > 0)).sum() / (found | (masks > 0)).sum()
        assert scores[arch.id].metrics["iou"] == pytest.approx(float(expected), abs=1e-3)
        assert expected > 0.6  # a mask of everything has 0.37
    assert run.n_outputs == 1


def test_what_a_metric_writes_it_reads():
    kinds = kinds_with(DISTANCE)
    assert (
        list(kinds) == ["mean_distance", *(name for name in KINDS if name != "accuracy")] and kinds_with(None) is KINDS
    )
    kind = kinds["mean_distance"]
    assert kind.format(0.123456) == "0.1235 px" and kind.parse(kind.format(-12.5)) == -12.5
    kept = limit("mean_distance <= 0.5px", ["phone"], kinds)
    assert kept.holds(0.4) and not kept.holds(0.6) and str(kept) == "mean_distance <= 0.5 px"
    with pytest.raises(ValueError, match="write a number in px"):
        limit("mean_distance <= 90%", ["phone"], kinds)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("centres:loss", "centres", "task.loss: 'centres' is not of the form 'package.module:function'"),
        ("larger_is_better = false", "", "task.larger_is_better: is missing"),
        ('unit = "px"', 'unit = "px"\nname = "latency"', "task.name: 'latency' already means something else"),
        ('unit = "px"', 'unit = "px"\nname = "a b"', "task.name: 'a b' is no name of a metric"),
        ("centres:mean_distance", "centres:loss", "'loss' already means something else; give the metric another name"),
        ('unit = "px"', 'unit = "10px"', "unit '10px' cannot be told from numbers"),
        ("options =", "workers = 3\noptions =", "data: workers has no meaning for 'centres:data', whose function"),
        ("[training]", "[engine]\nmixup = 0.2\n[training]", "engine.mixup and engine.cutmix mix the labels of classes"),
        ("[training]", "[engine]\nrollback = { margin = 0.1 }\n[training]", "margin is a fall of accuracy"),
        ("[training]\n", "[training]\nlabel_smoothing = 0.1\n", "label_smoothing is for labels of classes"),
        ("[training]\n", '[training]\nimitation = { kind = "soft_labels" }\n', "is of probabilities of classes"),
        ("evaluations = 4", 'evaluations = 4\nobjectives = ["accuracy", "macs"]', "'accuracy' is no quantity"),
        ("evaluations = 4", 'evaluations = 4\nobjectives = ["mean_distanze", "macs"]', "did you mean 'mean_distance'?"),
        ("evaluations = 4", 'evaluations = 4\nconstraints = ["mean_distance <= 90%"]', "write a number in px"),
    ],
)
def test_what_makes_no_sense_is_refused_when_loading(recipe_path, tmp_path, old, new, message):
    text = for_task(recipe_path.read_text())
    assert old in text
    (tmp_path / "wrong.toml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load_recipe(tmp_path / "wrong.toml")
    assert "\n" not in str(caught.value)


def test_a_task_says_the_same_of_objectives_as_the_default(recipe_path, tmp_path):
    text = for_task(recipe_path.read_text())
    (tmp_path / "right.toml").write_text(
        text.replace(
            "evaluations = 4",
            'evaluations = 4\nobjectives = ["mean_distance", "macs"]\nconstraints = ["mean_distance < 1"]',
        )
    )
    assert "mean_distance" in load_recipe(tmp_path / "right.toml").kinds


WRONG = """
import numpy as np
import torch
from centres import data, mean_distance

three = 3


def one(outputs):
    return outputs


def nan(outputs, targets):
    return (outputs - targets).norm(dim=1) * float("nan")


def per_batch(outputs, targets):
    return (outputs - targets).norm(dim=1).mean()


def per_row(outputs, targets):
    return (outputs - targets).square()


def column(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets[:, :1])


def fails(seed, side):
    raise RuntimeError("no\\nnetwork")


def flat(seed, side):
    return {name: (images[:, 0], targets) for name, (images, targets) in data(seed, side).items()}


def single(seed, side):
    return {name: (images, targets[:, 0]) for name, (images, targets) in data(seed, side).items()}


def uneven(seed, side):
    return {name: (images, targets[1:]) for name, (images, targets) in data(seed, side).items()}


def two(seed, side):
    return dict(list(data(seed, side).items())[:2])


def generator(seed, side):
    return {name: iter(images) for name, (images, _) in data(seed, side).items()}


def masks(seed, side):
    return {name: (images, images > 0) for name, (images, _) in data(seed, side).items()}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("centres:mean_distance", "wrong:nowhere", "task.metric wrong:nowhere: wrong has no 'nowhere'"),
        ("centres:mean_distance", "nowhere:metric", "task.metric nowhere:metric: cannot import nowhere"),
        ("centres:mean_distance", "wrong:three", "task.metric wrong:three is a int, not a function"),
        ("centres:mean_distance", "wrong:one", "task.metric wrong:one cannot be called with outputs and targets"),
        ("centres:mean_distance", "wrong:nan", "nan of mobilenetv3 on images [16, 1, 20, 20] with targets"),
        ("centres:mean_distance", "wrong:per_batch", "gives [] for 16 examples; give a row for every one"),
        ("centres:loss", "wrong:per_row", "task.loss wrong:per_row gives [16, 2]"),
        ("centres:loss", "wrong:column", "Using a target size"),
        ("centres:data", "wrong:fails", "wrong:fails failed: RuntimeError: no network"),
        ("centres:data", "wrong:flat", "wrong:flat: train has images [16, 16] of torch.float32; an image must be"),
        ("centres:data", "wrong:single", "of single numbers make a column (n, 1)"),
        ("centres:data", "wrong:uneven", "wrong:uneven: train has 1000 images and 999 targets"),
        ("centres:data", "wrong:two", "wrong:two returns keys 'train', 'validation'; return a dictionary of"),
        ("centres:data", "wrong:generator", "wrong:generator: train is a "),
        ("centres:data", "wrong:masks", "failed on outputs [16, 1] of mobilenetv3 on images"),
        ("side = 16", "sides = 16", "centres:data has no option 'sides'; did you mean 'side'?"),
        (SECTIONS[SECTIONS.index("[task]") :], "",
         "centres:data has targets [2, 2] of torch.float32, and labels of classes are int64 (n,)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_before_training(folder, recipe_path, tmp_path, old, new, message):
    from experiments.run_folder import RunFolder
    from experiments.training.train import check_beginning

    (folder / "wrong.py").write_text(WRONG)
    text = for_task(recipe_path.read_text())
    assert old in text
    (tmp_path / "wrong.toml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_beginning(RunFolder.start(tmp_path / "wrong.toml", tmp_path / "run"))
    assert "\n" not in str(caught.value)
