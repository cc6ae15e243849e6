"""Being asked to stop: by SIGTERM (pre-emption, a time limit), SIGUSR1 (Slurm's warning before it) or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

__all__ = ["StopSignals", "TrainingInterrupted"]

_EXIT_CODE = 128 + signal.SIGTERM  # 143: what shells and schedulers report for a process that SIGTERM ended
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
_PATIENCE_SECONDS = 20.0  # torchrun and Slurm kill 30 s after SIGTERM


class TrainingInterrupted(SystemExit):
    """Training was asked to stop and has written a checkpoint; the process ends with code 143."""

    def __init__(self, step: int, n_steps: int, saved: bool) -> None:
        super().__init__(_EXIT_CODE)
        self.step = step
        self.text = f"stopped after step {step} of {n_steps}, as asked by a signal; " + (
            "the same command carries on from here" if saved else "nothing was saved, since there is no folder"
        )

    def __str__(self) -> str:
        return self.text


class StopSignals:
    """Inside, SIGTERM, SIGUSR1 and Ctrl-C set `requested` instead of ending the process.

    A process among several that has not called `noticed` some seconds after SIGTERM or Ctrl-C ends itself: when one
    process of a run dies, torchrun sends SIGTERM to the others, and those may be waiting for the dead one in a message
    that never comes. Python runs no signal handler then, so a thread of its own listens.

    A single process that is not `unsaved` has nothing to wait for: Ctrl-C is raised where it arrives, and so is a
    second one. Code of others may swallow it there, such as a bare ``except`` in a module that is being imported for
    the first step; `check_interrupt` raises it again. Several processes agree about the first and heed no second:
    a terminal and torchrun may both send it.

    Outside the main thread, where signals cannot be caught, this does nothing.
    """

    def __init__(self, n_processes: int = 1) -> None:
        self.requested = False
        self.interrupted = False  # by Ctrl-C
        self.unsaved = False  # whether something is lost if the process ends now
        self._raised = False
        self._impatient = n_processes > 1
        self._timer: threading.Timer | None = None
        self._active = False

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._active = True
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._handlers_before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        self._heard = {*_SIGNALS}
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nobody else has a use for it
            self._heard.add(signal.SIGINT)
            self._handlers_before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        self._listener = threading.Thread(target=self._listen, name="stop signals", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._active:
            return
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.write(self._write, b"\0")  # no signal has the number 0
        self._listener.join()
        self.noticed()
        os.close(self._read)
        os.close(self._write)
        self._active = False

    def check_interrupt(self) -> None:
        """Raises KeyboardInterrupt where Ctrl-C was raised and nobody has acted on it."""
        if self._raised:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self.interrupted = self.interrupted, True
        if not self._impatient and (again or not self.unsaved):
            self._raised = True
            raise KeyboardInterrupt

    def noticed(self) -> None:
        """All processes are alive and will stop: there is nothing to be impatient about."""
        if self._timer is not None:
            self._timer.cancel()

    def _listen(self) -> None:
        while number := os.read(self._read, 1)[0]:
            if number not in self._heard:
                continue
            self.requested = True
            if number in (signal.SIGTERM, signal.SIGINT) and self._impatient and self._timer is None:
                self._timer = threading.Timer(_PATIENCE_SECONDS, self._leave)
                self._timer.daemon = True
                self._timer.start()

    def _leave(self) -> None:
        print(
            f"no answer from the other processes {_PATIENCE_SECONDS:.0f} s after SIGTERM or Ctrl-C: leaving; the "
            "same command carries on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_EXIT_CODE)
