"""The run: rank 0 plans and writes the masters, the other ranks make blocks; or one process does it all.

The order of events, the same for every number of ranks:
  1. rank 0 prepares the job and checks what it can; the job is broadcast, or the error's status is.
  2. every worker opens the data files that it will read and reports what doesn't fit.
  3. rank 0 says go, or stops everybody; nothing was written so far.
  4. workers make their blocks and report each; rank 0 waits for them, asleep.
  5. rank 0 writes the masters.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import blockfile, source, world
from . import job as jobs
from . import report as reporting
from .errors import BnlError, InputError, UsageError
from .job import Job, Prepared
from .options import Options
from .pipeline import BlockReport, Pipeline
from .report import Summary
from .world import World

REPORT_SECONDS = 1.0
"""How often a worker tells of frames done within a block."""

FAREWELL_SECONDS = 3.0
"""How long the other workers have, after one failed, to drop what they were writing."""


@dataclass(frozen=True)
class Stop:
    """Broadcast in place of a job or a go-ahead: rank 0 has met, and will tell of, an error."""

    status: int
    message: str


class StoppedElsewhere(BnlError):
    """Another rank met the error and tells of it; this one only has to end."""


@dataclass(frozen=True)
class Ended:
    """A worker's last message to rank 0: it makes no more blocks.  Status 0 if it made all of its own."""

    status: int


class Dropped(Exception):
    """Raised within a worker's block when rank 0 wants it to stop."""


def main(options: Options, words: Sequence[str]) -> int:
    """The command's main job; returns the exit status."""
    if options.thread is not None:
        return run_share(options)
    if options.parallel is not None and not world.launched():
        command, environment = world.mpiexec_command(options.parallel + 1, words)
        sys.stdout.flush()
        os.execvpe(command[0], command, environment)
    comm = world.connect() if world.launched() else None
    ranks = World(comm)
    _limit_library_threads()
    try:
        if options.parallel is not None and ranks.n_workers != options.parallel:
            raise UsageError(
                f"-p {options.parallel} asks for {options.parallel} workers, but the launcher started {ranks.size} "
                f"ranks, one of them for the masters; start {options.parallel + 1} ranks, or drop -p"
            )
        summary = run(options, ranks)
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


def reduce(options: Options, comm: Any = None) -> Summary | None:
    """The main job for Python callers; see `bnl_mpi.reduce`."""
    if options.thread is not None or options.parallel is not None:
        raise UsageError("parallel and thread belong to the command; pass a communicator as comm instead")
    _limit_library_threads()
    return run(options, World(comm), quiet=not options.verbose)


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


def run(options: Options, ranks: World, *, quiet: bool = False) -> Summary | None:
    """Do the whole job on `ranks`; the summary on rank 0, None elsewhere.

    Errors before the first output raise on every rank (`StoppedElsewhere` on all but rank 0).  Later ones
    abort the communicator if it has more than one rank, else raise.
    """
    begin = time.monotonic()
    try:
        prepared, job = _agree_on_job(options, ranks)
        if prepared is None:
            _work_for_rank_0(job, ranks)
            return None
        return _run_as_rank_0(prepared, job, ranks, begin, quiet)
    except BnlError:
        # Every rank knows: errors are agreed on before the work, and told of at its end.
        raise
    except BaseException as error:
        if ranks.size > 1:
            _tell_failure(ranks, error)
            ranks.abort(BnlError.exit_status)
        raise


def _run_as_rank_0(prepared: Prepared, job: Job, ranks: World, begin: float, quiet: bool) -> Summary:
    """Steps 4 and 5.  The workers wait for the outcome, whatever it is."""
    try:
        summary = _make_all(prepared, job, ranks, begin, quiet)
    except BnlError as error:
        ranks.share(Stop(error.exit_status, str(error)))
        raise
    ranks.share("done")
    return summary


def _make_all(prepared: Prepared, job: Job, ranks: World, begin: float, quiet: bool) -> Summary:
    warnings = [*prepared.warnings, *reporting.notes(job, ranks.n_workers)]
    _announce(job, ranks, warnings, quiet)
    if job.options.force:
        jobs.remove_old_masters(job)
    # Nobody writes before the old masters are gone.
    ranks.share("go")
    reports = _gather_reports(job, ranks, quiet) if ranks.size > 1 else _make_blocks_alone(job, quiet)
    nexus, more = write_masters(prepared)
    for text in more:
        _warn(text, quiet)
    if job.options.force:
        jobs.remove_surplus_blocks(job)
    return reporting.summarise(
        job, reports, n_workers=ranks.n_workers, seconds=time.monotonic() - begin, nexus=nexus,
        warnings=[*warnings, *more],
    )  # fmt: skip


