"""Small files of text beside a set's, and standard output in their place."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from ..errors import OutputError

STANDARD_OUTPUT = "-"
"""As the name of a file that an option asks for."""


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
