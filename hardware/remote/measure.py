#!/usr/bin/env python3
"""Measures the networks of this folder with ONNX Runtime: `python measure.py`. Needs only numpy and onnxruntime.

Every finished group of networks is a line of results.jsonl, so it can be stopped at any time and carries on. For
Python 3.9 or newer; the folder comes from `supernet device bundle`, and `supernet device import` reads the results.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import hmac
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

__all__ = ["canonical", "chained", "measure_group", "read_lines"]

RESULTS = "results.jsonl"


# -- files ------------------------------------------------------------------------------------------------------------


def canonical(content: Any) -> bytes:
    """Plain data as bytes, the same wherever it is done."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def chained(manifest_id: str, previous: str, content: Any) -> str:
    """The digest of a line: it depends on the bundle, on every line before and on the content.

    It shows damage and careless editing. It is no signature: whoever has the bundle can compute it.
    """
    return hmac.new(manifest_id.encode(), previous.encode() + canonical(content), hashlib.sha256).hexdigest()


def read_lines(data: bytes, manifest_id: str) -> tuple[list[Any], str, int]:
    """Contents of the lines of a result file, its last digest, and how many bytes are whole lines.

    A last line without its end was cut off by a kill and is left out.

    Raises:
        ValueError: a line is not what was written.
    """
    contents, previous, length = [], "", 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            content, digest = row["content"], row["digest"]
            expected = chained(manifest_id, previous, content)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"line {number} is not a line of results") from None
        if not isinstance(digest, str) or not hmac.compare_digest(digest.encode(), expected.encode()):
            raise ValueError(f"line {number} is not as it was written: its digest does not fit")
        contents.append(content)
        previous, length = digest, length + len(line)
    return contents, previous, length


def read_manifest(folder: str) -> tuple[dict[str, Any], str]:
    """The manifest and its id, with every file checked against it."""
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    for name, expected in manifest["files"].items():
        with open(os.path.join(folder, *name.split("/")), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != expected:
                raise ValueError(f"{name} is not the file that was shipped; copy the folder again")
    return manifest, hashlib.sha256(canonical(manifest)).hexdigest()[:32]


class Results:
    """The result file: its lines so far, and adding one."""

    def __init__(self, path: str, manifest_id: str, head: dict[str, Any]) -> None:
        self.manifest_id = manifest_id
        self.file = open(path, "a+b")  # noqa: SIM115  (open, and locked, until the end)
        _lock(self.file)
        self.file.seek(0)
        data = self.file.read()
        self.contents, self.previous, length = read_lines(data, manifest_id)
        self.file.truncate(length)
        if not self.contents:
            self.add(head)
        elif self.contents[0] != head:
            raise ValueError(f"{path} is of another device ({self.contents[0]}); move it away to begin anew")

    def add(self, content: dict[str, Any]) -> dict[str, Any]:
        """Write a line, on the disk when this returns."""
        self.previous = chained(self.manifest_id, self.previous, content)
        line = {"content": content, "digest": self.previous}
        self.file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.contents.append(content)
        return line


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError("another measure.py is at work in this folder; wait for it or stop it") from None


# -- measuring --------------------------------------------------------------------------------------------------------


class Course:
    """One network on its way to a tight interval of its median; `run(calls)` calls it so many times in a row."""

    def __init__(self, run: Callable[[int], None], sampling: dict[str, Any], now: Callable[[], float]) -> None:
        self.run, self.sampling, self.now = run, sampling, now
        self.calls = self.settling_calls = 0
        self.origin = now()
        self.seconds: list[float] = []
        self.started: list[float] = []

    def forget(self, origin: float) -> None:
        """Begin anew with repeats, which start at seconds since `origin`."""
        self.origin, self.seconds, self.started = origin, [], []

    def time(self, calls: int) -> float:
        """Seconds of so many calls; a clock that was set back, or stands still, is asked again."""
        for _ in range(20):
            start = self.now()
            self.run(calls)
            seconds = self.now() - start
            if seconds > 0:
                return seconds
        raise ValueError("the clock of this device does not go forward")

    def warm_up(self) -> None:
        """Until no call is faster than the fastest before by more than 2 %, three times in a row."""
        fastest, settled, spent = math.inf, 0, 0.0
        while settled < 3 and (spent < self.sampling["max_seconds"] / 4 or fastest == math.inf):
            call = self.time(1)
            settled = 0 if call < 0.98 * fastest else settled + 1
            fastest, spent = min(fastest, call), spent + call
        self.calls = math.ceil(self.sampling["min_repeat_seconds"] / fastest)
        self.settling_calls = math.ceil(self.sampling["settling_seconds"] / fastest)

    def repeat(self) -> None:
        """One turn: settle, then one repeat."""
        self.run(self.settling_calls)
        self.started.append(max(0.0, round(self.now() - self.origin, 6)))
        self.seconds.append(self.time(self.calls) / self.calls)

    def done(self) -> bool:
        """Whether the interval is tight, or the limits are reached."""
        if len(self.seconds) < self.sampling["min_repeats"]:
            return False
        spent = sum(self.seconds) * self.calls
        exhausted = len(self.seconds) >= self.sampling["max_repeats"] or spent >= self.sampling["max_seconds"]
        return exhausted or half_width(self.seconds) <= self.sampling["relative_half_width"]


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the median as a share of it, between two order statistics (Conover 1999)."""
    n = len(values)
    limit = 2**n * 25 // 1000
    rank, tail = 0, 1
    while tail <= limit:
        rank += 1
        tail += math.comb(n, rank)
    if rank == 0:
        return math.inf
    ordered = sorted(values)
    return (ordered[-rank] - ordered[rank - 1]) / 2 / statistics.median(ordered)


def measure_group(
    reference: Course, courses: list[Course], level: float | None, sampling: dict[str, Any], rng: Any
) -> None:
    """Take turns in random order until all are done; again, once, if the reference network is off its level."""
    for course in [reference, *courses]:
        if not course.calls:
            course.warm_up()
    gc.disable()
    try:
        for _ in range(2):
            for course in [reference, *courses]:
                course.forget(reference.origin)  # the same for all groups
            while True:
                active = [course for course in courses if not course.done()]
                if not active:
                    break
                active.append(reference)
                for turn in rng.permutation(len(active)):
                    active[turn].repeat()
            drift = 0 if level is None else statistics.median(reference.seconds) / level - 1
            if abs(drift) <= sampling["drift"]:
                break
    finally:
        gc.enable()


def load(path: str, manifest: dict[str, Any]) -> Callable[[int], None]:
    """A function that calls the network in the file so many times on one batch of random images."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = manifest["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=[manifest["provider"]])
    if session.get_providers()[0] != manifest["provider"]:
        raise ValueError(f"it would run on {session.get_providers()[0]}, not on {manifest['provider']}")
    images = session.get_inputs()[0]
    binding = session.io_binding()
    values = np.random.default_rng(0).standard_normal(images.shape).astype(np.float32)
    binding.bind_cpu_input(images.name, values)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def run(calls: int) -> None:
        for _ in range(calls):
            session.run_with_iobinding(binding)

    run(1)
    return run


