"""`--resume`: which blocks of an earlier, interrupted run of this very job can be kept.

A block is kept if its files belong to the job (the hash of input, options, plan and version) and are sound: every
chunk there, its checksum right.  A file of another job is an error; one that is damaged is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import h5py

from ..errors import BnlError, OutputError
from ..hdf5 import access
from ..hdf5.names import DATA, PROCESS, SQUASH
from ..job import Job
from ..output import blockfile
from ..output import record as records
from ..output.places import listed
from .task import BlockReport, Kept

SIZES, MASTER = "sizes_sha256", "master_sha256"


def stored_block_size(job: Job) -> int | str | None:
    """The `-d` with which the blocks that are there were made; None if there are none of ours."""
    options = job.options
    for path in blockfile.existing_blocks(options.out_file).values():
        size = records.read_plan(path).get("options", {}).get("data_block_size")
        if size is not None:
            return size if size == "auto" else int(size)
    return None


def inspect(
    job: Job, numbers: Sequence[int], go_on: Callable[[], bool], report: Callable[[Job, int], BlockReport]
) -> Kept:
    """Look at what is there of the blocks `numbers`, as long as `go_on` says so; `report` tells of a sound one."""
    kept = Kept()
    for number in numbers:
        if not go_on():
            break
        present = [p for p in paths(job, number) if os.path.exists(p)]
        foreign = [line for p in present if (line := _foreign(job, p))]
        kept.foreign += foreign
        if not present or foreign:
            continue
        path, why = _first_unsound(job, number)
        if why is None:
            kept.reports.append(report(job, number))
        else:
            kept.unsound.append(f"{path}: {why}; block {number} is made again")
    return kept


def check_neighbours(job: Job) -> None:
    """Refuse where any block of that stem, of whatever share, or its masters belong to another job."""
    stems = [job.options.out_file, job.options.out_squash]
    for path in [p for stem in stems if stem for p in blockfile.existing_blocks(stem).values()]:
        if line := _foreign(job, path):
            raise OutputError(line)
    check_whose_masters(job)


def paths(job: Job, number: int) -> list[str]:
    """The files of a block: its data file, and its squash file if there is to be one."""
    options = job.options
    return [options.data_path(number)] + ([options.squash_path(number)] if options.out_squash else [])


def _foreign(job: Job, path: str) -> str | None:
    """The line that refuses a file of another job; None for ours, and for what a crash left of this very job's."""
    sha256 = records.read_plan_sha256(path)
    if sha256 == job.sha256 or (sha256 is None and blockfile.is_leftover(path, job.identity)):
        return None
    if sha256 is None:
        return f"{path}: is no block of this job, or no longer to be known as one; move it away, or choose another -o"
    return (
        f"{path}: belongs to another job ({difference(records.read_plan(path), json.loads(job.identity))}); choose "
        "another -o, or --force to overwrite it"
    )


def difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """How two jobs differ, in a few words: the first options, or else the input or the version."""
    parts: list[str] = []
    for section in ("options", "input", "plan"):
        a, b = there.get(section, {}), here.get(section, {})
        differ = [k for k in sorted(b) if a.get(k) != b.get(k)]
        if SIZES in differ:
            differ.remove(SIZES)
            parts.append("the input's files had other names or sizes")
        if MASTER in differ:
            differ.remove(MASTER)
            parts.append("the input's master told something else")
        told = [f"{k} {a.get(k)} there, {b.get(k)} here" for k in differ]
        # What an option says, the plan says again.
        parts += [line for line in told if line not in parts]
    if there.get("version") != here.get("version"):
        parts.insert(0, f"version {there.get('version')} there, {here.get('version')} here")
    return ", ".join(parts[:2]) or "another plan"


def _first_unsound(job: Job, number: int) -> tuple[str, str | None]:
    plan, options = job.plan, job.options
    block = plan.block(number)
    images = block.images
    frames = [(f.start + 1, f.stop) for f in map(plan.frames_of, images)]
    expected = records.BlockRecord(job.sha256, job.identity, number, frames=frames)
    path = options.data_path(number)
    why = blockfile.unsound_data(path, expected, (block.n_images, *plan.shape_out), plan.dtype_out)
    if why is None and options.out_squash:
        path = options.squash_path(number)
        why = blockfile.unsound_squash(path, expected, block.first_image)
    return path, why


def check_masters(job: Job) -> bool:
    """Whether this job's masters are there and link all its blocks.

    OutputError if another job's are, or blocks beyond this job's.
    """
    options = job.options
    check_whose_masters(job)
    for stem in filter(None, (options.out_file, options.out_squash)):
        for number, path in blockfile.existing_blocks(stem).items():
            if number > job.plan.n_blocks:
                raise OutputError(
                    f"{path}: belongs to another job, this one has {job.plan.n_blocks} blocks; choose another -o, "
                    "or --force to overwrite it"
                )
    return _links_all(job, options.master_path) and _links_all(job, options.nxs_path)


def check_whose_masters(job: Job) -> None:
    """OutputError where masters of another job are there."""
    for path in (job.options.master_path, job.options.nxs_path):
        if os.path.exists(path) and _master_sha256(path) != job.sha256:
            raise OutputError(f"{path}: belongs to another job; choose another -o, or --force to overwrite it")


def _links_all(job: Job, path: str) -> bool:
    """Whether a master or NeXus file is there, and has links, and parts of its virtual datasets, for each block."""
    options = job.options
    wanted = {name for name, _ in listed(job, options.data_path)}
    squash = {name for name, _ in listed(job, options.squash_path)} if options.out_squash else set()
    try:
        with access.open_read(path) as file:
            data = access.get_group(file, DATA)
            linked, virtual = _linked(data), _virtual(data)
            if path == options.nxs_path:
                # Version 0.1.0 wrote no links beside the virtual dataset.
                return virtual == [wanted] and linked in (set(), wanted)
            squash_linked = _linked(access.get_group(file, SQUASH))
            return wanted <= linked and squash <= squash_linked and all(part == wanted for part in virtual)
    except (BnlError, KeyError, OSError, RuntimeError, ValueError):
        return False


def _linked(group: h5py.Group | None) -> set[str]:
    """Names of the files that a group links."""
    found = [] if group is None else [access.link(group, name) for name in group]
    return {link.filename for link in found if isinstance(link, h5py.ExternalLink)}


def _virtual(group: h5py.Group | None) -> list[set[str]]:
    """Names of the files behind each virtual dataset of a group."""
    if group is None:
        return []
    names = [name for name in group if not isinstance(access.link(group, name), h5py.ExternalLink)]
    found = [access.get_dataset(group, name) for name in names]
    return [{part.file_name for part in d.virtual_sources()} for d in found if d is not None and d.is_virtual]


def _master_sha256(path: str) -> str | None:
    try:
        with access.open_read(path) as file:
            dataset = file[f"{PROCESS}/plan_sha256"]
            return access.text(dataset[()]) if isinstance(dataset, h5py.Dataset) else None
    except (KeyError, OSError, ValueError, BnlError):
        return None
