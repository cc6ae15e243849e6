"""The command line: the verbs of the pipeline. Heavy libraries are imported inside the verbs that need them."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from experiments.commands import bundles, device, measurements, steps
from experiments.commands.query import query

__all__ = ["app", "main"]

app = typer.Typer(
    help="One supernet, trained once; for every device its own sub-network, by measured latency.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(device.app, name="device")
app.add_typer(measurements.app, name="measurements")

_INTERRUPTED = 130  # what typer ends with after Ctrl-C
_ASKED_TO_STOP = 143  # what training ends with after SIGTERM


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"supernet-nas {version('supernet-nas')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


for verb in (  # in the order of the help
    *(steps.init, steps.run, steps.demo, steps.data, steps.train, steps.profile, steps.score, steps.fit, steps.search),
    *(query, bundles.export, bundles.cascade, bundles.finetune, bundles.merge, bundles.push),
    *(steps.compare, steps.explain),
):
    app.command()(verb)


def main() -> None:
    """Run the command; what a person can mend is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal has no letters for is spelled out, and nothing raises.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        first = os.environ.get("RANK", "0") == "0"
        if end.code == _INTERRUPTED and first:
            print("supernet: interrupted; the same command carries on from here", file=sys.stderr)
        if end.code == _ASKED_TO_STOP and first:
            print(f"supernet: {end}", file=sys.stderr)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        sys.exit(1)
    except (ValueError, OSError) as error:
        if os.environ.get("SUPERNET_TRACEBACK"):
            raise
        reason = str(error) if isinstance(error, ValueError) or not error.strerror else _os_error(error)
        print("\n".join(f"supernet: {line}" for line in reason.splitlines()), file=sys.stderr)
        sys.exit(2)


def _os_error(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
