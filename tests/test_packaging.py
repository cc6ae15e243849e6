"""The package names are common words: nothing else may answer to them, and looking at them must cost nothing."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["supernet", "search", "predictors", "hardware", "experiments"]
SEVERAL = """
import sys
from supernet_nas.experiments.cli import main

for arguments in {asked}:
    sys.argv = ["supernet", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
"""
HEAVY = ["torch", "timm", "onnxruntime", "onnx", "xgboost", "sklearn", "pymoo", "matplotlib"]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_belongs_to_this_distribution(package):
    assert set(packages_distributions()[package]) == {"supernet-nas"}


@pytest.mark.parametrize("package", [*PACKAGES, "experiments.cli"])
def test_importing_is_light(package):
    code = f"import sys, {package}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_everything_has_the_name_that_it_has_where_it_is_installed():
    code = (
        "import sys, supernet_nas.search.tactic, search.tactic, supernet_nas.supernet as s, supernet; "
        "assert supernet_nas.search.tactic is search.tactic and s is supernet and search.__spec__.name == 'search'; "
        "from supernet_nas.hardware import Device; from hardware import Device as same; assert Device is same"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "supernet_nas", "--version"], check=True, cwd=ROOT, capture_output=True
    )
    assert done.stdout.startswith(b"supernet-nas ")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel, and with our dependencies, but without this repository."""
    folder = tmp_path_factory.mktemp("fresh")
    source = folder / "source"  # building leaves files behind
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "supernet_nas.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, env=clean(), cwd=folder)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, env=clean(), cwd=folder)
    # A folder that is named in a .pth file has none of its own .pth files read: that of the editable installation.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.mark.slow
@pytest.mark.parametrize("as_packages", [True, False])
def test_a_wheel_lives_beside_folders_of_the_same_names(installed, tmp_path, recipe_path, as_packages):
    for name in ("experiments", "search", "hardware", "predictors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"NAME = {name!r}\n")
        if as_packages:
            (tmp_path / name / "__init__.py").touch()

    def run(*arguments: object) -> str:
        done = subprocess.run(
            list(map(str, arguments)), cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "from experiments import mine; from search.mine import NAME; import supernet_nas.search, supernet\n"
    code += "from supernet_nas.search import create_tactic; from supernet_nas.supernet import elastic\n"
    code += "assert elastic is supernet.elastic and create_tactic.__module__.startswith('supernet_nas.')\n"
    code += "print(supernet_nas.__file__, supernet.__file__)"
    assert str(ROOT) not in run(installed, "-c", code)
    command = installed.with_name("supernet")
    assert run(command, "--version") == run(installed, "-m", "supernet_nas", "--version")
    assert "runs/digits" in run(command, "demo", "--help")
    if as_packages:
        return  # what runs beside plain folders runs beside these
    (tmp_path / "r.toml").write_text(recipe_path.read_text().replace("epochs = 2", "epochs = 1").replace("640", "192"))
    made, kit = str(tmp_path / "run"), str(tmp_path / "kit")
    asked = (
        ["train", str(tmp_path / "r.toml"), "--out", made],
        ["profile", made, "--device", "one"],
        ["device", "kit", made, "--device", "board", "--n", "1", "--out", kit],
    )
    run(installed, "-c", SEVERAL.format(asked=asked))
    run(sys.executable, tmp_path / "kit" / "measure.py")
    assert (tmp_path / "kit" / "results.jsonl").exists()
    imported = re.compile(r"^\s*(from|import) (experiments|hardware|predictors|search)\b", re.MULTILINE)
    for path in installed.parents[1].glob("lib/python*/site-packages/supernet*/**/*.py"):
        assert not imported.search(path.read_text()), path
