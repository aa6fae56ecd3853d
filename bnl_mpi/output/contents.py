"""Whether the files of a set are as they were written: a walk over all of them that yields what it finds.

It looks at content alone: checksums, digests, and that each file is the one that the master means.  What readers
demand of a set is another matter (`check`).  Sets of format 1 have no digests, and are held to what they have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ..errors import InputError
from ..hdf5 import access, guard
from ..hdf5.names import DATA, IMAGES, PROCESS, SQUASH
from ..input.links import resolve_link
from ..pixels import kernels
from ..plan import Block, Plan
from . import digest
from . import record as records

CHECKS = {
    "metadata-digest": "master and .nxs as they were written, and of one another",
    "block-record": "each file's record as it was written, of this run and of this block",
    "chunk-checksums": "every chunk as it was written",
    "squash-files": "every squash file there",
    "squash-record": "each squash file's record as it was written, of this run and of this block",
    "squash-checksums": "every codestream as it was written",
}
"""What is looked at, each by its name in `Finding.check`."""

UNREADABLE = Exception
"""A damaged file can make h5py and NumPy raise anything; whatever it is, the file isn't as it was written."""


@dataclass(frozen=True)
class Finding:
    """What was seen at one object of one file."""

    ok: bool
    check: str
    file: str
    object: str
    found: str


def whole_set(master: str) -> Iterator[Finding]:
    """All findings on a set, given its master.  Raises InputError where that can't be opened."""
    access.open_read(master).close()
    yield from masters(master)
    for part in (data_files, squash_files):
        try:
            yield from part(master)
        except InputError as error:
            yield Finding(False, "metadata-digest", master, DATA, _reason(error))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---- master and NeXus file ------------------------------------------------------------------------------


def masters(master: str) -> Iterator[Finding]:
    """The digests of a master and of the .nxs file beside it, each against itself and against the other's."""
    nxs = sibling(master)
    own: dict[str, str] = {}
    sealed = False
    for path in (master, nxs):
        if path is None:
            continue
        place = f"{PROCESS}/{digest.OWN}"
        try:
            with guard.opened(path) as file:
                # Without a digest too: what can't be read at all must not pass for what isn't there.
                told, own[path] = digest.told(file, digest.OWN), digest.of_master(file)
                if told is not None:
                    sealed = True
                    found = f"{own[path][:12]}, {told[:12]} when it was written"
                    yield Finding(own[path] == told, "metadata-digest", path, place, found)
                elif _newest_format(master) > 1:
                    yield Finding(False, "metadata-digest", path, place, "absent")
        except UNREADABLE as error:
            yield Finding(False, "metadata-digest", path, place, _reason(error))
    if sealed and nxs is not None and len(own) > 1:
        yield from _of_one_another(master, nxs, own)


def _newest_format(master: str) -> int:
    """Of the records of the files that a master links; 0 where none has one."""
    for group_path, word in ((DATA, "data"), (SQUASH, "squash")):
        for _, path, _ in linked(master, group_path, word)[1]:
            try:
                with access.open_read(path) as file:
                    return records.read_head(file).format
            except UNREADABLE:
                continue
    return 0


def expects_sibling(master: str) -> bool:
    """Whether a master tells of a NeXus file beside it; one of format 1 doesn't tell."""
    with guard.opened(master) as file:
        return digest.told(file, digest.OTHER) is not None


def sibling(master: str) -> str | None:
    """The NeXus file beside a master, if there is one."""
    if master.endswith(".nxs"):
        return None
    nxs = f"{master.removesuffix('.h5').removesuffix('_master')}.nxs"
    return nxs if os.path.exists(nxs) else None


def _of_one_another(master: str, nxs: str, own: dict[str, str]) -> Iterator[Finding]:
    for path, other in ((master, nxs), (nxs, master)):
        try:
            with guard.opened(path) as file:
                told = digest.told(file, digest.OTHER)
        except InputError as error:
            yield Finding(False, "metadata-digest", path, f"{PROCESS}/{digest.OTHER}", _reason(error))
            continue
        found = f"{str(told)[:12]} noted of {os.path.basename(other)}, which has {own[other][:12]}"
        yield Finding(told == own[other], "metadata-digest", path, f"{PROCESS}/{digest.OTHER}", found)


# ---- data and squash files ------------------------------------------------------------------------------


def data_files(master: str) -> Iterator[Finding]:
    """The data files of this program that a master links: records and chunks."""
    plan_sha256, places = linked(master, DATA, "data")
    for number, path, name in places:
        if not os.path.exists(path) or (plan_sha256 is None and records.read_plan_sha256(path) is None):
            # `check` tells of missing files, and raw ones have no record.
            continue
        yield from of_file(path, name, number, plan_sha256, is_squash=False)


def squash_files(master: str) -> Iterator[Finding]:
    """The squash files that a master links: there, of its run, and as they were written."""
    plan_sha256, places = linked(master, SQUASH, "squash")
    for number, path, name in places:
        if os.path.exists(path):
            yield from of_file(path, name, number, plan_sha256, is_squash=True)
        else:
            yield Finding(False, "squash-files", path, name, "missing")
    if places:
        n_blocks = _n_blocks(places)
        if n_blocks is not None:
            found = f"{len(places)} linked, {n_blocks} blocks"
            yield Finding(len(places) == n_blocks, "squash-files", master, SQUASH, found)


def _n_blocks(places: list[tuple[int, str, str]]) -> int | None:
    for _, path, _ in places:
        told = records.read_plan(path)
        try:
            return records.plan_from(told["plan"]).n_blocks
        except (KeyError, TypeError, ValueError):
            continue
    return None


