"""The run: rank 0 plans and writes the masters, the other ranks make blocks; or one process does it all.

The order of events, the same for every number of ranks:
  1. rank 0 prepares the job, checks what it can and takes the output's lock; the job is broadcast, or the
     error's status is.
  2. every worker opens the data files that it will read and reports what doesn't fit; under `--resume` it also
     looks at its blocks that are there already.
  3. rank 0 says go, or stops everybody; nothing was written so far.
  4. workers make their blocks and report each; rank 0 writes the masters under temporary names meanwhile, and
     waits for the workers, asleep.
  5. when all blocks are there, the masters get their names.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from . import blockfile, resume, source, watch, world
from . import job as jobs
from . import report as reporting
from .errors import BnlError, InputError, Interrupted, OutputError, UsageError
from .job import Job, Prepared
from .lock import Lock, Share
from .options import Options
from .pipeline import BlockMaker, BlockReport, Pipeline
from .report import Summary
from .runlog import RunLog
from .signals import StopRequest, job_end_time
from .world import World

REPORT_SECONDS = 1.0
"""How often a worker tells of frames done within a block."""

FAREWELL_SECONDS = 3.0
"""How long the workers have, after one failed or the grace is over, to drop what they were writing."""

END_MARGIN_SECONDS = 5.0
"""Kept free before the end of a batch job's time."""


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


class StoppedElsewhere(BnlError):
    """Another rank met the error and tells of it; this one only has to end."""


@dataclass(frozen=True)
class Ended:
    """A worker's last message to rank 0: it makes no more blocks.  Status 0 if it made all that it was to make,
    that of `Interrupted` if it was stopped."""

    status: int


class Dropped(Exception):
    """Raised within a worker's block that can't be finished any more."""


@dataclass(frozen=True)
class Task:
    """What a run does; ranks, shares, signals, `--resume` and the order of events are the same for all tasks."""

    prepare: Callable[..., Prepared]
    """Called with `Options` and the keyword `trust_counts`: everything that can be checked before the first output."""
    check_inputs: Callable[[Job, Sequence[int]], tuple[list[str], dict[int, int]]]
    """What is wrong with the input of the blocks of these numbers, a line each, and lengths that differ from the
    job's."""
    maker: Callable[[Job, int], BlockMaker]
    write_masters: Callable[[Prepared, ExitStack], tuple[bool, list[str]]]
    """Writes them under temporary names; they get their own when the stack closes.  Returns whether the NXmx file
    could be made, and warnings."""


@dataclass
class Run:
    """What a process needs from the beginning of a run to its end."""

    task: Task
    options: Options
    ranks: World
    request: StopRequest
    log: RunLog
    quiet: bool = False
    lock: Lock | None = None
    kept: dict[int, BlockReport] = field(default_factory=dict)
    """Blocks of an earlier run that need not be made: this worker's own; on rank 0 all of them."""
    masters_there: bool = False
    listener: watch.Listener | None = None
    lifeline: watch.Lifeline | None = None

    def keep_watch(self) -> None:
        """From now on, notice the death of rank 0, or on rank 0 of any worker, if the launcher wouldn't."""
        ranks = self.ranks
        if ranks.size == 1 or not ranks.share(watch.is_needed() if ranks.rank == 0 else None):
            return
        if ranks.rank == 0:
            with contextlib.suppress(OSError):
                self.listener = watch.Listener()
        address = ranks.share(self.listener.address if self.listener else None)
        if ranks.rank and address:
            self.lifeline = watch.Lifeline(address, ranks.rank)
        ranks.while_waiting = self.look_around

    def look_around(self) -> None:
        """What every wait does, and every worker after an image."""
        if self.lock is not None:
            self.lock.beat()
        dead = self.listener.dead() if self.listener else None
        if dead is not None or (self.lifeline and self.lifeline.is_cut()):
            who = "rank 0" if dead is None else f"rank {dead}"
            host = socket.gethostname()
            os.write(2, f"bnl-mpi: rank {self.ranks.rank} on {host}: {who} died; the run ends\n".encode())
            self.let_go()
            self.ranks.abort(BnlError.exit_status)

    def end_watch(self) -> None:
        for end in (self.listener, self.lifeline):
            if end is not None:
                end.close()
        self.listener = self.lifeline = None

    def take_lock(self, job: Job, share: Share | None = None) -> None:
        if self.lock is None:
            self.lock = Lock(job.options.out_file, job.sha256, share)
        self.lock.acquire()
        self.ranks.while_waiting = self.look_around

    def let_go(self) -> None:
        """Leave nothing behind; on the way to an abrupt end too."""
        blockfile.drop_files_in_hand()
        if self.lock is not None:
            self.lock.release()

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
        self.say(f"warning: {text}")
        self.log.write("warning", text=text)


