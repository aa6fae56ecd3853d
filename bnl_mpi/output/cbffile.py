"""CBF files: one image each, byte-offset compressed; and what is there of them."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, UsageError
from ..hdf5 import writing
from ..input.cbf.header import STARTER, open_to_pixels, read_header
from ..pixels import kernels
from .whole import PARTIAL

PADDING = 4095
TEMPLATE = re.compile(r"([^#]*[^#/])(#+)([^#/]*\.cbf)")


@dataclass(frozen=True)
class Template:
    """Names of images: `prefix`, the image's number from 1 in `digits` digits, `suffix`."""

    prefix: str
    digits: int
    suffix: str

    @classmethod
    def parse(cls, text: str) -> Template:
        found = TEMPLATE.fullmatch(text)
        if found is None:
            raise UsageError(f"--cbf '{text}': give a name with the number's place, as name_#####.cbf")
        return cls(found[1], len(found[2]), found[3])

    def __str__(self) -> str:
        return f"{self.prefix}{'#' * self.digits}{self.suffix}"

    @property
    def folder(self) -> str:
        return os.path.dirname(os.path.abspath(self.prefix))

    def path(self, image: int) -> str:
        """The file of image `image`, counted from 0."""
        return f"{self.prefix}{image + 1:0{self.digits}d}{self.suffix}"

    def existing(self) -> Iterator[tuple[int, str]]:
        """(image from 0, path) of every file of these names that is there."""
        name = os.path.basename(self.prefix)
        pattern = re.compile(f"{re.escape(name)}(\\d{{{self.digits}}}){re.escape(self.suffix)}")
        for entry in sorted(os.listdir(self.folder)):
            if found := pattern.fullmatch(entry):
                yield int(found[1]) - 1, os.path.join(os.path.dirname(self.prefix), entry)

    def partial(self) -> Iterator[str]:
        """Temporary files of these names."""
        name = os.path.basename(self.prefix)
        pattern = re.compile(f"{re.escape(name)}\\d+{re.escape(self.suffix)}\\..*{re.escape(PARTIAL)}")
        return (os.path.join(self.folder, one) for one in os.listdir(self.folder) if pattern.fullmatch(one))


def image_bytes(header: str, pixels: np.ndarray[Any, Any]) -> bytes:
    """A file: `pixels` are (ny, nx) int32."""
    stream = kernels.byte_offset_encode(pixels)
    ny, nx = pixels.shape
    digest = base64.b64encode(hashlib.md5(stream, usedforsecurity=False).digest()).decode()
    section = [
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        f"X-Binary-Size: {len(stream)}",
        "X-Binary-ID: 1",
        'X-Binary-Element-Type: "signed 32-bit integer"',
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
        f"Content-MD5: {digest}",
        f"X-Binary-Number-of-Elements: {nx * ny}",
        f"X-Binary-Size-Fastest-Dimension: {nx}",
        f"X-Binary-Size-Second-Dimension: {ny}",
        f"X-Binary-Size-Padding: {PADDING}",
        "",
        "",
    ]
    before = (header + "\r\n".join(section)).encode("ascii", "replace")
    end = b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"
    return b"".join([before, STARTER, stream, bytes(PADDING), end])


def write_image(path: str, data: bytes) -> None:
    """Write a file; WriteError where it can't be."""
    with writing.writing():
        Path(path).write_bytes(data)


def made_by(path: str, mark: str) -> bool:
    """Whether the header of a file that is there holds `mark`."""
    try:
        opened = open_to_pixels(path)
    except InputError:
        return False
    opened.file.close()
    return mark.encode() in opened.before


def unsound(path: str) -> str | None:
    """Why a file isn't whole; None if its pixels have the checksum that its header tells."""
    try:
        binary = read_header(path).binary
        opened = open_to_pixels(path)
        with opened.file:
            stream = opened.pixels(binary.size)
    except (InputError, OSError, ValueError) as error:
        return str(error)
    digest = base64.b64encode(hashlib.md5(stream, usedforsecurity=False).digest()).decode()
    return None if digest == binary.md5 else "its pixels' checksum is wrong"
