"""CBF series as input: their pixels, headers, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import oracle
import pytest
from fabio.ext import byte_offset
from hypothesis import given, settings
from hypothesis import strategies as st
from make_cbf import Made, cbf_bytes, counts, kappa_tables, mask_of, write_series
from running import bnl, needs_mpi, outputs
from small_sets import read_images

import bnl_mpi
from bnl_mpi.errors import BnlError, InputError
from bnl_mpi.input.cbf import cif, geometry, minicbf
from bnl_mpi.input.cbf.header import read_header
from bnl_mpi.input.cbf.series import find_series
from bnl_mpi.input.opening import open_master
from bnl_mpi.pixels import kernels, kernels_numpy

every_implementation = pytest.mark.parametrize("impl", [kernels_numpy, *([kernels] if kernels.COMPILED else [])])

SHAPE = (47, 61)
SATVAL = 9000

pixel_values = st.one_of(
    st.integers(-130, 130),
    st.integers(-(1 << 15) - 3, (1 << 15) + 3),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.sampled_from([-(1 << 31), (1 << 31) - 1, 0]),
)


def byte_offset_by_pixel(values: list[int]) -> bytes:
    """The stream that CBFlib's manual describes, pixel by pixel."""
    stream, before = b"", 0
    for value in values:
        step, before = value - before, value
        if -128 < step < 128:
            stream += step.to_bytes(1, "little", signed=True)
        elif -(1 << 15) < step < 1 << 15:
            stream += b"\x80" + step.to_bytes(2, "little", signed=True)
        elif -(1 << 31) < step < 1 << 31:
            stream += b"\x80\x00\x80" + step.to_bytes(4, "little", signed=True)
        else:
            stream += b"\x80\x00\x80\x00\x00\x00\x80" + step.to_bytes(8, "little", signed=True)
    return stream


# Pixels


@every_implementation
@settings(max_examples=200, deadline=None)
@given(values=st.lists(pixel_values, min_size=1, max_size=70))
def test_byte_offset_streams(impl: Any, values: list[int]) -> None:
    pixels, stream = np.array(values, np.int32), byte_offset_by_pixel(values)
    assert impl.byte_offset_encode(pixels) == stream
    out = np.empty(len(values), np.int32)
    impl.byte_offset_decode(stream, out)
    np.testing.assert_array_equal(out, pixels)
    unsigned = np.empty(len(values), np.uint32)
    impl.byte_offset_decode(stream + b"\x01\x80", unsigned)
    np.testing.assert_array_equal(unsigned.view(np.int32), pixels)


@every_implementation
def test_byte_offset_as_fabio_has_it(impl: Any) -> None:
    pixels = counts(1, (211, 307))[0]
    stream = bytes(byte_offset.comp_cbf32(pixels.ravel()))
    assert impl.byte_offset_encode(pixels) == stream
    out = np.empty_like(pixels)
    impl.byte_offset_decode(stream, out)
    np.testing.assert_array_equal(out, pixels)


