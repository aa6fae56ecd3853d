"""One share of a job without MPI: `-t K -p N`, as the steps of an array job."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from .. import job as jobs
from ..errors import BnlError, InputError, Interrupted
from ..job import Job, Prepared
from ..options import Options
from ..plan import counted_are
from . import report as reporting
from .agreement import heed_while_inspecting
from .lock import Share
from .log import RunLog
from .signals import StopRequest, job_end_time
from .state import Process
from .task import AnyTask, BlockReport, Masters, Outcome, Summary
from .work import Guide, tell, work_guided
from .world import World


def main(task: AnyTask, options: Options, request: StopRequest) -> int:
    """`-t K -p N`: share 0 writes the masters, share k makes blocks k, k + N, ..."""
    ranks = World()
    this = Process(task, options, ranks, request, RunLog(None))
    request.at_once = this.stop_at_once
    try:
        return run_share(this)
    except BnlError as error:
        kind = "stop" if isinstance(error, Interrupted) else "error"
        this.log.write(kind, text=str(error), status=error.exit_status)
        raise
    finally:
        this.release()
        this.log.close()


def run_share(this: Process) -> int:
    """Do the share `options.thread` of `options.parallel`; returns the exit status."""
    options, begin = this.options, time.monotonic()
    assert options.thread is not None
    assert options.parallel is not None
    prepared = _prepare_share(this.task, options, options.thread)
    for line in this.task.files.make_folders(prepared.job):
        this.say(line)
    this.task.files.check_places(prepared.job)
    this.log = RunLog(options.log_json)
    this.take_lock(prepared.job, Share(options.thread, options.parallel))
    prepared = _with_stored_block_size(prepared, this, options.thread)
    job = prepared.job
    this.task.files.check_existing(job, share=options.thread)
    for text in prepared.warnings:
        this.warn(text)
    if options.resume:
        this.task.files.check_neighbours(job)
    if options.thread == 0:
        return _masters_of_share(prepared, this, begin)
    return _blocks_of_share(job, this, jobs.share_blocks(job, options.thread), begin)


def _with_stored_block_size(prepared: Prepared, this: Process, share: int) -> Prepared:
    options = this.options
    size = this.task.files.stored_block_size(prepared.job) if options.resume else None
    if size is None or size == options.data_block_size:
        return prepared
    this.warn(f"-d {size} of the blocks that are there is used, not -d {options.data_block_size}")
    return _prepare_share(this.task, replace(options, data_block_size=size), share)


def _prepare_share(task: AnyTask, options: Options, share: int) -> Prepared:
    prepared: Prepared = task.prepare(options, trust_counts=True)
    job = prepared.job
    problems, recount = task.check_inputs(job, jobs.share_blocks(job, share))
    if recount or (share == 0 and not job.source.counts_known):
        prepared = task.prepare(options, trust_counts=False)
        job = prepared.job
        problems, _ = task.check_inputs(job, jobs.share_blocks(job, share))
    if problems:
        raise InputError("; ".join(sorted(set(problems))))
    return prepared


def _masters_of_share(prepared: Prepared, this: Process, begin: float) -> int:
    job, options, files = prepared.job, prepared.job.options, this.task.files
    masters = files.masters_there(job) if options.resume else None
    if masters is not None:
        this.say(f"{options.master_path}: the masters are there already")
    else:
        masters = _write_masters(prepared, this)
    for text in masters.warnings:
        this.warn(text)
    if files.stems(job):
        reporting.tell_people(f"master {os.path.abspath(options.master_path)}", options)
    if files.stems(job) and masters.nexus:
        reporting.tell_people(f"NeXus  {os.path.abspath(options.nxs_path)}", options)
    there = files.there(job)
    status = _tell_outcome(job, this, begin, masters=masters, kept=there)
    missing = sorted(set(range(1, job.plan.n_blocks + 1)) - {r.number for r in there})
    if files.stems(job) and missing:
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise Interrupted(
            f"share 0 of {options.parallel}: the masters are there, but {len(missing)} of {job.plan.n_blocks} blocks "
            f"aren't yet: {shown}; when the other shares have ended, share 0 with --resume tells whether all are there"
        )
    return status


def _write_masters(prepared: Prepared, this: Process) -> Masters:
    job, options, files = prepared.job, prepared.job.options, this.task.files
    files.remove_partial(job, 0)
    if options.force or options.resume:
        files.remove_old_masters(job)
    if options.force:
        files.remove_surplus(job)
        # What another plan's shares have left, for no master may tell of it.
        files.remove_foreign(job)
    with ExitStack() as new:
        masters: Masters = this.task.write_masters(prepared, new)
        this.check_locks()
    return masters


def _tell_outcome(job: Job, this: Process, begin: float, *, masters: Masters, **blocks: Sequence[BlockReport]) -> int:
    """`--json`: the summary of this share's blocks; of share 0, of all blocks that are there.

    Where blocks write no files, what is found of them is all that comes of the share: it is printed, and its status is
    the share's, which is returned.
    """
    writes = bool(this.task.files.stems(job))
    if writes and not this.options.json:
        return 0
    reports, kept = blocks.get("reports", ()), blocks.get("kept", ())
    numbers = sorted(r.number for r in [*reports, *kept])
    outcome = Outcome(numbers, reports, kept, 1, time.monotonic() - begin, masters, this.warnings)
    summary: Summary = this.task.summarise(job, outcome)
    if not writes:
        reporting.tell_people("\n".join(summary.lines()), this.options)
    if this.options.json:
        reporting.write_json(this.options.json, summary)
    return 0 if writes else summary.exit_status


def _blocks_of_share(job: Job, this: Process, numbers: Sequence[int], begin: float) -> int:
    options, files = job.options, this.task.files
    share = f"share {options.thread} of {options.parallel}"
    if options.resume:
        _keep_of_share(job, this, numbers)
    files.remove_partial(job, options.thread)
    if options.force:
        # First of all: a share that fails must leave no block of the old set.
        files.remove_own(job, numbers)
    missing = [k for k in numbers if k not in this.kept]
    made = _make_missing(job, this, missing)
    if len(made) < len(missing):
        why = f"by {this.request.name}" if this.request.name else "before the batch job's time ends"
        raise Interrupted(
            f"{share} stopped {why}: {len(made) + len(this.kept)} of its {counted_are(len(numbers), 'block')} "
            "complete; the same command with --resume goes on"
        )
    status = _tell_outcome(job, this, begin, masters=Masters(), reports=made, kept=list(this.kept.values()))
    if not numbers:
        reporting.tell_people(f"{share}: no block, {job.plan.n_blocks} are all there is", options)
    elif not missing:
        this.say(f"{share} is finished already, nothing to do")
    else:
        reporting.tell_people(f"{share}: blocks {', '.join(map(str, missing))}", options)
    return status


def _make_missing(job: Job, this: Process, missing: Sequence[int]) -> list[BlockReport]:
    line = reporting.ProgressLine(sum(len(job.plan.frames_of_block(job.plan.block(k))) for k in missing))
    made = []
    for report in work_guided(job, missing, job.options.thread or 0, Guide(this, job_end_time(), line.advance)):
        made.append(report)
        tell(job, report, this)
    line.finish()
    for text in this.task.afterthoughts([*this.kept.values(), *made]):
        this.warn(text)
    return made


def _keep_of_share(job: Job, this: Process, numbers: Sequence[int]) -> None:
    found = this.task.files.inspect(job, numbers, lambda: heed_while_inspecting(this))
    for line in found.unsound:
        this.warn(line)
    this.kept = {r.number: r for r in found.reports}
    for number in this.kept:
        this.log.write("kept", block=number)
