"""Signals that ask the command to stop, as a flag that the work looks at between images; the end of a batch job.

SIGTERM, SIGINT and SIGUSR1 (which batch systems send ahead of a time limit) all mean: begin no new block, finish
those in hand if the grace allows, and end with a status that means "try again".
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
INSISTING = (signal.SIGTERM, signal.SIGINT)

ECHO_SECONDS = 0.3
"""A signal that comes this soon after another is the same one: a terminal and a launcher both pass it on."""

QUERY_SECONDS = 10
"""How long SLURM's controller has to tell of the job's time limit."""


class StopRequest:
    """Whether this process was asked to stop, by which signal and when."""

    def __init__(self, at_once: Callable[[], None] | None = None) -> None:
        self.name: str | None = None
        self.since = 0.0
        """`time.monotonic()` of the first signal."""
        self._last = 0.0
        self.at_once = at_once
        """Called when a second SIGTERM or SIGINT insists; should not return."""

    def install(self) -> None:
        """Take the signals over; again after MPI was initialised, since some libraries take SIGUSR1."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._heed)

    def _heed(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.name is None:
            self.name, self.since = signal.Signals(number).name, now
        elif number in INSISTING and now - self._last > ECHO_SECONDS and self.at_once is not None:
            self.at_once()
        self._last = now


@contextmanager
def held_back() -> Iterator[None]:
    """Signals to stop wait meanwhile; so they do in a process that is started within, until it calls `let_in`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_in() -> None:
    """Heed the signals that were held back, and those to come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def job_end_time() -> float | None:
    """When (seconds since the epoch) SLURM will end this job; None without a limit, or where it doesn't tell.

    Newer SLURMs put it into the environment; elsewhere the controller is asked, once.
    """
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    job, squeue = os.environ.get("SLURM_JOB_ID"), shutil.which("squeue")
    if not job or squeue is None:
        return None
    import subprocess

    try:
        done = subprocess.run(
            [squeue, "--noheader", "--jobs", job, "--format", "%L"],
            capture_output=True,
            text=True,
            timeout=QUERY_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    left = _seconds(done.stdout.strip().splitlines()[0]) if done.stdout.strip() else None
    return None if left is None else time.time() + left


def _seconds(text: str) -> float | None:
    """SLURM's days-hours:minutes:seconds, with what leads left out; None for UNLIMITED and the like."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(p.isdigit() for p in parts) or (days and not days.isdigit()):
        return None
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return float(seconds + 86400 * int(days or 0))
