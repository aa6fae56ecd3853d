"""What every process of a run holds: the task, its ranks, the lock, the watch; and what ranks say to one another."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BnlError, Interrupted
from ..job import Job
from ..options import Options
from ..output import whole
from . import launch
from .lock import Locks, Share, Ticket
from .log import RunLog
from .signals import StopRequest
from .task import AnyTask, BlockReport, Masters
from .world import World

if TYPE_CHECKING:
    from . import watch


@dataclass(frozen=True)
class Stop:
    """Broadcast in place of a job or a go-ahead: rank 0 has met, and will tell of, an error."""

    status: int
    message: str


@dataclass(frozen=True)
class Go:
    """Broadcast when the work may begin."""

    end_time: float | None
    """Seconds since the epoch at which the batch job ends, if that is known."""
    tickets: tuple[Ticket, ...] = ()


class StoppedElsewhere(BnlError):
    """Another rank met the error and tells of it; this one only has to end."""


class Told(Exception):
    """Raised on every rank for an `error` that all ranks know of, so that they can end in step."""

    def __init__(self, error: BnlError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Ended:
    """A worker's last message to rank 0: it makes no more blocks.  Status 0 if it made all that it was to make,
    that of `Interrupted` if it was stopped."""

    status: int


class Dropped(Exception):
    """Raised within a worker's block that can't be finished any more."""


@dataclass
class Process:
    """What a process needs from the beginning of a run to its end."""

    task: AnyTask
    options: Options
    ranks: World
    request: StopRequest
    log: RunLog
    quiet: bool = False
    locks: Locks | None = None
    tickets: tuple[Ticket, ...] = ()
    """Of the locks that the run holds, on every rank."""
    kept: dict[int, BlockReport] = field(default_factory=dict)
    """Blocks of an earlier run that need not be made: this worker's own; on rank 0 all of them."""
    masters_there: Masters | None = None
    """On rank 0 under `--resume`: those of an earlier run of this job."""
    warnings: list[str] = field(default_factory=list)
    """What the user was warned of."""
    listener: watch.Listener | None = None
    lifeline: watch.Lifeline | None = None

    def keep_watch(self) -> None:
        """From now on, notice the death of rank 0, or on rank 0 of any worker, if the launcher wouldn't."""
        ranks = self.ranks
        if ranks.size == 1 or not ranks.broadcast(launch.is_left_alone() if ranks.rank == 0 else None):
            return
        from . import watch

        if ranks.rank == 0:
            with contextlib.suppress(OSError):
                self.listener = watch.Listener()
        address = ranks.broadcast(self.listener.address if self.listener else None)
        if ranks.rank and address:
            self.lifeline = watch.Lifeline(address, ranks.rank)
        ranks.while_waiting = self.look_around

    def look_around(self) -> None:
        """What every wait does, and every worker after an image."""
        if self.locks is not None:
            self.locks.beat()
        dead = self.listener.dead() if self.listener else None
        if dead is not None or (self.lifeline and self.lifeline.is_cut()):
            who = "rank 0" if dead is None else f"rank {dead}"
            host = os.uname().nodename
            os.write(2, f"bnl-mpi: rank {self.ranks.rank} on {host}: {who} died; the run ends\n".encode())
            self.let_go()
            self.ranks.abort(BnlError.exit_status)

    def end_watch(self) -> None:
        for end in (self.listener, self.lifeline):
            if end is not None:
                end.close()
        self.listener = self.lifeline = None

    def take_lock(self, job: Job, share: Share | None = None) -> None:
        if self.locks is None:
            self.locks = Locks(self.task.files.stems(job, share.number if share else None), job.sha256, share)
        self.locks.acquire()
        self.tickets = self.locks.tickets
        self.ranks.while_waiting = self.look_around

    def check_locks(self) -> None:
        """Before a file is named: raise OutputError if another run has taken the output over."""
        for ticket in self.tickets:
            ticket.check()

    def release(self) -> None:
        """Give the locks back, when nothing is being written any more."""
        if self.locks is not None:
            self.locks.release()

    def let_go(self) -> None:
        """Leave nothing behind, on the way to an abrupt end: of all that this process is writing."""
        whole.drop_files_in_hand()
        self.release()

    def stop_at_once(self) -> None:
        """A second signal: no time is left to end in step."""
        os.write(2, f"bnl-mpi: rank {self.ranks.rank} stopped at once by a second signal\n".encode())
        self.let_go()
        self.ranks.abort(Interrupted.exit_status)
        os._exit(Interrupted.exit_status)

    def say(self, text: str) -> None:
        if not self.quiet:
            # One write, so that lines of several processes don't mix; over the bar, where there is one.
            lead = "\r\033[K" if sys.stderr.isatty() else ""
            sys.stderr.write(f"{lead}bnl-mpi: {text}\n")
            sys.stderr.flush()

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.say(f"warning: {text}")
        self.log.write("warning", text=text)


def unless_stopped(ranks: World, message: Any) -> Any:
    """What rank 0 gives as `message`, on every rank; if that is a `Stop`, every rank raises `Told`."""
    answer = ranks.broadcast(message)
    if isinstance(answer, Stop):
        kind = Interrupted if answer.status == Interrupted.exit_status else BnlError
        error: BnlError = (StoppedElsewhere if ranks.rank else kind)(answer.message)
        error.exit_status = answer.status
        raise Told(error)
    return answer


def tell_failure(ranks: World, error: BaseException) -> None:
    """One line that says which rank failed where and why; a traceback only for what is no user's mistake."""
    text = f"bnl-mpi: {failure_line(ranks, error)}\n"
    if not isinstance(error, BnlError):
        import traceback

        text = "".join(traceback.format_exception(error)) + text
    # One write, so that lines of several ranks don't mix, and all of it is told before another rank ends this one.
    sys.stderr.buffer.write(text.encode(errors="backslashreplace"))
    sys.stderr.flush()


def failure_line(ranks: World, error: BaseException) -> str:
    """Which rank failed, where and why."""
    text = str(error) if isinstance(error, BnlError) else f"{type(error).__name__}: {error}"
    return f"rank {ranks.rank} on {os.uname().nodename}: {text}"
