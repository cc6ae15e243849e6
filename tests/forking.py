"""A command line in a process of its own that has nothing to import any more.

A new interpreter takes 4 to 7 seconds to import torch and what else a run needs. This one imports all of that and
computes nothing; for each line that it reads it forks, and the child becomes the command of that line: the same
program in a process of its own, to its end. `Commands` in conftest.py writes the lines.
"""

import json
import os
import resource
import runpy
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTED = (  # and with them torch, timm, scikit-learn, pandas, matplotlib and pymoo, before anybody asks for them
    "experiments.pipeline", "experiments.commands.tables", "experiments.data.digits", "experiments.lock",
    "experiments.report.page", "hardware.onnx.session", "hardware.runtimes.onnxruntime_profiler",
    "predictors.makers", "search.tactics.array_nsga2", "supernet.families.multi_stage_vit",
    "supernet.networks.from_timm", "supernet.ofa.mobilenetv3", "sklearn.datasets", "matplotlib.pyplot",
)  # fmt: skip


def serve() -> str | None:
    """Forks for each line of stdin. It returns in the process of a command, with its program where this is no command
    line; the other processes leave at their ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if os.fork() == 0:
            return watch(request)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    sys.exit()


def watch(request: dict[str, Any]) -> str | None:
    """Forks once more, and writes down who the child is and how it ends. It returns in the child."""
    pid = os.fork()
    if pid == 0:
        return become(request)
    with suppress(PermissionError):  # where the child itself was faster
        os.setpgid(pid, pid)
    print(pid, flush=True)
    ended = Path(request["folder"]) / "ended"
    ended.write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    ended.rename(ended.with_name("code"))
    os._exit(0)


def become(request: dict[str, Any]) -> str | None:
    os.setpgid(0, 0)
    signal.alarm(request["seconds"])  # which kills it, should it hang
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(request["folder"]) / name, os.O_WRONLY | os.O_APPEND), stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.path[:0] = [*request["path"], request["cwd"]]
    sys.argv = ["supernet", *request["arguments"]]
    if request["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    return request["program"]


if __name__ == "__main__":  # which it is not where a command spawns another
    sys.path[0] = str(Path(__file__).parents[1])
    for module in IMPORTED:
        import_module(module)
    program = serve()
    if program is None:
        from experiments.cli import main

        main()
    else:
        runpy.run_path(program, run_name="__main__")
