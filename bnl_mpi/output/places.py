"""Every path that a run writes: what is there already, what may be written, and what is swept away."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..errors import OutputError
from ..job import Job, share_blocks
from ..options import Options
from . import blockfile
from . import record as records


def _output_stems(options: Options) -> list[str]:
    return [options.out_file] + ([options.out_squash] if options.out_squash else [])


def check_places(job: Job) -> None:
    """Refuse an output that is the input, or that lies where nothing can be written."""
    options = job.options
    stems = _output_stems(options)
    written = [options.master_path, options.nxs_path]
    written += [f"{stem}_{k:06d}.h5" for stem in stems for k in (1, job.plan.n_blocks)]
    old = {stem: list(blockfile.existing_blocks(stem)) for stem in stems}
    # As a rule nothing is there, and no input needs to be looked at.
    there = [p for p in written + [p for paths in old.values() for p in paths] if os.path.exists(p)]
    sources = [job.source.master, *(s.path for s in job.source.segments)] if there else []
    inputs = {os.path.realpath(p) for p in sources}
    for path in there:
        if os.path.realpath(path) in inputs:
            raise OutputError(f"{path}: is a file of the input; choose another name with -o or -m")
    if options.json:
        written.append(options.json)
    for folder in dict.fromkeys(os.path.dirname(os.path.abspath(p)) for p in written):
        if not os.path.isdir(folder):
            raise OutputError(f"{folder}: no such folder for the output; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: the output's folder is not writable")


def check_existing(job: Job, *, share: int | None = None) -> None:
    """Refuse to overwrite an older output.  `share`: the share of `-t`, which has neighbours."""
    options = job.options
    if options.force or options.resume:
        return
    stems = _output_stems(options)
    old = {stem: blockfile.existing_blocks(stem) for stem in stems}
    masters = [p for p in (options.master_path, options.nxs_path) if os.path.exists(p)]
    blocks = [p for paths in old.values() for p in paths if not p.endswith(blockfile.PARTIAL)]
    if share is not None:
        _check_neighbours(job, blocks)
        own = {os.path.abspath(f"{stem}_{k:06d}.h5") for stem in stems for k in share_blocks(job, share)}
        blocks = [p for p in blocks if p in own]
        masters = masters if share == 0 else []
    if masters or blocks:
        first = (masters + blocks)[0]
        more = f" and {len(masters) + len(blocks) - 1} more" if len(masters) + len(blocks) > 1 else ""
        raise OutputError(
            f"{first}{more}: output of that name is there already; --resume completes an interrupted run of this "
            "job, --force overwrites it, or choose another -o"
        )


def _check_neighbours(job: Job, blocks: list[str]) -> None:
    for path in blocks:
        if records.read_plan_sha256(path) != job.sha256:
            raise OutputError(
                f"{path}: belongs to another run (other options, input or version); remove it, choose another -o, "
                "or give --force to every share"
            )


def listed(job: Job, path_of: Callable[[int], str]) -> list[tuple[str, int]]:
    """(file relative to the master's folder, images in it) of every block; `path_of` gives a number's path."""
    folder = os.path.dirname(os.path.abspath(job.options.master_path))
    return [(os.path.relpath(os.path.abspath(path_of(b.number)), folder), b.n_images) for b in job.plan.blocks()]


def remove_old_masters(job: Job) -> None:
    """`--force`'s first act: from here on no master tells of a finished run."""
    for path in (job.options.master_path, job.options.nxs_path):
        if os.path.exists(path):
            os.unlink(path)


def remove_partial_files(job: Job, share: int | None = None) -> None:
    """Temporary files that a run left which was killed; with the lock held, nobody else writes any."""
    options = job.options
    masters = [options.master_path, options.nxs_path]
    if share is None:
        blockfile.remove_partial_files(_output_stems(options), masters)
        return
    own = share_blocks(job, share)
    paths = [options.data_path(k) for k in own] + [options.squash_path(k) for k in own if options.out_squash]
    blockfile.remove_partial_files((), paths if share else masters)


def remove_surplus_blocks(job: Job) -> None:
    """`--force`'s last act: blocks of an older run beyond those of this one."""
    for stem in _output_stems(job.options):
        kept = {os.path.abspath(f"{stem}_{k:06d}.h5") for k in range(1, job.plan.n_blocks + 1)}
        for path in blockfile.existing_blocks(stem):
            # Temporary files may be those of other shares, at work.
            if path not in kept and not path.endswith(blockfile.PARTIAL):
                os.unlink(path)
