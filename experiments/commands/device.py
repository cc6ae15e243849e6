"""The commands `supernet device ...`: browsers, remote hosts and more of this machine as devices of a run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from experiments.progress import Reporter
    from experiments.run_folder import RunFolder
    from hardware.device import Device
    from hardware.remote.board import DeviceProgress, Outcome
    from hardware.remote.server import DeviceServer

__all__ = ["app"]

_LONGEST_WORDS = 100  # characters about a device
_FAREWELL_SECONDS = 20  # in which every client asks once more, and hears that nothing is left

app = typer.Typer(help="Devices of a run: browsers, other hosts, and more of this machine.", no_args_is_help=True)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/digits.")]
Name = Annotated[str, typer.Option("--device", metavar="NAME", help="The name under which the device is added.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in every call.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the runtime.")]
Hardware = Annotated[
    str,
    typer.Option(
        help="What the device is beside what it tells of itself, such as '15 W mode': another text is another."
    ),
]
N = Annotated[int | None, typer.Option("--n", min=1, help="Only the first so many planned sub-networks.")]


@app.command()
def add(
    run: RunPath,
    name: Annotated[str, typer.Option("--name", help="The name of the device.")],
    runtime: Annotated[str, typer.Option(help="'onnxruntime', 'openvino', 'torch', or of a package.")] = "onnxruntime",
    provider: Annotated[str, typer.Option(help="Where it computes: 'cpu', 'cuda', 'tensorrt'.")] = "cpu",
    precision: Annotated[str, typer.Option(help="'fp32', 'bf16', 'fp16' or 'int8'.")] = "fp32",
    threads: Threads = 1,
    batch_size: BatchSize = 1,
    later: Annotated[
        bool, typer.Option("--later", help="Only add it; measure and search with `supernet run`.")
    ] = False,
) -> None:
    """Add a device of this machine to a run: it is measured, searched and compared like those of the recipe."""
    folder, report = _hold(run)
    from experiments import pipeline
    from experiments.measuring.managing import add_local_device, device_text

    chosen = {
        "name": name,
        "runtime": runtime,
        "provider": provider,
        "precision": precision,
        "threads": threads,
        "batch_size": batch_size,
    }
    held = folder.held
    folder = add_local_device(folder, chosen)
    folder.held = held
    for line in folder.news:
        report.say(line)
    report.say("to keep it when you call the recipe again, add this to the recipe that the run was started with:")
    report.say(device_text(chosen))
    if later:
        report.say(f"then: supernet run {quote(str(run / 'recipe.toml'))} --out {quote(str(run))}")
    else:
        pipeline.run(folder, report)


@app.command()
def rename(
    run: RunPath,
    old: Annotated[str, typer.Argument(metavar="NAME", help="An added device.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
) -> None:
    """Give an added device another name; what it has measured goes with it."""
    folder, report = _hold(run)
    from experiments.measuring.managing import rename_device

    rename_device(folder, old, new)
    report.say(f"{old} is {new} now; for its front, without measuring again: supernet search {run} --device {new}")


@app.command()
def remove(run: RunPath, name: Annotated[str, typer.Argument(metavar="NAME", help="An added device.")]) -> None:
    """Forget an added device; its name is free then, and what it has measured stays in the store."""
    folder, report = _hold(run)
    from experiments.measuring.managing import remove_device

    n = remove_device(folder, name)
    report.say(f"{name} is removed; {n} networks that were measured on it stay in the store, for an equal device")


@app.command()
def serve(
    run: RunPath,
    device: Name = "browser",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    batch_size: BatchSize = 1,
    n: N = None,
    runtime_folder: Annotated[
        Path | None, typer.Option(help="An unpacked npm package onnxruntime-web.  [default: fetched once with npm]")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, to serve by HTTPS; needs --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with the key of the certificate.")] = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="End when everything planned is measured.")] = False,
) -> None:
    """Make a device of every browser that opens the printed address. Ctrl-C ends it; nothing is lost."""
    if (certificate is None) != (key is None):
        raise ValueError("--certificate and --key belong together: give both")
    folder, report = _open(run)
    from experiments.measuring.remote import RunWork, refusals
    from hardware.remote.board import Board
    from hardware.remote.onnxruntime_web import runtime_folder as find_runtime
    from hardware.remote.server import DeviceServer

    def measured(device: Device, outcome: Outcome, progress: DeviceProgress) -> None:
        report.say(f"  {device.name}: {progress.done} of {progress.total} measured; {outcome}")
        for doubt in outcome.doubts:
            report.say(f"    {doubt}")
        if progress.side_by_side:
            report.say(f"    now {progress.side_by_side} of them once more side by side, in one session")

    runtime = find_runtime(runtime_folder)
    server = DeviceServer(
        Board(RunWork(folder, device, n), refusals(folder)),
        runtime,
        host,
        port,
        batch_size,
        certificate=None if certificate is None or key is None else (certificate, key),
        on_event=lambda text: report.say(f"  {text}"),
        on_session=measured,
    )
    report.say(f"open this address on the device: {server.address}")
    if host in ("127.0.0.1", "localhost", "::1"):
        report.say("  only this machine can; for a phone see docs/devices.md, or give --host 0.0.0.0")
    _serve(server, until_done=until_done)
    report.say("everything planned is measured")


@app.command()
def kit(
    run: RunPath,
    device: Name,
    out: Annotated[Path, typer.Option("--out", help="The new folder of the kit.")],
    batch_size: BatchSize = 1,
    threads: Threads = 1,
    n: N = None,
    hardware: Hardware = "",
) -> None:
    """Write a folder that measures wherever it is copied, with numpy and onnxruntime."""
    folder, report = _open(run)
    from experiments.measuring.kits import KitSettings, make_kit

    identity = make_kit(folder, KitSettings(device, batch_size, threads, n, _words(hardware)), out, report)
    report.say(f"{out}: kit {identity}")
    report.say("  copy it to the device, there: python measure.py")
    report.say(f"  bring results.jsonl back:  supernet device import {run} results.jsonl")


@app.command(name="import")
def import_(
    run: RunPath,
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="The results.jsonl of a kit of this run.")],
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Another name than that of the kit.")
    ] = None,
) -> None:
    """Take what a kit has measured, after checking it."""
    folder, report = _open(run)
    from experiments.measuring.kits import import_results

    report.say(str(import_results(folder, result, device)))


@app.command()
def ssh(
    host: Annotated[str, typer.Argument(metavar="HOST", help="As ssh knows it, such as pi@raspberry.local.")],
    run: RunPath,
    device: Name,
    batch_size: BatchSize = 1,
    threads: Threads = 1,
    n: N = None,
    hardware: Hardware = "",
    python: Annotated[str, typer.Option(help="Python there, with numpy and onnxruntime.")] = "python3",
    ssh_command: Annotated[str, typer.Option("--ssh", help="The ssh command, such as 'ssh -p 2222'.")] = "ssh",
) -> None:
    """Measure on a host that ssh reaches without a password. Run again, it carries on."""
    import shlex

    folder, report = _open(run)
    from experiments.measuring.kits import KitSettings, measure_over_ssh
    from hardware.remote.ssh import Host

    there = Host(host, shlex.split(ssh_command), python)
    measure_over_ssh(folder, KitSettings(device, batch_size, threads, n, _words(hardware)), there, report)


def _words(hardware: str) -> str:
    """As the device will have it.

    Raises:
        ValueError: it is too long, or nothing that can be read.
    """
    from hardware.remote.submission import printable

    words = printable(hardware, _LONGEST_WORDS + 1)
    if len(words) > _LONGEST_WORDS:
        raise ValueError(f"--hardware has more than {_LONGEST_WORDS} characters; say it in fewer")
    if hardware and not words:
        raise ValueError(f"--hardware {hardware!r} has nothing in it that can be read; leave it out")
    return words


def _serve(server: DeviceServer, *, until_done: bool) -> None:
    import threading
    import time

    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        while not (until_done and server.is_finished):
            time.sleep(0.5)
        patience = time.monotonic() + _FAREWELL_SECONDS
        while not server.is_known_to_be_finished and time.monotonic() < patience:
            time.sleep(0.1)
    finally:
        server.close()
        thread.join()


def _hold(run: Path) -> tuple[RunFolder, Reporter]:
    """The run, which no other process works in meanwhile."""
    from experiments.lock import hold

    folder, report = _open(run)
    folder.held = hold(run)
    return folder, report


def _open(run: Path) -> tuple[RunFolder, Reporter]:
    from experiments.progress import Reporter
    from experiments.run_folder import RunFolder

    return RunFolder(run), Reporter()
