"""A block's files are flushed and named beside the next block's images, and the last one's beside the masters."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import PATIENCE, bnl, outputs
from small_sets import random_frames, write_set

import bnl_mpi
from bnl_mpi import job as jobs
from bnl_mpi.errors import BnlError, Interrupted, OutputError
from bnl_mpi.options import Options
from bnl_mpi.output.whole import NewFiles
from bnl_mpi.run import driver, work
from bnl_mpi.run.signals import StopRequest
from bnl_mpi.run.state import Told
from bnl_mpi.run.task import BlockReport, Made, Overseer
from bnl_mpi.run.world import World
from bnl_mpi.tasks import masters
from bnl_mpi.tasks.reduction import REDUCTION, Pipeline

SHAPE = (30, 31)
ONE, TWO, THREE = (f"set_{number:06d}.h5" for number in (1, 2, 3))


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("in"), random_frames(6, SHAPE), per_file=6)


class Disk:
    """What is flushed and named, by the file's final name; and what happens before the one and after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}
        self.done: list[str] = []
        flush, replace = os.fsync, os.replace

        def fsync(descriptor: int) -> None:
            name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
            name = ".".join(name.split(".")[:2])
            self.before.get(name, int)()
            flush(descriptor)

        def rename(old: str, new: str) -> None:
            replace(old, new)
            self.done.append(Path(new).name)
            self.after.get(Path(new).name, int)()

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", rename)

    def fails_with(self, name: str) -> None:
        def fail() -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.before[name] = fail


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def gate() -> tuple[threading.Event, Callable[[], None]]:
    """An event, and what waits for it."""
    event = threading.Event()

    def wait() -> None:
        assert event.wait(PATIENCE), "waited in vain"

    return event, wait


def on_image(monkeypatch: pytest.MonkeyPatch, image: int, happens: Callable[[], object]) -> None:
    """Call `happens` when image number `image`, counted from 0, is made."""
    make = Pipeline._make_image

    def made(maker: Pipeline, number: int, *rest: Any) -> None:
        make(maker, number, *rest)
        if number == image:
            happens()

    monkeypatch.setattr(Pipeline, "_make_image", made)


