"""HCompress against astropy, which calls the FITS library's own code."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from types import ModuleType
from typing import Any

import numcodecs
import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.hdu.compressed.utils import _tile_shape, _validate_tile_shape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnl_mpi.codecs.hcompress import HCompress, tile_rows
from bnl_mpi.errors import UsageError
from bnl_mpi.pixels import kernels, kernels_numpy

SCALES = [1, 2, 3, 12, 16, 17, 100, 1000]
KINDS = ["poisson", "noise", "sparse", "constant", "edge"]
IMPLEMENTATIONS = [kernels_numpy, *([kernels] if kernels.COMPILED else [])]


def by_astropy(image: np.ndarray, scale: int) -> np.ndarray:
    """Through a FITS file in memory, with astropy's own choice of tiles."""
    stream = BytesIO()
    compressed = fits.CompImageHDU(image.copy(), compression_type="HCOMPRESS_1", hcomp_scale=scale)
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(stream)
    stream.seek(0)
    with fits.open(stream) as hdus:
        return np.array(hdus[1].data, np.int32)


def make_image(kind: str, shape: tuple[int, int], top: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Any]] = {
        "poisson": lambda: np.minimum(rng.poisson(min(top, 10**6) / 4, shape), top),
        "noise": lambda: rng.integers(0, top, shape, endpoint=True),
        "sparse": lambda: np.where(rng.random(shape) < 0.02, top, 0),
        "constant": lambda: np.full(shape, top),
        "edge": lambda: np.where(np.arange(shape[1]) < shape[1] // 2, 0, top) + np.zeros(shape, int),
    }
    return np.asarray(makers[kind]()).astype(np.int32)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [5, 65535, 2**31 - 1])
def test_round_trip_equals_astropy(kind: str, scale: int, top: int) -> None:
    for shape in [(4, 4), (5, 31), (16, 64), (33, 50), (51, 47), (67, 130)]:
        image = make_image(kind, shape, top)
        expected = by_astropy(image, scale)
        np.testing.assert_array_equal(HCompress(scale).roundtrip(image), expected, err_msg=f"{shape}")


@given(
    seed=st.integers(0, 2**32 - 1),
    ny=st.integers(4, 70),
    nx=st.integers(4, 90),
    kind=st.sampled_from(KINDS),
    top=st.integers(0, 2**31 - 1),
    scale=st.one_of(st.integers(1, 40), st.integers(1, 100_000)),
)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_round_trip_equals_astropy_on_any_image(seed: int, ny: int, nx: int, kind: str, top: int, scale: int) -> None:
    if ny <= 30 and nx < ny and 0 < ny % nx < 4:
        ny = nx  # astropy refuses its own tiles there
    image = make_image(kind, (ny, nx), top, seed)
    np.testing.assert_array_equal(HCompress(scale).roundtrip(image.copy()), by_astropy(image, scale))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS, ids=["numpy", "compiled"][: len(IMPLEMENTATIONS)])
@pytest.mark.parametrize("rows", [5, 13, 23, 50])
def test_tiles_of_any_height(impl: ModuleType, rows: int) -> None:
    image = make_image("poisson", (50, 77), 4000)
    expected = image.copy()
    for y in range(0, 50, rows):
        expected[y : y + rows] = 0
        tile = image[y : y + rows]
        hdu = fits.CompImageHDU(tile.copy(), compression_type="HCOMPRESS_1", hcomp_scale=12, tile_shape=tile.shape)
        stream = BytesIO()
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
        stream.seek(0)
        with fits.open(stream) as hdus:
            expected[y : y + rows] = hdus[1].data
    impl.hcompress_roundtrip(image, 12, rows)
    np.testing.assert_array_equal(image, expected)