def _announce(job: Job, ranks: World, warnings: list[str], quiet: bool) -> None:
    if not quiet:
        print(reporting.start_line(job, ranks.n_workers), file=sys.stderr)
    for text in warnings:
        _warn(text, quiet)


def _warn(text: str, quiet: bool) -> None:
    if not quiet:
        print(f"bnl-mpi: warning: {text}", file=sys.stderr)


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


def _agree_on_job(options: Options, ranks: World) -> tuple[Prepared | None, Job]:
    """Steps 1 to 3.  A set whose files turn out to differ in length is planned once more, with all opened."""
    for trust_counts in (True, False):
        prepared, message = None, None
        if ranks.rank == 0:
            prepared, message = _prepare(options, trust_counts)
        job = _unless_stopped(ranks, message)
        problems, recount = _check_inputs(job, ranks)
        decision: Any = "recount" if recount and trust_counts else "go"
        if problems:
            decision = Stop(InputError.exit_status, "; ".join(problems))
        if _unless_stopped(ranks, decision) == "go":
            return prepared, job
    raise AssertionError("a source with all files opened has no counts left to check")


def _prepare(options: Options, trust_counts: bool) -> tuple[Prepared | None, Job | Stop]:
    """Rank 0's part; an error is a message too, so that the other ranks don't wait for ever."""
    try:
        prepared = jobs.prepare(options, trust_counts=trust_counts)
        jobs.check_output(prepared.job)
    except BnlError as error:
        return None, Stop(error.exit_status, str(error))
    return prepared, prepared.job


def _unless_stopped(ranks: World, message: Any) -> Any:
    answer = ranks.share(message)
    if isinstance(answer, Stop):
        error: BnlError = StoppedElsewhere(answer.message) if ranks.rank else BnlError(answer.message)
        error.exit_status = answer.status
        raise error
    return answer


def _check_inputs(job: Job, ranks: World) -> tuple[list[str], bool]:
    """On rank 0: the problems that the owners of the data files found, and whether lengths differ."""
    problems: list[str] = []
    counts: dict[int, int] = {}
    if ranks.worker:
        problems, counts = source.check_segments(
            job.source, segments_of(job, job.plan.share(ranks.worker, ranks.n_workers))
        )
    gathered = ranks.collect((problems, counts))
    all_problems = sorted({p for found, _ in gathered for p in found})
    return all_problems, any(found for _, found in gathered)


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


def _make_blocks_alone(job: Job, quiet: bool) -> list[BlockReport]:
    line = reporting.ProgressLine(job.plan.n_frames, quiet=quiet)
    reports = []
    for report in work(job, job.plan.share(1, 1), 0, line.advance):
        reports.append(report)
        _tell(job, report, quiet)
    line.finish()
    return reports


def _work_for_rank_0(job: Job, ranks: World) -> None:
    """A worker's part: make its blocks, report each, and learn how the run ended."""
    ranks.share()
    sent, status = _Throttled(ranks), 0
    try:
        for report in work(job, job.plan.share(ranks.worker, ranks.n_workers), ranks.rank, sent.advance):
            sent.flush()
            ranks.send(report)
    except Dropped:
        status = BnlError.exit_status
    except Exception as error:
        _tell_failure(ranks, error)
        status = getattr(error, "exit_status", BnlError.exit_status)
    ranks.send(Ended(status))
    ranks.flush()
    _unless_stopped(ranks, None)


class _Throttled:
    """Sends counts of frames to rank 0, no more than one a second, and listens for its wish to stop."""

    def __init__(self, ranks: World) -> None:
        self._ranks, self._frames, self._sent = ranks, 0, time.monotonic()

    def advance(self, n_frames: int) -> None:
        if self._ranks.stop_asked():
            raise Dropped
        self._frames += n_frames
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._frames:
            self._ranks.send(self._frames)
        self._frames, self._sent = 0, time.monotonic()


def _gather_reports(job: Job, ranks: World, quiet: bool) -> list[BlockReport]:
    """On rank 0: wait, asleep, for the workers' reports and for each one's end."""
    line = reporting.ProgressLine(job.plan.n_frames, quiet=quiet)
    reports: list[BlockReport] = []
    ended, status, deadline = 0, 0, math.inf
    while ended < ranks.n_workers:
        message = ranks.poll()
        if isinstance(message, BlockReport):
            reports.append(message)
            _tell(job, message, quiet)
        elif isinstance(message, Ended):
            ended += 1
            if message.status and not status:
                status, deadline = message.status, time.monotonic() + FAREWELL_SECONDS
                ranks.tell_stop()
        elif message is not None:
            line.advance(message)
        if time.monotonic() > deadline:
            # Somebody hangs in a read or a write: end everybody, and clear away what was being written.
            blockfile.remove_partial_files([job.options.out_file, job.options.out_squash])
            ranks.abort(status)
    line.finish()
    if status:
        error = BnlError(
            "a worker failed, see its line above; blocks that were complete remain, no master is written"
        )
        error.exit_status = status
        raise error
    return reports


