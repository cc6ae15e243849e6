"""Bundles of a run: which networks go into one, and how its results come into the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Any

from experiments.files import read_json, write_json
from experiments.measuring.remote import RunCampaign, journal
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.loop.session import Network
from hardware.remote.board import Board, Outcome
from hardware.remote.bundle import bundle_id, read_results, results_bundle, write_bundle
from hardware.remote.campaign import Work
from hardware.remote.ssh import Host

__all__ = ["BundleSettings", "Imported", "import_results", "make_bundle", "measure_over_ssh"]


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
class BundleSettings:
    """What a bundle measures: under which name, how, and how many of the planned sub-networks (None: all)."""

    name: str
    batch_size: int = 1
    threads: int = 1
    n: int | None = None


def make_bundle(run: RunFolder, settings: BundleSettings, out: Path, report: Reporter) -> str:
    """Write the bundle of what the device has not measured yet; returns its id, by which its results are known.

    Raises:
        ValueError: there is nothing left to measure, `out` exists, or the name belongs to another device.
        OSError: the folder cannot be written.
    """
    campaign = RunCampaign(run, settings.name)
    return _write(campaign, _open_work(campaign, settings), settings, out, report)


def import_results(run: RunFolder, path: Path, name: str | None = None) -> Imported:
    """Take the results of a bundle of this run.

    Raises:
        ValueError: it is no result file, of no bundle of this run, was damaged or edited, or its device has a name that
            another device has. Nothing of it was taken.
        OSError: it cannot be read.
    """
    manifest_path = _manifests(run) / f"{results_bundle(path)}.json"
    if not manifest_path.is_file():
        raise ValueError(
            f"{path} is of a bundle that {run.path} does not know; import it into the run it was made from"
        )
    manifest = read_json(manifest_path)
    device, sessions = read_results(path, manifest)
    if not sessions:
        raise ValueError(f"{path}: nothing was measured yet")
    campaign = RunCampaign(run, manifest["name"] if name is None else name)
    device = campaign.register_alone(device)
    board = Board(campaign, journal(run))
    outcomes = [
        board.accept("import", device, one.posted, identity=one.identity, began=one.began, notes=one.notes)
        for one in sessions
    ]
    return Imported(device, tuple(outcomes), failed=sum(len(one.posted.failures) for one in sessions))


def measure_over_ssh(run: RunFolder, settings: BundleSettings, host: Host, report: Reporter) -> Imported | None:
    """Send a bundle to a host, run it there, and import what comes back, also when the host is gone before the end.

    None, where the device of that name has nothing left to measure.

    Raises:
        OSError: the host cannot be reached, is gone, or cannot run the bundle.
        ValueError: the name belongs to another device.
    """
    campaign = RunCampaign(run, settings.name)
    open_work = _open_work(campaign, settings)
    # A bundle that was not finished has results there that nobody has seen yet: the same work makes the same bundle.
    work = _unfinished(campaign, open_work, settings) or open_work
    if not work.jobs:
        report.say(f"  {settings.name}: everything planned is measured")
        return None
    folder = _manifests(run) / f"sending-{settings.name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        bundle = _write(campaign, work, settings, folder, report)
        if not host.has(bundle):
            report.say(f"  sending {len({*work.anchors, *work.jobs})} networks to {host.name}")
            host.send(folder, bundle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    received = _manifests(run) / f"{bundle}.results.jsonl"
    try:
        with received.open("wb") as file, report.bar(f"measuring on {host.name}", len(work.jobs)) as advance:

            def take(line: bytes) -> None:
                file.write(line)
                file.flush()
                advance(_done(line), "")

            host.measure(bundle, take)
    finally:
        something = received.read_bytes().count(b"\n") > 1  # the first line says of what they are
        imported = import_results(run, received, settings.name) if something else None
        received.unlink()
        if imported is not None:
            report.say(indent(str(imported), "  "))
    if imported is None:
        raise ValueError(f"{host.name} measured nothing; try `{host.python} measure.py` in the bundle there")
    host.remove(bundle)
    return imported


def _write(campaign: RunCampaign, work: Work, settings: BundleSettings, out: Path, report: Reporter) -> str:
    with report.bar("writing networks", len({*work.anchors, *work.jobs})) as advance:
        manifest = write_bundle(
            campaign,
            work,
            settings.name,
            out,
            batch_size=settings.batch_size,
            threads=settings.threads,
            advance=advance,
        )
    bundle = bundle_id(manifest)
    write_json(_manifests(campaign.run) / f"{bundle}.json", manifest)
    return bundle


def _open_work(campaign: RunCampaign, settings: BundleSettings) -> Work:
    """What the device of that name has still to measure; everything, if nobody knows it yet."""
    device = campaign.run.added_devices().get(settings.name)
    if device is None:
        work = Work("planned", tuple(campaign.first(settings.name)), tuple(campaign.planned(settings.name)))
    elif (device.batch_size, device.threads) != (settings.batch_size, settings.threads):
        raise ValueError(
            f"{device}: for batch {settings.batch_size} and {settings.threads} thread(s) give another name by --device"
        )
    else:
        work = Board(campaign, journal(campaign.run)).work(device)
    return work if work.purpose == "final" else replace(work, jobs=work.jobs[: settings.n])


def _unfinished(campaign: RunCampaign, open_work: Work, settings: BundleSettings) -> Work | None:
    """The work of the last bundle for this device, if some of it is still open."""
    paths = sorted(_manifests(campaign.run).glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    known = {job.name: job for job in (*campaign.planned(settings.name), *open_work.jobs)}
    for path in paths:
        manifest = read_json(path)
        same = (settings.name, settings.batch_size, settings.threads)
        if (manifest["name"], manifest["batch_size"], manifest["threads"]) == same:
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
    """Where the manifests of the bundles lie that were made from the run."""
    return run.devices / "bundles"
