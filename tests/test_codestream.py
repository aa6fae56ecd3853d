"""Headers of stored codestreams are held against the set before a library, which trusts them, decodes anything."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from codec_sets import write_input
from pictures import diffraction
from running import bnl

from bnl_mpi.codecs import codestream, openjpeg, openjph
from bnl_mpi.codecs.codestream import read_header
from bnl_mpi.codecs.hcompress import HCompress
from bnl_mpi.codecs.htj2k import HTJ2K
from bnl_mpi.codecs.jpeg2000 import J2K, J2K2
from bnl_mpi.errors import InputError
from bnl_mpi.output import record

pytest.importorskip("imagecodecs")

Image = np.ndarray[Any, Any]
SHAPE = (60, 71)
SHAPES = [(1, 1), (3, 5), (33, 31), SHAPE, (700, 1303)]


def coded(kind: str, image: Image) -> bytes:
    makers: dict[str, Callable[[], bytes]] = {
        "htj2k": lambda: openjph.encode_at_step(image, 1e-4),
        "htj2k, finest": lambda: openjph.encode_at_step(image, 1.05e-5),
        "htj2k, coarsest": lambda: openjph.encode_at_step(image, 0.25),
        "htj2k, lossless": lambda: openjph.encode_lossless(image),
        "j2k": lambda: openjpeg.encode(image, [8, 4, 2], irreversible=False),
        "j2k2": lambda: openjpeg.encode(image, [3], irreversible=True),
    }
    return makers[kind]()


KINDS = ["htj2k", "htj2k, finest", "htj2k, coarsest", "htj2k, lossless", "j2k", "j2k2"]


def checked(kind: str, data: bytes, shape: tuple[int, int]) -> None:
    (HTJ2K() if kind.startswith("htj2k") else J2K()).check_codestream(data, shape)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2)])
def test_a_single_pixel_needs_no_decomposition(shape: tuple[int, int]) -> None:
    """As OpenJPH 0.32 codes it; any other image has as many as it is to have."""
    data = bytearray(coded("htj2k", np.full(shape, 7, np.uint16)))
    data[COD + 9] = 0
    # Of the quantiser's steps, one a band, the first is left.
    steps = data.index(b"\xff\x5c") + 2
    data[steps : steps + int.from_bytes(data[steps : steps + 2], "big")] = b"\x00\x05" + data[steps + 2 : steps + 5]
    if shape == (1, 1):
        checked("htj2k", bytes(data), shape)
    else:
        with pytest.raises(InputError, match="of 0 decompositions, where such an image has 1"):
            checked("htj2k", bytes(data), shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_header_is_what_glymur_reads(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    openjpeg.library()
    import glymur

    image = diffraction(shape) * np.uint16(9)
    image[0, 0] = 65535
    data = coded(kind, image)
    checked(kind, data, shape)
    found = read_header(data)
    (tmp_path / "x.j2k").write_bytes(data)
    segments = {s.marker_id: s for s in glymur.Jp2k(tmp_path / "x.j2k").get_codestream().segment}
    siz, cod = segments["SIZ"], segments["COD"]
    assert found.shape == (siz.ysiz, siz.xsiz) == shape
    assert (found.bits, found.signed) == (siz.bitdepth[0], siz.signed[0]) == (16, False)
    assert (found.layers, found.decompositions) == (cod.layers, cod.num_res)
    assert found.reversible == (cod.xform == 1) == (kind in ("htj2k, lossless", "j2k"))
    assert found.high_throughput == kind.startswith("htj2k")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_types_of_lossless_chunks(dtype: str) -> None:
    data = openjph.encode_lossless(np.ones(SHAPE, dtype))
    np.testing.assert_array_equal(openjph.decode_stored(data, SHAPE, dtype), np.ones(SHAPE, dtype))
    for other in {"uint8", "int8", "uint16", "int16"} - {dtype}:
        with pytest.raises(InputError, match=f"-bit pixels, where the set has images of {other}"):
            openjph.decode_stored(data, SHAPE, other)


SIZ, COD = 6, 55
"""Where the segments' bodies begin in an HTJ2K codestream, less 2 for COD's marker."""


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"\x00\x00", "no JPEG 2000 codestream"),
        (SIZ, b"\x00\x00", "don't agree on what it is coded with"),
        (SIZ + 2, (72).to_bytes(4, "big"), "72 x 60 pixels in tiles of 71 x 60"),
        (SIZ + 2, (2**31).to_bytes(4, "big"), "not in one tile from the origin"),
        (SIZ + 10, (1).to_bytes(4, "big"), "not in one tile from the origin"),
        (SIZ + 18, (1).to_bytes(4, "big"), "in tiles of 1 x 60"),
        (SIZ + 34, (2).to_bytes(2, "big"), "of 2 components"),
        (SIZ + 36, b"\x0b", "12-bit pixels, where the set has images of uint16"),
        (SIZ + 36, b"\x8f", "16-bit pixels, where the set has images of uint16"),
        (SIZ + 37, b"\x00", "not in one tile from the origin"),
        (COD + 4 + 5, b"\x20", "QCD doesn't fit its 32 decompositions"),
        (COD + 4 + 6, b"\x0a", "COD tells of settings"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(at: int, value: bytes, message: str) -> None:
    data = bytearray(coded("htj2k", diffraction(SHAPE)))
    assert data[2:4] == b"\xff\x51"
    assert data[COD : COD + 2] == b"\xff\x52"
    data[at : at + len(value)] = value
    with pytest.raises(InputError) as error:
        checked("htj2k", bytes(data), SHAPE)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_codestreams_of_other_images_and_codecs() -> None:
    image = diffraction(SHAPE)
    with pytest.raises(InputError, match="of 71 x 60 pixels, where the set has images of 60 x 71"):
        checked("htj2k", coded("htj2k", image), SHAPE[::-1])
    with pytest.raises(InputError, match="a codestream of HTJ2K, where the set tells of another codec"):
        checked("j2k", coded("htj2k", image), SHAPE)
    with pytest.raises(InputError, match="a codestream of JPEG 2000, where"):
        checked("htj2k", coded("j2k", image), SHAPE)
    for codec in (J2K(4), J2K2(4), HTJ2K(4), HCompress(4)):
        typed = image.astype(codec.image_dtype)
        assert codec.decode_stored(codec.encode(typed), SHAPE).shape == SHAPE
        with pytest.raises(InputError, match="pixels, "):
            codec.decode_stored(codec.encode(typed[:-1]), SHAPE)


def test_a_codestream_cut_anywhere() -> None:
    data = coded("htj2k", diffraction(SHAPE))
    for end in range(0, data.index(b"\xff\x93")):
        with pytest.raises(InputError):
            checked("htj2k", data[:end], SHAPE)


ATTACK = """
import random, resource, sys
from test_codestream import KINDS, SHAPE, checked, coded, diffraction
from bnl_mpi.codecs import openjpeg, openjph
from bnl_mpi.errors import BnlError, InputError

resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30),) * 2)
random.seed(sys.argv[1])
image = diffraction(SHAPE)
for kind in KINDS:
    data = coded(kind, image)
    header = data.index(b"\\xff\\x93")
    decoded = refused = 0
    for case in range(int(sys.argv[2])):
        bad = bytearray(data)
        for _ in range(random.choice((1, 1, 2, 4))):
            at = random.randrange(2, header if case % 4 else len(data))
            bad[at] = random.choice((bad[at] ^ 1 << random.randrange(8), random.randrange(256), 0, 255))
        if case % 16 == 0:
            bad = bad[: random.randrange(2, len(bad))]
        print(kind, case, bad.hex(), flush=True)
        try:
            checked(kind, bytes(bad), SHAPE)
        except InputError:
            refused += 1
            continue
        try:
            (openjph if kind.startswith("htj2k") else openjpeg).decode(bytes(bad))
        except BnlError:
            pass
        decoded += 1
    assert decoded > 20 and refused > 20, (decoded, refused)
print("done")
"""


@pytest.mark.parametrize(("seed", "n"), [(1, 300)])
def test_no_altered_header_brings_a_library_down(seed: int, n: int) -> None:
    """In a child with limits on time and memory; its last line but for "done" is the codestream that ended it."""
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", ATTACK, str(seed), str(n)],
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    *_, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, "done"), f"status {done.returncode}: {last}\n{done.stderr[-2000:]}"


# Sets


def altered(path: Path, image: int, change: Callable[[bytearray], None], *, squash: bool) -> None:
    """Change a stored codestream and all checksums that would tell."""
    with h5py.File(path, "r+") as h5:
        if squash:
            dataset = h5["/entry/data"][sorted(h5["/entry/data"])[image]]
            data = bytearray(dataset[()].tobytes())
            change(data)
            dataset[...] = np.frombuffer(data, np.uint8)
        else:
            dataset = h5["/entry/data/data"]
            data = bytearray(dataset.id.read_direct_chunk((image, 0, 0))[1])
            change(data)
            dataset.id.write_direct_chunk((image, 0, 0), bytes(data))
        h5["/entry/bnl_mpi/chunk_crc32"][image] = zlib.crc32(data)
        record.seal(h5)


@pytest.mark.parametrize(
    "words", [["-T", "12", "-c", "htj2k"], ["-c", "htj2k"], ["-T", "12", "-q"], ["-J", "12", "-q"], ["-K", "12", "-q"]]
)
def test_expand_refuses_in_one_line(words: list[str], tmp_path: Path) -> None:
    frames = write_input(tmp_path)
    bnl("-i", frames, "-s", "2", "-d", "3", *words, "-o", "set", cwd=tmp_path)

    def wider(data: bytearray) -> None:
        """SIZ and its one tile tell of 65,666 columns."""
        for at in (SIZ + 2, SIZ + 18):
            data[at + 1] = 1

    squash = "-q" in words
    altered(tmp_path / f"set{'_squash' * squash}_000002.h5", 1, wider, squash=squash)
    done = bnl("expand", "set_master.h5", "-o", "full", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "->" not in line]
    assert len(lines) == 1, done.stderr
    assert "000002.h5: image 5: can't be read: a codestream of 65666 x 150 pixels, where the set has" in lines[0]
    assert "restore the file" in lines[0]


def test_codestream_module_needs_no_library() -> None:
    code = "import sys; from bnl_mpi.codecs import codestream; assert not {'imagecodecs', 'glymur'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert codestream.check.__doc__