@pytest.mark.parametrize("numpy", [False, True])
def test_a_stream_that_ends_early(numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if numpy:
        monkeypatch.setattr(kernels, "_kernels", None)
    stream = byte_offset_by_pixel([1, 2, 300, 70000, -(1 << 31), (1 << 31) - 1])
    out = np.empty(6, np.int32)
    assert kernels.byte_offset_decode(stream + b"\x00\x00", out) == len(stream)
    for n in range(len(stream)):
        with pytest.raises(ValueError, match=r"end after \d of 6 pixels"):
            kernels.byte_offset_decode(stream[:n], out)


@pytest.mark.parametrize("suffix", [".cbf", ".cbf.gz", ".cbf.bz2"])
@pytest.mark.parametrize(("binning", "total"), [(1, 1), (2, 2), (3, 4)])
def test_a_series_is_reduced_as_a_master_is(tmp_path: Path, suffix: str, binning: int, total: int) -> None:
    frames = counts(7, SHAPE)
    paths = write_series(tmp_path, frames, suffix=suffix)
    out = tmp_path / "out"
    bnl_mpi.reduce(str(paths[3]), out_file=str(out), sum=total, bin=binning, compression="none")
    expected = oracle.reduce_set(frames, mask_of(frames), sum=total, binning=binning, satval=SATVAL)
    np.testing.assert_array_equal(read_images(f"{out}_master.h5"), expected)


def test_ways_to_name_a_series(tmp_path: Path) -> None:
    paths = [str(p) for p in write_series(tmp_path, counts(4, SHAPE), first=9998)]
    for name in (paths[0], paths[2], tmp_path, tmp_path / "lyso_1_#####.cbf", tmp_path / "lyso_1_?????.cbf"):
        found = find_series(str(name))
        assert list(found.paths) == paths
        assert found.template == str(tmp_path / "lyso_1_#####.cbf")


def test_numbers_without_leading_zeros(tmp_path: Path) -> None:
    for k in (8, 9, 10, 11):
        (tmp_path / f"x{k}.cbf").write_bytes(cbf_bytes(counts(1, SHAPE)[0], Made()))
    assert [Path(p).name for p in find_series(str(tmp_path)).paths] == ["x8.cbf", "x9.cbf", "x10.cbf", "x11.cbf"]


def test_one_image_is_a_series(tmp_path: Path) -> None:
    path = tmp_path / "alone.cbf"
    path.write_bytes(cbf_bytes(counts(1, SHAPE)[0], Made()))
    assert bnl_mpi.reduce(str(path), out_file=str(tmp_path / "out")) is not None
    assert read_images(tmp_path / "out_master.h5").shape == (1, *SHAPE)


@needs_mpi
def test_ranks_and_shares_make_no_difference(tmp_path: Path) -> None:
    path = write_series(tmp_path, counts(12, SHAPE))[0]
    words = ["-i", path, "-b", 2, "-s", 2, "-d", 2, "-c", "bslz4"]
    for name, more in (("serial", []), ("ranks", ["-p", 2])):
        (tmp_path / name).mkdir()
        bnl(*words, *more, "-o", "out", cwd=tmp_path / name)
    (tmp_path / "shares").mkdir()
    for share in (1, 2, 0):
        bnl(*words, "-p", 2, "-t", share, "-o", "out", cwd=tmp_path / "shares")
    serial = outputs(tmp_path / "serial", "out")
    assert len(serial) == 5
    assert outputs(tmp_path / "ranks", "out") == serial
    assert outputs(tmp_path / "shares", "out") == serial


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = write_series(tmp_path, counts(6, SHAPE))[0]
    bnl("-i", path, "-d", 2, "-o", "out", cwd=tmp_path)
    whole = outputs(tmp_path, "out")
    for name in ("out_master.h5", "out.nxs", "out_000002.h5"):
        (tmp_path / name).unlink()
    done = bnl("-i", tmp_path / "lyso_1_#####.cbf", "-d", 2, "-o", "out", "--resume", cwd=tmp_path)
    assert "2 of 3 blocks" in done.stdout + done.stderr
    resumed = outputs(tmp_path, "out")
    for name in ("out_000001.h5", "out_000002.h5", "out_000003.h5"):
        assert resumed[name] == whole[name]


def test_readers_of_masters_read_the_new_set(tmp_path: Path) -> None:
    """Through the demands that `check` holds a set against; fabio counts the images of any NXmx master twice."""
    path = write_series(tmp_path, counts(6, SHAPE))[0]
    bnl_mpi.reduce(str(path), out_file=str(tmp_path / "out"), sum=2, bin=2, compression="bslz4")
    told = bnl("check", tmp_path / "out_master.h5", "--data", ok=False).stdout
    for reader in ("XDS", "DIALS", "bnl_mpi", "eiger2cbf", "nxmx"):
        assert f"{reader}: all" in told, told


def test_estimate_takes_a_series(tmp_path: Path) -> None:
    path = write_series(tmp_path, counts(8, (195, 487)))[0]
    told = bnl("estimate", path, cwd=tmp_path).stdout
    assert "8 frames of 487 x 195" in told
    assert "b2s2" in told


# Headers


def test_cif_syntax() -> None:
    text = """data_x
_one.a 'it's a word' # not this
_one.b
;
# two
 lines
;
loop_
_two.id _two.vector[1]
x 1 "y z" 'b'
# between
'#w' _notaname
_three.c .
"""
    found = cif.tables(text)
    assert found["one"] == [{"a": "it's a word", "b": "\n# two\n lines\n"}]
    assert found["two"] == [{"id": "x", "vector[1]": "1"}, {"id": "y z", "vector[1]": "b"}, {"id": "#w"}]
    assert found["three"] == [{"c": "."}]


def test_fields_of_a_header(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, counts(1, SHAPE))
    header = read_header(str(path))
    assert header.binary.shape == SHAPE
    assert header.fields["timestamp"] == "2019-07-14T10:20:00.125"
    assert header.numbers("Beam_xy") == [240.5, 310.25]
    assert header.numbers("Pixel_size") == [172e-6, 172e-6]
    assert header.number("Silicon") == 0.001
    assert header.number("Tau") == 0
    assert header.number("Flux") is None


def test_what_the_master_in_memory_tells(tmp_path: Path) -> None:
    frames = counts(5, SHAPE)
    path = write_series(tmp_path, frames)[0]
    with open_master(path) as h5:
        detector = h5["entry/instrument/detector"]
        values = {name: detector[name][()] for name in detector if isinstance(detector[name], h5py.Dataset)}
        assert values["description"] == b"PILATUS 300K"
        assert values["detector_number"] == b"3-0101"
        assert values["saturation_value"] == SATVAL
        assert values["count_time"] == 0.0977
        assert values["frame_time"] == 0.1
        assert values["sensor_thickness"] == 0.001
        assert values["beam_center_x"] == 240.5
        assert values["threshold_energy"] == 6330
        np.testing.assert_array_equal(values["pixel_mask"], mask_of(frames))
        assert h5["entry/instrument/beam/incident_wavelength"][()] == 0.9795
        assert detector["detectorSpecific/nimages"][()] == 5
        omega = h5["entry/sample/goniometer/omega"][()]
        np.testing.assert_allclose(omega, 30 + 0.1 * np.arange(5))
        assert b"Count_cutoff 9000" in detector["detectorSpecific/cbf_header"][()]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"lyso_1_{k:05d}.cbf" for k in range(1, 6)]


