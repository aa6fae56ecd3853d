"""The files of an export: what is there of a template's images, and what becomes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ..errors import OutputError
from ..job import Job
from ..output import cbffile
from ..run.files import NoFiles, make_folder
from ..run.task import BlockReport, Kept, Masters
from .exportjob import Export


class CbfFiles(NoFiles):
    """The images of a template."""

    remains = "images that were complete remain; --resume keeps them"

    def stems(self, job: Job, share: int | None = None) -> list[str]:
        return [job.options.out_file]

    def path(self, job: Job, number: int) -> str:
        return _of(job).template.path(_of(job).images_of(number).start)

    def make_folders(self, job: Job) -> list[str]:
        return make_folder(_of(job).template.folder)

    def check_places(self, job: Job) -> None:
        folder = _of(job).template.folder
        if not os.path.isdir(folder):
            raise OutputError(f"{folder}: no such folder for the output; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: the output's folder is not writable")
        inputs = {os.path.realpath(s.path) for s in job.source.segments}
        for _, path in _of(job).template.existing():
            if os.path.realpath(path) in inputs:
                raise OutputError(f"{path}: is a file of the input; choose another name with --cbf")

    def check_existing(self, job: Job, *, share: int | None = None) -> None:
        if job.options.force or job.options.resume:
            return
        there = [path for _, path in _of(job).template.existing()]
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise OutputError(
                f"{there[0]}{more}: images of that name are there already; --resume completes an interrupted export, "
                "--force overwrites them, or choose another --cbf"
            )

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        kept = Kept()
        for number in numbers:
            if not go_on():
                break
            paths = [_of(job).template.path(image) for image in _of(job).images_of(number)]
            present = [path for path in paths if os.path.exists(path)]
            foreign = [path for path in present if not cbffile.made_by(path, _of(job).told.made_by)]
            kept.foreign += [_foreign(path) for path in foreign]
            if foreign or not present:
                continue
            faults = [(path, why) for path in present if (why := cbffile.unsound(path)) is not None]
            kept.unsound += [f"{path}: {why}; it is made again" for path, why in faults]
            if not faults and len(present) == len(paths):
                report = BlockReport(number, len(paths), len(paths))
                report.files = {path: os.path.getsize(path) for path in paths}
                kept.reports.append(report)
        return kept

    def masters_there(self, job: Job) -> Masters | None:
        """Beyond the job's own images none of these names may be there, or readers took them for part of the set."""
        for image, path in _of(job).template.existing():
            if not 0 <= image < job.plan.n_images:
                raise OutputError(_foreign(path))
        return None

    def remove_partial(self, job: Job, share: int | None = None) -> None:
        for path in _of(job).template.partial():
            os.unlink(path)

    def remove_surplus(self, job: Job) -> None:
        for image, path in _of(job).template.existing():
            if not 0 <= image < job.plan.n_images:
                os.unlink(path)


def _of(job: Job) -> Export:
    """This task's jobs are of its own kind."""
    assert isinstance(job, Export)
    return job


def _foreign(path: str) -> str:
    return f"{path}: is no image of this export; choose another --cbf, or --force to overwrite it"
