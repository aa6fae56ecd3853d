"""Squash files: what they hold opens in other programs and is what the run decoded."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from codec_sets import CODECS, SHAPE, write_input
from running import bnl
from small_sets import read_images

from bnl_mpi import codecs

imagecodecs = pytest.importorskip("imagecodecs")

LABELS = {"h": "hcomp", "j": "j2k", "k": "j2k"}

Image = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=list(CODECS))
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(codec, folder of a set `set` of six images in three blocks that kept its codestreams)."""
    folder = tmp_path_factory.mktemp("kept")
    words = CODECS[request.param]
    bnl("-i", write_input(folder), "-s", "2", "-d", "2", *words, "-c", "bslz4", "-q", "-o", "set", cwd=folder)
    return request.param, folder


def codestreams(folder: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """All codestreams with their attributes, through the master's links."""
    with h5py.File(folder / "set_master.h5") as h5:
        groups = [h5["/entry/squash"][name] for name in sorted(h5["/entry/squash"])]
        return [(group[name][()].tobytes(), dict(group[name].attrs)) for group in groups for name in sorted(group)]


def decoders(codec: str) -> list[Any]:
    """Decoders of other programs, the exact one first."""
    if codec.startswith("hcompress"):
        from astropy.io import fits

        return [lambda data: fits.open(BytesIO(data))[1].data]
    if codec.startswith("j2k"):
        return [imagecodecs.jpeg2k_decode]
    # OpenJPEG decodes HTJ2K too, and rounds otherwise.
    return [imagecodecs.htj2k_decode, imagecodecs.jpeg2k_decode]


def test_other_programs_decode_what_was_stored(kept: tuple[str, Path]) -> None:
    codec, folder = kept
    stored = read_images(folder / "set_master.h5").astype(np.int64)
    mark = np.iinfo("uint32" if "4 bytes" in codec else "uint16").max
    found = codestreams(folder)
    assert len(found) == len(stored) == 6
    for (data, attributes), image in zip(found, stored, strict=True):
        valid = image != mark
        assert 0 < valid.sum() < valid.size
        for k, decode in enumerate(decoders(codec)):
            decoded = np.clip(np.asarray(decode(data)).astype(np.int64), 0, 9000)
            assert decoded.shape == tuple(attributes["shape"]) == SHAPE
            tolerance = 1 if k or codec == "j2k2" else 0
            assert np.abs(decoded - image)[valid].max() <= tolerance


def test_each_codestream_tells_what_it_is(kept: tuple[str, Path]) -> None:
    codec, folder = kept
    label = "htj2k" if codec.startswith("htj2k") else LABELS[codec[0]]
    for data, attributes in codestreams(folder):
        assert attributes["compression"] == label
        config = json.loads(attributes["codec"])
        assert attributes["compression_level"] in config.values()
        assert "threads" not in config
        decoded = codecs.from_config(config).decode(data)
        assert decoded.dtype == attributes["dtype"]


def test_names_are_global_image_numbers(kept: tuple[str, Path]) -> None:
    _, folder = kept
    names = []
    for number in (1, 2, 3):
        with h5py.File(folder / f"set_squash_{number:06d}.h5") as h5:
            names += list(h5["/entry/data"])
            assert all(h5["/entry/data"][name].dtype == np.uint8 for name in h5["/entry/data"])
    assert names == [f"data_{k:06d}" for k in range(1, 7)]


def test_invalid_pixels_are_listed_and_gaps_only_once(kept: tuple[str, Path]) -> None:
    _, folder = kept
    stored = read_images(folder / "set_master.h5")
    marks = stored == np.iinfo(stored.dtype).max
    always = marks.all(axis=0)
    for number in (1, 2, 3):
        with h5py.File(folder / f"set_squash_{number:06d}.h5") as h5:
            record = h5["/entry/bnl_mpi"]
            blank = record["blank"][()] != 0
            lists = np.split(record["invalid_pixels"][()], record["invalid_ends"][:-1].astype(int))
        assert blank.any()
        assert not (blank & ~always).any()
        for pixels, image in zip(lists, marks[2 * number - 2 :], strict=False):
            np.testing.assert_array_equal(pixels, np.flatnonzero(image & ~blank))


def test_a_ratio_is_reached_in_every_codestream(kept: tuple[str, Path]) -> None:
    codec, folder = kept
    if codec not in ("j2k", "j2k2", "htj2k"):
        pytest.skip("no ratio was asked for")
    sizes = [len(data) for data, _ in codestreams(folder)]
    wanted = 2 * SHAPE[0] * SHAPE[1] / 12
    assert max(sizes) <= (1.0 if codec == "htj2k" else 1.1) * wanted
    assert min(sizes) >= (0.97 if codec == "htj2k" else 0.85) * wanted
