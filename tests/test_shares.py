"""`-t K -p N`: a share answers for its own, and share 0 for the set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from running import MAIN, bnl, needs_mpi, outputs
from small_sets import random_frames, write_set

from bnl_mpi.run.launch import mpiexec_command

SHAPE = (30, 31)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six blocks, of two images each."""
    master = write_set(tmp_path_factory.mktemp("in"), random_frames(12, SHAPE), per_file=6)
    return ["-i", str(master), "-d", "2", "-c", "bslz4", "-o", "set"]


def share(words: list[str], folder: Path, number: int, *more: str, status: int = 0) -> str:
    """Do that share of three; what it told on stderr."""
    done = bnl(*words, "-p", "3", "-t", number, *more, cwd=folder, ok=False)
    assert done.returncode == status, done.stderr
    return done.stderr


def plans(folder: Path) -> set[str]:
    found = set()
    for path in folder.glob("set_0*.h5"):
        with h5py.File(path) as h5:
            found.add(bytes(h5["entry/bnl_mpi"].attrs["plan_sha256"]).decode())
    return found


def test_share_0_tells_whether_the_set_is_complete(tmp_path: Path, words: list[str]) -> None:
    share(words, tmp_path, 1)
    told = share(words, tmp_path, 0, status=75)
    assert "4 of 6 blocks aren't yet: 2, 3, 5, 6" in told
    assert (tmp_path / "set_master.h5").exists()
    for number in (2, 3):
        share(words, tmp_path, number)
    assert "the masters are there already" in share(words, tmp_path, 0, "--resume")
    one = tmp_path / "one"
    one.mkdir()
    bnl(*words, cwd=one)
    assert outputs(tmp_path, "set") == outputs(one, "set")
    (tmp_path / "set_000005.h5").unlink()
    assert "1 of 6 blocks aren't yet: 5" in share(words, tmp_path, 0, "--resume", status=75)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_force_with_a_share_missing_leaves_nothing_of_the_old_set(
    tmp_path: Path, words: list[str], order: tuple[int, ...]
) -> None:
    bnl(*words, "-S", "2", cwd=tmp_path)
    assert len(plans(tmp_path)) == 1
    for number in order:
        share(words, tmp_path, number, "--force", status=0 if number else 75)
    # Share 3 never ran.
    assert sorted(p.name for p in tmp_path.glob("set_0*.h5")) == [f"set_{k:06d}.h5" for k in (1, 2, 4, 5)]
    assert len(plans(tmp_path)) == 1
    share(words, tmp_path, 3, "--force")
    share(words, tmp_path, 0, "--resume")


def test_a_share_removes_its_own_before_it_works(tmp_path: Path, words: list[str]) -> None:
    bnl(*words, "-S", "2", cwd=tmp_path)
    told = bnl(
        *words, "-p", "3", "-t", "2", "--force", cwd=tmp_path, env={"SLURM_JOB_END_TIME": "1"}, ok=False
    )  # no time for a block
    assert told.returncode == 75
    assert sorted(p.name for p in tmp_path.glob("set_0*.h5")) == [f"set_{k:06d}.h5" for k in (1, 3, 4, 6)]


def test_without_force_no_master_over_another_plans_blocks(tmp_path: Path, words: list[str]) -> None:
    share([*words, "-S", "2"], tmp_path, 1)
    told = share(words, tmp_path, 0, status=1)
    assert "belongs to another run" in told
    assert not (tmp_path / "set_master.h5").exists()


def test_no_blocks_below_another_plans_master(tmp_path: Path, words: list[str]) -> None:
    share(words, tmp_path, 0, status=75)
    for more in ((), ("--resume",)):
        told = share(words, tmp_path, 1, "-S", "2", *more, status=1)
        assert "set_master.h5: belongs to another job" in told
    assert not list(tmp_path.glob("set_0*.h5"))
    share(words, tmp_path, 1)


def test_shares_write_their_summary(tmp_path: Path, words: list[str]) -> None:
    for number in (1, 2, 3):
        share(words, tmp_path, number, "--json", f"{number}.json")
    share(words, tmp_path, 0, "--json", "0.json")
    told = [json.loads((tmp_path / f"{k}.json").read_text()) for k in range(4)]
    assert [t["blocks"] for t in told] == [6, 2, 2, 2]
    assert [t["images"] for t in told] == [12, 4, 4, 4]
    one = tmp_path / "one"
    one.mkdir()
    bnl(*words, "--json", "one.json", cwd=one)
    whole = json.loads((one / "one.json").read_text())
    assert told[0].keys() == whole.keys()
    # Share 0 was last: before, there was no master to tell of.
    assert [t["master"] for t in told] == [str(tmp_path / "set_master.h5"), None, None, None]
    for name in ("bytes_in", "bytes_out", "frames", "images", "ratio_to_raw16", "invalid_pixels"):
        assert told[0][name] == whole[name], name
        if name != "ratio_to_raw16":
            assert sum(t[name] for t in told[1:]) == whole[name], name
    share(words, tmp_path, 2, "--resume", "--json", "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["blocks"], again["kept_blocks"], again["bytes_out"]) == (2, 2, told[2]["bytes_out"])


# ---- before the masters are named -----------------------------------------------------------------------

MEDDLING = """
import os, sys
sys.path.insert(0, {folder!r})
from bnl_mpi.tasks.reduction import ReductionTask as C
old = C.write_masters
def meddle(self, prepared, files):
    while not os.path.exists("set_000002.h5"):
        pass
    {act}
    return old(self, prepared, files)
C.write_masters = meddle
from bnl_mpi.cli import main
sys.exit(main())
"""

ACTS = {
    "gone": 'os.unlink("set_000002.h5")',
    "another's": 'os.replace("other_000002.h5", "set_000002.h5")',
    "longer": 'open("set_squash_000002.h5", "ab").write(b"x")',
    # File systems tell times in steps, of which the block and the damage may fall into one.
    "damaged": 'open("set_000002.h5", "r+b").write(bytes(64)); os.utime("set_000002.h5", (1, 1))',
}


@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=[pytest.mark.mpi, needs_mpi])])
def test_a_block_that_changed_meanwhile(tmp_path: Path, words: list[str], act: str, ranks: int | None) -> None:
    words = [*words, "-H", "16", "-q", "out_file"]
    bnl(*["other" if w == "set" else w for w in words], "-S", "2", cwd=tmp_path)
    program = tmp_path / "meddling.py"
    program.write_text(MEDDLING.format(folder=str(Path(MAIN).parents[1]), act=ACTS[act]))
    command, environment = [sys.executable, str(program), *words], dict(os.environ)
    if ranks:
        command, environment = mpiexec_command(ranks, words)
        command[command.index(MAIN)] = str(program)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "000002.h5: " in done.stderr
    assert "no master is written" in done.stderr
    assert not (tmp_path / "set_master.h5").exists()
