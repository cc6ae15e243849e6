#!/usr/bin/env python3
"""Measures the networks of this folder with ONNX Runtime: `python measure.py`. Needs only numpy and onnxruntime.

What is measured is in results.jsonl about ten seconds later, so it can be stopped at any time and carries on. For
Python 3.9 or newer; the folder comes from `supernet device kit`, and `supernet device import` reads the results.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import hmac
import itertools
import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

if __name__ == "__main__":  # also where Python is told not to look beside a script (-I, PYTHONSAFEPATH)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from hardware.loop.cpu import cpu_description
from hardware.loop.turns import Course, DeviceGoneError, Runner, Sampling, check_others, one_line, take_turns

__all__ = ["MARK", "SAYS", "canonical", "chained", "measure", "read_lines"]

MARK = "--- the results of measure.py follow ---"  # a shell may have greeted before
SAYS = "measure.py: "  # how a reason begins
_RESULTS = "results.jsonl"
_WRITTEN_EVERY = 10.0  # seconds
_FEWEST = 4  # networks beside the anchors, however long a turn takes
_MEMORY_SHARE = 8  # files of a session fill at most one part in so many; what runs takes about twice as much as files

Model = dict[str, Any]  # a network as the manifest has it


# -- files ------------------------------------------------------------------------------------------------------------


def canonical(content: Any) -> bytes:
    """Plain data as bytes, the same wherever it is done."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def chained(manifest_id: str, previous: str, content: Any) -> str:
    """The digest of a line: it depends on the kit, on every line before and on the content.

    It shows damage and careless editing. It is no signature: whoever has the kit can compute it.
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
        if len(self.contents) == 1:  # nothing was measured: what runs here may have been mended since
            self.contents, self.previous, length = [], "", 0
        self.set_aside = ""
        if self.contents and self.contents[0] != head:  # say after an upgrade of the runtime: another device
            self.set_aside = _free_name(path)
            with open(self.set_aside, "wb") as kept:
                kept.write(data)
            self.contents, self.previous, length = [], "", 0
        self.file.truncate(length)
        if not self.contents:
            self.add(head)

    def add(self, content: dict[str, Any], done: float = 0.0) -> str:
        """Write a line, on the disk when this returns; `done` networks, about, are measured with it."""
        self.previous = chained(self.manifest_id, self.previous, content)
        line = json.dumps({"content": content, "digest": self.previous, "done": round(done, 1)}, allow_nan=False)
        self.file.write(line.encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.contents.append(content)
        return line

    def measured(self, min_turns: int) -> set[tuple[str, int]]:
        """Key and resolution of what took so many turns of one session."""
        turns = Counter()
        for part in self.contents[1:]:
            for i, network in enumerate(part["networks"]):
                taken = sum(turn["seconds"][i] is not None for turn in part["turns"])
                turns[part["session"], _name(network)] += taken
        return {name for (_, name), n in turns.items() if n >= min_turns}

    def failed(self) -> set[tuple[str, int]]:
        """Key and resolution of what does not run here."""
        return {_name(failure) for part in self.contents[1:] for failure in part["failures"]}


def _free_name(path: str) -> str:
    """``results-2.jsonl`` beside ``results.jsonl``, or the next number that is free."""
    stem, suffix = os.path.splitext(path)
    return next(name for i in itertools.count(2) if not os.path.exists(name := f"{stem}-{i}{suffix}"))


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


@dataclass
class Entrant:
    """A network that is loaded."""

    model: Model
    course: Course
    call_seconds: float  # about

    def described(self) -> dict[str, Any]:
        """As it stands in the results."""
        key, resolution = _name(self.model)
        return {"key": key, "resolution": resolution, "calls_per_repeat": max(1, self.course.calls)}


def measure(
    manifest: dict[str, Any],
    load: Callable[[Model], Runner],
    measured: set[tuple[str, int]],
    failed: set[tuple[str, int]],
) -> Iterator[tuple[dict[str, Any], float]]:
    """Measure what is left, session by session, each beside the anchors.

    Every stretch of a session is handed out, with how many networks, about, are done with it.

    Raises:
        ValueError: not one anchor runs here.
        DeviceGoneError: nothing runs any more; what was measured before is handed out.
    """
    sampling, is_final = Sampling(**manifest["sampling"]), manifest["purpose"] == "final"
    waiting = [model for model in manifest["models"] if _name(model) not in measured | failed]
    if is_final and waiting:  # all in one session
        waiting = [model for model in manifest["models"] if _name(model) not in failed]
    failures: list[dict[str, Any]] = []
    anchors: list[Entrant] = []
    if waiting:
        for model in manifest["anchors"]:
            if _name(model) not in failed:
                _enter(model, load, sampling, anchors, anchors, failures)
        if failures and not anchors:  # it is not the networks
            raise ValueError(f"not one of {len(failures)} networks runs here, the first: {failures[0]['reason']}")
    n_anchors = sum(model in waiting for model in manifest["anchors"])  # to be measured for themselves
    waiting = [model for model in waiting if model not in manifest["anchors"]]
    n_sessions, done = 0, len(manifest["models"]) - len(waiting) - n_anchors
    while waiting or n_anchors:
        entrants: list[Entrant] = []
        n_sessions, n_waiting = n_sessions + 1, len(waiting)
        while waiting and (is_final or not _is_full(anchors, entrants, sampling)):
            _enter(waiting.pop(0), load, sampling, entrants, [*anchors, *entrants], failures)
        n = n_waiting - len(waiting) + n_anchors
        session = {"session": secrets.token_hex(8), "purpose": manifest["purpose"]}
        for stretch, share in take_session([*anchors, *entrants], sampling, sampling.seed + n_sessions, failures):
            yield {**session, **stretch}, done + share * n
        done, n_anchors, failures = done + n, 0, []
        anchors = [anchor for anchor in anchors if anchor.course.error is None]
        for anchor in anchors:
            anchor.course.spent = 0.0


def take_session(
    entrants: Sequence[Entrant],
    sampling: Sampling,
    seed: int,
    failures: Sequence[dict[str, Any]],
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[dict[str, Any], float]]:
    """Let them take turns; hands out about every ten seconds what came since, and which share is done, about.

    Args:
        failures: of networks that could not even be loaded.
    """
    courses = [entrant.course for entrant in entrants]
    for course in courses:
        if not course.calls:
            try:
                course.warm_up()
            except Exception as error:  # whatever the runtime raises, it is this network's failure and no other's
                course.error = error
                check_others(courses, error)
    described = {"began": time.time(), "networks": [entrant.described() for entrant in entrants]}
    turns: list[dict[str, Any]] = []
    n_turns, start = 0, now()
    written = start
    gc.disable()
    try:
        for turn in take_turns(courses, sampling, lambda: now() - start, seed):
            turns.append({"started": turn.started, "seconds": turn.seconds})
            n_turns += 1
            if now() - written >= _WRITTEN_EVERY:
                # About: most sessions need twice the least number of turns.
                share = min(0.95, n_turns / min(2 * sampling.min_turns, sampling.max_turns))
                yield {**described, "turns": turns, "failures": []}, share
                turns, written = [], now()
    except (KeyboardInterrupt, DeviceGoneError):
        yield {**described, "turns": turns, "failures": list(failures)}, 0.0
        raise
    finally:
        gc.enable()
    failed = [_failure(entrant.model, entrant.course.error) for entrant in entrants if entrant.course.error is not None]
    yield {**described, "turns": turns, "failures": [*failures, *failed]}, 1.0


def _enter(
    model: Model,
    load: Callable[[Model], Runner],
    sampling: Sampling,
    entrants: list[Entrant],
    others: Sequence[Entrant],
    failures: list[dict[str, Any]],
) -> None:
    """Load a network and add it to `entrants`, or to `failures` where it does not run."""
    try:
        course = Course(model["key"], load(model), sampling)
        entrants.append(Entrant(model, course, course.try_out()))
    except Exception as error:  # see above
        check_others([other.course for other in others], error)
        failures.append(_failure(model, error))


def _is_full(anchors: Sequence[Entrant], entrants: Sequence[Entrant], sampling: Sampling) -> bool:
    everyone = [*anchors, *entrants]
    if len(entrants) >= max(1, sampling.session_networks - len(anchors)):
        return True
    turn = sum(
        max(entrant.call_seconds, sampling.min_repeat_seconds) + max(entrant.call_seconds, sampling.settling_seconds)
        for entrant in everyone
    )
    n_bytes = sum(entrant.model["bytes"] for entrant in everyone)
    return len(entrants) >= _FEWEST and (turn >= sampling.turn_seconds or n_bytes * _MEMORY_SHARE >= _memory())


def _memory() -> float:
    """Bytes of this machine, as far as the platform tells."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):  # Windows
        return 4e9


