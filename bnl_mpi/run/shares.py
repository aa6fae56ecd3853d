"""One share of a job without MPI: `-t K -p N`, as the steps of an array job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from .. import job as jobs
from ..errors import BnlError, InputError, Interrupted
from ..job import Job, Prepared
from ..options import Options
from . import report as reporting
from .agreement import heed_while_inspecting
from .lock import Share
from .log import RunLog
from .signals import StopRequest, job_end_time
from .state import Process
from .task import AnyTask
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
        this.let_go()
        this.log.close()


def run_share(this: Process) -> int:
    """Do the share `options.thread` of `options.parallel`; returns the exit status."""
    options = this.options
    assert options.thread is not None
    assert options.parallel is not None
    prepared = _prepare_share(this.task, options, options.thread)
    this.task.files.check_places(prepared.job)
    this.log = RunLog(options.log_json)
    this.take_lock(prepared.job, Share(options.thread, options.parallel))
    if options.resume and (size := this.task.files.stored_block_size(prepared.job)) not in (
        None,
        options.data_block_size,
    ):
        assert size is not None
        this.warn(f"-d {size} of the blocks that are there is used, not -d {options.data_block_size}")
        prepared = _prepare_share(this.task, replace(options, data_block_size=size), options.thread)
    job = prepared.job
    this.task.files.check_existing(job, share=options.thread)
    for text in prepared.warnings:
        this.warn(text)
    if options.resume:
        this.task.files.check_neighbours(job)
    if options.thread == 0:
        return _masters_of_share(prepared, this)
    return _blocks_of_share(job, this, jobs.share_blocks(job, options.thread))


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


def _masters_of_share(prepared: Prepared, this: Process) -> int:
    job, options = prepared.job, prepared.job.options
    if options.resume and this.task.files.masters_there(job):
        this.say(f"{options.master_path}: this share is finished already, nothing to do")
        return 0
    this.task.files.remove_partial(job, 0)
    if options.force:
        this.task.files.remove_old_masters(job)
        this.task.files.remove_surplus(job)
    with ExitStack() as files:
        masters = this.task.write_masters(prepared, files)
    for text in masters.warnings:
        this.warn(text)
    print(f"master {os.path.abspath(options.master_path)}")
    if masters.nexus:
        print(f"NeXus  {os.path.abspath(options.nxs_path)}")
    return 0


def _blocks_of_share(job: Job, this: Process, numbers: Sequence[int]) -> int:
    options = job.options
    share = f"share {options.thread} of {options.parallel}"
    if not numbers:
        print(f"{share}: no block, {job.plan.n_blocks} are all there is")
        return 0
    if options.resume:
        _keep_of_share(job, this, numbers)
    this.task.files.remove_partial(job, options.thread)
    missing = [k for k in numbers if k not in this.kept]
    if not missing:
        this.say(f"{share} is finished already, nothing to do")
        return 0
    line = reporting.ProgressLine(sum(len(job.plan.frames_of(i)) for k in missing for i in _images(job, k)))
    made = []
    for report in work_guided(job, missing, options.thread or 0, Guide(this, job_end_time(), line.advance)):
        made.append(report)
        tell(job, report, this)
    line.finish()
    for text in this.task.afterthoughts([*this.kept.values(), *made]):
        this.warn(text)
    if len(made) < len(missing):
        why = f"by {this.request.name}" if this.request.name else "before the batch job's time ends"
        raise Interrupted(
            f"{share} stopped {why}: {len(made) + len(this.kept)} of its {len(numbers)} blocks are complete; the "
            "same command with --resume goes on"
        )
    print(f"{share}: blocks {', '.join(map(str, missing))}")
    return 0


def _keep_of_share(job: Job, this: Process, numbers: Sequence[int]) -> None:
    found = this.task.files.inspect(job, numbers, lambda: heed_while_inspecting(this))
    for line in found.unsound:
        this.warn(line)
    this.kept = {r.number: r for r in found.reports}
    for number in this.kept:
        this.log.write("kept", block=number)


def _images(job: Job, number: int) -> range:
    block = job.plan.block(number)
    return range(block.first_image, block.first_image + block.n_images)
