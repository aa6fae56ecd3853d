"""Whether XDS can read a set, and by which lines."""

from __future__ import annotations

import os
import shlex

import numpy as np

from ..errors import InputError
from ..hdf5.names import SPECIFIC
from ..job import Job
from ..options import XDS_COMPRESSIONS

MASTER = "_master"
DURIN_READS = ("zstd", "htj2k")
"""Of the others; through a master's links durin decodes bitshuffle itself, and knows LZ4 alone."""
NEEDED = ("pixel_mask", "nimages")


def template(job: Job) -> str:
    """What XDS takes for the names of the data: it puts `master` in place of the question marks."""
    stem = os.path.abspath(job.options.master_path).removesuffix(".h5").removesuffix(MASTER)
    return f"{stem}_??????.h5"


def obstacles(job: Job) -> list[str]:
    """Why XDS's usual plugin, neggia, can't read a finished set, each with what to do; empty where it can."""
    options, found = job.options, []
    master = os.path.abspath(options.master_path)
    if options.compression not in XDS_COMPRESSIONS:
        # XDS takes a background's noise for granted, which sets of --keep have none of.
        noise = "" if job.keeping is None else " --background poisson"
        small = f"expand it, bnl-mpi expand {shlex.quote(master)} -c bslz4{noise} -o NAME"
        is_small = options.compression == "htj2k" or job.keeping is not None
        found.append(f"no {options.compression}: " + (small if is_small else "give -c bslz4"))
    if (dtype := np.dtype(job.plan.dtype_out)).kind != "u":
        found.append(f"no {dtype.name} images: give -u 2 or -u 4" + (", not -f" * (dtype.kind == "f")))
    if not master.removesuffix(".h5").endswith(MASTER):
        found.append(f"no master but NAME{MASTER}.h5: leave out -m, or give -m NAME{MASTER}")
    missing = _missing(master)
    if missing:
        found.append(f"no set without {missing} in its master: put it into {options.infile}")
    return found


def _missing(master: str) -> str:
    from ..hdf5 import access

    try:
        with access.open_read(master) as h5:
            absent = [name for name in NEEDED if access.get_dataset(h5, f"{SPECIFIC}/{name}") is None]
    except InputError:
        return ""
    return f"/{SPECIFIC}/{' and '.join(absent)}" if absent else ""


def lines(found: str | None, why: list[str]) -> list[str]:
    """What the summary says of XDS: its line of XDS.INP, or why there is none."""
    if found is not None:
        return [f"NAME_TEMPLATE_OF_DATA_FRAMES= {found}"]
    said = [f"XDS's usual plugin reads {'; and '.join(why)}"]
    if len(why) == 1 and why[0].split(":")[0].removeprefix("no ") in DURIN_READS:
        said.append("or let XDS read through durin: LIB= /path/durin-plugin.so in XDS.INP, and HDF5_PLUGIN_PATH set to")
        said.append("hdf5plugin's folder of plugins; all programs in C need that for this filter, DIALS among them")
    return said
