"""What a CBF file tells before its pixels: the lines of a miniCBF header, imgCIF tables, the binary section's form."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import IO, cast

from ...errors import InputError
from . import cif

STARTER = b"\x0c\x1a\x04\xd5"
"""Stands before the compressed pixels."""
SECTION = b"--CIF-BINARY-FORMAT-SECTION--"

PIECE = 16384
LONGEST = 1 << 22
"""A header of more bytes isn't one."""

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
TIMESTAMP = re.compile(r"\d{4}[-/]\w{2,3}[-/]\d\d[T ]\d\d:\d\d")
FIELD = re.compile(r"(\w+)\s*[:=]?\s*(.*)")

ELEMENT_TYPES = {
    f"{sign} {bits}-bit integer": f"{name}{bits}"
    for sign, name in (("signed", "int"), ("unsigned", "uint"))
    for bits in (8, 16, 32)
}


class Damaged(InputError):
    """A file's header can't be had: it is cut off, or isn't what was written."""


@dataclass(frozen=True)
class Binary:
    """The form of the pixels in a file."""

    offset: int
    """Where the compressed pixels begin, in bytes of the file as it is without gzip or bzip2."""
    size: int
    shape: tuple[int, int]
    """(ny, nx)."""
    dtype: str
    md5: str | None


@dataclass(frozen=True)
class Header:
    """One file's header."""

    path: str
    text: str
    """All before the binary section, with plain line ends."""
    fields: Mapping[str, str]
    """The lines of a miniCBF header by their first word; `timestamp` is the line that is a date."""
    tables: cif.Tables
    binary: Binary
    cut: int | None = None
    """The file's bytes, where it ends before its pixels do; None where it doesn't, or is packed."""
    damage: str | None = None
    """Why the file's own header can't be had, if it can't: all but `path` is that of the series' first file then."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the file is known to be missing."""
        return self.damage is None and self.cut is None

    def number(self, field: str) -> float | None:
        """The first number of a miniCBF line; None where there is none."""
        numbers = self.numbers(field)
        return numbers[0] if numbers else None

    def numbers(self, field: str) -> list[float]:
        return [float(one) for one in NUMBER.findall(self.fields.get(field, ""))]

    def item(self, category: str, item: str) -> str | None:
        """The first row's value of an imgCIF item; None where it is absent or unknown."""
        rows = self.tables.get(category)
        value = rows[0].get(item) if rows else None
        return None if value in (None, ".", "?") else value

    def value(self, category: str, item: str) -> float | None:
        """The first row's number of an imgCIF item."""
        found = NUMBER.fullmatch(self.item(category, item) or "")
        return float(found[0]) if found else None


def open_plain(path: str) -> IO[bytes]:
    """The file's bytes without gzip or bzip2, by which its content, not its name, tells of; InputError if absent."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (handed to the caller)
        magic = file.read(3)
        file.seek(0)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    for start, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open)):
        if magic.startswith(start):
            file.close()
            return cast(IO[bytes], opener(path, "rb"))
    return file


@dataclass
class Opened:
    """A file read up to its pixels."""

    file: IO[bytes]
    before: bytes
    """All before the pixels."""
    rest: bytes
    """What was read beyond that."""
    plain: bool

    def pixels(self, size: int) -> bytearray:
        """The `size` bytes of compressed pixels; OSError or ValueError where the file hasn't them."""
        data = bytearray(size)
        there = min(size, len(self.rest))
        data[:there] = self.rest[:there]
        view = memoryview(data)
        try:
            while there < size and (more := cast(io.BufferedIOBase, self.file).readinto(view[there:])):
                there += more
        except (EOFError, zlib.error) as error:
            raise ValueError(f"truncated or damaged ({error})") from None
        if there < size:
            raise ValueError(f"truncated: {there} of {size} bytes of pixels")
        return data


def open_to_pixels(path: str) -> Opened:
    """Open a file and read its header; the caller closes `file`.

    Raises Damaged where it isn't a CBF file, or ends within its header, InputError where it can't be opened.
    """
    file = open_plain(path)
    try:
        data = bytearray(file.read(PIECE))
        if not data.startswith(b"###CBF"):
            raise Damaged(f"{path}: not a CBF file (these begin with ###CBF)")
        while (at := data.find(STARTER)) < 0:
            piece = file.read(PIECE)
            if not piece or len(data) > LONGEST:
                raise Damaged(f"{path}: truncated, or not a binary CBF file: no pixels after its header")
            data += piece
    except (OSError, EOFError, zlib.error) as error:
        file.close()
        raise Damaged(f"{path}: can't be read ({error})") from None
    except InputError:
        file.close()
        raise
    end = at + len(STARTER)
    return Opened(file, bytes(data[:end]), bytes(data[end:]), not isinstance(file, (gzip.GzipFile, bz2.BZ2File)))


def read_header(path: str) -> Header:
    """Read and parse the header of a file; errors as of `open_to_pixels`, and InputError for pixels of another form."""
    opened = open_to_pixels(path)
    opened.file.close()
    header = parse(path, opened.before)
    there = os.path.getsize(path)
    is_cut = opened.plain and there < header.binary.offset + header.binary.size
    return replace(header, cut=there) if is_cut else header


