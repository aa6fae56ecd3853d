"""`bnl-mpi export`: a set as CBF images."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import fabio
import numpy as np
import pytest
from make_cbf import Made, counts, kappa_tables, mask_of, write_series
from running import bnl, needs_mpi
from small_sets import random_frames, random_mask, write_set

import bnl_mpi
from bnl_mpi.errors import BnlError
from bnl_mpi.input.cbf.header import read_header
from bnl_mpi.output.cbfheader import family
from bnl_mpi.run import driver
from bnl_mpi.tasks.export import ExportTask, options_for

SHAPE = (47, 61)


def export(master: Path, template: object, **given: Any) -> Any:
    return driver.call(ExportTask(str(template)), options_for(str(master), str(template), given))


def images(folder: Path, prefix: str = "im_") -> dict[str, str]:
    """Digest by name of the images that are there."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob(f"{prefix}*"))}


def older_set(folder: Path, dtype: str = "uint16", n: int = 7) -> tuple[Path, np.ndarray[Any, Any], Any]:
    frames, mask = random_frames(n, SHAPE, dtype), random_mask(SHAPE)
    return write_set(folder, frames, mask=mask, omega=30.0 + np.arange(n) * 0.1), frames, mask


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32"])
def test_pixels_and_marks(tmp_path: Path, dtype: str) -> None:
    master, frames, mask = older_set(tmp_path, dtype)
    summary = export(master, tmp_path / "im_####.cbf")
    assert summary.images == len(frames)
    top = np.iinfo(dtype).max
    for k, frame in enumerate(frames):
        expected = np.minimum(frame, min(top, 0x7FFFFFFD)).astype(np.int32)
        expected[(frame == top) if dtype.startswith("u") else (frame < 0)] = -2
        expected[mask != 0] = -2
        expected[mask == 1] = -1
        with fabio.open(str(tmp_path / f"im_{k + 1:04d}.cbf")) as image:
            np.testing.assert_array_equal(image.data, expected)


def test_headers_tell_of_the_set(tmp_path: Path) -> None:
    master, _, mask = older_set(tmp_path)
    export(master, tmp_path / "im_####.cbf")
    header = read_header(str(tmp_path / "im_0003.cbf"))
    assert header.numbers("Beam_xy") == pytest.approx([30.5, 23.5], abs=1e-5)
    assert header.numbers("Pixel_size") == pytest.approx([75e-6, 75e-6], rel=1e-6)
    assert header.number("Detector_distance") == pytest.approx(0.1)
    assert header.number("Wavelength") == 1
    assert header.number("Exposure_period") == pytest.approx(0.01)
    assert header.number("Count_cutoff") == 9000
    assert header.number("Start_angle") == pytest.approx(30.2, abs=1e-5)
    assert header.number("Angle_increment") == pytest.approx(0.1, abs=1e-5)
    assert header.number("N_excluded_pixels") == np.count_nonzero(mask)
    assert header.fields["Silicon"] == "sensor, thickness 0.000450 m"
    assert "axis" not in header.tables


def test_a_series_comes_back(tmp_path: Path) -> None:
    """CBF to CBF by way of a set: the same pixels, and imgCIF's geometry where the header had it."""
    frames = np.minimum(counts(5, (619, 487)), 5000)
    path = write_series(tmp_path, frames, Made(tables=kappa_tables()))[0]
    bnl_mpi.reduce(str(path), out_file=str(tmp_path / "set"), uint=4)
    export(tmp_path / "set_master.h5", tmp_path / "im_##.cbf")
    mask = mask_of(frames)
    for k, frame in enumerate(frames):
        expected = np.where(mask == 0, np.where(frame < 0, -2, frame), -mask.astype(np.int32))
        with fabio.open(str(tmp_path / f"im_{k + 1:02d}.cbf")) as image:
            np.testing.assert_array_equal(image.data, expected)
    header = read_header(str(tmp_path / "im_02.cbf"))
    assert header.fields["Detector"] == "PILATUS 300K, S/N 3-0101"
    assert header.fields["timestamp"] == "2019-07-14T10:20:00.225"
    assert header.item("array_data", "header_convention") == "PILATUS_1.2"
    assert {row["id"] for row in header.tables["axis"]} > {"GON_OMEGA", "GON_KAPPA", "GON_PHI"}
    bnl_mpi.reduce(str(tmp_path / "im_##.cbf"), out_file=str(tmp_path / "again"), uint=4)


@pytest.mark.parametrize(
    ("nx", "ny", "expected"),
    [
        (1475, 1679, "PILATUS"),
        (2463, 2527, "PILATUS"),
        (487, 195, "PILATUS"),
        (4150, 4371, "EIGER"),
        (1028, 1062, "EIGER"),
        (738, 840, None),
        (1028, 1065, None),
    ],
)
def test_detectors_by_size(nx: int, ny: int, expected: str | None) -> None:
    assert family((ny, nx)) == expected


