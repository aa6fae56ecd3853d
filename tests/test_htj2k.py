"""HTJ2K: sizes and errors hit their targets, and every decoder gives the same pixels."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.registry import get_codec
from pictures import CHANGING, changing, diffraction

from bnl_mpi.codecs import openjpeg, openjph
from bnl_mpi.codecs.contract import AT_END, AT_JUMP, OUT_OF_TRIALS, Errors, errors_of
from bnl_mpi.codecs.htj2k import HTJ2K, Coded
from bnl_mpi.codecs.openjph import encode_at_step, encode_lossless
from bnl_mpi.codecs.step_search import MOST_TRIALS, StepSearch, Target
from bnl_mpi.errors import BnlError, UsageError

pytest.importorskip("imagecodecs")

Image = np.ndarray[Any, Any]


def last_coded(codec: HTJ2K) -> Coded:
    """What the codec made of its last image."""
    assert codec.last is not None
    return codec.last


def errors_told(codec: HTJ2K) -> Errors:
    """The errors that it measured on the way."""
    errors = last_coded(codec).errors
    assert errors is not None
    return errors


def sparse(shape: tuple[int, int], seed: int = 0) -> Image:
    return np.random.default_rng(seed).poisson(0.02, shape).astype(np.uint16)


def dense(shape: tuple[int, int], seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 60000, shape).astype(np.uint16)


def wanted(image: Image, ratio: float) -> float:
    return image.size * 2 / ratio


@pytest.fixture
def chunk_reader() -> Iterator[Any]:
    """What h5py and hdf5plugin read from a stored chunk."""
    with h5py.File("chunks", "w", driver="core", backing_store=False) as file:

        def read(chunk: bytes, shape: tuple[int, int], dtype: Any) -> Image:
            name = f"d{len(file)}"
            dataset = file.create_dataset(name, (1, *shape), chunks=(1, *shape), dtype=dtype, **hdf5plugin.Htj2k())
            dataset.id.write_direct_chunk((0, 0, 0), chunk)
            file.flush()
            image: Image = dataset[0]
            return image

        yield read


SHAPES = [(1, 1), (1, 7), (2, 3), (5, 4), (7, 300), (33, 31), (64, 64), (131, 97), (300, 257)]


@pytest.mark.parametrize("shape", SHAPES)
def test_hdf5_filter_reads_what_the_codec_decodes(shape: tuple[int, int], chunk_reader: Any) -> None:
    codec = HTJ2K(rms=3.0)
    image = diffraction(shape) * np.uint16(40)
    codestream = codec.encode(image)
    assert last_coded(codec).step > 0 or shape == (1, 1)
    decoded = codec.decode(codestream)
    assert decoded.shape == shape
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(chunk_reader(codestream, shape, "u2"), decoded)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [2e-5, 5e-4, 1e-2])
def test_openjpeg_decodes_the_same_within_rounding(shape: tuple[int, int], step: float) -> None:
    image = diffraction(shape) * np.uint16(7)
    codestream = encode_at_step(image, step)
    difference = openjpeg.decode(codestream).astype(int) - openjph.decode(codestream)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2"])
@pytest.mark.parametrize("shape", [*SHAPES, (500, 2)])
def test_lossless_chunks_read_back_exactly(dtype: str, shape: tuple[int, int], chunk_reader: Any) -> None:
    info = np.iinfo(dtype)
    image = np.random.default_rng(7).integers(info.min, info.max, shape, dtype, endpoint=True)
    image[: shape[0] // 2] = info.max
    codestream = encode_lossless(image)
    np.testing.assert_array_equal(openjph.decode(codestream), image)
    np.testing.assert_array_equal(chunk_reader(codestream, shape, dtype), image)


def test_lossless_in_openjpeg() -> None:
    image = dense((45, 77))
    np.testing.assert_array_equal(openjpeg.decode(encode_lossless(image)), image)


@pytest.mark.parametrize("dtype", ["u4", "i4", "f4"])
def test_lossless_refuses_wide_types(dtype: str) -> None:
    with pytest.raises(UsageError, match=f"8- and 16-bit integers, not {np.dtype(dtype)}"):
        encode_lossless(np.zeros((8, 8), dtype))


def test_lossless_takes_one_image() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 8, 8\)"):
        encode_lossless(np.zeros((2, 8, 8), np.uint16))


@pytest.mark.parametrize("ratio", [8, 12, 20, 60, 120, 200])
@pytest.mark.parametrize("background", [2.0, 30.0])
def test_size_is_within_three_percent_under_the_target(ratio: float, background: float) -> None:
    image = diffraction((431, 389), background=background)
    codec = HTJ2K(ratio)
    codestream = codec.encode(image)
    assert 0.97 * wanted(image, ratio) - 1 <= len(codestream) <= wanted(image, ratio)
    assert last_coded(codec).step > 0
    assert errors_of(image, codec.decode(codestream)).rms < image.std()


@pytest.mark.parametrize("ratio", [6, 14, 60, 150])
def test_two_encodes_an_image_where_images_are_alike(ratio: float) -> None:
    """Spots lie elsewhere on each of these, so that they differ more than neighbours of a sweep."""
    images = [diffraction((400, 357), seed) for seed in range(12)]
    codec = HTJ2K(ratio)
    counts = []
    for image in images:
        assert 0.97 * wanted(image, ratio) - 1 <= len(codec.encode(image)) <= wanted(image, ratio)
        counts.append(codec.n_encodes)
    assert sum(counts[1:]) <= 2.5 * len(counts[1:])


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize("ratio", [6, 14, 60, 120])
def test_every_image_meets_the_ratio_or_says_why_not(kind: str, ratio: float) -> None:
    codec = HTJ2K(ratio)
    told = {"near": 0, "exact": 0, "missed": 0}
    for image in changing(kind):
        codestream = codec.encode(image)
        last = codec.last
        assert last is not None
        assert len(codestream) <= wanted(image, ratio)
        decoded = codec.decode(codestream)
        if last.exact:
            np.testing.assert_array_equal(decoded, image)
            told["exact"] += 1
        elif len(codestream) >= 0.97 * int(wanted(image, ratio)):
            assert last.miss is None
            told["near"] += 1
        else:
            # The finest step and no less than that, or the codestream jumps from step to step.
            assert last.miss in (AT_END, AT_JUMP)
            assert len(encode_lossless(image)) > wanted(image, ratio)
            told["missed"] += 1
    assert told["near"] + told["exact"] >= told["missed"]
    assert told["missed"] == 0 or kind in ("beam loss", "hot pixels in the dark")


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize("target", [{"max_error": 3}, {"max_error": 12}, {"rms": 1.5}, {"psnr": 85.0}])
def test_every_image_uses_its_error_bound_or_says_why_not(kind: str, target: dict[str, float]) -> None:
    codec = HTJ2K(**target)
    name, value = next(iter(target.items()))
    bound = 65535 / 10 ** (value / 20) if name == "psnr" else value
    for image in changing(kind):
        difference = np.abs(codec.decode(codec.encode(image)).astype(int) - image)
        got = difference.max() if name == "max_error" else math.sqrt((difference**2).mean())
        assert got <= bound * (1 + 1e-12)
        last = codec.last
        assert last is not None
        assert last.exact == (not difference.any())
        near = got >= bound * (0.9 if name == "max_error" else 0.97) * (1 - 1e-12)
        assert near == (last.miss is None and not last.exact)
        # A constant image takes no search.
        assert image.any() or codec.n_encodes == 1


@pytest.mark.parametrize("target", [{"ratio": 60}, {"rms": 1.5}])
def test_an_image_does_not_depend_on_what_came_before(target: dict[str, float]) -> None:
    """Quality is the same after a jump as without one, within the tolerance."""
    image = diffraction((300, 257), 77)
    alone, after = HTJ2K(**target), HTJ2K(**target)
    for other in changing("beam loss")[:9]:
        after.encode(other)
    sizes = [len(codec.encode(image)) for codec in (alone, after)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_dense_image_meets_target() -> None:
    image = dense((200, 150))
    size = len(HTJ2K(ratio=4).encode(image))
    assert 0.97 * wanted(image, 4) - 1 <= size <= wanted(image, 4)


@pytest.mark.parametrize("image", [np.full((70, 91), 5, np.uint16), np.zeros((64, 64), np.uint16), sparse((90, 70))])
def test_image_smaller_than_the_target_is_lossless(image: Image) -> None:
    codec = HTJ2K(ratio=10)
    codestream = codec.encode(image)
    assert len(codestream) <= wanted(image, 10)
    assert last_coded(codec).step == 0
    np.testing.assert_array_equal(codec.decode(codestream), image)


def test_empty_image_within_a_block() -> None:
    """It is lossless, and the block's later images still meet their targets."""
    images = [diffraction((200, 200), 1), np.zeros((200, 200), np.uint16), diffraction((200, 200), 2)]
    codec = HTJ2K(ratio=50)
    for image in images:
        codestream = codec.encode(image)
        assert len(codestream) <= wanted(image, 50)
        if image.any():
            assert len(codestream) >= 0.97 * wanted(image, 50) - 1
        else:
            np.testing.assert_array_equal(codec.decode(codestream), image)