def test_two_theta_without_a_direction_is_told(tmp_path: Path) -> None:
    made = Made(more={"Detector_2theta": "20.0000 deg.", "Kappa": "35.0 deg."})
    path = write_series(tmp_path, counts(2, SHAPE), made)[0]
    done = bnl("-i", path, "-o", "out", cwd=tmp_path)
    assert "two theta of 20 degrees is taken as a turn about the spindle" in done.stderr
    assert "kappa is at 35 degrees" in done.stderr
    header = read_header(str(path))
    place = minicbf.geometry([header])
    origin = geometry.laboratory(place.detector, place.module_offset)
    angle = np.deg2rad(20)
    across, up, along = -(240.5 - 0) * 0.172, 310.25 * 0.172, 200.0
    expected = [-across, up * np.cos(angle) + along * np.sin(angle), along * np.cos(angle) - up * np.sin(angle)]
    np.testing.assert_allclose(origin, expected, atol=1e-9)


# What is wrong


def refused(folder: Path, name: object, message: str, **options: Any) -> str:
    """The run fails with one line that holds `message`, and leaves no output."""
    with pytest.raises(BnlError) as raised:
        bnl_mpi.reduce(str(name), out_file=str(folder / "out"), **options)
    line = str(raised.value)
    assert raised.value.exit_status == 1
    assert "\n" not in line
    assert message in line
    assert not list(folder.glob("out*"))
    return line


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, counts(2, SHAPE))
    write_series(tmp_path, counts(3, SHAPE), stem="lyso_2_")
    done = bnl("-i", ".", "-o", "out", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "bnl-mpi: .: 2 series in this folder: lyso_1_#.cbf (2), lyso_2_#.cbf (3); give -i an image of the one you want"
    ]


