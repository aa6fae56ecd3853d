"""One output data file: images as chunks, and beside them what tells whether they are sound.

A file is written under a temporary name beside its final one, flushed to the disk, and renamed when it is
whole; so a name without that ending always belongs to a complete file.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import h5meta
from .errors import BnlError, OutputError
from .filters import Filter

PARTIAL = ".partial"
GROUP = "/entry/bnl_mpi"
IMAGES = "/entry/data/data"


@contextlib.contextmanager
def whole_file(path: str, *, optional: bool = False) -> Iterator[str]:
    """Give a temporary name to write; on success flush the file to the disk and rename it, else remove it.

    Nothing happens where the file is `optional` and was not written.
    """
    partial = path + PARTIAL
    try:
        yield partial
        if optional and not os.path.exists(partial):
            return
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        # HDF5's errors come as OSError, or as RuntimeError where a file is closed.
        if isinstance(error, OSError | RuntimeError):
            raise OutputError(f"{path}: can't be written: {_reason(error)}; make room and start again") from error
        raise


def _reason(error: BaseException) -> str:
    """The operating system's words for what went wrong, out of HDF5's many."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    told = re.search(r"error message = '([^']*)'", str(error))
    return told[1] if told else str(error).splitlines()[0]


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    # Fixed-length: Debian's DIALS takes no other kind.
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


@dataclass
class BlockRecord:
    """What `/entry/bnl_mpi` holds of a block.  Frames are counted from 1 there."""

    plan_sha256: str
    plan: str
    """What `plan_sha256` is the hash of: JSON of options, plan, version and input."""
    number: int
    chunk_crc32: list[int] = field(default_factory=list)
    image_crc32: list[int] = field(default_factory=list)
    frames: list[tuple[int, int]] = field(default_factory=list)
    """First and last frame of each image."""
    invalid: list[np.ndarray[Any, Any]] | None = None
    """Flat indices (slow * nx + fast) of each image's invalid pixels, where the stored form has no marks."""

    def write(self, file: Any) -> None:
        group = _group(file, GROUP, "NXcollection")
        group.attrs["plan_sha256"] = np.bytes_(self.plan_sha256)
        group.attrs["block"] = np.uint32(self.number)
        group["plan"] = np.bytes_(self.plan.encode())
        group["chunk_crc32"] = np.array(self.chunk_crc32, "<u4")
        group["image_crc32"] = np.array(self.image_crc32, "<u4")
        group["frames"] = np.array(self.frames, "<u4").reshape(-1, 2)
        if self.invalid is not None:
            ends = np.cumsum([len(i) for i in self.invalid], dtype="<u8")
            group["invalid_ends"] = ends
            group["invalid_pixels"] = np.concatenate([*self.invalid, np.empty(0, "<u4")]).astype("<u4")


def read_plan_sha256(path: str) -> str | None:
    """The plan that the block file at `path` belongs to, or None where that is no block file of ours."""
    try:
        with h5meta.open_read(path) as file:
            return h5meta.text(file[GROUP].attrs["plan_sha256"])
    except (KeyError, OSError, ValueError, BnlError):
        return None


class BlockWriter:
    """Writes the images of one block to `path` (a temporary name), chunk by chunk in order."""

    def __init__(
        self, path: str, n_images: int, shape: tuple[int, int], dtype: str, final: Filter, record: BlockRecord,
        first_image: int,
    ) -> None:  # fmt: skip
        self.record = record
        self.bytes_stored = 0
        self._file = h5meta.open_write(path)
        entry = _group(self._file, "/entry", "NXentry")
        data = _group(entry, "data", "NXdata")
        stored = np.dtype(dtype).newbyteorder("<")
        self._dataset = data.create_dataset(
            "data",
            shape=(n_images, *shape),
            chunks=(1, *shape),
            dtype=stored,
            **final.dataset_options(),
        )
        self._dataset.attrs["image_nr_low"] = np.int32(first_image + 1)
        self._dataset.attrs["image_nr_high"] = np.int32(first_image + n_images)
        self._next = 0

    def add(self, chunk: Any, image: np.ndarray[Any, Any], frames: range) -> None:
        """Store `chunk`, the encoded form of `image`, which was made of `frames` (counted from 0)."""
        self._dataset.id.write_direct_chunk((self._next, 0, 0), chunk)
        self._next += 1
        self.bytes_stored += len(chunk)
        self.record.chunk_crc32.append(zlib.crc32(chunk))
        self.record.image_crc32.append(zlib.crc32(image.data))
        self.record.frames.append((frames.start + 1, frames.stop))

    def close(self) -> None:
        self.record.write(self._file)
        self._file.close()

    def discard(self) -> None:
        """Let go of the file, after `close` or instead of it; it is worth nothing if that fails."""
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()


class SquashWriter:
    """Writes the codestreams of one block, one 1-D uint8 dataset an image."""

    def __init__(self, path: str, record: BlockRecord, attributes: dict[str, Any], first_image: int) -> None:
        self.record, self._attributes, self._next = record, attributes, first_image + 1
        self._file = h5meta.open_write(path)
        entry = _group(self._file, "/entry", "NXentry")
        self._data = _group(entry, "data", "NXdata")

    def add(self, codestream: bytes, image: np.ndarray[Any, Any], frames: range) -> None:
        dataset = self._data.create_dataset(
            f"data_{self._next:06d}", data=np.frombuffer(codestream, np.uint8), dtype="u1"
        )
        for name, value in self._attributes.items():
            dataset.attrs[name] = value
        self._next += 1
        self.record.chunk_crc32.append(zlib.crc32(codestream))
        self.record.image_crc32.append(zlib.crc32(image.data))
        self.record.frames.append((frames.start + 1, frames.stop))

    def close(self) -> None:
        self.record.write(self._file)
        self._file.close()

    def discard(self) -> None:
        """Let go of the file, after `close` or instead of it; it is worth nothing if that fails."""
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()


def existing_blocks(stem: str) -> Sequence[str]:
    """Paths of the files STEM_NNNNNN.h5 that are there, in order, and of their temporary ones."""
    folder, base = os.path.split(os.path.abspath(stem))
    pattern = re.compile(re.escape(base) + r"_\d{6}\.h5(" + re.escape(PARTIAL) + ")?$")
    if not os.path.isdir(folder):
        return []
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if pattern.match(name))


def remove_partial_files(stems: Sequence[str | None]) -> None:
    """Remove the temporary files of these stems: nobody writes them any more."""
    for stem in stems:
        for path in existing_blocks(stem) if stem else []:
            if path.endswith(PARTIAL):
                with contextlib.suppress(OSError):
                    os.unlink(path)
