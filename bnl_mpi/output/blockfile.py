"""One output data file: images as chunks, and beside them what tells whether they are sound."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from ..errors import BnlError, InputError
from ..hdf5 import access, writing
from ..hdf5.names import IMAGES
from ..pixels import kernels
from ..plan import BLOCK_ENDING
from . import record as records
from .filters import Filter
from .record import BlockRecord
from .whole import PARTIAL

HEAD = 1 << 16
"""Bytes within which a block file tells its job's identity."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.create_group(name)
    # Fixed-length: Debian's DIALS takes no other kind.
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def is_block(path: str, out_file: str, number: int, *, is_squash: bool) -> bool:
    """Whether that is block `number` of a set `out_file`, of whatever plan, or what a crash left of one."""
    try:
        with access.open_read(path) as file:
            head = records.read_head(file)
            # Format 1 doesn't tell the stem.
            its_own = head.stem in (None, records.stem_of(out_file))
            return its_own and head.number == number and (IMAGES not in file) == is_squash
    except (BnlError, KeyError, OSError, RuntimeError, TypeError, ValueError):
        return is_leftover(path)


def is_leftover(path: str, identity: str = records.PROGRAM) -> bool:
    """Whether a crash may have left the file of ours: empty, or HDF5 that can't be opened but tells our `identity`."""
    try:
        if os.path.getsize(path) == 0:
            return True
        access.open_read(path).close()
    except InputError:
        head = _head(path, HEAD + len(identity))
        return head.startswith(HDF5_SIGNATURE) and identity.encode() in head
    return False


