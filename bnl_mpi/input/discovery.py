"""From an open master to a `Source`: which files and datasets hold the frames, in order."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..hdf5 import access
from .hdf5frames import Hdf5Frames, extent_of, frames_in, open_dataset
from .links import check_present, link_folders, resolve_link
from .source import Segment, Source
from .virtual import open_frames, segments_of

DATA_LINK = re.compile(r"data_(\d+)$")


class Asked(Protocol):
    """The options that allow something; `options.Options` does."""

    @property
    def salvage(self) -> bool: ...

    @property
    def ignore_frame_numbers(self) -> bool: ...

    @property
    def skip_bad_frames(self) -> bool: ...


@dataclass(frozen=True)
class Leniency:
    """What of a damaged or odd set is taken nevertheless."""

    salvage: bool = False
    ignore_numbers: bool = False
    bad_frames: bool = False

    @classmethod
    def asked(cls, options: Asked) -> Leniency:
        """What the options allow."""
        return cls(options.salvage, options.ignore_frame_numbers, options.skip_bad_frames)


STRICT = Leniency()


def _links(h5: Any, master: str, lenient: Leniency) -> list[tuple[str, str]]:
    """(path, dataset) of each `/entry/data/data_NNNNNN`, in the order of their numbers."""
    import h5py

    group = h5["/entry/data"]
    numbered = sorted((int(m[1]), name) for name in group if (m := DATA_LINK.match(name)))
    for (before, _), (after, _) in itertools.pairwise(numbered):
        if after != before + 1 and not lenient.ignore_numbers:
            raise InputError(
                f"{master}: /entry/data links data_{before:06d} and then data_{after:06d}, so frames are missing; "
                "restore the link, or go on with --ignore_frame_numbers"
            )
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
    if asked is not None and n_channels == 1:
        raise InputError(f"{where}: --channel {asked}, but frames have one channel; drop --channel")
    if asked is None and n_channels > 1:
        raise InputError(f"{where}: frames have {n_channels} channels; choose one with --channel 1 to {n_channels}")
    if (asked or 1) > n_channels:
        raise InputError(f"{where}: --channel {asked}, but frames have {n_channels} channels")
    return (asked or 1) - 1


class _LastOpened:
    """Opens datasets of frames, and keeps the last one open: as a rule there is one, which is asked twice."""

    def __init__(self) -> None:
        self._at: tuple[str, str] | None = None
        self._dataset: Any = None

    def open(self, path: str, name: str) -> Any:
        if self._at != (path, name):
            self.close()
            self._dataset, self._at = open_dataset(path, name), (path, name)
        return self._dataset

    def close(self) -> None:
        if self._at is not None:
            self._dataset.file.close()
            self._at = None


def open_source(
    master: str,
    h5: Any,
    expected: int | None,
    *,
    trust_counts: bool = True,
    channel: int | None = None,
    lenient: Leniency = STRICT,
) -> Source:
    """Find the frames of the open master `h5`.

    `channel`, counted from 1, is asked of data sets with several.  `expected` is nimages x ntrigger where the
    master tells.  With `trust_counts` the data files after the first are not opened if `expected` fits files of
    the first one's length (rank 0's way: the owners look later); without it every file is opened.
    """
    refuse_data_file(master, h5)
    if "/entry/data" not in h5:
        raise InputError(f"{master}: no group /entry/data; is this an Eiger master file?")
    group = h5["/entry/data"]
    trust_counts = trust_counts and not lenient.salvage
    with contextlib.closing(_LastOpened()) as files:
        segments, known, missing = _segments(master, h5, group, expected, trust_counts, channel, lenient, files)
        first = next((s for s in segments if s.count), None)
        if first is None:
            raise InputError(f"{master}: /entry/data holds no frames")
        dataset = files.open(first.path, first.dataset)
        shape, dtype = tuple(int(n) for n in dataset.shape[-2:]), dataset.dtype
        chosen = _choose_channel(first, dataset.shape, channel)
        numbers = extent_of(dataset).numbers if not first.start else None
        if dataset.is_virtual and (deeper := segments_of(dataset, first.path, chosen)):
            dtype = _stored_dtype(deeper[0], dtype)
    if dtype.kind not in "uif":
        raise InputError(f"{first}: pixels of type {dtype}; integers or floats are wanted")
    stored = dtype.newbyteorder("=").name
    found = Source(os.path.abspath(master), tuple(segments), (shape[0], shape[1]), stored, chosen, known)
    found = replace(found, first_number=numbers[0] if numbers else None, missing=tuple(missing))
    return salvaged(found) if lenient.salvage else found


def refuse_data_file(master: str, h5: Any) -> None:
    """A file of frames without an experiment is no master; say which is."""
    if "entry/instrument" in h5 or access.get_dataset(h5, "entry/data/data") is None:
        return
    own = os.path.basename(master)
    stem = re.sub(r"(_data)?_\d{6}\.h5$", "", own)
    near = os.path.join(os.path.dirname(master), f"{stem}_master.h5")
    hint = f"its master is {near}" if os.path.isfile(near) else "give the master file that links it"
    raise InputError(f"{master}: this is a data file, {hint}")


def _stored_dtype(segment: Segment, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in the file behind a virtual dataset, which may be declared with another."""
    if not os.path.isfile(segment.path):
        return dtype
    inner = open_dataset(segment.path, segment.dataset)
    with inner.file:
        stored: np.dtype[Any] = inner.dtype
    return stored