def test_a_gap(tmp_path: Path) -> None:
    paths = write_series(tmp_path, counts(9, SHAPE))
    paths[3].unlink()
    paths[6].unlink()
    refused(tmp_path, paths[0], "2 of the images 1 to 9 are missing: 4, 7")
    # A date in another's name.
    paths[8].rename(paths[8].with_name(f"{paths[8].name.rpartition('_')[0]}_20190312142233.cbf"))
    refused(tmp_path, paths[0], "20190312142226 of the images 1 to 20190312142233 are missing: 4, 7, 9, 10, 11, ...")


def test_two_series_in_a_folder(tmp_path: Path) -> None:
    write_series(tmp_path, counts(2, SHAPE))
    write_series(tmp_path, counts(3, SHAPE), stem="lyso_2_")
    line = refused(tmp_path, tmp_path, "2 series in this folder")
    assert "lyso_1_#.cbf (2), lyso_2_#.cbf (3)" in line


def test_no_such_file_names_what_is_there(tmp_path: Path) -> None:
    write_series(tmp_path, counts(2, SHAPE))
    refused(tmp_path, tmp_path / "lyso_00001.cbf", "no such file; there are lyso_1_#.cbf")
    refused(tmp_path, tmp_path / "lyso_3_#####.cbf", "no file fits this template; there are lyso_1_#.cbf")


def test_two_files_of_one_number(tmp_path: Path) -> None:
    paths = write_series(tmp_path, counts(2, SHAPE))
    (tmp_path / "lyso_1_2.cbf").write_bytes(paths[1].read_bytes())
    refused(tmp_path, paths[0], "lyso_1_00002.cbf and lyso_1_2.cbf have one number")


@pytest.mark.parametrize(
    ("made", "shape", "message"),
    [
        (Made(), (46, 61), "frames are 61 x 46 pixels of type int32, but 61 x 47 pixels"),
        (Made(exposure=0.2), SHAPE, "the exposure time is 0.2, but 0.0977"),
        (Made(cutoff=8000), SHAPE, "the saturation value is 8000, but 9000"),
        (Made(wavelength=1.2), SHAPE, "the wavelength is 1.2, but 0.9795"),
        (Made(distance=0.3), SHAPE, "the detector distance is 0.3, but 0.2"),
    ],
)
def test_a_mixed_series(tmp_path: Path, made: Made, shape: tuple[int, int], message: str) -> None:
    paths = write_series(tmp_path, counts(5, SHAPE))
    paths[3].write_bytes(cbf_bytes(counts(1, shape)[0], made, 3))
    line = refused(tmp_path, paths[0], message)
    assert "lyso_1_00004.cbf" in line


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Made(wavelength=None), "tells of no wavelength"),
        (Made(distance=None), "lacks Detector_distance"),
    ],
)
def test_a_poor_header(tmp_path: Path, made: Made, message: str) -> None:
    refused(tmp_path, write_series(tmp_path, counts(2, SHAPE), made)[0], message)


@pytest.mark.parametrize("suffix", [".cbf", ".cbf.gz", ".cbf.bz2"])
@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_truncated_file(tmp_path: Path, suffix: str, part: float) -> None:
    paths = write_series(
        tmp_path, np.random.default_rng(1).integers(0, 30000, (5, 147, 161)).astype(np.int32), suffix=suffix
    )
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: int(part * len(data))])
    line = refused(tmp_path, paths[0], "lyso_1_00002.cbf")
    assert "truncated" in line or "can't be read" in line


@pytest.mark.parametrize("suffix", [".cbf", ".cbf.gz"])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_truncated_frame_can_be_skipped(tmp_path: Path, suffix: str, at: int) -> None:
    """Also one of the three of which the mask is made."""
    frames = np.random.default_rng(1).integers(0, 9000, (5, 147, 161)).astype(np.int32)
    paths = write_series(tmp_path, frames, suffix=suffix)
    data = paths[at].read_bytes()
    paths[at].write_bytes(data[: int(0.9 * len(data))])
    bnl_mpi.reduce(paths[0], out_file=tmp_path / "out", skip_bad_frames=True)
    images = read_images(tmp_path / "out_master.h5")
    assert (images[at] == 65535).all()
    np.testing.assert_array_equal(np.delete(images, at, 0), np.delete(frames, at, 0))


