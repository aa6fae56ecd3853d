"""How a data set came to be, for `/entry/process_bnl_mpi`: nothing that depends on ranks or launchers."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
from typing import Any

from .._version import __version__
from ..job import Job

LIBRARIES = ("numpy", "h5py", "hdf5plugin", "numcodecs")


def libraries(codec: str | None) -> dict[str, str]:
    """Versions of what had a hand in the output's pixels and files."""
    import h5py

    from ..pixels import kernels

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions["hdf5"] = h5py.version.hdf5_version
    versions["kernels"] = "compiled" if kernels.COMPILED else "numpy"
    if codec == "hcompress":
        versions["astropy"] = importlib.metadata.version("astropy")
    elif codec in ("j2k", "j2k2"):
        from ..codecs import openjpeg

        versions["glymur"] = importlib.metadata.version("glymur")
        versions["openjpeg"] = openjpeg.version()
    elif codec == "htj2k":
        from ..codecs import htj2k

        versions["imagecodecs"] = importlib.metadata.version("imagecodecs")
        versions["openjph"] = htj2k.library_version()
    return versions


def describe(job: Job) -> dict[str, Any]:
    """Items of the group, each a text or a thing that JSON can hold."""
    options = job.options
    names = {
        "infile": os.path.basename(options.infile),
        "out_file": os.path.basename(options.out_file),
        "out_master": os.path.basename(options.out_master or ""),
        "out_squash": os.path.basename(options.out_squash) if options.out_squash else None,
    }
    return {
        "program": "bnl_mpi",
        "version": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "options": json.dumps({**options.identity(), **names}, sort_keys=True),
        "input": job.source.file_sizes(),
        "libraries": libraries(options.codec or ("htj2k" if options.compression == "htj2k" else None)),
        "plan_sha256": job.sha256,
    }