def on_masters(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Call `happens` when the masters are made, which have no names then."""
    make = masters.make_masters

    def made(*arguments: Any) -> Any:
        found = make(*arguments)
        happens()
        return found

    monkeypatch.setattr(masters, "make_masters", made)


def reduce(master: Path, folder: Path, **options: Any) -> None:
    bnl_mpi.reduce(str(master), out_file=str(folder / "set"), data_block_size=2, **options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("set*"))


def test_images_are_made_while_the_block_before_is_flushed_and_masters_while_the_last_one_is(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    image_made, disk.before[ONE] = gate()
    masters_made, disk.before[THREE] = gate()
    on_image(monkeypatch, 2, image_made.set)
    on_masters(monkeypatch, masters_made.set)
    reduce(master, tmp_path)
    assert sorted(disk.done[:3]) == [ONE, TWO, THREE]
    assert disk.done[3:] == ["set.nxs", "set_master.h5"]
    plain = tmp_path / "plain"
    plain.mkdir()
    reduce(master, plain)
    assert outputs(tmp_path, "set") == outputs(plain, "set")


@pytest.mark.parametrize("number", [1, 3])
def test_an_error_of_the_flush_is_that_blocks(master: Path, tmp_path: Path, disk: Disk, number: int) -> None:
    name = f"set_{number:06d}.h5"
    disk.fails_with(name)
    with pytest.raises(OutputError, match=rf"^block {number}: .*/{name}: can't be written: Input/output error; make"):
        reduce(master, tmp_path)
    assert name not in left(tmp_path)
    # The next one may have been whole already.
    assert set(left(tmp_path)) <= {ONE, TWO}
    assert left(tmp_path)[: number - 1] == [ONE, TWO][: number - 1]


def test_the_first_error_is_told_where_the_next_block_fails_too(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    image_failed, wait = gate()

    def fail_late() -> None:
        wait()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail() -> None:
        image_failed.set()
        raise BnlError("the image is odd")

    disk.before[ONE] = fail_late
    on_image(monkeypatch, 2, fail)
    with pytest.raises(OutputError, match=r"^block 1: .*No space left"):
        reduce(master, tmp_path)
    assert not left(tmp_path)


def test_a_block_is_reported_though_the_next_one_fails(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    job = jobs.prepare(Options(infile=str(master), out_file=str(tmp_path / "set"), data_block_size=2)).job

    image_failed, disk.before[ONE] = gate()

    def fail() -> None:
        image_failed.set()
        raise BnlError("the image is odd")

    on_image(monkeypatch, 3, fail)
    reports = work.make_blocks(REDUCTION, job, [1, 2, 3], 0)
    assert next(reports).number == 1
    assert left(tmp_path) == [ONE]
    with pytest.raises(BnlError, match=r"^block 2: the image is odd"):
        next(reports)


def test_how_long_a_block_took_is_known_before_the_next_one_is_begun(master: Path, tmp_path: Path) -> None:
    job = jobs.prepare(Options(infile=str(master), out_file=str(tmp_path / "set"), data_block_size=2)).job
    told: list[tuple[str, int]] = []

    class Listening(Overseer):
        def made(self, report: BlockReport) -> None:
            assert report.seconds > 0
            told.append(("made", report.number))

    def may_begin(number: int) -> bool:
        told.append(("begins", number))
        return True

    list(work.make_blocks(REDUCTION, job, [1, 2], 0, Listening(), may_begin))
    # Of each once more with the time that its flush was waited for.
    assert told == [("begins", 1), ("made", 1), ("begins", 2), ("made", 2), ("made", 1), ("made", 2)]


def test_nothing_goes_on_when_the_work_is_left(master: Path, tmp_path: Path, disk: Disk) -> None:
    """Whoever goes on may write the same files again."""
    job = jobs.prepare(Options(infile=str(master), out_file=str(tmp_path / "set"), data_block_size=2)).job
    taken: list[float] = []

    def take_a_while() -> None:
        time.sleep(0.2)
        taken.append(0.2)

    disk.before[TWO] = disk.after[TWO] = take_a_while
    reports = work.make_blocks(REDUCTION, job, [1, 2, 3], 0)
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    # That no thread is alive is not to be asked for: it says that it has ended before it has.
    assert len(taken) == 2
    assert left(tmp_path) == [ONE, TWO]


def test_a_lock_that_is_lost_during_the_flush(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    named, wait = gate()
    lost, wait_for_loss = gate()

    def lose() -> None:
        wait()
        os.unlink(tmp_path / "set.lock")
        lost.set()

    disk.after[ONE], disk.before[TWO] = named.set, lose
    # Else the third block may be whole by then.
    on_image(monkeypatch, 4, wait_for_loss)
    with pytest.raises(OutputError, match=r"^block 2: .*set\.lock: this run's lock is gone"):
        reduce(master, tmp_path)
    assert left(tmp_path) == [ONE]


@pytest.mark.parametrize("grace", [0, 600])
def test_a_stop_waits_for_the_last_blocks_end(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, grace: float
) -> None:
    """Asked to stop in the second block: that is finished or dropped, and the first one named in any case."""
    request = StopRequest()
    asked, disk.before[ONE] = gate()

    def ask() -> None:
        request.name = "SIGTERM"
        asked.set()

    on_image(monkeypatch, 2, ask)
    options = Options(infile=str(master), out_file=str(tmp_path / "set"), data_block_size=2, grace=grace)
    whole = [ONE, TWO] if grace else [ONE]
    request.since = 0.0 if not grace else float("inf")
    with pytest.raises(Told) as caught:
        driver.perform(REDUCTION, options, World(), request, quiet=True)
    assert isinstance(caught.value.error, Interrupted)
    assert f"{len(whole)} of 3 blocks are complete" in str(caught.value.error)
    assert left(tmp_path) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {folders!r}
import pytest, test_flush
patch = pytest.MonkeyPatch()
made, wait = test_flush.gate()
disk = test_flush.Disk(patch)
test_flush.on_masters(patch, made.set)
def kill():
    wait()
    os.kill(os.getpid(), signal.SIGKILL)
disk.before["set_000003.h5"] = kill
test_flush.reduce(Path(sys.argv[1]), Path("."))
"""


def test_killed_while_the_last_block_is_flushed(master: Path, tmp_path: Path) -> None:
    """The masters are made, and have no names."""
    folders = [str(Path(__file__).parent), str(Path(bnl_mpi.__file__).parents[1])]
    program = KILLED.format(folders=folders)
    done = subprocess.run([sys.executable, "-c", program, str(master)], cwd=tmp_path, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in left(tmp_path) if name.endswith((".h5", ".nxs"))] == [ONE, TWO]
    again = bnl("-i", master, "-d", 2, "-o", "set", "--resume", cwd=tmp_path)
    assert "2 of 3 blocks are there and sound" in again.stderr
    assert left(tmp_path) == ["set.nxs", ONE, TWO, THREE, "set_master.h5"]


def test_without_a_thread_all_goes_in_turn(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        reduce(master, tmp_path)
    assert disk.done == [ONE, TWO, THREE, "set.nxs", "set_master.h5"]


def test_who_waits_spends_the_time_in_the_stage() -> None:
    waits, wait = gate()
    report = BlockReport(1, 1, 1, seconds=2.0, stages={"write": 0.5})
    made = Made(report, wait, "write")
    waits.set()
    assert made.report() is report
    assert report.seconds - 2.0 == pytest.approx(report.stages["write"] - 0.5)
    before = report.seconds
    made.report()
    assert report.seconds == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_ends_leaves_alone_what_others_in_its_process_write(
    master: Path, tmp_path: Path, disk: Disk, fails: bool
) -> None:
    """A caller may have several, in threads."""
    new = NewFiles(str(tmp_path / "other.h5"))
    Path(new.partial[0]).write_text("other")
    if fails:
        disk.fails_with(TWO)
    with pytest.raises(OutputError) if fails else contextlib.nullcontext():
        reduce(master, tmp_path)
    assert not list(tmp_path.glob("set*.partial"))
    new.name()
    assert (tmp_path / "other.h5").read_text() == "other"


def test_who_was_interrupted_waits_to_the_end_all_the_same() -> None:
    """As after Ctrl-C in a caller's program: nothing may go on when the error reaches him."""
    go, wait = gate()
    done: list[int] = []
    interrupts: list[int] = []

    def end() -> None:
        wait()
        done.append(1)

    def interrupt(number: int, _: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        interrupts.append(number)
        if len(interrupts) == 1:
            raise KeyboardInterrupt

    made = Made(BlockReport(1, 1, 1), end)

    def wait_in_vain() -> None:
        # Again and again: a signal that comes just before the wait doesn't wake it.
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        made.wait()

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_in_vain()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not done
    threading.Timer(0.05, go.set).start()
    made.wait()
    assert done == [1]


@pytest.mark.parametrize("begins", [False, True])
def test_of_a_thread_whose_start_was_interrupted_nothing_goes_on(monkeypatch: pytest.MonkeyPatch, begins: bool) -> None:
    start, started, done = threading.Thread.start, [], []
    begun, ask = gate()

    def interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        if begins:
            start(thread)
            ask()
        raise KeyboardInterrupt

    def end() -> None:
        begun.set()
        done.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Made(BlockReport(1, 1, 1), end)
    assert len(done) == begins
    if not begins:
        # It may come later.
        start(started[0])
    started[0].join()
    assert len(done) == begins
