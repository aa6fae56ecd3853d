"""Flips bits of one file of a set, one after the other, in a process of its own: HDF5 may crash on some.

    python flips.py MASTER FILE FLIPS SEED

Prints how many were found, and a line for each that wasn't though it changes what a reader sees.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from running import tree

from bnl_mpi.errors import InputError
from bnl_mpi.output import contents


def everything(path: Path) -> Any:
    """All that a reader gets out of a file, or that it gets nothing."""
    with contextlib.suppress(Exception):
        return tree(path)
    return None


def is_found(master: Path) -> bool:
    try:
        return not all(finding.ok for finding in contents.whole_set(str(master)))
    except InputError:
        return True


def main(master: Path, path: Path, n_flips: int, seed: int) -> int:
    good, whole = path.read_bytes(), everything(path)
    rng = np.random.default_rng(seed)
    found = 0
    for place in rng.integers(0, len(good), n_flips):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(bad)
        if is_found(master):
            found += 1
        elif everything(path) != whole:
            print(f"{path.name}: byte {place} from {good[place]} to {bad[place]} is not found")
    path.write_bytes(good)
    print(f"{found} of {n_flips} found")
    return 0


if __name__ == "__main__":
    master, path, n_flips, seed = sys.argv[1:]
    sys.exit(main(Path(master), Path(path), int(n_flips), int(seed)))
