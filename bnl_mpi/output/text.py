"""Small files of text beside a set's, and standard output in their place."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import TextIO

from ..errors import OutputError

STANDARD_OUTPUT = "-"
"""As the name of a file that an option asks for."""
AS_IT_IS = "bnl_mpi.as_it_is"
"""How streams take what their encoding has no letter for."""


def make_streams_good() -> None:
    """Give a program of its own standard streams that take all that it says.

    A closed one leads nowhere: its number must not become a file's. What an encoding can't say goes out as an escape,
    and a file's name that is no text as the bytes that it is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free.
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(AS_IT_IS, _as_it_is)
    for number, name in enumerate(("stdout", "stderr"), 1):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115  (as Python's own, open to the end)
        getattr(sys, name).reconfigure(errors=AS_IT_IS)


def _as_it_is(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    said = b""
    for letter in error.object[error.start : error.end]:
        # 0xDC80 to 0xDCFF stand for bytes of names, as `os.fsdecode` makes them.
        is_byte = 0xDC80 <= ord(letter) <= 0xDCFF
        said += bytes([ord(letter) - 0xDC00]) if is_byte else letter.encode("ascii", "backslashreplace")
    return said, error.end


def for_people(*asked: str | None) -> TextIO:
    """Where people are told what happened: standard error where a file that was asked for is standard output."""
    return sys.stderr if STANDARD_OUTPUT in asked else sys.stdout


def say(text: str, stream: TextIO) -> None:
    """Write to standard output or error; OSError where that can't be, but for a reader who reads no further."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        drop(stream)
        if not isinstance(error, BrokenPipeError):
            raise


def drop(stream: TextIO) -> None:
    """Keep the flush at exit from failing with what a stream couldn't take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_asked(option: str, path: str, text: str) -> None:
    """Write the file that an option asks for; OutputError where it can't be."""
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError(f"{option} {path}: can't be written: {error.strerror}; give a file that can be") from error


def write_text(path: str, text: str) -> None:
    """A file of UTF-8 text, whole and on the disk, or not at all; OSError where it can't be written.

    A pipe, a device and standard output take the text as it is.
    """
    if path == STANDARD_OUTPUT:
        say(text, sys.stdout)
        return
    if os.path.lexists(path) and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    place = os.path.realpath(path)
    partial = f"{place}.partial"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, place)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        raise
