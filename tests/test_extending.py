"""What strangers add: a tactic, a predictor and a runtime, each in one file, named by one recipe that runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

VERBS = ("profile", "score", "fit", "search")
DOCS = Path(__file__).parents[1] / "docs"

NEAREST = '''
"""nearest.py: the mean of the most similar architectures."""

import numpy as np

from predictors.protocol import Residuals, checked


class Nearest:
    kind = "nearest"

    def __init__(self, features, target):
        self.features, self.target = features, target

    def fit(self, genes, y):
        genes, y = checked(genes, y, self.target)
        self.rows_, self.y_ = self.features(genes), y
        self.out_of_fold_ = self._mean(self.rows_, 1)
        self.residuals_ = Residuals.of(y, self.out_of_fold_, self.target)
        return self

    def _mean(self, rows, first):
        distances = np.abs(rows[:, None] - self.rows_).sum(axis=2)
        return self.y_[np.argsort(distances, axis=1, kind="stable")[:, first : first + 5]].mean(axis=1)

    def predict(self, genes):
        return self._mean(self.features(genes), 0)

    def predict_interval(self, genes, coverage=0.9):
        return self.residuals_.interval(self.predict(genes), coverage)

    def probability_below(self, genes, limit):
        return self.residuals_.probability_below(self.predict(genes), limit)

    def to_dict(self):
        return {"target": self.target, "rows": self.rows_.tolist(), "y": self.y_.tolist()}

    @classmethod
    def from_dict(cls, features, data):
        predictor = cls(features, data["target"])
        predictor.rows_, predictor.y_ = np.array(data["rows"], dtype=float), np.array(data["y"], dtype=float)
        predictor.out_of_fold_ = predictor._mean(predictor.rows_, 1)
        predictor.residuals_ = Residuals.of(predictor.y_, predictor.out_of_fold_, predictor.target)
        return predictor


def create(subject, target, seed):
    return Nearest(subject.choices, target)
'''
NEAREST_LAWS = """
import pytest
from nearest import create as create_nearest
from predictors.testing import PredictorContract


class TestNearest(PredictorContract):
    tau, calibration = 0.3, 0.15

    @pytest.fixture
    def create(self):
        return create_nearest
"""
NUMPY_LAWS = """
import pytest
from hardware.testing import ProfilerContract
from numpy_device import NumpyProfiler


class TestNumpy(ProfilerContract):
    width, resolution = 8, 24

    @pytest.fixture
    def create(self):
        return lambda: NumpyProfiler("numpy-b1", batch_size=1)

    def broken(self):
        return super().broken()[1:]
"""


WITNESS = """

_create = create


def create(space, n_objectives, seed, population=50, log=""):
    if log:
        with open(log, "a") as file:
            print(f"{n_objectives} objectives, {population} at a time", file=file)
    return _create(space, n_objectives, seed, population)
"""


def code(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def sections(page: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of three distributions of one file each, as pip would leave them, and the environment that has them."""
    folder = tmp_path_factory.mktemp("packages")
    tactic, device = (sections(page)[0] for page in ("new-tactic.md", "new-device.md"))
    nearest = '[project.entry-points."supernet.predictors"]\nnearest = "nearest:create"\n'
    files = {
        "mixtures": code("new-tactic.md")[0] + WITNESS,
        "nearest": NEAREST,
        "numpy_device": code("new-device.md")[0],
    }
    for (name, text), entry in zip(files.items(), (tactic, nearest, device), strict=True):
        (folder / f"{name}.py").write_text(text)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        group, _, points = entry.partition("\n")
        group = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", group)
        (info / "entry_points.txt").write_text(f"{group}\n{points.replace(chr(34), '')}")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return folder, {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(installed, folder: Path, *command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=installed[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("laws", "least"),
    [(code("new-tactic.md")[1], 15), (NEAREST_LAWS, 15), (NUMPY_LAWS, 7)],
    ids=["tactic", "predictor", "runtime"],
)
def test_each_keeps_the_laws(installed, tmp_path, laws, least):
    (tmp_path / "test_laws.py").write_text(laws)
    output = run(installed, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_laws.py")
    assert int(re.findall(r"(\d+) passed", output)[0]) >= least


def test_the_page_searches_by_hand(installed, tmp_path):
    (tmp_path / "by_hand.py").write_text("from mixtures import create\n" + code("new-tactic.md")[2])
    lines = run(installed, tmp_path, "by_hand.py").splitlines()
    assert [line.split(",")[0] for line in lines] == ["200 evaluated", "400 evaluated"]


@pytest.fixture(scope="module")
def finished(commands, installed, recipe_path, tmp_path_factory):
    """The folder of the small run with all three."""
    text = recipe_path.read_text()
    devices, rest = text.index("[[devices]]"), text.index("[measure]")
    device = sections("new-device.md")[1]
    text = (text[:devices] + device + text[rest:]).replace('["ridge"]', '["nearest"]')
    text = text.replace("= 12", "= 8").replace("epochs = 2", "epochs = 1").replace("640", "128")
    text = text[: text.index("[baselines]")].replace(
        "[search]\n", '[search]\ntactic = "mixtures"\noptions = { log = "asked.txt" }\n'
    )
    folder = tmp_path_factory.mktemp("extended")
    (folder / "recipe.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for asked in (("train", "recipe.toml", "--out", "run"), *((v, "run") for v in VERBS)):
            done = commands.begin(*asked, path=[installed[0]]).end()
            assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def test_a_recipe_runs_with_the_runtime(finished):
    assert '"numpy-b1"' in (finished / "front.json").read_text()


def test_a_recipe_runs_with_the_predictor(finished):
    cards = sorted((finished / "predictors").glob("*.card.json"))
    assert len(cards) == 2 and all('"chosen": "nearest"' in card.read_text() for card in cards)


def test_a_recipe_runs_with_the_tactic(finished):
    assert (finished.parent / "asked.txt").read_text().splitlines() == ["2 objectives, 16 at a time"]
