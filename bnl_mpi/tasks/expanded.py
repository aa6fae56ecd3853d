"""The masters of an expanded set: copies of the small set's, with links to the new files."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from .._version import __version__
from ..codecs import registry
from ..errors import BnlError, InputError, UsageError
from ..hdf5 import access, guard, writing
from ..hdf5.names import DATA, HTJ2K, PROCESS, SQUASH
from ..hdf5.treecopy import Item, Keep, TreeCopy, copy_attributes
from ..input.experiment import read_experiment
from ..job import Job
from ..output import digest, nexus, provenance
from ..output.master import DataFiles, add_data_links, add_provenance, add_virtual
from ..output.places import listed
from ..output.whole import whole_files
from ..run.task import Masters


def write_masters(job: Job, new: ExitStack) -> Masters:
    """Copy the small set's master, and the NXmx file beside it, with links to the new files.

    An NXmx file that isn't there is made of the master.  Both get their names when `new` closes, the master last.
    """
    options = job.options
    files = listed(job, options.data_path)
    told = _provenance(job)
    small = job.source.master
    nxs = f"{small.removesuffix('.h5').removesuffix('_master')}.nxs"
    warnings: list[str] = []
    paths = options.nxs_path, options.master_path
    new_files = new.enter_context(whole_files(*paths, optional=paths[:1]))
    new_nxs, new_master = new_files.partial
    missing: list[str] = []
    if os.path.exists(nxs):
        warnings += relink(nxs, new_nxs, files, told, job.plan.shape_out)
    else:
        missing = _nxs_of_master(job, new_nxs, files, told)
    if missing:
        warnings.append(f"{options.nxs_path}: not written, {small} lacks {', '.join(missing)}")
    warnings += relink(small, new_master, files, told, job.plan.shape_out)
    if not missing:
        digest.join(new_master, new_nxs)
    new_files.flush()
    return Masters(not missing, tuple(warnings))


def _nxs_of_master(job: Job, new_path: str, data_files: DataFiles, told: Mapping[str, Any]) -> list[str]:
    """Make the NXmx file as the reduction does, of a master that needs no more reducing; returns what that lacks."""
    plan = job.plan
    still = replace(
        plan,
        n_frames_in=plan.n_images,
        first_frame=0,
        n_frames=plan.n_images,
        sum=1,
        binning=1,
        scale=1.0,
        shape_in=plan.shape_out,
        dtype_in=plan.dtype_out,
        satval=plan.limit,
    )
    dtype = np.dtype(plan.dtype_out)
    with guard.opened(job.source.master, plan.shape_out) as h5:
        experiment = read_experiment(h5, plan.n_images, dtype, plan.shape_out)
    return nexus.write_nxs(
        new_path,
        job.source.master,
        still,
        data_files=data_files,
        experiment=experiment,
        provenance=told,
        data_dtype=dtype,
    )


def relink(
    path: str, new_path: str, data_files: DataFiles, told: Mapping[str, Any], shape: tuple[int, int]
) -> list[str]:
    """Copy a master or NXmx file of this program for other data files, less its squash; returns warnings.

    `data_files`, relative to the folder in which the new file is to lie, take the place of the linked ones and of
    those behind virtual datasets.  `told` becomes /entry/process_bnl_mpi, the old one is numbered.
    """
    linked, virtual = False, []

    def keeps_name(here: str, group: h5py.Group, name: str) -> bool:
        nonlocal linked
        if here == SQUASH:
            return False
        if here != f"{DATA}/{name}":
            return True
        if access.is_data_link(group, name):
            linked = True
            return False
        found = access.get_dataset(group, name)
        if found is not None and found.is_virtual:
            virtual.append(name)
            return False
        return True

    def keep(item: Item) -> Keep:
        return Keep()

    copy = TreeCopy(keep, keeps_name)
    with guard.opened(path, shape) as old, writing.write_at_once(new_path) as new:
        copy.copy(old, new)
        if linked:
            add_data_links(new, data_files)
        for name in virtual:
            found = old[f"{DATA}/{name}"]
            made = add_virtual(new[DATA], name, data_files, found.shape[1:], found.dtype)
            copy_attributes(found, made, f"{DATA}/{name}", copy.warnings)
        add_provenance(new, told)
        digest.seal(new)
    return copy.warnings


def is_htj2k(path: str, name: str) -> bool:
    """Whether the chunks of the dataset `name` are HTJ2K codestreams."""
    with guard.opened(path) as file:
        dataset = access.get_dataset(file, name)
        if dataset is None or dataset.chunks is None:
            return False
        filters = dataset.id.get_create_plist()
        return [filters.get_filter(k)[0] for k in range(filters.get_nfilters())] == [HTJ2K]


def coder(job: Job) -> registry.Entry | None:
    """What coded the images that the job expands."""
    return provenance.coder(json.loads(job.identity)["options"].get("codec"), "htj2k")


def _provenance(job: Job) -> dict[str, Any]:
    """That of the run which coded the images, for the full set; and how this was made of it."""
    options, small = job.options, job.source.master
    with guard.opened(small) as h5:
        group = access.get_group(h5, PROCESS)
        told = {} if group is None else {name: access.text(group[name][()]) for name in group}
    found = {name: text for name, text in told.items() if name not in (digest.OWN, digest.OTHER)}
    try:
        record = json.loads(found["options"])
    except (KeyError, ValueError):
        record = {}
    if not isinstance(record, dict):
        record = {}
    names = {
        "out_file": os.path.basename(options.out_file),
        "out_master": os.path.basename(options.out_master or ""),
        "out_squash": None,
    }
    identity = json.loads(job.identity)
    expanded: dict[str, Any] = {
        "from": job.source.file_sizes(),
        "version": __version__,
        "libraries": provenance.libraries(coder(job)),
    }
    if options.background is not None:
        expanded["background"] = f"{options.background}, seed {options.seed}: this noise is made, not measured"
    return {
        **found,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": json.dumps({**record, **identity["options"], **names}, sort_keys=True),
        "expanded": expanded,
        "plan_sha256": job.sha256,
    }


@contextmanager
def as_input_error(where: str) -> Iterator[None]:
    """What HDF5 or a codec finds wrong with a kept file is one line that names it."""
    try:
        yield
    except (BnlError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: can't be read: {reason}; restore the file") from error
