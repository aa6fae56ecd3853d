"""One set through its stages: reduced, checked, verified if that is asked, done.

Runs on one process or on a crew of ranks; what happens is told as entries of the archive's state.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import BnlError, InputError, Interrupted, OutputError, UsageError
from .state import CHECKING, DONE, FAILED, REDUCING, STOPPED, VERIFYING, Entry

if TYPE_CHECKING:
    from ..hdf5.memory import Memory
    from ..run.signals import StopRequest
    from ..run.world import World
    from .looking import Seen

Tell = Callable[[Entry], None]


class TellAll(Protocol):
    """Hears any number of entries at once."""

    def __call__(self, *entries: Entry) -> None: ...


@dataclass(frozen=True)
class Work:
    """A set to do."""

    entry: Entry
    to: str
    """The archive's folder, absolute."""
    verify: bool
    running: tuple[str, ...] = ()
    """Options that are no matter of the set: `--grace` and the like."""

    @property
    def out(self) -> str:
        return os.path.join(self.to, self.entry.stem)

    @property
    def master(self) -> str:
        return f"{self.out}_master.h5"


def do(work: Work, ranks: World, request: StopRequest, tell: Tell) -> Entry | None:
    """Take a set through its stages, on every rank of its crew; the last entry on the crew's rank 0, else None.

    `tell` hears of every stage on the way.  What fails is an entry too, and no error, so that others go on.
    """
    begin = time.monotonic()
    entry = work.entry.now(REDUCING, attempts=work.entry.attempts + 1, ranks=ranks.size)
    leads = ranks.rank == 0
    if leads:
        tell(entry)
    try:
        summary = _reduce(work, ranks, request)
        if not leads or summary is None:
            return None
        told = {"images": summary.images, "bytes_out": summary.bytes_out + summary.bytes_squash}
        entry = entry.now(CHECKING, seconds=time.monotonic() - begin, **told)
        tell(entry)
        _check(work)
        if work.verify:
            entry = entry.now(VERIFYING)
            tell(entry)
            _verify(work, request)
        return entry.now(DONE, seconds=time.monotonic() - begin, verified=work.verify, replaces=False)
    except Interrupted as error:
        return entry.now(STOPPED, str(error)) if leads else None
    except BnlError as error:
        return entry.now(FAILED, str(error)) if leads else None
    except Exception as error:
        if ranks.size > 1:
            raise
        return entry.now(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def options_of(work: Work, **changes: Any) -> Any:
    """The main job's options for a set."""
    from dataclasses import replace

    from ..arguments import options_from

    words = ["-i", work.entry.master, *work.entry.words, *work.running, "-o", work.out]
    return replace(options_from(words), **changes)


def _reduce(work: Work, ranks: World, request: StopRequest) -> Any:
    """As `bnl-mpi` does it; an earlier run of this very job is gone on with."""
    if ranks.rank == 0:
        try:
            os.makedirs(os.path.dirname(work.out), exist_ok=True)
        except OSError as error:
            raise OutputError(f"{os.path.dirname(work.out)}: can't be made: {error.strerror}") from error
    try:
        return _perform(options_of(work, resume=True), ranks, request)
    except BnlError as error:
        # Of one rank alone it isn't told what kind of error met the others: what is wrong besides is met again.
        if not work.entry.replaces or isinstance(error, (Interrupted, UsageError, InputError)):
            raise
    return _perform(options_of(work, force=True), ranks, request)


def get_ready(words: Sequence[str] = ()) -> None:
    """Import what sets need that are reduced with these options, before there is one."""
    from ..arguments import options_from
    from ..check import verdict  # noqa: F401
    from ..run import driver  # noqa: F401
    from ..tasks import masters  # noqa: F401
    from . import looking  # noqa: F401

    _written()
    with contextlib.suppress(Exception):
        # What is wrong is told with each set that it is wrong for.
        _reduction().get_ready(options_from(["-i", "x", *words]))


def look(masters: Sequence[str]) -> Seen:
    """Facts of sets, for who deals them."""
    from . import looking

    return looking.look(masters, _inputs())


@functools.cache
def _inputs() -> Memory:
    """What this process remembers of masters that it has read."""
    from ..hdf5.memory import Memory

    return Memory()


@functools.cache
def _reduction() -> Any:
    """The main job as this process does it set after set."""
    from ..tasks.reduction import ReductionTask

    return ReductionTask(_inputs())


@functools.cache
def _written() -> Memory:
    """What this process remembers of masters that it has written."""
    from ..hdf5.memory import Memory

    return Memory()


def _perform(options: Any, ranks: World, request: StopRequest) -> Any:
    from ..run import driver
    from ..run.state import Told

    try:
        return driver.perform(_reduction(), options, ranks, request, quiet=True)
    except Told as told:
        raise told.error from told.error.__cause__


def _check(work: Work) -> None:
    """No set is done that isn't whole."""
    from ..check.verdict import judge_soundness

    missing, unsound = judge_soundness(work.master, _written())
    if missing:
        raise OutputError(f"{work.master}: {len(missing)} data files are missing, as {missing[0]}")
    if unsound:
        raise OutputError(f"check: {unsound[0].line()}")


def _verify(work: Work, request: StopRequest) -> None:
    """Against the raw data, all images; its certificate lies beside the set."""
    from ..options import Options
    from ..run import driver
    from ..run.state import Told
    from ..run.world import World
    from ..verify.job import Wish
    from ..verify.task import VerifyTask

    task = VerifyTask(Wish(work.master, work.entry.master, certify=True))
    try:
        summary = driver.perform(task, Options(infile=work.entry.master, resume=True), World(), request, quiet=True)
    except Told as told:
        raise told.error from told.error.__cause__
    if summary is not None and summary.findings:
        raise OutputError(f"verify: {summary.findings[0].line()}")