def test_unreachable_ratio_names_both_sizes() -> None:
    image = dense((100, 120))
    codec = HTJ2K(ratio=200)
    with pytest.raises(BnlError, match=r"a ratio of 200 on an image of 120 x 100 pixels: \d+ bytes.*, 120 wanted"):
        codec.encode(image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (20, 11)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    image = dense(shape)
    with pytest.raises(BnlError, match="can't reach a ratio of 125"):
        HTJ2K().encode(image)
    codec = HTJ2K(rms=50.0)
    assert errors_of(image, codec.decode(codec.encode(image))).rms <= 50


def test_check() -> None:
    HTJ2K(ratio=125).check((500, 500), 65535)
    with pytest.raises(UsageError, match="saturation value 65536"):
        HTJ2K(rms=1).check((500, 500), 65536)
    with pytest.raises(UsageError, match="ratio of 125 on an image of 30 x 20 pixels"):
        HTJ2K().check((20, 30), 100)
    HTJ2K(max_error=1).check((20, 30), 100)


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 40, 500])
def test_max_error(bound: int) -> None:
    codec = HTJ2K(max_error=bound)
    for seed in range(3):
        image = diffraction((211, 160), seed, background=20)
        codestream = codec.encode(image)
        difference = np.abs(codec.decode(codestream).astype(int) - image)
        assert difference.max() <= bound
        assert errors_told(codec).greatest == difference.max()
        assert len(codestream) <= len(encode_lossless(image))


