"""Kits of a run: which networks go into one, and how its results come into the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Any

from experiments.measuring.remote import RunWork, refusals
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.loop.session import Network
from hardware.remote.board import Board, Outcome
from hardware.remote.kit import kit_id, read_results, results_kit, write_kit
from hardware.remote.ssh import Host
from hardware.remote.work import Work
from supernet.files import read_json, write_json

__all__ = [
    "Imported",
    "KitSettings",
    "forget_renamed",
    "import_results",
    "make_kit",
    "measure_over_ssh",
    "remember_renamed",
]


@dataclass(frozen=True)
class Imported:
    """What an import brought."""

    device: Device
    outcomes: tuple[Outcome, ...]
    failed: int  # networks that do not run there

    @property
    def added(self) -> int:
        """Networks that were not measured before."""
        return sum(outcome.n_new for outcome in self.outcomes)

    @property
    def refused(self) -> tuple[str, ...]:
        """Why, one line for each network that was not believed."""
        return tuple(reason for outcome in self.outcomes for reason in outcome.refused)

    def __str__(self) -> str:
        known = sum(outcome.known for outcome in self.outcomes)
        parts = [f"{self.added} network{'' if self.added == 1 else 's'} measured"]
        parts += [f"{known} of {len(self.outcomes)} sessions known before"] if known else []
        parts += [f"{self.failed} failed there"] if self.failed else []
        parts += [f"{len(self.refused)} refused, the first: {self.refused[0]}"] if self.refused else []
        lines = [f"{self.device}: {', '.join(parts)}"]
        for outcome in self.outcomes:
            if outcome.session is not None and not outcome.known:
                lines += [f"  {outcome}", *(f"    {doubt}" for doubt in (*outcome.doubts, *outcome.session.notes))]
        return "\n".join(lines)


@dataclass(frozen=True)
class KitSettings:
    """What a kit measures: under which name, how, and how many of the planned sub-networks (None: all).

    `hardware` is what people say of the device beside what it tells of itself; another text is another device.
    """

    name: str
    batch_size: int = 1
    threads: int = 1
    n: int | None = None
    hardware: str = ""


def make_kit(run: RunFolder, settings: KitSettings, out: Path, report: Reporter) -> str:
    """Write the kit of what the device has not measured yet; returns its id, by which its results are known.

    Raises:
        ValueError: there is nothing left to measure, `out` exists, or the name belongs to another device.
        OSError: the folder cannot be written.
    """
    source = RunWork(run, settings.name)
    return _write(source, _open_work(source, settings), settings, out, report)


def import_results(run: RunFolder, path: Path, name: str | None = None) -> Imported:
    """Take the results of a kit of this run.

    Raises:
        ValueError: it is no result file, of no kit of this run, was damaged or edited, or its device has a name that
            another device has. Nothing of it was taken.
        OSError: it cannot be read.
    """
    manifest_path = _manifests(run) / f"{results_kit(path)}.json"
    if not manifest_path.is_file():
        raise ValueError(f"{path} is of a kit that {run.path} does not know; import it into the run it was made from")
    manifest = read_json(manifest_path)
    device, sessions = read_results(path, manifest)
    if not sessions:
        raise ValueError(f"{path}: nothing was measured yet")
    source = RunWork(run, _name_now(run, manifest["name"]) if name is None else name)
    device = source.register_alone(device)
    board = Board(source, refusals(run))
    outcomes = [
        board.accept("import", device, one.posted, identity=one.identity, began=one.began, notes=one.notes)
        for one in sessions
    ]
    return Imported(device, tuple(outcomes), failed=sum(len(one.posted.failures) for one in sessions))


def remember_renamed(run: RunFolder, old: str, new: str) -> None:
    """See that results of kits that were made under the old name are taken under the new one."""
    write_json(_renamed(run), {**_names_of_kits(run), old: new})


def forget_renamed(run: RunFolder, name: str) -> None:
    """Have no kit lead to a name any more."""
    if _renamed(run).exists():
        write_json(_renamed(run), {old: new for old, new in _names_of_kits(run).items() if new != name})


def _name_now(run: RunFolder, name: str) -> str:
    """The name that the device of a kit has now."""
    known, names = run.added_devices(), _names_of_kits(run)
    for _ in names:
        name = name if name in known else names.get(name, name)
    return name


def _names_of_kits(run: RunFolder) -> dict[str, str]:
    return read_json(_renamed(run)) if _renamed(run).exists() else {}


def _renamed(run: RunFolder) -> Path:
    return _manifests(run) / ".renamed.json"


def measure_over_ssh(run: RunFolder, settings: KitSettings, host: Host, report: Reporter) -> Imported | None:
    """Send a kit to a host, run it there, and import what comes back, also when the host is gone before the end.

    None, where the device of that name has nothing left to measure.

    Raises:
        OSError: the host cannot be reached, is gone, or cannot run the kit.
        ValueError: the name belongs to another device.
    """
    source = RunWork(run, settings.name)
    open_work = _open_work(source, settings)
    # A kit that was not finished has results there that nobody has seen yet: the same work makes the same kit.
    work = _unfinished(source, open_work, settings) or open_work
    if not work.jobs:
        report.say(f"  {settings.name}: everything planned is measured")
        return None
    folder = _manifests(run) / f"sending-{settings.name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        kit = _write(source, work, settings, folder, report)
        if not host.has(kit):
            report.say(f"  sending {len({*work.anchors, *work.jobs})} networks to {host.name}")
            host.send(folder, kit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    received = _manifests(run) / f"{kit}.results.jsonl"
    try:
        with received.open("wb") as file, report.bar(f"measuring on {host.name}", len(work.jobs)) as advance:

            def take(line: bytes) -> None:
                file.write(line)
                file.flush()
                advance(_done(line), "")

            host.measure(kit, take)
    finally:
        something = received.read_bytes().count(b"\n") > 1  # the first line says of what they are
        imported = import_results(run, received, settings.name) if something else None
        received.unlink()
        if imported is not None:
            report.say(indent(str(imported), "  "))
    if imported is None:
        raise ValueError(f"{host.name} measured nothing; try `{host.python} measure.py` in the kit there")
    host.remove(kit)
    return imported


def _write(source: RunWork, work: Work, settings: KitSettings, out: Path, report: Reporter) -> str:
    with report.bar("writing networks", len({*work.anchors, *work.jobs})) as advance:
        manifest = write_kit(
            source,
            work,
            settings.name,
            out,
            batch_size=settings.batch_size,
            threads=settings.threads,
            hardware=settings.hardware,
            advance=advance,
        )
    kit = kit_id(manifest)
    write_json(_manifests(source.run) / f"{kit}.json", manifest)
    return kit


def _open_work(source: RunWork, settings: KitSettings) -> Work:
    """What the device of that name has still to measure; everything, if nobody knows it yet."""
    device = source.run.added_devices().get(settings.name)
    if device is None:
        work = Work("planned", tuple(source.first(settings.name)), tuple(source.planned(settings.name)))
    elif (device.batch_size, device.threads) != (settings.batch_size, settings.threads):
        raise ValueError(
            f"{device}: for batch {settings.batch_size} and {settings.threads} thread(s) give another name by --device"
        )
    elif not device.hardware.endswith(settings.hardware):
        raise ValueError(f"{device}: for {settings.hardware!r} give another name by --device")
    else:
        work = Board(source, refusals(source.run)).work(device)
    return work if work.purpose == "final" else replace(work, jobs=work.jobs[: settings.n])


def _unfinished(source: RunWork, open_work: Work, settings: KitSettings) -> Work | None:
    """The work of the last kit for this device, if some of it is still open."""
    paths = sorted(_manifests(source.run).glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    known = {job.name: job for job in (*source.planned(settings.name), *open_work.jobs)}
    for path in paths:
        manifest = read_json(path)
        same = (settings.name, settings.batch_size, settings.threads, settings.hardware)
        told = (manifest["name"], manifest["batch_size"], manifest["threads"], manifest.get("hardware", ""))
        if told == same:
            names = {name: _names(manifest, name) for name in ("anchors", "models")}
            is_open = manifest["purpose"] == open_work.purpose and set(names["models"]) & {
                j.name for j in open_work.jobs
            }
            if not is_open or not known.keys() >= {*names["anchors"], *names["models"]}:
                return None
            anchors, jobs = (tuple(known[name] for name in names[what]) for what in ("anchors", "models"))
            return Work(open_work.purpose, anchors, jobs)
    return None


def _names(manifest: Mapping[str, Any], what: str) -> list[Network]:
    return [(model["key"], model["resolution"]) for model in manifest[what]]


def _done(line: bytes) -> float:
    """How many networks are measured, about, as a line of the results says."""
    try:
        return float(json.loads(line)["done"])
    except (ValueError, KeyError, TypeError):
        return 0.0  # what is wrong with it is told when it is imported


def _manifests(run: RunFolder) -> Path:
    """Where the manifests of the kits lie that were made from the run."""
    return run.devices / "kits"
