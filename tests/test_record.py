"""The record: names in files are written and read in one place, older formats are read, later ones refused."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnl_mpi.options import Options
from bnl_mpi.output import record
from bnl_mpi.output.record import GROUP, BlockRecord
from bnl_mpi.plan import Plan

FORMAT_1 = {
    "binning": 2, "block_size": 100, "dtype_in": "uint16", "dtype_out": "uint16", "first_frame": 4, "limit": 32765,
    "n_frames": 40, "n_frames_in": 60, "satval": 32765, "saturation": "clip", "scale": 1.0, "shape_in": [514, 1030],
    "sum": 2,
}  # fmt: skip
"""A plan as 0.1.0 wrote it."""


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = st.integers(1, 10**6)
    real = st.one_of(st.integers(0, 2**40), st.floats(0, 1e30))
    kinds = st.sampled_from(["uint8", "uint16", "uint32", "int16", "int32", "float16", "float32"])
    return Plan(
        draw(count), draw(st.integers(0, 1000)), draw(count), draw(count), draw(count), draw(st.floats(0, 1e6)),
        (draw(count), draw(count)), draw(kinds), draw(kinds), draw(count), draw(real), draw(real),
        draw(st.sampled_from(["clip", "scaled"])),
    )  # fmt: skip


@given(plans())
def test_a_plan_survives_the_record(plan: Plan) -> None:
    text = json.dumps(record.plan_items(plan))
    back = record.plan_from(json.loads(text))
    assert back == plan
    assert [type(getattr(back, f.name)) for f in fields(Plan)] == [type(getattr(plan, f.name)) for f in fields(Plan)]
    assert json.dumps(record.plan_items(back)) == text


def test_every_item_of_a_plan_is_in_the_record() -> None:
    """A field that is added must be written and read too."""
    items = record.plan_items(record.plan_from(FORMAT_1))
    assert items == FORMAT_1
    assert len(items) == len(fields(Plan))


def test_unknown_items_are_left_alone() -> None:
    assert record.plan_from({**FORMAT_1, "from_a_later_version": [1, 2]}) == record.plan_from(FORMAT_1)


@pytest.mark.parametrize("name", [name for name in FORMAT_1 if name != "saturation"])
@pytest.mark.parametrize("value", [None, -1, "many", [3], {}])
def test_nonsense_is_refused(name: str, value: Any) -> None:
    if value == -1 and name in ("scale", "satval", "limit"):
        return
    with pytest.raises((KeyError, TypeError, ValueError)):
        record.plan_from({**FORMAT_1, name: value})
    with pytest.raises((KeyError, TypeError, ValueError)):
        record.plan_from({k: v for k, v in FORMAT_1.items() if k != name})


def test_the_identity_tells_its_format() -> None:
    plan = record.plan_from(FORMAT_1)
    told = json.loads(record.identity(Options("x").identity(), plan, {"master": "x"}, "9.9"))
    assert (told["format"], told["version"], told["plan"]) == (record.FORMAT, "9.9", FORMAT_1)


def written(path: Path, **extra: Any) -> Path:
    block = BlockRecord("ab" * 32, "{}", 3, [1, 2], [3, 4], [(1, 2), (3, 4)], counts={"n_invalid": 7}, stem="set")
    block.invalid, block.blank = [np.array([5], "u4"), np.array([], "u4")], np.eye(4, dtype=np.uint8)
    block.extra = extra
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = np.zeros((2, 4, 4), "u2")
        block.begin(file)
        block.finish(file)
        record.seal(file)
    return path


def test_a_block_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", frames_crc32=np.array([8, 9], "<u4"))
    with h5py.File(path) as file:
        head = record.read_head(file)
        assert head == record.Head(record.FORMAT, "ab" * 32, 3, 2, "set", record.digest(file))
        invalid = record.read_invalid(file, (4, 4))
        assert invalid is not None
        np.testing.assert_array_equal(np.flatnonzero(invalid.of(0)), [0, 5, 10, 15])
        np.testing.assert_array_equal(np.flatnonzero(invalid.of(1)), [0, 5, 10, 15])
        assert file[GROUP]["frames_crc32"][()].tolist() == [8, 9]
    assert record.read_counts(str(path)) == {"n_invalid": 7}


def test_a_later_format_is_refused_by_its_number(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path / "a.h5"), "r+") as file:
        file[GROUP].attrs["format"] = np.uint32(record.FORMAT + 1)
        with pytest.raises(ValueError, match=f"format {record.FORMAT + 1}.*later bnl-mpi"):
            record.read_head(file)


@pytest.mark.parametrize(
    "name", ["blank", "invalid_pixels", "invalid_ends", "frames", "chunk_crc32", "image_crc32", "frames_crc32"]
)
def test_the_digest_covers_every_item(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.h5", frames_crc32=np.array([8, 9], "<u4"))
    with h5py.File(path, "r+") as file:
        before = record.digest(file)
        values = file[GROUP][name][()]
        values.reshape(-1)[-1] ^= 1
        file[GROUP][name][...] = values
        assert record.digest(file) != before


@pytest.mark.parametrize("name", ["block", "plan_sha256", "format", "n_invalid", "stem"])
def test_the_digest_covers_every_attribute(tmp_path: Path, name: str) -> None:
    with h5py.File(written(tmp_path / "a.h5"), "r+") as file:
        before = record.digest(file)
        old = file[GROUP].attrs[name]
        file[GROUP].attrs.modify(name, np.bytes_(b"c" * 64) if isinstance(old, bytes) else type(old)(old + 1))
        assert record.digest(file) != before