def main(options: Options, words: Sequence[str], task: Task | None = None) -> int:
    """A command's run over ranks or shares, the main job's if `task` is None; returns the exit status.

    `words` are those after `bnl-mpi`, to start more ranks with.
    """
    task = task or REDUCTION
    if options.thread is None and options.parallel is not None and not world.launched():
        return world.run_mpiexec(options.parallel + 1, words)
    request = StopRequest()
    request.install()
    if options.thread is not None:
        return _main_of_share(task, options, request)
    try:
        ranks = World(world.connect() if world.launched() else None)
    except UsageError as error:
        if world.is_spokesman():
            raise
        # Long enough for the one line to come out before a launcher ends all.
        time.sleep(1)
        return error.exit_status
    request.install()
    _limit_library_threads()
    try:
        if options.parallel is not None and ranks.n_workers != options.parallel:
            raise UsageError(
                f"-p {options.parallel} asks for {options.parallel} workers, but the launcher started {ranks.size} "
                f"ranks, one of them for the masters; start {options.parallel + 1} ranks, or drop -p"
            )
        summary = run(task, options, ranks, request)
    except StoppedElsewhere:
        # Rank 0's status is the job's; a second failing rank would only have the launcher kill the others.
        ranks.leave()
        return 0
    except BnlError as error:
        if ranks.rank == 0:
            print(f"bnl-mpi: {error}", file=sys.stderr)
        ranks.leave()
        return error.exit_status
    if summary is not None:
        print("\n".join(summary.lines()))
        if options.json:
            summary.write_json(options.json)
    ranks.leave()
    return 0


def reduce(options: Options, comm: Any = None, task: Task | None = None) -> Summary | None:
    """A task, by default the main job, for Python callers; see `bnl_mpi.reduce`."""
    if options.thread is not None or options.parallel is not None:
        raise UsageError("parallel and thread belong to the command; pass a communicator as comm instead")
    _limit_library_threads()
    return run(task or REDUCTION, options, World(comm), StopRequest(), quiet=not options.verbose)


def _limit_library_threads() -> None:
    """One thread a rank: the ranks themselves fill the machine.  A user's own setting is left alone."""
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLOSC_NTHREADS",
        "OPJ_NUM_THREADS",
    ):
        os.environ.setdefault(name, "1")


def run(task: Task, options: Options, ranks: World, request: StopRequest, *, quiet: bool = False) -> Summary | None:
    """Do the whole job on `ranks`; the summary on rank 0, None elsewhere.

    Errors before the first output raise on every rank (`StoppedElsewhere` on all but rank 0).  Later ones
    abort the communicator if it has more than one rank, else raise.
    """
    begin = time.monotonic()
    this = Run(task, options, ranks, request, RunLog(None), quiet)
    request.at_once = this.stop_at_once
    ranks.before_abort = this.let_go
    try:
        this.keep_watch()
        prepared, job = _agree_on_job(this)
        if prepared is None:
            _work_for_rank_0(job, this)
            return None
        return _run_as_rank_0(prepared, job, this, begin)
    except BnlError as error:
        # Every rank knows: errors are agreed on before the work, and told of at its end.
        kind = "stop" if isinstance(error, Interrupted) else "error"
        this.log.write(kind, text=str(error), status=error.exit_status)
        raise
    except BaseException as error:
        if ranks.size > 1:
            _tell_failure(ranks, error)
            ranks.abort(BnlError.exit_status)
        raise
    finally:
        this.end_watch()
        this.let_go()
        this.log.close()


