"""Pixels of the whole program, one process, against the oracle that knows only the specification."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_sets import random_frames, random_mask, read_images, write_set

import bnl_mpi
from bnl_mpi import expand
from bnl_mpi.arguments import options_from
from bnl_mpi.codecs.hcompress import HCompress
from bnl_mpi.codecs.jpeg2000 import J2K, J2K2
from bnl_mpi.errors import BnlError, UsageError
from bnl_mpi.options import COMPRESSIONS, Options
from bnl_mpi.pixels.patterns import ZeroPattern
from bnl_mpi.tasks.keywords import values_of

SHAPE = (47, 61)


def reduced(master: Path, **options: Any) -> np.ndarray[Any, Any]:
    options.setdefault("compression", "none")
    out = master.parent / "out"
    bnl_mpi.reduce(str(master), out_file=str(out), force=True, **options)
    return read_images(f"{out}_master.h5")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int16"])
@pytest.mark.parametrize(("binning", "total"), [(1, 1), (2, 2), (3, 1), (1, 4), (5, 3)])
def test_every_stored_type(tmp_path: Path, dtype: str, binning: int, total: int) -> None:
    frames, mask = random_frames(7, SHAPE, dtype), random_mask(SHAPE)
    master = write_set(tmp_path, frames, mask=mask, cutoff=9000)
    for out, code in (("uint16", 2), ("uint32", 4), ("int16", -2), ("int32", -4)):
        got = reduced(master, sum=total, bin=binning, uint=code)
        assert got.dtype == out
        expected = oracle.reduce_set(frames, mask, sum=total, binning=binning, satval=9000, out=out)
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(2, 23), st.integers(2, 29)),
    n=st.integers(1, 7),
    total=st.integers(1, 5),
    binning=st.integers(1, 9),
    satval=st.sampled_from([1, 5, 700, 65529, 70000, 4_000_000_000]),
    scale=st.sampled_from([1.0, 0.5, 0.3, 2.0, 7.25, 0.0]),
    dtype=st.sampled_from(["uint8", "uint16", "uint32"]),
    out=st.sampled_from([("uint16", 2), ("uint32", 4)]),
    saturation=st.sampled_from(["clip", "scaled"]),
    seed=st.integers(0, 1000),
    masked=st.booleans(),
)
def test_any_reduction(
    tmp_path: Path,
    shape: tuple[int, int],
    n: int,
    total: int,
    binning: int,
    satval: int,
    scale: float,
    dtype: str,
    out: tuple[str, int],
    saturation: str,
    seed: int,
    masked: bool,
) -> None:
    binning = min(binning, *shape)
    frames = random_frames(n, shape, dtype, seed)
    mask = random_mask(shape, seed) if masked else None
    master = write_set(tmp_path, frames, mask=mask, cutoff=satval, name=f"s{seed}")
    got = reduced(master, sum=total, bin=binning, scale=scale, uint=out[1], saturation=saturation)
    expected = oracle.reduce_set(
        frames,
        mask,
        sum=total,
        binning=binning,
        satval=satval,
        scale=scale,
        out=out[0],
        scaled_saturation=saturation == "scaled",
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("plain", [[], [0], [7, 8], [18, 19, 20], [37]])
@pytest.mark.parametrize("options", [{}, {"codec": "hcompress", "codec_level": 1}, {"saturation": "scaled"}])
def test_sums_of_many_frames(tmp_path: Path, plain: list[int], options: dict[str, Any]) -> None:
    """More frames than go through memory at once, some of them stored as chunks without a filter."""
    frames, mask = random_frames(38, SHAPE), random_mask(SHAPE)
    master = write_set(tmp_path, frames, mask=mask, cutoff=9000, per_file=15)
    for frame in plain:
        with h5py.File(tmp_path / f"in_data_{frame // 15 + 1:06d}.h5", "r+") as h5:
            h5["/entry/data/data"].id.write_direct_chunk((frame % 15, 0, 0), frames[frame].tobytes(), filter_mask=1)
    got = reduced(master, sum=19, bin=2, uint=4, **options)
    expected = oracle.reduce_set(
        frames, mask, sum=19, binning=2, satval=9000, out="uint32", scaled_saturation="saturation" in options
    )
    np.testing.assert_array_equal(got, expected)


def test_a_corrupt_chunk_among_many_is_told(tmp_path: Path) -> None:
    frames = random_frames(38, SHAPE)
    master = write_set(tmp_path, frames, per_file=15)
    with h5py.File(tmp_path / "in_data_000002.h5", "r+") as h5:
        dataset = h5["/entry/data/data"].id
        _, chunk = dataset.read_direct_chunk((11, 0, 0))
        dataset.write_direct_chunk((11, 0, 0), chunk[: len(chunk) // 2])
    with pytest.raises(BnlError, match=r"in_data_000002\.h5:/entry/data/data: frame 27 \(index 11 of .* is cut short"):
        reduced(master, sum=19)


def test_sums_that_would_wrap(tmp_path: Path) -> None:
    frames = np.full((4, 8, 8), 65530, np.uint16)
    master = write_set(tmp_path, frames, cutoff=2**32 - 7)
    assert (reduced(master, sum=4, bin=4, uint=4) == 65530 * 64).all()
    assert (reduced(master, sum=4, bin=4, uint=2) == 65534).all()
    frames = np.full((3, 4, 4), 4_294_967_290, np.uint32)
    master = write_set(tmp_path, frames, cutoff=2**32 - 7, name="wide")
    assert (reduced(master, sum=3, bin=2, uint=4) == 2**32 - 7).all()
    assert (reduced(master, sum=3, bin=2, scale=0.001, uint=4) == int((2**32 - 7) * 0.001)).all()


def test_default_saturation_values(tmp_path: Path) -> None:
    for dtype, satval in (("uint16", 32765), ("uint8", 250), ("uint32", 2**32 - 6)):
        frames = random_frames(2, SHAPE, dtype)
        master = write_set(tmp_path, frames, cutoff=None, name=dtype)
        got = reduced(master, sum=2, uint=4)
        np.testing.assert_array_equal(
            got, oracle.reduce_set(frames, None, sum=2, binning=1, satval=satval, out="uint32")
        )


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        ({"codec": "hcompress", "codec_level": 16}, HCompress(16)),
        ({"codec": "j2k", "codec_level": 12}, J2K(12)),
        ({"codec": "j2k2", "codec_level": 12}, J2K2(12)),
        ({"codec": "hcompress", "codec_level": 7, "uint": 4}, HCompress(7)),
    ],
)
def test_codecs_are_applied_between_scaling_and_marking(tmp_path: Path, options: dict[str, Any], codec: Any) -> None:
    shape = (95, 131)
    frames, mask = random_frames(5, shape), random_mask(shape)
    master = write_set(tmp_path, frames, mask=mask, cutoff=3000)
    got = reduced(master, sum=2, bin=2, scale=1.5, **options)
    out = str(got.dtype)
    for k, image in enumerate(got):
        values, invalid, limit = oracle.reduce_image(frames[2 * k : 2 * k + 2], mask, 2, 3000, scale=1.5, out=out)
        decoded = codec.decode(codec.encode(values.astype(codec.image_dtype)))
        np.testing.assert_array_equal(image, oracle.stored(decoded, invalid, limit, out))


@pytest.mark.parametrize("compression", ["bslz4", "bszstd", "bshuf", "zstd", "none"])
def test_final_filters_lose_nothing(tmp_path: Path, compression: str) -> None:
    frames, mask = random_frames(3, SHAPE), random_mask(SHAPE)
    master = write_set(tmp_path, frames, mask=mask)
    got = reduced(master, bin=2, compression=compression)
    np.testing.assert_array_equal(got, oracle.reduce_set(frames, mask, sum=1, binning=2, satval=9000))
    with h5py.File(tmp_path / "out_000001.h5") as h5:
        pipeline = h5["/entry/data/data"].id.get_create_plist()
        codes = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    assert codes == {"none": [], "zstd": [32001]}.get(compression, [32008])


@pytest.mark.parametrize("level", [0, 1, 9])
def test_zstd_levels(tmp_path: Path, level: int) -> None:
    frames = random_frames(2, SHAPE)
    master = write_set(tmp_path, frames)
    got = reduced(master, compression="zstd", compression_level=level)
    np.testing.assert_array_equal(got, oracle.reduce_set(frames, None, sum=1, binning=1, satval=9000))


@pytest.mark.parametrize("kind", [{"uint": 2}, {"uint": -2}, {"uint": 4}, {"uint": -4}, {"float": 2}, {"float": 4}])
def test_every_type_goes_through_every_filter(tmp_path: Path, kind: dict[str, int]) -> None:
    master = write_set(tmp_path, random_frames(3, SHAPE), mask=random_mask(SHAPE), cutoff=9000)
    plain = reduced(master, sum=2, bin=2, **kind)
    for name in set(COMPRESSIONS) - {"none", "htj2k"}:
        np.testing.assert_array_equal(reduced(master, sum=2, bin=2, compression=name, **kind), plain)


def test_float_output_logarithm_and_back(tmp_path: Path) -> None:
    frames, mask = random_frames(4, SHAPE), random_mask(SHAPE)
    master = write_set(tmp_path, frames, mask=mask, cutoff=9000)
    plain = [oracle.reduce_image(frames[k : k + 2], mask, 2, 9000, out="uint32") for k in (0, 2)]
    got = reduced(master, sum=2, bin=2, float=4)
    assert got.dtype == np.float32
    for image, (values, invalid, _) in zip(got, plain, strict=True):
        assert np.isnan(image[invalid]).all()
        np.testing.assert_array_equal(image[~invalid], values[~invalid])
    logged = reduced(master, sum=2, bin=2, float=4, logarithm=math.e)
    for image, (values, invalid, _) in zip(logged, plain, strict=True):
        np.testing.assert_allclose(image[~invalid], np.log(values[~invalid] + 1.0), rtol=1e-6)
    ten = reduced(master, sum=2, bin=2, uint=2, logarithm=10, scale=1000)
    for image, (values, invalid, _) in zip(ten, plain, strict=True):
        np.testing.assert_array_equal(image[~invalid], np.trunc(np.log1p(values[~invalid] * 1000) / np.log(10)))
        assert (image[invalid] == 65535).all()


def test_two_byte_floats_are_clipped_where_they_end(tmp_path: Path) -> None:
    frames = np.full((2, 8, 8), 60000, np.uint16)
    master = write_set(tmp_path, frames, cutoff=200000)
    assert (reduced(master, sum=2, float=2) == np.float16(65504)).all()
    assert (reduced(master, sum=2, float=4) == 120000).all()


def test_an_exponential_beyond_all_floats_is_clipped_with_a_saturation_value_that_fits(tmp_path: Path) -> None:
    master = write_set(tmp_path, np.full((2, 8, 8), 80, np.uint16), cutoff=9000)
    out, greatest = str(tmp_path / "out"), np.finfo(np.float32).max
    summary = bnl_mpi.reduce(str(master), out_file=out, float=4, exponential=math.e, compression="none")
    assert summary is not None
    assert "a smaller --scale keeps them" in "".join(summary.warnings)
    assert (read_images(f"{out}_master.h5") == np.float32(np.expm1(80.0))).all()
    with h5py.File(f"{out}.nxs") as file:
        assert file["/entry/instrument/detector/saturation_value"][()] == greatest


def test_exponential_takes_float_input(tmp_path: Path) -> None:
    frames, mask = random_frames(2, SHAPE, marks=False), random_mask(SHAPE)
    master = write_set(tmp_path, frames, mask=mask, cutoff=9000)
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "log"), float=4, logarithm=2, compression="none")
    bnl_mpi.reduce(
        str(tmp_path / "log_master.h5"),
        out_file=str(tmp_path / "back"),
        uint=4,
        exponential=2,
        scale=1.0,
        compression="none",
    )
    back, expected = read_images(tmp_path / "back_master.h5"), read_images(master).astype(np.int64)
    valid = (mask == 0)[None] & (expected <= 9000)
    # 4-byte floats hold a logarithm to 1e-7 of itself, and the inverse is cut to an integer.
    assert np.abs(back[valid] - expected[valid]).max() <= 1


def test_zero_patterns_and_omit(tmp_path: Path) -> None:
    frames = random_frames(6, SHAPE, marks=False)
    master = write_set(tmp_path, frames, cutoff=9000)
    plain = oracle.reduce_set(frames, None, sum=2, binning=1, satval=9000)
    from bnl_mpi.pixels.patterns import parse_zero_pattern

    got = reduced(master, sum=2, zero=(parse_zero_pattern("columns_::2", 1), parse_zero_pattern("zero_2_of_3_rows", 0)))
    expected = plain.copy()
    expected[:, :, ::2] = 0
    expected[:, np.arange(SHAPE[0]) % 3 < 2, :] = 0
    np.testing.assert_array_equal(got, expected)
    got = reduced(master, sum=2, zero=(parse_zero_pattern("3,5,1,2", 1),), omit=((3, 3), (6, 9)))
    expected = plain.copy()
    expected[1:, 1:3, 3:6] = 0
    np.testing.assert_array_equal(got, expected)


def test_fill_gaps_changes_nothing_but_the_codec_s_input(tmp_path: Path) -> None:
    shape = (96, 120)
    frames, mask = random_frames(2, shape, marks=False), random_mask(shape)
    frames[:] = 40
    master = write_set(tmp_path, frames, mask=mask)
    for codec, level in (("hcompress", 16), ("j2k", 20)):
        flat = reduced(master, codec=codec, codec_level=level, fill_gaps=True)
        rung = reduced(master, codec=codec, codec_level=level)
        valid = mask == 0
        # Filled from their edges the gaps leave a flat image: HCompress's scale rounds it, but nothing rings.
        assert np.ptp(flat[:, valid].astype(int)) <= (2 if codec == "hcompress" else 0)
        assert (flat[:, ~valid] == 65535).all()
        assert np.ptp(rung[:, valid].astype(int)) > 5


def test_a_partial_last_image_is_kept_or_left_out(tmp_path: Path) -> None:
    frames = random_frames(7, SHAPE)
    master = write_set(tmp_path, frames)
    assert len(reduced(master, sum=3)) == 3
    kept = reduced(master, sum=3, drop_partial=True)
    np.testing.assert_array_equal(kept, oracle.reduce_set(frames[:6], None, sum=3, binning=1, satval=9000))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.integers(1, 23),
    last=st.integers(1, 23),
    total=st.integers(1, 4),
    block=st.integers(1, 9),
    per_file=st.sampled_from([(5, 5, 5, 5, 3), (1, 7, 2, 9, 4), (23,), (10, 13)]),
    first_file=st.sampled_from([0, 1]),
)
def test_ranges_inside_and_across_data_files(
    tmp_path: Path, first: int, last: int, total: int, block: int, per_file: tuple[int, ...], first_file: int
) -> None:
    first, last = min(first, last), max(first, last)
    frames = random_frames(23, (9, 11), seed=5)
    master = write_set(tmp_path, frames, per_file=per_file, first_file=first_file, name="r")
    for old in tmp_path.glob("r_data_*"):
        if int(old.stem[-6:]) not in range(first_file, first_file + len(per_file)):
            old.unlink()
    got = reduced(master, first_image=first, last_image=last, sum=total, data_block_size=block)
    np.testing.assert_array_equal(
        got, oracle.reduce_set(frames[first - 1 : last], None, sum=total, binning=1, satval=9000)
    )
    with h5py.File(tmp_path / "out_master.h5") as h5:
        sizes = [len(h5["/entry/data"][k]) for k in sorted(h5["/entry/data"])]
    n_images = -(-(last - first + 1) // total)
    assert sizes == [block] * (n_images // block) + ([n_images % block] if n_images % block else [])


@pytest.mark.parametrize("filter_name", ["bslz4", "lz4", "none", "gzip"])
@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_input_filters_and_chunks(tmp_path: Path, filter_name: str, chunk_frames: int) -> None:
    frames = random_frames(6, SHAPE)
    master = write_set(tmp_path, frames, filter_name=filter_name, chunk_frames=chunk_frames, per_file=3)
    got = reduced(master, sum=2)
    np.testing.assert_array_equal(got, oracle.reduce_set(frames, None, sum=2, binning=1, satval=9000))


def test_numpy_kernels_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnl_mpi.pixels import kernels

    shape = (60, 70)
    frames, mask = random_frames(5, shape), random_mask(shape)
    master = write_set(tmp_path, frames, mask=mask)
    compiled = reduced(master, sum=2, bin=3, codec="hcompress", codec_level=9, compression="bslz4")
    monkeypatch.setattr(kernels, "_kernels", None)
    monkeypatch.setattr(kernels, "HAVE_BSLZ4", False)
    plain = reduced(master, sum=2, bin=3, codec="hcompress", codec_level=9, compression="bslz4")
    np.testing.assert_array_equal(compiled, plain)


def test_python_callers_give_paths_and_numbers_of_any_kind(tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(4, SHAPE), mask=random_mask(SHAPE), cutoff=9000)
    (tmp_path / "spots.txt").write_text("20 20 1 4 1\n30 30 4 4 1\n")
    given = {"out_file": tmp_path / "out", "json": tmp_path / "out.json", "keep": tmp_path / "spots.txt"}
    summary = bnl_mpi.reduce(master, sum=np.int64(2), data_block_size=np.int32(9), compression="bslz4", **given)
    assert summary is not None
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["images"] == summary.images == 2
    expand.expand(tmp_path / "out_master.h5", out_file=tmp_path / "full", background="poisson")
    assert (tmp_path / "full_master.h5").exists()
    for wrong in (2.0, "2"):
        with pytest.raises(UsageError, match=r"--sum .*: give a whole number"):
            bnl_mpi.reduce(master, out_file=tmp_path / "other", sum=wrong)
    with pytest.raises(UsageError, match="give a number of images, or auto"):
        bnl_mpi.reduce(master, out_file=tmp_path / "other", data_block_size="many")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"omit": [1, 2], "RO": "rows_1::2"}, "-0 1,2 -R rows_1::2"),
        ({"omit": 2, "CO": ["columns_::2", "3,4"]}, "-0 2 -C columns_::2 -C 3,4"),
        ({"omit": np.array([1, 3]), "RO": ("1::2",), "CO": "::3"}, "-0 1,3 -R 1::2 -C ::3"),
        ({"omit": "1,5-6", "RO": "1::2"}, "-0 1,5-6 -R 1::2"),
        ({"omit": ["1", (5, 6), 8], "RO": "1::2"}, "-0 1 -0 5-6 -0 8 -R 1::2"),
        ({"omit": ((1, 2),), "zero": ZeroPattern("1::2", rows=(1, None, 2))}, "-0 1-2 -R 1::2"),
        ({"omit": None, "keep": None, "sum": None, "out_master": None, "progress": None}, ""),
        ({"keep": "auto", "keep_also": "1,2,3,4"}, "--keep auto --keep_also 1,2,3,4"),
        ({"keep": ["auto"], "keep_also": [1, 2, 3, 4]}, "--keep auto --keep_also 1,2,3,4"),
        (
            {"keep": "auto", "keep_also": ["1,2,3,4", np.arange(4)], "keep_radius": np.float32(5)},
            "--keep auto --keep_also 1,2,3,4 --keep_also 0,1,2,3 --keep_radius 5",
        ),
        ({"scale": np.float32(0.5), "drop_partial": np.True_}, "-S 0.5 --drop_partial"),
        ({"codec": np.str_("hcompress"), "codec_level": np.int64(9)}, "-H 9"),
        ({"logarithm": "e", "float": np.int8(4)}, "-L e -f 4"),
        ({"rms": np.float64(2.5), "guard": np.float32(0.5)}, "--rms 2.5 --guard 0.5"),
        ({"grace": np.int16(3), "verbose": 1}, "--grace 3 --verbose"),
    ],
)
def test_what_python_callers_give_is_what_the_words_mean(given: dict[str, Any], words: str) -> None:
    made = Options(**values_of({"infile": Path("in_master.h5"), **given}))
    wanted = options_from(["-i", "in_master.h5", *words.split()])
    assert made == wanted
    assert json.dumps(made.identity()) == json.dumps(wanted.identity())


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Options)] + ["RO", "CO", "summ"])
def test_a_value_of_no_use_is_one_line_that_names_the_option(field: str, tmp_path: Path) -> None:
    for value in (object(), [object()], b"1", {"a": object()}, [[1, 2, 3]]):
        options: dict[str, Any] = {"infile": tmp_path / "no_master.h5", "out_file": tmp_path / "out", field: value}
        with pytest.raises(UsageError, match=f"^(--)?{field}\\b") as caught:
            bnl_mpi.reduce(**options)
        assert "\n" not in str(caught.value)


def test_frames_to_omit_need_a_pattern_from_python_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--omit names frames for -R and -C"):
        bnl_mpi.reduce(tmp_path / "no_master.h5", omit=[1, 2])


def test_expand_takes_the_options_of_its_command_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sum: not an option here; these are: infile, out_file"):
        expand.expand(tmp_path / "o_master.h5", out_file=tmp_path / "full", sum=2)
    with pytest.raises(UsageError, match="--seed goes with --background"):
        expand.expand(tmp_path / "o_master.h5", out_file=tmp_path / "full", seed=3)