def _name(model: Model) -> tuple[str, int]:
    return model["key"], model["resolution"]


def _failure(model: Model, error: Exception) -> dict[str, Any]:
    key, resolution = _name(model)
    return {"key": key, "resolution": resolution, "reason": one_line(error)}


def load_file(path: str, manifest: dict[str, Any]) -> Runner:
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

    def run(calls: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            session.run_with_iobinding(binding)
        return (time.perf_counter_ns() - start) * 1e-9

    return run


# -- the command ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description="Measure the networks of this folder.")
    parser.add_argument("--print", action="store_true", help="write the lines of the result file to the output")
    print_lines = parser.parse_args().print
    folder = os.path.dirname(os.path.abspath(__file__))
    manifest, manifest_id = read_manifest(folder)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else it keeps an identifier here, and a thread beside what is measured
    try:
        import numpy  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: python -m pip install numpy onnxruntime") from None

    head = {
        "manifest": manifest_id,
        "device": {"hardware": cpu_description(), "runtime_version": onnxruntime.__version__},
    }
    path = os.path.join(folder, _RESULTS)
    results = Results(path, manifest_id, head)
    if results.set_aside:
        print(
            f"{SAYS}the device or its runtime changed: begins anew, {results.set_aside} has what was", file=sys.stderr
        )
    if print_lines:
        print(f"\n{MARK}")  # on a line of its own, whatever was printed before
        with open(path, "rb") as file:
            sys.stdout.write(file.read().decode())
            sys.stdout.flush()
    measured, failed = results.measured(manifest["sampling"]["min_turns"]), results.failed()
    total, n_before, started = len(manifest["models"]), None, time.monotonic()

    def load(model: Model) -> Runner:
        try:
            return load_file(os.path.join(folder, *model["file"].split("/")), manifest)
        except Exception as error:  # whatever the runtime raises
            raise ValueError(str(error).replace(folder + os.sep, "")) from error

    for stretch, done in measure(manifest, load, measured, failed):
        line = results.add(stretch, done)
        if print_lines:
            print(line, flush=True)
        elif n_before is not None and done > n_before:
            left = (time.monotonic() - started) / (done - n_before) * (total - done)
            print(f"{done:.0f} of {total}, about {left:.0f} s left", flush=True)
        else:
            print(f"{done:.0f} of {total}", flush=True)
        if n_before is None:
            n_before, started = done, time.monotonic()
    if not print_lines:
        print(f"everything is measured: bring {_RESULTS} back for `supernet device import`")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print(f"{SAYS}stopped; run it again to carry on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        sys.exit(1)
    except DeviceGoneError as error:
        print(f"{SAYS}this device stopped working: {error}; run it again to carry on", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError) as error:
        print(f"{SAYS}{error}", file=sys.stderr)
        sys.exit(2)
