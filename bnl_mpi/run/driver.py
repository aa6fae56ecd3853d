"""A run: rank 0 plans and writes the masters, the other ranks make blocks; or one process does it all.

The order of events, the same for every task and every number of ranks:
  1. rank 0 prepares the job, checks what it can and takes the output's lock; the job is broadcast, or the
     error's status is.
  2. every worker opens the data files that it will read and reports what doesn't fit; under `--resume` it also
     looks at its blocks that are there already.
  3. rank 0 says go, or stops everybody; nothing was written so far.
  4. workers make their blocks and report each; rank 0 writes the masters under temporary names meanwhile, and
     waits for the workers, asleep.  One process alone does so while the last block's files get their names.
  5. when all blocks are there, the masters get their names, and the user is told.

An error that rank 0 tells all ranks of is `Told`, and they end in step.  Any other, on any rank, ends them all.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from ..errors import BnlError, Interrupted, OutputError, UsageError
from ..hdf5 import plugins
from ..job import Job, Prepared
from ..options import Options
from ..plan import counted_are
from . import launch, world
from . import report as reporting
from .agreement import agree_on_job
from .log import RunLog
from .signals import StopRequest, job_end_time
from .state import Go, Process, Stop, StoppedElsewhere, Told, tell_failure
from .task import AnyTask, BlockReport, Masters, Outcome, Summary, Task
from .work import gather_reports, make_blocks_alone, work_for_rank_0
from .world import World

S = TypeVar("S", bound=Summary)

Finish = Callable[[Summary], None]
"""What rank 0 does with the summary while the others still wait for it."""


def main(task: AnyTask, options: Options, words: Sequence[str]) -> int:
    """A command's run over ranks or shares; returns the exit status.

    `words` are those after `bnl-mpi`, to start more ranks with.
    """
    if n_workers := launch.workers_to_start(options):
        return launch.run_mpiexec(n_workers + 1, words)
    request = StopRequest()
    if options.thread is not None:
        from . import shares

        request.install()
        return shares.main(task, options, request)
    try:
        ranks = World(world.connect() if launch.launched() else None)
    except UsageError as error:
        if launch.is_spokesman():
            raise
        # Long enough for the one line to come out before a launcher ends all.
        time.sleep(1)
        return error.exit_status
    # Only now: some MPI libraries take SIGUSR1, and while MPI waits for a rank no handler of ours would run.
    request.install()
    try:
        return _main_on(ranks, task, options, request)
    except BaseException as error:
        if ranks.size > 1:
            tell_failure(ranks, error)
            ranks.abort(getattr(error, "exit_status", BnlError.exit_status))
        raise


def _main_on(ranks: World, task: AnyTask, options: Options, request: StopRequest) -> int:
    status = 0

    def finish(summary: Summary) -> None:
        nonlocal status
        status = tell(summary, options)

    try:
        if options.parallel is not None and ranks.n_workers != options.parallel:
            raise Told(
                UsageError(
                    f"-p {options.parallel} asks for {options.parallel} workers, but the launcher started "
                    f"{ranks.size} ranks, one of them for the masters; start {options.parallel + 1} ranks, or drop -p"
                )
            )
        perform(task, options, ranks, request, finish=finish)
    except Told as told:
        error = told.error
        if ranks.rank == 0:
            print(f"bnl-mpi: {error}", file=sys.stderr)
        # Rank 0's status is the job's; a second failing rank would only have the launcher kill the others.
        status = 0 if isinstance(error, StoppedElsewhere) else error.exit_status
    ranks.leave()
    return status


def tell(summary: Summary, options: Options) -> int:
    """Print the summary, write it as JSON if that is wanted; returns the exit status."""
    reporting.tell_people("\n".join(summary.lines()), options)
    if options.json:
        reporting.write_json(options.json, summary)
    return summary.exit_status


def call(task: Task[Any, Any, S], options: Options, comm: Any = None) -> S | None:
    """A task's run for Python callers; see `bnl_mpi.reduce`."""
    if options.thread is not None or options.parallel is not None:
        raise UsageError("parallel and thread belong to the command; pass a communicator as comm instead")

    def finish(summary: Summary) -> None:
        if options.json:
            reporting.write_json(options.json, summary)

    with launch.library_threads():
        try:
            return perform(task, options, World(comm), StopRequest(), quiet=not options.verbose, finish=finish)
        except Told as told:
            raise told.error from told.error.__cause__
        finally:
            plugins.give_back()


def perform(
    task: Task[Any, Any, S],
    options: Options,
    ranks: World,
    request: StopRequest,
    *,
    quiet: bool = False,
    finish: Finish = lambda summary: None,
) -> S | None:
    """Do the whole job on `ranks`; the summary on rank 0, None elsewhere.

    Raises `Told` on every rank for an error that all have heard of.  Any other aborts the communicator if it has
    more than one rank, else it is raised as it is.
    """
    begin = time.monotonic()
    this = Process(task, options, ranks, request, RunLog(None), quiet)
    request.at_once, ranks.before_abort = this.stop_at_once, this.let_go
    try:
        this.keep_watch()
        prepared, job = agree_on_job(this)
        if prepared is None:
            work_for_rank_0(job, this)
            return None
        summary: S = _run_as_rank_0(prepared, job, this, begin, finish)
        return summary
    except Told as told:
        kind = "stop" if isinstance(told.error, Interrupted) else "error"
        this.log.write(kind, text=str(told.error), status=told.error.exit_status)
        raise
    except BaseException as error:
        if ranks.size > 1:
            tell_failure(ranks, error)
            ranks.abort(getattr(error, "exit_status", BnlError.exit_status))
        if not isinstance(error, Exception):  # an interrupt may come where nobody clears away
            this.let_go()
        raise
    finally:
        this.end_watch()
        this.release()
        this.log.close()


