"""A file appears whole or not at all, and what goes wrong meanwhile is laid at the right door."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sets import random_frames, random_mask, write_set

import bnl_mpi
from bnl_mpi.codecs.hcompress import HCompress
from bnl_mpi.errors import BnlError, InputError, OutputError
from bnl_mpi.hdf5 import writing
from bnl_mpi.output.whole import whole_file, whole_files

SHAPE = (40, 44)


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return write_set(tmp_path, random_frames(4, SHAPE), mask=random_mask(SHAPE))


def left(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith("in_")]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is waited for and what gets its name, as it happens: "file", "folder", or the name."""
    done: list[str] = []

    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        real(descriptor)
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def replace(source: str, target: str, real: Any = os.replace) -> None:
        real(source, target)
        done.append(Path(target).name)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return done


def test_the_folder_is_synced_after_the_rename(tmp_path: Path, done: list[str]) -> None:
    with whole_file(str(tmp_path / "a")) as partial:
        Path(partial).write_text("x")
    assert done == ["file", "a", "folder"]


def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = errno.EINVAL

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_file(str(tmp_path / "a")) as partial:
        Path(partial).write_text("x")
    code = errno.EIO
    with pytest.raises(OutputError, match=r"b: can't be written: Input/output error"):
        with whole_file(str(tmp_path / "b")) as partial:
            Path(partial).write_text("x")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("odd")])
def test_somebody_elses_error_passes(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        with whole_file(str(tmp_path / "a")) as partial:
            Path(partial).write_text("x")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert not left(tmp_path)


def test_an_error_of_writing_names_the_final_file(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(str(tmp_path / "a.h5")) as partial, writing.writing():
            Path(partial).write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"/a\.h5: can't be written: No space left on device; make room"):
        fail()
    assert not left(tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("it is odd")])
def test_a_codecs_error_is_the_codecs(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def run(self: object, *args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(HCompress, "run", run)
    with pytest.raises(BnlError, match=r"image of frames 1 to 1: the codec hcomp failed: .*(error|odd)") as caught:
        bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"), codec="hcompress", codec_level=16)
    assert "make room" not in str(caught.value)
    assert not [name for name in left(tmp_path) if name.endswith((".h5", ".partial"))]


def test_an_inputs_error_while_the_masters_are_made_is_the_inputs(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("bnl_mpi.output.master.decide", decide)
    with pytest.raises(InputError, match=r"in_master\.h5: can't be read: .*Input/output error") as caught:
        bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"))
    assert "make room" not in str(caught.value)
    assert not [name for name in left(tmp_path) if name.endswith(("_master.h5", ".partial"))]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
@pytest.mark.parametrize("refuses", [False, True])
def test_the_system_begins_to_write_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    told: list[tuple[int, int]] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert os.fstat(descriptor).st_size >= offset + length
        told.append((offset, length))
        if refuses:
            raise OSError("not here")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(writing, "EARLY", 100)
    file = writing.TolerantFile(tmp_path / "new")
    for size in (60, 60, 10, 250, 99):
        file.write(memoryview(bytes(range(size))))
    file.seek(0)
    file.write(memoryview(b"head"))  # what is written behind its place isn't told of again
    file.close()
    file.raise_error()
    assert told == [(0, 120), (120, 260)]
    assert (tmp_path / "new").stat().st_size == 479


@pytest.mark.parametrize("apart", [False, True])
def test_files_that_belong_together_are_on_the_disk_before_either_is_named(
    tmp_path: Path, done: list[str], apart: bool
) -> None:
    other = tmp_path / "other" if apart else tmp_path
    other.mkdir(exist_ok=True)
    with whole_files(str(other / "first"), str(tmp_path / "last")) as new:
        for name in new.partial:
            Path(name).write_text("x")
    assert done == ["file", "file", "first", *["folder"] * apart, "last", "folder"]


@pytest.mark.parametrize("fails", ["first", "last"])
def test_of_files_that_belong_together_none_is_named_unless_all_can_be(tmp_path: Path, fails: str) -> None:
    def make() -> None:
        with whole_files(str(tmp_path / "first"), str(tmp_path / "last")) as new:
            for name in new.partial:
                Path(name).write_text("x")
            os.unlink(next(name for name in new.partial if Path(name).name.startswith(fails)))

    with pytest.raises(OutputError, match="can't be written: No such file"):
        make()
    assert not left(tmp_path)


def test_an_optional_file_may_stay_away(tmp_path: Path) -> None:
    maybe, last = str(tmp_path / "maybe"), str(tmp_path / "last")
    with whole_files(maybe, last, optional=[maybe]) as new:
        Path(new.partial[1]).write_text("x")
    assert left(tmp_path) == ["last"]


@given(st.lists(st.tuples(st.sampled_from([b"\0", b"x", b"\0x"]), st.integers(1, 9000)), max_size=6))
def test_what_is_written_with_holes_reads_as_it_was(tmp_path_factory: pytest.TempPathFactory, parts: Any) -> None:
    image = b"".join(unit * n for unit, n in parts)
    path = tmp_path_factory.getbasetemp() / "with_holes"
    path.write_bytes(b"what was there before" * 1000)
    writing.write_bytes(path, image)
    assert path.read_bytes() == image


def test_pages_of_zeros_are_not_written() -> None:
    page = writing.PAGE
    image = bytes(2 * page) + b"x" + bytes(page - 1) + b"y" * page + bytes(3 * page) + b"z"
    assert list(writing._written_parts(image)) == [(2 * page, 4 * page), (7 * page, 7 * page + 1)]
    assert list(writing._written_parts(bytes(page))) == []
