"""The inner loops against loops over single pixels, HDF5's own filters, and each other."""

from __future__ import annotations

import contextlib
import io
import math
import os
import platform
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any

import fuzz
import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnl_mpi.pixels import fused, kernels, kernels_numpy

IMPLEMENTATIONS = [kernels_numpy, *([kernels] if kernels.COMPILED else [])]
INTEGERS = ["u1", "u2", "u4", "i1", "i2", "i4"]

every_implementation = pytest.mark.parametrize(
    "impl", IMPLEMENTATIONS, ids=["numpy", "compiled"][: len(IMPLEMENTATIONS)]
)
compiled_only = pytest.mark.skipif(not kernels.COMPILED, reason="the compiled kernels weren't built")
sampled = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def top_of(dtype: str) -> int:
    return {"u1": 254, "u2": 65530, "u4": 4294967290, "i1": 122, "i2": 32762, "i4": 2147483642}[dtype]


def make_frame(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Counts with all that is special: zeros, values about the top, the type's extremes, negative ones."""
    info = np.iinfo(dtype)
    special = [0, 1, top_of(dtype) - 1, top_of(dtype), top_of(dtype) + 1, info.max - 1, info.max, info.min]
    # Where there is nothing special about a stretch, compiled code goes another way.
    greatest, rare = int(rng.choice([3, 50, 200, 40_000])), float(rng.choice([0.0, 0.001, 0.15]))
    small = rng.integers(0, min(greatest, info.max // 2), shape)
    frame = np.where(rng.random(shape) < rare, rng.choice(special, shape), small)
    return frame.astype(dtype)


def sum_by_pixel(
    frame: np.ndarray, mask: np.ndarray | None, b: int, satval: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """What accumulate adds, as Python integers, and the flags that it sets."""
    ny, nx = frame.shape
    total = np.zeros((-(-ny // b), -(-nx // b)), object)
    flags = np.zeros(total.shape, np.uint8)
    top = top_of(frame.dtype.str[1:])
    for y in range(ny):
        for x in range(nx):
            value = int(frame[y, x])
            if mask is not None and mask[y, x]:
                continue
            if not 0 <= value <= top:
                flags[y // b, x // b] |= 1
                continue
            total[y // b, x // b] += value
            if satval is not None and value >= satval:
                flags[y // b, x // b] |= 2
    return total, flags


cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.sampled_from(INTEGERS),
    st.tuples(st.integers(1, 20), st.integers(1, 300)),
    st.one_of(st.integers(1, 9), st.integers(1, 64)),
    st.sampled_from([None, "some", "all"]),
    st.one_of(st.none(), st.integers(0, 60), st.sampled_from([254, 65530, 32767, 4294967290, 2**40])),
    st.booleans(),
)


def run_accumulate(impl: ModuleType, case: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    seed, dtype, shape, b, masked, satval, wide = case
    rng = np.random.default_rng(seed)
    frames = [make_frame(rng, shape, dtype) for _ in range(2)]
    mask = None if masked is None else (rng.random(shape) < (0.3 if masked == "some" else 2)).astype(np.uint8)
    binned = (-(-shape[0] // b), -(-shape[1] // b))
    total = rng.integers(0, 1000, binned).astype("u8" if wide or dtype in ("u4", "i4") else "u4")
    flags = rng.integers(0, 4, binned).astype("u1")
    expected = np.zeros(binned, object)
    expected_flags = np.zeros(binned, np.uint8)
    for i, frame in enumerate(frames):
        impl.accumulate(frame, mask, b, total, flags, satval, first=i == 0)
        added, set_flags = sum_by_pixel(frame, mask, b, satval)
        expected += added
        expected_flags |= set_flags
    return total, flags, expected, expected_flags


@every_implementation
@given(case=cases)
@sampled
def test_accumulate_adds_valid_contributions_and_flags_the_others(impl: ModuleType, case: Any) -> None:
    total, flags, expected, expected_flags = run_accumulate(impl, case)
    assert total.tolist() == expected.tolist()
    np.testing.assert_array_equal(flags, expected_flags)


@every_implementation
def test_sums_that_16_and_32_bits_would_wrap(impl: ModuleType) -> None:
    bright = np.full((7, 9), 65530, np.uint16)
    total, flags = np.zeros((1, 2), np.uint32), np.zeros((1, 2), np.uint8)
    impl.accumulate(bright, None, 7, total, flags)
    assert total.tolist() == [[65530 * 49, 65530 * 14]]
    brightest = np.full((5, 5), 4294967290, np.uint32)
    wide = np.zeros((2, 2), np.uint64)
    for i in range(3):
        impl.accumulate(brightest, None, 4, wide, np.zeros((2, 2), np.uint8), first=i == 0)
    assert wide.tolist() == [[4294967290 * 48, 4294967290 * 12], [4294967290 * 12, 4294967290 * 3]]


@every_implementation
def test_adding_keeps_what_was_there(impl: ModuleType) -> None:
    total, flags = np.full((2, 2), 5, np.uint32), np.full((2, 2), 2, np.uint8)
    frame = np.array([[1, 2, 65535], [3, 4, 0], [9, 0, 0]], np.uint16)
    impl.accumulate(frame, None, 2, total, flags)
    assert total.tolist() == [[15, 5], [14, 5]]
    assert flags.tolist() == [[2, 3], [2, 2]]


@every_implementation
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_float_frames_count_finite_contributions(impl: ModuleType, dtype: str) -> None:
    frame = np.array([[0.5, np.nan, 1.25], [np.inf, -1, 2.0]], dtype)
    mask = np.array([[0, 0, 0], [1, 0, 0]], np.uint8)
    total, flags = np.zeros((1, 2)), np.zeros((1, 2), np.uint8)
    impl.accumulate(frame, mask, 2, total, flags, 2.0)
    assert total.tolist() == [[0.5, 3.25]]
    assert flags.tolist() == [[1, 2]]


@every_implementation
@pytest.mark.parametrize("binning", [0, 65, -2])
def test_binning_out_of_range_is_refused(impl: ModuleType, binning: int) -> None:
    with pytest.raises(ValueError, match=f"binning is {binning}"):
        impl.accumulate(np.zeros((4, 4), "u2"), None, binning, np.zeros((4, 4), "u4"), np.zeros((4, 4), "u1"))


@every_implementation
@pytest.mark.parametrize("wrong", ["mask", "total", "flags"])
def test_shapes_that_disagree_are_refused(impl: ModuleType, wrong: str) -> None:
    shapes = {"mask": (5, 6), "total": (3, 3), "flags": (3, 3)}
    arrays = {name: np.zeros(shape, "u4" if name == "total" else "u1") for name, shape in shapes.items()}
    arrays[wrong] = arrays[wrong][:-1].copy()
    with pytest.raises(ValueError, match=wrong):
        impl.accumulate(np.zeros((5, 6), "u2"), arrays["mask"], 2, arrays["total"], arrays["flags"])


@compiled_only
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("frame", np.zeros((4, 4), ">u2")),
        ("frame", np.zeros((8, 8), "u2")[::2, ::2]),
        ("total", np.zeros((4, 4), "u2")),
        ("flags", np.zeros((4, 4), "u2")),
    ],
)
def test_compiled_kernels_refuse_layouts_they_cannot_read(name: str, array: np.ndarray) -> None:
    types = {"frame": "u2", "total": "u4", "flags": "u1"}
    arrays = {key: np.zeros((4, 4), dtype) for key, dtype in types.items()}
    arrays[name] = array
    with pytest.raises((TypeError, ValueError)):
        kernels.accumulate(arrays["frame"], None, 1, arrays["total"], arrays["flags"])


def finish_by_pixel(
    total: np.ndarray,
    flags: np.ndarray,
    blank: np.ndarray | None,
    satval: int | None,
    scale: float,
    limit: int,
    mark_saturated: bool,
    mark: int = 0,
) -> tuple[list[list[int]], tuple[int, int]]:
    values = [[mark] * total.shape[1] for _ in range(total.shape[0])]
    clipped = invalid = 0
    for y, x in np.ndindex(*total.shape):
        if flags[y, x] & 1 or (blank is not None and blank[y, x]):
            invalid += 1
            continue
        value, cut = int(total[y, x]), False
        if satval is not None and value > satval:
            value, cut = satval, True
        if scale != 1:
            value = math.trunc(float(value) * scale)
        if value > limit:
            value, cut = limit, True
        if mark_saturated and flags[y, x] & 2:
            value, cut = limit, True
        values[y][x] = value
        clipped += cut
    return values, (clipped, invalid)


finish_cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 6), st.integers(1, 80)),
    st.sampled_from(["u4", "u8"]),
    st.sampled_from(["i2", "u2", "i4", "u4", "f4", "f8"]),
    st.one_of(st.none(), st.integers(0, 100), st.sampled_from([32765, 65530, 4294967290, 2**33])),
    st.sampled_from([1.0, 0.0, 1 / 3, 0.1, 2.0, 1.7, 1e-3, 1e6]),
    st.sampled_from([0, 7, 32765, 65534, 2**31 - 1, 2**31, 4294967294]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 5, "bottom", "top"]),
)


def _greatest(dtype: str) -> int:
    return {"f4": 2**24, "f8": 2**53}.get(dtype) or int(np.iinfo(dtype).max)


@every_implementation
@given(case=finish_cases)
@sampled
def test_finish_cuts_scales_and_counts(impl: ModuleType, case: Any) -> None:
    seed, shape, sums, dtype, satval, scale, limit, mark_saturated, with_blank, mark = case
    limit = min(limit, _greatest(dtype))
    if isinstance(mark, str):
        mark = _greatest(dtype) if mark == "top" else int(np.iinfo(dtype).min) if dtype[0] in "iu" else -1
    rng = np.random.default_rng(seed)
    greatest_sum = 2**33 if sums == "u8" else 2**32 - 1
    special = rng.choice([0, 1, limit, limit + 1, satval or 3, 2**32 - 1, greatest_sum], shape)
    total = np.where(rng.random(shape) < 0.4, special, rng.integers(0, 200, shape))
    total = np.minimum(total, greatest_sum).astype(sums)
    flags = np.where(rng.random(shape) < 0.3, rng.integers(0, 4, shape), 0).astype(np.uint8)
    blank = (rng.random(shape) < 0.1).astype(np.uint8) if with_blank else None
    values = np.full(shape, 1, dtype)
    counts = impl.finish(total, flags, blank, satval, scale, limit, mark_saturated, values, mark)
    expected, expected_counts = finish_by_pixel(total, flags, blank, satval, scale, limit, mark_saturated, mark)
    assert values.tolist() == expected
    assert counts == expected_counts


@every_implementation
def test_float_sums_keep_their_fractions(impl: ModuleType) -> None:
    values = np.zeros((1, 3), np.float32)
    flags = np.zeros((1, 3), np.uint8)
    counts = impl.finish(np.array([[0.5, 3.0, 9.0]]), flags, None, 8, 0.25, 1, False, values)
    assert values.tolist() == [[0.125, 0.75, 1.0]]
    assert counts == (1, 0)


mark_cases = st.tuples(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 6), st.integers(1, 80)),
    st.sampled_from(["i2", "u2", "i4", "u4", "f8"]),
    st.sampled_from(["i2", "u2", "i4", "u4"]),
    st.sampled_from([0, 7, 32765, 65534, 2**31 - 2, 4294967294]),
    st.booleans(),
)


@every_implementation
@given(case=mark_cases)
@sampled
def test_mark_clips_casts_and_marks(impl: ModuleType, case: Any) -> None:
    seed, shape, dtype, out_dtype, limit, with_blank = case
    limit = min(limit, _greatest(out_dtype))
    rng = np.random.default_rng(seed)
    lowest = 0 if dtype[0] == "u" else -(2**15)
    choice = [lowest, -1 if lowest else 1, 0, 1, limit, limit + 1, 2**15 - 1, _greatest(dtype)]
    values = np.clip(rng.choice(choice, shape), lowest, _greatest(dtype)).astype(dtype)
    flags = rng.integers(0, 4, shape).astype(np.uint8)
    blank = (rng.random(shape) < 0.3).astype(np.uint8) if with_blank else None
    sign = -1 if out_dtype[0] == "i" else int(np.iinfo(out_dtype).max)
    out = np.zeros(shape, out_dtype)
    impl.mark(values, flags, blank, limit, sign, out)
    for y, x in np.ndindex(*shape):
        bad = flags[y, x] & 1 or (blank is not None and blank[y, x])
        assert out[y, x] == (sign if bad else min(max(int(values[y, x]), 0), limit))


@every_implementation
def test_mark_works_in_place(impl: ModuleType) -> None:
    values = np.arange(5000, dtype=np.uint16).reshape(50, 100)
    flags = np.zeros(values.shape, np.uint8)
    flags[3, 4] = 1
    expected = np.minimum(values, 4000)
    expected[3, 4] = 65535
    impl.mark(values, flags, None, 4000, 65535, values)
    np.testing.assert_array_equal(values, expected)


@compiled_only
@pytest.mark.parametrize(("limit", "mark"), [(65536, 65535), (32768, 65536), (100, -1)])
def test_mark_refuses_what_the_output_cannot_hold(limit: int, mark: int) -> None:
    image, flags = np.zeros((2, 2), np.int32), np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="doesn't fit"):
        kernels.mark(image, flags, None, limit, mark, np.zeros((2, 2), np.uint16))


# ---- compressed chunks --------------------------------------------------------------------------------

CONTENTS = ["zero", "sparse", "poisson", "noise", "ramp", "constant"]
SHAPES = [(1, 1), (1, 7), (1, 8), (3, 5), (5, 13), (64, 64), (100, 83), (317, 211)]


def make_array(content: str, shape: tuple[int, int], dtype: str, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    top = int(np.iinfo(dtype).max)
    makers: dict[str, Callable[[], Any]] = {
        "zero": lambda: np.zeros(shape),
        "sparse": lambda: rng.poisson(0.02, shape),
        "poisson": lambda: np.where(
            rng.random(shape) < 0.01, np.array(top, dtype), rng.poisson(3, shape).astype(dtype)
        ),
        "noise": lambda: rng.integers(0, top, shape, dtype, endpoint=True),
        "ramp": lambda: np.arange(shape[0] * shape[1]).reshape(shape) % min(top + 1, 2**62),
        "constant": lambda: np.full(shape, top - 1),
    }
    return np.asarray(makers[content]()).astype(dtype)


def stored_by_hdf5(array: np.ndarray, **options: Any) -> bytes:
    """The chunk that the HDF5 filter makes of an array."""
    with h5py.File("chunk.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("x", array.shape, array.dtype, chunks=array.shape, **options)
        data[...] = array
        _, chunk = data.id.read_direct_chunk((0,) * array.ndim)
        return bytes(chunk)


def read_by_hdf5(chunk: bytes, like: np.ndarray, **options: Any) -> np.ndarray:
    with h5py.File("chunk.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset("x", like.shape, like.dtype, chunks=like.shape, **options)
        data.id.write_direct_chunk((0,) * like.ndim, chunk)
        return np.asarray(data[...])


@compiled_only
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "u8"])
def test_bslz4_agrees_with_the_hdf5_filter(content: str, dtype: str) -> None:
    bitshuffle = dict(hdf5plugin.Bitshuffle(cname="lz4"))
    for shape in SHAPES:
        array = make_array(content, shape, dtype)
        decoded = np.full_like(array, 1)
        kernels.bslz4_decode(stored_by_hdf5(array, **bitshuffle), decoded)
        np.testing.assert_array_equal(decoded, array)
        chunk = bytes(kernels.bslz4_encode(array))
        np.testing.assert_array_equal(read_by_hdf5(chunk, array, **bitshuffle), array)
        decoded[...] = 1
        kernels.bslz4_decode(chunk, decoded)
        np.testing.assert_array_equal(decoded, array)


@compiled_only
@pytest.mark.parametrize("block", [8, 24, 1000, 65536, 2**20])
def test_bslz4_decodes_blocks_of_any_size(block: int) -> None:
    array = make_array("poisson", (97, 203), "u2")
    chunk = stored_by_hdf5(array, **dict(hdf5plugin.Bitshuffle(nelems=block, cname="lz4")))
    decoded = np.zeros_like(array)
    kernels.bslz4_decode(chunk, decoded)
    np.testing.assert_array_equal(decoded, array)


@compiled_only
@pytest.mark.parametrize("content", CONTENTS)
def test_dectris_decoder_reads_our_chunks(content: str) -> None:
    compression = pytest.importorskip("dectris.compression")
    array = make_array(content, (203, 97), "u2")
    decoded = compression.decompress(bytes(kernels.bslz4_encode(array)), "bslz4", elem_size=2)
    np.testing.assert_array_equal(np.frombuffer(decoded, "u2").reshape(array.shape), array)


@compiled_only
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("nbytes", [0, 512, 1 << 20])
def test_lz4_decodes_what_the_hdf5_filter_stored(content: str, nbytes: int) -> None:
    for shape in SHAPES:
        array = make_array(content, shape, "u2")
        chunk = stored_by_hdf5(array, **dict(hdf5plugin.LZ4(nbytes=nbytes)))
        decoded = np.full_like(array, 1)
        kernels.lz4_decode(chunk, decoded)
        np.testing.assert_array_equal(decoded, array)


def lz4_sequence(literals: bytes, distance: int = 0, length: int = 0) -> bytes:
    """A sequence of an LZ4 block; the last one has no match."""

    def more(n: int) -> bytes:
        return b"" if n < 15 else b"\xff" * ((n - 15) // 255) + bytes([(n - 15) % 255])

    n, extra = len(literals), max(length - 4, 0)
    match = distance.to_bytes(2, "little") + more(extra) if length else b""
    return bytes([min(n, 15) << 4 | min(extra, 15)]) + more(n) + literals + match


def repeated(made: bytes, distance: int, length: int) -> bytes:
    start = len(made) - distance
    return made + bytes(made[start + i % distance] for i in range(length))


def chunk_of(n_bytes: int, block: bytes) -> bytes:
    """Of filter 32004 or 32008, in one block."""
    return b"".join((n_bytes.to_bytes(8, "big"), n_bytes.to_bytes(4, "big"), len(block).to_bytes(4, "big"), block))


@compiled_only
@pytest.mark.parametrize("tail", [0, 5, 40, 200])
def test_lz4_repeats_from_any_distance(tail: int) -> None:
    """Each distance with lengths about the pieces that are copied, near the block's end and far from it.

    Under bitshuffle there is room past the end to write to; the same bytes without a repeat are held against it.
    """
    rng = np.random.default_rng(tail)
    for distance in [*range(1, 40), 63, 64, 65, 300]:
        for length in (4, 8, 12, 15, 16, 17, 18, 19, 20, 31, 33, 64, 79, 80, 81, 130, 252, 600):
            first, again = rng.bytes(distance + int(rng.integers(0, 3))), int(rng.integers(1, distance + 1))
            made = repeated(repeated(first, distance, length), again, 7)
            last = rng.bytes(tail + -(len(made) + tail) % 8)
            whole = made + last
            block = lz4_sequence(first, distance, length) + lz4_sequence(b"", again, 7) + lz4_sequence(last)
            target, plain = fuzz.Guarded((1, len(whole)), "u1"), np.zeros((1, len(whole)), "u1")
            if len(block) != len(whole):  # which would say that it isn't compressed
                kernels.lz4_decode(chunk_of(len(whole), block), target.array)
                assert target.array.tobytes() == whole, (distance, length)
            kernels.bslz4_decode(chunk_of(len(whole), block), target.array)
            kernels.bslz4_decode(chunk_of(len(whole), lz4_sequence(whole)), plain)
            np.testing.assert_array_equal(target.array, plain, f"{distance}, {length}")
            assert target.is_untouched()


@compiled_only
def test_bytes_after_the_last_block_are_ignored() -> None:
    array = make_array("poisson", (20, 30), "u2")
    decoded = np.zeros_like(array)
    kernels.bslz4_decode(bytes(kernels.bslz4_encode(array)) + b"left over", decoded)
    np.testing.assert_array_equal(decoded, array)


@compiled_only
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda c: c[:5], "shorter than its 12-byte header"),
        (lambda c: b"\1" + c[1:], "another number of bytes"),
        (lambda c: c[:8] + b"\0\0\0\3" + c[12:], "block size"),
        (lambda c: c[:13], "cut short before a block"),
        (lambda c: c[: len(c) // 2], "cut short within a block"),
        (lambda c: c[:12] + b"\0\0\0\0" + c[16:], r"corrupt block \(block 0\)|corrupt block"),
        (lambda c: c[:-1], "cut short in its last elements"),
    ],
)
def test_corrupt_chunks_are_named(damage: Any, why: str) -> None:
    array = make_array("poisson", (101, 99), "u2")
    with pytest.raises(ValueError, match=why):
        kernels.bslz4_decode(damage(bytes(kernels.bslz4_encode(array))), np.zeros_like(array))


@compiled_only
def test_damaged_chunks_never_leave_the_buffers() -> None:
    """As `python -m tests.fuzz`: each case is some array or a ValueError, with red zones about what is written."""
    refused = [fuzz.attack(case) for case in fuzz.cases(4000, seed=11)]
    assert {False, True} == set(refused)


@compiled_only
def test_the_attack_notices_what_is_written_beside_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(chunk: np.ndarray, out: np.ndarray) -> None:
        assert isinstance(out.base, np.ndarray)
        out.base[fuzz.RED_ZONE - 1] = 0
        raise ValueError("refused, too late")

    monkeypatch.setattr(kernels, "bslz4_decode", careless)
    case = next(case for case in fuzz.cases(100, seed=1) if case.kind == "bslz4")
    with pytest.raises(AssertionError, match="beside the output"):
        fuzz.attack(case)


chunk_cases = st.tuples(
    cases,
    st.lists(st.sampled_from([0, 8, 64, 4096]), min_size=1, max_size=4),
    st.booleans(),
    st.one_of(st.none(), st.tuples(finish_cases, st.sampled_from(["u2", "i2", "u4", "i4", "f8"]))),
)


@compiled_only
@given(case=chunk_cases)
@sampled
def test_all_in_one_pass_is_the_same_as_step_by_step(case: Any) -> None:
    (seed, dtype, shape, b, masked, satval, wide), blocks, first, ends = case
    rng = np.random.default_rng(seed)
    frames = [make_frame(rng, shape, dtype) for _ in blocks]
    mask = None if masked is None else (rng.random(shape) < 0.3).astype(np.uint8)
    binned = (-(-shape[0] // b), -(-shape[1] // b))
    sums = "u8" if wide or dtype in ("u4", "i4") else "u4"
    (total, flags), (one_total, one_flags) = ((np.full(binned, 3, sums), np.ones(binned, "u1")) for _ in range(2))
    for k, frame in enumerate(frames):
        kernels.accumulate(frame, mask, b, total, flags, satval, first=first and k == 0)
    chunks = [
        stored_by_hdf5(frame, **dict(hdf5plugin.Bitshuffle(nelems=block, cname="lz4")))
        for frame, block in zip(frames, blocks, strict=True)
    ]
    ending, counts = None, (0, 0)
    if ends is not None:
        (_, _, _, _, cut, scale, limit, mark_saturated, with_blank, _), kind = ends
        blank = (rng.random(binned) < 0.1).astype(np.uint8) if with_blank else None
        limit = min(limit, _greatest(kind))
        ending = kernels.Ending(blank, cut, scale, limit, mark_saturated, np.zeros(binned, kind), 1)
        expected = np.zeros(binned, kind)
        counts = kernels.finish(total, flags, *ending._replace(values=expected))
    packed = kernels.pack_mask(mask, b, shape, np.dtype("u2")) if seed % 2 else mask
    if seed % 2 and ending is not None:
        ending = ending._replace(runs=kernels.mask_runs(ending.blank, 1))
    sums_too = fused.Sums(packed, b, one_total, one_flags, satval, first)
    made = fused.bslz4_reduce(chunks, shape, frames[0].dtype, sums_too, ending)
    assert made == counts
    np.testing.assert_array_equal(flags, one_flags)
    if ending is None:
        np.testing.assert_array_equal(total, one_total)
    else:
        np.testing.assert_array_equal(ending.values, expected)


@compiled_only
@pytest.mark.skipif(not fused.have_images(), reason="needs carry-less multiplication")
@given(
    case=cases,
    n_frames=st.integers(1, 3),
    kind=st.sampled_from(["u2", "i2", "u4", "i4"]),
    scale=st.sampled_from([1.0, 0.37]),
    coding=st.one_of(st.none(), st.tuples(st.sampled_from([1, 4, 16]), st.sampled_from([1, 3, 16, 1000]))),
    first=st.booleans(),
    masked=st.sampled_from([0.0, 0.001, 0.3, 1.0]),
)
@sampled
def test_a_chunk_made_on_the_way_is_the_same_as_step_by_step(
    case: Any, n_frames: int, kind: str, scale: float, coding: Any, first: bool, masked: float
) -> None:
    seed, dtype, shape, b, _, satval, _ = case
    rng = np.random.default_rng(seed)
    # Some rows long enough for blocks to end within them, and between.
    shape = (shape[0], shape[1] * int(rng.choice([1, 1, 40])))
    mask = (rng.random(shape) < masked).astype(np.uint8)
    binned = (-(-shape[0] // b), -(-shape[1] // b))
    total, flags = np.full(binned, 3, "u8"), np.ones(binned, "u1")
    frames = [make_frame(rng, shape, dtype) for _ in range(n_frames)]
    stored = [bytes(kernels.bslz4_encode(frame)) for frame in frames]
    blank = (rng.random(binned) < 0.1).astype(np.uint8)
    limit, mark = min(30_000, _greatest(kind)), 7
    ending = kernels.Ending(blank, None, scale, limit, False, np.empty((0, 0), kind), mark)
    tiling = None if coding is None else fused.Tiling(*coding)
    maker = fused.ImageChunks((binned[0], binned[1]), np.dtype(kind), tiling)
    for _ in range(2):  # what one image leaves behind is nothing to the next
        given_total, given_flags = total.copy(), flags.copy()
        packed, blank_runs = kernels.pack_mask(mask, b, shape, np.dtype("u2")), kernels.mask_runs(blank, 1)
        sums = fused.Sums(packed, b, given_total, given_flags, satval, first)
        made = maker.make(stored, shape, frames[0].dtype, sums, ending._replace(runs=blank_runs))
    summed, marks, image = total.copy(), flags.copy(), np.empty(binned, kind)
    for k, frame in enumerate(frames):
        kernels_numpy.accumulate(frame, mask, b, summed, marks, satval, first=first and k == 0)
    if tiling is None:
        counts = kernels_numpy.finish(summed, marks, blank, None, scale, limit, False, image, mark)
    else:
        values = np.empty(binned, np.int32)
        counts = kernels_numpy.finish(summed, marks, blank, None, scale, limit, False, values, 0)
        kernels.hcompress_roundtrip(values, tiling.scale, tiling.rows)  # astropy takes no tiles of 1 to 3 rows
        kernels_numpy.mark(values, marks, blank, limit, mark, image)
    assert (made.n_clipped, made.n_invalid) == counts
    assert bytes(made.chunk) == bytes(kernels.bslz4_encode(image))
    assert made.crc32 == zlib.crc32(image.data)


@compiled_only
@pytest.mark.skipif(not fused.have_images(), reason="needs carry-less multiplication")
def test_chunks_on_the_way_refuse_what_does_not_fit() -> None:
    frame = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)
    good, blank = kernels.bslz4_encode(frame), np.zeros((40, 60), np.uint8)
    total, flags = np.zeros((40, 60), np.uint32), np.zeros((40, 60), np.uint8)
    ending = kernels.Ending(blank, None, 1.0, 60_000, False, frame, 65_535)
    maker = fused.ImageChunks((40, 60), np.dtype("u2"))

    def make(chunks: list[Any], mask: Any = None, ending: kernels.Ending = ending) -> fused.Made:
        sums = fused.Sums(mask, 1, total, flags, first=True)
        return maker.make(chunks, (40, 60), frame.dtype, sums, ending)

    with pytest.raises(fused.ChunkError, match="is cut short") as caught:
        make([good, good[:100]])
    assert caught.value.index == 1
    with pytest.raises(TypeError, match="whole bounds"):
        make([good], ending=ending._replace(satval=2.5))
    with pytest.raises(ValueError, match="blank has shape"):
        make([good], ending=ending._replace(blank=blank[1:]))
    with pytest.raises(ValueError, match="mask has shape"):
        make([good], mask=blank[1:])
    with pytest.raises(ValueError, match="runs has shape"):
        make([good], mask=kernels.PackedMask(np.zeros((40, 2), np.uint8), np.zeros(1, np.uint8)))
    with pytest.raises(ValueError, match="isn't of these runs"):
        make([good], mask=kernels.PackedMask(np.ones((40, 1), np.uint8), np.zeros(40 * kernels.RUN, np.uint8)))
    compiled = kernels.compiled()
    assert compiled is not None
    with pytest.raises(ValueError, match="too small"):
        compiled.bslz4_encode(frame, np.empty(100, np.uint8))
    words = ((good,), (40, 60), 2, None, 1, total, flags[:1], 65534, 65535, True)
    rows, stage, room = np.empty((1, 60), np.uint16), np.empty(20_000, np.uint16), kernels.bslz4_room(2400, 2)
    packed = kernels.packed(ending._replace(values=rows))
    assert compiled.bslz4_image(words, packed, 1, None, stage, room)[2] == len(make([good]).chunk)
    for wrong in (
        (packed, 1, None, stage[:100], room),
        (packed, 1, None, stage, room[:100]),
        (packed, 2, None, stage, room),
    ):
        with pytest.raises(ValueError, match=r"too small|has shape"):
            compiled.bslz4_image(words, *wrong)
    packed = kernels.packed(ending._replace(values=rows.view("i2"), limit=30_000, invalid=0))
    with pytest.raises(ValueError, match="HCompress takes uint16 or int32"):
        compiled.bslz4_image(words, packed, 1, (16, 60_000, 65_535), stage, room)


@compiled_only
@pytest.mark.skipif(not fused.have_images(), reason="needs carry-less multiplication")
@pytest.mark.parametrize("scale", [1, 2, 3, 16, 100, 1000, 4000])
def test_hcompress_in_16_bits_is_that_in_32(scale: int) -> None:
    """About the greatest counts that the first level takes in 16 bits, in patterns that make differences largest."""
    rng = np.random.default_rng(scale)
    for shape in ((16, 96), (7, 33), (1, 50), (2, 2), (1, 1)):
        levels = max(side - 1 for side in shape).bit_length()
        edge = (32767 - 64 - 32 * levels - 8 * scale) // 4
        for top in (9, edge, edge + 1, 8_300, 12_000, 32_000, 65_000):
            for pick in range(4):
                y, x = np.indices(shape)
                patterns = (rng.random(shape) < 0.5, (x + y) % 2, x % 2, rng.random(shape))
                frame = (patterns[pick] * max(top, 0)).astype(np.uint16)
                ending = kernels.Ending(None, None, 1.0, 65_534, False, np.empty((0, 0), "u2"), 65_535)
                sums = fused.Sums(None, 1, np.zeros(shape, "u4"), np.zeros(shape, "u1"), first=True)
                maker = fused.ImageChunks(shape, np.dtype("u2"), fused.Tiling(scale, shape[0]))
                made = maker.make([bytes(kernels.bslz4_encode(frame))], shape, frame.dtype, sums, ending)
                values, image = frame.astype(np.int32), np.empty(shape, "u2")
                kernels.hcompress_roundtrip(values, scale, shape[0])
                kernels_numpy.mark(values, np.zeros(shape, "u1"), None, 65_534, 65_535, image)
                kernels.bslz4_decode(made.chunk, frame)
                np.testing.assert_array_equal(frame, image, f"{shape}, {top}, {pick}")


@compiled_only
@given(seed=st.integers(0, 999), shape=st.tuples(st.integers(1, 40), st.integers(1, 700)), b=st.integers(1, 64))
@sampled
def test_a_packed_mask_is_the_mask(seed: int, shape: tuple[int, int], b: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random(shape) < rng.choice([0, 0.002, 0.1, 1])).astype(np.uint8)
    mask[:, 200:500] |= np.uint8(seed % 3 == 0)
    made = kernels.pack_mask(mask, b, shape, np.dtype("u2"))
    assert isinstance(made, kernels.PackedMask)
    assert kernels.pack_mask(made, b, shape, np.dtype("u2")) is made
    runs, width, at = made.runs, kernels.RUN // b * b, 0
    np.testing.assert_array_equal(runs, kernels.mask_runs(mask, b))
    for y, x in np.ndindex(runs.shape):
        here = mask[y * b : (y + 1) * b, x * width : (x + 1) * width]
        assert runs[y, x] == (2 if here.all() else int(here.any()))
        if runs[y, x] == 1:
            rows = made.pixels[at : at + len(here) * kernels.RUN].reshape(len(here), kernels.RUN)
            np.testing.assert_array_equal(rows[:, : here.shape[1]], here)
            assert rows[:, here.shape[1] :].all()
            at += rows.size
    assert at + 1 == made.pixels.size
    assert runs.shape == (-(-shape[0] // b), -(-shape[1] // width))


@compiled_only
def test_a_packed_mask_is_refused_where_it_cannot_be_used() -> None:
    mask = np.ones((4, 4), np.uint8)
    with pytest.raises(ValueError, match="can't be binned by 0"):
        kernels.pack_mask(mask, 0, mask.shape, np.dtype("u2"))
    with pytest.raises(ValueError, match="binning is 65"):
        kernels.mask_runs(mask, 65)
    packed = kernels.pack_mask(mask, 2, mask.shape, np.dtype("u2"))
    with pytest.raises(TypeError, match="floats"):
        kernels.accumulate(np.zeros((4, 4)), packed, 2, np.zeros((2, 2)), np.zeros((2, 2), np.uint8))
    compiled = kernels.compiled()
    assert compiled is not None
    with pytest.raises(ValueError, match="no room"):
        compiled.pack_mask(mask, 2, np.ones((2, 1), np.uint8), np.zeros(9, np.uint8))


@compiled_only
def test_the_corrupt_one_of_several_chunks_is_told() -> None:
    frame = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)
    good = kernels.bslz4_encode(frame)
    sums = fused.Sums(None, 1, np.zeros((40, 60), np.uint32), np.zeros((40, 60), np.uint8))
    with pytest.raises(fused.ChunkError, match="is cut short") as caught:
        fused.bslz4_reduce([good, good, good[:100], good], (40, 60), frame.dtype, sums)
    assert caught.value.index == 2
    with pytest.raises(ValueError, match="at least one frame"):
        fused.bslz4_reduce([], (40, 60), frame.dtype, sums)


@every_implementation
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 300)),
    top=st.sampled_from([1, 300, 65535]),
)
@sampled
def test_errors_are_exact(impl: ModuleType, seed: int, shape: tuple[int, int], top: int) -> None:
    rng = np.random.default_rng(seed)
    image, decoded = (rng.choice(np.array([0, 1, top // 2, top], np.uint16), shape) for _ in range(2))
    differences = [int(a) - int(b) for a, b in zip(image.flat, decoded.flat, strict=True)]
    expected = max(map(abs, differences)), sum(d * d for d in differences)
    assert tuple(impl.compare(image, decoded)) == expected


@every_implementation
def test_errors_need_images_of_one_shape(impl: ModuleType) -> None:
    with pytest.raises(ValueError, match="shape"):
        impl.compare(np.zeros((3, 4), np.uint16), np.zeros((3, 5), np.uint16))


def test_checksum_is_zlibs() -> None:
    data = np.random.default_rng(7).integers(0, 256, 70_000, dtype=np.uint8)
    for start in (0, 1, 7):
        for length in (*range(200), 255, 4096, 4097, 65_535, 69_990):
            piece = data[start : start + length]
            assert kernels.crc32(piece.data) == zlib.crc32(piece.data)
    image = data[:60_000].view("u2").reshape(100, 300)
    assert kernels.crc32(image) == zlib.crc32(image.data)
    assert kernels.crc32(b"diffraction") == zlib.crc32(b"diffraction")


@pytest.mark.parametrize("forced", [True, False])
def test_the_environment_forces_numpy(forced: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "BNL_MPI_KERNELS"}
    if forced:
        environment["BNL_MPI_KERNELS"] = "numpy"
    program = "from bnl_mpi.pixels import kernels; print(kernels.COMPILED, kernels.HAVE_BSLZ4)"
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    compiled = find_spec("bnl_mpi.pixels._kernels") is not None and not forced
    assert run.stdout.split() == [str(compiled)] * 2


# ---- extreme arguments ----------------------------------------------------------------------------------


EXTREME_BOUNDS = [
    0, 1, 254, 255, 32765, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63, 2**64 - 2, 2**64 - 1,
    2**64, 2**64 + 7, 10**30, 0.5, 1e300, float(np.finfo("f4").max), math.inf, -1, -(2**64), -0.5, math.nan,
]  # fmt: skip
EXTREME_SCALES = [1.0, 0.0, 5e-324, 1e-300, 1e-16, 0.1, 2.0, 1e16, 1e300, math.inf, -1.0, math.nan]
EXTREME_TOTALS = [0, 1, 65535, 65536, 2**31, 2**32 - 2, 2**32 - 1]
WIDE_TOTALS = [*EXTREME_TOTALS, 2**32, 2**53 + 1, 2**63, 2**64 - 2, 2**64 - 1]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or that it refuses its arguments."""
    try:
        return call()
    except ValueError:
        return "refused"


extremes = st.fixed_dictionaries(
    {
        "wide": st.booleans(),
        "dtype": st.sampled_from(["u2", "u4", "i2", "i4"]),
        "satval": st.one_of(st.none(), st.sampled_from(EXTREME_BOUNDS)),
        "scale": st.sampled_from(EXTREME_SCALES),
        "limit": st.sampled_from([b for b in EXTREME_BOUNDS if b == b and abs(b) < 2**70]),
        "invalid": st.sampled_from([0, -1, 65535, 65536, 2**32 - 1, 2**32, 2**63, -(2**63) - 1]),
        "saturated": st.booleans(),
    }
)


@compiled_only
@given(case=extremes)
@settings(max_examples=1500, deadline=None, derandomize=True)
def test_both_kernels_finish_alike_at_the_extremes(case: dict[str, Any]) -> None:
    totals = np.array([WIDE_TOTALS if case["wide"] else EXTREME_TOTALS], "u8" if case["wide"] else "u4")
    flags = np.zeros(totals.shape, np.uint8)
    flags[0, 1], flags[0, 2] = kernels.FLAG_INVALID, kernels.FLAG_SATURATED

    def finished(impl: ModuleType) -> Any:
        values = np.zeros(totals.shape, case["dtype"])
        arguments = (case["satval"], case["scale"], case["limit"], case["saturated"], values, case["invalid"])
        counts = impl.finish(totals.copy(), flags.copy(), None, *arguments)
        return counts, values.tolist()

    assert outcome(lambda: finished(kernels)) == outcome(lambda: finished(kernels_numpy))


@compiled_only
@pytest.mark.parametrize("satval", [None, *EXTREME_BOUNDS])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
def test_both_kernels_sum_alike_at_the_extremes(satval: float | None, dtype: str) -> None:
    info = np.iinfo(dtype)
    frame = np.array([[0, 1, info.max - 6, info.max - 5, info.max - 4, info.max - 1, info.max, info.min]], dtype)

    def summed(impl: ModuleType) -> Any:
        total, flags = np.zeros(frame.shape, np.uint64), np.zeros(frame.shape, np.uint8)
        impl.accumulate(frame, None, 1, total, flags, satval)
        return total.tolist(), flags.tolist()

    assert outcome(lambda: summed(kernels)) == outcome(lambda: summed(kernels_numpy))


@compiled_only
@pytest.mark.parametrize("limit", [b for b in EXTREME_BOUNDS if b == b])
@pytest.mark.parametrize("mark", [0, -1, 65535, 2**32 - 1, 2**64, -(2**70)])
@pytest.mark.parametrize("types", [("u2", "u2"), ("i4", "u2"), ("u4", "i4"), ("i2", "u4")])
def test_both_kernels_mark_alike_at_the_extremes(limit: float, mark: int, types: tuple[str, str]) -> None:
    info = np.iinfo(types[0])
    values = np.array([[info.min, 0, 1, 100, info.max - 1, info.max]], types[0])
    flags = np.array([[0, 0, kernels.FLAG_INVALID, 0, 0, 0]], np.uint8)

    def marked(impl: ModuleType) -> Any:
        out = np.zeros(values.shape, types[1])
        impl.mark(values.copy(), flags, None, limit, mark, out)
        return out.tolist()

    assert outcome(lambda: marked(kernels)) == outcome(lambda: marked(kernels_numpy))


@compiled_only
@pytest.mark.parametrize("at", [3, 5])
@pytest.mark.parametrize("bound", [-1, 2**64, 2**64 + 300])
def test_compiled_kernels_wrap_no_number(at: int, bound: int) -> None:
    compiled: Any = import_module("bnl_mpi.pixels._kernels")
    total, flags, values = np.zeros((1, 4), np.uint32), np.zeros((1, 4), np.uint8), np.zeros((1, 4), np.uint16)
    ending: list[Any] = [None, 100, 1.0, 100, False, values, 0, None]
    ending[{3: 1, 5: 3}[at]] = bound
    with pytest.raises(OverflowError):
        compiled.finish(total, flags, tuple(ending))
    with pytest.raises(OverflowError):
        compiled.accumulate(np.zeros((1, 4), np.uint16), None, 1, total, flags, bound, 5, True)
    with pytest.raises(OverflowError):
        compiled.mark(values, flags, None, bound, 0, values)


@every_implementation
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (1, 2**31)])
def test_shapes_that_no_picture_has_are_refused(impl: ModuleType, shape: tuple[int, int]) -> None:
    def zeros(dtype: str) -> np.ndarray:
        return np.zeros(shape, dtype)

    binned = np.zeros([-(-side // 64) for side in shape], np.uint32)
    flags = binned.astype(np.uint8)
    with pytest.raises(ValueError, match=r"sides|empty"):
        impl.accumulate(zeros("u1"), None, 64, binned, flags)
    if max(shape) < 2**31:
        with pytest.raises(ValueError, match=r"sides|empty"):
            impl.finish(zeros("u4"), zeros("u1"), None, None, 1.0, 9, False, zeros("u2"))
        with pytest.raises(ValueError, match=r"sides|empty"):
            impl.mark(zeros("u2"), zeros("u1"), None, 9, 9, zeros("u2"))
        with pytest.raises(ValueError, match=r"sides|empty"):
            impl.compare(zeros("u2"), zeros("u2"))
        with pytest.raises(ValueError, match=r"sides|empty"):
            impl.hcompress_roundtrip(zeros("i4"), 4, 4)


@compiled_only
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 2**31), (2**31, 1), (-1, 4)])
def test_chunks_of_shapes_that_no_picture_has_are_refused(shape: tuple[int, int]) -> None:
    total, flags = np.zeros((1, 1), np.uint32), np.zeros((1, 1), np.uint8)
    with pytest.raises(ValueError, match="sides"):
        fused.bslz4_reduce([b"x" * 20], shape, np.dtype("u2"), fused.Sums(None, 1, total, flags))


PORTABLE = """
import importlib.util, sys
import numpy as np
import bnl_mpi.pixels
spec = importlib.util.spec_from_file_location("bnl_mpi.pixels._kernels", sys.argv[1])
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
sys.modules[spec.name] = bnl_mpi.pixels._kernels = made
from bnl_mpi.pixels import fused, kernels
assert kernels.compiled() is made
frame = np.random.default_rng(3).poisson(2.0, (61, 237)).astype(np.uint16)
chunk, back = bytes(kernels.bslz4_encode(frame)), np.zeros_like(frame)
kernels.bslz4_decode(chunk, back)
total, flags, values = np.zeros((31, 119), np.uint32), np.zeros((31, 119), np.uint8), np.zeros((31, 119), np.uint16)
ending = kernels.Ending(None, None, 1, 65534, False, values)
fused.bslz4_reduce([chunk] * 2, frame.shape, frame.dtype, fused.Sums(None, 2, total, flags, first=True), ending)
binned = 2 * np.pad(frame, ((0, 1), (0, 1))).reshape(31, 2, 119, 2).sum((1, 3))
print(np.array_equal(back, frame), np.array_equal(values, binned), kernels.crc32(b"diffraction"), fused.have_images())
"""


CHECKSUMS = """
import zlib
data = np.random.default_rng(5).integers(0, 256, 5000, dtype=np.uint8)
for start in range(9):
    for length in (*range(160), 4096, 4991):
        piece = data[start : start + length]
        assert made.crc32(piece) == zlib.crc32(piece), (start, length)
"""

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or which("cc") is None, reason="needs Linux and a C compiler"
)


def run_with_build(folder: Path, define: str, program: str) -> list[str]:
    """The words that `program` prints, whose kernels are built with that macro defined."""
    sources, made = Path(__file__).parents[1] / "bnl_mpi" / "pixels", folder / "_kernels.so"
    words = ["cc", "-std=c11", "-O1", "-fPIC", "-shared", f"-D{define}", "-Werror=implicit-function-declaration"]
    places = [f"-I{sysconfig.get_paths()['include']}", str(sources / "_kernels.c"), "-lm", "-o", str(made)]
    subprocess.run([*words, *places], check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if k != "BNL_MPI_KERNELS"}
    command = [sys.executable, "-c", program, str(made)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


@needs_compiler
def test_the_kernels_can_be_built_for_other_processors(tmp_path: Path) -> None:
    told = run_with_build(tmp_path, "BNL_PORTABLE", PORTABLE)
    assert told == ["True", "True", str(zlib.crc32(b"diffraction")), "False"]


TRANSPOSED = """
import zlib
rng, told = np.random.default_rng(4), []
for dtype in ("u1", "u2", "u4"):
    for n in (8, 2048, 4096, 5000, 8192):
        for top in (3, 250, 60_000, 4_000_000_000):
            array = rng.integers(0, min(top, np.iinfo(dtype).max), n).astype(dtype)
            chunk, again = bytes(kernels.bslz4_encode(array)), np.zeros_like(array)
            kernels.bslz4_decode(chunk, again)
            assert np.array_equal(array, again), (dtype, n, top)
            told.append(zlib.crc32(chunk))
for dtype in ("u2", "u4"):
    bits = 8 * np.dtype(dtype).itemsize
    for masked in [2**bits - 1] + [2**bits - 1 - 2**bit for bit in range(bits)]:
        array = np.where(rng.random(8192) < 0.01, masked, rng.poisson(3, 8192)).astype(dtype)
        chunk, again = bytes(kernels.bslz4_encode(array)), np.zeros_like(array)
        kernels.bslz4_decode(chunk, again)
        assert np.array_equal(array, again), (dtype, masked)
        told.append(zlib.crc32(chunk))
print(zlib.crc32(np.array(told).tobytes()))
"""


@compiled_only
@needs_compiler
@pytest.mark.parametrize("without", ["BNL_NO_GFNI", "BNL_NO_AVX512", "BNL_PORTABLE"])
def test_bits_are_transposed_alike_with_all_instructions(tmp_path: Path, without: str) -> None:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(TRANSPOSED, {"np": np, "kernels": kernels})
    assert run_with_build(tmp_path, without, PORTABLE + TRANSPOSED)[-1] == told.getvalue().strip()


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere no checksum of ours is used")
def test_checksums_without_carry_less_multiplication(tmp_path: Path) -> None:
    told = run_with_build(tmp_path, "BNL_NO_PCLMUL", PORTABLE + CHECKSUMS)
    assert told == ["True", "True", str(zlib.crc32(b"diffraction")), "True"]


RELEASING = """
from bnl_mpi.pixels import kernels
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
pieces = [bytes(60_000) for _ in range(1000)]
pinned = pieces[-1]
del pieces
before = resident()
kernels.release()
print(before - resident())
"""


@compiled_only
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "asan" in os.environ.get("LD_PRELOAD", ""), reason="only glibc can be asked"
)
def test_free_memory_is_given_back() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("BNL_MPI_KERNELS", "PYTHONMALLOC")}
    told = subprocess.run(
        [sys.executable, "-c", RELEASING], env=environment, capture_output=True, text=True, check=True
    )
    assert int(told.stdout) > 30_000_000
