"""The new masters of a reduction: by HDF5, or like those of the set before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..hdf5 import guard
from ..hdf5.draft import Draft
from ..hdf5.known import UNKNOWN, Known, laid
from ..hdf5.writing import write_bytes
from ..input import opening
from ..input.experiment import Experiment
from ..job import Job
from ..output import digest, master, nexus, provenance, reduction
from ..output.places import listed
from ..run.task import Masters
from . import inputs


def make_masters(job: Job, experiment: Experiment, new_master: str, new_nxs: str, known: Known = UNKNOWN) -> Masters:
    """Write both to these paths, of which the second is left out where the input lacks what it needs.

    `known` is what is remembered of the input's like.
    """
    data = listed(job, job.options.data_path)
    squash = listed(job, job.options.squash_path) if job.options.out_squash else []
    told = provenance.describe(job) | inputs.told_of_input(job)
    # Regions differ from set to set, and an experiment that isn't remembered may depend on what isn't either.
    if is_known := job.keeping is None and known.has(experiment):
        from ..output import again

        given = again.given(job.plan, data, squash, told)
        pair: again.Pair | None = known.answer(given.key)
        filled = None if pair is None else pair.filled(known, given)
        if pair is not None and filled is not None:
            write_bytes(new_master, filled[0])
            if filled[1] is not None:
                write_bytes(new_nxs, filled[1])
            return _masters(job, pair.lacking)
    both: dict[str, Any] = {
        "data_files": data,
        "experiment": experiment,
        "provenance": told,
        "data_dtype": np.dtype(job.plan.dtype_out),
        "shared": reduction.Shared(),
    }
    own: dict[str, Any] = {"squash_files": squash, "regions": None if job.keeping is None else job.keeping.regions}
    with guard.understood(job.options.infile), opening.open_master(job.options.infile) as source, laid(source) as trail:
        notes = is_known and known.is_worth_keeping(given.key)
        drafts = (Draft(trail), Draft(trail)) if notes else (None, None)
        lacking = nexus.write_nxs(new_nxs, source, job.plan, **both, draft=drafts[0])
        warnings = master.write_master(new_master, source, job.plan, **both, **own, draft=drafts[1])
        if notes and not warnings:
            again.keep([one for one in drafts if one is not None], known, experiment, given, lacking)
    if not lacking:
        digest.join(new_master, new_nxs)
    return _masters(job, lacking, warnings)


def _masters(job: Job, lacking: Sequence[str], warnings: Sequence[str] = ()) -> Masters:
    missing = f"{job.options.nxs_path}: not written, the input lacks {', '.join(lacking)}"
    return Masters(not lacking, (*([missing] if lacking else []), *warnings))
