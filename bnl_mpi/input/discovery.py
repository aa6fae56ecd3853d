"""From an open master to a `Source`: which files and datasets hold the frames, in order."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..hdf5 import access
from .hdf5frames import frames_in, open_dataset
from .links import check_present, link_folders, resolve_link
from .source import Segment, Source
from .virtual import segments_of

DATA_LINK = re.compile(r"data_(\d+)$")


def _links(h5: Any, master: str) -> list[tuple[str, str]]:
    """(path, dataset) of each `/entry/data/data_NNNNNN`, in the order of their numbers."""
    import h5py

    group = h5["/entry/data"]
    numbered = sorted((int(m[1]), name) for name in group if (m := DATA_LINK.match(name)))
    found, folders = [], link_folders(master)
    for _, name in numbered:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            found.append((resolve_link(link.filename, master, folders), link.path))
        else:
            path = link.path if isinstance(link, h5py.SoftLink) else f"/entry/data/{name}"
            found.append((os.path.abspath(master), path if path.startswith("/") else f"/entry/data/{path}"))
    return found


def _choose_channel(where: object, shape: Sequence[int], asked: int | None) -> int:
    """The channel to take, counted from 0, of frames of `shape`; `asked` counts from 1."""
    n_channels = shape[1] if len(shape) == 4 else 1
    if asked is None and n_channels > 1:
        raise InputError(f"{where}: frames have {n_channels} channels; choose one with --channel 1 to {n_channels}")
    if (asked or 1) > n_channels:
        raise InputError(f"{where}: --channel {asked}, but frames have {n_channels} channel{'s' * (n_channels > 1)}")
    return (asked or 1) - 1


def open_source(
    master: str, h5: Any, expected: int | None, *, trust_counts: bool = True, channel: int | None = None
) -> Source:
    """Find the frames of the open master `h5`.

    `channel`, counted from 1, is asked of data sets with several.  `expected` is nimages x ntrigger where the
    master tells.  With `trust_counts` the data files after the first are not opened if `expected` fits files of
    the first one's length (rank 0's way: the owners look later); without it every file is opened.
    """
    if "/entry/data" not in h5:
        raise InputError(f"{master}: no group /entry/data; is this an Eiger master file?")
    group = h5["/entry/data"]
    segments, known = _segments(master, h5, group, expected, trust_counts, channel)
    first = next((s for s in segments if s.count), None)
    if first is None:
        raise InputError(f"{master}: /entry/data holds no frames")
    dataset = open_dataset(first.path, first.dataset)
    with dataset.file:
        shape, dtype = tuple(int(n) for n in dataset.shape[-2:]), dataset.dtype
        chosen = _choose_channel(first, dataset.shape, channel if dataset.ndim == 4 else None)
        if dataset.is_virtual and (deeper := segments_of(dataset, first.path, chosen)):
            dtype = _stored_dtype(deeper[0], dtype)
    if dtype.kind not in "uif":
        raise InputError(f"{first}: pixels of type {dtype}; integers or floats are wanted")
    stored = dtype.newbyteorder("=").name
    return Source(os.path.abspath(master), tuple(segments), (shape[0], shape[1]), stored, chosen, known)


def _stored_dtype(segment: Segment, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in the file behind a virtual dataset, which may be declared with another."""
    if not os.path.isfile(segment.path):
        return dtype
    inner = open_dataset(segment.path, segment.dataset)
    with inner.file:
        stored: np.dtype[Any] = inner.dtype
    return stored


def _segments(
    master: str, h5: Any, group: Any, expected: int | None, trust_counts: bool, channel: int | None
) -> tuple[list[Segment], bool]:
    import h5py

    links = _links(h5, master)
    name = access.text(group.attrs.get("signal", "data"))
    link = group.get(name, getlink=True) if name in group or not links else None
    if isinstance(link, h5py.ExternalLink):
        links = links or [(resolve_link(link.filename, master), link.path)]
    elif link is not None and name in group:
        dataset = group[name]
        chosen = _choose_channel(f"{master}:{dataset.name}", dataset.shape, channel)
        if dataset.is_virtual and (segments := segments_of(dataset, master, chosen)):
            if not links:
                check_present((s.path for s in segments), master)
            if not links or all(os.path.isfile(s.path) for s in segments):
                return segments, True
        elif not links and dataset.ndim in (2, 3, 4):
            return [Segment(os.path.abspath(master), dataset.name, 0, frames_in(dataset.shape))], True
    if not links:
        raise InputError(f"{master}: /entry/data has neither data_NNNNNN links nor a dataset named data")
    check_present((path for path, _ in links), master)
    first = _count(links[0])
    equal = first > 0 and expected is not None and -(-expected // first) == len(links)
    if trust_counts and equal and expected is not None:
        counts = [first] * (len(links) - 1) + [expected - first * (len(links) - 1)]
    else:
        counts = [first] + [_count(at) for at in links[1:]]
    return [Segment(p, d, 0, n) for (p, d), n in zip(links, counts, strict=True)], not (trust_counts and equal)


def _count(at: tuple[str, str]) -> int:
    dataset = open_dataset(*at)
    with dataset.file:
        return frames_in(dataset.shape)
