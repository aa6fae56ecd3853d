"""Blocks made and reported, on every rank; what stops them (step 4 of `driver`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BnlError, Interrupted
from ..job import Job
from . import report as reporting
from .signals import job_end_time
from .state import Dropped, Ended, Process, tell_failure, unless_stopped
from .task import AnyTask, BlockReport, Made, Overseer
from .world import World

REPORT_SECONDS = 1.0
"""How often a worker tells of frames done within a block."""

FAREWELL_SECONDS = 3.0
"""How long the workers have, after one failed or the grace is over, to drop what they were writing."""

END_MARGIN_SECONDS = 5.0
"""Kept free before the end of a batch job's time."""


class Guide(Overseer):
    """Tells a maker of blocks when to begin no more, and when to drop the one in hand."""

    def __init__(self, this: Process, end_time: float | None, progress: Callable[[int], None] = lambda n: None) -> None:
        self._this, self._end_time, self._progress = this, end_time, progress
        self.task = this.task
        self._told = False
        self.stopping = False
        self._deadline = math.inf
        self._seconds_per_image = 0.0

    def _look(self) -> None:
        this, ranks = self._this, self._this.ranks
        ranks.while_waiting()
        if this.request.name and not self._told:
            self._told = True
            self._stop_by(this.request.since + this.options.grace)
            if ranks.rank:
                ranks.tell_signal(this.request.name)
        grace = ranks.stop_asked() if ranks.rank else None
        if grace is not None:
            self._stop_by(time.monotonic() + grace)

    def _stop_by(self, deadline: float) -> None:
        self.stopping, self._deadline = True, min(self._deadline, deadline)

    def may_begin(self, n_images: int) -> bool:
        """Whether a block of that many images may be begun: nobody asked to stop, and there is time for it."""
        self._look()
        if self._end_time is not None:
            needed = n_images * self._seconds_per_image + END_MARGIN_SECONDS
            self.stopping = self.stopping or time.time() + needed > self._end_time
        return not self.stopping

    def after_image(self, n_frames: int) -> None:
        """Raises Dropped when the grace is over."""
        self._progress(n_frames)
        self._look()
        if time.monotonic() > self._deadline:
            raise Dropped

    def before_naming(self) -> None:
        self._this.check_locks()

    def made(self, report: BlockReport) -> None:
        self._seconds_per_image = max(self._seconds_per_image, report.seconds / max(1, report.n_images))


def make_blocks_alone(job: Job, this: Process, meanwhile: Callable[[], None]) -> list[BlockReport]:
    """Make all blocks that aren't kept in this one process; the reports of those that were made.

    `meanwhile` is done while the last one's files get their names, if all blocks were begun.
    """
    line = reporting.ProgressLine(_frames_to_make(job, this), quiet=this.quiet)
    guide = Guide(this, job_end_time() if len(this.kept) < job.plan.n_blocks else None, line.advance)
    reports = []
    for report in work_guided(job, _still_to_make(job, this, 1, 1), 0, guide, meanwhile):
        reports.append(report)
        tell(job, report, this)
    line.finish()
    return reports


def _frames_to_make(job: Job, this: Process) -> int:
    return job.plan.n_frames - sum(r.n_frames for r in this.kept.values())


def _still_to_make(job: Job, this: Process, worker: int, n_workers: int) -> list[int]:
    return [k for k in job.plan.owned(worker, n_workers) if k not in this.kept]


