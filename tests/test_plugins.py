"""hdf5plugin's filters, one by one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from small_sets import random_frames, write_set

from bnl_mpi.hdf5 import plugins
from bnl_mpi.hdf5.names import BITSHUFFLE, HTJ2K, LZ4
from bnl_mpi.output.filters import Filter


def test_bslz4_is_declared_as_hdf5plugin_declares_it() -> None:
    assert Filter("bslz4").dataset_options() == dict(hdf5plugin.Bitshuffle(cname="lz4"))


READ = """
import sys, h5py
from bnl_mpi.hdf5 import access, plugins
{before}
with access.open_read(sys.argv[1]) as h5:
    print(sorted(access.read(h5["data"]).tolist()) == list(range(1000)), 'hdf5plugin' in sys.modules)
import hdf5plugin, numpy
with h5py.File(sys.argv[1] + ".new", "w") as h5:
    h5.create_dataset("data", data=numpy.arange(1000), chunks=(100,), **hdf5plugin.Bitshuffle(cname="zstd"))
    assert h5["data"][999] == 999
"""


@pytest.mark.parametrize(
    ("options", "before", "imports"),
    [
        (hdf5plugin.Bitshuffle(), "", False),
        ({"compression": "gzip", "shuffle": True}, "", False),
        (hdf5plugin.LZ4(), "", True),
        (hdf5plugin.Bitshuffle(), "plugins.ALONE[32008] = 'libh5none.so'", True),
        (hdf5plugin.Bitshuffle(), "plugins._folders = set", True),
    ],
)
def test_hdf5plugin_is_imported_where_its_other_filters_are_met(
    tmp_path: Path, options: object, before: str, imports: bool
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("data", data=np.arange(1000), chunks=(100,), **dict(options))  # type: ignore[call-overload]
    done = subprocess.run(
        [sys.executable, "-c", READ.format(before=before), str(path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"True {imports}\n", "")


def test_filters_that_are_known_are_left_alone() -> None:
    for code in (1, 2, LZ4, BITSHUFFLE, HTJ2K):
        plugins.enable(code)
        assert h5py.h5z.filter_avail(code)


GIVEN_BACK = """
import sys, h5py, bnl_mpi
bnl_mpi.reduce(sys.argv[1], out_file=sys.argv[2], compression="bslz4")
print(h5py.File(sys.argv[3])["data"][999])
"""


@pytest.mark.parametrize("own", [True, False])
def test_a_caller_finds_the_filters_that_its_environment_names(tmp_path: Path, own: bool) -> None:
    """In hdf5plugin's folder, or in that of another Python, whose filters don't fit this one's HDF5."""
    master, other = write_set(tmp_path, random_frames(2, (30, 31)), per_file=2), tmp_path / "other.h5"
    with h5py.File(other, "w") as h5:
        h5.create_dataset("data", data=np.arange(1000), chunks=(100,), **hdf5plugin.Zstd())
    folder = Path(hdf5plugin.PLUGIN_PATH)
    if not own:
        folder = tmp_path / "plugins"
        folder.mkdir()
        for name in ("libh5bshuf.so", "libh5zstd.so"):
            shutil.copy(Path(hdf5plugin.PLUGIN_PATH) / name, folder)
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK, str(master), str(tmp_path / "set"), str(other)],
        env=os.environ | {"HDF5_PLUGIN_PATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("999\n", "")


def test_a_set_is_simulated_whatever_filters_the_environment_names(tmp_path: Path) -> None:
    shutil.copytree(hdf5plugin.PLUGIN_PATH, tmp_path / "plugins")
    words = [sys.executable, "-m", "bnl_mpi", "simulate", str(tmp_path / "x"), "--frames", "1", "--detector", "500k"]
    done = subprocess.run(
        words, env=os.environ | {"HDF5_PLUGIN_PATH": str(tmp_path / "plugins")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
