"""Frames in their order and number: what the files tell, what the master tells, and sets that broke off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import oracle
import pytest
from running import bnl, needs_mpi
from small_sets import random_frames, read_images, write_set

import bnl_mpi
from bnl_mpi.errors import BnlError

SHAPE = (20, 26)
N = 12
SPECIFIC = "/entry/instrument/detector/detectorSpecific"
OMEGA = "/entry/sample/goniometer/omega"


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return write_set(tmp_path, random_frames(N, SHAPE), per_file=4)


def data(folder: Path, number: int) -> Path:
    return folder / f"in_data_{number:06d}.h5"


def shorten(path: Path, n: int, *, numbers: bool) -> None:
    """Leave the first `n` frames of a data file; with `numbers` the attributes say so."""
    with h5py.File(path, "r+") as h5:
        old = h5["/entry/data/data"]
        frames, low = old[:n], int(old.attrs.get("image_nr_low", 0))
        del h5["/entry/data/data"]
        d = h5.create_dataset("/entry/data/data", data=frames, chunks=(1, *SHAPE))
        if numbers:
            d.attrs["image_nr_low"], d.attrs["image_nr_high"] = low, low + n - 1


def without_numbers(folder: Path) -> None:
    for number in (1, 2, 3):
        with h5py.File(data(folder, number), "r+") as h5:
            for name in ("image_nr_low", "image_nr_high"):
                h5["/entry/data/data"].attrs.pop(name, None)


def refused(master: Path, **options: Any) -> str:
    with pytest.raises(BnlError) as caught:
        bnl_mpi.reduce(str(master), out_file=str(master.parent / "out"), compression="none", **options)
    assert not list(master.parent.glob("out*"))
    return str(caught.value)


def taken(master: Path, **options: Any) -> tuple[np.ndarray, list[str]]:
    """The images of a run that went on, and its warnings."""
    out = master.parent / "out"
    summary = bnl_mpi.reduce(str(master), out_file=str(out), compression="none", force=True, **options)
    assert summary is not None
    return read_images(f"{out}_master.h5"), summary.warnings


def expected(frames: np.ndarray) -> np.ndarray:
    return oracle.reduce_set(frames, None, sum=1, binning=1, satval=9000)


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
def test_data_files_that_were_swapped(tmp_path: Path, master: Path, ranks: int | None) -> None:
    data(tmp_path, 2).rename(tmp_path / "other")
    data(tmp_path, 3).rename(data(tmp_path, 2))
    (tmp_path / "other").rename(data(tmp_path, 3))
    done = bnl("-i", master, "-d", "4", "-o", "out", cwd=tmp_path, ranks=ranks, ok=False)
    assert done.returncode == 1
    assert "in_data_000002.h5:/entry/data/data: begins with frame 9 by its image_nr_low, but 4 frames" in done.stderr
    assert "--ignore_frame_numbers" in done.stderr
    assert not list(tmp_path.glob("out*"))
    bnl("-i", master, "-o", "out", "--ignore_frame_numbers", cwd=tmp_path, ranks=ranks)


@pytest.mark.parametrize("numbers", [True, False])
def test_a_short_file_in_the_middle(tmp_path: Path, master: Path, numbers: bool) -> None:
    if not numbers:
        without_numbers(tmp_path)
    shorten(data(tmp_path, 2), 3, numbers=numbers)
    text = refused(master)
    assert "in_data_000002.h5: 3 frames, but 4 in the first file" in text
    assert "tells of 12" in text
    frames = random_frames(N, SHAPE)
    images, warnings = taken(master, ignore_frame_numbers=True)
    np.testing.assert_array_equal(images, expected(np.delete(frames, 7, axis=0)))
    assert any("tells of 12 frames, but its data files hold 11" in text for text in warnings)


def test_files_of_unequal_length_that_hold_all_frames(tmp_path: Path) -> None:
    frames = random_frames(N, SHAPE)
    images, _ = taken(write_set(tmp_path, frames, per_file=(4, 3, 5)))
    np.testing.assert_array_equal(images, expected(frames))


def test_a_link_that_is_missing(tmp_path: Path, master: Path) -> None:
    with h5py.File(master, "r+") as h5:
        del h5["/entry/data/data_000002"]
    assert "links data_000001 and then data_000003" in refused(master)
    images, _ = taken(master, ignore_frame_numbers=True)
    assert len(images) == 8


def test_a_first_file_that_is_missing_from_the_links(tmp_path: Path, master: Path) -> None:
    with h5py.File(master, "r+") as h5:
        del h5["/entry/data/data_000001"]
        h5[f"{SPECIFIC}/nimages"][()] = 8
    images, _ = taken(master)
    assert len(images) == 8


@pytest.mark.parametrize("told", [11, 9, 5])
def test_a_master_that_tells_of_fewer_frames(tmp_path: Path, master: Path, told: int) -> None:
    frames = random_frames(N, SHAPE)
    with h5py.File(master, "r+") as h5:
        h5[f"{SPECIFIC}/nimages"][()] = told
    assert f"tells of {told} frames, but its data files hold 12; -N {told}" in refused(master)
    images, warnings = taken(master, ignore_frame_numbers=True)
    np.testing.assert_array_equal(images, expected(frames))
    assert any(f"tells of {told} frames" in text for text in warnings)
    images, warnings = taken(master, last_image=told)
    np.testing.assert_array_equal(images, expected(frames[:told]))
    with h5py.File(tmp_path / "out_master.h5") as h5:
        np.testing.assert_allclose(h5[OMEGA][()], np.arange(told) * 0.1, rtol=1e-6)


def test_numbers_that_disagree_with_the_count(tmp_path: Path, master: Path) -> None:
    with h5py.File(data(tmp_path, 3), "r+") as h5:
        h5["/entry/data/data"].attrs["image_nr_high"] = 99
    text = refused(master)
    assert "in_data_000003.h5:/entry/data/data: image_nr_low and image_nr_high tell of frames 9 to 99" in text
    taken(master, ignore_frame_numbers=True)


# ---- collections that broke off -------------------------------------------------------------------------


def broken_off(folder: Path, how: str) -> int:
    """Make a set one that broke off; returns how many frames of it can be taken."""
    if how == "no last file":
        data(folder, 3).unlink()
        return 8
    if how == "no middle file":
        data(folder, 2).unlink()
        return 4
    if how.startswith("truncated"):
        path = data(folder, 3 if how == "truncated last file" else 2)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        return 8 if how == "truncated last file" else 4
    with h5py.File(data(folder, 3), "r+") as h5:
        first = h5["/entry/data/data"][0]
        del h5["/entry/data/data"]
        d = h5.create_dataset("/entry/data/data", (4, *SHAPE), first.dtype, chunks=(1, *SHAPE))
        d[0] = first
        d.attrs["image_nr_low"], d.attrs["image_nr_high"] = 9, 12
    return 9


@pytest.mark.parametrize("how", ["no last file", "no middle file", "truncated last file", "half-written last file"])
def test_salvage(tmp_path: Path, master: Path, how: str) -> None:
    frames = random_frames(N, SHAPE)
    n = broken_off(tmp_path, how)
    refused(master)
    images, warnings = taken(master, salvage=True)
    np.testing.assert_array_equal(images, expected(frames[:n]))
    lost = "in_data_000002.h5, in_data_000003.h5" if n == 4 else "in_data_000003.h5"
    assert any(f"--salvage takes {n} frames; missing, damaged or incomplete: {lost}" in text for text in warnings)
    with h5py.File(tmp_path / "out_master.h5") as h5:
        assert h5[f"{SPECIFIC}/nimages"][()] == n
        np.testing.assert_allclose(h5[OMEGA][()], np.arange(n) * 0.1, rtol=1e-6)
        assert json.loads(h5["/entry/process_bnl_mpi/missing_files"][()]) == lost.split(", ")
        assert list(h5["/entry/data"]) == ["data_000001"]


@pytest.mark.parametrize("told", [N, 11, None])
def test_a_last_file_that_can_not_be_opened_is_left_out_by_salvage_alone(
    tmp_path: Path, master: Path, told: int | None
) -> None:
    """Whoever looks: a share, too, or where the master's counts don't fit."""
    broken_off(tmp_path, "truncated last file")
    with h5py.File(master, "r+") as h5:
        if told is None:
            del h5[f"{SPECIFIC}/nimages"]
        else:
            h5[f"{SPECIFIC}/nimages"][()] = told
    assert "in_data_000003.h5: damaged or still being written" in refused(master)
    for command in (["-p", "1", "-t", "0", "-i", master], ["-p", "1", "-t", "1", "-i", master], ["estimate", master]):
        done = bnl(*command, cwd=tmp_path, ok=False)
        assert done.returncode == 1
        assert "in_data_000003.h5: damaged or still being written" in done.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("told", [N, None])
def test_salvage_goes_up_to_a_file_that_can_not_be_opened(tmp_path: Path, master: Path, told: int | None) -> None:
    """Whether the master's counts fit or not."""
    n = broken_off(tmp_path, "truncated middle file")
    if told is None:
        with h5py.File(master, "r+") as h5:
            del h5[f"{SPECIFIC}/nimages"]
    assert "in_data_000002.h5: damaged or still being written" in refused(master)
    images, warnings = taken(master, salvage=True)
    np.testing.assert_array_equal(images, expected(random_frames(N, SHAPE)[:n]))
    assert any("incomplete: in_data_000002.h5, in_data_000003.h5" in text for text in warnings)


def test_salvage_of_nothing_and_of_a_whole_set(tmp_path: Path, master: Path) -> None:
    images, warnings = taken(master, salvage=True)
    assert len(images) == N
    assert not any("--salvage" in text for text in warnings)
    for path in tmp_path.glob("out*"):
        path.unlink()
    data(tmp_path, 1).unlink()
    assert "in_data_000001.h5" in refused(master, salvage=True)
