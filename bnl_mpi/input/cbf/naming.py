"""Whether a name is a CBF series'; all that a run of HDF5 files needs of this folder."""

from __future__ import annotations

import os
import re
from contextlib import suppress

NAME = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>\.cbf(?:\.gz|\.bz2)?)", re.IGNORECASE)
"""A file's name: the number is the last run of digits before the suffix."""
SUFFIX = re.compile(r".*\.cbf(\.gz|\.bz2)?", re.IGNORECASE)


def names_series(path: str) -> bool:
    """Whether a CBF series is meant: a file or template of that suffix, or a folder that holds such files."""
    if os.path.isdir(path):
        # One that can't be listed is `find_master`'s to refuse.
        with suppress(OSError):
            return any(NAME.fullmatch(name) for name in os.listdir(path))
        return False
    return SUFFIX.fullmatch(os.path.basename(path)) is not None
