"""One run at a time on an output: a small file beside it, made by link(2), kept fresh, and outlived by no job.

File systems of clusters often have no working flock, so what counts is that the file is there.  A lock of this host
is dead if its process is gone, and only then; one of another host, if it was taken by an earlier start of this very
batch job, or if it gave no sign of life for a while.  Times are compared on the file system's own clock.  A run looks
at its lock before it names a file: one that was thought dead, and wasn't, stops.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""Network file systems cache a file's times for up to a minute."""

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What a file system without hard links answers."""

SHARE = re.compile(r"\.share-(\d+)-of-(\d+)\.lock$")


@dataclass(frozen=True)
class Share:
    """`-t number -p total`: locks of other shares of the same plan and total don't exclude it."""

    number: int
    total: int


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""


def _check_kind(path: str) -> None:
    """Refuse what is no file: a link may lead anywhere, and to read a pipe may take for ever."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise OutputError(f"{path}: is {kind}, where the output's lock is to be; remove it, or choose another -o")


@dataclass(frozen=True)
class Ticket:
    """What a rank needs to see whether its run still holds a lock."""

    path: str
    content: str

    def check(self) -> None:
        """Raise OutputError if the lock is another's, or gone."""
        try:
            found = Path(self.path).read_text()
        except FileNotFoundError:
            found = ""
        except (OSError, ValueError):
            # A file system's hiccup tells nothing.
            return
        if found != self.content:
            state = "was taken over by another run" if found else "is gone"
            raise OutputError(
                f"{self.path}: this run's lock {state}, so it stops; when no other run is at work on this output, "
                "--resume goes on"
            )


def _process_start(pid: int) -> str:
    """When the process began, in ticks since the boot; tells it from a later one of the same number."""
    fields = _text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # One that waits to be reaped (Z, X) does nothing any more.
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _process_space() -> str:
    """Where process numbers mean the same: this boot of this host, and the namespace in it."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{_text_of('/proc/sys/kernel/random/boot_id').strip()} {namespace}"


def _batch_job() -> tuple[str, int]:
    """SLURM's job number (with that of the step, which must not outlive it) and how often it was restarted."""
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return os.environ.get("SLURM_JOB_ID", ""), int(restarts) if restarts.isdigit() else 0