def work_guided(
    job: Job, numbers: Sequence[int], rank: int, guide: Guide, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[Any]:
    """The reports of the blocks made, as far as `guide` lets them be; a block that is dropped ends it."""

    def may_begin(number: int) -> bool:
        return guide.may_begin(job.plan.block(number).n_images)

    try:
        yield from make_blocks(guide.task, job, numbers, rank, guide, may_begin, meanwhile)
    except Dropped:
        return


def work_for_rank_0(job: Job, this: Process) -> None:
    """A worker's part: make its blocks, report each, and learn how the run ended."""
    ranks = this.ranks
    go = unless_stopped(ranks, None)
    sent, status = _Throttled(ranks), 0
    this.tickets = go.tickets
    guide = Guide(this, go.end_time, sent.advance)
    try:
        numbers = _still_to_make(job, this, ranks.worker, ranks.n_workers)
        for report in work_guided(job, numbers, ranks.rank, guide):
            sent.flush()
            ranks.send(report)
        if guide.stopping:
            status = Interrupted.exit_status
    except Exception as error:
        tell_failure(ranks, error)
        status = getattr(error, "exit_status", BnlError.exit_status)
    ranks.send(Ended(status))
    ranks.while_waiting = lambda: _while_idle(this, guide)
    ranks.flush()
    unless_stopped(ranks, None)


def _while_idle(this: Process, guide: Guide) -> None:
    """A signal to a worker that has no more to do is meant for the others."""
    this.look_around()
    if this.request.name and not guide.stopping:
        guide.stopping = True
        this.ranks.tell_signal(this.request.name)


class _Throttled:
    """Sends counts of frames to rank 0, no more than one a second."""

    def __init__(self, ranks: World) -> None:
        self._ranks, self._frames, self._sent = ranks, 0, time.monotonic()

    def advance(self, n_frames: int) -> None:
        self._frames += n_frames
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._frames:
            self._ranks.send(self._frames)
        self._frames, self._sent = 0, time.monotonic()


def gather_reports(job: Job, this: Process) -> list[BlockReport]:
    """On rank 0: wait, asleep, for the workers' reports and for each one's end."""
    ranks = this.ranks
    line = reporting.ProgressLine(_frames_to_make(job, this), quiet=this.quiet)
    reports: list[BlockReport] = []
    ended, failure, deadline, told = 0, 0, math.inf, False
    while ended < ranks.n_workers:
        message = ranks.poll()
        if isinstance(message, BlockReport):
            reports.append(message)
            tell(job, message, this)
        elif isinstance(message, Ended):
            ended += 1
            if message.status not in (0, Interrupted.exit_status) and not failure:
                failure, deadline = message.status, time.monotonic() + FAREWELL_SECONDS
                ranks.tell_stop(0.0)
        elif message is not None:
            line.advance(message)
        if not told and _asked_to_stop(this):
            told = True
            left = max(0.0, this.request.since + this.options.grace - time.monotonic())
            deadline = min(deadline, time.monotonic() + left + FAREWELL_SECONDS)
            ranks.tell_stop(left)
        if time.monotonic() > deadline:
            # Somebody hangs in a read or a write: end everybody, and clear away what was being written.
            this.task.files.remove_partial(job)
            this.say("a worker doesn't answer: all ranks are ended; blocks that were complete remain")
            ranks.abort(failure or Interrupted.exit_status)
    line.finish()
    if failure:
        error = BnlError(f"a worker failed, see its line above; {this.task.files.remains}")
        error.exit_status = failure
        raise error
    return reports


def _asked_to_stop(this: Process) -> bool:
    """On rank 0: whether this or another rank got a signal."""
    request = this.request
    told = this.ranks.signal_told()
    if told and request.name is None:
        request.name, request.since = told, time.monotonic()
    return request.name is not None


def tell(job: Job, report: BlockReport, this: Process) -> None:
    """A finished block, to the user if he wants each, and to the log."""
    if job.options.verbose:
        this.say(reporting.block_line(report, reporting.raw_bytes_per_frame(job)))
    this.log.block(report, reporting.raw_bytes_per_frame(job))


def make_blocks(
    task: AnyTask,
    job: Job,
    numbers: Sequence[int],
    rank: int,
    overseer: Overseer | None = None,
    may_begin: Callable[[int], bool] = lambda number: True,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[BlockReport]:
    """Make the blocks `numbers`, yielding the report of each; an error says which block it was.

    A block's files get their names while the next one's images are made, and it is reported then; of the last one,
    while `meanwhile` is done, once, when the images of all blocks are made.  `may_begin` is asked with each block's
    number; the first refusal ends the work.
    """
    if not numbers:
        return
    overseer = overseer or Overseer()
    before: Made | _Failed | None = None
    made: Made | _Failed | None = None
    try:
        for made in _made_in_turn(task, job, numbers, rank, overseer, may_begin, meanwhile):
            if before is not None:
                yield _report_of(before, task, job, overseer)
            before = made
        if before is not None:
            yield _report_of(before, task, job, overseer)
    finally:
        # Whoever goes on after an error may write the same files again.
        for one in (before, made):
            if one is not None:
                one.wait()


@dataclass
class _Failed:
    """In the place of a block: making its images ended with this error."""

    number: int
    error: Exception

    def wait(self) -> None:
        """Nothing goes on."""

    def report(self) -> BlockReport:
        raise self.error


def _made_in_turn(
    task: AnyTask,
    job: Job,
    numbers: Sequence[int],
    rank: int,
    overseer: Overseer,
    may_begin: Callable[[int], bool],
    meanwhile: Callable[[], None],
) -> Iterator[Made | _Failed]:
    """One block after another, until one fails or mustn't be begun; arguments as for `make_blocks`."""
    maker = task.maker(job, rank)
    try:
        for number in numbers:
            if not may_begin(number):
                return
            try:
                made = maker.make(job.plan.block(number), overseer)
            except Exception as error:
                yield _Failed(number, error)
                return
            overseer.made(made.so_far)
            yield made
    finally:
        maker.close()
        # Its buffers are given back before anything else is done.
        del maker
    meanwhile()


def _report_of(made: Made | _Failed, task: AnyTask, job: Job, overseer: Overseer) -> BlockReport:
    """Wait for a block's end; errors are the same, with the block that they are of."""
    number = made.number
    try:
        report = made.report()
    except BnlError as error:
        # The same kind of error, its text led by the block.
        error.args = (f"block {number}: {error}",)
        raise
    except MemoryError as error:
        raise BnlError(
            f"block {number}: {task.files.path(job, number)}: out of memory; start fewer ranks on a node, or "
            "ask for more memory"
        ) from error
    except Dropped:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"block {number}: {task.files.path(job, number)}: {what}") from error
    overseer.made(report)
    return report