def _run_as_rank_0(prepared: Prepared, job: Job, this: Run, begin: float) -> Summary:
    """Steps 4 and 5.  The workers wait for the outcome, whatever it is."""
    ranks = this.ranks
    try:
        summary = _make_all(prepared, job, this, begin)
    except BnlError as error:
        ranks.share(Stop(error.exit_status, str(error)))
        raise
    ranks.share("done")
    return summary


def _make_all(prepared: Prepared, job: Job, this: Run, begin: float) -> Summary:
    ranks, plan = this.ranks, job.plan
    warnings = [*prepared.warnings, *reporting.notes(job, ranks.n_workers)]
    _announce(job, this, warnings)
    missing = plan.n_blocks - len(this.kept)
    finished = this.masters_there and not missing
    if finished:
        this.say(f"{job.options.master_path}: this job is finished already, nothing to do")
    else:
        # A block that is gone or unsound makes the masters untrue as --force does.
        jobs.remove_old_masters(job)
        jobs.remove_partial_files(job)
    # Nobody writes before the old masters are gone.
    ranks.share(Go(job_end_time() if missing else None))
    with ExitStack() as files:
        masters = Later(lambda: this.task.write_masters(prepared, files))
        if ranks.size > 1 and not finished:
            # While the workers work; of an error nobody hears before they have ended.
            masters.attempt()
        reports = _gather_reports(job, this) if ranks.size > 1 else _make_blocks_alone(job, this)
        _check_complete(job, this, len(reports))
        more = reporting.afterthoughts(reports)
        if finished:
            nexus = os.path.exists(job.options.nxs_path)
        else:
            nexus, of_masters = masters.result()
            more += of_masters
    for text in more:
        this.warn(text)
    if job.options.force:
        jobs.remove_surplus_blocks(job)
    summary = reporting.summarise(
        job, reports, kept=list(this.kept.values()), n_workers=ranks.n_workers, seconds=time.monotonic() - begin,
        nexus=nexus, warnings=[*warnings, *more],
    )  # fmt: skip
    this.log.write("end", seconds=round(summary.seconds, 3), master=summary.master, bytes_out=summary.bytes_out)
    return summary


