"""A set's metadata held against its raw master's: each item equal, changed by a rule, or unexplained.

What the rules give is made anew, in a folder of its own, and compared item by item with what the set has.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ..hdf5 import access, guard
from ..hdf5.digest import type_text
from ..hdf5.names import PROCESS
from ..input import opening
from ..tasks.masters import make_masters
from .findings import DIFFERS, EXTRA, MISSING, Finding
from .job import PreparedVerification, VerifyJob

OURS = frozenset({PROCESS})
"""What a run notes of itself: dates and versions differ."""
ANGLES = re.compile(r"/entry/(sample/(goniometer|transformations)|data)/\w+")
ROUNDING = 1e-12
"""Degrees: by which angles may differ that were reckoned from an image's width, not from a frame's.

An expansion makes a NeXus file that isn't there of the small set's master, and single precision tells 3e-5 there.
"""
EARLIER = re.compile(rf"({PROCESS}_\d+)[/@]")
"""Items that an earlier run noted."""


@dataclass
class Tally:
    """How many items were found in which state."""

    equal: int = 0
    """To the raw master's."""
    by_rule: int = 0
    """Changed, or made anew, as the rules say."""
    unexplained: int = 0

    def line(self) -> str:
        return f"metadata: {self.equal} items as in the raw master, {self.by_rule} changed as the rules say, " + (
            f"{self.unexplained} unexplained"
        )


def compare(prepared: PreparedVerification, tally: Tally) -> Iterator[Finding]:
    """Findings on the master and the .nxs file beside it; nothing is found of what is explained."""
    job = prepared.job
    assert isinstance(job, VerifyJob)
    with tempfile.TemporaryDirectory(prefix="bnl_mpi_verify_") as folder:
        anew = os.path.join(folder, "m_master.h5"), os.path.join(folder, "m.nxs")
        assert prepared.experiment is not None
        make_masters(job, prepared.experiment, *anew)
        raw: Any
        with opening.open_master(job.options.infile) as raw:
            with guard.understood(job.options.infile):
                before = dict(_Items(raw).all())
            for made, path in zip(anew, (job.options.master_path, job.options.nxs_path), strict=True):
                if not os.path.exists(made):
                    continue
                if not os.path.exists(path):
                    yield Finding(MISSING, path, "file", "a file", "nothing")
                    continue
                with guard.opened(path, job.plan.shape_in) as stored, access.open_read(made) as wanted:
                    yield from _walk(stored, wanted, before, path, tally)


def _walk(
    stored: h5py.File, wanted: h5py.File, before: Mapping[str, _Item], path: str, tally: Tally
) -> Iterator[Finding]:
    here, there = (dict(_Items(file).all()) for file in (stored, wanted))
    ours, is_expanded = OURS | _reduction_of_expanded(here, there), f"{PROCESS}/expanded" in here
    for name in sorted(here.keys() | there.keys()):
        if any(name == own or name.startswith(f"{own}/") or name.startswith(f"{own}@") for own in ours):
            continue
        if name not in there:
            tally.unexplained += 1
            yield Finding(EXTRA, path, name, "no such item", here[name].short)
        elif name not in here:
            tally.unexplained += 1
            yield Finding(MISSING, path, name, there[name].short, "nothing")
        elif is_expanded and ANGLES.fullmatch(name) and here[name].rounds_like(there[name]):
            tally.by_rule += 1
        elif not here[name].equals(there[name]):
            tally.unexplained += 1
            yield Finding(DIFFERS, path, name, there[name].short, here[name].short)
        elif name in before and before[name].equals(here[name]):
            tally.equal += 1
        else:
            tally.by_rule += 1


def _reduction_of_expanded(here: Mapping[str, _Item], there: Mapping[str, _Item]) -> set[str]:
    """What an expanded set tells of the run that it was expanded from, which one run in place of both doesn't."""
    if f"{PROCESS}/expanded" not in here:
        return set()
    return {told[1] for name in here.keys() - there.keys() if (told := EARLIER.match(name))}