@pytest.mark.parametrize("bound", [2, 3, 10, 40, 90])
def test_max_error_is_used(bound: int) -> None:
    image = diffraction((211, 160), background=20)
    codec = HTJ2K(max_error=bound)
    codestream = codec.encode(image)
    assert 0.9 * bound <= np.abs(codec.decode(codestream).astype(int) - image).max() <= bound
    assert len(codestream) < len(encode_lossless(image))


@pytest.mark.parametrize("bound", [0, 0.5])
def test_no_error_allowed_is_lossless(bound: float) -> None:
    image = diffraction((60, 50))
    assert HTJ2K(max_error=bound).encode(image) == encode_lossless(image)


@pytest.mark.parametrize("bound", [0.4, 1.0, 1.7, 6.0])
def test_rms(bound: float) -> None:
    codec = HTJ2K(rms=bound)
    image = diffraction((211, 160), background=20)
    decoded = codec.decode(codec.encode(image))
    rms = math.sqrt(np.mean((decoded.astype(float) - image) ** 2))
    assert rms <= bound
    assert rms >= 0.97 * bound
    assert errors_told(codec).rms == pytest.approx(rms)


def test_psnr_is_of_65535() -> None:
    image = diffraction((211, 160), background=20)
    codec = HTJ2K(psnr=90.0)
    decoded = codec.decode(codec.encode(image))
    mean_square = np.mean((decoded.astype(float) - image) ** 2)
    psnr = 10 * math.log10(65535**2 / mean_square)
    assert 90 <= psnr <= 90.3
    assert errors_told(codec).psnr == pytest.approx(psnr)


def test_finer_than_the_finest_step_is_lossless() -> None:
    image = diffraction((60, 50))
    codec = HTJ2K(rms=0.01)
    assert codec.encode(image) == encode_lossless(image)
    assert errors_told(codec).psnr == math.inf


