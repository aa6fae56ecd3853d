"""What the figures were taken on."""

from __future__ import annotations

import compileall
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "h5py", "hdf5plugin", "mpi4py", "glymur", "numcodecs", "imagecodecs")

SIBLINGS = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")


def describe() -> dict[str, Any]:
    """Processor, cores, versions, the date and the load: figures of another machine can't be compared."""
    import h5py

    from bnl_mpi.codecs import openjpeg
    from bnl_mpi.pixels import kernels

    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads_a_core": threads_a_core(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "hdf5": h5py.version.hdf5_version,
        "openjpeg": openjpeg.version(),
        "compiled_kernels": kernels.COMPILED,
    }


def compile_modules() -> None:
    """As `pip install` does: where Python is told to keep no bytecode, each process would compile a checkout's."""
    import bnl_mpi

    compileall.compile_dir(Path(bnl_mpi.__file__).parent, quiet=2)


def load() -> float:
    """Runnable processes, averaged over the last minute; 0 on an idle machine, without this program."""
    return os.getloadavg()[0]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def threads_a_core() -> int:
    """Hardware threads that share a core, as the system tells; 1 where it doesn't."""
    text = SIBLINGS.read_text().strip() if SIBLINGS.exists() else "0"
    spans = [part.split("-") for part in text.split(",")]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
