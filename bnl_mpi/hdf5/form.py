"""Where in a file the bytes of its digest lie, noted on the way: what a form (`alike`) is made of."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from . import digest

LARGEST = 1 << 25
"""Bytes of a file of which a form is kept."""


class TooMuchError(Exception):
    """Of what a digest is made of, more lies elsewhere than in one piece than is worth keeping."""


class Bytes(Protocol):
    """A file's bytes, or some of them."""

    def __getitem__(self, wanted: slice, /) -> bytes | bytearray: ...


class Place(NamedTuple):
    """`n` bytes at `offset` of a file."""

    offset: int
    n: int

    def of(self, image: Bytes) -> bytes:
        return bytes(image[self.offset : self.offset + self.n])


class Named(NamedTuple):
    """A file's name, as `Digest.add_file_name` is told of it."""

    address: int
    link: bytes
    text: bytes


class Recorder(digest.Digest):
    """Digests an open file and notes where the bytes come from."""

    in_one_piece = LARGEST

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes | Place | Named] = []
        """Bytes that are the same in all files of the form, values by their places, and names of files by object."""
        self.objects: list[int] = []
        self.values: dict[int, Place] = {}
        self._n_bytes = 0

    def see(self, address: int) -> None:
        self.objects.append(address)

    def add(self, data: Any) -> None:
        super().add(data)
        self.parts.append(bytes(data))
        self._n_bytes += len(self.parts[-1])
        if self._n_bytes > LARGEST:
            raise TooMuchError

    def add_values(self, data: Any, address: int, offset: int) -> None:
        self.sha256.update(data)
        self.values[address] = Place(offset, len(data))
        self.parts.append(self.values[address])

    def add_file_name(self, data: bytes, address: int, link: bytes) -> None:
        self.sha256.update(data)
        self.parts.append(Named(address, link, data))
