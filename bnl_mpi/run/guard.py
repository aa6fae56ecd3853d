"""A process beside a rank while MPI starts, when a signal handler of Python's can't run and nobody else would watch.

Something on stdin says that all ranks have joined, its end alone that the rank died.  Only the standard library is
used: this starts once for every rank.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import time

SHORTEST_LOOK, LONGEST_LOOK = 0.01, 0.25
"""Seconds between two looks at what the rank has mapped."""


def segments_of(pid: int) -> set[str]:
    """MPICH's segments of shared memory that the process has mapped."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            return set(re.findall(r"/dev/shm/mpich_shm_\w+", maps.read()))
    except OSError:
        return set()


def wait(pid: int, seconds: float) -> tuple[bytes | None, set[str]]:
    """What was said on stdin (nothing where the rank died), None if nothing was for so long; and segments seen."""
    end, pause = time.monotonic() + seconds, SHORTEST_LOOK
    seen: set[str] = set()
    while (left := end - time.monotonic()) > 0:
        readable, _, _ = select.select([0], [], [], min(pause, left))
        if readable:
            return os.read(0, 16), seen
        seen |= segments_of(pid)
        pause = min(1.2 * pause, LONGEST_LOOK)
    return None, seen


def main(pid: int, seconds: float, delay: float, size: int) -> None:
    """Watch the rank `pid`, which is ended if it waits longer than `seconds`, of `size` that there should be.

    `delay`: how long to leave the telling of it to other ranks.
    """
    said, seen = wait(pid, seconds)
    if said is None:
        # The rank that is first to give up ends all: then the others' guards have nothing to tell.
        said, more = wait(pid, delay)
        seen |= more
        if said is None:
            text = (
                f"bnl-mpi: not all {size} ranks have joined within {seconds:g} s, and MPI waits for each: look for a "
                "node or a rank that hangs; BNL_MPI_JOIN_SECONDS sets another limit\n"
            )
            os.write(2, text.encode())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            said = b""
    if not said:
        # It died before MPICH itself, or this program, could take the names away; no rank can join any more.
        for path in seen:
            with contextlib.suppress(OSError):
                os.unlink(path)
