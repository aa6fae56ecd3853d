"""Builds the optional compiled kernels; all metadata is in setup.cfg.

Without a C compiler the build still succeeds and the package falls back on NumPy.  BNL_MPI_BUILD=sanitized in the
environment builds the kernels with the address and undefined-behaviour sanitizers (`make sanitize`).
"""

from __future__ import annotations

import os
from glob import glob

from setuptools import Extension, setup

# -O3 turns on the auto-vectoriser that the kernels are written for; MSVC knows no such flag.
FLAGS = [] if os.name == "nt" else ["-O3", "-std=c11"]
SANITIZED = os.environ.get("BNL_MPI_BUILD") == "sanitized"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"] if SANITIZED else []

setup(
    ext_modules=[
        Extension(
            "bnl_mpi.pixels._kernels",
            sources=["bnl_mpi/pixels/_kernels.c"],
            depends=sorted(glob("bnl_mpi/pixels/csrc/*.h")),
            extra_compile_args=[*FLAGS, *SANITIZERS],
            extra_link_args=SANITIZERS,
            optional=not SANITIZED,
        )
    ]
)
