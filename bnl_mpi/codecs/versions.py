"""Versions of installed packages, from what pip leaves beside them."""

from __future__ import annotations

import functools
import os
import sys

ENDINGS = (".dist-info", ".egg-info", ".egg-link")
"""Of what tells of a package; the first is a folder as pip makes it."""


@functools.cache
def version(package: str) -> str:
    """What `importlib.metadata.version` says, which takes longer to import than a dozen frames to reduce.

    `package` in lower case.
    """
    for place in sys.path:
        found = _place_of(package, place or ".")
        if found is not None:
            told = _told_in(found)
            if told is None:
                break
            return told
    import importlib.metadata

    return importlib.metadata.version(package)


def _place_of(package: str, folder: str) -> str | None:
    """What tells of the package in a folder where Python looks, of whatever form; None where nothing does."""
    try:
        names = os.listdir(folder)
    except NotADirectoryError:
        # An archive.
        return folder
    except OSError:
        return None
    starts = f"{package}-", f"{package}.egg"
    found = (name for name in names if name.endswith(ENDINGS) and name.lower().startswith(starts))
    return next((os.path.join(folder, name) for name in found), None)


def _told_in(place: str) -> str | None:
    """The version in a folder as pip makes it; None where this is something else."""
    try:
        with open(os.path.join(place, "METADATA"), encoding="utf-8", errors="replace") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.lower().startswith("version:"))
    except (OSError, StopIteration):
        return None
