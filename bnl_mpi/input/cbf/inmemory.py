"""A CBF series as the rest of the program meets it: an open master, and a source of frames."""

from __future__ import annotations

import os
from functools import lru_cache

import h5py

from ...errors import InputError
from ...hdf5 import access
from ..source import Segment, Source
from . import master
from .header import check_whole
from .series import find_series

Stamp = tuple[tuple[int, int], ...]


def open_series(path: str) -> h5py.File:
    """A master of the series that `path` names, in memory, open; as for a file, the caller closes it."""
    described = _described(path)
    # The name is for messages alone: nothing is on the disk.
    file = h5py.File(
        described.series.template, "w", libver=access.LIBVER, locking=False, driver="core", backing_store=False
    )
    try:
        master.write(file, described)
    except BaseException:
        file.close()
        raise
    return file


def series_source(path: str, channel: int | None = None, *, bad_frames: bool = False) -> Source:
    """The frames of the series: a segment a file.  `channel`, if asked for, can only be the one that there is.

    InputError where a file is truncated or its header damaged, unless `bad_frames` are taken.
    """
    described = _described(path)
    if not bad_frames:
        check_whole(described.headers)
    if (channel or 1) > 1:
        raise InputError(f"{path}: --channel {channel}, but a CBF image has one channel")
    binary = described.first.binary
    segments = tuple(
        Segment(os.path.abspath(header.path), "", 0, 1, "cbf" if header.damage is None else "damaged cbf")
        for header in described.headers
    )
    return Source(
        segments[0].path,
        segments,
        binary.shape,
        binary.dtype,
        channel=0,
        counts_known=True,
        warnings=described.geometry.warnings,
    )


def _described(path: str) -> master.Described:
    """What `master.describe` gives; once for a series that doesn't change, though a run asks three times."""
    paths = find_series(path).paths
    stats = [os.stat(one) for one in (os.path.dirname(os.path.abspath(paths[0])), paths[0], paths[-1])]
    described = _described_once(path, tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))
    if not all(header.is_whole for header in described.headers):
        # A file may be restored in its place, and to look at all of them is slow where they are many.
        _described_once.cache_clear()
    return described


@lru_cache(maxsize=1)
def _described_once(path: str, stamp: Stamp) -> master.Described:
    return master.describe(path)
