"""One run at a time on an output: who holds it, who has lost it, and what a kill leaves."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from running import PATIENCE, Hold, background, bnl, needs_mpi, wait_for
from small_sets import random_frames, write_set

from bnl_mpi.errors import OutputError
from bnl_mpi.run.lock import STALE_SECONDS, Lock, Locks, Share

OLD = STALE_SECONDS + 60


@pytest.fixture(scope="module")
def slow_words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A job of some blocks."""
    master = write_set(tmp_path_factory.mktemp("slow"), random_frames(20, (160, 170)), per_file=10)
    return ["-i", str(master), "-J", "20", "-d", "5"]


def aged(path: Path) -> None:
    then = time.time() - OLD
    os.utime(path, (then, then))


@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_a_live_run_is_never_taken_over_however_old_its_lock_looks(
    tmp_path: Path, slow_words: list[str], hold: Hold, option: str
) -> None:
    with background(*slow_words, "-o", "set", cwd=tmp_path, env=hold(1)) as run:
        wait_for(hold.held, run)
        aged(tmp_path / "set.lock")
        done = bnl(*slow_words, "-o", "set", option, cwd=tmp_path, ok=False)
        assert run.poll() is None
        hold.release()
        assert run.wait(PATIENCE) == 0
    assert done.returncode == 1
    assert "another run is at work" in done.stderr


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
@pytest.mark.parametrize("how", ["taken over", "removed"])
def test_a_run_that_lost_its_lock_stops(
    tmp_path: Path, slow_words: list[str], hold: Hold, ranks: int | None, how: str
) -> None:
    lock = tmp_path / "set.lock"
    with background(*slow_words, "-o", "set", cwd=tmp_path, ranks=ranks, env=hold(2)) as run:
        wait_for(lambda: list(tmp_path.glob("set_000001.h5")), run)
        if how == "removed":
            lock.unlink()
        else:
            # As another host's would be put in its place.
            (tmp_path / "other").write_text(json.dumps({"host": "n99", "pid": 5}))
            (tmp_path / "other").rename(lock)
        hold.release()
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode not in (0, None)
    assert "set.lock: this run's lock" in told
    assert ("is gone" if how == "removed" else "was taken over by another run") in told
    assert not (tmp_path / "set_master.h5").exists()
    assert not list(tmp_path.glob("set_*.partial"))
    # The other's lock stays.
    assert lock.exists() == (how != "removed")


@pytest.mark.parametrize("kind", ["dangling link", "fifo", "folder"])
def test_what_is_no_file_is_no_lock(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "set.lock"
    if kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OutputError, match=r"set\.lock: is .*remove it"):
        Lock(str(tmp_path / "set"), "a").acquire()
    assert os.listdir(tmp_path) == ["set.lock"]


def test_a_fifo_under_the_temporary_name_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"set.lock.{socket.gethostname()}-{os.getpid()}")
    lock = Lock(str(tmp_path / "set"), "a")
    lock.acquire()
    lock.release()
    assert not os.listdir(tmp_path)


def test_what_a_kill_around_the_link_leaves_is_swept(tmp_path: Path) -> None:
    lock = Lock(str(tmp_path / "set"), "a")
    lock.acquire()
    mine = json.loads((tmp_path / "set.lock").read_text())
    lock.release()
    dead, host = json.dumps({**mine, "start": "12"}), socket.gethostname()
    # Killed before link(2), after it, and between the two steps of a take-over.
    for name in (f"set.lock.{host}-77", f"set.lock.{host}-78", f"set.lock.{host}-79.dead"):
        (tmp_path / name).write_text(dead)
    os.link(tmp_path / f"set.lock.{host}-78", tmp_path / "set.lock")
    (tmp_path / "set.lock.n98-80").write_text("")
    aged(tmp_path / "set.lock.n98-80")
    # Killed before it wrote a word: its name tells whose it was, if that was here.
    (tmp_path / f"set.lock.{host}-{2**22 + 1}").write_text("")
    far = tmp_path / "set.lock.n99-5"
    far.write_text("")
    # One that is just being made by a run that is alive, and another stem's.
    alive = tmp_path / f"set.lock.{host}-81"
    alive.write_text(json.dumps(mine))
    (tmp_path / "set.lock_notes").write_text("mine")
    lock.acquire()
    assert {p.name for p in tmp_path.iterdir()} == {"set.lock", alive.name, "set.lock_notes", far.name}
    lock.release()


def test_a_new_lock_that_was_taken_for_a_dead_one_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.lock"
    path.write_text(json.dumps({"host": "n99", "pid": 5}))
    aged(path)
    rename, new = os.rename, json.dumps({"host": "n98", "pid": 6})

    def late(old: str, name: str) -> None:
        # Between judging the dead one and renaming it, a third run has put its own in place.
        monkeypatch.setattr(os, "rename", rename)
        path.write_text(new)
        rename(old, name)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(OutputError, match="host n98, process 6"):
        Lock(str(tmp_path / "set"), "a").acquire()
    assert path.read_text() == new
    assert os.listdir(tmp_path) == ["set.lock"]


def test_every_stem_is_locked(tmp_path: Path, slow_words: list[str], hold: Hold) -> None:
    words = [*slow_words, "-o", "set", "-q", "sq", "-m", "both_master"]
    with background(*words, cwd=tmp_path, env=hold(1)) as run:
        wait_for(hold.held, run)
        assert {p.name for p in tmp_path.glob("*.lock")} == {"set.lock", "sq.lock", "both.lock"}
        for other in ("-o b -q sq", "-o b -m both_master", "-o b -m both", "-o both"):
            done = bnl(*slow_words, *other.split(), "--force", cwd=tmp_path, ok=False)
            assert "another run is at work" in done.stderr, other
        run.terminate()
        run.wait(PATIENCE)
    assert not list(tmp_path.glob("*.lock"))
    assert not list(tmp_path.glob("b*"))


def test_all_locks_or_none(tmp_path: Path) -> None:
    held = Lock(str(tmp_path / "b"), "x")
    held.acquire()
    with pytest.raises(OutputError, match="another run"):
        Locks([str(tmp_path / name) for name in ("a", "b", "c")], "y").acquire()
    assert os.listdir(tmp_path) == ["b.lock"]
    shares = [Locks([str(tmp_path / n) for n in ("d", "e", "e")], "y", Share(k, 2)) for k in (1, 2)]
    for locks in shares:
        locks.acquire()
        assert len(locks.tickets) == 2
    for locks in shares:
        locks.release()
    held.release()
    assert not os.listdir(tmp_path)