def _head(path: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def unsound_data(path: str, expected: BlockRecord, shape: tuple[int, ...], dtype: str) -> str | None:
    """What is wrong with a data file that should hold images of `shape`, (n, ny, nx), by `expected`'s frames.

    Every stored chunk is read and held against its checksum.  None if all is well.
    """
    return _unsound(path, expected, lambda file: _data_chunks(file, shape, dtype))


def unsound_squash(path: str, expected: BlockRecord, first_image: int) -> str | None:
    """The same of a squash file whose first image is number `first_image`, counted from 0."""
    n_images = len(expected.frames)

    def codestreams(file: Any) -> Iterator[Any]:
        for number in range(first_image + 1, first_image + n_images + 1):
            yield file[f"/entry/data/data_{number:06d}"][()].tobytes()

    return _unsound(path, expected, codestreams)


def _unsound(path: str, expected: BlockRecord, chunks: Callable[[Any], Iterator[Any]]) -> str | None:
    if not os.path.exists(path):
        return "it is missing"
    try:
        with access.open_read(path) as file:
            head = records.read_head(file)
            if head.number != expected.number:
                return f"it says that it is block {head.number}"
            group = file[records.GROUP]
            if group["frames"][()].tolist() != [list(f) for f in expected.frames]:
                return "it is made of other frames"
            stored = group["chunk_crc32"][()].tolist()
            for k, (chunk, crc) in enumerate(zip(chunks(file), stored, strict=True), 1):
                if kernels.crc32(chunk) != crc:
                    return f"the checksum of its image {k} is wrong"
            if head.content_sha256 not in (None, records.digest(file)):
                return "the checksum of its record is wrong"
    except (BnlError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _data_chunks(file: Any, shape: tuple[int, ...], dtype: str) -> Iterator[Any]:
    dataset = file[IMAGES]
    if dataset.shape != shape or dataset.dtype != np.dtype(dtype):
        raise ValueError(f"its images are {dataset.shape} {dataset.dtype}")
    for k in range(shape[0]):
        _, chunk = dataset.id.read_direct_chunk((k, 0, 0))
        yield chunk


class _Writer:
    """A new file with `/entry/data`, and the record that is written when all images are in it."""

    def __init__(self, path: str, record: BlockRecord) -> None:
        self.record = record
        with writing.writing():
            self._raw = writing.TolerantFile(path)
        self._file: Any = h5py.File(self._raw, "w", libver=access.LIBVER)
        self._entry = _group(self._file, "/entry", "NXentry")
        # Early in the file: one that loses its end can still be known.
        self.record.begin(self._file)
        self._data = _group(self._entry, "data", "NXdata")

    def _note(self, stored: Any, image: np.ndarray[Any, Any] | None, frames: range, crc32: int | None = None) -> None:
        self._raw.raise_error()
        self.record.chunk_crc32.append(kernels.crc32(stored))
        self.record.image_crc32.append(crc32 if image is None else kernels.crc32(image.data))
        self.record.frames.append((frames.start + 1, frames.stop))

    def close(self) -> None:
        # Each step needs a lot, and leaves free memory in pieces: it is given back, lest they add up.
        for step in (self.record.finish, records.seal, h5py.File.close):
            kernels.release()
            step(self._file)
            self._raw.raise_error()
        kernels.release()

    def discard(self) -> None:
        """Let go of the file, after `close` or instead of it."""
        self._file.close()
        self._raw.close()
        self._raw.raise_error()


class BlockWriter(_Writer):
    """Writes the images of one block to `path` (a temporary name), chunk by chunk in order."""

    def __init__(
        self,
        path: str,
        n_images: int,
        shape: tuple[int, int],
        dtype: str,
        final: Filter,
        record: BlockRecord,
        first_image: int,
    ) -> None:
        super().__init__(path, record)
        # Viewers follow these to the images.
        for group, name, target in (
            (self._file, "default", "entry"),
            (self._entry, "default", "data"),
            (self._data, "signal", "data"),
        ):
            group.attrs[name] = np.bytes_(target)
        self._dataset = self._data.create_dataset(
            "data",
            shape=(n_images, *shape),
            chunks=(1, *shape),
            dtype=np.dtype(dtype).newbyteorder("<"),
            **final.dataset_options(),
        )
        self._dataset.attrs["image_nr_low"] = np.int32(first_image + 1)
        self._dataset.attrs["image_nr_high"] = np.int32(first_image + n_images)
        self._next = 0

    def add(self, chunk: Any, image: np.ndarray[Any, Any] | None, frames: range, crc32: int | None = None) -> None:
        """Store `chunk`, the encoded form of `image`, which was made of `frames` (counted from 0).

        Without the image, as a reader decodes it, its checksum is what `crc32` says: None where it wasn't taken.
        """
        self._dataset.id.write_direct_chunk((self._next, 0, 0), chunk)
        self._next += 1
        self._note(chunk, image, frames, crc32)


class SquashWriter(_Writer):
    """Writes the codestreams of one block, one 1-D uint8 dataset an image."""

    def __init__(self, path: str, record: BlockRecord, first_image: int) -> None:
        super().__init__(path, record)
        self._next = first_image + 1

    def add(self, codestream: bytes, image: np.ndarray[Any, Any], frames: range, about: Mapping[str, Any]) -> None:
        """Store the codestream of `image`, which was made of `frames` (counted from 0), and attributes `about` it."""
        dataset = self._data.create_dataset(
            f"data_{self._next:06d}", data=np.frombuffer(codestream, np.uint8), dtype="u1"
        )
        for name, value in about.items():
            dataset.attrs[name] = value
        self._next += 1
        self._note(codestream, image, frames)


def existing_blocks(stem: str) -> Mapping[int, str]:
    """The files of `stem`'s blocks that are there under their final names, by number, in order."""
    folder, base = os.path.split(os.path.abspath(stem))
    if not os.path.isdir(folder):
        return {}
    # Without the stem, so that an archive's thousand sets have one pattern, which is compiled once.
    ending, at = re.compile(BLOCK_ENDING), len(base)
    # An archive's folder may hold the files of thousands of sets: those of others are passed over at once.
    found = [m for name in os.listdir(folder) if name.startswith(base) and (m := ending.fullmatch(name, at))]
    return {int(m[1]): os.path.join(folder, m.string) for m in sorted(found, key=lambda m: m.string)}


def remove_partial_files(stems: Sequence[str], whole: Sequence[str] = ()) -> None:
    """Remove the temporary files of the blocks of `stems`, and of the files named `whole`: nobody writes them."""
    names = {os.path.abspath(path) for path in whole}
    temporary = re.compile(r"(.+\.(?:h5|nxs))(?:\.[^/]*)?" + re.escape(PARTIAL))
    block, places = re.compile(BLOCK_ENDING), [os.path.abspath(stem) for stem in stems]

    def is_ours(path: str) -> bool:
        return path in names or any(path.startswith(at) and block.fullmatch(path, len(at)) for at in places)

    for folder in sorted({os.path.dirname(os.path.abspath(path)) for path in [*stems, *whole]}):
        for path in (os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(PARTIAL)):
            m = temporary.fullmatch(path)
            if m and is_ours(m[1]):
                with contextlib.suppress(OSError):
                    os.unlink(path)
