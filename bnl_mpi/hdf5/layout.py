"""What HDF5's own interface doesn't tell of a file: superblock, layouts, chunk indexes, symbol tables.

Some readers of diffraction data parse HDF5 themselves, and take some of its forms only.  The numbers are
those of the HDF5 file format specification, version 3.0 (https://support.hdfgroup.org/documentation/, "HDF5
File Format Specification").  Every read is checked against the file's size, and every chain has an end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LARGEST_USERBLOCK = 1 << 30
MOST_BLOCKS = 10_000
"""Object header blocks, or nodes of a symbol table: more are taken for a cycle."""
MOST_LINKS = 32

CONTINUATION, LAYOUT, SYMBOL_TABLE = 0x10, 0x08, 0x11
KINDS = {0: "compact", 1: "contiguous", 2: "chunked", 3: "virtual"}
INDEXES = {1: "single chunk", 2: "implicit", 3: "fixed array", 4: "extensible array", 5: "B-tree v2"}
NO_CACHE, GROUP_CACHE, LINK_CACHE = 0, 1, 2


class LayoutError(Exception):
    """The bytes aren't what the format says; the message names the place."""


@dataclass(frozen=True)
class Container:
    """A file's frame."""

    superblock: int
    """Version, 0 to 3."""
    userblock: int
    """Bytes before the superblock."""
    offset_size: int
    length_size: int


@dataclass(frozen=True)
class Layout:
    """A dataset's data layout message."""

    version: int
    kind: str
    """compact, contiguous, chunked or virtual."""
    index: str | None
    """How chunks are found: one of INDEXES, or "B-tree v1"; None for other kinds."""

    def __str__(self) -> str:
        how = f", {self.index}" if self.index else ""
        return f"{self.kind}{how}, layout version {self.version}"


@dataclass(frozen=True)
class Entry:
    """A symbol table entry: one name of an old-style group."""

    name: str
    address: int
    cache: int
    scratch: bytes
    """16 bytes, whose meaning depends on `cache`."""

    @property
    def tables(self) -> tuple[int, int]:
        """Addresses of a group's B-tree and local heap, where `cache` says that they are told here."""
        return _integer(self.scratch[:8]), _integer(self.scratch[8:16])


@dataclass(frozen=True)
class Trace:
    """Where a path leads through symbol tables alone."""

    fault: str | None = None
    """Why the path can't be followed."""
    outside: tuple[str, str, int] | None = None
    """(group, name, names after it) of a name kept in the group's header, not in its symbol table."""


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


