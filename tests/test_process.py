"""The measuring process: kept on its cores before other programs, and afterwards as it was."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hardware.loop.process import quietest_cores, undisturbed

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be kept on cores here")


@needs_affinity
def test_everything_is_afterwards_as_it_was():
    before = os.sched_getaffinity(0)
    core = max(before)
    with pytest.raises(KeyboardInterrupt), undisturbed([core]):
        assert os.sched_getaffinity(0) == {core}
        assert not gc.isenabled()
        raise KeyboardInterrupt
    assert os.sched_getaffinity(0) == before
    assert gc.isenabled()


@needs_affinity
def test_real_time_is_taken_where_it_is_allowed_and_given_back():
    core, before = max(os.sched_getaffinity(0)), os.sched_getscheduler(0)
    with undisturbed([core], realtime=True):
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK  # or as before, where it is not allowed
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], capture_output=True, text=True
        )
    assert inside in (os.SCHED_FIFO, before)
    assert int(child.stdout) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == before
    with undisturbed((), realtime=True):  # without a core of its own it takes none from others
        assert os.sched_getscheduler(0) == before


@needs_affinity
def test_without_cores_a_thread_runs_where_it_likes():
    before = os.sched_getaffinity(0)
    with undisturbed(()):
        assert os.sched_getaffinity(0) == before


@needs_affinity
def test_what_may_not_be_had_is_done_without(monkeypatch):
    def refuse(*arguments):
        raise OSError(22, "not in this sandbox")

    core, before = max(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with undisturbed([core], realtime=True):
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_cores_are_given_back_even_if_the_scheduling_cannot_be(monkeypatch):
    def refuse(*arguments):
        raise PermissionError

    core, before = max(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    monkeypatch.setattr("hardware.loop.process._become_realtime", lambda: (0, None))
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(PermissionError), undisturbed([core], realtime=True):
        pass
    assert os.sched_getaffinity(0) == before and gc.isenabled()


def stat(path: Path, *busy: int) -> None:
    """A /proc/stat whose cores were busy for so many ticks; the one that is busy in user mode is so at last."""
    lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
    lines += [f"cpu{i} {ticks // 2} 0 {ticks - ticks // 2} {1000 - ticks} 7 0 0 0 0 0" for i, ticks in enumerate(busy)]
    path.write_text("\n".join([*lines, "intr 5 6 7", ""]))


@needs_affinity
def test_the_core_that_was_used_least_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    path = tmp_path / "stat"
    stat(path, 500, 100, 300)  # since the machine was started; only what is added counts
    timer = threading.Timer(0.02, stat, (path, 505, 190, 301))
    timer.start()
    assert quietest_cores(2, seconds=0.2, stat=path) == (2, 0)
    timer.join()
    assert quietest_cores(3, stat=path) == ()  # nothing to choose
    stat(path, 0, 0, 0)
    timer = threading.Timer(0.02, stat, (path, 9, 1, 0))
    timer.start()
    assert quietest_cores(1, seconds=0.2, stat=path) == (1,)  # a tick is chance: the first of the quiet ones
    timer.join()
    assert quietest_cores(1, stat=tmp_path / "none") == ()


def test_this_machine_is_asked():
    cores = quietest_cores(1, seconds=0.02)
    assert len(cores) <= 1 and set(cores) <= set(range(os.cpu_count() or 1))
