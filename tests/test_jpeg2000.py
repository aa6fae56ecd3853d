"""`-J` and `-K` against glymur's own way of writing and reading a file, and the choice of the library."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from pictures import diffraction

from bnl_mpi.codecs import openjpeg
from bnl_mpi.codecs.jpeg2000 import J2K, J2K2, ladder
from bnl_mpi.errors import BnlError


def test_ladder() -> None:
    assert ladder(125) == [4000, 2000, 1000, 500, 250, 125]
    assert ladder(120) == [7680, 3840, 1920, 960, 480, 240, 120]
    assert ladder(360) == [5760, 2880, 1440, 720, 360]
    assert ladder(3999) == [7998, 3999]
    assert ladder(4000) == [4000]
    assert ladder(9000) == [9000]


def by_glymur(path: Path, image: np.ndarray, ratios: list[float], *, irreversible: bool) -> tuple[bytes, np.ndarray]:
    openjpeg.library()
    import glymur

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = glymur.Jp2k(path, data=image, cratios=ratios, irreversible=irreversible)
        return path.read_bytes(), written[:]


@pytest.mark.parametrize("shape", [(257, 301), (64, 64), (33, 500), (100, 41)])
@pytest.mark.parametrize("ratio", [5, 12.5, 40])
@pytest.mark.parametrize("kind", [J2K, J2K2])
def test_equal_to_glymur(tmp_path: Path, shape: tuple[int, int], ratio: float, kind: type) -> None:
    rng = np.random.default_rng(7)
    image = rng.poisson(4, shape).astype(np.uint16)
    image[rng.random(shape) < 0.003] = 65534
    codec = kind(ratio)
    try:
        codestream = codec.encode(image)
    except BnlError as error:
        assert "can't reach a ratio" in str(error)  # noqa: PT017
        assert image.nbytes / ratio < 400
        return
    expected, decoded = by_glymur(tmp_path / "x.j2k", image, codec.layers(), irreversible=kind is J2K2)
    assert codestream == expected
    np.testing.assert_array_equal(codec.decode(codestream), decoded)
    assert codec.decode(codestream).dtype == np.uint16


@pytest.mark.parametrize("shape", [(31, 31), (16, 70), (5, 9), (4, 4), (1, 1), (2, 300)])
def test_small_images_take_fewer_resolutions(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).poisson(9, shape).astype(np.uint16)
    assert 2 ** (openjpeg.resolutions(shape) - 1) <= min(shape)
    for irreversible in (False, True):
        stream = openjpeg.encode(image, [1.0], irreversible=irreversible)
        decoded = openjpeg.decode(stream)
        assert decoded.shape == shape
        assert np.abs(decoded.astype(int) - image).max() <= (2 if irreversible else 0)


def test_a_ratio_that_cannot_be_reached(tmp_path: Path) -> None:
    image = np.random.default_rng(1).poisson(9, (60, 60)).astype(np.uint16)
    for codec in (J2K(100_000), J2K2(100_000)):
        with pytest.raises(BnlError, match=r"can't reach a ratio of 100000 .* give a smaller ratio"):
            codec.encode(image)


@pytest.mark.parametrize("kind", [J2K, J2K2])
@pytest.mark.parametrize("ratio", [6, 14, 60, 120, 360])
def test_what_misses_its_ratio_is_told(kind: type[J2K | J2K2], ratio: float) -> None:
    """Within 3 % of it and a few bytes, or without loss, or counted; OpenJPEG may be over it by a little."""
    shape = (300, 257)
    dark = np.random.default_rng(1).poisson(0.3, shape).astype(np.uint16)
    for image in (diffraction(shape), diffraction(shape, background=30), dark, np.zeros(shape, np.uint16)):
        codec = kind(ratio)
        passed = codec.run(image.copy(), keep=True)
        assert passed.codestream is not None
        assert passed.image is not None
        wanted = image.nbytes / ratio
        near = abs(len(passed.codestream) - wanted) <= 0.03 * wanted + 16
        same = np.array_equal(passed.image, image)
        assert passed.exact == (same and not near)
        assert (passed.miss is None) == (near or same)
        assert len(passed.codestream) <= 1.03 * wanted + 16


def test_configuration_round_trip() -> None:
    for codec in (J2K(120), J2K2(7.5)):
        again = numcodecs.get_codec(codec.get_config())
        assert again.get_config() == codec.get_config()
        assert again.layers() == codec.layers()
    assert J2K(0.5).ratio == 125


def test_junk_is_one_error() -> None:
    with pytest.raises(openjpeg.CodestreamError, match="can't decode"):
        openjpeg.decode(b"no codestream at all" * 10)


def test_threads_change_nothing() -> None:
    image = np.random.default_rng(3).poisson(4, (300, 310)).astype(np.uint16)
    assert J2K(20, threads=2).encode(image) == J2K(20).encode(image)


def test_pillow_s_library_where_the_system_has_none() -> None:
    code = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "import numpy as np; from bnl_mpi.codecs import openjpeg\n"
        "path = openjpeg.find_library(); assert path and 'pillow' in path.lower(), path\n"
        "image = np.arange(4096, dtype='u2').reshape(64, 64)\n"
        "assert (openjpeg.decode(openjpeg.encode(image, [1.0], irreversible=False)) == image).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_library_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fake.so").write_text("nothing")
    monkeypatch.setenv("BNL_MPI_OPENJPEG", str(tmp_path / "fake.so"))
    with pytest.raises(BnlError, match="not a loadable OpenJPEG library"):
        openjpeg.find_library()
