"""Before the first output: all ranks hold one job, and know that its input is sound (steps 1 to 3 of `driver`)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import BnlError, InputError, Interrupted, OutputError
from ..job import Job, Prepared
from ..plan import counted_are
from .log import RunLog
from .state import Process, Stop, failure_line, unless_stopped
from .task import Kept


def agree_on_job(this: Process) -> tuple[Prepared | None, Job]:
    """Steps 1 to 3.  A set whose files turn out to differ in length is planned once more, with all opened."""
    ranks = this.ranks
    for trust_counts in (True, False):
        prepared, message = None, None
        if ranks.rank == 0:
            prepared, message = _prepare(this, trust_counts)
        elif trust_counts:
            with contextlib.suppress(Exception):
                this.task.get_ready(this.options)
        job = unless_stopped(ranks, message)
        problems, recount = _check_inputs(job, this)
        decision: Any = "recount" if recount and trust_counts else "go"
        if problems:
            decision = Stop(InputError.exit_status, "; ".join(problems))
        if unless_stopped(ranks, decision) == "go":
            _agree_on_kept(job, this)
            return prepared, job
    raise AssertionError("a source with all files opened has no counts left to check")


def _prepare(this: Process, trust_counts: bool) -> tuple[Prepared | None, Job | Stop]:
    """Rank 0's part; an error is a message too, so that the other ranks don't wait for ever."""
    try:
        prepared = this.task.prepare(this.options, trust_counts=trust_counts)
        for line in this.task.files.make_folders(prepared.job):
            this.say(line)
        this.task.files.check_places(prepared.job)
        if this.log.path is None and this.options.log_json:
            this.log = RunLog(this.options.log_json)
        this.take_lock(prepared.job)
        prepared = _with_stored_block_size(prepared, this, trust_counts=trust_counts)
        this.task.files.check_existing(prepared.job)
    except BnlError as error:
        return None, Stop(error.exit_status, str(error))
    return prepared, prepared.job


def _with_stored_block_size(prepared: Prepared, this: Process, *, trust_counts: bool) -> Prepared:
    """The job with the `-d` of the blocks that are there: another would make them all worthless."""
    options = prepared.job.options
    size = this.task.files.stored_block_size(prepared.job) if options.resume else None
    if size is None or size == options.data_block_size:
        return prepared
    stored: Prepared = this.task.prepare(replace(options, data_block_size=size), trust_counts=trust_counts)
    text = f"-d {size} of the blocks that are there is used, not -d {options.data_block_size}"
    return replace(stored, warnings=(*stored.warnings, text))


def _check_inputs(job: Job, this: Process) -> tuple[list[str], bool]:
    """On rank 0: the problems that the owners of the data files found, and whether lengths differ."""
    ranks = this.ranks
    problems: list[str] = []
    counts: dict[int, int] = {}
    if ranks.worker:
        numbers = job.plan.owned(ranks.worker, ranks.n_workers)
        try:
            problems, counts = this.task.check_inputs(job, numbers)
        except Exception as error:
            # Rank 0 hears of it as of any problem, and stops all in step.
            problems = [failure_line(ranks, error)]
    gathered = ranks.collect((problems, counts))
    all_problems = sorted({p for found, _ in gathered for p in found})
    return all_problems, any(found for _, found in gathered)


def _agree_on_kept(job: Job, this: Process) -> None:
    """Under `--resume`, each worker looks at its own blocks; a file of another job stops everybody."""
    if not job.options.resume:
        return
    ranks, found = this.ranks, Kept()
    if ranks.worker:
        numbers = job.plan.owned(ranks.worker, ranks.n_workers)
        try:
            found = this.task.files.inspect(job, numbers, lambda: heed_while_inspecting(this))
        except Exception as error:
            found = Kept(foreign=[failure_line(ranks, error)])
        this.kept = {r.number: r for r in found.reports}
    gathered = ranks.collect(found)
    message: Any = "go"
    if ranks.rank == 0:
        message = _judge_kept(job, this, gathered)
    unless_stopped(ranks, message)


def heed_while_inspecting(this: Process) -> bool:
    """Keeps the lock fresh; whether to go on."""
    this.ranks.while_waiting()
    return this.request.name is None


def _judge_kept(job: Job, this: Process, gathered: Sequence[Kept]) -> str | Stop:
    foreign = sorted(line for kept in gathered for line in kept.foreign)
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        return Stop(OutputError.exit_status, foreign[0] + more)
    try:
        this.masters_there = this.task.files.masters_there(job)
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
            f"stopped by {this.request.name}: {len(this.kept)} or more of {counted_are(total, 'block')} complete; the "
            "same command with --resume goes on",
        )
    return "go"
