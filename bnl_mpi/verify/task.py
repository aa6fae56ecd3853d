"""Verifying as a task of a run: over ranks or shares, resumable, as the main job."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from .. import job as jobs
from ..errors import BnlError, OutputError
from ..input import checks
from ..job import Job
from ..options import Options
from ..output import blockfile, contents
from ..plan import Block, block_path, counted
from ..run.files import NoFiles
from ..run.task import BlockReport, Kept, Made, Masters, Outcome, Overseer
from . import certificate, journal, metadata
from .blocks import Verifier, VerifyReport
from .findings import DIFFERS, EXTRA, MISSING, UNREADABLE, Finding
from .job import PreparedVerification, VerifyJob, Wish, prepare
from .metadata import Tally
from .summary import VerifySummary


class VerifyFiles(NoFiles):
    """A verification writes no files of the set; what it has found lies in its journal."""

    remains = "what was verified is noted; --resume goes on from there"

    def path(self, job: Job, number: int) -> str:
        assert isinstance(job, VerifyJob)
        return job.data_files[number - 1]

    def check_places(self, job: Job) -> None:
        assert isinstance(job, VerifyJob)
        super().check_places(job)
        if journal.is_needed(job) and not journal.can_note(job):
            folder = os.path.dirname(os.path.abspath(job.master))
            raise OutputError(
                f"{folder}: isn't writable, and --certify and -t write beside the set; leave them out, or verify a copy"
            )

        if job.hashing:
            certificate.check_places(job)

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        assert isinstance(job, VerifyJob)
        known = journal.verified(job)
        return Kept(reports=[known[number] for number in numbers if number in known])

    def there(self, job: Job) -> list[BlockReport]:
        assert isinstance(job, VerifyJob)
        return list(journal.verified(job).values())


class Noting:
    """Verifies blocks, and notes each in the journal."""

    def __init__(self, job: VerifyJob, rank: int) -> None:
        self._verifier, self._journal = Verifier(job, rank), journal.Journal(job, rank)

    def make(self, block: Block, overseer: Overseer | None = None) -> Made:
        report = self._verifier.make(block, overseer)
        self._journal.write(report)
        return Made(report)

    def close(self) -> None:
        self._verifier.close()


class VerifyTask:
    """The parts of a run, for one wish."""

    files = VerifyFiles()

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._findings: list[Finding] | None = None
        """Of the masters, once they were looked at."""
        self._tally = Tally()

    def prepare(self, options: Options, *, trust_counts: bool = True) -> PreparedVerification:
        return prepare(self._wish, options, trust_counts=trust_counts)

    def get_ready(self, options: Options) -> None:
        import hdf5plugin  # noqa: F401  (HDF5 learns its filters)

    def check_inputs(self, job: Job, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        assert isinstance(job, VerifyJob)
        if not job.against:
            return [], {}
        return checks.check_segments(job.source, jobs.segments_of(job, numbers))

    def maker(self, job: VerifyJob, rank: int) -> Noting:
        return Noting(job, rank)

    def write_masters(self, prepared: PreparedVerification, files: ExitStack) -> Masters:
        """What rank 0 looks at while the others work: masters, .nxs, metadata, and what doesn't belong here."""
        job = prepared.job
        assert isinstance(job, VerifyJob)
        self._findings = [*prepared.findings, *_masters(job), *_surplus(job)]
        if prepared.experiment is not None:
            try:
                self._findings += metadata.compare(prepared, self._tally)
            except (OSError, RuntimeError, BnlError) as error:
                why = " ".join(str(error).split())
                self._findings.append(Finding(UNREADABLE, job.master, "metadata", "metadata that can be read", why))
        return Masters(os.path.exists(job.options.nxs_path))

    def start_line(self, job: VerifyJob) -> str:
        plan = job.plan
        against = f" against {job.options.infile}" if job.against else ""
        return f"verify {job.master}{against}: {counted(plan.n_images, 'image')} in {counted(plan.n_blocks, 'block')}"

    def notes(self, job: VerifyJob) -> list[str]:
        if journal.can_note(job):
            return []
        return [f"{journal.folder_of(job)}: can't be written, so --resume will find nothing of this run"]

    def afterthoughts(self, reports: Sequence[BlockReport]) -> list[str]:
        return []

    def summarise(self, job: VerifyJob, outcome: Outcome) -> VerifySummary:
        reports = sorted(_verified([*outcome.reports, *outcome.kept]), key=lambda r: r.number)
        summary = VerifySummary.of(job, reports, self._findings, self._tally, outcome.seconds)
        summary.kept = list(job.kept_notes)
        if job.options.thread == 0:
            there = {report.number for report in reports}
            wanted = [k for k in range(1, job.plan.n_blocks + 1) if job.is_chosen(k)]
            summary.awaited = [k for k in wanted if k not in there]
        if self._wish.certify and self._findings is not None and not summary.awaited:
            summary.certificate = certificate.certify(job, summary, reports)
        return summary


def _verified(reports: Sequence[BlockReport]) -> list[VerifyReport]:
    return [report for report in reports if isinstance(report, VerifyReport)]


def _masters(job: VerifyJob) -> list[Finding]:
    """The masters' digests, and links that lead nowhere."""
    found = [
        Finding(DIFFERS, seen.file, seen.object, contents.CHECKS[seen.check], seen.found)
        for seen in contents.masters(job.master)
        if not seen.ok
    ]
    nxs = job.options.nxs_path
    if contents.expects_sibling(job.master) and not os.path.exists(nxs):
        found.append(Finding(MISSING, nxs, "file", "the NeXus file that the master tells of", "nothing"))
    return found


def _surplus(job: VerifyJob) -> list[Finding]:
    """Files of the set's own naming that its plan doesn't have."""
    stem = job.options.out_file
    wanted = {os.path.realpath(path) for path in job.data_files}
    there = [block_path(stem, number) for number in blockfile.existing_blocks(stem)]
    return [
        Finding(EXTRA, path, "file", f"{job.plan.n_blocks} data files", "one more")
        for path in there
        if os.path.realpath(path) not in wanted
    ]
