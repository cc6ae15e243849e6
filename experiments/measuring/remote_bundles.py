"""Bundles of a run: which networks go into one, and how its results come into the store."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.files import read_json, write_json
from experiments.measuring.remote import RunCampaign, journal
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.remote.board import Board
from hardware.remote.bundle import bundle_id, read_results, results_bundle, write_bundle
from hardware.remote.campaign import Job
from hardware.remote.ssh import Host

__all__ = ["BundleSettings", "Imported", "import_results", "make_bundle", "measure_over_ssh"]


@dataclass(frozen=True)
class Imported:
    """What an import brought."""

    device: Device
    added: int
    known: int
    failed: int
    refused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.added} added"]
        parts += [f"{n} {what}" for n, what in ((self.known, "known already"), (self.failed, "failed there")) if n]
        parts += [f"{len(self.refused)} refused, the first: {self.refused[0]}"] if self.refused else []
        return f"{self.device}: {', '.join(parts)}"


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
    return _write(campaign, _open_jobs(campaign, settings), settings, out, report)


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
    device, groups = read_results(path, manifest)
    campaign = RunCampaign(run, manifest["name"] if name is None else name)
    device = campaign.register_alone(device)
    board = Board(campaign, journal(run))
    outcomes = [board.accept("import", device, group) for group in groups]
    return Imported(
        device,
        added=sum(len(outcome.added) for outcome in outcomes),
        known=sum(outcome.known for outcome in outcomes),
        failed=sum(len(group.failures) for group in groups),
        refused=tuple(reason for outcome in outcomes for reason in outcome.refused),
    )


def measure_over_ssh(run: RunFolder, settings: BundleSettings, host: Host, report: Reporter) -> Imported:
    """Send a bundle to a host, run it there, and import what comes back, also when the host is gone before the end.

    Raises:
        OSError: the host cannot be reached, is gone, or cannot run the bundle.
        ValueError: there is nothing left to measure, or the name belongs to another device.
    """
    campaign = RunCampaign(run, settings.name)
    open_jobs = _open_jobs(campaign, settings)
    # A bundle that was not finished has results there that nobody has seen yet: the same jobs make the same bundle.
    jobs = _unfinished(campaign, open_jobs, settings) or open_jobs
    folder = _manifests(run) / f"sending-{settings.name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        bundle = _write(campaign, jobs, settings, folder, report)
        if not host.has(bundle):
            report.say(f"  sending {len(jobs)} networks to {host.name}")
            host.send(folder, bundle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    received = _manifests(run) / f"{bundle}.results.jsonl"
    try:
        with received.open("wb") as file, report.bar(f"measuring on {host.name}", len(jobs)) as advance:
            n_done = 0

            def take(line: bytes) -> None:
                nonlocal n_done
                file.write(line)
                file.flush()
                n_done += line.count(b'"key"')
                advance(n_done, "")

            host.measure(bundle, take)
    finally:
        imported = import_results(run, received, settings.name) if received.stat().st_size else None
        received.unlink()
        if imported is not None:
            report.say(f"  {imported}")
    if imported is None:
        raise ValueError(f"{host.name} said nothing; try `{host.python} measure.py` in the bundle there")
    host.remove(bundle)
    return imported


def _write(campaign: RunCampaign, jobs: Sequence[Job], settings: BundleSettings, out: Path, report: Reporter) -> str:
    with report.bar("writing networks", len(jobs)) as advance:
        manifest = write_bundle(
            campaign,
            jobs,
            settings.name,
            out,
            batch_size=settings.batch_size,
            threads=settings.threads,
            advance=advance,
        )
    bundle = bundle_id(manifest)
    write_json(_manifests(campaign.run) / f"{bundle}.json", manifest)
    return bundle


def _open_jobs(campaign: RunCampaign, settings: BundleSettings) -> list[Job]:
    """What the device of that name has still to measure; everything, if nobody knows it yet."""
    device = campaign.run.added_devices().get(settings.name)
    if device is None:
        return list(campaign.planned(settings.name))[: settings.n]
    if (device.batch_size, device.threads) != (settings.batch_size, settings.threads):
        raise ValueError(
            f"{device}: for batch {settings.batch_size} and {settings.threads} thread(s) give another name by --device"
        )
    return Board(campaign, journal(campaign.run)).open(device)[: settings.n]


def _unfinished(campaign: RunCampaign, open_jobs: Sequence[Job], settings: BundleSettings) -> list[Job]:
    """The jobs of the last bundle for this device, if some of them are still open."""
    paths = sorted(_manifests(campaign.run).glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    planned = {(job.key, job.resolution): job for job in campaign.planned(settings.name)}
    for path in paths:
        manifest = read_json(path)
        wheres = [(model["key"], model["resolution"]) for model in manifest["models"]]
        same = (settings.name, settings.batch_size, settings.threads)
        if (manifest["name"], manifest["batch_size"], manifest["threads"]) == same and planned.keys() >= set(wheres):
            return (
                [planned[where] for where in wheres] if set(wheres) & {(j.key, j.resolution) for j in open_jobs} else []
            )
    return []


def _manifests(run: RunFolder) -> Path:
    """Where the manifests of the bundles lie that were made from the run."""
    return run.devices / "bundles"
