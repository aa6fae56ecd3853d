"""How a data set came to be, for `/entry/process_bnl_mpi`: nothing that depends on ranks or launchers."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from typing import Any

from .._version import __version__
from ..codecs import registry
from ..codecs.versions import version
from ..errors import BnlError
from ..hdf5 import access
from ..hdf5.names import PROCESS
from ..job import Job

LIBRARIES = ("numpy", "h5py", "hdf5plugin", "numcodecs")


def libraries(codec: registry.Entry | None) -> dict[str, str]:
    """Versions of what had a hand in the output's pixels and files."""
    import h5py

    from ..pixels import kernels

    versions = {name: version(name) for name in LIBRARIES}
    versions["hdf5"] = h5py.version.hdf5_version
    versions["kernels"] = "compiled" if kernels.COMPILED else "numpy"
    return versions if codec is None else {**versions, **codec.load().libraries()}


def coder(codec: str | None, compression: str) -> registry.Entry | None:
    """The entry of the library that codes images: of the lossy codec, or of `-c htj2k` without one."""
    return registry.find(codec) if codec else registry.storing(compression)


def builds(master: str, codec: registry.Entry | None) -> str:
    """Which builds coded the images of a set, as its master tells, and which decode them here; for a user."""
    here = codec.load().libraries() if codec is not None else {}
    try:
        with access.open_read(master) as h5:
            there = json.loads(access.text(h5[f"{PROCESS}/libraries"][()]))
    except (BnlError, KeyError, TypeError, ValueError):
        there = {}
    told = {name: there.get(name, f"{name} unknown") for name in here}
    return f"coded with {_named(told)}, decoded with {_named(here)}"


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(text if text.startswith(name) else f"{name} {text}" for name, text in versions.items())


def describe(job: Job) -> dict[str, Any]:
    """Items of the group, each a text or a thing that JSON can hold."""
    options = job.options
    names = {
        "infile": os.path.basename(os.path.abspath(options.infile)),
        "out_file": os.path.basename(options.out_file),
        "out_master": os.path.basename(options.out_master or ""),
        "out_squash": os.path.basename(options.out_squash) if options.out_squash else None,
    }
    kept = {} if job.keeping is None else {"kept": job.keeping.items()}
    return {
        "program": "bnl_mpi",
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": json.dumps({**options.identity(), **names}, sort_keys=True),
        "input": job.source.file_sizes(),
        "libraries": libraries(coder(options.codec, options.compression)),
        "plan_sha256": job.sha256,
        **kept,
    }
