"""A rank's memory is a few images' worth, however long the data set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_sets import random_mask, write_set

PROGRAM = """
import resource, sys
from bnl_mpi.cli import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import bnl_mpi.run.driver, bnl_mpi.tasks.reduction, bnl_mpi.output.master, bnl_mpi.output.nexus
import hdf5plugin, bnl_mpi.codecs.jpeg2000
bnl_mpi.codecs.jpeg2000.openjpeg.library()
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(sys.argv[1:]) == 0
print("PEAK", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded) * 1024)
"""


def peak(folder: Path, *words: str) -> int:
    """Bytes that a run takes at its peak beyond the loaded libraries."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, cwd=folder
    )
    return int(done.stdout.split("PEAK")[1])


@pytest.mark.parametrize("codec", [["-H", "16"], ["-J", "20"], ["-H", "16", "-q"], []], ids=" ".join)
def test_memory_does_not_grow_with_the_data_set(tmp_path: Path, codec: list[str]) -> None:
    shape = (700, 800)
    frames = np.random.default_rng(1).poisson(2, (48, *shape)).astype(np.uint16)
    master = write_set(tmp_path, frames, mask=random_mask(shape), per_file=48)
    words = ["-i", str(master), "-c", "bslz4", "-d", "48", *codec]
    few = peak(tmp_path, *words, "-N", "4", "-o", "few")
    many = peak(tmp_path, *words, "-N", "48", "-o", "many")
    image = 2 * shape[0] * shape[1]
    assert many < few + 3 * image
    # Beside the images' buffers: HDF5's own, and the masters' maps.
    assert many < 20 * image + (8 << 20)