@dataclass(frozen=True)
class _Item:
    """An item's content."""

    kind: str
    content: Any
    """In a form that compares with ==; of a dataset its shape."""
    dataset: h5py.Dataset | None = None

    def equals(self, other: _Item) -> bool:
        """Whether both are the same; values are read only where all else is."""
        if (self.kind, self.content) != (other.kind, other.content):
            return False
        if self.dataset is None or other.dataset is None:
            return self.dataset is other.dataset
        one, two = self.dataset[()], other.dataset[()]
        if isinstance(one, np.ndarray) and one.dtype.kind not in "OV" and one.dtype == two.dtype:
            # By their bits: NaN is NaN, and 0.0 isn't -0.0.
            return np.array_equal(_bits(one), _bits(two))
        return bool(_plain(one) == _plain(two))

    def rounds_like(self, other: _Item) -> bool:
        """Whether both are doubles that differ, if at all, in what arithmetic leaves undetermined."""
        if (self.kind, self.content) != (other.kind, other.content) or self.dataset is None or other.dataset is None:
            return False
        one, two = np.asarray(self.dataset[()]), np.asarray(other.dataset[()])
        differ = one.dtype == np.dtype("<f8") and not self.equals(other)
        return differ and bool(np.allclose(one, two, rtol=0.0, atol=ROUNDING))

    @property
    def short(self) -> str:
        text = f"{self.kind} {self.content}" if self.dataset is None else _told(self.dataset)
        return text if len(text) < 80 else f"{text[:77]}..."


class _Items:
    """The datasets, links and attributes of an open file, by path; an attribute's is `PATH@NAME`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._groups = {access.identity(file): "/"}

    def all(self) -> Iterator[tuple[str, _Item]]:
        """Each of them; a dataset with two names is told by both, a group by the first."""
        yield from self._below(self._file["/"], "")

    def _below(self, group: h5py.Group, path: str) -> Iterator[tuple[str, _Item]]:
        yield from _attributes(group, path)
        for name in group:
            here = f"{path}/{name}"
            item = _link(group, name) or group[name]
            if isinstance(item, _Item):
                yield here, item
            elif not isinstance(item, h5py.Group):
                yield from _attributes(item, here)
                yield here, _content(item)
            elif (first := self._groups.setdefault(access.identity(item), here)) == here:
                yield from self._below(item, here)
            else:
                yield here, _Item("group of another name", first)


def _link(group: h5py.Group, name: str) -> _Item | None:
    """A soft or external link as an item; None of any other."""
    link = access.link(group, name)
    if isinstance(link, h5py.ExternalLink):
        return _Item("external link", (os.path.basename(link.filename), link.path))
    return _Item("soft link", link.path) if isinstance(link, h5py.SoftLink) else None


def _attributes(item: h5py.HLObject, path: str) -> Iterator[tuple[str, _Item]]:
    for name in item.attrs:
        yield f"{path}@{name}", _attribute(item, name)


def _attribute(item: h5py.HLObject, name: str) -> _Item:
    return _Item("attribute", _plain(item.attrs[name]))


def _content(item: Any) -> _Item:
    if not isinstance(item, h5py.Dataset):
        return _Item(type(item).__name__, "")
    if item.is_virtual:
        sources = [(os.path.basename(v.file_name), v.dset_name) for v in item.virtual_sources()]
        return _Item("virtual dataset", (item.shape, str(sources)))
    return _Item(type_text(item.id.get_type()), item.shape, item)


def _told(dataset: h5py.Dataset) -> str:
    """Type, shape and value for a user; of many values a digest."""
    array = np.asarray(dataset[()])
    shape = f" {dataset.shape}" if dataset.shape else ""
    value = array.tolist() if array.size <= 4 else _digest(array)
    return f"{'text' if array.dtype.kind == 'O' else array.dtype.str}{shape} {value}"


def _digest(array: np.ndarray[Any, Any]) -> str:
    of = np.frombuffer(str(array.tolist()).encode(), np.uint8) if array.dtype.kind == "O" else _bits(array)
    return f"sha256 {hashlib.sha256(of.data).hexdigest()[:16]}"


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return str(array.tolist())
    if array.size > 64:
        return _digest(array)
    return array.tolist() if array.dtype.kind != "f" else [float(x).hex() for x in array.reshape(-1)]


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