def check_whole(headers: Iterable[Header]) -> None:
    """InputError where a file ends before its pixels do, or its header is damaged."""
    for header in headers:
        if header.damage is not None:
            raise InputError(f"{header.damage}; restore the file, or go on with --skip_bad_frames")
        if header.cut is not None:
            raise InputError(
                f"{header.path}: truncated: {header.cut} bytes, but its header tells of "
                f"{header.binary.offset + header.binary.size}; restore the file, or go on with --skip_bad_frames"
            )


def parse(path: str, data: bytes) -> Header:
    """The header from the bytes before the pixels."""
    before, _, section = data.partition(SECTION)
    text = before.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    tables = cif.tables(text)
    contents = next((row["header_contents"] for row in tables.get("array_data", ()) if "header_contents" in row), text)
    return Header(path, text, mini_fields(contents), tables, binary_of(path, section, len(data)))


def mini_fields(contents: str) -> dict[str, str]:
    """The lines of a miniCBF header by their first word: `# Tau = 124.0e-09 s` gives Tau."""
    fields: dict[str, str] = {}
    for line in contents.split("\n"):
        if not line.startswith("#"):
            continue
        line = line.lstrip("#").strip()
        if TIMESTAMP.match(line):
            fields.setdefault("timestamp", line)
        elif found := FIELD.fullmatch(line):
            fields.setdefault(found[1], found[2].strip())
    return fields


def binary_of(path: str, section: bytes, offset: int) -> Binary:
    """The form of the pixels, from the binary section's header; Damaged or, for a form that isn't read, InputError."""
    text = section.decode("ascii", "replace")
    told = {name.lower(): value for name, value in re.findall(r"^([\w-]+):[ \t]*\"?([^\r\n\"]*)", text, re.MULTILINE)}
    conversion = re.search(r'conversions\s*=\s*"?([\w-]+)', text)
    if conversion is None:
        raise Damaged(f"{path}: its binary section tells of no compression; x-CBF_BYTE_OFFSET is the one that is read")
    if conversion[1].upper() != "X-CBF_BYTE_OFFSET":
        raise InputError(f"{path}: pixels with {conversion[1]} compression; x-CBF_BYTE_OFFSET is the one that is read")
    try:
        size = int(told["x-binary-size"])
        shape = (int(told["x-binary-size-second-dimension"]), int(told["x-binary-size-fastest-dimension"]))
    except (KeyError, ValueError):
        raise Damaged(f"{path}: its binary section doesn't tell size and dimensions") from None
    element = told.get("x-binary-element-type", "signed 32-bit integer")
    if element not in ELEMENT_TYPES:
        raise InputError(f"{path}: pixels of type {element}; integers of at most 32 bits are wanted")
    if min(shape) < 1 or size < shape[0] * shape[1]:
        raise Damaged(f"{path}: {size} bytes can't hold {shape[0]} x {shape[1]} pixels of byte-offset compression")
    if told.get("x-binary-element-byte-order", "LITTLE_ENDIAN").upper() != "LITTLE_ENDIAN":
        raise InputError(f"{path}: pixels in big-endian order; little-endian ones are read")
    return Binary(offset, size, shape, ELEMENT_TYPES[element], told.get("content-md5"))


def sensor(header: Header) -> tuple[str | None, float | None]:
    """(material, thickness in metres) of a line like `Silicon sensor, thickness 0.000320 m`."""
    for word, material in (("Silicon", "Si"), ("CdTe", "CdTe"), ("GaAs", "GaAs"), ("CZT", "CdTe")):
        if word in header.fields:
            return material, header.number(word)
    return None, None


def detector_name(header: Header) -> tuple[str, str]:
    """(description, serial number) of a line like `Detector: PILATUS 2M, S/N 24-0107 Diamond`."""
    name, _, serial = header.fields.get("Detector", "").partition("S/N")
    words = serial.split()
    return name.strip(" ,"), words[0].strip(",") if words else ""


def first_of(*values: float | None) -> float | None:
    """The first value that is told."""
    return next((value for value in values if value is not None), None)


def cutoff(header: Header) -> int | None:
    """The saturation value."""
    told = first_of(header.number("Count_cutoff"), header.value("array_intensities", "overload"))
    return None if told is None or told <= 0 else int(told)


def wavelength(header: Header) -> float | None:
    """In Angstrom."""
    told = first_of(header.number("Wavelength"), header.value("diffrn_radiation_wavelength", "wavelength"))
    return None if told is None or told <= 0 else told


def exposure(header: Header) -> tuple[float | None, float | None]:
    """(counting time, time from frame to frame) in seconds."""
    count = first_of(header.number("Exposure_time"), header.value("diffrn_scan_frame", "integration_time"))
    period = first_of(header.number("Exposure_period"), header.value("diffrn_scan_frame", "exposure_time"), count)
    return count, period


def start_time(header: Header) -> str | None:
    """When the exposure began, as the file has it."""
    told = header.fields.get("timestamp") or header.item("diffrn_scan_frame", "date")
    return told if told else None