def linked(master: str, group_path: str, word: str) -> tuple[str | None, list[tuple[int, str, str]]]:
    """The plan's hash that a master tells, and (number, file, object there) of each link `WORD_NNNNNN`, in order."""
    with guard.opened(master) as file:
        told = access.get_dataset(file, f"{PROCESS}/plan_sha256")
        plan_sha256 = None if told is None else access.text(told[()])
        group = access.get_group(file, group_path)
        found = []
        for name in sorted(group) if group is not None else ():
            link = access.link(group, name)
            head, _, number = name.rpartition("_")
            if head == word and number.isdecimal() and isinstance(link, h5py.ExternalLink):
                found.append((int(number), resolve_link(link.filename, master), link.path))
    return plan_sha256, found


def of_file(path: str, name: str, number: int, plan_sha256: str | None, *, is_squash: bool) -> Iterator[Finding]:
    """Findings on one file; `name` is what the master links in it."""
    kind = "squash" if is_squash else "block"
    try:
        with guard.opened(path) as file:
            fault = _record_fault(file, number, plan_sha256, is_squash)
            yield Finding(fault is None, f"{kind}-record", path, records.GROUP, fault or f"block {number}")
            yield from _streams(path, file, is_squash) if is_squash else _chunks(path, file, name)
    except UNREADABLE as error:
        yield Finding(False, f"{kind}-record", path, records.GROUP, _reason(error))


def _record_fault(file: h5py.File, number: int, plan_sha256: str | None, is_squash: bool) -> str | None:
    """What is wrong with the record of an open block file, or None."""
    head = records.read_head(file)
    text = access.text(file[records.GROUP]["plan"][()])
    if plan_sha256 is not None and head.plan_sha256 != plan_sha256:
        return f"of plan {head.plan_sha256[:12]}, the master's is {plan_sha256[:12]}"
    if head.number != number:
        return f"block {head.number}, linked as block {number}"
    if records.sha256_of(text) != head.plan_sha256:
        return "its plan isn't the one that its hash is of"
    if head.content_sha256 is not None and records.digest(file) != head.content_sha256:
        return "differs from its digest"
    plan = records.plan_from(json.loads(text)["plan"])
    if number > plan.n_blocks:
        return f"block {number} of a plan of {plan.n_blocks}"
    return _misfit(file, plan, plan.block(number), head, is_squash)


def _misfit(file: h5py.File, plan: Plan, block: Block, head: records.Head, is_squash: bool) -> str | None:
    """How a file differs from its block of the plan, or None."""
    if head.n_images != block.n_images:
        return f"{head.n_images} images, {block.n_images} planned"
    images = block.images
    frames = [[f.start + 1, f.stop] for f in map(plan.frames_of, images)]
    if file[records.GROUP]["frames"][()].tolist() != frames:
        return f"images of other frames than {frames[0][0]} to {frames[-1][1]}"
    if is_squash:
        names = [f"data_{image + 1:06d}" for image in images]
        if sorted(file[DATA]) != names:
            return f"codestreams {', '.join(sorted(file[DATA])[:3])}, ...; {names[0]} to {names[-1]} planned"
    elif file[IMAGES].shape != (block.n_images, *plan.shape_out) or file[IMAGES].dtype != np.dtype(plan.dtype_out):
        return f"images {file[IMAGES].shape} {file[IMAGES].dtype}"
    records.read_invalid(file, plan.shape_out)
    return None


def _chunks(path: str, file: h5py.File, name: str) -> Iterator[Finding]:
    """Every chunk of a data file: one finding for each that differs, or one for the file."""
    noted = file[records.GROUP]["chunk_crc32"][()]
    dataset = access.get_dataset(file, name)
    n_images = 0 if dataset is None or not dataset.ndim else dataset.shape[0]
    if dataset is None or dataset.chunks is None or len(noted) != n_images:
        yield Finding(False, "chunk-checksums", path, f"{records.GROUP}/chunk_crc32", "no checksum for every image")
        return
    wrong = [k for k, crc in enumerate(noted) if not chunk_holds(dataset, k, int(crc))]
    for k in wrong:
        yield Finding(False, "chunk-checksums", path, f"{name}[{k}]", "chunk differs from its checksum")
    if not wrong:
        yield Finding(True, "chunk-checksums", path, name, f"{len(noted)} chunks")


def chunk_holds(dataset: h5py.Dataset, image: int, crc: int) -> bool:
    """Whether an image's chunk, (1, ny, nx), is there as it was written, through all filters."""
    try:
        mask, chunk = dataset.id.read_direct_chunk((image, 0, 0))
    except (OSError, RuntimeError, ValueError):
        return False
    return mask == 0 and kernels.crc32(chunk) == crc


def _streams(path: str, file: h5py.File, is_squash: bool) -> Iterator[Finding]:
    """Every codestream of a squash file, the same way."""
    noted = file[records.GROUP]["chunk_crc32"][()].tolist()
    names = sorted(file[DATA])
    wrong = []
    for name, crc in zip(names, noted, strict=False):
        try:
            stream: Any = file[DATA][name][()]
            if stream.dtype != np.uint8 or kernels.crc32(stream.tobytes()) != crc:
                wrong.append((name, "codestream differs from its checksum"))
        except UNREADABLE as error:
            wrong.append((name, _reason(error)))
    for name, why in wrong:
        yield Finding(False, "squash-checksums", path, f"{DATA}/{name}", why)
    if not wrong and len(names) == len(noted):
        yield Finding(True, "squash-checksums", path, DATA, f"{len(noted)} codestreams")
