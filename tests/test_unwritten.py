"""Frames that were never written, in every layout: an error that names them, never zeros."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import oracle
import pytest
from small_sets import random_frames, read_images, write_set

import bnl_mpi
from bnl_mpi.errors import BnlError

SHAPE = (20, 26)
N = 6
HOLE = 3
"""The frame that isn't there, from 0."""

Write = Callable[[h5py.File, np.ndarray], None]


def chunked(rows: int = SHAPE[0], frames: int = 1, **options: Any) -> Write:
    """Chunks of some frames by some rows; all of the chunks that hold frame HOLE are absent."""

    def write(h5: h5py.File, data: np.ndarray) -> None:
        d = h5.create_dataset("/entry/data/data", data.shape, data.dtype, chunks=(frames, rows, SHAPE[1]), **options)
        for k in range(len(data)):
            if k // frames != HOLE // frames:
                d[k] = data[k]

    return write


def partly(h5: h5py.File, data: np.ndarray) -> None:
    """Half of the frame is there."""
    d = h5.create_dataset("/entry/data/data", data.shape, data.dtype, chunks=(1, SHAPE[0] // 2, SHAPE[1]))
    for k in range(len(data)):
        d[k, : SHAPE[0] // 2] = data[k, : SHAPE[0] // 2]
        if k != HOLE:
            d[k, SHAPE[0] // 2 :] = data[k, SHAPE[0] // 2 :]


def contiguous(h5: h5py.File, data: np.ndarray) -> None:
    h5.create_dataset("/entry/data/data", data.shape, data.dtype)


LAYOUTS: dict[str, Write] = {
    "bslz4": chunked(**hdf5plugin.Bitshuffle(cname="lz4")),
    "lz4": chunked(**hdf5plugin.LZ4()),
    "none": chunked(),
    "gzip": chunked(compression="gzip"),
    "bszstd": chunked(**hdf5plugin.Bitshuffle(cname="zstd")),
    "filled": chunked(fillvalue=7),
    "several frames a chunk": chunked(frames=2),
    "several frames a chunk, gzip": chunked(frames=2, compression="gzip"),
    "several chunks a frame": chunked(rows=5),
    "a part of a frame": partly,
    "contiguous": contiguous,
}


def virtual_hole(master: Path, frames: np.ndarray) -> None:
    """A virtual dataset over two files, of which it leaves one frame out."""
    layout = h5py.VirtualLayout((N, *SHAPE), frames.dtype)
    one, two = (h5py.VirtualSource(f"in_data_{k:06d}.h5", "/entry/data/data", (N // 2, *SHAPE)) for k in (1, 2))
    layout[: N // 2] = one
    layout[N // 2 + 1 :] = two[1:]
    in_place_of_links(master, layout)


def in_place_of_links(master: Path, layout: h5py.VirtualLayout) -> None:
    with h5py.File(master, "r+") as h5:
        del h5["/entry/data"]
        h5.create_group("/entry/data").create_virtual_dataset("data", layout, fillvalue=5)


def refused(master: Path, **options: Any) -> str:
    with pytest.raises(BnlError) as caught:
        bnl_mpi.reduce(str(master), out_file=str(master.parent / "out"), compression="none", **options)
    assert not list(master.parent.glob("out*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_frame_never_written_is_named(tmp_path: Path, layout: str) -> None:
    frames = random_frames(N, SHAPE)
    master = write_set(tmp_path, frames, per_file=N)
    with h5py.File(tmp_path / "in_data_000001.h5", "w") as h5:
        LAYOUTS[layout](h5, frames)
    text = refused(master)
    first = {"contiguous": 0, "several frames a chunk": 2, "several frames a chunk, gzip": 2}.get(layout, HOLE)
    assert f"in_data_000001.h5:/entry/data/data: frame {first + 1} (index {first} of" in text
    assert "never written" in text
    if layout != "contiguous":
        # What wasn't asked for may be absent.
        bnl_mpi.reduce(str(master), out_file=str(tmp_path / "first"), compression="none", last_image=first)
        expected = oracle.reduce_set(frames[:first], None, sum=1, binning=1, satval=9000)
        np.testing.assert_array_equal(read_images(tmp_path / "first_master.h5"), expected)


def test_a_hole_in_a_virtual_dataset(tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(N, SHAPE), per_file=N // 2)
    virtual_hole(master, random_frames(N, SHAPE))
    text = refused(master)
    assert f"in_master.h5:/entry/data/data: frame {N // 2 + 1} " in text
    assert "no source of the virtual dataset holds it" in text


def test_a_virtual_dataset_in_a_data_file_whose_source_is_gone(tmp_path: Path) -> None:
    frames = random_frames(N, SHAPE)
    master = write_set(tmp_path, frames, per_file=N)
    (tmp_path / "in_data_000001.h5").rename(tmp_path / "raw.h5")
    with h5py.File(tmp_path / "in_data_000001.h5", "w") as h5:
        layout = h5py.VirtualLayout((N, *SHAPE), frames.dtype)
        layout[:] = h5py.VirtualSource("raw.h5", "/entry/data/data", (N, *SHAPE))
        h5.create_virtual_dataset("/entry/data/data", layout)
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "whole"), compression="none", uint=4)
    (tmp_path / "whole_master.h5").unlink()
    (tmp_path / "raw.h5").rename(tmp_path / "moved.h5")
    text = refused(master)
    assert "in_data_000001.h5:/entry/data/data: frame 1 " in text
    assert "raw.h5: no such file" in text


def tiled(folder: Path, frames: np.ndarray, missing: str | None) -> Path:
    """A set whose data file puts two halves of each frame together, with a gap of two rows between them."""
    half = SHAPE[0] // 2 - 1
    master = write_set(folder, frames, per_file=N)
    for name, rows in (("top", slice(0, half)), ("bottom", slice(SHAPE[0] - half, None))):
        with h5py.File(folder / f"{name}.h5", "w") as h5:
            d = h5.create_dataset("data", (N, half, SHAPE[1]), frames.dtype, chunks=(1, half, SHAPE[1]))
            if name != missing:
                d[:] = frames[:, rows]
    with h5py.File(folder / "in_data_000001.h5", "w") as h5:
        layout = h5py.VirtualLayout(frames.shape, frames.dtype)
        layout[:, :half] = h5py.VirtualSource("top.h5", "data", (N, half, SHAPE[1]))
        layout[:, SHAPE[0] - half :] = h5py.VirtualSource("bottom.h5", "data", (N, half, SHAPE[1]))
        h5.create_virtual_dataset("/entry/data/data", layout, fillvalue=65535)
    return master


def test_frames_put_together_of_parts(tmp_path: Path) -> None:
    frames = random_frames(N, SHAPE, marks=False) % 9000
    master = tiled(tmp_path, frames, None)
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "out"), compression="none")
    images = read_images(tmp_path / "out_master.h5")
    frames[:, SHAPE[0] // 2 - 1 : SHAPE[0] // 2 + 1] = 65535
    np.testing.assert_array_equal(images, frames)


def test_parts_that_are_absent(tmp_path: Path) -> None:
    frames = random_frames(N, SHAPE)
    text = refused(tiled(tmp_path, frames, "bottom"))
    assert "frame 1 " in text
    assert "bottom.h5:data is empty" in text
    (tmp_path / "bottom.h5").unlink()
    assert "bottom.h5: no such file" in refused(tmp_path / "in_master.h5")


def test_virtual_datasets_in_a_circle(tmp_path: Path) -> None:
    frames = random_frames(N, SHAPE)
    master = write_set(tmp_path, frames, per_file=N)
    with h5py.File(tmp_path / "in_data_000001.h5", "w") as h5:
        layout = h5py.VirtualLayout(frames.shape, frames.dtype)
        layout[:] = h5py.VirtualSource(".", "/entry/data/data", frames.shape)
        h5.create_virtual_dataset("/entry/data/data", layout)
    assert "lead in a circle" in refused(master)