def _segments(
    master: str,
    h5: Any,
    group: Any,
    expected: int | None,
    trust_counts: bool,
    channel: int | None,
    lenient: Leniency,
    files: _LastOpened,
) -> tuple[list[Segment], bool, list[str]]:
    """The segments, whether their counts are known, and files that are missing (`--salvage`)."""
    import h5py

    links = _links(h5, master, lenient)
    name = access.text(group.attrs.get("signal", "data"))
    link = group.get(name, getlink=True) if name in group or not links else None
    if isinstance(link, h5py.ExternalLink):
        links = links or [(resolve_link(link.filename, master), link.path)]
    elif link is not None and name in group:
        dataset = group[name]
        chosen = _choose_channel(f"{master}:{dataset.name}", dataset.shape, channel)
        if dataset.is_virtual and (segments := segments_of(dataset, master, chosen)):
            if not links and not lenient.salvage:
                check_present((s.path for s in segments), master)
            if not links or all(os.path.isfile(s.path) for s in segments):
                return segments, True, []
        elif not links and dataset.ndim in (2, 3, 4):
            return [Segment(os.path.abspath(master), dataset.name, 0, frames_in(dataset.shape))], True, []
    if not links:
        raise InputError(f"{master}: /entry/data has neither data_NNNNNN links nor a dataset named data")
    if not lenient.salvage:
        check_present((path for path, _ in links), master)
    counts, missing = _counts(links, expected, trust_counts, files, lenient)
    known = not (trust_counts and len(missing) == 0 and _is_equal(links, counts[0], expected))
    if known and not lenient.ignore_numbers and not lenient.salvage:
        _refuse_short_file(master, links, counts, expected)
    return [Segment(p, d, 0, n) for (p, d), n in zip(links, counts, strict=False)], known, missing


def _is_equal(links: Sequence[tuple[str, str]], first: int, expected: int | None) -> bool:
    """Whether as many files as the first one's length fits hold what the master tells of."""
    return first > 0 and expected is not None and -(-expected // first) == len(links)


def _counts(
    links: Sequence[tuple[str, str]], expected: int | None, trust: bool, files: _LastOpened, lenient: Leniency
) -> tuple[list[int], list[str]]:
    """Frames of each file; under `salvage` up to one that can't be opened, and it and what follows it."""
    counts = [frames_in(files.open(*links[0]).shape)]
    if trust and expected is not None and _is_equal(links, counts[0], expected):
        return [counts[0]] * (len(links) - 1) + [expected - counts[0] * (len(links) - 1)], []
    for k, at in enumerate(links[1:], 1):
        try:
            counts.append(frames_in(files.open(*at).shape))
        except InputError:
            if not lenient.salvage:
                raise
            return counts, [path for path, _ in links[k:]]
    return counts, []


def _refuse_short_file(
    master: str, links: Sequence[tuple[str, str]], counts: Sequence[int], expected: int | None
) -> None:
    """Only the last file may be short where the master tells of more frames than there are."""
    if expected is None or sum(counts) >= expected:
        return
    for (path, _), n in zip(links, counts[:-1], strict=False):
        if n < counts[0]:
            raise InputError(
                f"{path}: {n} frames, but {counts[0]} in the first file, and {master} tells of {expected}: frames are "
                "missing; restore the file, or go on with --ignore_frame_numbers"
            )


def salvaged(source: Source) -> Source:
    """The source up to the first frame that isn't there, with a warning that names what is lost."""
    kept: list[Segment] = []
    missing = list(source.missing)
    for k, segment in enumerate(source.segments):
        n = _written(segment, source)
        if n:
            kept.append(replace(segment, count=n))
        if n < segment.count:
            missing = [*dict.fromkeys(s.path for s in source.segments[k:]), *missing]
            break
    if not kept:
        raise InputError(f"{source.master}: --salvage: no frame was written, there is nothing to take")
    if not missing:
        return source
    names = ", ".join(os.path.basename(path) for path in missing[:10]) + (", ..." if len(missing) > 10 else "")
    found = replace(source, segments=tuple(kept), missing=tuple(os.path.basename(path) for path in missing))
    text = f"{source.master}: --salvage takes {found.n_frames} frames; missing, damaged or incomplete: {names}"
    return replace(found, warnings=(*source.warnings, text))


def _written(segment: Segment, source: Source) -> int:
    try:
        reader = open_frames(segment, source)
    except InputError:
        return 0
    try:
        frames = range(segment.start, segment.start + segment.count)
        return reader.written(frames) if isinstance(reader, Hdf5Frames) else segment.count
    finally:
        reader.close()
