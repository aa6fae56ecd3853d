"""Builds the optional compiled kernels; all metadata is in setup.cfg.

Without a C compiler the build still succeeds and the package falls back on NumPy.
"""

from __future__ import annotations

import os
from glob import glob

from setuptools import Extension, setup

# -O3 turns on the auto-vectoriser that the kernels are written for; MSVC knows no such flag.
FLAGS = [] if os.name == "nt" else ["-O3", "-std=c11"]

setup(
    ext_modules=[
        Extension(
            "bnl_mpi.pixels._kernels",
            sources=["bnl_mpi/pixels/_kernels.c"],
            depends=sorted(glob("bnl_mpi/pixels/csrc/*.h")),
            extra_compile_args=FLAGS,
            optional=True,
        )
    ]
)