class Later:
    """Work done in advance: what it returned, or the error that it met, comes when it is asked for."""

    def __init__(self, work: Callable[[], tuple[bool, list[str]]]) -> None:
        self._work = work
        self._result: tuple[bool, list[str]] | None = None
        self._error: Exception | None = None

    def attempt(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:
            self._error = error

    def result(self) -> tuple[bool, list[str]]:
        if self._error is not None:
            raise self._error
        return self._work() if self._result is None else self._result


def _check_complete(job: Job, this: Run, n_made: int) -> None:
    whole, total = n_made + len(this.kept), job.plan.n_blocks
    if whole < total:
        why = f"by {this.request.name}" if this.request.name else "before the batch job's time ends"
        raise Interrupted(
            f"stopped {why}: {whole} of {total} blocks are complete; the same command with --resume goes on"
        )


def _announce(job: Job, this: Run, warnings: list[str]) -> None:
    plan = job.plan
    this.say(reporting.start_line(job, this.ranks.n_workers).removeprefix("bnl-mpi: "))
    this.log.start(job.source.master, plan.n_frames, plan.n_images, plan.n_blocks, this.ranks.n_workers)
    for text in warnings:
        this.warn(text)
    if job.options.resume and this.kept:
        this.say(f"{len(this.kept)} of {plan.n_blocks} blocks are there and sound")
    for number in sorted(this.kept):
        this.log.write("kept", block=number)


def _tell_failure(ranks: World, error: BaseException) -> None:
    """One line that says which rank failed where and why; a traceback only for what is no user's mistake."""
    text = str(error)
    if not isinstance(error, BnlError):
        import traceback

        traceback.print_exception(error)
        text = f"{type(error).__name__}: {error}"
    # One write, so that lines of several ranks don't mix.
    sys.stderr.write(f"bnl-mpi: rank {ranks.rank} on {socket.gethostname()}: {text}\n")
    sys.stderr.flush()


# ---- before the first output ----------------------------------------------------------------------------


def _agree_on_job(this: Run) -> tuple[Prepared | None, Job]:
    """Steps 1 to 3.  A set whose files turn out to differ in length is planned once more, with all opened."""
    ranks = this.ranks
    for trust_counts in (True, False):
        prepared, message = None, None
        if ranks.rank == 0:
            prepared, message = _prepare(this, trust_counts)
        job = _unless_stopped(ranks, message)
        problems, recount = _check_inputs(job, this)
        decision: Any = "recount" if recount and trust_counts else "go"
        if problems:
            decision = Stop(InputError.exit_status, "; ".join(problems))
        if _unless_stopped(ranks, decision) == "go":
            _agree_on_kept(job, this)
            return prepared, job
    raise AssertionError("a source with all files opened has no counts left to check")


def _prepare(this: Run, trust_counts: bool) -> tuple[Prepared | None, Job | Stop]:
    """Rank 0's part; an error is a message too, so that the other ranks don't wait for ever."""
    try:
        prepared = this.task.prepare(this.options, trust_counts=trust_counts)
        jobs.check_places(prepared.job)
        if this.log.path is None and this.options.log_json:
            this.log = RunLog(this.options.log_json)
        this.take_lock(prepared.job)
        prepared = _with_stored_block_size(prepared, this, trust_counts=trust_counts)
        jobs.check_existing(prepared.job)
    except BnlError as error:
        return None, Stop(error.exit_status, str(error))
    return prepared, prepared.job


def _with_stored_block_size(prepared: Prepared, this: Run, *, trust_counts: bool) -> Prepared:
    """The job with the `-d` of the blocks that are there: another would make them all worthless."""
    options = prepared.job.options
    size = resume.stored_block_size(prepared.job) if options.resume else None
    if size is None or size == options.data_block_size:
        return prepared
    stored = this.task.prepare(replace(options, data_block_size=size), trust_counts=trust_counts)
    text = f"-d {size} of the blocks that are there is used, not -d {options.data_block_size}"
    return replace(stored, warnings=(*stored.warnings, text))


def _unless_stopped(ranks: World, message: Any) -> Any:
    answer = ranks.share(message)
    if isinstance(answer, Stop):
        kind = Interrupted if answer.status == Interrupted.exit_status else BnlError
        error: BnlError = (StoppedElsewhere if ranks.rank else kind)(answer.message)
        error.exit_status = answer.status
        raise error
    return answer


def _check_inputs(job: Job, this: Run) -> tuple[list[str], bool]:
    """On rank 0: the problems that the owners of the data files found, and whether lengths differ."""
    ranks = this.ranks
    problems: list[str] = []
    counts: dict[int, int] = {}
    if ranks.worker:
        problems, counts = this.task.check_inputs(job, job.plan.share(ranks.worker, ranks.n_workers))
    gathered = ranks.collect((problems, counts))
    all_problems = sorted({p for found, _ in gathered for p in found})
    return all_problems, any(found for _, found in gathered)


def _agree_on_kept(job: Job, this: Run) -> None:
    """Under `--resume`, each worker looks at its own blocks; a file of another job stops everybody."""
    if not job.options.resume:
        return
    ranks, found = this.ranks, resume.Kept()
    if ranks.worker:
        found = resume.inspect(job, job.plan.share(ranks.worker, ranks.n_workers), lambda: _heed_while_inspecting(this))
        this.kept = {r.number: r for r in found.reports}
    gathered = ranks.collect(found)
    message: Any = "go"
    if ranks.rank == 0:
        message = _judge_kept(job, this, gathered)
    _unless_stopped(ranks, message)


def _heed_while_inspecting(this: Run) -> bool:
    """Keeps the lock fresh; whether to go on."""
    this.ranks.while_waiting()
    return this.request.name is None


def _judge_kept(job: Job, this: Run, gathered: Sequence[resume.Kept]) -> str | Stop:
    foreign = sorted(line for kept in gathered for line in kept.foreign)
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        return Stop(OutputError.exit_status, foreign[0] + more)
    try:
        this.masters_there = resume.check_masters(job)
    except OutputError as error:
        return Stop(error.exit_status, str(error))
    for line in sorted(line for kept in gathered for line in kept.unsound):
        this.warn(line)
    this.kept = {r.number: r for kept in gathered for r in kept.reports}
    told = this.ranks.signal_told()
    this.request.name = this.request.name or told
    if this.request.name:
        total = job.plan.n_blocks
        return Stop(
            Interrupted.exit_status,
            f"stopped by {this.request.name}: {len(this.kept)} or more of {total} blocks are complete; the same "
            "command with --resume goes on",
        )
    return "go"


def segments_of(job: Job, numbers: Sequence[int]) -> list[int]:
    """The segments of the source that the blocks `numbers` read."""
    wanted: set[int] = set()
    for number in numbers:
        block = job.plan.block(number)
        first = job.plan.frames_of(block.first_image).start
        last = job.plan.frames_of(block.first_image + block.n_images - 1).stop
        wanted.update(k for k, _ in job.source.spans(range(first, last)))
    return sorted(wanted)


# ---- the work -------------------------------------------------------------------------------------------


class Guide:
    """Tells a maker of blocks when to begin no more, and when to drop the one in hand."""

    def __init__(self, this: Run, end_time: float | None) -> None:
        self._this, self._end_time = this, end_time
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

    def after_image(self) -> None:
        """Raises Dropped when the grace is over."""
        self._look()
        if time.monotonic() > self._deadline:
            raise Dropped

    def made(self, report: BlockReport) -> None:
        self._seconds_per_image = max(self._seconds_per_image, report.seconds / max(1, report.n_images))


def _make_blocks_alone(job: Job, this: Run) -> list[BlockReport]:
    line = reporting.ProgressLine(_frames_to_make(job, this), quiet=this.quiet)
    answer = Go(job_end_time() if len(this.kept) < job.plan.n_blocks else None)
    guide = Guide(this, answer.end_time)
    reports = []
    for report in _work_guided(job, _still_to_make(job, this, 1, 1), 0, guide, line.advance):
        reports.append(report)
        _tell(job, report, this)
    line.finish()
    return reports


def _frames_to_make(job: Job, this: Run) -> int:
    return job.plan.n_frames - sum(r.n_frames for r in this.kept.values())


def _still_to_make(job: Job, this: Run, worker: int, n_workers: int) -> list[int]:
    return [k for k in job.plan.share(worker, n_workers) if k not in this.kept]


def _work_guided(job: Job, numbers: Sequence[int], rank: int, guide: Guide, progress: Any) -> Any:
    """`work`, as far as `guide` lets it; a block that is dropped ends it."""

    def after_image(n_frames: int) -> None:
        progress(n_frames)
        guide.after_image()

    def may_begin(number: int) -> bool:
        return guide.may_begin(job.plan.block(number).n_images)

    try:
        for report in work(guide.task, job, numbers, rank, after_image, may_begin):
            guide.made(report)
            yield report
    except Dropped:
        return


def _work_for_rank_0(job: Job, this: Run) -> None:
    """A worker's part: make its blocks, report each, and learn how the run ended."""
    ranks = this.ranks
    go = _unless_stopped(ranks, None)
    guide = Guide(this, go.end_time)
    sent, status = _Throttled(ranks), 0
    try:
        numbers = _still_to_make(job, this, ranks.worker, ranks.n_workers)
        for report in _work_guided(job, numbers, ranks.rank, guide, sent.advance):
            sent.flush()
            ranks.send(report)
        if guide.stopping:
            status = Interrupted.exit_status
    except Exception as error:
        _tell_failure(ranks, error)
        status = getattr(error, "exit_status", BnlError.exit_status)
    ranks.send(Ended(status))
    ranks.while_waiting = lambda: _while_idle(this, guide)
    ranks.flush()
    _unless_stopped(ranks, None)


def _while_idle(this: Run, guide: Guide) -> None:
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


def _gather_reports(job: Job, this: Run) -> list[BlockReport]:
    """On rank 0: wait, asleep, for the workers' reports and for each one's end."""
    ranks = this.ranks
    line = reporting.ProgressLine(_frames_to_make(job, this), quiet=this.quiet)
    reports: list[BlockReport] = []
    ended, failure, deadline, told = 0, 0, math.inf, False
    while ended < ranks.n_workers:
        message = ranks.poll()
        if isinstance(message, BlockReport):
            reports.append(message)
            _tell(job, message, this)
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
            jobs.remove_partial_files(job)
            this.say("a worker doesn't answer: all ranks are ended; blocks that were complete remain")
            ranks.abort(failure or Interrupted.exit_status)
    line.finish()
    if failure:
        error = BnlError(
            "a worker failed, see its line above; blocks that were complete remain, no master is written; --resume "
            "keeps them"
        )
        error.exit_status = failure
        raise error
    return reports


def _asked_to_stop(this: Run) -> bool:
    """On rank 0: whether this or another rank got a signal."""
    request = this.request
    told = this.ranks.signal_told()
    if told and request.name is None:
        request.name, request.since = told, time.monotonic()
    return request.name is not None


def _tell(job: Job, report: BlockReport, this: Run) -> None:
    if job.options.verbose:
        this.say(reporting.block_line(report, reporting.raw_bytes_per_frame(job)).removeprefix("bnl-mpi: "))
    this.log.block(report, reporting.raw_bytes_per_frame(job))


def work(
    task: Task,
    job: Job,
    numbers: Sequence[int],
    rank: int,
    progress: Any = None,
    may_begin: Callable[[int], bool] = lambda number: True,
) -> Iterator[BlockReport]:
    """Make the blocks `numbers`, yielding the report of each; an error says which block it was.

    `may_begin` is asked with each block's number; the first refusal ends the work.
    """
    if not numbers:
        return
    maker = task.maker(job, rank)
    try:
        for number in numbers:
            if not may_begin(number):
                return
            try:
                yield maker.make(job.plan.block(number), progress)
            except BnlError as error:
                # The same kind of error, its text led by the block.
                error.args = (f"block {number}: {error}",)
                raise
            except MemoryError as error:
                raise BnlError(
                    f"block {number}: {job.options.data_path(number)}: out of memory; start fewer ranks on a node, or "
                    "ask for more memory"
                ) from error
            except Dropped:
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"block {number}: {job.options.data_path(number)}: {what}") from error
    finally:
        maker.close()


