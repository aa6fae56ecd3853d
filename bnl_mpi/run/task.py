"""What a run does is a task: the parts that it plays, and the words in which a run speaks of blocks and files.

Ranks, shares, signals, `--resume` and the order of events are the same for all tasks; what a block is made of, and
whether files come of it, is the task's own affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..hdf5.writing import Stamp
from ..job import Job, Prepared
from ..options import Options
from ..output import whole
from ..plan import Block


@dataclass
class BlockReport:
    """What rank 0 hears of a finished block; a task's own kind adds what it counts or finds."""

    number: int
    n_images: int
    n_frames: int
    files: dict[str, int] = field(default_factory=dict)
    """Size by path of what the block wrote; its data file first."""
    stamps: dict[str, Stamp] = field(default_factory=dict)
    """By path, where that is known: who finds it again needs no look into the file."""
    bytes_read: int = 0
    """As stored in the input."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    rank: int = 0
    host: str = ""

    @property
    def bytes_written(self) -> int:
        """The data file's size; 0 where blocks write none."""
        return next(iter(self.files.values()), 0)


class Overseer:
    """Whom a maker asks within a block; it may raise, and the block is dropped."""

    def after_image(self, n_frames: int) -> None:
        """Called after each image with the number of frames that it was made of."""

    def before_naming(self) -> None:
        """Called when the block is on the disk, before its files get their names, by whatever thread gives them."""

    def made(self, report: BlockReport) -> None:
        """Called with what is known of a block when its images are made, and again when its files have their names."""


class Made:
    """A block all of whose images are made; its files may get their names in the background."""

    def __init__(self, report: BlockReport, end: Callable[[], None] | None = None, stage: str | None = None) -> None:
        """`end` names the files, in a thread: it may use neither MPI nor HDF5.

        Who waits for it spends that time in the `stage`, if the report tells of stages.
        """
        self.so_far = report
        self._stage = stage
        self._error: BaseException | None = None
        self._wait: Callable[[], object] | None = None
        if end is not None:
            self._begin(end)

    def _begin(self, end: Callable[[], None]) -> None:
        def run() -> None:
            try:
                end()
            except BaseException as error:
                self._error = error

        self._wait = whole.in_background(run)

    @property
    def number(self) -> int:
        return self.so_far.number

    def wait(self) -> None:
        """Until nothing goes on in the background any more."""
        if self._wait is not None:
            self._wait()

    def report(self) -> BlockReport:
        """Wait until all files have their names.  Raises what went wrong; none has its own then."""
        begin, report = time.perf_counter(), self.so_far
        self.wait()
        if self._error is not None:
            raise self._error
        if self._wait is not None:
            waited = time.perf_counter() - begin
            self._wait = None
            report.seconds += waited
            if self._stage is not None:
                report.stages[self._stage] = report.stages.get(self._stage, 0.0) + waited
        return report


class BlockMaker(Protocol):
    """Makes one block after another, on one rank."""

    def make(self, block: Block, overseer: Overseer = ...) -> Made:
        """Make the block; its files appear whole or not at all."""
        ...

    def close(self) -> None:
        """Let go of the input's files."""
        ...


@dataclass
class Kept:
    """What one worker found of its own blocks under `--resume`."""

    reports: list[BlockReport] = field(default_factory=list)
    """Of the blocks that are whole."""
    unsound: list[str] = field(default_factory=list)
    """A line for each file that is there but has to be made again."""
    foreign: list[str] = field(default_factory=list)
    """A line for each file that belongs to another job."""


@dataclass(frozen=True)
class Masters:
    """What a task wrote, or found written, beside its blocks."""

    nexus: bool = False
    """Whether the NXmx file is there."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run, or a share of `-t`, has done when it ends well."""

    numbers: Sequence[int]
    """Of the blocks that it is answerable for."""
    reports: Sequence[BlockReport]
    """Of those that it made."""
    kept: Sequence[BlockReport]
    """Of those that were there already."""
    n_workers: int
    seconds: float
    masters: Masters
    warnings: Sequence[str]


