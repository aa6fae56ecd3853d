"""Small files of text beside a set's."""

from __future__ import annotations

import os
from contextlib import suppress


def write_text(path: str, text: str) -> None:
    """A file of UTF-8 text, whole and on the disk, or not at all; OSError where it can't be written.

    A pipe or a device takes the text as it is.
    """
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
