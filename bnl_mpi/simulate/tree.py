"""Writing HDF5 as each of the two FileWriters does: string kinds, float widths, attributes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bnl_mpi.errors import OutputError
from bnl_mpi.hdf5.writing import TolerantFile, WriteError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it takes `path`'s place if no exception leaves the block."""
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        os.replace(beside, path)
    except WriteError as error:
        raise OutputError(f"{path}: can't be written: {error}; make room and start again") from error
    except OSError as error:
        if error.errno:
            # Without what HDF5 tells of its calls.
            raise OutputError.unwritten(path, OSError(error.errno, os.strerror(error.errno))) from error
        raise OutputError(f"{path}: can't be written ({error}); check folder and space") from error
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """A new HDF5 file, open for writing, of the oldest form; WriteError where the disk hasn't taken all of it."""
    raw = TolerantFile(path)
    try:
        with h5py.File(raw, "w", libver="earliest") as file:
            yield file
    finally:
        raw.close()
    raw.raise_error()


@dataclass(frozen=True)
class Tree:
    """An open HDF5 file, and the habits of the program that it is written after.

    The older flavour has 4-byte floats and fixed-length strings, Eiger 2's 8-byte floats and strings of
    variable length. Integers are unsigned 4-byte ones where they fit.
    """

    file: Any
    older: bool

    @property
    def float_type(self) -> np.dtype[Any]:
        """The type of scalars and vectors that aren't integers."""
        return np.dtype("f4" if self.older else "f8")

    def text(self, value: str) -> np.bytes_ | str:
        """A string that h5py stores in the flavour's kind."""
        return np.bytes_(value) if self.older else value

    def group(self, path: str, nx_class: str | None = None) -> None:
        """Create a group, with its NeXus class."""
        group = self.file.create_group(path)
        if nx_class is not None:
            group.attrs["NX_class"] = self.text(nx_class)

    def put(self, path: str, value: Any, **attributes: Any) -> None:
        """Store a scalar, string or array with attributes; arrays of integers keep their type."""
        dataset = self.file.create_dataset(path, data=self._stored(value))
        for name, attribute in attributes.items():
            dataset.attrs[name] = self.text(attribute) if isinstance(attribute, str) else attribute

    def _stored(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool | np.bool_):
            return np.uint8(value) if self.older else np.bool_(value)
        if isinstance(value, int):
            return np.uint32(value) if 0 <= value < 1 << 32 else np.int64(value)
        array = np.asarray(value)
        return array.astype(self.float_type) if array.dtype.kind == "f" else array
