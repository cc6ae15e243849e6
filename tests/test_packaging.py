"""The package names are common words: nothing else may answer to them, and looking at them must cost nothing."""

import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

PACKAGES = ["supernet", "search", "predictors", "hardware", "experiments"]
HEAVY = ["torch", "timm", "onnxruntime", "onnx", "xgboost", "sklearn", "pymoo", "matplotlib"]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_belongs_to_this_distribution(package):
    assert set(packages_distributions()[package]) == {"supernet-nas"}


@pytest.mark.parametrize("package", [*PACKAGES, "experiments.cli"])
def test_importing_is_light(package):
    code = f"import sys, {package}; print([m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