def cpu_description() -> str:
    """The model and the number of cores of this machine's CPU."""
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model", "cpu model") and value.strip():
                    model = " ".join(value.split())
                    break
    if not model and platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        model = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description="Measure the networks of this folder.")
    parser.add_argument("--print", action="store_true", help="write the lines of the result file to the output")
    print_lines = parser.parse_args().print
    folder = os.path.dirname(os.path.abspath(__file__))
    manifest, manifest_id = read_manifest(folder)
    try:
        import numpy as np
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: python -m pip install numpy onnxruntime") from None

    device = {"hardware": cpu_description(), "runtime_version": onnxruntime.__version__}
    head = {"manifest": manifest_id, "device": device}
    path = os.path.join(folder, RESULTS)
    results = Results(path, manifest_id, head)
    if print_lines:
        with open(path, "rb") as file:
            sys.stdout.write(file.read().decode())
            sys.stdout.flush()
    groups = results.contents[1:]
    done = {(row["key"], row["resolution"]) for group in groups for row in group["results"] + group["failures"]}
    waiting = [model for model in manifest["models"] if (model["key"], model["resolution"]) not in done]
    levels = [statistics.median(group["reference_seconds"]) for group in groups if group["results"]]
    sampling, rng = manifest["sampling"], np.random.default_rng([manifest["sampling"]["seed"], len(done)])
    reference = Course(load(os.path.join(folder, "models", "reference.onnx"), manifest), sampling, time.perf_counter)
    total, started = len(manifest["models"]), time.monotonic()
    for first in range(0, len(waiting), sampling["group_size"]):
        group, courses, failures = [], [], []
        for model in waiting[first : first + sampling["group_size"]]:
            where = {"key": model["key"], "resolution": model["resolution"]}
            try:
                run = load(os.path.join(folder, *model["file"].split("/")), manifest)
            except Exception as error:  # whatever the runtime raises, it is this network's failure and no other's
                failures.append(dict(where, reason=(str(error).splitlines() or [type(error).__name__])[0][:1000]))
                continue
            group.append(where)
            courses.append(Course(run, sampling, time.perf_counter))
        if courses:
            measure_group(reference, courses, statistics.median(levels) if levels else None, sampling, rng)
            levels.append(statistics.median(reference.seconds))
        content = {
            "reference_seconds": reference.seconds if courses else None,
            "reference_started": reference.started if courses else None,
            "results": [
                dict(where, seconds=course.seconds, started=course.started, calls_per_repeat=course.calls)
                for where, course in zip(group, courses)  # noqa: B905  (strict is newer than 3.9)
            ],
            "failures": failures,
        }
        line = results.add(content)
        finished = first + len(group) + len(failures)
        if print_lines:
            print(json.dumps(line, allow_nan=False), flush=True)
        else:
            left = (time.monotonic() - started) / finished * (len(waiting) - finished)
            print(f"{len(done) + finished} of {total}, about {left:.0f} s left", flush=True)
    if not print_lines:
        print(f"everything is measured: bring {RESULTS} back for `supernet device import`")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("measure.py: stopped; run it again to carry on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(f"measure.py: {error}", file=sys.stderr)
        sys.exit(2)
