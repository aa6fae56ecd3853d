"""How a data set came to be, for `/entry/process_bnl_mpi`: nothing that depends on ranks or launchers."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
from typing import Any

from .._version import __version__
from ..codecs import registry
from ..job import Job

LIBRARIES = ("numpy", "h5py", "hdf5plugin", "numcodecs")


def libraries(codec: registry.Entry | None) -> dict[str, str]:
    """Versions of what had a hand in the output's pixels and files."""
    import h5py

    from ..pixels import kernels

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions["hdf5"] = h5py.version.hdf5_version
    versions["kernels"] = "compiled" if kernels.COMPILED else "numpy"
    return versions if codec is None else {**versions, **codec.load().libraries()}


def coder(codec: str | None, compression: str) -> registry.Entry | None:
    """The entry of the library that codes images: of the lossy codec, or of `-c htj2k` without one."""
    return registry.find(codec) if codec else registry.storing(compression)


def describe(job: Job) -> dict[str, Any]:
    """Items of the group, each a text or a thing that JSON can hold."""
    options = job.options
    names = {
        "infile": os.path.basename(os.path.abspath(options.infile)),
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
        "libraries": libraries(coder(options.codec, options.compression)),
        "plan_sha256": job.sha256,
    }