# ---- the masters ----------------------------------------------------------------------------------------


def write_masters(prepared: Prepared, files: ExitStack) -> tuple[bool, list[str]]:
    """Write the new master, and the NXmx file beside it; returns whether the latter could be made, and warnings.

    Both get their names when `files` closes, the master last.
    """
    import numpy as np

    from . import master, nxmx, provenance

    job, options = prepared.job, prepared.job.options
    assert prepared.experiment is not None
    shared: dict[str, Any] = {
        "data_files": jobs.listed(job, options.data_path),
        "experiment": prepared.experiment,
        "provenance": provenance.describe(job),
        "data_dtype": np.dtype(job.plan.dtype_out),
    }
    squash = jobs.listed(job, options.squash_path) if options.out_squash else []
    warnings: list[str] = []
    new_master = files.enter_context(blockfile.whole_file(options.master_path))
    new_nxs = files.enter_context(blockfile.whole_file(options.nxs_path, optional=True))
    missing = nxmx.write_nxs(new_nxs, options.infile, job.plan, **shared)
    if missing:
        warnings.append(f"{options.nxs_path}: not written, the input lacks {', '.join(missing)}")
    warnings += master.write_master(new_master, options.infile, job.plan, squash_files=squash, **shared)
    return not missing, warnings


def _check_segments(job: Job, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
    return source.check_segments(job.source, segments_of(job, numbers))


REDUCTION = Task(jobs.prepare, _check_segments, Pipeline, write_masters)
"""The main job."""


# ---- one share, without MPI -----------------------------------------------------------------------------


def _main_of_share(task: Task, options: Options, request: StopRequest) -> int:
    """`-t K -p N`: share 0 writes the masters, share k makes blocks k, k + N, ..."""
    _limit_library_threads()
    ranks = World()
    this = Run(task, options, ranks, request, RunLog(None))
    request.at_once = this.stop_at_once
    try:
        this.log = RunLog(options.log_json)
        return run_share(this)
    except BnlError as error:
        kind = "stop" if isinstance(error, Interrupted) else "error"
        this.log.write(kind, text=str(error), status=error.exit_status)
        raise
    finally:
        this.let_go()
        this.log.close()


def run_share(this: Run) -> int:
    """Do the share `options.thread` of `options.parallel`; returns the exit status."""
    options = this.options
    assert options.thread is not None
    assert options.parallel is not None
    prepared = _prepare_share(this.task, options, options.thread)
    jobs.check_places(prepared.job)
    this.take_lock(prepared.job, Share(options.thread, options.parallel))
    if options.resume and (size := resume.stored_block_size(prepared.job)) not in (None, options.data_block_size):
        assert size is not None
        this.warn(f"-d {size} of the blocks that are there is used, not -d {options.data_block_size}")
        prepared = _prepare_share(this.task, replace(options, data_block_size=size), options.thread)
    job = prepared.job
    jobs.check_existing(job, share=options.thread)
    for text in prepared.warnings:
        this.warn(text)
    if options.resume:
        resume.check_neighbours(job)
    if options.thread == 0:
        return _masters_of_share(prepared, this)
    return _blocks_of_share(job, this, jobs.share_blocks(job, options.thread))


def _prepare_share(task: Task, options: Options, share: int) -> Prepared:
    prepared = task.prepare(options, trust_counts=True)
    job = prepared.job
    problems, recount = task.check_inputs(job, jobs.share_blocks(job, share))
    if recount or (share == 0 and not job.source.counts_known):
        prepared = task.prepare(options, trust_counts=False)
        job = prepared.job
        problems, _ = task.check_inputs(job, jobs.share_blocks(job, share))
    if problems:
        raise InputError("; ".join(sorted(set(problems))))
    return prepared


def _masters_of_share(prepared: Prepared, this: Run) -> int:
    job, options = prepared.job, prepared.job.options
    if options.resume and resume.check_masters(job):
        this.say(f"{options.master_path}: this share is finished already, nothing to do")
        return 0
    jobs.remove_partial_files(job, 0)
    if options.force:
        jobs.remove_old_masters(job)
        jobs.remove_surplus_blocks(job)
    with ExitStack() as files:
        nexus, more = this.task.write_masters(prepared, files)
    for text in more:
        this.warn(text)
    print(f"master {os.path.abspath(options.master_path)}")
    if nexus:
        print(f"NeXus  {os.path.abspath(options.nxs_path)}")
    return 0


def _blocks_of_share(job: Job, this: Run, numbers: Sequence[int]) -> int:
    options = job.options
    share = f"share {options.thread} of {options.parallel}"
    if not numbers:
        print(f"{share}: no block, {job.plan.n_blocks} are all there is")
        return 0
    if options.resume:
        _keep_of_share(job, this, numbers)
    jobs.remove_partial_files(job, options.thread)
    missing = [k for k in numbers if k not in this.kept]
    if not missing:
        this.say(f"{share} is finished already, nothing to do")
        return 0
    line = reporting.ProgressLine(sum(len(job.plan.frames_of(i)) for k in missing for i in _images(job, k)))
    made = []
    for report in _work_guided(job, missing, options.thread or 0, Guide(this, job_end_time()), line.advance):
        made.append(report)
        _tell(job, report, this)
    line.finish()
    for text in reporting.afterthoughts(made):
        this.warn(text)
    if len(made) < len(missing):
        why = f"by {this.request.name}" if this.request.name else "before the batch job's time ends"
        raise Interrupted(
            f"{share} stopped {why}: {len(made) + len(this.kept)} of its {len(numbers)} blocks are complete; the "
            "same command with --resume goes on"
        )
    print(f"{share}: blocks {', '.join(map(str, missing))}")
    return 0


def _keep_of_share(job: Job, this: Run, numbers: Sequence[int]) -> None:
    found = resume.inspect(job, numbers, lambda: _heed_while_inspecting(this))
    for line in found.unsound:
        this.warn(line)
    this.kept = {r.number: r for r in found.reports}
    for number in this.kept:
        this.log.write("kept", block=number)


def _images(job: Job, number: int) -> range:
    block = job.plan.block(number)
    return range(block.first_image, block.first_image + block.n_images)
