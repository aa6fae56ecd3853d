"""Sets made by earlier versions stay readable: `check`, `expand` and `replay` take those under fixtures/ for ever."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from running import bnl
from small_sets import read_images

FIXTURES = Path(__file__).parent / "fixtures"

STORED = {
    "plain": ((4, 24, 32), "uint16", "3541ff8eb5e85b7f28d623189df3597a"),
    "h16": ((4, 24, 32), "uint16", "beb25533ce927546d14fa6a8287cd122"),
    "j15": ((4, 48, 64), "uint16", "e84e3434a63fe2518a89075870644423"),
    "htj2k": ((4, 24, 32), "uint16", "b9518ec31940b691b5005765fd9c2ce1"),
    "scaled": ((2, 12, 16), "uint32", "fdbb192b08cf1a962d8c8d58594d51ad"),
}
"""Shape, type and the head of the SHA-256 of the images, as 0.1.0 read them back."""

EXPANDED = {
    "h16": STORED["h16"][2],
    "j15": STORED["j15"][2],
    "htj2k": "2247a95fe0fc3c2ef830367fa4c35a6d",
}
"""The same of what 0.1.0's `expand` made of them."""

COMMANDS = {
    "plain": "raw_filewriter_master.h5 --sum 2 --bin 2 --data_block_size 2 --compression bslz4 --out_file plain",
    "h16": "raw_nxmx_master.h5 --sum 2 --bin 2 --data_block_size 2 -H 16 --compression bslz4 --out_file h16 "
    "--out_squash out_file",
    "j15": "raw_filewriter_master.h5 --sum 2 --compression_level 3 --data_block_size 3 -J 15 --compression zstd "
    "--out_file j15 --out_squash out_file",
    "htj2k": "raw_nxmx_master.h5 --sum 2 --bin 2 --data_block_size 2 --fill_gaps -T 6 --compression htj2k "
    "--out_file htj2k",
    "scaled": "raw_filewriter_master.h5 --sum 4 --bin 4 --compression_level 5 --uint 4 --saturation scaled "
    "--RO rows_1::3 --omit 1-4 --compression bszstd --out_file scaled",
}
OTHER_LIBRARY = "decoded to other pixels"
"""Said by `expand` where another build of a codec's library than 0.1.0's rounds otherwise."""


def unpacked(name: str, folder: Path) -> Path:
    """The master of the set `name`, unpacked into `folder`."""
    with tarfile.open(FIXTURES / "0.1.0" / f"{name}.tar.xz") as archive:
        for member in archive.getmembers():
            source = archive.extractfile(member)
            assert source is not None
            (folder / member.name).write_bytes(source.read())
    return folder / f"{name}_master.h5"


def digest(images: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()[:32]


@pytest.mark.parametrize("name", list(STORED))
def test_check_finds_them_whole(name: str, tmp_path: Path) -> None:
    master = unpacked(name, tmp_path)
    images = read_images(master)
    assert (images.shape, images.dtype.name, digest(images)) == STORED[name]
    done = bnl("check", "--data", master, ok=False)
    assert "Traceback" not in done.stderr
    ours = [line for line in done.stdout.splitlines() if line.startswith(("bnl_mpi:", "fails bnl_mpi"))]
    assert len(ours) == 1, ours
    assert "demands hold" in ours[0]


@pytest.mark.parametrize("name", list(STORED))
def test_check_finds_a_changed_byte(name: str, tmp_path: Path) -> None:
    master = unpacked(name, tmp_path)
    block = tmp_path / f"{name}_000001.h5"
    with h5py.File(block) as h5:
        place = h5["/entry/data/data"].id.get_chunk_info(0)
    with open(block, "rb+") as file:
        file.seek(place.byte_offset + place.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    done = bnl("check", "--data", master, ok=False)
    assert done.returncode == 1
    assert f"{name}_000001.h5" in done.stdout


@pytest.mark.parametrize("name", list(EXPANDED))
def test_expand_makes_the_same_pixels(name: str, tmp_path: Path) -> None:
    master = unpacked(name, tmp_path)
    if name != "htj2k":
        for path in tmp_path.glob(f"{name}_0*.h5"):
            path.unlink()
    done = bnl("expand", master, "-o", "full", cwd=tmp_path)
    images = read_images(tmp_path / "full_master.h5")
    if OTHER_LIBRARY not in done.stderr:
        assert digest(images) == EXPANDED[name]
    assert images.shape == STORED[name][0]
    with h5py.File(tmp_path / "full.nxs") as h5:
        np.testing.assert_array_equal(h5["/entry/data/data"][()], images)
    done = bnl("check", "--data", tmp_path / "full_master.h5", ok=False)
    assert "fails bnl_mpi" not in done.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_replay_prints_the_command(name: str, tmp_path: Path) -> None:
    done = bnl("replay", unpacked(name, tmp_path))
    assert done.stdout.strip() == f"bnl-mpi --infile {COMMANDS[name]}"


def test_blocks_of_an_old_set_are_of_another_job(tmp_path: Path) -> None:
    """Blocks of an old set under the stem of a new run are another job's, and told to be."""
    unpacked("htj2k", tmp_path)
    unpacked("h16", tmp_path)
    for path in tmp_path.glob("h16_0*.h5"):
        path.unlink()
    (tmp_path / "h16_master.h5").rename(tmp_path / "x_master.h5")
    done = bnl("expand", tmp_path / "x_master.h5", "-o", "htj2k", "--resume", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "another job" in done.stderr
