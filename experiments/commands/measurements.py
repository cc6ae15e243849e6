"""``supernet measurements``: look at the store of a run, hand measurements on, take in others, save a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hardware.device import Device
    from hardware.loop.session import Session
    from hardware.store.store import Store

__all__ = ["app"]

app = typer.Typer(help="List, show, export, import, back up and recover measurements.", no_args_is_help=True)

StorePath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or a store.sqlite.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="Only of devices of this name.")]


@app.command("list")
def list_measurements(run: StorePath, device: DeviceName = None) -> None:
    """What was measured, planned and failed on every device, and why some of it is kept apart."""
    from experiments.commands.measurement_tables import print_devices
    from hardware.store.wholeness import check_whole

    with _open(run, read_only=True) as store:  # takes back what a kill left half written
        check_whole(_path(run))
        print_devices(store, _devices(store, device))


@app.command("show")
def show_measurement(
    run: StorePath,
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of a sub-network or name of a model, or how it begins.")],
    device: DeviceName = None,
) -> None:
    """What is known of one network: its latency and how sure it is, every session it took part in, its repeats."""
    from experiments.commands.measurement_tables import print_network

    with _open(run, read_only=True) as store:
        print_network(store, _devices(store, device), key)


@app.command("export")
def export_measurements(
    run: StorePath,
    out: Annotated[Path, typer.Option("--out", help="The table to write: a .csv or .parquet file.")],
    device: DeviceName = None,
) -> None:
    """Write sessions with all their repeats as a table for other programs, and for `import`."""
    from hardware.store.exchange import write_sessions
    from supernet.files import replacing

    with _open(run, read_only=True) as store:
        found = [session for one in _devices(store, device) for session in store.sessions(one)]
    with replacing(out) as temporary:
        write_sessions(found, temporary)
    typer.echo(f"{_count(len(found))} of {_networks(found)} networks written to {out}")


@app.command("import")
def import_measurements(
    run: StorePath, table: Annotated[Path, typer.Argument(metavar="TABLE", help="What `export` wrote.")]
) -> None:
    """Add the sessions of a table; all of it is checked first, and what is there already stays."""
    from hardware.store.exchange import read_sessions

    sessions = read_sessions(table)
    with _open(run) as store:
        added = store.add_sessions(sessions, origin=table.name)
    typer.echo(f"{_count(added)} added, {len(sessions) - added} were there already")


@app.command("studies")
def export_studies(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was searched.")],
    out: Annotated[Path, typer.Option("--out", help="The SQLite file to write, such as studies.db.")],
) -> None:
    """Write a run's candidates as studies of Optuna, for its dashboard; needs the extra `optuna`."""
    from experiments.run_folder import RunFolder
    from experiments.studies import write_studies

    names = write_studies(RunFolder(run), out)
    typer.echo(f"{out}: {', '.join(names)}; look at it: optuna-dashboard sqlite:///{out}")


@app.command("retry")
def retry_failures(run: StorePath, device: DeviceName = None) -> None:
    """Let what did not run on a device be tried again, say after an upgrade of its runtime."""
    with _open(run) as store:
        n = sum(store.forget_failures(one) for one in _devices(store, device))
    typer.echo(f"{n} failures forgotten; what is planned is tried again with the next measuring")


@app.command("backup")
def back_up_store(run: StorePath, out: Annotated[Path, typer.Option("--out", help="The new file.")]) -> None:
    """Write a whole copy of a store, also while something is measured into it; the copy is checked row by row."""
    from hardware.store.wholeness import back_up

    rows = back_up(_path(run), out)
    told = ", ".join(f"{rows[table]} {table}" for table in ("sessions", "networks", "turns", "scores"))
    typer.echo(f"{out}: {told}; checked, all of it is there")


@app.command("recover")
def recover_store(
    damaged: Annotated[Path, typer.Argument(metavar="FILE", help="The damaged store.sqlite.")],
    out: Annotated[Path, typer.Option("--out", help="The new file.")],
) -> None:
    """Save what can be read of a damaged store into a new file; the damaged one stays as it is."""
    from hardware.store.recovery import recover

    done = recover(damaged, out)
    saved = ", ".join(f"{n} {table}" for table, n in done.recovered.items())
    lost = "an unknown number of rows" if done.lost is None else f"{done.lost} rows"
    typer.echo(f"{out}: {saved} saved; {lost} could not be read, {done.rejected} were not as they had been written")
    typer.echo(f"to go on with it: move {damaged} away (with its -journal, if any), and {out} into its place")


def _count(n: int) -> str:
    return f"{n} session{'' if n == 1 else 's'}"


def _networks(sessions: Sequence[Session]) -> int:
    return len({(session.device, network.name) for session in sessions for network in session.networks})


def _open(run: Path, read_only: bool = False) -> Store:
    from hardware.store.store import Store

    return Store(_path(run), read_only)


def _path(run: Path) -> Path:
    path = run / "store.sqlite" if run.is_dir() else run
    if not path.is_file():  # opening it would make a new one
        raise ValueError(f"there is no store at {path}; give the folder of a run that has measured something")
    return path


def _devices(store: Store, name: str | None) -> list[Device]:
    devices = store.devices()
    if name is None:
        return devices
    if found := [device for device in devices if device.name == name]:
        return found
    names = ", ".join(dict.fromkeys(device.name for device in devices)) or "none"
    raise ValueError(f"nothing was measured on a device {name!r} in {store.path}; there are: {names}")
