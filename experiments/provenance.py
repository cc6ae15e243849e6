"""Where an artefact comes from: recipe, commit, seed, versions and machine, so that its numbers can be made again."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

_LIBRARIES = (
    "supernet-nas", "torch", "timm", "onnx", "onnxruntime", "pymoo", "scikit-learn", "xgboost", "numpy", "scipy"
)  # fmt: skip


def provenance(recipe_digest: str, seed: int, weights: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Plain data for the head of an artefact; `commit` is None where the code does not run from a git checkout.

    `weights` names the file that a network began with, and its digest; None where it began with random ones.
    """
    commit, dirty = _commit()
    return {
        "recipe": recipe_digest,
        "seed": seed,
        "weights": None if weights is None else dict(weights),
        "commit": commit,
        "uncommitted_changes": dirty,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    # An installed copy may lie inside somebody else's repository (its .venv), whose commit says nothing about us:
    # only a repository that tracks this very file counts.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return commit or None, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Output of a git command in the folder of this file; None where it fails or there is no git."""
    try:
        done = subprocess.run(
            ("git", *arguments), cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """The name of the processor as its maker sells it, as well as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
    return next(iter(named), "") or platform.processor() or platform.machine()
