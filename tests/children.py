"""Commands run in children of a warm parent: one fork each, with limits, so that thousands can be tried.

The parent has imported all that a command needs; a child has its own limits, folder and standard streams, and what
it does (crash, hang, fill the memory) is seen from outside.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WARM = (
    "bnl_mpi.tasks.reduction", "bnl_mpi.tasks.expansion", "bnl_mpi.tasks.export", "bnl_mpi.run.driver",
    "bnl_mpi.expand", "bnl_mpi.check.verdict", "bnl_mpi.commands.check", "bnl_mpi.commands.replay",
    "bnl_mpi.commands.expand", "bnl_mpi.commands.export", "bnl_mpi.commands.verify", "bnl_mpi.verify.task",
    "hdf5plugin", "imagecodecs", "glymur", "astropy.io.fits", "numcodecs",
)  # fmt: skip

Call = Callable[[], int]
SECONDS = 300.0
"""Until a child hangs: it needs a few, but the machine may be slow, and have other work."""
ROOM = 1 << 29
"""Bytes that an attack may need."""


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A folder for an attack's files, in memory if there is room: what goes to the disk safely isn't asked here."""
    memory = "/dev/shm"
    has_room = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=memory if has_room else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    status: int | None
    """Its exit status; negative: the signal that it died of; None: it had to be killed when its time was over."""
    out: str
    err: str
    rss: int
    """Bytes: the most memory that it held, with what it had of its parent."""
    seconds: float

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err

    @property
    def complaint(self) -> str | None:
        """What no end of a command may look like, whatever its input is; None if it looks well."""
        if self.status is None:
            return f"hangs: still there after {self.seconds:.0f} s"
        if self.status < 0:
            return f"died of {signal.Signals(-self.status).name}"
        if self.has_traceback:
            return "traceback: " + self.err.strip().splitlines()[-1]
        if self.status and not self.err.strip() and not self.out.strip():
            return f"status {self.status} without a word"
        return None


def warm_up() -> None:
    """Import what commands import late; once, in the parent."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def command(words: Sequence[str]) -> Call:
    """`bnl-mpi WORDS` in this process."""

    def run() -> int:
        from bnl_mpi.cli import main

        return main(list(words))

    return run


def memory_now() -> tuple[int, int]:
    """Bytes of address space and of memory that this process has."""
    size, resident = Path("/proc/self/statm").read_text().split()[:2]
    page = os.sysconf("SC_PAGE_SIZE")
    return int(size) * page, int(resident) * page


def run(call: Call, folder: Path, *, seconds: float = SECONDS, address_space: int | None = None) -> Outcome:
    """Do `call` in a child that works in `folder`, with that much address space beyond the parent's (bytes)."""
    sys.stdout.flush()
    sys.stderr.flush()
    streams = [os.memfd_create(name) for name in ("out", "err")]
    begin = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(call, folder, streams, address_space, seconds)
    status, usage = _wait(pid, begin + seconds)
    took = time.monotonic() - begin
    out, err = (_content(stream) for stream in streams)
    return Outcome(status, out, err, usage * 1024, took)


def _content(stream: int) -> str:
    os.lseek(stream, 0, os.SEEK_SET)
    with os.fdopen(stream, "rb") as file:
        return file.read(1 << 20).decode(errors="replace")


def _child(call: Call, folder: Path, streams: Sequence[int], address_space: int | None, seconds: float) -> None:
    status = 1
    try:
        os.setsid()
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        # The parent's may be a test's own.
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        # Where one hangs, in what it has said when it is killed.
        faulthandler.dump_traceback_later(0.9 * seconds, file=2)
        if address_space is not None:
            limit = memory_now()[0] + address_space
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = call()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _wait(pid: int, end: float) -> tuple[int | None, int]:
    """(status as in `Outcome`, KiB held at most)."""
    descriptor = os.pidfd_open(pid)
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    is_over = not ended.poll(1000 * max(0.0, end - time.monotonic()))
    os.close(descriptor)
    if is_over:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return None if is_over else os.waitstatus_to_exitcode(status), usage.ru_maxrss
