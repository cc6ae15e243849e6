"""A kit over ssh: sent, run there, and every line of its results back as soon as it is measured."""

from __future__ import annotations

import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from hardware.remote.measure import MARK, SAYS

__all__ = ["Host"]

_FOLDER = ".cache/supernet-nas"  # from the home folder there
_LONGEST_REASON = 2000  # characters
_OPTIONS = (
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=20",
    "-o",
    "ServerAliveInterval=15",
    "-o",
    "ServerAliveCountMax=4",
)


class Host:
    """A machine that ssh reaches without asking for a password, with a POSIX shell, tar and Python.

    Args:
        name: as ssh knows it: ``pi@raspberry.local`` or a name of the ssh configuration.
        ssh: the command, for example ``("ssh", "-p", "2222")``.
        python: there, with numpy and onnxruntime.

    Raises:
        ValueError: the name could be taken for an option.
    """

    def __init__(self, name: str, ssh: Sequence[str] = ("ssh",), python: str = "python3") -> None:
        if not name or name.startswith("-") or any(c.isspace() for c in name):
            raise ValueError(f"{name!r} is not the name of a host")
        self.name = name
        self.ssh = ssh
        self.python = python

    def has(self, kit: str) -> bool:
        """Whether the kit is there, whole.

        Raises:
            OSError: the host cannot be reached.
        """
        return self._run(f"test -d {_FOLDER}/{kit}", expect=(0, 1)) == 0

    def send(self, folder: Path, kit: str) -> None:
        """Copy the kit there; it has its name only when it is complete.

        Raises:
            OSError: the host cannot be reached or takes no more.
        """
        part = shlex.quote(f"{_FOLDER}/{kit}.part")
        script = (
            f"rm -rf {part} && mkdir -p {part} && tar -xf - -C {part} && mv {part} {shlex.quote(f'{_FOLDER}/{kit}')}"
        )
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self._command(script), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
            )
            assert process.stdin is not None
            try:
                with process.stdin, tarfile.open(fileobj=process.stdin, mode="w|") as tar:
                    tar.add(folder, arcname=".")
            except BrokenPipeError:
                pass  # the reason is among the errors
            finally:
                code = process.wait()
            if code != 0:
                raise OSError(f"cannot send the kit to {self.name}: {_last_line(errors, code)}")

    def measure(self, kit: str, on_line: Callable[[bytes], None]) -> None:
        """Run the kit; its result file comes line by line, from its beginning, also what was measured before.

        What a shell prints before is left out.

        Raises:
            OSError: the host is gone, or the script cannot run there; what was measured stays there.
        """
        script = f"cd {shlex.quote(f'{_FOLDER}/{kit}')} && exec {shlex.quote(self.python)} -u measure.py --print"
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self._command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
            assert process.stdout is not None
            try:
                with process.stdout:
                    lines = iter(process.stdout)
                    for line in lines:
                        if line.strip() == MARK.encode():
                            break
                    for line in lines:
                        on_line(line)
            except BaseException:
                process.terminate()
                raise
            finally:
                code = process.wait()
            if code != 0:
                raise OSError(
                    f"measuring on {self.name} ended early: {_last_line(errors, code)}; the same command carries on"
                )

    def remove(self, kit: str) -> None:
        """Remove the kit and its results there."""
        self._run(f"rm -rf {shlex.quote(f'{_FOLDER}/{kit}')}", expect=(0,))

    def _command(self, script: str) -> list[str]:
        return [*self.ssh, *_OPTIONS, "--", self.name, script]

    def _run(self, script: str, expect: Sequence[int]) -> int:
        with tempfile.TemporaryFile() as errors:
            code = subprocess.run(
                self._command(script), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, check=False
            ).returncode
            if code not in expect:
                raise OSError(f"cannot work on {self.name}: {_last_line(errors, code)}")
        return code


def _last_line(errors: IO[bytes], code: int) -> str:
    errors.seek(0)
    lines = errors.read()[-10_000:].decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    told = [line for line in said if line.startswith(SAYS)]  # other lines are of the shell there
    return (told or said)[-1][:_LONGEST_REASON] if said else f"it ended with code {code}"
