"""What DIALS, fabio and h5py read from a finished run is what was written, pixel by pixel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from dials_python import PYTHON
from running import bnl
from small_sets import read_images
from viewers import default_image, sweeps

from bnl_mpi.simulate import simulate

FLAVOURS = ["eiger1", "eiger2"]


@pytest.fixture(scope="module", params=FLAVOURS)
def reduced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reduced set `out`, of 9 frames in three files, 2 x 2, 2 frames, HCompress."""
    folder = tmp_path_factory.mktemp(request.param)
    master = simulate(folder / "in", detector="1M", frames=9, images_per_file=4, flavour=request.param)
    bnl("-i", master, "-b", "2", "-s", "2", "-H", "8", "-c", "bslz4", "-d", "2", "-o", "out", cwd=folder)
    return folder


def as_written(folder: Path) -> np.ndarray[Any, Any]:
    images = read_images(folder / "out_master.h5")
    assert images.shape[0] == 5
    assert (images == 65535).any()
    return images


def test_the_virtual_dataset_of_the_nexus_file(reduced: Path) -> None:
    with h5py.File(reduced / "out.nxs") as h5:
        np.testing.assert_array_equal(h5["/entry/data/images"][()], as_written(reduced))


@pytest.mark.parametrize("name", ["out_master.h5", "out.nxs"])
def test_fabio(reduced: Path, name: str) -> None:
    fabio = pytest.importorskip("fabio")
    images = as_written(reduced)
    if name == "out_master.h5" and "eiger2" in reduced.name:
        pytest.skip("NXmx masters offer all images twice, as links and as a virtual dataset; fabio counts both")
    with fabio.open(str(reduced / name)) as opened:
        assert opened.nframes == len(images)
        for k, image in enumerate(images):
            np.testing.assert_array_equal(opened.getframe(k).data if k else opened.data, image)


def test_viewers_show_an_image_at_once(reduced: Path) -> None:
    n_images = {"out_master.h5": 2 if "eiger1" in reduced.name else 5, "out.nxs": 5, "out_000002.h5": 2}
    for name, n in n_images.items():
        shown = default_image(reduced / name)
        assert shown is not None, name
        assert shown.shape[0] == n
        assert (shown[0] > 0).any()


def test_a_folder_is_one_sweep(reduced: Path) -> None:
    assert sweeps(reduced, ["out.nxs", "out_master.h5"]) == ["out_master.h5"]


def test_programs_in_c_find_the_virtual_dataset_first(reduced: Path) -> None:
    """durin looks for images in the detector's group before it takes the links, of which it decodes few filters."""
    with h5py.File(reduced / "out.nxs") as h5:
        detector = h5["/entry/instrument/detector"]
        assert "data_000001" not in detector
        assert detector["data"].is_virtual
        assert detector["data"].shape[0] == 5


@pytest.mark.dials
@pytest.mark.skipif(PYTHON is None, reason="neither dials.python nor dxtbx.python is on PATH")
def test_dials(reduced: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("dials_pixels.py")
    environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
    target = tmp_path / "images.npy"
    assert PYTHON is not None
    done = subprocess.run(
        [PYTHON, str(script), str(reduced / "out.nxs"), str(target)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen, written = np.load(target), as_written(reduced).astype(np.int64)
    assert seen.shape == written.shape
    # dxtbx reads the type's top value, the mark, as -1.
    np.testing.assert_array_equal(seen, np.where(written == 65535, -1, written))
