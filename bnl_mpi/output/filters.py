"""The final, lossless HDF5 filters: how a dataset declares each, and how an image becomes a stored chunk.

`htj2k` is one of them where images are coded without loss; a lossy codestream of `-T` is stored as it is.

Images are encoded outside of HDF5 and written as direct chunks where a library gives the very format of the
filter; elsewhere HDF5 encodes them in a file in memory, so that every filter yields its chunk's bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from ..hdf5 import plugins
from ..hdf5.names import BITSHUFFLE, BITSHUFFLE_LZ4
from ..pixels import kernels

Encoder = Callable[[np.ndarray[Any, Any]], Any]


@dataclass(frozen=True)
class Filter:
    """A final filter by the name that users give it (`bslz4`, ...) and its level, None where it has none."""

    name: str
    level: int | None = None
    kept: bool = False
    """Whether the images are of `--keep`: few of their counts need a second byte, so bytes are shuffled before zstd."""

    def dataset_options(self) -> dict[str, Any]:
        """What `h5py.Group.create_dataset` needs to declare the filter."""
        if self.name == "none":
            return {}
        if self.name == "bslz4":
            plugins.enable(BITSHUFFLE)
            return {"compression": BITSHUFFLE, "compression_opts": (0, BITSHUFFLE_LZ4)}
        import hdf5plugin

        if self.name == "zstd":
            shuffle = hdf5plugin.Blosc.SHUFFLE if self.kept else hdf5plugin.Blosc.NOSHUFFLE
            return dict(hdf5plugin.Blosc(cname="zstd", clevel=self.level, shuffle=shuffle))
        if self.name == "htj2k":
            return dict(_htj2k_filter()())
        if self.name == "bszstd":
            return dict(hdf5plugin.Bitshuffle(cname="zstd", clevel=self.level))
        return dict(hdf5plugin.Bitshuffle(cname="none"))

    def check(self) -> None:
        """Raise a UsageError where a library that the filter needs is absent or too old."""
        if self.name == "htj2k":
            _htj2k_filter()

    def encoder(self) -> Encoder:
        """A function from an image (ny, nx), C-contiguous, to its chunk's bytes, which hold until the next call."""
        if self.name == "none":
            return lambda image: image.data.cast("B")
        if self.name == "bslz4" and kernels.HAVE_BSLZ4:
            return _Bslz4Encoder()
        if self.name == "zstd":
            return _blosc_zstd(self.level or 0, shuffled=self.kept)
        if self.name == "htj2k":
            from ..codecs.openjph import encode_lossless

            return encode_lossless
        return _HDF5Encoder(self)


def _htj2k_filter() -> Any:
    import hdf5plugin

    from ..codecs import openjph

    openjph.library()
    if not hasattr(hdf5plugin, "Htj2k"):
        raise UsageError(
            f"-c htj2k needs hdf5plugin 7.1 or later, {hdf5plugin.version} is there: pip install 'bnl-mpi[htj2k]'"
        )
    return hdf5plugin.Htj2k


class _Bslz4Encoder:
    """Puts each chunk where the last one was, so that the memory is there already."""

    def __init__(self) -> None:
        self._room: np.ndarray[Any, Any] | None = None
        self._of: tuple[int, int] = (0, 0)

    def __call__(self, image: np.ndarray[Any, Any]) -> memoryview:
        of = (image.size, image.itemsize)
        if self._room is None or of != self._of:
            self._room, self._of = kernels.bslz4_room(*of), of
        return kernels.bslz4_encode(image, self._room)


def _blosc_zstd(level: int, *, shuffled: bool) -> Encoder:
    from numcodecs import blosc

    blosc.use_threads = False
    shuffle = blosc.Blosc.SHUFFLE if shuffled else blosc.Blosc.NOSHUFFLE
    codec = blosc.Blosc(cname="zstd", clevel=level, shuffle=shuffle)
    encode: Encoder = codec.encode
    return encode


class _HDF5Encoder:
    """Lets HDF5 run the filter, in a file that exists in memory only."""

    def __init__(self, final: Filter) -> None:
        import h5py

        self._filter = final
        # A name of its own: that of an earlier run that failed may not be closed yet.
        name = f"encoder-{id(self)}"
        self._file = h5py.File(name, "w", driver="core", backing_store=False, libver=("earliest", "v108"))
        self._datasets: dict[tuple[Any, ...], Any] = {}

    def __call__(self, image: np.ndarray[Any, Any]) -> bytes:
        key = (image.shape, image.dtype.str)
        if key not in self._datasets:
            self._datasets[key] = self._file.create_dataset(
                f"d{len(self._datasets)}",
                shape=(1, *image.shape),
                chunks=(1, *image.shape),
                dtype=image.dtype,
                **self._filter.dataset_options(),
            )
        dataset = self._datasets[key]
        dataset[0] = image
        # A dataset's chunk is encoded when it leaves the cache.
        dataset.flush()
        _, chunk = dataset.id.read_direct_chunk((0, 0, 0))
        return bytes(chunk)