class Lock:
    """The lock of `stem`'s output.  `plan` is the job's hash."""

    def __init__(self, stem: str, plan: str, share: Share | None = None) -> None:
        self._stem = os.path.abspath(stem)
        suffix = f".share-{share.number}-of-{share.total}" if share else ""
        self.path = f"{self._stem}{suffix}.lock"
        self._share, self._plan = share, plan
        self._held = False
        self._beaten = time.monotonic()
        self._content = ""

    def acquire(self) -> None:
        """Take the lock or raise OutputError, which says who has it.  Nothing happens if it is held already."""
        if self._held:
            return
        candidate = f"{self.path}.{os.uname().nodename}-{os.getpid()}"
        self._content = json.dumps(self._mine())
        try:
            now = self._write(candidate)
            self._link(candidate, now)
            # Only after one's own is in place, or two could each miss the other's.
            near = self._near()
            for other in self._rivals(near):
                self._refuse_if_alive(other, now)
            self._sweep(near, candidate, now)
        except BaseException:
            self.release()
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(candidate)

    def _write(self, candidate: str) -> float:
        """Write the lock under a name that nobody looks at; returns the time on the file system's clock."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(candidate)
            with open(candidate, "x", encoding="utf-8") as file:
                file.write(self._content)
            return os.stat(candidate).st_mtime
        except OSError as error:
            raise OutputError.unwritten(self.path, error) from error

    def _near(self) -> list[str]:
        """Paths of all files whose names begin with the stem and a dot."""
        folder, base = os.path.split(self._stem)
        # The folder may hold thousands of sets.
        return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(f"{base}.")]

    def _sweep(self, near: Sequence[str], candidate: str, now: float) -> None:
        """Remove what runs left that were killed while they took this lock, or took it over."""
        for path in near:
            if path == candidate or not path.startswith(f"{self.path}."):
                continue
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                holder = _read(path) or _named(path.removeprefix(f"{self.path}."))
                if stat.S_ISREG(found.st_mode) and _is_dead(holder, now - found.st_mtime):
                    os.unlink(path)

    def _mine(self) -> dict[str, Any]:
        job, restarts = _batch_job()
        return {
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "start": _process_start(os.getpid()),
            "space": _process_space(),
            "slurm_job": job,
            "restarts": restarts,
            "plan": self._plan,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }

    def _link(self, candidate: str, now: float) -> None:
        while True:
            try:
                os.link(candidate, self.path)
            except FileExistsError:
                self._refuse_if_alive(self.path, now)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise OutputError(f"{self.path}: can't be made: {error.strerror}") from error
                self._create(now)
                return
            else:
                self._held = True
                return

    def _create(self, now: float) -> None:
        while not self._held:
            try:
                with open(self.path, "x", encoding="utf-8") as file:
                    file.write(self._content)
                self._held = True
            except FileExistsError:
                self._refuse_if_alive(self.path, now)

    def _rivals(self, near: Sequence[str]) -> list[str]:
        """Locks of this stem that would exclude this one: all but those of the plan's other shares."""
        found = []
        for path in near:
            if path == self.path or not path.endswith(".lock"):
                continue
            m = SHARE.match(path.removeprefix(self._stem))
            if (m or path == f"{self._stem}.lock") and not (m and self._is_neighbour(path, int(m[2]))):
                found.append(path)
        return found

    def _is_neighbour(self, path: str, total: int) -> bool:
        if self._share is None or total != self._share.total:
            return False
        return _read(path).get("plan") in (self._plan, None)

    def _refuse_if_alive(self, path: str, now: float) -> None:
        """Remove the lock at `path` if its owner is dead, else raise."""
        _check_kind(path)
        content = _text_of(path)
        holder = _holder(content)
        try:
            age = now - os.stat(path).st_mtime
        except FileNotFoundError:
            return
        if not _is_dead(holder, age):
            who = ", ".join(
                f"{name} {holder[key]}"
                for name, key in (("host", "host"), ("process", "pid"), ("SLURM job", "slurm_job"))
                if holder.get(key)
            )
            raise OutputError(
                f"{path}: another run is at work on this output ({who or 'unknown'}, last sign of life "
                f"{max(0.0, age):.0f} s ago); wait for it or choose another -o; if it is dead, start again "
                f"{STALE_SECONDS:.0f} s after that sign"
            )
        # Renamed first: of two that find it dead, one alone can do that.  The other may get the first one's new lock,
        # and puts it back.
        grave = f"{path}.{os.uname().nodename}-{os.getpid()}.dead"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, grave)
            if _text_of(grave) != content:
                with contextlib.suppress(OSError):
                    os.link(grave, path)
            os.unlink(grave)

    def beat(self) -> None:
        """Give a sign of life, if the last one is a while ago.  Cheap enough to be called in any loop."""
        now = time.monotonic()
        if not self._held or now - self._beaten < HEARTBEAT_SECONDS:
            return
        self._beaten = now
        with contextlib.suppress(OSError):
            if _text_of(self.path) == self._content:
                os.utime(self.path)

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.path, self._content)

    def release(self) -> None:
        """Let the lock go; one that was taken over meanwhile stays."""
        if self._held and _text_of(self.path) == self._content:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._held = False


def _read(path: str) -> dict[str, Any]:
    """What a lock file holds; empty where it is gone, or was left half-written."""
    return _holder(_text_of(path))


def _named(words: str) -> dict[str, Any]:
    """What the name HOST-PID of a file tells whose owner was killed before it wrote into it."""
    host, _, pid = words.rpartition("-")
    if not pid.isdecimal():
        return {}
    return {"host": host, "pid": int(pid), "space": _process_space(), "start": _process_start(int(pid)) or "gone"}


def _holder(content: str) -> dict[str, Any]:
    try:
        holder = json.loads(content or "{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, Any], age: float) -> bool:
    pid, told_restarts = holder.get("pid"), holder.get("restarts")
    if holder.get("host") == os.uname().nodename and holder.get("space") == _process_space() and isinstance(pid, int):
        # The process itself is the witness; how old its file looks is none.
        return _process_start(pid) != holder.get("start")
    job, restarts = _batch_job()
    if job and holder.get("slurm_job") == job and isinstance(told_restarts, int) and told_restarts < restarts:
        return True
    return age > STALE_SECONDS


class Locks:
    """The locks of all stems that a run writes, taken together or not at all."""

    def __init__(self, stems: Sequence[str], plan: str, share: Share | None = None) -> None:
        # In one order for all runs, so that of two that want the same ones, one gets all.
        self._locks = [Lock(stem, plan, share) for stem in sorted({os.path.abspath(stem) for stem in stems})]

    def acquire(self) -> None:
        """Take all locks or raise OutputError; those that are held already stay."""
        try:
            for lock in self._locks:
                lock.acquire()
        except BaseException:
            self.release()
            raise

    def beat(self) -> None:
        """Give a sign of life; cheap enough to be called in any loop."""
        for lock in self._locks:
            lock.beat()

    def release(self) -> None:
        for lock in self._locks:
            lock.release()

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        """By which any rank sees whether the run still holds its locks."""
        return tuple(lock.ticket for lock in self._locks)
