"""A seeded attack on the kernels that read stored chunks: `python -m tests.fuzz --cases 200000 --seed 1`.

Each case damages a chunk (bits, lengths, block sizes, cuts, pieces of other chunks) and has it decoded, alone or as
one of a sum.  The outcome is some array or a ValueError; what lies on either side of what is written, and the chunk
itself, must stay as they were.  Built with AddressSanitizer (`make sanitize`) reads outside of the chunk end it too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnl_mpi.pixels import fused, kernels

RED_ZONE = 256
"""Bytes on each side of a guarded buffer."""
SHAPES = ((1, 1), (1, 8), (3, 5), (8, 64), (37, 61), (64, 67))
BLOCKS = (0, 8, 64, 1024)
"""Elements a block; 0 is the filter's own choice."""
KINDS = ("bslz4", "lz4", "sum")


class Guarded:
    """An array of `shape` and `dtype` between two red zones; its own memory, so that a sanitizer sees its ends too."""

    def __init__(self, shape: tuple[int, ...], dtype: str | np.dtype[np.unsignedinteger[Any]]) -> None:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._memory = np.full(n_bytes + 2 * RED_ZONE, 77, np.uint8)
        self.array = self._memory[RED_ZONE : RED_ZONE + n_bytes].view(dtype).reshape(shape)

    def is_untouched(self) -> bool:
        return bool((self._memory[:RED_ZONE] == 77).all() and (self._memory[-RED_ZONE:] == 77).all())


@dataclass(frozen=True)
class Case:
    """One attack: what would be decoded, and the damaged chunk."""

    kind: str
    shape: tuple[int, int]
    dtype: np.dtype[np.unsignedinteger[Any]]
    chunk: bytes


def _contents(rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[np.unsignedinteger[Any]]) -> np.ndarray:
    top = int(np.iinfo(dtype).max)
    makers: tuple[Callable[[], np.ndarray], ...] = (
        lambda: np.zeros(shape),
        lambda: rng.poisson(0.02, shape),
        lambda: np.where(rng.random(shape) < 0.05, top, rng.poisson(3, shape)),
        lambda: rng.integers(0, top, shape, endpoint=True),
    )
    return np.ascontiguousarray(makers[rng.integers(len(makers))]().astype(dtype))


def _encode(kind: str, array: np.ndarray, block: int) -> bytes:
    """By the reference libraries: none of the code that is attacked."""
    import h5py
    import hdf5plugin

    how = hdf5plugin.LZ4(nbytes=block * array.itemsize) if kind == "lz4" else hdf5plugin.Bitshuffle(block, cname="lz4")
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("d", data=array, chunks=array.shape, **dict(how))
        dataset.flush()
        return bytes(dataset.id.read_direct_chunk((0,) * array.ndim)[1])


def _flip(rng: np.random.Generator, data: bytearray, _other: bytes) -> None:
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def _length(rng: np.random.Generator, data: bytearray, _other: bytes) -> None:
    """A length as both formats have them (4 or 8 bytes, big-endian) at the header's places or anywhere."""
    at = (0, 4, 8, 12, 16, int(rng.integers(max(1, len(data)))))[rng.integers(6)]
    values = (0, 1, 7, 8, 255, 8192, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data), rng.integers(2**32))
    data[at : at + 4] = int(values[rng.integers(len(values))]).to_bytes(4, "big")


def _cut(rng: np.random.Generator, data: bytearray, _other: bytes) -> None:
    del data[rng.integers(len(data) + 1) :]


def _remove(rng: np.random.Generator, data: bytearray, _other: bytes) -> None:
    at = int(rng.integers(len(data) + 1))
    del data[at : at + int(rng.integers(1, 20))]


def _insert(rng: np.random.Generator, data: bytearray, _other: bytes) -> None:
    at = int(rng.integers(len(data) + 1))
    data[at:at] = bytes([int(rng.integers(256))]) * int(rng.integers(1, 300))


def _splice(rng: np.random.Generator, data: bytearray, other: bytes) -> None:
    at, start = int(rng.integers(len(data) + 1)), int(rng.integers(len(other) + 1))
    data[at:] = other[start:]


MUTATIONS = (_flip, _flip, _length, _length, _cut, _remove, _insert, _splice)


def _corpus(rng: np.random.Generator) -> list[tuple[str, tuple[int, int], np.dtype[np.unsignedinteger[Any]], bytes]]:
    """Sound chunks of every kind, type and block size."""
    return [
        (kind, shape, np.dtype(name), _encode("lz4" if kind == "lz4" else "bslz4", frame, block))
        for kind in KINDS
        for shape in SHAPES
        for name in ("u1", "u2", "u4")
        for block in BLOCKS
        for frame in [_contents(rng, shape, np.dtype(name))]
    ]


def cases(n: int, seed: int) -> list[Case]:
    """`n` cases that depend on the seed alone."""
    rng = np.random.default_rng(seed)
    corpus = _corpus(rng)
    made = []
    for _ in range(n):
        kind, shape, dtype, chunk = corpus[rng.integers(len(corpus))]
        data = bytearray(chunk)
        for _ in range(rng.integers(1, 4)):
            if data:
                MUTATIONS[rng.integers(len(MUTATIONS))](rng, data, corpus[rng.integers(len(corpus))][3])
        made.append(Case(kind, shape, dtype, bytes(data)))
    return made


def attack(case: Case) -> bool:
    """Decode the damaged chunk; returns whether it was refused.  AssertionError where memory beside it changed."""
    given = np.frombuffer(case.chunk, np.uint8).copy()
    refused = True
    with suppress(ValueError):
        if case.kind == "sum":
            _sum(given, case)
        else:
            out = Guarded(case.shape, case.dtype)
            decode = kernels.bslz4_decode if case.kind == "bslz4" else kernels.lz4_decode
            _guarding([out], lambda: decode(given, out.array))
        refused = False
    assert given.tobytes() == case.chunk, "the chunk itself was changed"
    return refused


def _guarding(written: list[Guarded], call: Callable[[], object]) -> None:
    """Look at the red zones, be the chunk refused or not."""
    try:
        call()
    finally:
        assert all(w.is_untouched() for w in written), "memory beside the output was written"


def _sum(given: np.ndarray, case: Case) -> None:
    ny, nx = case.shape
    binned = (-(-ny // 2), -(-nx // 2))
    total, flags, image = Guarded(binned, "u8"), Guarded(binned, "u1"), Guarded(binned, "u2")
    total.array[...], flags.array[...] = 0, 0
    sound = bytes(kernels.bslz4_encode(np.zeros(case.shape, case.dtype)))
    ending = kernels.Ending(None, None, 1.0, 9, False, image.array, 65535)
    _guarding(
        [total, flags, image],
        lambda: fused.bslz4_reduce(
            [sound, given], case.shape, case.dtype, fused.Sums(None, 2, total.array, flags.array), ending
        ),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the attack; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    if not kernels.COMPILED:
        print("fuzz: the compiled kernels weren't built", file=sys.stderr)
        return 1
    refused, batch = 0, 10000
    for k, done in enumerate(range(0, given.cases, batch)):
        for number, case in enumerate(cases(min(batch, given.cases - done), given.seed + k)):
            try:
                refused += attack(case)
            except AssertionError as error:
                print(f"fuzz: --seed {given.seed + k}, case {number}: {case.kind} {case.shape} {case.dtype}: {error}")
                return 1
    print(f"fuzz: {given.cases} damaged chunks, {refused} refused, nothing written beside the output")
    return 0


if __name__ == "__main__":
    sys.exit(main())
