"""One process at a time works in the folder of a run; whoever is second is told who is the first."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # a system without POSIX
    fcntl = None

__all__ = ["check_writable", "hold"]

_NAME = ".in-use"


def check_writable(run: Path) -> None:
    """Raises ValueError where nothing can be written in the folder of a run, such as in an archive."""
    if not os.access(run, os.W_OK):
        raise ValueError(
            f"{run} cannot be written to: copy it to where that is possible; `supernet query "
            f"{shlex.quote(str(run))}` and `supernet measurements` read it where it is"
        )


def hold(run: Path) -> BinaryIO | None:
    """Hold the run for this process, until it ends or the file that is returned is closed or forgotten; processes that
    it starts do not hold it.

    A lock of the system and not the existence of a file: a kill leaves nothing behind that anybody would have to
    remove. Where the file system has no locks, nothing is held: None.

    Raises:
        ValueError: another process holds it, or it cannot be written to.
    """
    check_writable(run)
    if fcntl is None:
        return None
    file = os.fdopen(os.open(run / _NAME, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = file.read(500).decode(errors="replace").strip()
        file.close()
        raise ValueError(
            f"{run} is in use by {holder or 'another process'}; wait until that has ended, or end it"
        ) from None
    except OSError:
        file.close()
        return None
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {since} ({command})\n"[:500].encode())
    return file
