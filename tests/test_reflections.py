"""Files of reflections: DIALS's tables against DIALS, XDS's origin against the same spots, formats told apart."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from dials_python import PYTHON
from small_sets import shared_data

from bnl_mpi.errors import InputError
from bnl_mpi.input.reflections.reading import read_reflections
from bnl_mpi.input.reflections.value import Reflections

Array = np.ndarray[Any, Any]
FOLDER = shared_data() / "reflections" if shared_data() else None  # type: ignore[operator]

real_files = pytest.mark.skipif(FOLDER is None or not FOLDER.is_dir(), reason="no shared/data/reflections")

TYPES = {"<f8": {1: "double", 3: "vec3<double>"}, "<i4": {1: "int", 3: "cctbx::miller::index<>", 6: "int6"}}


def write_refl(path: Path, columns: dict[str, Array], name: str = "dials::af::reflection_table") -> Path:
    """A reflection table as DIALS writes it."""
    n = len(next(iter(columns.values())))
    data = {}
    for key, values in columns.items():
        kind = "std::size_t" if values.dtype == np.uint64 else TYPES[values.dtype.str][values.size // n]
        data[key] = [kind, [n, np.ascontiguousarray(values).tobytes()]]
    path.write_bytes(msgpack.packb([name, 1, {"identifiers": {0: "x"}, "nrows": n, "data": data}]))
    return path


def made_columns(n: int = 40, seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(5, 90, (n, 3))
    low = np.floor(xyz) - 3
    box = np.stack([low, low + 7], 2).reshape(n, 6)
    box[:, 4:] = np.floor(xyz[:, 2:]) + [-1, 3]
    return {"xyzcal.px": xyz, "xyzobs.px.value": xyz + 0.5, "bbox": box.astype("<i4")}


def read(path: Path) -> Reflections:
    return read_reflections(str(path))[1]


@real_files
def test_xds_and_dials_mean_the_same_pixel() -> None:
    assert FOLDER is not None
    xds, table = read(FOLDER / "SPOT.XDS"), read(FOLDER / "indexed.refl")
    assert (len(xds), len(table)) == (742, 654)
    near = xds.first < 10
    distance = np.hypot(xds.x[near, None] - table.x, xds.y[near, None] - table.y)
    late = np.abs(xds.first[near, None] - table.first) > 3
    distance[late] = np.inf
    pairs = distance.argmin(axis=1)
    found = distance.min(axis=1) < 3
    assert found.sum() > 150
    for ours, theirs in ((xds.x, table.x), (xds.y, table.y)):
        assert abs(np.median(ours[near][found] - theirs[pairs[found]])) < 0.2
    assert abs(np.median(xds.first[near][found] - table.first[pairs[found]])) <= 1


@real_files
@pytest.mark.dials
@pytest.mark.skipif(PYTHON is None, reason="neither dials.python nor dxtbx.python is on PATH")
def test_a_table_reads_as_dials_reads_it() -> None:
    assert FOLDER is not None
    assert PYTHON is not None
    code = (
        "import sys, json\n"
        "from dials.array_family import flex\n"
        "t = flex.reflection_table.from_file(sys.argv[1])\n"
        "print(json.dumps([list(t[k]) for k in ('xyzcal.px', 'xyzobs.px.value', 'bbox')]))\n"
    )
    done = subprocess.run([PYTHON, "-c", code, str(FOLDER / "indexed.refl")], capture_output=True, check=True)
    predicted, observed, boxes = (np.array(column) for column in json.loads(done.stdout))
    wanted = np.where(np.any(predicted, axis=1, keepdims=True), predicted, observed)
    ours = read(FOLDER / "indexed.refl")
    # Ours are in order of indices.
    for values, column in ((ours.x, wanted[:, 0]), (ours.y, wanted[:, 1])):
        np.testing.assert_array_equal(np.sort(values), np.sort(column))
    rows = {tuple(xy): z for xy, z in zip(wanted[:, :2], boxes[:, 4:], strict=True)}
    for x, y, first, last in zip(ours.x, ours.y, ours.first, ours.last, strict=True):
        z0, z1 = rows[x, y]
        assert first <= z0
        assert last >= z1 - 1
    assert set(ours.radius) == {4.0}


def test_a_table_gives_predictions_frames_and_the_spots_size(tmp_path: Path) -> None:
    columns = made_columns()
    columns["xyzcal.px"][3] = 0
    found = read(write_refl(tmp_path / "strong.refl", columns))
    expected = columns["xyzcal.px"].copy()
    expected[3] = columns["xyzobs.px.value"][3]
    np.testing.assert_array_equal(np.stack([found.x, found.y], 1), expected[:, :2])
    frames = np.floor(columns["xyzcal.px"][:, 2])
    ordinary = np.arange(40) != 3
    np.testing.assert_array_equal(found.first[ordinary], frames[ordinary] - 1)
    np.testing.assert_array_equal(found.last[ordinary], frames[ordinary] + 2)
    assert set(found.radius) == {4.5}
    # Integration's boxes reach to twice the spot.
    columns["bbox"][:, [0, 2]] -= 4
    columns["bbox"][:, [1, 3]] += 4
    columns["background.mean"] = np.zeros(40)
    assert set(read(write_refl(tmp_path / "integrated.refl", columns)).radius) == {4.0}
    columns["bbox"][:, [1, 3]] += 5
    assert set(read(write_refl(tmp_path / "wide.refl", columns)).radius) == {5.0}


def test_only_observed_positions_do_and_no_box_is_said(tmp_path: Path) -> None:
    columns = {"xyzobs.px.value": made_columns()["xyzobs.px.value"]}
    found = read(write_refl(tmp_path / "a.refl", columns))
    assert not found.of_many_frames
    np.testing.assert_array_equal(found.first, found.last)


def test_panels_are_placed_by_the_experiments_beside(tmp_path: Path) -> None:
    columns = made_columns() | {"panel": (np.arange(40) % 2).astype(np.uint64)}
    path = write_refl(tmp_path / "a.refl", columns)
    with pytest.raises(InputError, match="2 panels"):
        read(path)
    panels = [{"raw_image_offset": [0, 0]}, {"raw_image_offset": [1040, 551]}]
    (tmp_path / "a.expt").write_text(json.dumps({"detector": [{"panels": panels}]}))
    found = read(path)
    np.testing.assert_allclose(found.x - columns["xyzcal.px"][:, 0], 1040 * (np.arange(40) % 2), atol=1e-9)
    np.testing.assert_allclose(found.y - columns["xyzcal.px"][:, 1], 551 * (np.arange(40) % 2), atol=1e-9)


def test_several_experiments_are_one_and_several_image_sets_an_error(tmp_path: Path) -> None:
    columns = made_columns() | {"id": (np.arange(40) % 3).astype("<i4"), "imageset_id": np.zeros(40, "<i4")}
    assert len(read(write_refl(tmp_path / "a.refl", columns))) == 40
    columns["imageset_id"] = (np.arange(40) // 20).astype("<i4")
    with pytest.raises(InputError, match=r"2 image sets \(0, 1\)"):
        read(write_refl(tmp_path / "b.refl", columns))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "can't be read"),
        (lambda raw: raw.replace(b"vec3<double>", b"vec3<xouble>"), "isn't understood"),
        (lambda raw: raw.replace(b"xyzcal.px", b"xyzcal.py").replace(b"xyzobs.px.v", b"xyzobs.py.v"), "neither"),
        (lambda raw: raw.replace(np.float64(7.25).tobytes(), np.float64(np.nan).tobytes()), "no position"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path: Path, spoil: Any, words: str) -> None:
    columns = made_columns()
    columns["xyzcal.px"][5, 0] = 7.25
    path = write_refl(tmp_path / "a.refl", columns)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=words) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


# ---- XDS ----

HEADER = """\
!OUTPUT_FILE=INTEGRATE.HKL     DATE= 3-Nov-2025
!Generated by INTEGRATE    (VERSION  Jan 19, 2025)
!PROFILE_FITTING= TRUE
!SPACE_GROUP_NUMBER=   96
!NX=  1030  NY=  1065    QX=  0.075000  QY=  0.075000
!STARTING_FRAME=      11
!STARTING_ANGLE=     0.000
!OSCILLATION_RANGE=  0.100000
!ROTATION_AXIS=  1.000000  0.000000  0.000000
!X-RAY_WAVELENGTH=  1.000000
!INCIDENT_BEAM_DIRECTION=  0.000000  0.000000  1.000000
!DIRECTION_OF_DETECTOR_X-AXIS=  1.00000  0.00000  0.00000
!DIRECTION_OF_DETECTOR_Y-AXIS=  0.00000  1.00000  0.00000
!ORGX=    515.00  ORGY=    532.00
!DETECTOR_DISTANCE=    75.000
!BEAM_DIVERGENCE_E.S.D.=     0.100
!REFLECTING_RANGE_E.S.D.=     0.080
!NUMBER_OF_ITEMS_IN_EACH_DATA_RECORD=21
!H,K,L,IOBS,SIGMA,XCAL,YCAL,ZCAL,RLP,PEAK,CORR,MAXC,
!             XOBS,YOBS,ZOBS,ALF0,BET0,ALF1,BET1,PSI,ISEG
!END_OF_HEADER
"""


def write_integrate(path: Path, xyz: Array, header: str = HEADER) -> Path:
    lines = [
        f" 1 {k} 3 1.2E+02 1.0E+01 {x:.1f} {y:.1f} {z:.1f} 0.9 100 50 20 0.0 0.0 0.0 0.0 0.0 0.0 0.0 0.0 1"
        for k, (x, y, z) in enumerate(xyz)
    ]
    path.write_text(header + "\n".join(lines) + "\n!END_OF_DATA\n")
    return path


def test_integrate_hkl_gives_positions_and_the_frames_of_its_reflecting_range(tmp_path: Path) -> None:
    # Above the beam a reflection passes straight; along the rotation axis it stays.
    xyz = np.array([[515, 900, 30.5], [515, 600, 30.5], [815, 832, 30.5], [900, 532, 30.5]])
    found = read(write_integrate(tmp_path / "a.HKL", xyz))
    np.testing.assert_allclose(found.x, xyz[:, 0] + 0.5)
    np.testing.assert_allclose(found.y, xyz[:, 1] + 0.5)
    # Three standard deviations of 0.08 degrees in frames of 0.1: 2.4 frames on both sides.
    assert (found.first[0], found.last[0]) == (28, 32)
    assert (found.first[1], found.last[1]) == (28, 32)
    # At 45 degrees 2.4 * sqrt(2).
    assert (found.first[2], found.last[2]) == (27, 33)
    assert found.last[3] - found.first[3] == 96
    # 3 * tan(0.1 degrees) * 75 mm / 0.075 mm = 5.2 pixels.
    assert set(found.radius) == {5.5}
    assert found.of_many_frames


def test_data_range_bounds_the_frames(tmp_path: Path) -> None:
    header = HEADER.replace("!STARTING_ANGLE", "!DATA_RANGE=  11  40\n!STARTING_ANGLE")
    found = read(write_integrate(tmp_path / "a.HKL", np.array([[515, 900, 11.5], [515, 900, 39.5]]), header))
    assert found.first.tolist() == [10, 37]
    assert found.last.tolist() == [13, 39]
    assert found.scan == (10, 39)


def test_xds_ascii_is_read_by_its_items(tmp_path: Path) -> None:
    items = ["H", "K", "L", "IOBS", "SIGMA(IOBS)", "XD", "YD", "ZD", "RLP", "PEAK", "CORR", "PSI"]
    header = "!FORMAT=XDS_ASCII    MERGE=FALSE    FRIEDEL'S_LAW=TRUE\n!DATA_RANGE=       1     900\n"
    header += f"!OSCILLATION_RANGE=  0.100\n!NUMBER_OF_ITEMS_IN_EACH_DATA_RECORD={len(items)}\n"
    header += "".join(f"!ITEM_{name}={k}\n" for k, name in enumerate(items, 1)) + "!END_OF_HEADER\n"
    path = tmp_path / "XDS_ASCII.HKL"
    path.write_text(header + "  1 2 3 1.0E+02 -1.0E+01 412.5 613.0 77.3 0.9 100 34 20.1\n!END_OF_DATA\n")
    found = read(path)
    assert (found.x.tolist(), found.y.tolist(), found.first.tolist()) == ([413.0], [613.5], [77])
    assert not found.of_many_frames
    assert found.scan == (0, 899)
    path.write_text(path.read_text().replace("ITEM_XD=6", "ITEM_XX=6"))
    with pytest.raises(InputError, match="no positions"):
        read(path)


def test_spot_xds_is_told_from_a_table_by_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_text("   1313.97   1301.07    227.44     1545.\n   1231.82   1232.90    227.04     1112.\n")
    found = read(path)
    assert found.x.tolist() == [1314.47, 1232.32]
    assert found.first.tolist() == [227, 227]
    path.write_text("1313.97 1301.07 227.44 1545. 3 1 0\n")
    assert read(path).x.tolist() == [1314.47]


# ---- tables, and what is none ----


def test_a_text_table_has_pixels_frames_radii(tmp_path: Path) -> None:
    path = tmp_path / "spots.txt"
    path.write_text("# x y frame\n10.5 20.25 7\n3 4 1\n")
    found = read(path)
    assert (found.x.tolist(), found.y.tolist()) == ([10.5, 3.0], [20.25, 4.0])
    assert found.first.tolist() == found.last.tolist() == [6, 0]
    assert set(found.radius) == {4.0}
    path.write_text("10.5 20.25 7 5.5 2\n3 4 1 3 0\n")
    found = read(path)
    assert found.radius.tolist() == [5.5, 3.0]
    assert (found.first.tolist(), found.last.tolist()) == ([4, 0], [8, 0])
    record, _ = read_reflections(str(path))
    assert (record.name, record.n_reflections, len(record.sha256)) == ("spots.txt", 2, 64)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no reflections"),
        (b"# nothing\n", "no reflections"),
        (b"1 2\n", "2 numbers"),
        (b"1 2 3 4 5 6\n", "6 numbers"),
        (b"1 2 3\n1 2\n", "known"),
        (b"x y z\n", "known"),
        (b"1 2 3.5\n", "3.5 is no frame's number"),
        (b"1 2 1e300\n", r"1e\+300 is no frame's number"),
        (b"1 2 3 4 2.5\n", "2.5 frames on both sides"),
        (b"1 2 3 4 1e300\n", r"1e\+300 frames on both sides"),
        (b"1 2 3 inf\n", "a radius of inf pixels"),
        (b"1 2 3 nan\n", "a radius of nan pixels"),
        (b"1 2 3 1e9\n", r"a radius of 1e\+09 pixels"),
        (b"1 2 3 0\n", "a radius of 0"),
        (b"1 2 3 4 -1\n", "-1 frames"),
        (b"1 nan 3\n", "reflection 1 has no position"),
        (b"1 2 nan\n", "no position"),
        (b"\x89HDF\r\n\x1a\n\0\0", "known"),
    ],
)
def test_what_is_no_file_of_reflections_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "gone.refl")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: is no file; give a \.refl"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content", [b"1 2\n", b"1 nan 3\n", b"", b"\x87\xa3refl", b"!FORMAT=XDS_ASCII\n!END_OF_HEADER\n"]
)
def test_the_line_begins_with_the_option_that_named_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "about --keep.txt"
    path.write_bytes(content)
    for option, found in (("--spots", ["--spots"]), ("--keep", [])):
        with pytest.raises(InputError) as raised:
            read_reflections(str(path), *found)
        assert str(raised.value).startswith(f"{option} {path}: ")
