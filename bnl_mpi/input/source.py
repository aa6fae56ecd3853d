"""Where the frames are: from a master to data files, and frames out of these.

Rank 0 builds a `Source`, a list of segments (runs of frames in one dataset of one file), while opening the
master and, where the master's counts allow it, one data file only.  The other ranks open the data files they
read, check them (`check_segments`), and take frames out of them (`FrameReader`).
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError
from ..hdf5 import access
from ..pixels import kernels

DATA_LINK = re.compile(r"data_(\d+)$")
BITSHUFFLE, LZ4 = 32008, 32004
HYPERSLAB = 2
"""HDF5's H5S_SEL_HYPERSLABS: part of a dataset is selected."""

BITSHUFFLE_LZ4 = 2
"""The value of bitshuffle's fifth parameter that means LZ4."""


@dataclass(frozen=True)
class Segment:
    """`count` frames of `dataset` in `path`, from index `start` of its first axis."""

    path: str
    dataset: str
    start: int
    count: int

    def __str__(self) -> str:
        return f"{self.path}:{self.dataset}"


@dataclass(frozen=True)
class Source:
    """All frames of a data set in order.  `shape` is (ny, nx); `dtype` is that of the data files."""

    master: str
    segments: tuple[Segment, ...]
    shape: tuple[int, int]
    dtype: str
    channel: int
    """The channel (energy threshold) to take of datasets (n, channel, ny, nx), counted from 0."""
    counts_known: bool
    """False if the counts were inferred from the master and one data file, and await the owners' check."""

    @property
    def n_frames(self) -> int:
        return sum(s.count for s in self.segments)

    def spans(self, frames: range) -> list[tuple[int, int]]:
        """(segment, index) of the first frame of each segment that `frames` touches; for `check_segments`."""
        spans, begin = [], 0
        for k, segment in enumerate(self.segments):
            end = begin + segment.count
            if begin < frames.stop and frames.start < end:
                spans.append((k, max(frames.start, begin) - begin))
            begin = end
        return spans

    def file_sizes(self) -> dict[str, int]:
        """Name (without folder) and bytes of the master and of each data file."""
        paths = [self.master, *dict.fromkeys(s.path for s in self.segments)]
        return {os.path.basename(p): os.stat(p).st_size for p in paths}


def link_folders(master: str) -> list[str]:
    """Where the files that `master` links may be: its folder as given, and as it really is where that differs."""
    return list(dict.fromkeys(os.path.dirname(f(master)) for f in (os.path.abspath, os.path.realpath)))


def resolve_link(filename: str, master: str, folders: Sequence[str] = ()) -> str:
    """The path of a file that `master` links, relative to one of `folders` (by default its `link_folders`).

    An absolute path that leads nowhere is looked for beside the master, as HDF5 does: sets are moved about.
    """
    beside = folders or link_folders(master)
    names = [filename, os.path.basename(filename)] if os.path.isabs(filename) else [filename]
    candidates = [os.path.join(folder, name) for name in names for folder in beside]
    # Where there is no choice, whoever opens the file finds out: a look at each of thousands of files is dear.
    if len(candidates) == 1:
        return candidates[0]
    return next((c for c in candidates if os.path.exists(c)), candidates[0])


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


def _virtual_segments(dataset: Any, master: str, channel: int = 0) -> list[Segment] | None:
    """The segments behind a virtual dataset, (n, ny, nx) or (n, channel, ny, nx), or None if they aren't whole
    frames in order."""
    pieces = []
    for source in dataset.virtual_sources():
        start, stride, count, block = source.vspace.get_regular_hyperslab()
        extent = [c * b for c, b in zip(count, block, strict=True)]
        if dataset.ndim == 4 and not start[1] <= channel < start[1] + extent[1]:
            continue
        whole = extent[-2:] == list(dataset.shape[-2:]) and not any(start[-2:])
        if not whole or (count[0] > 1 and stride[0] != block[0]):
            return None
        pieces.append((start[0], extent[0], source))
    segments: list[Segment] = []
    here = 0
    for begin, frames, source in sorted(pieces, key=lambda piece: piece[0]):
        if begin != here:
            return None
        first = 0
        if source.src_space.get_select_type() == HYPERSLAB:
            first = source.src_space.get_regular_hyperslab()[0][0]
        path, name = _behind(dataset, source, master)
        segments.append(Segment(path, name, int(first), int(frames)))
        here += frames
    return segments if segments and here == dataset.shape[0] else None


