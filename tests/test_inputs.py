"""Inputs as they are found: virtual datasets, chains of links, several channels, real masters."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import oracle
import pytest
from running import bnl
from small_sets import random_frames, random_mask, read_images, shared_data, write_set

import bnl_mpi
from bnl_mpi.errors import BnlError
from bnl_mpi.hdf5.access import open_read
from bnl_mpi.input import discovery
from bnl_mpi.input.discovery import STRICT, Leniency
from bnl_mpi.input.frames import FrameReader
from bnl_mpi.options import Options

SHAPE = (20, 26)
BSLZ4 = dict(hdf5plugin.Bitshuffle(cname="lz4"))


def reduced(master: Path, **options: Any) -> np.ndarray[Any, Any]:
    out = master.parent / "out"
    bnl_mpi.reduce(str(master), out_file=str(out), force=True, compression="none", **options)
    return read_images(f"{out}_master.h5")


def expected(frames: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
    return oracle.reduce_set(frames, None, **{"sum": 2, "binning": 1, "satval": 9000, **options})


def rewrite_data(master: Path, make: Any) -> None:
    """Replace `/entry/data` of a master by what `make(group)` puts there."""
    with h5py.File(master, "r+") as h5:
        del h5["/entry/data"]
        group = h5.create_group("/entry/data")
        group.attrs["NX_class"] = "NXdata"
        make(group)


def layout_of(folder: Path, counts: tuple[int, ...], dtype: str, *, through_links: bool) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((sum(counts), *SHAPE), dtype)
    begin = 0
    for k, count in enumerate(counts, 1):
        if through_links:
            source = h5py.VirtualSource(".", f"/entry/data/data_{k:06d}", (count, *SHAPE))
        else:
            source = h5py.VirtualSource(f"in_data_{k:06d}.h5", "/entry/data/data", (count, *SHAPE))
        layout[begin : begin + count] = source
        begin += count
    return layout


@pytest.mark.parametrize("through_links", [False, True])
def test_a_virtual_dataset_and_its_stored_type(tmp_path: Path, through_links: bool) -> None:
    # The stored type is u2, whose top values are marks; the virtual dataset is declared i4.
    frames = random_frames(9, SHAPE)
    master = write_set(tmp_path, frames, per_file=(4, 2, 3))

    def make(group: h5py.Group) -> None:
        if through_links:
            for k in (1, 2, 3):
                group[f"data_{k:06d}"] = h5py.ExternalLink(f"in_data_{k:06d}.h5", "/entry/data/data")
        group.create_virtual_dataset("data", layout_of(tmp_path, (4, 2, 3), "i4", through_links=through_links))
        group.attrs["signal"] = "data"

    rewrite_data(master, make)
    np.testing.assert_array_equal(reduced(master), expected(frames, sum=1))
    np.testing.assert_array_equal(reduced(master, first_image=4, sum=2), expected(frames[3:]))
    (tmp_path / "in_data_000002.h5").unlink()
    with pytest.raises(BnlError, match="in_data_000002"):
        reduced(master)


def test_a_single_dataset_in_the_master_or_behind_a_chain_of_links(tmp_path: Path) -> None:
    frames = random_frames(6, SHAPE)
    master = write_set(tmp_path, frames)
    rewrite_data(master, lambda group: group.create_dataset("data", data=frames, chunks=(1, *SHAPE), **BSLZ4))
    np.testing.assert_array_equal(reduced(master, sum=2), expected(frames))
    with h5py.File(tmp_path / "end.h5", "w") as h5:
        h5.create_dataset("data", data=frames)
    with h5py.File(tmp_path / "middle.h5", "w") as h5:
        h5["chained"] = h5py.ExternalLink("end.h5", "data")
        h5["soft"] = h5py.SoftLink("/chained")

    def make(group: h5py.Group) -> None:
        group["data_000001"] = h5py.ExternalLink("middle.h5", "/soft")

    rewrite_data(master, make)
    np.testing.assert_array_equal(reduced(master, sum=2), expected(frames))


def test_absolute_links_of_a_set_that_was_moved(tmp_path: Path) -> None:
    frames = random_frames(4, SHAPE)
    master = write_set(tmp_path, frames)

    def make(group: h5py.Group) -> None:
        group["data_000001"] = h5py.ExternalLink("/nowhere/in_data_000001.h5", "/entry/data/data")

    rewrite_data(master, make)
    np.testing.assert_array_equal(reduced(master, sum=2), expected(frames))


def test_a_set_that_was_stopped_early(tmp_path: Path) -> None:
    frames = random_frames(7, SHAPE)
    master = write_set(tmp_path, frames, per_file=4)
    with h5py.File(master, "r+") as h5:
        h5["/entry/instrument/detector/detectorSpecific/nimages"][()] = 8
        for name in ("omega", "omega_end"):
            values = h5[f"/entry/sample/goniometer/{name}"][()]
            del h5[f"/entry/sample/goniometer/{name}"]
            h5[f"/entry/sample/goniometer/{name}"] = np.append(values, values[-1] + 0.1)
    done = bnl("-i", master, "-s", "2", "-c", "none", "-o", "out", "--drop_partial", cwd=tmp_path)
    assert "tells of 8 frames, but its data files hold 7" in done.stderr
    np.testing.assert_array_equal(read_images(tmp_path / "out_master.h5"), expected(frames[:6]))


def test_master_and_data_in_different_folders(tmp_path: Path) -> None:
    frames = random_frames(4, SHAPE)
    master = write_set(tmp_path, frames)
    for name in ("data here", "master there"):
        (tmp_path / name).mkdir()
    words = ["-o", "data here/set", "-m", "master there/my_master", "-c", "none", "-s", "2"]
    bnl("-i", master, *words, cwd=tmp_path)
    np.testing.assert_array_equal(read_images(tmp_path / "master there" / "my_master.h5"), expected(frames))
    with h5py.File(tmp_path / "master there" / "my.nxs") as h5:
        np.testing.assert_array_equal(h5["/entry/data/images"][()], expected(frames))


def four_dimensional(tmp_path: Path, frames: np.ndarray[Any, Any]) -> Path:
    """A master whose virtual dataset is (n, channel, ny, nx) over two such files."""
    master = write_set(tmp_path, frames[:, 0])
    n, n_channels = frames.shape[:2]
    half = n // 2
    layout = h5py.VirtualLayout(frames.shape, frames.dtype)
    for k, part in enumerate((slice(0, half), slice(half, n)), 1):
        with h5py.File(tmp_path / f"in_data_{k:06d}.h5", "w") as h5:
            h5.create_dataset("/entry/data/data", data=frames[part], chunks=(1, 1, *SHAPE), **BSLZ4)
        source = h5py.VirtualSource(f"in_data_{k:06d}.h5", "/entry/data/data", frames[part].shape)
        layout[part] = source
    rewrite_data(master, lambda group: group.create_virtual_dataset("data", layout))
    assert n_channels == frames.shape[1]
    return master


def test_channels(tmp_path: Path) -> None:
    frames = np.stack([random_frames(6, SHAPE, seed=s) for s in (1, 2)], axis=1)
    one = tmp_path / "one"
    one.mkdir()
    np.testing.assert_array_equal(reduced(four_dimensional(one, frames[:, :1]), sum=2), expected(frames[:, 0]))
    master = four_dimensional(tmp_path, frames)
    with pytest.raises(BnlError, match="2 channels; choose one with --channel 1 to 2"):
        reduced(master)
    with pytest.raises(BnlError, match="--channel 3, but frames have 2 channels"):
        reduced(master, channel=3)
    for k in (0, 1):
        np.testing.assert_array_equal(reduced(master, sum=2, channel=k + 1), expected(frames[:, k]))


@pytest.mark.parametrize("kind", ["u1", "i4", "u4"])
@pytest.mark.parametrize("chunked", [False, True])
def test_masks_of_every_kind(tmp_path: Path, kind: str, chunked: bool) -> None:
    frames, mask = random_frames(2, SHAPE), random_mask(SHAPE)
    master = write_set(tmp_path, frames)
    with h5py.File(master, "r+") as h5:
        options = {"chunks": (5, 13), "compression": "gzip"} if chunked else {}
        h5.create_dataset("/entry/instrument/detector/detectorSpecific/pixel_mask", data=mask.astype(kind), **options)
    np.testing.assert_array_equal(
        reduced(master, sum=2, bin=2), oracle.reduce_set(frames, mask, sum=2, binning=2, satval=9000)
    )


# ---- real masters ---------------------------------------------------------------------------------------


REAL = {
    "ins_8_5.nxs": ("ins_8_5_{:06d}.h5", "data", (1000, 1000, 1000, 600), (4362, 4148), "u4"),
    "dls_4m_grid_xrc_209_master.h5": ("xrc_209_{:06d}.h5", "data", (240,), (2162, 2068), "u2"),
    "eiger2_nxmx_mx3_master.h5": ("example_1_data_{:06d}.h5", "entry/data/data", (1,), (3262, 3108), "u4"),
}


@pytest.mark.skipif(shared_data() is None, reason="no folder shared/data with real masters")
@pytest.mark.parametrize("name", list(REAL))
def test_real_masters_go_through(tmp_path: Path, name: str) -> None:
    folder = shared_data()
    assert folder is not None
    shutil.copy(folder / name, tmp_path)
    for meta in folder.glob("ins_8_5_meta.h5"):
        shutil.copy(meta, tmp_path)
    pattern, dataset, counts, shape, dtype = REAL[name]
    rng = np.random.default_rng(3)
    written = min(counts[0], 2)
    frames = rng.poisson(2, (written, *shape)).astype(dtype)
    for k, count in enumerate(counts, 1):
        with h5py.File(tmp_path / pattern.format(k), "w") as h5:
            d = h5.create_dataset(dataset, (count, *shape), dtype, chunks=(1, *shape), **BSLZ4)
            if k == 1:
                for i, frame in enumerate(frames):
                    d[i] = frame
    options = ["-N", str(written), "-b", "2", "-s", "1", "-c", "bslz4", "-H", "4"]
    done = bnl("-i", name, *options, "-o", "out", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    images = read_images(tmp_path / "out_master.h5")
    assert images.shape == (written, -(-shape[0] // 2), -(-shape[1] // 2))
    assert (tmp_path / "out.nxs").exists()
    valid = images[0] < 65535
    assert abs(float(images[0][valid].mean()) - 8.0) < 0.1


# ---- reading ahead ----


def read_all(master: Path) -> list[int]:
    """Checksums of all frames."""
    with open_read(str(master)) as file:
        source = discovery.open_source(str(master), file, None, trust_counts=False)
    reader, out = FrameReader(source), np.empty(source.shape, source.dtype)
    found = [reader.fetch(frame, out).crc32 for frame in range(source.n_frames)]
    reader.close()
    return found


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_the_system_is_told_of_each_frame_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = random_frames(7, (40, 50))
    master = write_set(tmp_path, frames, per_file=7)
    told: list[bytes] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        told.append(os.pread(descriptor, length, offset))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    checksums = read_all(master)
    with h5py.File(next(tmp_path.glob("*_data_*.h5"))) as file:
        dataset = file["entry/data/data"]
        chunks = [bytes(dataset.id.read_direct_chunk((k, 0, 0))[1]) for k in range(7)]
    assert told == chunks[1:]
    assert checksums == [zlib.crc32(chunk) for chunk in chunks]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_frames_are_read_where_advice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master = write_set(tmp_path, random_frames(3, (40, 50)), per_file=3)
    expected = read_all(master)

    def refuse(*_: int) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    assert read_all(master) == expected
    monkeypatch.delattr(os, "posix_fadvise")
    assert read_all(master) == expected


def test_each_option_allows_one_thing() -> None:
    fields = {"salvage": "salvage", "ignore_frame_numbers": "ignore_numbers", "skip_bad_frames": "bad_frames"}
    for option, field in fields.items():
        options = Options("in_master.h5", **{option: True})  # type: ignore[arg-type]
        assert Leniency.asked(options) == Leniency(**{field: True})
    assert Leniency.asked(Options("in_master.h5")) == STRICT