def _run_as_rank_0(prepared: Prepared, job: Job, this: Process, begin: float, finish: Finish) -> Any:
    """Steps 4 and 5.  The workers wait for the outcome, whatever it is."""
    ranks = this.ranks
    try:
        summary = _make_all(prepared, job, this, begin)
        finish(summary)
    except BnlError as error:
        ranks.broadcast(Stop(error.exit_status, str(error)))
        raise Told(error) from error.__cause__
    ranks.broadcast("done")
    return summary


def _make_all(prepared: Prepared, job: Job, this: Process, begin: float) -> Any:
    ranks, task = this.ranks, this.task
    warnings = [*prepared.warnings, *reporting.idle_note(job, ranks.n_workers), *task.notes(job)]
    _announce(job, this, warnings)
    missing = job.plan.n_blocks - len(this.kept)
    finished = this.masters_there if not missing else None
    if finished is not None:
        this.say(f"{job.options.master_path}: this job is finished already, nothing to do")
    else:
        # A block that is gone or unsound makes the masters untrue as --force does.
        task.files.remove_old_masters(job)
        task.files.remove_partial(job)
    # Nobody writes before the old masters are gone.
    ranks.broadcast(Go(job_end_time() if missing else None, this.tickets))
    reports, masters = _work(prepared, job, this, finished)
    more = [*task.afterthoughts([*this.kept.values(), *reports]), *masters.warnings]
    for text in more:
        this.warn(text)
    if job.options.force:
        task.files.remove_surplus(job)
    seconds = time.monotonic() - begin
    numbers, kept = range(1, job.plan.n_blocks + 1), list(this.kept.values())
    summary = task.summarise(
        job, Outcome(numbers, reports, kept, ranks.n_workers, seconds, masters, [*warnings, *more])
    )
    bytes_out = sum(r.bytes_written for r in [*reports, *kept])
    this.log.write(
        "end", seconds=round(seconds, 3), master=os.path.abspath(job.options.master_path), bytes_out=bytes_out
    )
    return summary


def _work(prepared: Prepared, job: Job, this: Process, finished: Masters | None) -> tuple[list[Any], Masters]:
    """The reports of the blocks that were made, and the masters, which have their names when this returns."""
    ranks = this.ranks
    with ExitStack() as files:
        masters = Later(lambda: this.task.write_masters(prepared, files))
        # While the workers work, or the last block's files get their names; of an error nobody hears before.  Which
        # frames are bad, the masters tell only when all blocks are there.
        early = finished is None and not job.options.skip_bad_frames
        meanwhile = masters.attempt if early else lambda: None
        if ranks.size > 1:
            meanwhile()
            reports = gather_reports(job, this)
        else:
            reports = make_blocks_alone(job, this, meanwhile)
        _check_complete(job, this, len(reports))
        made = finished if finished is not None else masters.result()
        _check_unchanged(job, this, reports)
        this.check_locks()
        return reports, made


class Later:
    """Work done in advance: what it returned, or the error that it met, comes when it is asked for."""

    def __init__(self, work: Callable[[], Masters]) -> None:
        self._work = work
        self._result: Masters | None = None
        self._error: Exception | None = None

    def attempt(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:
            self._error = error

    def result(self) -> Masters:
        if self._error is not None:
            raise self._error
        return self._work() if self._result is None else self._result


def _check_complete(job: Job, this: Process, n_made: int) -> None:
    whole, total = n_made + len(this.kept), job.plan.n_blocks
    if whole < total:
        why = f"by {this.request.name}" if this.request.name else "before the batch job's time ends"
        raise Interrupted(
            f"stopped {why}: {whole} of {counted_are(total, 'block')} complete; the same command with --resume goes on"
        )


def _check_unchanged(job: Job, this: Process, reports: Sequence[BlockReport]) -> None:
    """Before a master tells of them: every block is still there, and is the one that was reported."""
    changed = this.task.files.changed(job, [*reports, *this.kept.values()])
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise OutputError(f"{changed[0]}{more}; no master is written; --resume makes such blocks again")


def _announce(job: Job, this: Process, warnings: Sequence[str]) -> None:
    plan, n_workers = job.plan, this.ranks.n_workers
    this.say(f"{this.task.start_line(job)}; {n_workers} worker{'s' * (n_workers != 1)}")
    this.log.start(job.source.master, plan.n_frames, plan.n_images, plan.n_blocks, n_workers)
    for text in warnings:
        this.warn(text)
    if job.options.resume and this.kept:
        this.say(f"{len(this.kept)} of {counted_are(plan.n_blocks, 'block')} there and sound")
    for number in sorted(this.kept):
        this.log.write("kept", block=number)