@needs_mpi
def test_ranks_make_no_difference(tmp_path: Path) -> None:
    master, _, _ = older_set(tmp_path, n=23)
    made = []
    for name, more in (("serial", []), ("ranks", ["-p", 2])):
        (tmp_path / name).mkdir()
        done = bnl("export", master, "--cbf", tmp_path / name / "im_###.cbf", *more)
        made.append(images(tmp_path / name))
        assert "23 images in as many CBF files" in done.stdout
        assert f"NAME_TEMPLATE_OF_DATA_FRAMES= {tmp_path / name}/im_???.cbf" in done.stdout
    assert made[0] == made[1]
    assert len(made[0]) == 23


def test_the_folder_is_made(tmp_path: Path) -> None:
    master, frames, _ = older_set(tmp_path)
    export(master, tmp_path / "cbf" / "im_####.cbf")
    assert len(images(tmp_path / "cbf")) == len(frames)
    with pytest.raises(BnlError, match="no such folder"):
        export(master, tmp_path / "one" / "two" / "im_####.cbf")
    assert not (tmp_path / "one").exists()


def test_what_is_there_is_kept_or_made_again(tmp_path: Path) -> None:
    master, _, _ = older_set(tmp_path, n=23)
    template = tmp_path / "im_###.cbf"
    export(master, template)
    whole = images(tmp_path)
    with pytest.raises(BnlError, match=r"im_001\.cbf and 22 more: images of that name are there already"):
        export(master, template)
    (tmp_path / "im_012.cbf").unlink()
    damaged = tmp_path / "im_023.cbf"
    damaged.write_bytes(damaged.read_bytes()[:-4500])
    old = (tmp_path / "im_001.cbf").stat().st_mtime_ns
    summary = export(master, template, resume=True)
    assert summary.kept_images == 10
    assert images(tmp_path) == whole
    assert (tmp_path / "im_001.cbf").stat().st_mtime_ns == old


def test_of_a_block_that_cannot_be_written_no_image_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master, _, _ = older_set(tmp_path, n=23)
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if "im_015.cbf" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(BnlError, match=r"block 2: .*im_011\.cbf: can't be written: No space left"):
            export(master, tmp_path / "im_###.cbf")
    left = {path.name for path in tmp_path.glob("im_*")}
    # The third may have been whole already.
    assert left & {f"im_{n:03d}.cbf" for n in range(1, 21)} == {f"im_{n:03d}.cbf" for n in range(1, 11)}
    assert not [name for name in left if not name.endswith(".cbf")]
    assert export(master, tmp_path / "im_###.cbf", resume=True).kept_images >= 10


def test_images_of_another_set(tmp_path: Path) -> None:
    master, _, _ = older_set(tmp_path, n=12)
    template = tmp_path / "im_###.cbf"
    export(master, template)
    (tmp_path / "few").mkdir()
    few, _, _ = older_set(tmp_path / "few", n=3)
    with pytest.raises(BnlError, match="is no image of this export"):
        export(few, template, resume=True)
    export(few, template, force=True)
    assert list(images(tmp_path)) == ["im_001.cbf", "im_002.cbf", "im_003.cbf"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("name.cbf", "give a name with the number's place, as name_#####.cbf"),
        ("###.cbf", "give a name with the number's place"),
        ("im_###.img", "give a name with the number's place"),
        ("im_#.cbf", "12 images need more digits"),
        ###.cbf", "no such folder for the output"),
    ],
)
def test_wrong_templates(tmp_path: Path, template: str, message: str) -> None:
    master, _, _ = older_set(tmp_path, n=12)
    before = sorted(tmp_path.iterdir())
    done = bnl("export", master, "--cbf", template, cwd=tmp_path, ok=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_sets_that_no_cbf_holds(tmp_path: Path) -> None:
    master, _, _ = older_set(tmp_path)
    template = tmp_path / "im_###.cbf"
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "floats"), float=4)
    with pytest.raises(BnlError, match="pixels of type float32"):
        export(tmp_path / "floats_master.h5", template)
    pytest.importorskip("imagecodecs")
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "coded"), codec="htj2k", compression="htj2k", codec_level=2)
    with pytest.raises(BnlError, match="bnl-mpi expand makes a set that can be exported"):
        export(tmp_path / "coded_master.h5", template)
    with pytest.raises(BnlError, match="export has no shares"):
        export(master, template, parallel=2, thread=1)
    path = write_series(tmp_path, counts(2, SHAPE), stem="im_", first=1)[0]
    with pytest.raises(BnlError, match="is a file of the input"):
        export(path, tmp_path / "im_#####.cbf", force=True)
    assert len(images(tmp_path)) == 2
