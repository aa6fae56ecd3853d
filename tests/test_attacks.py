"""System calls that fail, for a while (`python -m tests.faults` goes on by hand), and what a machine or a user does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import attackers
import h5py
import pytest
from running import MAIN, PATIENCE, Hold, background, wait_for
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.errors import InputError
from bnl_mpi.hdf5 import access


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc, which the preloaded library is compiled with")
def test_no_failing_system_call_leaves_half_a_set() -> None:
    attackers.attack("tests.faults", "--n", 220, "--seed", 2)


# ---- what the machine or somebody on it does ------------------------------------------------------------


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("in"), random_frames(12, (60, 64)), mask=random_mask((60, 64)))


@pytest.mark.parametrize(
    ("limit", "message"),
    [("ulimit -f 8", "File too large"), ("ulimit -n 6", None), ("export TMPDIR=/nowhere", None)],
)
def test_limits(master: Path, tmp_path: Path, limit: str, message: str | None) -> None:
    words = [sys.executable, MAIN, "-i", str(master), "-c", "none", "-d", "2", "-o", "set"]
    done = subprocess.run(
        ["bash", "-c", f'{limit}; exec "$@"', "bash", *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if message is None:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode != 0
    assert message in done.stderr
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("set_master.h5"))


def test_the_outputs_folder_removed(tmp_path: Path, hold: Hold) -> None:
    slow = write_set(tmp_path, random_frames(20, (160, 170)), per_file=20)
    out = tmp_path / "out"
    out.mkdir()
    with background("-i", slow, "-J", "20", "-d", "4", "-o", out / "set", cwd=tmp_path, env=hold(2)) as run:
        wait_for(hold.held, run)
        shutil.rmtree(out)
        hold.release()
        assert run.wait(PATIENCE) != 0
        assert run.stderr is not None
        said = run.stderr.read()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("bnl-mpi: ")


def test_what_is_there_and_cannot_be_opened_is_not_taken_for_absent(tmp_path: Path) -> None:
    """As a read error in the middle of a master; a mask that is thought absent would give other pixels."""
    path = write_set(tmp_path, random_frames(2, (20, 20)), mask=random_mask((20, 20)))
    mask = "/entry/instrument/detector/detectorSpecific/pixel_mask"
    with h5py.File(path) as file:
        address = h5py.h5o.get_info(file[mask].id).addr
    content = bytearray(path.read_bytes())
    content[address : address + 16] = bytes(16)
    path.write_bytes(content)
    with access.open_read(path) as file:
        assert access.get_dataset(file, f"{mask}_of_another_kind") is None
        with pytest.raises(InputError, match="pixel_mask can't be read"):
            access.get_dataset(file, mask)