def packed_at_40(data: bytes) -> bytes:
    return data[:12] + bytes(b ^ 0x5A for b in data[12:40]) + data[40:]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "empty": (".cbf", lambda data: b""),
    "zeros": (".cbf", lambda data: bytes(len(data))),
    "cut": (".cbf", lambda data: data[:300]),
    "no angle": (".cbf", lambda data: data.replace(b"# Start_angle", bytes(13))),
    "no exposure": (".cbf", lambda data: data.replace(b"# Exposure_time", bytes(15))),
    "no size": (".cbf", lambda data: data.replace(b"X-Binary-Size:", bytes(14))),
    "no compression": (".cbf", lambda data: data.replace(b"conversions", bytes(11))),
    "gz cut": (".cbf.gz", lambda data: data[:30]),
    "gz damaged": (".cbf.gz", packed_at_40),
    "bz2 cut": (".cbf.bz2", lambda data: data[: len(data) // 2]),
    "bz2 damaged": (".cbf.bz2", packed_at_40),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("at", [2, 4])
def test_a_frame_of_a_damaged_header_can_be_skipped(tmp_path: Path, damage: str, at: int) -> None:
    """Its angle is what the frame before leads to."""
    suffix, harm = DAMAGES[damage]
    frames = np.random.default_rng(1).integers(0, 9000, (5, 47, 61)).astype(np.int32)
    frames[:, 5, 7] = -1
    (tmp_path / "sound").mkdir()
    whole = bnl_mpi.reduce(write_series(tmp_path / "sound", frames, suffix=suffix)[0], out_file=tmp_path / "whole")
    with h5py.File(tmp_path / "whole_master.h5") as file:
        angles = file["/entry/sample/goniometer/omega"][()]
        mask = file["/entry/instrument/detector/pixel_mask"][()]
    for one in tmp_path.glob("whole*"):
        one.unlink()
    paths = write_series(tmp_path, frames, suffix=suffix)
    harmed = harm(paths[at].read_bytes())
    assert harmed != paths[at].read_bytes()
    paths[at].write_bytes(harmed)
    line = refused(tmp_path, paths[0], "restore the file, or go on with --skip_bad_frames")
    assert line.startswith(f"{paths[at]}: ")
    assert line.count("restore") == 1
    summary = bnl_mpi.reduce(paths[0], out_file=tmp_path / "out", skip_bad_frames=True)
    assert whole is not None
    assert summary is not None
    assert (summary.images, summary.bad_frames) == (whole.images, [at + 1])
    images = read_images(tmp_path / "out_master.h5")
    assert (images[at] == 65535).all()
    wanted = np.where(frames < 0, 65535, frames)
    np.testing.assert_array_equal(np.delete(images, at, 0), np.delete(wanted, at, 0))
    with h5py.File(tmp_path / "out_master.h5") as file:
        np.testing.assert_allclose(file["/entry/sample/goniometer/omega"][()], angles, atol=1e-9)
        np.testing.assert_array_equal(file["/entry/instrument/detector/pixel_mask"][()], mask)


def test_a_frame_that_was_restored_is_read_anew(tmp_path: Path) -> None:
    """In the same process, to which the first and the last frame and the folder look as before."""
    (tmp_path / "raw").mkdir()
    paths = write_series(tmp_path / "raw", counts(5, SHAPE))
    whole = paths[2].read_bytes()
    paths[2].write_bytes(b"")
    refused(tmp_path, paths[0], "restore the file")
    paths[2].write_bytes(whole)
    bnl_mpi.reduce(paths[0], out_file=tmp_path / "out")
    assert len(read_images(tmp_path / "out_master.h5")) == 5


@pytest.mark.parametrize("damage", ["empty", "cut", "no size", "no compression", "gz cut", "gz damaged", "bz2 cut"])
def test_a_first_frame_of_a_damaged_header_cannot(tmp_path: Path, damage: str) -> None:
    suffix, harm = DAMAGES[damage]
    paths = write_series(tmp_path, counts(3, SHAPE), suffix=suffix)
    paths[0].write_bytes(harm(paths[0].read_bytes()))
    line = refused(tmp_path, paths[1], "restore the file, or move it away", skip_bad_frames=True)
    assert line.startswith(f"{paths[0]}: ")


def test_axes_of_tables_go_on_where_a_header_is_damaged(tmp_path: Path) -> None:
    paths = write_series(tmp_path, counts(4, SHAPE), Made(tables=kappa_tables()))
    paths[2].write_bytes(b"")
    bnl_mpi.reduce(paths[0], out_file=tmp_path / "out", sum=2, skip_bad_frames=True)
    with h5py.File(tmp_path / "out_master.h5") as file:
        np.testing.assert_allclose(file["/entry/sample/transformations/phi"][()], [30.0, 30.2], atol=1e-9)
        np.testing.assert_allclose(file["/entry/sample/transformations/kappa"][()], 33.0)


def test_frames_of_damaged_headers_are_summed_and_verified(tmp_path: Path) -> None:
    """On ranks, with a run that goes on, and against the raw frames."""
    paths = write_series(tmp_path, np.random.default_rng(1).integers(0, 90, (7, 47, 61)).astype(np.int32))
    for at in (2, 3, 6):
        paths[at].write_bytes(paths[at].read_bytes()[:200])
    words = ["-i", paths[0], "-s", "2", "-d", "1", "--skip_bad_frames", "-o", "out"]
    bnl(*words, cwd=tmp_path)
    images = read_images(tmp_path / "out_master.h5")
    assert [bool((image == 65535).all()) for image in images] == [False, True, False, True]
    (tmp_path / "out_000002.h5").unlink()
    bnl(*words, "--resume", cwd=tmp_path)
    np.testing.assert_array_equal(read_images(tmp_path / "out_master.h5"), images)
    bnl("verify", "out_master.h5", "--against", paths[0], cwd=tmp_path)
    paths[6].write_bytes(paths[6].read_bytes()[:100])
    assert bnl("verify", "out_master.h5", "--against", paths[0], cwd=tmp_path, ok=False).returncode == 1


def test_corrupt_pixels(tmp_path: Path) -> None:
    paths = write_series(tmp_path, counts(5, SHAPE))
    data = bytearray(paths[1].read_bytes())
    at = data.index(b"\x0c\x1a\x04\xd5") + 4
    data[at + 10 : at + 14] = b"\x80\x80\x80\x80"
    paths[1].write_bytes(data)
    line = refused(tmp_path, paths[0], "frame 2")
    assert "lyso_1_00002.cbf" in line


def test_not_a_cbf_file(tmp_path: Path) -> None:
    (tmp_path / "x_00001.cbf").write_bytes(b"II*\0 this is a TIFF")
    refused(tmp_path, tmp_path / "x_00001.cbf", "not a CBF file")


def test_another_compression(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, counts(1, SHAPE))
    path.write_bytes(path.read_bytes().replace(b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED_V2"))
    refused(tmp_path, path, "x-CBF_PACKED_V2 compression; x-CBF_BYTE_OFFSET is the one that is read")


def test_no_channels(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path, counts(1, SHAPE))
    refused(tmp_path, path, "--channel 2, but a CBF image has one channel", channel=2)


def test_a_sum_across_a_jump_of_the_angle(tmp_path: Path) -> None:
    paths = write_series(tmp_path, counts(8, SHAPE))
    for k in range(5, 8):
        paths[k].write_bytes(cbf_bytes(counts(1, SHAPE)[0], Made(start=90.0), k))
    refused(tmp_path, paths[0], "between frames 5 and 6", sum=2)


def test_replay_names_the_series(tmp_path: Path) -> None:
    write_series(tmp_path, counts(4, SHAPE))
    for name, told in (("lyso_1_#####.cbf", "'lyso_1_#####.cbf'"), (".", tmp_path.name)):
        bnl_mpi.reduce(str(tmp_path / name), out_file=str(tmp_path / "out"), sum=2, force=True)
        command = bnl("replay", tmp_path / "out_master.h5").stdout
        assert command.startswith(f"bnl-mpi --infile {told} ")


def test_a_folder_without_a_series(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CBF series in this folder"):
        find_series(str(tmp_path))
