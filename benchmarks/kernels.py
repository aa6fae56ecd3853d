"""Each kernel alone, against copying memory: what bounds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import interleaved, spread_of
from bnl_mpi.pixels import fused, kernels

BINNING, SUM, HCOMPRESS_SCALE, HCOMPRESS_ROWS = 2, 2, 16, 16
SATVAL = 32765


def measure(master: Path, repeats: int) -> list[dict[str, Any]]:
    """Rows of kernel, the bytes it reads and writes, and the seconds of a call, for frames of `master`."""
    bench = KernelBench(master)
    works = {name: _timed(work) for name, (work, _) in bench.works().items()}
    seconds = interleaved(works, repeats, warm_ups=2)
    return [
        {"kernel": name, "bytes": n_bytes, "seconds": asdict(spread_of(seconds[name]))}
        for name, (_, n_bytes) in bench.works().items()
    ]


def _timed(work: Callable[[], Any]) -> Callable[[], float]:
    def timed() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return timed


class KernelBench:
    """The buffers of one worker with 2 x 2 binning, filled from the first frames of a data set."""

    def __init__(self, master: Path) -> None:
        import h5py
        import hdf5plugin  # noqa: F401

        with h5py.File(master, "r", locking=False) as file:
            self.dataset = file["entry/data/data_000001"]
            self.chunks = [self.dataset.id.read_direct_chunk((k, 0, 0))[1] for k in range(SUM)]
            self.frame: kernels.Array = self.dataset[0]
            self.mask = (file["entry/instrument/detector/detectorSpecific/pixel_mask"][()] != 0).astype("u1")
        self.shape = self.frame.shape
        self.packed = kernels.pack_mask(self.mask, BINNING, self.shape, self.frame.dtype)
        binned = tuple(-(-side // BINNING) for side in self.shape)
        self.total, self.flags = np.zeros(binned, np.uint32), np.zeros(binned, np.uint8)
        self.blank = np.zeros(binned, np.uint8)
        self.values, self.image = np.zeros(binned, np.uint16), np.zeros(binned, np.uint16)
        self.coded = np.zeros(binned, np.int32)
        for turn in range(SUM):
            kernels.accumulate(self.frame, self.packed, BINNING, self.total, self.flags, first=turn == 0)
        self._finish(self.values)
        self._finish(self.coded)
        self.image[...] = self.values
        self.target = np.empty_like(self.frame)

    def _finish(self, values: kernels.Array) -> None:
        kernels.finish(self.total, self.flags, self.blank, SATVAL, 1.0, SATVAL, False, values)

    def _sum(self) -> None:
        kernels.accumulate(self.frame, self.packed, BINNING, self.total, self.flags, first=True)

    def _reduce(self, binning: int, frames: int) -> Callable[[], Any]:
        """A call that makes an image of stored chunks, as a run without a codec does."""
        binned = tuple(-(-side // binning) for side in self.shape)
        total, flags = np.zeros(binned, np.uint32), np.zeros(binned, np.uint8)
        blank, image = np.zeros(binned, np.uint8), np.zeros(binned, np.uint16)
        ending = kernels.Ending(blank, SATVAL, 1.0, SATVAL, False, image, 65535)
        sums = fused.Sums(
            kernels.pack_mask(self.mask, binning, self.shape, self.frame.dtype), binning, total, flags, first=True
        )
        return lambda: fused.bslz4_reduce(self.chunks[:frames], self.shape, self.frame.dtype, sums, ending)

    def works(self) -> dict[str, tuple[Callable[[], Any], int]]:
        """Name of a kernel: (a call, the bytes that it must move through memory at least)."""
        frame, stored, sums = self.frame.nbytes, len(self.chunks[0]), self.total.nbytes + self.flags.nbytes
        # blank and flags, a byte each, and the image's two
        binned, whole = 4 * self.total.size, 4 * self.frame.size
        mask, image, coded = self.mask.nbytes, self.image.nbytes, self.coded.nbytes
        works: dict[str, tuple[Callable[[], Any], int]] = {
            "copy of a frame": (lambda: np.copyto(self.target, self.frame), 2 * frame),
            "accumulate b2": (self._sum, frame + mask + sums),
            "finish, 16 bit": (lambda: self._finish(self.values), sums + self.blank.nbytes + image),
            "finish, 32 bit": (lambda: self._finish(self.coded), sums + self.blank.nbytes + coded),
            "mark": (
                lambda: kernels.mark(self.values, self.flags, self.blank, SATVAL, 65535, self.image),
                2 * image + self.flags.nbytes + self.blank.nbytes,
            ),
            "hcompress round trip": (
                lambda: kernels.hcompress_roundtrip(self.coded, HCOMPRESS_SCALE, HCOMPRESS_ROWS),
                2 * coded,
            ),
            "crc32 of an image": (lambda: kernels.crc32(self.image), image),
        }
        if kernels.HAVE_BSLZ4:
            works |= {
                "bslz4_decode": (lambda: kernels.bslz4_decode(self.chunks[0], self.target), stored + frame),
                "image of two chunks, b2": (self._reduce(2, 2), 2 * stored + mask + binned),
                "image of one chunk, b1": (self._reduce(1, 1), stored + mask + whole),
                "bslz4_encode": (lambda: kernels.bslz4_encode(self.image), image),
            }
        return works