class Summary(Protocol):
    """What a user is told at the end."""

    @property
    def exit_status(self) -> int: ...

    def lines(self) -> list[str]:
        """As text."""
        ...

    def as_json(self) -> dict[str, Any]:
        """As `--json` writes it."""
        ...


class Files(Protocol):
    """The files of a run as a whole: what is there of them, and what becomes of it."""

    remains: str
    """What is left after a failure, and what to do, for an error's line."""

    def stems(self, job: Job, share: int | None = None) -> list[str]:
        """What the run, or that share of `-t`, locks; none where it writes nothing."""
        ...

    def path(self, job: Job, number: int) -> str:
        """The file that block `number` is about, for messages."""
        ...

    def make_folders(self, job: Job) -> list[str]:
        """Make the output's folder if only the last one of its path is missing; a line for each that was made."""
        ...

    def check_places(self, job: Job) -> None:
        """Refuse places that can't or mustn't be written."""
        ...

    def check_existing(self, job: Job, *, share: int | None = None) -> None:
        """Refuse to overwrite an older output; `share` is that of `-t`, which has neighbours."""
        ...

    def stored_block_size(self, job: Job) -> int | str | None:
        """The `-d` of the blocks that are there already; None if there are none."""
        ...

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        """`--resume`: look at what is there of these blocks, as long as `go_on` says so."""
        ...

    def check_neighbours(self, job: Job) -> None:
        """Refuse where any block, of whatever share, belongs to another job."""
        ...

    def masters_there(self, job: Job) -> Masters | None:
        """`--resume`: this job's masters, if all are there; OutputError if another job's are."""
        ...

    def changed(self, job: Job, reports: Sequence[BlockReport]) -> list[str]:
        """A line for each file of these blocks that isn't any more as it was reported."""
        ...

    def there(self, job: Job) -> list[BlockReport]:
        """Reports of the blocks that are there and this job's, of whatever share; their chunks aren't looked at."""
        ...

    def remove_own(self, job: Job, numbers: Sequence[int]) -> None:
        """`--force` of a share: remove what is there of these blocks."""
        ...

    def remove_foreign(self, job: Job) -> None:
        """`--force` of share 0: remove blocks of this stem that are another job's."""
        ...

    def remove_old_masters(self, job: Job) -> None:
        """From here on no master tells of a finished run."""
        ...

    def remove_partial(self, job: Job, share: int | None = None) -> None:
        """Remove what a killed run left half-written; nobody else may be writing it."""
        ...

    def remove_surplus(self, job: Job) -> None:
        """`--force`: remove an older run's blocks beyond this job's."""
        ...


J_contra = TypeVar("J_contra", bound=Job, contravariant=True)
P = TypeVar("P", bound=Prepared)
S_co = TypeVar("S_co", bound=Summary, covariant=True)


class Task(Protocol[J_contra, P, S_co]):
    """A task over blocks: `J_contra` is its job, which is broadcast, `P` what rank 0 keeps beside it, `S_co` its
    summary."""

    @property
    def files(self) -> Files: ...

    def prepare(self, options: Options, *, trust_counts: bool = True) -> P:
        """Check what can be checked before the first output; `trust_counts` as in `input.source.open_source`."""
        ...

    def get_ready(self, options: Options) -> None:
        """On a worker that waits for rank 0's plan: import what blocks will need.  Whatever fails, `prepare` tells."""
        ...

    def check_inputs(self, job: J_contra, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        """What is wrong with the input of these blocks, a line each, and lengths that differ from the job's."""
        ...

    def maker(self, job: J_contra, rank: int) -> BlockMaker: ...

    def write_masters(self, prepared: P, files: ExitStack) -> Masters:
        """Write them under temporary names; they get their own when `files` closes."""
        ...

    def start_line(self, job: J_contra) -> str:
        """What is done to what, without the number of workers."""
        ...

    def notes(self, job: J_contra) -> list[str]:
        """Warnings that the job gives rise to before the work."""
        ...

    def afterthoughts(self, reports: Sequence[BlockReport]) -> list[str]:
        """Warnings that only the finished blocks give rise to."""
        ...

    def summarise(self, job: J_contra, outcome: Outcome) -> S_co: ...


AnyTask = Task[Any, Any, Any]
