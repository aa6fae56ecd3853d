"""A set's metadata held against its raw master's: each item equal, changed by a rule, or unexplained.

What the rules give is made anew, in a folder of its own, and compared item by item with what the set has.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ..hdf5 import access
from ..hdf5.digest import type_text
from ..hdf5.names import PROCESS
from ..input import opening
from ..tasks.reduction import make_masters
from .findings import DIFFERS, EXTRA, MISSING, Finding
from .job import PreparedVerification, VerifyJob

OURS = frozenset({PROCESS})
"""What a run notes of itself: dates and versions differ."""


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
            for made, path in zip(anew, (job.options.master_path, job.options.nxs_path), strict=True):
                if not os.path.exists(made):
                    continue
                if not os.path.exists(path):
                    yield Finding(MISSING, path, "file", "a file", "nothing")
                    continue
                with access.open_read(path) as stored, access.open_read(made) as wanted:
                    yield from _walk(stored, wanted, raw, path, tally)


def _walk(stored: h5py.File, wanted: h5py.File, raw: h5py.File, path: str, tally: Tally) -> Iterator[Finding]:
    here, there, before = (dict(_items(file, "")) for file in (stored, wanted, raw))
    for name in sorted(here.keys() | there.keys()):
        if any(name == own or name.startswith(f"{own}/") or name.startswith(f"{own}@") for own in OURS):
            continue
        if name not in there:
            tally.unexplained += 1
            yield Finding(EXTRA, path, name, "no such item", here[name].short)
        elif name not in here:
            tally.unexplained += 1
            yield Finding(MISSING, path, name, there[name].short, "nothing")
        elif here[name] != there[name]:
            tally.unexplained += 1
            yield Finding(DIFFERS, path, name, there[name].short, here[name].short)
        elif before.get(name) == here[name]:
            tally.equal += 1
        else:
            tally.by_rule += 1


@dataclass(frozen=True)
class _Item:
    """An item's content, in a form that compares with ==."""

    kind: str
    content: Any

    @property
    def short(self) -> str:
        text = f"{self.kind} {self.content}"
        return text if len(text) < 80 else f"{text[:77]}..."


def _items(group: h5py.Group, path: str) -> Iterator[tuple[str, _Item]]:
    """Every dataset, link and attribute below a group; an object with two names is told by both."""
    for name, value in _attributes(group, path):
        yield name, value
    for name in group:
        here, link = f"{path}/{name}", access.link(group, name)
        if isinstance(link, h5py.ExternalLink):
            yield here, _Item("external link", (os.path.basename(link.filename), link.path))
        elif isinstance(link, h5py.SoftLink):
            yield here, _Item("soft link", link.path)
        else:
            item = group[name]
            if isinstance(item, h5py.Group):
                yield from _items(item, here)
            else:
                yield from _attributes(item, here)
                yield here, _content(item)


def _attributes(item: h5py.HLObject, path: str) -> Iterator[tuple[str, _Item]]:
    for name in item.attrs:
        yield f"{path}@{name}", _Item("attribute", _plain(item.attrs[name]))


def _content(item: Any) -> _Item:
    if not isinstance(item, h5py.Dataset):
        return _Item(type(item).__name__, "")
    if item.is_virtual:
        sources = [(os.path.basename(v.file_name), v.dset_name) for v in item.virtual_sources()]
        return _Item("virtual dataset", (item.shape, str(sources)))
    return _Item(type_text(item.id.get_type()), (item.shape, _plain(item[()])))


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return str(array.tolist())
    if array.size > 64:
        return _sha256(array)
    return array.tolist() if array.dtype.kind != "f" else [float(x).hex() for x in array.reshape(-1)]


def _sha256(array: np.ndarray[Any, Any]) -> str:
    return f"sha256 {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]}"
