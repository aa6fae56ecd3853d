"""Masters made to do harm: one line each, soon, and without a file being opened that is none of a data set's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from running import MAIN, bnl
from small_sets import random_frames, random_mask, read_images, write_set

SHAPE = (20, 26)
DETECTOR = "/entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
MOST_MEMORY = 1 << 30
"""Bytes of address space beyond what Python and its libraries take; frames here have a kilobyte."""

Harm = Callable[[h5py.File, Path], None]


def fifo_link(h5: h5py.File, folder: Path) -> None:
    os.mkfifo(folder / "pipe.h5")
    h5[f"{DETECTOR}/flatfield"] = h5py.ExternalLink("pipe.h5", "/data")


def fifo_behind_a_soft_link(h5: h5py.File, folder: Path) -> None:
    os.mkfifo(folder / "pipe.h5")
    h5["/entry/a_soft"] = h5py.SoftLink("/entry/z_outside/data")
    h5["/entry/z_outside"] = h5py.ExternalLink("pipe.h5", "/")


def fifo_as_data_file(h5: h5py.File, folder: Path) -> None:
    (folder / "in_data_000001.h5").unlink()
    os.mkfifo(folder / "in_data_000001.h5")


def device_link(h5: h5py.File, folder: Path) -> None:
    h5["/entry/zero"] = h5py.ExternalLink("/dev/zero", "/data")


def external_storage(h5: h5py.File, folder: Path) -> None:
    h5.create_dataset("/entry/stolen", (100,), "u1", external=[("/etc/passwd", 0, 100)])


def external_fifo(h5: h5py.File, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    h5.create_dataset("/entry/stolen", (100,), "u1", external=[(str(folder / "pipe"), 0, 100)])


def external_frames(h5: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(4 * 20 * 26 * 2))
    with h5py.File(folder / "in_data_000001.h5", "w") as data:
        data.create_dataset("/entry/data/data", (4, *SHAPE), "u2", external=[(str(folder / "raw"), 0, 4160)])


def virtual_of_itself(h5: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource(".", "/entry/sample/x", (8,))
    h5.create_virtual_dataset("/entry/sample/x", layout)


def virtual_circle(h5: h5py.File, folder: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        layout = h5py.VirtualLayout((8,), "f8")
        layout[:] = h5py.VirtualSource(f"{other}.h5", "/x", (8,))
        with h5py.File(folder / f"{name}.h5", "w") as one:
            one.create_virtual_dataset("/x", layout)
    layout = h5py.VirtualLayout((8,), "f8")
    layout[:] = h5py.VirtualSource("a.h5", "/x", (8,))
    h5.create_virtual_dataset("/entry/sample/x", layout)


def never_written(h5: h5py.File, folder: Path) -> None:
    h5.create_dataset("/entry/sample/large", (1 << 28,), "f8")


def deep_groups(h5: h5py.File, folder: Path) -> None:
    group = h5["/entry"]
    for _ in range(3000):
        group = group.create_group("g")


def text_counts(h5: h5py.File, folder: Path) -> None:
    del h5[f"{SPECIFIC}/pixel_mask"]
    h5[f"{SPECIFIC}/pixel_mask"] = np.zeros((3, 4), "u4")


REFUSED: dict[str, tuple[Harm, str]] = {
    "a fifo as a link": (fifo_link, "no regular file"),
    "a fifo behind a soft link": (fifo_behind_a_soft_link, "no regular file"),
    "a fifo as a data file": (fifo_as_data_file, "in_data_000001.h5"),
    "a device as a link": (device_link, "/dev/zero, which is no regular file"),
    "external storage": (external_storage, "/entry/stolen keeps its values in other files"),
    "a fifo as external storage": (external_fifo, "external storage"),
    "frames in external storage": (external_frames, "external storage"),
    "a virtual dataset of itself": (virtual_of_itself, "/entry/sample/x is a virtual dataset of itself"),
    "virtual datasets in a circle": (virtual_circle, "virtual dataset of itself"),
    "a large dataset never written": (never_written, "/entry/sample/large is of 2147483648 bytes"),
    "deep groups": (deep_groups, "nested deeper than 64"),
    "a mask of another shape": (text_counts, "/pixel_mask has the shape (3, 4)"),
}


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return write_set(tmp_path, random_frames(4, SHAPE), mask=random_mask(SHAPE), per_file=4)


def bounded(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The program with an end to its memory and its time."""
    code = (
        "import resource, runpy, sys, numpy, h5py, hdf5plugin\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {MOST_MEMORY},) * 2)\n"
        f"sys.argv = ['bnl-mpi', *sys.argv[1:]]; runpy.run_path({MAIN!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)


@pytest.mark.parametrize("harm", list(REFUSED))
def test_what_would_do_harm_is_refused(tmp_path: Path, master: Path, harm: str) -> None:
    make, message = REFUSED[harm]
    with h5py.File(master, "r+") as h5:
        make(h5, tmp_path)
    done = bounded("-i", master, "-o", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert not list(tmp_path.glob("out*"))


def test_a_diamond_of_links(tmp_path: Path, master: Path) -> None:
    """Two links from each group to the next: 2**26 ways to the end, and 26 groups."""
    with h5py.File(master, "r+") as h5:
        group = h5["/entry/sample"].create_group("diamond")
        for _ in range(26):
            following = group.create_group("left")
            group["right"] = following
            group = following
        group["omega"] = np.arange(4.0)
    done = bounded("-i", master, "-o", "out", "-c", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(read_images(tmp_path / "out_master.h5")) == 4


def test_a_chunk_said_to_be_of_four_gigabytes(tmp_path: Path, master: Path) -> None:
    """The size of a frame's chunk, and of the mask's, overwritten where HDF5 keeps it."""
    for path, name in ((tmp_path / "in_data_000001.h5", "/entry/data/data"), (master, f"{SPECIFIC}/pixel_mask")):
        if path == master:
            with h5py.File(master, "r+") as h5:
                mask = h5[name][()]
                del h5[name]
                h5.create_dataset(name, data=mask, chunks=SHAPE, compression="gzip")
        content = path.read_bytes()
        with h5py.File(path) as h5:
            at = (0, 0, 0) if h5[name].ndim == 3 else (0, 0)
            info = h5[name].id.get_chunk_info_by_coord(at)
        numbers = (*at, 0, info.byte_offset)
        key = info.size.to_bytes(4, "little") + bytes(4) + b"".join(one.to_bytes(8, "little") for one in numbers)
        assert content.count(key) == 1
        path.write_bytes(content.replace(key, (0xFFFFFFF0).to_bytes(4, "little") + key[4:]))
        done = bounded("-i", master, "-o", "out", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "4294967280 bytes" in done.stderr
        assert "Traceback" not in done.stderr
        path.write_bytes(content)


def test_links_to_metadata_in_regular_files_are_followed(tmp_path: Path, master: Path) -> None:
    with h5py.File(tmp_path / "meta.h5", "w") as meta:
        meta["mask"] = random_mask(SHAPE)
    with h5py.File(master, "r+") as h5:
        del h5[f"{SPECIFIC}/pixel_mask"]
        h5[f"{SPECIFIC}/pixel_mask"] = h5py.ExternalLink("meta.h5", "/mask")
    bnl("-i", master, "-o", "out", cwd=tmp_path)
    with h5py.File(tmp_path / "out_master.h5") as h5:
        np.testing.assert_array_equal(h5[f"{SPECIFIC}/pixel_mask"][()] != 0, random_mask(SHAPE) != 0)
