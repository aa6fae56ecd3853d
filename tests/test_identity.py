"""What a job's input is known by: a master or a raw file that is another is told from the one that was read."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from running import bnl, needs_mpi, outputs
from small_sets import FILTERS, random_frames, random_mask, write_set

import bnl_mpi
from bnl_mpi import job as jobs
from bnl_mpi.errors import BnlError
from bnl_mpi.input import identity
from bnl_mpi.options import Options
from bnl_mpi.run import work
from bnl_mpi.tasks.reduction import Pipeline

SHAPE = (20, 26)
N = 8
SPECIFIC = "/entry/instrument/detector/detectorSpecific"


def raw(folder: Path, **options: Any) -> Path:
    return write_set(folder, random_frames(N, SHAPE, seed=options.pop("seed", 1)), mask=random_mask(SHAPE), **options)


def edit_mask(folder: Path) -> str:
    with h5py.File(folder / "in_master.h5", "r+") as h5:
        h5[f"{SPECIFIC}/pixel_mask"][3, 4] ^= 2
    return "the input's master told something else"


def edit_beam_centre(folder: Path) -> str:
    with h5py.File(folder / "in_master.h5", "r+") as h5:
        h5["/entry/instrument/detector/beam_center_x"][()] = 12
    return "the input's master told something else"


def other_pixels(folder: Path) -> str:
    """The same names and sizes: frames without a filter take the same room whatever they hold."""
    with h5py.File(folder / "in_data_000001.h5", "r+") as h5:
        h5["/entry/data/data"][0, 5, 6] += 1
    return "frame 1 of the input was another"


def other_file(folder: Path) -> str:
    with h5py.File(folder / "in_data_000001.h5", "r+") as h5:
        frames = h5["/entry/data/data"][()]
        del h5["/entry/data/data"]
        h5.create_dataset("/entry/data/data", data=frames, chunks=(2, *SHAPE))
    size = (folder / "in_data_000001.h5").stat().st_size
    return "the input's files had other names or sizes" if size else ""


EDITS: dict[str, Callable[[Path], str]] = {
    "mask": edit_mask,
    "beam centre": edit_beam_centre,
    "pixels": other_pixels,
    "layout": other_file,
}


@pytest.mark.parametrize(
    ("edit", "ranks"),
    [*((edit, None) for edit in EDITS), pytest.param("pixels", 3, marks=[needs_mpi, pytest.mark.mpi])],
)
def test_resume_takes_no_blocks_of_another_input(tmp_path: Path, edit: str, ranks: int | None) -> None:
    master = raw(tmp_path, filter_name="none")
    words = ["-i", master, "-d", "2", "-o", "set"]
    bnl(*words, cwd=tmp_path)
    for finished in (True, False):
        if not finished:
            (tmp_path / "set_000002.h5").unlink()
        else:
            why = EDITS[edit](tmp_path)
        done = bnl(*words, "--resume", cwd=tmp_path, ranks=ranks, ok=False)
        assert done.returncode == 1, done.stderr
        assert why in done.stderr
        assert "belongs to another job" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_set_that_was_moved_copied_or_packed_anew_is_the_same(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    master = raw(here)
    bnl("-i", master, "-d", "2", "-o", "set", cwd=tmp_path)
    (tmp_path / "set_000002.h5").unlink()
    shutil.copytree(here, there)
    for path in there.iterdir():
        os.utime(path, (1, 1))
    shutil.rmtree(here)
    done = bnl("-i", there / master.name, "-d", "2", "-o", "set", "--resume", cwd=tmp_path)
    assert "3 of 4 blocks are there and sound" in done.stderr


@pytest.mark.parametrize("filter_name", list(FILTERS))
@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_blocks_tell_what_they_were_made_of(tmp_path: Path, filter_name: str, chunk_frames: int) -> None:
    frames = random_frames(N, SHAPE)
    master = write_set(tmp_path, frames, per_file=4, filter_name=filter_name, chunk_frames=chunk_frames)
    options: dict[str, Any] = {"compression": "none", "sum": 3, "data_block_size": 1}
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"), **options)
    for number, block in ((1, range(3)), (2, range(3, 6)), (3, range(6, 8))):
        with h5py.File(tmp_path / f"set_{number:06d}.h5") as h5:
            kept = identity.read_block_input(h5["/entry/bnl_mpi"])
        assert kept is not None
        names = {f"in_data_{k // 4 + 1:06d}.h5" for k in block}
        assert {one.name for one in kept.files} == names
        for one in kept.files:
            assert one.size == (tmp_path / one.name).stat().st_size
            assert one.n_frames == 4
        assert kept.frames_crc32 == [stored_crc32(tmp_path, k, frames, chunk_frames) for k in block]
        assert kept.bad_frames == []


def stored_crc32(folder: Path, frame: int, frames: np.ndarray, chunk_frames: int) -> int:
    """Of a frame's chunk, read from the file by its place; of its pixels where chunks hold several."""
    if chunk_frames > 1:
        return zlib.crc32(frames[frame].tobytes())
    path = folder / f"in_data_{frame // 4 + 1:06d}.h5"
    with h5py.File(path) as h5:
        info = h5["/entry/data/data"].id.get_chunk_info_by_coord((frame % 4, 0, 0))
    with open(path, "rb") as file:
        file.seek(info.byte_offset)
        return zlib.crc32(file.read(info.size))


