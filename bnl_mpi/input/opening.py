"""What `-i` names, opened: a master file, or a CBF series, of which a master is made in memory.

Nothing beyond this module asks which of them it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ..hdf5 import access
from ..hdf5.known import UNKNOWN, Known
from ..hdf5.names import SPECIFIC
from . import discovery
from .cbf.naming import names_series
from .links import find_master
from .source import Source


def open_master(path: str | Path) -> h5py.File:
    """The master open for reading; InputError, in one line, where that can't be."""
    name = str(path)
    if not names_series(name):
        return access.open_read(find_master(name))
    from .cbf import inmemory

    return inmemory.open_series(name)


@contextmanager
def at_hand(master: str | Path | h5py.File) -> Iterator[h5py.File]:
    """A master that is open already, and stays so; or one that is opened, and closed afterwards."""
    if isinstance(master, h5py.File):
        yield master
        return
    with open_master(master) as h5:
        yield h5


def name_of(master: str | Path | h5py.File) -> str:
    """For messages."""
    return str(master.filename if isinstance(master, h5py.File) else master)


def frames_told(h5: h5py.File, known: Known = UNKNOWN) -> tuple[int | None, float | None]:
    """(frames that an open master tells of, its `ntrigger`), each None where it doesn't; `known` is of its like."""

    def read() -> tuple[float | None, float | None]:
        return access.number(h5, f"{SPECIFIC}/nimages"), access.number(h5, f"{SPECIFIC}/ntrigger")

    nimages, ntrigger = known.once("counts", h5, read)
    return int(nimages) * int(ntrigger or 1) if nimages else None, ntrigger


def open_source(
    path: str,
    h5: h5py.File,
    expected: int | None,
    *,
    trust_counts: bool = True,
    channel: int | None = None,
    lenient: discovery.Leniency = discovery.STRICT,
) -> Source:
    """Where the frames of the open master `h5` are; arguments as for `discovery.open_source`."""
    if names_series(path):
        from .cbf import inmemory

        return inmemory.series_source(path, channel, bad_frames=lenient.bad_frames)
    return discovery.open_source(path, h5, expected, trust_counts=trust_counts, channel=channel, lenient=lenient)
