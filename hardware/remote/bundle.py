"""A campaign as a folder that runs anywhere with numpy and onnxruntime, and the result file that comes back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hardware.device import Device
from hardware.remote.campaign import REFERENCE, Campaign, Job
from hardware.remote.measure import canonical, read_lines
from hardware.remote.submission import Group, one_line, parse, printable

__all__ = ["bundle_id", "read_results", "results_bundle", "write_bundle"]

_SCRIPT = Path(__file__).with_name("measure.py")
_PROVIDER = "CPUExecutionProvider"
_LARGEST_RESULTS = 1 << 28  # bytes


def write_bundle(
    campaign: Campaign,
    jobs: Sequence[Job],
    name: str,
    out: Path,
    *,
    batch_size: int = 1,
    threads: int = 1,
    advance: Callable[[int, str], None] = lambda done, note: None,
) -> dict[str, Any]:
    """Write the ONNX files of `jobs`, the script that measures them, and a manifest with the SHA-256 of everything.

    The same jobs make the same bundle. Returns the manifest, which `read_results` needs.

    Raises:
        ValueError: `out` exists and is not empty, or there is nothing to measure.
        OSError: the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; give a new folder with --out")
    if not jobs:
        raise ValueError(f"there is nothing left to measure for {name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        (folder / "models").mkdir()
        files = {
            "measure.py": _SCRIPT.read_bytes(),
            f"models/{REFERENCE}.onnx": campaign.model(REFERENCE, 1, batch_size),
        }
        models = []
        for done, job in enumerate(jobs, start=1):
            file = f"models/{job.key}-{job.resolution}.onnx"
            models.append({**asdict(job), "file": file})
            (folder / file).write_bytes(content := campaign.model(job.key, job.resolution, batch_size))
            files[file] = content
            advance(done, job.key)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        manifest = {
            "format": 1,
            "title": campaign.title,
            "name": name,
            "provider": _PROVIDER,
            "threads": threads,
            "batch_size": batch_size,
            "sampling": asdict(campaign.sampling),
            "models": models,
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def bundle_id(manifest: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that stand for the whole bundle, since the manifest has the hash of every file."""
    return hashlib.sha256(canonical(manifest)).hexdigest()[:32]


def results_bundle(path: Path) -> str:
    """The id of the bundle that a result file says it is of.

    Raises:
        ValueError: it does not say so, or is too large.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > _LARGEST_RESULTS:
        raise ValueError(f"{path} has {size:,} bytes, too many for a result file; at most {_LARGEST_RESULTS:,}")
    with path.open("rb") as file:
        first = file.readline(10_000)
    try:
        found = json.loads(first)["content"]["manifest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str) or not re.fullmatch(r"[0-9a-f]{32}", found):
        raise ValueError(f"{path} is not a result file of a bundle, or has not even its first line")
    return found


def read_results(path: Path, manifest: Mapping[str, Any]) -> tuple[Device, list[Group]]:
    """The device that a result file is of, and the groups it measured.

    What was damaged or edited carelessly is found by the digest of every line, what was cut off at the end is left out.
    Somebody who means to deceive can compute the digests as well: no file can prove that it was measured.

    Raises:
        ValueError: a line is not as it was written, or is of no network of the bundle, or of one for the second time.
    """
    try:
        contents, _, _ = read_lines(path.read_bytes(), bundle_id(manifest))
        groups = [parse(Group, json.dumps(content)) for content in contents[1:]]
        device = _device(contents[0]["device"], manifest)
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}; nothing of it was taken") from None
    shipped = {(model["key"], model["resolution"]) for model in manifest["models"]}
    counts = Counter((row.key, row.resolution) for group in groups for row in (*group.results, *group.failures))
    for (key, resolution), n in counts.items():
        where = f"{printable(key)} at {resolution} px"
        if (key, resolution) not in shipped:
            raise ValueError(f"{path}: {where} is not in the bundle; nothing of it was taken")
        if n > 1:
            raise ValueError(f"{path}: {where} is in it {n} times; nothing of it was taken")
    return device, groups


def _device(told: Any, manifest: Mapping[str, Any]) -> Device:
    fields = ("hardware", "runtime_version")
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) and told[name] for name in fields):
        raise ValueError("the first line does not describe a device")
    return Device(
        name=manifest["name"],
        hardware=printable(told["hardware"]),
        runtime="onnxruntime",
        runtime_version=printable(told["runtime_version"], 60),
        provider=manifest["provider"],
        threads=manifest["threads"],
        batch_size=manifest["batch_size"],
    )