@pytest.mark.parametrize("target", [{"ratio": 30}, {"max_error": 12}, {"rms": 1.5}])
def test_blocks_are_independent(target: dict[str, float]) -> None:
    codec = HTJ2K(**target)
    images = [diffraction((150, 140), seed) for seed in range(4)]
    first = [codec.encode(image) for image in images]
    codec.encode(dense((90, 90)) // np.uint16(3000))
    codec.reset()
    assert [codec.encode(image) for image in images] == first
    assert [HTJ2K(**target).encode(images[0])] == first[:1]


@pytest.mark.parametrize("target", [{"ratio": 30}, {"max_error": 12}, {"rms": 1.5}, {"max_error": 0}])
def test_roundtrip_is_encode_and_decode(target: dict[str, float]) -> None:
    image = diffraction((150, 140))
    codec = HTJ2K(**target)
    np.testing.assert_array_equal(HTJ2K(**target).roundtrip(image.copy()), codec.decode(codec.encode(image)))
    assert len(last_coded(codec).codestream) > 0


@pytest.mark.parametrize("top", [65530, 65535])
@pytest.mark.parametrize("step", [2e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.25])
def test_saturated_pixels_do_not_wrap(top: int, step: float) -> None:
    rng = np.random.default_rng(3)
    image = rng.choice(np.array([0, 40, top], np.uint16), (120, 101), p=[0.5, 0.3, 0.2])
    image[20:60, 30:80] = top
    codestream = encode_at_step(image, step)
    decoded = openjph.decode(codestream)
    assert decoded[25:55, 35:75].min() > 10000
    assert np.abs(openjpeg.decode(codestream).astype(int) - decoded).max() <= 8


def test_saturated_pixels_within_an_error_bound() -> None:
    image = diffraction((120, 101))
    image[20:60, 30:80] = 65535
    codec = HTJ2K(max_error=30)
    assert np.abs(codec.decode(codec.encode(image)).astype(int) - image).max() <= 30
    assert last_coded(codec).step > 0


def test_decode_into_an_array_and_from_one() -> None:
    codec = HTJ2K(rms=2)
    image = diffraction((40, 51))
    codestream = codec.encode(image)
    out = np.empty_like(image)
    assert codec.decode(codestream, out) is out
    np.testing.assert_array_equal(codec.decode(np.frombuffer(codestream, np.uint8)), out)


@pytest.mark.parametrize("junk", [b"", b"junk" * 50])
def test_junk_is_an_error(junk: bytes) -> None:
    with pytest.raises(BnlError, match=f"these {len(junk)} bytes are no HTJ2K codestream"):
        HTJ2K().decode(junk)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.int32), np.zeros((2, 8, 8), np.uint16)])
def test_encode_takes_one_uint16_image(image: Image) -> None:
    with pytest.raises(ValueError, match="one uint16 image"):
        HTJ2K().encode(image)


def test_config() -> None:
    assert HTJ2K().get_config() == {"id": "bnl_htj2k", "ratio": 125}
    assert HTJ2K(0.5).level == 125
    for config in ({"ratio": 77}, {"max_error": 3}, {"rms": 1.5}, {"psnr": 80}):
        codec = get_codec({"id": "bnl_htj2k", **config})
        assert codec.get_config() == {"id": "bnl_htj2k", **config}
        assert codec.level == next(iter(config.values()))


def test_one_target_only() -> None:
    with pytest.raises(UsageError, match="one target, not ratio and rms"):
        HTJ2K(20, rms=3)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="rms must be a number"):
            HTJ2K(rms=bad)


def test_without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *rest: Any, **more: Any) -> Any:
        if name == "imagecodecs":
            raise ImportError("no such module")
        return real(name, *rest, **more)

    openjph.library.cache_clear()
    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(UsageError, match=r"pip install 'bnl-mpi\[htj2k\]'"):
        HTJ2K().check((500, 500), 100)