def _behind(dataset: Any, source: Any, master: str) -> tuple[str, str]:
    """(path, dataset) of one source of a virtual dataset; one in the same file may be a link to another."""
    import h5py

    if source.file_name != ".":
        return resolve_link(source.file_name, master), source.dset_name
    link = dataset.file.get(source.dset_name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        return resolve_link(link.filename, master), link.path
    return os.path.abspath(master), source.dset_name


def _open_dataset(path: str, name: str) -> Any:
    h5 = access.open_read(path)
    try:
        dataset = h5[name]
        shape = dataset.shape
    except (KeyError, OSError, AttributeError) as error:
        h5.close()
        raise InputError(f"{path}: no dataset {name} ({str(error).strip(chr(39))})") from error
    if len(shape) not in (2, 3, 4):
        h5.close()
        raise InputError(f"{path}:{name}: {len(shape)}-dimensional; frames are (n, ny, nx) or (n, channel, ny, nx)")
    return dataset


def _frames_in(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) > 2 else 1


def check_present(paths: Iterable[str], master: str) -> None:
    missing = [p for p in dict.fromkeys(paths) if not os.path.isfile(p)]
    if missing:
        names = ", ".join(missing)
        raise InputError(
            f"{master}: {len(missing)} linked data file{'s are' * (len(missing) > 1) or ' is'} missing: {names}; "
            "put them where the master's links point"
        )


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
    dataset = _open_dataset(first.path, first.dataset)
    with dataset.file:
        shape, dtype = tuple(int(n) for n in dataset.shape[-2:]), dataset.dtype
        chosen = _choose_channel(first, dataset.shape, channel if dataset.ndim == 4 else None)
        if dataset.is_virtual and (deeper := _virtual_segments(dataset, first.path, chosen)):
            dtype = _stored_dtype(deeper[0], dtype)
    if dtype.kind not in "uif":
        raise InputError(f"{first}: pixels of type {dtype}; integers or floats are wanted")
    stored = dtype.newbyteorder("=").name
    return Source(os.path.abspath(master), tuple(segments), (shape[0], shape[1]), stored, chosen, known)


def _stored_dtype(segment: Segment, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in the file behind a virtual dataset, which may be declared with another."""
    if not os.path.isfile(segment.path):
        return dtype
    inner = _open_dataset(segment.path, segment.dataset)
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
        if dataset.is_virtual and (segments := _virtual_segments(dataset, master, chosen)):
            if not links:
                check_present((s.path for s in segments), master)
            if not links or all(os.path.isfile(s.path) for s in segments):
                return segments, True
        elif not links and dataset.ndim in (2, 3, 4):
            return [Segment(os.path.abspath(master), dataset.name, 0, _frames_in(dataset.shape))], True
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
    dataset = _open_dataset(*at)
    with dataset.file:
        return _frames_in(dataset.shape)


class Fetched(NamedTuple):
    """A stored frame: its chunk and how to decode that; both None where the frame went to the caller's buffer."""

    how: Literal["bslz4", "lz4", "raw"] | None
    chunk: Any


class FrameReader:
    """Reads frames into a caller's buffer; keeps the file it is in open, and that one alone.

    Chunks of one frame under bslz4, LZ4 or no filter are read as they are and decoded here, outside HDF5's
    lock; everything else goes through h5py.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        counts = [segment.count for segment in source.segments]
        self._ends = list(itertools.accumulate(counts))
        self._open: tuple[str, str] | None = None
        self._dataset: Any = None
        self._decode: Literal["bslz4", "lz4", "raw"] | None = None
        self._chunks: list[bytearray] = []
        self.bytes_read = 0

    def _locate(self, frame: int) -> tuple[Segment, int]:
        """The segment and the index in its dataset of frame `frame`, counted from 0."""
        k = bisect.bisect_right(self._ends, frame)
        segment = self.source.segments[k]
        return segment, segment.start + segment.count - (self._ends[k] - frame)

    def close(self) -> None:
        if self._dataset is not None:
            self._dataset.file.close()
        self._dataset, self._open = None, None

    def _select(self, segment: Segment) -> None:
        if self._open == (segment.path, segment.dataset):
            return
        self.close()
        self._dataset = _open_dataset(segment.path, segment.dataset)
        self._open = (segment.path, segment.dataset)
        self._decode = self._direct_filter()

    def _direct_filter(self) -> Literal["bslz4", "lz4", "raw"] | None:
        """How to decode a raw chunk without HDF5; None where that can't be."""
        d = self._dataset
        one_frame = d.chunks in ((1, *self.source.shape), (1, 1, *self.source.shape))
        if d.is_virtual or not one_frame or d.dtype != np.dtype(self.source.dtype):
            return None
        pipeline = d.id.get_create_plist()
        filters = [pipeline.get_filter(i) for i in range(pipeline.get_nfilters())]
        if not filters:
            return "raw"
        if len(filters) > 1 or not kernels.HAVE_BSLZ4:
            return None
        code, _, values, _ = filters[0]
        if code == BITSHUFFLE and len(values) > 4 and values[4] == BITSHUFFLE_LZ4:
            return "bslz4"
        return "lz4" if code == LZ4 else None

    def fetch(self, frame: int, out: np.ndarray[Any, Any], slot: int = 0) -> Fetched:
        """Read frame `frame` (from 0) as far as HDF5 is needed for it.

        Returns what `decode` takes: the raw chunk, which holds until the next call for the same `slot`, or none
        where `out`, (ny, nx) of the source's type, holds the frame already.
        """
        segment, index = self._locate(frame)
        self._select(segment)
        try:
            if self._decode is not None:
                mask, chunk = self._read_chunk(index, slot)
                self.bytes_read += len(chunk)
                if mask == 0 or self._decode == "raw":
                    return Fetched(self._decode, chunk)
            self._read_through_hdf5(index, out)
        except (OSError, RuntimeError, ValueError) as error:
            raise self.fault(frame, error) from error
        return Fetched(None, None)

    def _offset(self, index: int) -> tuple[int, ...]:
        """Where the frame's chunk begins in the dataset."""
        return (index, 0, 0) if self._dataset.ndim == 3 else (index, self.source.channel, 0, 0)

    def _read_chunk(self, index: int, slot: int) -> tuple[int, Any]:
        size = self._dataset.id.get_chunk_info_by_coord(self._offset(index)).size
        if not size:
            raise OSError("the frame was never written")
        while len(self._chunks) <= slot:
            self._chunks.append(bytearray())
        if len(self._chunks[slot]) < size:
            self._chunks[slot] = bytearray(size)
        mask, chunk = self._dataset.id.read_direct_chunk(self._offset(index), out=self._chunks[slot])
        return int(mask), memoryview(chunk)

    def _read_through_hdf5(self, index: int, out: np.ndarray[Any, Any]) -> None:
        import hdf5plugin  # noqa: F401  (registers the filters)

        if self._dataset.ndim == 2:
            self._dataset.read_direct(out)
        else:
            self._dataset.read_direct(out, self._offset(index)[:-2])
        # A frame's part of what the dataset takes in its file; nothing is stored in a virtual one.
        self.bytes_read += self._dataset.id.get_storage_size() // _frames_in(self._dataset.shape) or out.nbytes

    def decode(self, fetched: Fetched, frame: int, out: np.ndarray[Any, Any]) -> None:
        """Put the frame that `fetch` read into `out`."""
        how, chunk = fetched
        try:
            if how == "bslz4":
                kernels.bslz4_decode(chunk, out)
            elif how == "lz4":
                kernels.lz4_decode(chunk, out)
            elif how == "raw":
                out[...] = np.frombuffer(chunk, out.dtype).reshape(out.shape)
        except ValueError as error:
            raise self.fault(frame, error) from error

    def fault(self, frame: int, error: Exception) -> InputError:
        """The error that says where frame `frame` lies and why it can't be read."""
        segment, index = self._locate(frame)
        reason = " ".join(str(error).split())
        return InputError(
            f"{segment}: frame {frame + 1} (index {index} of the dataset) can't be read: {reason}; restore the file"
        )


def check_segments(source: Source, wanted: Iterable[int]) -> tuple[list[str], dict[int, int]]:
    """Open the datasets of the segments numbered `wanted` and hold them against the source.

    Returns the problems found, a line each, and the number of frames of each segment that differs from what
    the source supposes (empty if all is as expected).
    """
    problems, counts = [], {}
    for k in wanted:
        segment = source.segments[k]
        try:
            dataset = _open_dataset(segment.path, segment.dataset)
        except InputError as error:
            problems.append(str(error))
            continue
        with dataset.file:
            shape, dtype = dataset.shape, dataset.dtype.newbyteorder("=")
        if tuple(shape[-2:]) != source.shape:
            problems.append(
                f"{segment}: frames of {shape[-2]} x {shape[-1]} pixels, but {source.shape[0]} x {source.shape[1]} "
                f"in {source.segments[0].path}; all frames must be of one shape"
            )
        elif dtype != np.dtype(source.dtype) and not dataset_is_virtual(source):
            problems.append(f"{segment}: pixels of type {dtype}, but {source.dtype} in {source.segments[0].path}")
        available = _frames_in(shape) - segment.start
        last = k == len(source.segments) - 1
        if not source.counts_known and (available != segment.count and not (last and available > segment.count)):
            counts[k] = available
        elif available < segment.count:
            problems.append(f"{segment}: {available} frames, but {segment.count} are expected from the master")
    return problems, counts


def dataset_is_virtual(source: Source) -> bool:
    """Whether the frames lie in the master itself (then its type may differ from the stored one)."""
    return source.segments[0].path == source.master


def find_master(path: str) -> str:
    """`path` if it is a file, else the error that says what is there instead."""
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; give the master file, NAME_master.h5")
    if not os.path.exists(path):
        near = sorted(p.name for p in Path(path).parent.glob("*_master.h5"))[:3] if Path(path).parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise InputError(f"{path}: no such file{hint}")
    return path
