"""An HDF5 file in memory: where names of files lie in it, and the checksum by which HDF5 knows a changed block.

By the HDF5 file format specification, version 3.0, as `layout`.
"""

from __future__ import annotations

from typing import NamedTuple

from .layout import LAYOUT, H5Bytes, LayoutError

LINK = 0x06
EXTERNAL_LINK = 64
VIRTUAL = 3


class H5Image(H5Bytes):
    """As `H5Bytes`, of bytes in memory."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        self.size = len(image)
        self.container = self._read_container()

    def _raw(self, at: int, n: int) -> bytes:
        if at < 0 or n < 0 or at + n > self.size:
            raise LayoutError(f"bytes {at} to {at + n} lie outside the file of {self.size} bytes")
        return self._image[at : at + n]

    def __exit__(self, *what: object) -> None:
        pass


class FileName(NamedTuple):
    """The name of a file in an external link's message."""

    link: bytes
    offset: int
    """In the message."""
    n: int


def external_file_name(kind: int, body: bytes) -> FileName | None:
    """Where a message of an object header, if it is an external link, names the file."""
    if kind != LINK or len(body) < 3 or body[0] != 1:
        return None
    flags, at = body[1], 2
    if not flags & 0x08 or body[at] != EXTERNAL_LINK:
        return None
    at += 1 + (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    n_link = int.from_bytes(body[at : at + width], "little")
    link = body[at + width : at + width + n_link]
    # The length of what follows, and a byte with version and flags.
    at += width + n_link + 3
    end = body.find(b"\0", at)
    if end < 0:
        raise LayoutError("the message of an external link is cut short")
    return FileName(link, at, end - at)


class Block(NamedTuple):
    """An object of a global heap."""

    address: int
    data: bytes


def virtual_block(raw: H5Image, address: int) -> Block:
    """What the virtual dataset, whose object header is at `address`, keeps of its mappings: a checksum comes last."""
    for kind, body, _ in raw.messages(address):
        if kind == LAYOUT and len(body) >= 14 and body[1] == VIRTUAL:
            return _heap_object(raw, int.from_bytes(body[2:10], "little"), int.from_bytes(body[10:14], "little"))
    raise LayoutError(f"no virtual dataset at {address}")


def _heap_object(raw: H5Image, heap: int, index: int) -> Block:
    head = raw.bytes_at(heap, 16)
    if head[:4] != b"GCOL":
        raise LayoutError(f"no global heap at {heap}")
    at, end = heap + 16, heap + int.from_bytes(head[8:16], "little")
    while at + 16 <= end:
        found = raw.bytes_at(at, 16)
        number, size = int.from_bytes(found[:2], "little"), int.from_bytes(found[8:16], "little")
        if number == index:
            return Block(at + 16, raw.bytes_at(at + 16, size))
        if number == 0:
            break
        at += 16 + -(-size // 8) * 8
    raise LayoutError(f"no object {index} in the global heap at {heap}")


MASK = 0xFFFFFFFF


def checksum(data: bytes) -> bytes:
    """What HDF5 puts after metadata: Bob Jenkins' lookup3 of `data` (hashlittle, from 0), 4 bytes."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    padded = data + bytes(-len(data) % 12)
    words = [int.from_bytes(padded[k : k + 4], "little") for k in range(0, len(padded), 4)]
    if not words:
        return c.to_bytes(4, "little")
    for k in range(0, len(words), 3):
        a, b, c = (a + words[k]) & MASK, (b + words[k + 1]) & MASK, (c + words[k + 2]) & MASK
        a, b, c = _mixed(a, b, c) if k + 3 < len(words) else _finished(a, b, c)
    return c.to_bytes(4, "little")


def _turned(x: int, n: int) -> int:
    return ((x << n) | (x >> (32 - n))) & MASK


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for n in (4, 6, 8, 16, 19, 4):
        a, c = ((a - c) & MASK) ^ _turned(c, n), (c + b) & MASK
        a, b, c = b, c, a
    return a, b, c


def _finished(a: int, b: int, c: int) -> tuple[int, int, int]:
    for n in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turned(b, n)) & MASK
        a, b, c = b, c, a
    # Seven turns of three leave the names one place on.
    return c, a, b