def test_errors_of_against_plain_numpy() -> None:
    rng = np.random.default_rng(11)
    for shape in ((1, 1), (700, 303), (3, 70000)):
        image, decoded = (rng.integers(0, 65536, shape).astype(np.uint16) for _ in range(2))
        difference = decoded.astype(np.int64) - image
        errors = errors_of(image, decoded)
        assert errors.greatest == np.abs(difference).max()
        assert errors.rms == pytest.approx(math.sqrt(np.mean(difference**2)), rel=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    exponent=st.floats(0.2, 3.0),
    curve=st.floats(-0.05, 0.05),
    aim=st.floats(-6.0, 6.0),
    ripple=st.floats(0.0, 0.01),
)
def test_search_meets_any_smooth_target(exponent: float, curve: float, aim: float, ripple: float) -> None:
    """Against a made-up value with a curved logarithm and a little ripple, which every position reaches."""
    tried: list[float] = []

    def measure(u: float) -> float:
        tried.append(u)
        return math.exp(exponent * u + curve * exponent * u * abs(u) + ripple * math.sin(400 * u))

    search = StepSearch(-12.0, 12.0, position=0.0)
    target = Target(math.exp(exponent * aim + curve * exponent * aim * abs(aim)), 0.03)
    found = search.run(measure, target)
    assert found.miss is None
    assert found.u in tried
    assert target.value * 0.97 <= measure(found.u) <= target.value
    assert len(tried) <= 17


def test_search_stops_at_a_jump_and_knows_it_the_next_time() -> None:
    tried: list[float] = []

    def measure(u: float) -> float:
        tried.append(u)
        return math.exp(u) * (1.0 if u < 1.234 else 1.5)

    target = Target(1.2 * math.exp(1.234), 0.03)
    search = StepSearch(-5.0, 5.0, position=0.0)
    found = search.run(measure, target)
    assert found.miss == AT_JUMP
    assert found.u is not None
    assert 1.234 - StepSearch.JUMP_WIDTH <= found.u < 1.234
    tried.clear()
    assert search.run(measure, target) == found
    assert len(tried) == 2


def test_search_finds_a_jump_wherever_it_moves() -> None:
    """No image pays for the trials of the ones before it."""
    rng = np.random.default_rng(5)
    search = StepSearch(-5.0, 5.0, position=0.0)
    for place in rng.uniform(0.5, 1.5, 40):
        tried: list[float] = []

        def measure(u: float, place: float = place, tried: list[float] = tried) -> float:
            tried.append(u)
            return math.exp(u) * (1.0 if u < place else 1.5)

        found = search.run(measure, Target(1.2 * math.exp(place), 0.03))
        assert found.u is not None
        assert found.miss == AT_JUMP
        assert place - StepSearch.JUMP_WIDTH <= found.u < place
        assert len(tried) <= 26


def test_search_tries_once_where_images_are_alike() -> None:
    """And follows what drifts; the noise is a tenth of the tolerance."""
    rng = np.random.default_rng(6)
    search = StepSearch(-5.0, 5.0, position=0.0)
    counts = []
    for k in range(60):
        tried: list[float] = []
        factor = math.exp(0.004 * k + rng.normal(0, 0.003))

        def measure(u: float, factor: float = factor, tried: list[float] = tried) -> float:
            tried.append(u)
            return factor * math.exp(0.8 * u)

        assert search.run(measure, Target(2.0, 0.03)).miss is None
        counts.append(len(tried))
    assert sum(counts[1:]) <= 1.1 * len(counts[1:])


def test_search_gives_up_and_says_so() -> None:
    """A value without order: each position has its own, and none is near the target."""
    tried: list[float] = []

    def measure(u: float) -> float:
        tried.append(u)
        return 0.5 if len(tried) % 2 else 3.0 + len(tried)

    search = StepSearch(-5.0, 5.0, position=0.0)
    search.JUMP_WIDTH = 0.0  # type: ignore[misc]
    found = search.run(measure, Target(1.0, 0.03))
    assert (found.u is not None, found.miss) == (True, OUT_OF_TRIALS)
    assert len(tried) == MOST_TRIALS


def test_search_says_when_nothing_meets_the_target() -> None:
    tried: list[float] = []

    def measure(u: float) -> float:
        tried.append(u)
        return 10.0

    assert StepSearch(-5.0, 5.0, position=0.0).run(measure, Target(9.0, 0.03)).u is None
    assert tried[-1] == -5.0