def test_numpy_kernels_tell_the_same(tmp_path: Path) -> None:
    master = raw(tmp_path)
    words = ["-i", master, "-d", "4", "-c", "none"]
    bnl(*words, "-o", "set", cwd=tmp_path)
    bnl(*words, "-o", "numpy", cwd=tmp_path, env={"BNL_MPI_KERNELS": "numpy"})
    for name in ("input_files", "frames_crc32"):
        one, two = (outputs(tmp_path, stem)[f"{stem}_000002.h5"][f"/entry/bnl_mpi/{name}"] for stem in ("set", "numpy"))
        assert one == two


# ---- changes while the run goes on ----------------------------------------------------------------------


def replaced_by_equal_size(path: Path) -> None:
    """Another file of that name and size, of other content."""
    other = path.with_suffix(".new")
    shutil.copy(path, other)
    with h5py.File(other, "r+") as h5:
        h5["/entry/data/data"][1, 2, 3] ^= 1
    os.replace(other, path)


@pytest.mark.parametrize("during", ["a block", "the run", "the last block"])
def test_a_file_replaced_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str) -> None:
    master = raw(tmp_path, filter_name="none")
    path = tmp_path / "in_data_000001.h5"
    for old in tmp_path.iterdir():
        # File systems tell times in steps, which a run may be shorter than.
        os.utime(old, (2, 2))
    if during == "a block":
        original = Pipeline._make_image

        def replacing(maker: Pipeline, image: int, *rest: Any) -> None:
            original(maker, image, *rest)
            if image == 1:
                replaced_by_equal_size(path)

        monkeypatch.setattr(Pipeline, "_make_image", replacing)
    else:
        reports = work.make_blocks_alone

        def replacing_after(*arguments: Any) -> Any:
            made = reports(*arguments)
            replaced_by_equal_size(master if during == "the run" else tmp_path / "in_data_000002.h5")
            return made

        monkeypatch.setattr("bnl_mpi.run.driver.make_blocks_alone", replacing_after)
        if during == "the run":
            monkeypatch.setitem(globals(), "replaced_by_equal_size", lambda path: os.utime(path, (1, 1)))
    with pytest.raises(BnlError, match="changed or replaced while the run went on"):
        bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"), data_block_size=4)
    assert not (tmp_path / "set_master.h5").exists()
    assert not list(tmp_path.glob("*.partial"))


# ---- frames that can't be read --------------------------------------------------------------------------


def spoil(folder: Path, frame: int) -> None:
    """Overwrite the middle of a frame's chunk."""
    path = folder / f"in_data_{frame // 4 + 1:06d}.h5"
    with h5py.File(path) as h5:
        info = h5["/entry/data/data"].id.get_chunk_info_by_coord((frame % 4, 0, 0))
    with open(path, "rb+") as file:
        file.seek(info.byte_offset + 12)
        file.write(b"\xff" * (info.size - 12))


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"compression": "bslz4"},
    "float": {"compression": "none", "float": 4},
    "signed": {"compression": "none", "uint": -4, "bin": 2},
    "hcompress": {"compression": "bslz4", "codec": "hcompress", "codec_level": 4},
    "htj2k": {"compression": "htj2k", "codec": "htj2k", "codec_level": 4},
    "scaled": {"compression": "none", "saturation": "scaled"},
}


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_bad_frames_make_their_images_invalid(tmp_path: Path, setting: str) -> None:
    master = write_set(tmp_path, random_frames(N, (40, 44)), mask=random_mask((40, 44)))
    options = {**SETTINGS[setting], "sum": 2, "data_block_size": 2}
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "good"), **options)
    for frame in (2, 3, 6):
        spoil(tmp_path, frame)
    with pytest.raises(BnlError, match="frame 3 "):
        bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"), **options)
    summary = bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"), skip_bad_frames=True, force=True, **options)
    assert summary is not None
    assert summary.bad_frames == [3, 4, 7]
    assert any("3 frames are invalid" in text and "3, 4, 7" in text for text in summary.warnings)
    for image in range(4):
        good, made = (image_of(tmp_path / f"{stem}_{image // 2 + 1:06d}.h5", image % 2) for stem in ("good", "set"))
        if image in (1, 3):
            assert made is None
        else:
            np.testing.assert_array_equal(good, made)
    with h5py.File(tmp_path / "set_000002.h5") as h5:
        assert h5["/entry/bnl_mpi/bad_frames"][()].tolist() == [7]
        assert h5["/entry/bnl_mpi/frames_crc32"][2] == 0
    with h5py.File(tmp_path / "set_master.h5") as h5:
        assert json.loads(h5["/entry/process_bnl_mpi/bad_frames"][()]) == [3, 4, 7]
    again = bnl_mpi.reduce(str(master), out_file=str(tmp_path / "set"), skip_bad_frames=True, resume=True, **options)
    assert again is not None
    assert again.bad_frames == [3, 4, 7]


