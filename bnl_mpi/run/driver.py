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

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from .. import job as jobs
from ..errors import BnlError, Interrupted, UsageError
from ..input import checks
from ..job import Job, Prepared
from ..options import Options
from ..output import blockfile, places
from ..tasks.reduction import Pipeline
from . import report as reporting
from . import shares, world
from .agreement import agree_on_job
from .log import RunLog
from .report import Summary
from .signals import StopRequest, job_end_time
from .state import Go, Run, Stop, StoppedElsewhere, Task, tell_failure
from .work import gather_reports, make_blocks_alone, work_for_rank_0
from .world import World


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
        _limit_library_threads()
        return shares.main(task, options, request)
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
        prepared, job = agree_on_job(this)
        if prepared is None:
            work_for_rank_0(job, this)
            return None
        return _run_as_rank_0(prepared, job, this, begin)
    except BnlError as error:
        # Every rank knows: errors are agreed on before the work, and told of at its end.
        kind = "stop" if isinstance(error, Interrupted) else "error"
        this.log.write(kind, text=str(error), status=error.exit_status)
        raise
    except BaseException as error:
        if ranks.size > 1:
            tell_failure(ranks, error)
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
        places.remove_old_masters(job)
        places.remove_partial_files(job)
    # Nobody writes before the old masters are gone.
    ranks.share(Go(job_end_time() if missing else None))
    with ExitStack() as files:
        masters = Later(lambda: this.task.write_masters(prepared, files))
        if ranks.size > 1 and not finished:
            # While the workers work; of an error nobody hears before they have ended.
            masters.attempt()
        reports = gather_reports(job, this) if ranks.size > 1 else make_blocks_alone(job, this)
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
        places.remove_surplus_blocks(job)
    summary = reporting.summarise(
        job,
        reports,
        kept=list(this.kept.values()),
        n_workers=ranks.n_workers,
        seconds=time.monotonic() - begin,
        nexus=nexus,
        warnings=[*warnings, *more],
    )
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


def write_masters(prepared: Prepared, files: ExitStack) -> tuple[bool, list[str]]:
    """Write the new master, and the NXmx file beside it; returns whether the latter could be made, and warnings.

    Both get their names when `files` closes, the master last.
    """
    import numpy as np

    from ..output import master, nexus, provenance

    job, options = prepared.job, prepared.job.options
    assert prepared.experiment is not None
    shared: dict[str, Any] = {
        "data_files": places.listed(job, options.data_path),
        "experiment": prepared.experiment,
        "provenance": provenance.describe(job),
        "data_dtype": np.dtype(job.plan.dtype_out),
    }
    squash = places.listed(job, options.squash_path) if options.out_squash else []
    warnings: list[str] = []
    new_master = files.enter_context(blockfile.whole_file(options.master_path))
    new_nxs = files.enter_context(blockfile.whole_file(options.nxs_path, optional=True))
    missing = nexus.write_nxs(new_nxs, options.infile, job.plan, **shared)
    if missing:
        warnings.append(f"{options.nxs_path}: not written, the input lacks {', '.join(missing)}")
    warnings += master.write_master(new_master, options.infile, job.plan, squash_files=squash, **shared)
    return not missing, warnings


def _check_segments(job: Job, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
    return checks.check_segments(job.source, jobs.segments_of(job, numbers))


REDUCTION = Task(jobs.prepare, _check_segments, Pipeline, write_masters)
"""The main job."""
