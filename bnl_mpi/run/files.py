"""The files of a run as a whole: those of a data set with its masters, or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..job import Job
from ..output import places, record
from . import resume
from .task import BlockReport, Kept, Masters


class SetFiles:
    """Blocks (and squash files) of a stem, and their masters."""

    remains = "blocks that were complete remain, no master is written; --resume keeps them"

    def __init__(self, report: Callable[[int, int, int], BlockReport]) -> None:
        """`report` makes the task's report of a block's number, images and frames."""
        self._new_report = report

    def stems(self, job: Job) -> list[str]:
        return [job.options.out_file]

    def path(self, job: Job, number: int) -> str:
        return job.options.data_path(number)

    def check_places(self, job: Job) -> None:
        places.check_places(job)

    def check_existing(self, job: Job, *, share: int | None = None) -> None:
        places.check_existing(job, share=share)

    def stored_block_size(self, job: Job) -> int | str | None:
        return resume.stored_block_size(job)

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        return resume.inspect(job, numbers, go_on, self._report)

    def check_neighbours(self, job: Job) -> None:
        resume.check_neighbours(job)

    def masters_there(self, job: Job) -> Masters | None:
        return Masters(os.path.exists(job.options.nxs_path)) if resume.check_masters(job) else None

    def changed(self, job: Job, reports: Sequence[BlockReport]) -> list[str]:
        return []

    def remove_old_masters(self, job: Job) -> None:
        places.remove_old_masters(job)

    def remove_partial(self, job: Job, share: int | None = None) -> None:
        places.remove_partial_files(job, share)

    def remove_surplus(self, job: Job) -> None:
        places.remove_surplus_blocks(job)

    def _report(self, job: Job, number: int) -> BlockReport:
        """The report of a sound block, as its files tell it."""
        plan = job.plan
        block = plan.block(number)
        first, last = block.first_image, block.first_image + block.n_images - 1
        report = self._new_report(number, block.n_images, plan.frames_of(last).stop - plan.frames_of(first).start)
        paths = resume.paths(job, number)
        report.files = {path: os.path.getsize(path) for path in paths}
        for name, value in record.read_counts(paths[0]).items():
            setattr(report, name, value)
        return report


class NoFiles:
    """Of a task whose blocks write nothing: nothing to lock, to keep or to remove."""

    remains = "nothing was written"

    def stems(self, job: Job) -> list[str]:
        return []

    def path(self, job: Job, number: int) -> str:
        return job.source.master

    def check_places(self, job: Job) -> None:
        places.check_texts(job.options, [job.source.master])

    def check_existing(self, job: Job, *, share: int | None = None) -> None:
        pass

    def stored_block_size(self, job: Job) -> int | str | None:
        return None

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        return Kept()

    def check_neighbours(self, job: Job) -> None:
        pass

    def masters_there(self, job: Job) -> Masters | None:
        return None

    def changed(self, job: Job, reports: Sequence[BlockReport]) -> list[str]:
        return []

    def remove_old_masters(self, job: Job) -> None:
        pass

    def remove_partial(self, job: Job, share: int | None = None) -> None:
        pass

    def remove_surplus(self, job: Job) -> None:
        pass
