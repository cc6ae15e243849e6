"""A kit: planned networks as a folder that runs anywhere with numpy and onnxruntime, and the results that come back."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from hardware.device import Device
from hardware.loop import cpu, turns
from hardware.loop.session import FEWEST_TURNS
from hardware.remote.measure import canonical, read_lines
from hardware.remote.submission import LONGEST_HARDWARE, Part, Stretch, joined, one_line, parse, printable
from hardware.remote.work import Work, WorkSource
from supernet.files import new_folder

__all__ = ["Recorded", "kit_id", "read_results", "results_kit", "write_kit", "write_loop"]

_PROVIDER = "CPUExecutionProvider"
_LARGEST_RESULTS = 1 << 28  # bytes
_EARLIEST = 1_577_836_800.0  # 2020: a board without a battery begins in 1970, and goes on from there
_LATEST = 86_400.0  # seconds from now


@dataclass(frozen=True)
class Recorded:
    """A session, or what there is of it, as a result file has it."""

    identity: str  # the same for a file that has come further
    began: float | None  # seconds since 1970; None where the clock of the device cannot be right
    posted: Stretch
    notes: tuple[str, ...] = ()


def write_loop(folder: Path) -> dict[str, bytes]:
    """Write the script that measures, and those files of ours that it needs, as they are; returns them."""
    files = {"measure.py": Path(__file__).with_name("measure.py").read_bytes()}
    for module in (cpu, turns):  # under the name by which the script imports them
        *packages, name = module.__name__.split(".")
        for depth in range(1, len(packages) + 1):
            files["/".join([*packages[:depth], "__init__.py"])] = b""
        files["/".join([*packages, f"{name}.py"])] = Path(str(module.__file__)).read_bytes()
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return files


def write_kit(
    source: WorkSource,
    work: Work,
    name: str,
    out: Path,
    *,
    batch_size: int = 1,
    threads: int = 1,
    hardware: str = "",
    advance: Callable[[int, str], None] = lambda done, note: None,
) -> dict[str, Any]:
    """Write the ONNX files of the work, what measures them, and a manifest with the SHA-256 of everything.

    The same work makes the same kit. Returns the manifest, which `read_results` needs.

    Args:
        hardware: what the device is beside what it tells of itself, for its identity.

    Raises:
        ValueError: `out` exists and is not empty, or there is nothing to measure.
        OSError: the folder cannot be written.
    """
    if not work.jobs:
        raise ValueError(f"there is nothing left to measure for {name}")
    with new_folder(out) as folder:
        files = {file: hashlib.sha256(content).hexdigest() for file, content in write_loop(folder).items()}
        (folder / "models").mkdir()
        models = {}
        for done, job in enumerate((*work.anchors, *work.beside), start=1):
            file = f"models/{job.key}-{job.resolution}.onnx"
            content = source.model(job.key, job.resolution, batch_size)
            (folder / file).write_bytes(content)
            files[file] = hashlib.sha256(content).hexdigest()
            models[job] = {**asdict(job), "file": file, "bytes": len(content)}
            advance(done, job.key)
        manifest = {
            "format": 1,
            "title": source.title,
            "name": name,
            "purpose": work.purpose,
            "provider": _PROVIDER,
            "threads": threads,
            "batch_size": batch_size,
            "hardware": hardware,
            "sampling": asdict(source.sampling),
            "anchors": [models[job] for job in work.anchors],
            "models": [models[job] for job in work.jobs],
            "files": files,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def kit_id(manifest: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that stand for the whole kit, since the manifest has the hash of every file."""
    return hashlib.sha256(canonical(manifest)).hexdigest()[:32]


def results_kit(path: Path) -> str:
    """The id of the kit that a result file says it is of.

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
        raise ValueError(f"{path} is not a result file of a kit, or has not even its first line")
    return found


def read_results(path: Path, manifest: Mapping[str, Any]) -> tuple[Device, list[Recorded]]:
    """The device that a result file is of, and the sessions it measured, the last perhaps in part.

    What was damaged or edited carelessly is found by the digest of every line, what was cut off at the end is left out.
    Somebody who means to deceive can compute the digests as well: no file can prove that it was measured.

    Raises:
        ValueError: a line is not as it was written, or is of a network that is not in the kit.
    """
    try:
        contents, _, _ = read_lines(path.read_bytes(), kit_id(manifest))
        parts = [parse(Part, json.dumps(content)) for content in contents[1:]]
        shipped = {(model["key"], model["resolution"]) for model in (*manifest["anchors"], *manifest["models"])}
        for part in parts:
            for one in (*part.networks, *part.failures):
                if one.name not in shipped:
                    raise ValueError(f"{printable(one.key)} at {one.resolution} px is not in the kit")
        sessions = [list(group) for _, group in groupby(parts, key=lambda part: part.session)]
        if len({group[0].session for group in sessions}) < len(sessions):
            raise ValueError("a session goes on after another one has begun")
        recorded = [_recorded(group, manifest) for group in sessions]
        device = _device(contents[0]["device"], manifest)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: {one_line(str(error))}; nothing of it was taken") from None
    return device, recorded


def _recorded(parts: list[Part], manifest: Mapping[str, Any]) -> Recorded:
    first, posted = parts[0], joined(parts)
    identity = hashlib.sha256(f"{kit_id(manifest)} {first.session}".encode()).hexdigest()[:16]
    if len(posted.turns) < FEWEST_TURNS:  # it has hardly begun
        posted = Stretch(purpose=posted.purpose, failures=posted.failures)
    if _EARLIEST <= first.began <= time.time() + _LATEST:
        return Recorded(identity, first.began, posted)
    note = f"the clock of the device was wrong ({_date(first.began)}); set it there, the day is that of the import"
    return Recorded(identity, None, posted, (note,))


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.3g} s after 1970"


def _device(told: Any, manifest: Mapping[str, Any]) -> Device:
    fields = ("hardware", "runtime_version")
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) and told[name] for name in fields):
        raise ValueError("the first line does not describe a device")
    hardware = ", ".join(filter(None, [told["hardware"], manifest.get("hardware", "")]))  # older kits have none
    return Device(
        name=manifest["name"],
        hardware=printable(hardware, LONGEST_HARDWARE),
        runtime="onnxruntime",
        runtime_version=printable(told["runtime_version"], 60),
        provider=manifest["provider"],
        threads=manifest["threads"],
        batch_size=manifest["batch_size"],
    )