def _tell(job: Job, report: BlockReport, quiet: bool) -> None:
    if job.options.verbose and not quiet:
        sys.stderr.write(reporting.block_line(report, reporting.raw_bytes_per_frame(job)) + "\n")


def work(job: Job, numbers: Sequence[int], rank: int, progress: Any = None) -> Any:
    """Make the blocks `numbers`, yielding the report of each; an error says which block it was."""
    if not numbers:
        return
    pipeline = Pipeline(job, rank)
    try:
        for number in numbers:
            try:
                yield pipeline.make(job.plan.block(number), progress)
            except BnlError as error:
                # The same kind of error, its text led by the block.
                error.args = (f"block {number}: {error}",)
                raise
    finally:
        pipeline.close()


# ---- the masters ----------------------------------------------------------------------------------------


def write_masters(prepared: Prepared) -> tuple[bool, list[str]]:
    """Write the new master, and the NXmx file beside it; returns whether the latter could be made, and warnings."""
    import numpy as np

    from . import master, nxmx, provenance

    job, options = prepared.job, prepared.job.options
    folder = os.path.dirname(os.path.abspath(options.master_path))

    def listed(paths: Any) -> list[tuple[str, int]]:
        return [
            (os.path.relpath(os.path.abspath(p), folder), b.n_images)
            for p, b in zip(paths, job.plan.blocks(), strict=True)
        ]

    shared: dict[str, Any] = {
        "data_files": listed(options.data_path(b.number) for b in job.plan.blocks()),
        "experiment": prepared.experiment,
        "provenance": provenance.describe(job),
        "data_dtype": np.dtype(job.plan.dtype_out),
    }
    squash = listed(options.squash_path(b.number) for b in job.plan.blocks()) if options.out_squash else []
    warnings: list[str] = []
    with blockfile.whole_file(options.nxs_path, optional=True) as partial:
        missing = nxmx.write_nxs(partial, options.infile, job.plan, **shared)
    if missing:
        warnings.append(f"{options.nxs_path}: not written, the input lacks {', '.join(missing)}")
    with blockfile.whole_file(options.master_path) as partial:
        warnings += master.write_master(partial, options.infile, job.plan, squash_files=squash, **shared)
    return not missing, warnings


# ---- one share, without MPI -----------------------------------------------------------------------------


def run_share(options: Options) -> int:
    """`-t K -p N`: share 0 writes the masters, share k makes blocks k, k + N, ..."""
    _limit_library_threads()
    assert options.thread is not None
    assert options.parallel is not None
    prepared = jobs.prepare(options)
    job = prepared.job
    problems, recount = source.check_segments(
        job.source, segments_of(job, jobs.share_blocks(job, options.thread))
    )
    if recount or (options.thread == 0 and not job.source.counts_known):
        prepared = jobs.prepare(options, trust_counts=False)
        job = prepared.job
        problems, _ = source.check_segments(
            job.source, segments_of(job, jobs.share_blocks(job, options.thread))
        )
    if problems:
        raise InputError("; ".join(sorted(set(problems))))
    jobs.check_output(job, share=options.thread)
    for text in prepared.warnings:
        _warn(text, False)
    if options.thread == 0:
        if options.force:
            jobs.remove_old_masters(job)
            jobs.remove_surplus_blocks(job)
        nexus, more = write_masters(prepared)
        for text in more:
            _warn(text, False)
        print(f"master {os.path.abspath(options.master_path)}")
        if nexus:
            print(f"NeXus  {os.path.abspath(options.nxs_path)}")
        return 0
    numbers = jobs.share_blocks(job, options.thread)
    if not numbers:
        print(f"share {options.thread} of {options.parallel}: no block, {job.plan.n_blocks} are all there is")
        return 0
    n_frames = sum(len(job.plan.frames_of(i)) for k in numbers for i in _images(job, k))
    line = reporting.ProgressLine(n_frames)
    for report in work(job, numbers, options.thread, line.advance):
        _tell(job, report, False)
    line.finish()
    print(f"share {options.thread} of {options.parallel}: blocks {', '.join(map(str, numbers))}")
    return 0


def _images(job: Job, number: int) -> range:
    block = job.plan.block(number)
    return range(block.first_image, block.first_image + block.n_images)