def image_of(path: Path, index: int) -> np.ndarray | None:
    """An image with its marks; None where all of it is invalid."""
    import hdf5plugin  # noqa: F401

    from bnl_mpi.output import record

    with h5py.File(path) as h5:
        image = h5["/entry/data/data"][index]
        listed = record.read_invalid(h5, image.shape)
    if listed is not None:
        invalid = listed.of(index)
    elif image.dtype.kind == "f":
        invalid = np.isnan(image)
    else:
        invalid = image == (-1 if image.dtype.kind == "i" else np.iinfo(image.dtype).max)
    return None if invalid.all() else image


@pytest.mark.mpi
@needs_mpi
def test_bad_frames_over_ranks_and_shares(tmp_path: Path) -> None:
    master = raw(tmp_path)
    for frame in (2, 7):
        spoil(tmp_path, frame)
    words = ["-i", master, "--skip_bad_frames", "-s", "2", "-d", "1", "-c", "bslz4"]
    bnl(*words, "-o", "one/set", "--json", "one.json", cwd=made(tmp_path, "one"))
    bnl(*words, "-o", "three/set", cwd=made(tmp_path, "three"), ranks=3)
    assert outputs(tmp_path / "one", "set") == outputs(tmp_path / "three", "set")
    assert json.loads((tmp_path / "one.json").read_text())["bad_frames"] == [3, 8]


def made(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder


def stored_otherwise(how: str) -> Any:
    def edit(h5: h5py.File) -> None:
        mask = h5[f"{SPECIFIC}/pixel_mask"][()]
        del h5[f"{SPECIFIC}/pixel_mask"]
        if how == "linked":
            h5["mask"] = mask
            h5[f"{SPECIFIC}/pixel_mask"] = h5py.SoftLink("/mask")
        elif how == "elsewhere":
            with h5py.File(Path(h5.filename).with_name("mask.h5"), "w") as other:
                other["mask"] = mask
            h5[f"{SPECIFIC}/pixel_mask"] = h5py.ExternalLink("mask.h5", "/mask")
        elif how == "packed":
            h5.create_dataset(f"{SPECIFIC}/pixel_mask", data=mask, chunks=(7, 26), compression="gzip")
        elif how == "fewer bits":
            kind = h5py.h5t.STD_U32LE.copy()
            kind.set_precision(20)
            space = h5py.h5s.create_simple(mask.shape)
            h5py.h5d.create(h5.id, f"{SPECIFIC}/pixel_mask".encode(), kind, space)
            h5[f"{SPECIFIC}/pixel_mask"][...] = mask
        else:
            h5[f"{SPECIFIC}/pixel_mask"] = mask.astype(how).reshape((1, *SHAPE) if how == "<i4" else SHAPE)

    return edit


@pytest.mark.parametrize("how", ["<u4", ">u4", "<i4", "u1", "linked", "elsewhere", "packed", "fewer bits"])
def test_a_mask_counts_as_stored_however_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The digest of a master whose mask was read before is the one that is found by reading all of it."""
    master = raw(tmp_path)
    with h5py.File(master, "r+") as h5:
        stored_otherwise(how)(h5)
    options = Options(infile=str(master), out_file=str(tmp_path / "out"))
    found = jobs.prepare(options).job.identity
    monkeypatch.setattr(identity, "_mask_of", lambda h5, experiment: {})
    assert jobs.prepare(options).job.identity == found
