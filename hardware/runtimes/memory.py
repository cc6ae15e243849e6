"""Peak memory of inference, from a process of its own that does nothing else.

`python -m hardware.memory model.onnx --threads 1` prints it in bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hardware.onnx.session import GraphOptimization, SessionSettings

__all__ = ["peak_memory"]


def peak_memory(
    model: bytes | Path, input_shape: Sequence[int], threads: int = 1, graph_optimization: GraphOptimization = "all"
) -> int:
    """Bytes that loading an ONNX file and running it on the CPU adds to a process, at the peak.

    The peak of the resident memory less what the process had with ONNX Runtime imported. A child process measures it,
    since a process that has run other networks has memory left over that a new one fits into.

    Raises:
        ValueError: the file does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, bytes):
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            model = path
        command = [sys.executable, "-m", __name__, str(model), "--threads", str(threads)]
        command += ["--graph-optimization", graph_optimization, "--shape", *map(str, input_shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise ValueError(f"the memory of {model} cannot be measured: {reason}")
    return int(done.stdout)


def _peak_of_this_process(path: Path, shape: Sequence[int], settings: SessionSettings) -> int:
    import numpy as np

    before = _resident(reset=True)
    session = settings.open(path, path.name, shape)
    images = np.zeros(shape, dtype=np.float32)
    for _ in range(3):
        session.run(None, {session.get_inputs()[0].name: images})
    return _resident() - before


def _resident(reset: bool = False) -> int:
    """Bytes of the highest resident memory so far; `reset` begins a new peak at what there is now."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if status.exists():
        if reset:
            clear.write_text("5")
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    # Without Linux's way to begin anew: importing took less than any network of interest will.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--shape", type=int, nargs=4, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--graph-optimization", default="all")
    arguments = parser.parse_args()
    settings = SessionSettings("cpu", arguments.threads, arguments.graph_optimization)
    try:
        print(_peak_of_this_process(arguments.path, arguments.shape, settings))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main()
