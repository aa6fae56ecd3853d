"""One run at a time on an output: a small file beside it, made by link(2), kept fresh, and outlived by no job.

File systems of clusters often have no working flock, so what counts is that the file is there.  A lock is dead if
its process is gone (on the same host), if it was taken by an earlier start of this very batch job, or if it gave no
sign of life for a while.  Times are compared on the file system's own clock.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import time
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
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When the process began, in ticks since the boot; tells it from a later one of the same number."""
    stat = _text_of(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
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
        candidate = f"{self.path}.{socket.gethostname()}-{os.getpid()}"
        self._content = json.dumps(self._mine())
        try:
            now = self._write(candidate)
            self._link(candidate, now)
            # Only after one's own is in place, or two could each miss the other's.
            for other in self._rivals():
                self._refuse_if_alive(other, now)
        except BaseException:
            self.release()
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(candidate)

    def _write(self, candidate: str) -> float:
        """Write the lock under a name that nobody looks at; returns the time on the file system's clock."""
        try:
            Path(candidate).write_text(self._content)
            return os.stat(candidate).st_mtime
        except OSError as error:
            raise OutputError(f"{self.path}: can't be written: {error.strerror}; make room and start again") from error

    def _mine(self) -> dict[str, Any]:
        job, restarts = _batch_job()
        return {
            "host": socket.gethostname(),
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

    def _rivals(self) -> list[str]:
        """Locks of this stem that would exclude this one: all but those of the plan's other shares."""
        folder, base = os.path.split(self._stem)
        found = []
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if path == self.path or not (name.startswith(f"{base}.") and name.endswith(".lock")):
                continue
            m = SHARE.match(name[len(base) :])
            if (m or name == f"{base}.lock") and not (m and self._is_neighbour(path, int(m[2]))):
                found.append(path)
        return found

    def _is_neighbour(self, path: str, total: int) -> bool:
        if self._share is None or total != self._share.total:
            return False
        return _read(path).get("plan") in (self._plan, None)

    def _refuse_if_alive(self, path: str, now: float) -> None:
        """Remove the lock at `path` if its owner is dead, else raise."""
        holder = _read(path)
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
        # Renamed first: of two that find it dead, one alone can do that, and removes what it had judged.
        grave = f"{path}.{socket.gethostname()}-{os.getpid()}.dead"
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, grave)
            os.unlink(grave)

    def beat(self) -> None:
        """Give a sign of life, if the last one is a while ago.  Cheap enough to be called in any loop."""
        now = time.monotonic()
        if not self._held or now - self._beaten < HEARTBEAT_SECONDS:
            return
        self._beaten = now
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Let the lock go; one that was taken over meanwhile stays."""
        if self._held and _text_of(self.path) == self._content:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._held = False


def _read(path: str) -> dict[str, Any]:
    """What a lock file holds; empty where it is gone, or was left half-written."""
    try:
        holder = json.loads(_text_of(path) or "{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: dict[str, Any], age: float) -> bool:
    if age > STALE_SECONDS:
        return True
    if holder.get("host") == socket.gethostname() and holder.get("space") == _process_space():
        return _process_start(int(holder.get("pid", 0))) != holder.get("start")
    job, restarts = _batch_job()
    return bool(job) and holder.get("slurm_job") == job and int(holder.get("restarts", 0)) < restarts
