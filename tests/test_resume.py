"""A run that was broken off is completed by --resume, and the end is what an unbroken run gives."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from running import PATIENCE, Hold, background, bnl, needs_mpi, outputs, wait_for, with_option
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.errors import OutputError
from bnl_mpi.run.lock import STALE_SECONDS, Lock, Share

SHAPE = (40, 44)
RANKS = [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    return write_set(folder, random_frames(24, SHAPE), mask=random_mask(SHAPE), per_file=7)


@pytest.fixture(scope="module")
def slow_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of some blocks."""
    folder = tmp_path_factory.mktemp("slow")
    return write_set(folder, random_frames(60, (160, 170)), mask=random_mask((160, 170)), per_file=20)


@pytest.fixture(scope="module")
def words(master: Path) -> list[str]:
    return ["-i", str(master), "-H", "16", "-q", "-c", "bslz4", "-d", "3", "-o", "set"]


@pytest.fixture(scope="module")
def expected(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("unbroken")
    bnl(*words, cwd=folder)
    return dict(outputs(folder, "set"))


def inodes(folder: Path) -> dict[str, int]:
    """A file that was made again has another inode: each is written beside and renamed."""
    return {p.name: p.stat().st_ino for p in folder.iterdir()}


def break_off(folder: Path) -> set[str]:
    """Make a finished run look like one that died, in every way a block can be affected; names still whole."""
    for name in ("set_master.h5", "set.nxs", "set_000002.h5", "set_squash_000002.h5", "set_squash_000003.h5"):
        (folder / name).unlink()
    truncated = folder / "set_000004.h5"
    os.truncate(truncated, truncated.stat().st_size // 2)
    (folder / "set_000005.h5").write_bytes(b"")
    with h5py.File(folder / "set_000006.h5") as h5:
        info = h5["/entry/data/data"].id.get_chunk_info_by_coord((1, 0, 0))
    with open(folder / "set_000006.h5", "rb+") as file:
        file.seek(info.byte_offset + info.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    (folder / "set_000007.h5.elsewhere-77.partial").write_bytes(b"half")
    (folder / "set_master.h5.elsewhere-77.partial").write_bytes(b"half")
    (folder / "set_more_000001.h5.elsewhere-77.partial").write_bytes(b"another stem's")
    return {f"set{s}_{k:06d}.h5" for s in ("", "_squash") for k in (1, 7, 8)}


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_whole_is_kept_and_the_rest_made(
    tmp_path: Path, words: list[str], expected: dict[str, object], ranks: int | None
) -> None:
    bnl(*words, cwd=tmp_path)
    kept = break_off(tmp_path)
    before = inodes(tmp_path)
    done = bnl(*words, "--resume", "--json", "run.json", cwd=tmp_path, ranks=ranks)
    other = tmp_path / "set_more_000001.h5.elsewhere-77.partial"
    assert other.exists()
    other.unlink()
    assert outputs(tmp_path, "set") == expected
    after = inodes(tmp_path)
    assert {n for n in after if n.startswith("set") and before.get(n) == after[n]} == kept
    assert "3 of 8 blocks are there and sound" in done.stderr
    for number in (3, 4, 5, 6):
        assert f"block {number} is made again" in done.stderr
    summary = json.loads((tmp_path / "run.json").read_text())
    assert (summary["blocks"], summary["kept_blocks"]) == (8, 3)


def test_the_summary_counts_kept_blocks(tmp_path: Path, words: list[str]) -> None:
    bnl(*words, "--json", "whole.json", cwd=tmp_path)
    break_off(tmp_path)
    bnl(*words, "--resume", "--json", "resumed.json", cwd=tmp_path)
    whole, resumed = (json.loads((tmp_path / n).read_text()) for n in ("whole.json", "resumed.json"))
    for name in ("bytes_in", "bytes_out", "bytes_squash", "clipped_pixels", "invalid_pixels", "mean_codestream"):
        assert resumed[name] == whole[name], name


@pytest.mark.parametrize("ranks", RANKS)
def test_a_finished_run_is_left_alone(tmp_path: Path, words: list[str], ranks: int | None) -> None:
    bnl(*words, cwd=tmp_path)
    before = inodes(tmp_path)
    done = bnl(*words, "--resume", cwd=tmp_path, ranks=ranks)
    assert "finished already" in done.stderr
    assert inodes(tmp_path) == before


@pytest.mark.parametrize("what", ["nexus", "master", "link", "squash link", "part"])
def test_finished_is_a_set_with_all_its_masters_and_links(
    tmp_path: Path, words: list[str], expected: dict[str, object], what: str
) -> None:
    bnl(*words, cwd=tmp_path)
    if what in ("nexus", "master"):
        (tmp_path / {"nexus": "set.nxs", "master": "set_master.h5"}[what]).unlink()
    elif what == "part":
        with h5py.File(tmp_path / "set.nxs", "r+") as h5:
            data = h5["entry/data"]
            own = [name for name in data if not isinstance(data.get(name, getlink=True), h5py.ExternalLink)]
            (name,) = (name for name in own if data[name].is_virtual)
            layout = h5py.VirtualLayout(data[name].shape, data[name].dtype)
            del data[name]
            data.create_virtual_dataset(name, layout)
    else:
        with h5py.File(tmp_path / "set_master.h5", "r+") as h5:
            group = h5["entry/data" if what == "link" else "entry/squash"]
            del group[sorted(group)[2]]
    kept = {n: i for n, i in inodes(tmp_path).items() if n.startswith("set_0")}
    done = bnl(*words, "--resume", cwd=tmp_path)
    assert "finished already" not in done.stderr
    assert outputs(tmp_path, "set") == expected
    assert kept == {n: i for n, i in inodes(tmp_path).items() if n.startswith("set_0")}


def test_a_block_that_got_lost_after_the_end(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    bnl(*words, cwd=tmp_path)
    (tmp_path / "set_000002.h5").unlink()
    bnl(*words, "--resume", cwd=tmp_path)
    assert outputs(tmp_path, "set") == expected


def test_with_nothing_there_it_starts(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    (tmp_path / "set_more_000001.h5").write_bytes(b"another stem")
    bnl(*words, "--resume", cwd=tmp_path)
    (tmp_path / "set_more_000001.h5").unlink()
    assert outputs(tmp_path, "set") == expected


@pytest.mark.parametrize("ranks", RANKS)
def test_another_jobs_blocks_are_refused(tmp_path: Path, words: list[str], ranks: int | None) -> None:
    bnl(*words, cwd=tmp_path)
    before = inodes(tmp_path)
    done = bnl(*words, "--resume", "-s", "2", cwd=tmp_path, ranks=ranks, ok=False)
    assert done.returncode == 1
    assert "sum 1 there, 2 here" in done.stderr
    assert "--force" in done.stderr
    assert inodes(tmp_path) == before


def test_an_input_that_has_changed_is_another_job(tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(6, SHAPE), per_file=6)
    words = ["-i", master, "-d", "2", "-o", "set"]
    bnl(*words, cwd=tmp_path)
    (tmp_path / "set_000002.h5").unlink()
    write_set(tmp_path, random_frames(6, SHAPE, seed=5), per_file=6)
    done = bnl(*words, "--resume", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "the input's files had other names or sizes" in done.stderr


def test_another_jobs_master_and_surplus_blocks_are_refused(tmp_path: Path, words: list[str]) -> None:
    bnl(*words, "-N", "6", cwd=tmp_path)
    for k in (1, 2):
        (tmp_path / f"set_{k:06d}.h5").unlink()
        (tmp_path / f"set_squash_{k:06d}.h5").unlink()
    done = bnl(*words, "--resume", cwd=tmp_path, ok=False)
    assert "set_master.h5: belongs to another job" in done.stderr
    for name in ("set_master.h5", "set.nxs"):
        (tmp_path / name).unlink()
    (tmp_path / "set_000099.h5").write_bytes(b"from elsewhere")
    done = bnl(*words, "--resume", cwd=tmp_path, ok=False)
    assert "set_000099.h5: belongs to another job" in done.stderr


def test_a_file_of_another_program_is_refused(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "set_000002.h5").write_text("notes")
    done = bnl(*words, "--resume", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "set_000002.h5: is no block of this job" in done.stderr
    assert (tmp_path / "set_000002.h5").read_text() == "notes"


def test_the_stored_block_size_wins(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    bnl(*words, cwd=tmp_path)
    break_off(tmp_path)
    (tmp_path / "set_more_000001.h5.elsewhere-77.partial").unlink()
    done = bnl(*with_option(words, "-d", "5"), "--resume", cwd=tmp_path)
    assert "-d 3 of the blocks that are there is used" in done.stderr
    assert outputs(tmp_path, "set") == expected


def test_without_it_the_error_names_it_and_force(tmp_path: Path, words: list[str]) -> None:
    bnl(*words, cwd=tmp_path)
    done = bnl(*words, cwd=tmp_path, ok=False)
    assert "--resume" in done.stderr
    assert "--force" in done.stderr
    done = bnl(*words, "--force", "--resume", cwd=tmp_path, ok=False)
    assert done.returncode == 2


def test_shares_resume_too(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    for share in (1, 2, 3, 0):
        bnl(*words, "-p", "3", "-t", share, cwd=tmp_path)
    kept = break_off(tmp_path)
    (tmp_path / "set_more_000001.h5.elsewhere-77.partial").unlink()
    before = inodes(tmp_path)
    for share in (2, 1, 3, 0):
        bnl(*words, "-p", "3", "-t", share, "--resume", cwd=tmp_path)
    after = inodes(tmp_path)
    assert outputs(tmp_path, "set") == expected
    assert {n for n in after if n.startswith("set") and before.get(n) == after[n]} == kept
    done = bnl(*words, "-p", "3", "-t", "2", "--resume", cwd=tmp_path)
    assert "finished already" in done.stderr
    done = bnl(*words, "-p", "3", "-t", "2", "--resume", "-b", "2", cwd=tmp_path, ok=False)
    assert "bin 1 there, 2 here" in done.stderr


@pytest.mark.parametrize("ranks", RANKS)
def test_a_run_that_was_killed(tmp_path: Path, slow_master: Path, hold: Hold, ranks: int | None) -> None:
    words = ["-i", str(slow_master), "-J", "20", "-c", "bslz4", "-d", "5", "-o", "set"]
    with background(*words, cwd=tmp_path, ranks=ranks, env=hold(5)) as run:
        wait_for(lambda: len(list(tmp_path.glob("set_*.h5"))) > 3, run)
        pid = wait_for(hold.held, run)[0]
        assert list(tmp_path.glob(f"set_*-{pid}.partial"))
        os.kill(pid, signal.SIGKILL)
        assert run.wait(PATIENCE) != 0
    assert not (tmp_path / "set_master.h5").exists()
    bnl(*words, "--resume", cwd=tmp_path, ranks=2 if ranks else None)
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    bnl(*words, cwd=unbroken)
    assert outputs(tmp_path, "set") == outputs(unbroken, "set")


# ---- one run at a time ----------------------------------------------------------------------------------


@pytest.fixture
def slow_run(tmp_path: Path, slow_master: Path, hold: Hold) -> Iterator[list[str]]:
    """A run that is at work in `tmp_path`, and must end well when the test is over; gives its words."""
    words = ["-i", str(slow_master), "-J", "20", "-d", "5", "-o", "set"]
    with background(*words, cwd=tmp_path, env=hold(2)) as run:
        wait_for(hold.held, run)
        yield words
        assert run.poll() is None, "the run was over before the test was"
        hold.release()
        assert run.wait(PATIENCE) == 0
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_a_second_run_on_an_output_is_refused(tmp_path: Path, slow_run: list[str], option: str) -> None:
    done = bnl(*slow_run, option, cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "another run is at work" in done.stderr
    assert socket.gethostname() in done.stderr
    done = bnl(*slow_run, "-p", "2", "-t", "1", option, cwd=tmp_path, ok=False)
    assert "another run is at work" in done.stderr


def taken(stem: Path, plan: str = "a", share: Share | None = None) -> Lock:
    lock = Lock(str(stem), plan, share)
    lock.acquire()
    return lock


def test_shares_of_one_plan_exclude_only_the_same_share(tmp_path: Path) -> None:
    stem = tmp_path / "set"
    first = taken(stem, share=Share(1, 3))
    second = taken(stem, share=Share(2, 3))
    taken(tmp_path / "set_more").release()
    taken(tmp_path / "se").release()
    for plan, share in (("a", Share(1, 3)), ("a", Share(2, 4)), ("b", Share(0, 3)), ("a", None)):
        with pytest.raises(OutputError, match="another run is at work"):
            taken(stem, plan, share)
    first.release()
    second.release()
    assert not list(tmp_path.iterdir())


def forged(path: Path, age: float, **items: object) -> None:
    path.write_text(json.dumps({"host": "n99", "pid": 5, "start": "1", "space": "x", **items}))
    then = time.time() - age
    os.utime(path, (then, then))


def test_a_dead_jobs_lock_does_not_block_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "set.lock"
    forged(path, STALE_SECONDS / 4)
    with pytest.raises(OutputError, match=r"host n99, process 5, last sign of life"):
        taken(tmp_path / "set")
    assert path.exists()
    forged(path, STALE_SECONDS + 5)
    taken(tmp_path / "set").release()
    path.write_text("")
    os.utime(path, (0, 0))
    taken(tmp_path / "set").release()
    assert not list(tmp_path.iterdir())


def test_a_dead_process_of_this_host_does_not_block_at_all(tmp_path: Path) -> None:
    mine = taken(tmp_path / "set")
    content = json.loads((tmp_path / "set.lock").read_text())
    with pytest.raises(OutputError, match="another run"):
        taken(tmp_path / "set")
    mine.release()
    # The number is in use again, by a process that began at another time.
    (tmp_path / "set.lock").write_text(json.dumps({**content, "start": "12"}))
    taken(tmp_path / "set").release()
    assert not list(tmp_path.iterdir())


def test_a_requeued_job_takes_its_own_lock_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.lock"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    forged(path, 1, slurm_job="12", restarts=0)
    with pytest.raises(OutputError, match="SLURM job 12"):
        taken(tmp_path / "set")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    taken(tmp_path / "set").release()
    forged(path, 1, slurm_job="11", restarts=0)
    with pytest.raises(OutputError, match="SLURM job 11"):
        taken(tmp_path / "set")


def test_force_leaves_other_shares_at_work_alone(tmp_path: Path, words: list[str]) -> None:
    bnl(*with_option(words, "-d", "2"), cwd=tmp_path)
    other = tmp_path / "set_000002.h5.n1-5.partial"
    other.write_bytes(b"being written")
    surplus = tmp_path / "set_000009.h5"
    assert surplus.exists()
    assert bnl(*words, "-p", "3", "-t", "0", "--force", cwd=tmp_path, ok=False).returncode == 75
    assert other.exists()
    assert not surplus.exists()
    bnl(*words, "-p", "3", "-t", "2", "--force", cwd=tmp_path)
    assert not other.exists()


def test_a_lock_that_was_taken_over_stays(tmp_path: Path) -> None:
    lock = taken(tmp_path / "set")
    forged(tmp_path / "set.lock", 0)
    lock.release()
    assert (tmp_path / "set.lock").exists()