class H5Bytes:
    """An HDF5 file's bytes, as a context manager; raises LayoutError where they aren't as they should be."""

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 (closed in __exit__)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.container = self._read_container()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> H5Bytes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _raw(self, at: int, n: int) -> bytes:
        """n bytes from byte `at` of the file."""
        if at < 0 or n < 0 or at + n > self.size:
            raise LayoutError(f"bytes {at} to {at + n} lie outside the file of {self.size} bytes")
        return os.pread(self._file.fileno(), n, at)

    def bytes_at(self, address: int, n: int) -> bytes:
        """n bytes at an address, which HDF5 counts from the superblock."""
        return self._raw(address + self.container.userblock, n)

    def _number(self, address: int, n: int) -> int:
        return _integer(self.bytes_at(address, n))

    def _read_container(self) -> Container:
        start = 0
        while self._raw(start, 8) != SIGNATURE:
            start = start * 2 or 512
            if start > min(self.size - 8, LARGEST_USERBLOCK):
                raise LayoutError("no HDF5 signature")
        version = self._raw(start + 8, 1)[0]
        if version > 3:
            raise LayoutError(f"superblock version {version} is not known")
        sizes = self._raw(start + (13 if version < 2 else 9), 2)
        return Container(version, start, sizes[0], sizes[1])

    # Object headers

    def layout(self, address: int) -> Layout:
        """The layout message of the dataset whose object header is at `address`."""
        for kind, body, _ in self.messages(address):
            if kind == LAYOUT:
                return _parse_layout(body)
        raise LayoutError(f"no layout message in the object header at {address}")

    def has_symbol_table(self, address: int) -> bool:
        """Whether the group whose object header is at `address` keeps its links as superblock 0 does."""
        return any(kind == SYMBOL_TABLE for kind, _, _ in self.messages(address))

    def messages(self, address: int) -> Iterator[tuple[int, bytes, int]]:
        """(type, body, the body's address) of every message of an object header."""
        start = self.bytes_at(address, 16)
        if start[:4] == b"OHDR":
            blocks, first_order = self._first_block_v2(address)
        elif start[0] == 1:
            blocks, first_order = [(address + 16, _integer(start[8:12]))], -1
        else:
            raise LayoutError(f"no object header at {address}")
        for _ in range(MOST_BLOCKS):
            if not blocks:
                return
            at, size = blocks.pop(0)
            block = self.bytes_at(at, size)
            for kind, body, place in _split_v1(block) if first_order < 0 else _split_v2(block, first_order):
                if kind == CONTINUATION:
                    blocks.append(self._continuation(body, first_order >= 0))
                else:
                    yield kind, body, at + place
        raise LayoutError(f"the object header at {address} has no end")

    def _first_block_v2(self, address: int) -> tuple[list[tuple[int, int]], int]:
        """The first block (address, size) of a version 2 header, and bytes of creation order a message."""
        version, flags = self.bytes_at(address + 4, 2)
        if version != 2:
            raise LayoutError(f"object header version {version} at {address} is not known")
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        return [(at + width, self._number(at, width))], 2 if flags & 4 else 0

    def _continuation(self, body: bytes, is_v2: bool) -> tuple[int, int]:
        wide = self.container.offset_size
        at, size = _integer(body[:wide]), _integer(body[wide : wide + self.container.length_size])
        if not is_v2:
            return at, size
        if self.bytes_at(at, 4) != b"OCHK":
            raise LayoutError(f"no continuation of an object header at {at}")
        return at + 4, size - 8  # less the signature and the checksum

    # Symbol tables, the groups of superblock 0

    def trace(self, path: str) -> Trace:
        """Follow `path` from the root as far as symbol tables and what they cache lead.

        A parser that trusts those alone (as XDS's does with superblock 0) finds no group whose entry in its
        parent's table doesn't cache the group's own table: H5Ocopy leaves such entries.
        """
        if self.container.superblock != 0:
            return Trace()
        try:
            return self._trace(self._entry(56, 0), "", [name for name in path.split("/") if name], MOST_LINKS)
        except LayoutError as error:
            return Trace(fault=str(error))

    def _trace(self, group: Entry, place: str, names: list[str], links: int) -> Trace:
        while names:
            if group.cache != GROUP_CACHE:
                return Trace(fault=f"the symbol table entry of {place or '/'} doesn't cache a group")
            name, names = names[0], names[1:]
            found = self._symbols(group).get(name)
            if found is None:
                return Trace(outside=(place or "/", name, len(names)))
            if found.cache == LINK_CACHE:
                return self._trace_link(group, place, found, names, links)
            group, place = found, f"{place}/{name}"
        return Trace()

    def _trace_link(self, group: Entry, place: str, link: Entry, names: list[str], links: int) -> Trace:
        if links == 0:
            return Trace(fault=f"soft links in {place or '/'} lead in a circle")
        target = self._heap_text(group.tables[1], _integer(link.scratch[:4]))
        further = [name for name in target.split("/") if name] + names
        if target.startswith("/"):
            group, place = self._entry(56, 0), ""
        return self._trace(group, place, further, links - 1)

    def _entry(self, address: int, heap: int) -> Entry:
        raw = self.bytes_at(address, 40)
        name = self._heap_text(heap, _integer(raw[:8])) if heap else ""
        return Entry(name, _integer(raw[8:16]), _integer(raw[16:20]), raw[24:40])

    def _symbols(self, group: Entry) -> dict[str, Entry]:
        """All entries of an old-style group's table, by name."""
        tree, heap = group.tables
        found: dict[str, Entry] = {}
        nodes = [tree]
        for _ in range(MOST_BLOCKS):
            if not nodes:
                return found
            at = nodes.pop()
            head = self.bytes_at(at, 8)
            n = _integer(head[6:8])
            if head[:4] == b"TREE":
                nodes += [self._number(at + 32 + 16 * k, 8) for k in range(n)]
            elif head[:4] == b"SNOD":
                entries = [self._entry(at + 8 + 40 * k, heap) for k in range(n)]
                found |= {entry.name: entry for entry in entries}
            else:
                raise LayoutError(f"no group table at {at}, where an entry says that one is")
        raise LayoutError(f"the group table at {tree} has no end")

    def _heap_text(self, heap: int, offset: int) -> str:
        head = self.bytes_at(heap, 32)
        if head[:4] != b"HEAP":
            raise LayoutError(f"no local heap at {heap}, where an entry says that one is")
        size, data = _integer(head[8:16]), _integer(head[24:32])
        if offset >= size:
            raise LayoutError(f"a name at {offset} lies outside the local heap at {heap}")
        return self.bytes_at(data + offset, size - offset).split(b"\0", 1)[0].decode("utf-8", "replace")


def _split_v1(block: bytes) -> Iterator[tuple[int, bytes, int]]:
    """(type, body, the body's place in the block)."""
    at = 0
    while at + 8 <= len(block):
        kind, size = _integer(block[at : at + 2]), _integer(block[at + 2 : at + 4])
        yield kind, block[at + 8 : at + 8 + size], at + 8
        at += 8 + size


def _split_v2(block: bytes, order: int) -> Iterator[tuple[int, bytes, int]]:
    """The same of version 2."""
    at, head = 0, 4 + order
    while at + head <= len(block):
        kind, size = block[at], _integer(block[at + 1 : at + 3])
        yield kind, block[at + head : at + head + size], at + head
        at += head + size


def _parse_layout(body: bytes) -> Layout:
    """Versions 1 to 5; 5 is 4 with larger chunks."""
    if len(body) < 3:
        raise LayoutError("a layout message is cut short")
    version = body[0]
    kind = body[2] if version < 3 else body[1]
    if version not in range(1, 6) or kind not in KINDS:
        raise LayoutError(f"layout message version {version}, class {kind} is not known")
    if kind != 2:
        return Layout(version, KINDS[kind], None)
    if version < 4:
        return Layout(version, "chunked", "B-tree v1")
    at = 5 + body[3] * body[4] if len(body) > 5 else len(body)
    if at >= len(body):
        raise LayoutError("a layout message is cut short")
    return Layout(version, "chunked", INDEXES.get(body[at], f"unknown index {body[at]}"))