def test_wide_images_take_32_or_64_bits_tile_by_tile() -> None:
    """A hot pixel makes one tile's sums leave 32 bits; the tiles about it stay narrow."""
    image = make_image("poisson", (64, 1100), 60000)
    image[20, 700] = 2**30
    np.testing.assert_array_equal(HCompress(16).roundtrip(image.copy()), by_astropy(image, 16))
    for hot in [2**16, 2**17, 2**18, 2**19, 2**20]:  # about where 32 bits end for this width
        full = make_image("constant", (16, 1100), hot)
        full[::3, ::5] = 0
        np.testing.assert_array_equal(HCompress(7).roundtrip(full.copy()), by_astropy(full, 7))


def test_tile_rows_are_astropys() -> None:
    for nx in (100, 5, 700):
        for ny in range(4, 601):
            header = {"NAXIS": 2, "NAXIS1": nx, "NAXIS2": ny}
            try:
                rows, _ = _validate_tile_shape(tile_shape=(), compression_type="HCOMPRESS_1", image_header=header)
            except ValueError:
                assert ny <= 30
                assert tile_rows((ny, nx)) == ny
                continue
            assert min(tile_rows((ny, nx)), ny) == min(rows, ny)
    assert tile_rows((166323, 100)) == 17  # the lowest height that none of the listed ones suits


@pytest.mark.parametrize("shape", [(4, 9), (40, 33), (130, 61), (28, 13)])
@pytest.mark.parametrize("scale", [1, 16])
def test_a_codestream_is_a_fits_file(shape: tuple[int, int], scale: int) -> None:
    codec = HCompress(scale)
    image = make_image("noise", shape, 3000)
    kept = image.copy()
    codestream = codec.encode(image)
    np.testing.assert_array_equal(image, kept)
    with fits.open(BytesIO(codestream)) as hdus:
        header = hdus[1]._bintable.header
        assert header["ZCMPTYPE"] == "HCOMPRESS_1"
        assert tuple(_tile_shape(header)) == (tile_rows(shape), shape[1])
        in_fits = np.array(hdus[1].data)
    decoded = codec.decode(codestream)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, in_fits)
    np.testing.assert_array_equal(codec.roundtrip(image.copy()), decoded)
    out = np.zeros(shape, np.int32)
    assert codec.decode(codestream, out) is out
    np.testing.assert_array_equal(out, decoded)
    if scale == 1:
        np.testing.assert_array_equal(decoded, image)
    assert codec.encode(image) == codestream


def test_round_trip_works_in_place() -> None:
    image = make_image("noise", (40, 40), 3000)
    assert HCompress().roundtrip(image) is image


@pytest.mark.parametrize(("asked", "scale"), [(0, 16), (0.5, 16), (-3, 16), (1, 1), (16.9, 16), (40, 40)])
def test_scales_below_1_mean_16(asked: float, scale: int) -> None:
    assert HCompress(asked).level == scale


def test_the_registry_gives_the_codec_back() -> None:
    codec = numcodecs.get_codec({"id": "bnl_hcompress", "scale": 12})
    assert codec == HCompress(12)
    assert codec.get_config() == {"id": "bnl_hcompress", "scale": 12}


@pytest.mark.parametrize(
    ("shape", "limit", "why"),
    [((3, 100), 100, "at least 4 x 4"), ((100, 3), 100, "at least 4 x 4"), ((100, 100), 2**31 - 1, "up to")],
)
def test_what_cannot_be_coded_is_refused(shape: tuple[int, int], limit: int, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        HCompress(16).check(shape, limit)


def test_the_greatest_limit_leaves_room_for_overshoot() -> None:
    """At the limit that check allows, no image of these wraps around."""
    for scale in [2, 16, 1000, 10**6]:
        codec = HCompress(scale)
        limit = 2**31 - 1 - scale - 64
        codec.check((50, 50), limit)
        with pytest.raises(UsageError):
            codec.check((50, 50), limit + 1)
        for kind in KINDS:
            image = make_image(kind, (50, 70), limit)
            assert codec.roundtrip(image).min() > -(2**30)


def test_too_large_a_scale_is_refused() -> None:
    with pytest.raises(UsageError, match="too large"):
        HCompress(2**31)
