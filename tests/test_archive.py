"""`bnl-mpi archive`: many sets as by single runs, on processes and ranks, however often it is killed."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from make_cbf import counts, write_series
from make_inputs import InputSpec, make_input
from running import PATIENCE, Hold, background, bnl, needs_mpi, tree, wait_for
from small_sets import random_frames, random_mask, write_set

import bnl_mpi
from bnl_mpi.archive import rules, sets, state, status, thumbnails
from bnl_mpi.archive.dealing import LEAST_CREW, Dealer, Weighed
from bnl_mpi.archive.facts import Facts, read_facts
from bnl_mpi.archive.follow import Watch, growth_of, keep_ready
from bnl_mpi.archive.keeper import Keeper
from bnl_mpi.archive.looking import in_turn
from bnl_mpi.archive.session import Plan
from bnl_mpi.archive.state import DONE, FAILED, NEW, REDUCING, SKIPPED, Entry
from bnl_mpi.cli import main
from bnl_mpi.commands.archive import split_words
from bnl_mpi.errors import InputError, OutputError, UsageError

SHAPE = (40, 50)
WORDS = ["-b", "2", "-s", "2", "-d", "2", "-c", "bslz4"]
SAME: dict[str, Any] = {"data_block_size": 2, "compression": "bslz4"}
"""WORDS less -b and -s, for Python."""
GOOD, BROKEN = 35, 5


def make_tree(raw: Path) -> None:
    """40 sets: rotation, grid and still, three widths of pixels, two flavours, odd names, five of them broken."""
    for k in range(GOOD - 5):
        folder = raw / f"visit-{k % 3}" / ("with space" if k % 5 == 0 else f"sample '{k % 4}'")
        folder.mkdir(parents=True, exist_ok=True)
        dtype, name = ("uint8", "uint16", "uint32")[k % 3], f"set \u03b1{k}" if k % 7 == 0 else f"set{k}"
        frames = random_frames(4 + k % 5, SHAPE, dtype, seed=k)
        grid = k % 6 == 5
        write_set(
            folder,
            frames,
            name=name,
            mask=random_mask(SHAPE),
            per_file=3,
            osc=0.0 if grid else 0.1,
            ntrigger=len(frames) if grid else 1,
        )
    for k in range(5):
        folder = raw / "eiger2" / str(k)
        folder.mkdir(parents=True)
        make_input(folder, InputSpec(flavour="nxmx", libver="v110", n_frames=6 + k, shape=SHAPE))
    broken = raw / "broken"
    broken.mkdir()
    for k in range(BROKEN):
        write_set(broken, random_frames(4, SHAPE, seed=k), name=f"bad{k}", mask=random_mask(SHAPE), per_file=2)
    (broken / "bad0_master.h5").write_bytes(b"no HDF5 at all")
    (broken / "bad1_data_000002.h5").unlink()
    data = bytearray((broken / "bad2_data_000002.h5").read_bytes())
    (broken / "bad2_data_000002.h5").write_bytes(data[: len(data) // 2])
    spoil_chunk(broken / "bad3_data_000001.h5")
    master = broken / "bad4_master.h5"
    master.write_bytes(master.read_bytes()[:1500])
    (raw / "link_master.h5").symlink_to(next((raw / "visit-1").rglob("set1_master.h5")))
    (raw / "notes.txt").write_text("no set\n")


def spoil_chunk(path: Path) -> None:
    """Damage the first frame's compressed bytes in place."""
    import h5py

    with h5py.File(path) as file:
        at = file["/entry/data/data"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(at + 8)
        file.write(b"\xff" * 40)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "raw"
    make_tree(folder)
    return folder


@pytest.fixture(scope="module")
def wanted(raw: Path) -> dict[str, Any]:
    """Each set by a run of its own: all files' trees by path."""
    to = raw.parent / "single"
    for one in sets.find([str(raw)], str(to)).sets:
        out = to / one.stem
        out.parent.mkdir(parents=True, exist_ok=True)
        if "broken" not in one.stem:
            bnl_mpi.reduce(one.master, out_file=str(out), bin=2, sum=2, data_block_size=2, compression="bslz4")
    return trees(to)


def trees(to: Path) -> dict[str, Any]:
    return {str(p.relative_to(to)): tree(p) for p in sorted(to.rglob("*")) if p.suffix in (".h5", ".nxs")}


def entries_of(to: Path) -> dict[str, Entry]:
    return state.read(str(to))


def check_all(to: Path, wanted: dict[str, Any]) -> None:
    """The archive holds what single runs made, and says so."""
    made = trees(to)
    assert set(made) == set(wanted)
    for name, one in wanted.items():
        assert made[name] == one, name
    told = entries_of(to)
    assert sorted(e.stage for e in told.values()) == [DONE] * GOOD + [FAILED] * BROKEN
    assert all(("broken" in stem) == (e.stage == FAILED) for stem, e in told.items())
    assert all(e.reason and "Traceback" not in e.reason and "\n" not in e.reason for e in told.values() if e.reason)


# ---- the whole ------------------------------------------------------------------------------------------


def test_processes_make_what_single_runs_make(raw: Path, wanted: dict[str, Any], tmp_path: Path) -> None:
    to = tmp_path / "out"
    done = bnl("archive", raw, "--to", to, *WORDS, "-p", "2", ok=False)
    assert done.returncode == 1
    assert "link_master.h5" in done.stderr
    assert "Traceback" not in done.stderr
    check_all(to, wanted)
    before = {p: p.stat().st_mtime_ns for p in to.rglob("*.h5")}
    again = bnl("archive", raw, "--to", to, *WORDS, "-p", "2", ok=False)
    assert f"{BROKEN} failed" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in to.rglob("*.h5")}
    told = bnl("archive", "--status", to, "--failed", "-0").stdout
    assert {Path(p).name for p in told.split("\0") if p} == {f"bad{k}_master.h5" for k in range(BROKEN)}


@needs_mpi
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_make_what_single_runs_make(raw: Path, wanted: dict[str, Any], tmp_path: Path, ranks: int) -> None:
    done = bnl("archive", raw, "--to", tmp_path / "out", *WORDS, ranks=ranks, ok=False)
    assert done.returncode, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    check_all(tmp_path / "out", wanted)


@needs_mpi
@pytest.mark.mpi
def test_a_large_set_gets_a_crew(tmp_path: Path) -> None:
    """Beside small ones, on ranks that are rearranged between the sets."""
    raw = tmp_path / "raw"
    raw.mkdir()
    big = write_set(raw, random_frames(60, (200, 210), seed=1), name="big", mask=random_mask((200, 210)), per_file=20)
    for k in range(3):
        write_set(raw, random_frames(3, SHAPE, seed=k), name=f"small{k}", mask=random_mask(SHAPE))
    bnl("archive", raw, "--to", tmp_path / "out", *WORDS, ranks=5)
    told = entries_of(tmp_path / "out")
    assert {e.stage for e in told.values()} == {DONE}
    assert told["raw/big"].ranks > 1
    bnl_mpi.reduce(str(big), out_file=str(tmp_path / "big"), bin=2, sum=2, data_block_size=2, compression="bslz4")
    assert tree(tmp_path / "out" / "raw" / "big_000001.h5") == tree(tmp_path / "big_000001.h5")


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[needs_mpi, pytest.mark.mpi])])
def test_killed_at_random_and_gone_on_with(
    raw: Path, wanted: dict[str, Any], tmp_path: Path, ranks: int | None
) -> None:
    to, dice = tmp_path / "out", random.Random(4)
    for _ in range(5):
        with background("archive", raw, "--to", to, *WORDS, "-p", "2", cwd=tmp_path, ranks=ranks) as run:
            time.sleep(dice.uniform(0.05, 2.5))
            kill_all(run, to)
        if (to / "archive.db").exists():
            for stem, entry in entries_of(to).items():
                assert entry.stage != DONE or (to / f"{stem}_master.h5").exists()
    bnl("archive", raw, "--to", to, *WORDS, "-p", "2", ranks=ranks, ok=False)
    check_all(to, wanted)


KILLED_WRITER = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=5")
db.execute("BEGIN")
db.executemany("INSERT INTO sets VALUES (?, 0, '{}')", ((f"s{k}",) for k in range(20000)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_had_begun_is_not_read(tmp_path: Path) -> None:
    written = state.State(str(tmp_path))
    written.write(Entry("one", DONE))
    written.close()
    path = tmp_path / state.NAME
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    before = path.read_bytes()
    assert Path(f"{path}-journal").exists()
    assert list(state.read(str(tmp_path))) == ["one"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("begun", ["", "PRAGMA journal_mode=TRUNCATE", "PRAGMA user_version=1"])
def test_a_writer_that_has_only_begun_has_no_sets(begun: str, tmp_path: Path) -> None:
    path = tmp_path / state.NAME
    path.touch()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(begun)
    assert state.read(str(tmp_path)) == {}


def test_a_database_of_somebody_else_is_no_archive(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / state.NAME, isolation_level=None)) as db:
        db.execute("CREATE TABLE others (name TEXT)")
    with pytest.raises(InputError, match="isn't an archive's state: no such table: sets"):
        state.read(str(tmp_path))


@needs_mpi
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_a_rank_killed_in_one_group(tmp_path: Path, hold: Hold, ranks: int) -> None:
    """Whoever dies, nothing is called done that isn't whole, and the same command makes the rest."""
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write_set(raw, random_frames(60, (200, 210), seed=1), name="big", mask=random_mask((200, 210)), per_file=20)
    for k in range(3):
        write_set(raw, random_frames(3, SHAPE, seed=k), name=f"small{k}", mask=random_mask(SHAPE))
    # The big set alone has a second block; one rank alone has a process that makes the sets.
    with background("archive", raw, "--to", to, *WORDS, cwd=tmp_path, ranks=ranks, env=hold(2)) as run:
        pid = wait_for(hold.held, run)[0]
        # Which is written a moment later.
        wait_for(lambda: entries_of(to)["raw/big"].stage == REDUCING, run)
        os.kill(pid, signal.SIGKILL)
        assert run.wait(PATIENCE) != 0
    told = entries_of(to)
    done = [stem for stem, e in told.items() if e.stage == DONE]
    assert all(bnl("check", to / f"{stem}_master.h5", "--data", ok=False).returncode == 0 for stem in done)
    big = told["raw/big"]
    assert (big.stage, "signal 9" in big.reason) == ((FAILED, True) if ranks == 1 else (REDUCING, False))
    bnl("archive", raw, "--to", to, *WORDS, ranks=ranks)
    assert [e.stage for e in entries_of(to).values()] == [DONE] * 4
    bnl_mpi.reduce(str(raw / "big_master.h5"), out_file=str(tmp_path / "big"), bin=2, sum=2, **SAME)
    for name in ("big_000001.h5", "big_000015.h5", "big_master.h5", "big.nxs"):
        assert tree(to / "raw" / name) == tree(tmp_path / name)


def kill_all(run: subprocess.Popen[str], to: Path) -> None:
    """The command and every process that it started, until none is left: one may be about to start another."""
    run.kill()
    run.wait()
    while found := list(at_work(to)):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def at_work(to: Path) -> Iterator[int]:
    """Processes that name the archive's folder, or are in the one above it."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            is_of_it = os.fsencode(to) in (entry / "cmdline").read_bytes() or os.readlink(entry / "cwd") == str(
                to.parent
            )
            if is_of_it and not is_dead and int(entry.name) != os.getpid():
                yield int(entry.name)


def test_a_signal_while_a_process_starts_is_heeded_when_it_can_be() -> None:
    """A terminal's Ctrl-C comes to all of them, and Python's own way with it is a traceback, or a death."""
    code = (
        "import os, signal\n"
        "from bnl_mpi.archive.pool import _Worker\n"
        "if __name__ == '__main__':\n"
        "    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):\n"
        "        worker = _Worker(())\n"
        "        os.kill(worker.process.pid, number)\n"
        "        worker.end()\n"
        "        assert worker.process.exitcode == 0, worker.process.exitcode\n"
        "    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_ends_it_in_step(raw: Path, tmp_path: Path, hold: Hold) -> None:
    to = tmp_path / "out"
    words = ["archive", raw, "--to", to, *WORDS, "-p", "2", "--grace", "600"]
    with background(*words, cwd=tmp_path, env=hold(2)) as run:
        wait_for(hold.held, run)
        run.terminate()
        assert run.wait(PATIENCE) == 75
    assert not [e for e in entries_of(to).values() if e.stage == REDUCING]
    assert not list(to.rglob("*.part*"))


def test_other_options_make_a_set_anew(raw: Path, tmp_path: Path) -> None:
    folder = raw / "eiger2" / "0"
    assert main(["archive", str(folder), "--to", str(tmp_path), "-b", "2", "-c", "bslz4"]) == 0
    first = trees(tmp_path)
    assert main(["archive", str(folder), "--to", str(tmp_path), "-b", "1", "-c", "bslz4"]) == 0
    second = trees(tmp_path)
    assert set(first) == set(second)
    assert first != second
    bnl_mpi.reduce(str(next(folder.glob("*_master.h5"))), out_file=str(tmp_path / "one" / "in"), compression="bslz4")
    (stem,) = entries_of(tmp_path)
    assert tree(tmp_path / f"{stem}_000001.h5") == tree(tmp_path / "one" / "in_000001.h5")


def test_a_raw_set_that_changed_is_made_anew(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write_set(raw, random_frames(4, SHAPE, seed=1), mask=random_mask(SHAPE))
    assert main(["archive", str(raw), "--to", str(tmp_path / "out"), *WORDS]) == 0
    first = trees(tmp_path / "out")
    write_set(raw, random_frames(4, SHAPE, seed=2), mask=random_mask(SHAPE))
    assert main(["archive", str(raw), "--to", str(tmp_path / "out"), *WORDS]) == 0
    assert trees(tmp_path / "out") != first


def test_a_dry_run_projects_sizes_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for k, n in enumerate((6, 12)):
        write_set(raw, random_frames(n, (160, 170), seed=k), name=f"in{k}", mask=random_mask((160, 170)))
    words = ["archive", str(raw), "--to", str(to), "-b", "2", "-c", "bslz4"]
    assert main([*words, "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert not to.exists()
    assert main(words) == 0
    for one in entries_of(to).values():
        row = next(line for line in told.splitlines() if f"  {one.stem}: -b 2" in line)
        (guess,) = re.findall(r"-> (\d+\.?\d*) kB", row)
        # The data file's structure is not in it.
        assert float(guess) * 1000 - 1000 < one.bytes_out < float(guess) * 1000 + 20000
    assert re.search(r"^about \d+ kB of images, and .* on one process$", told, re.MULTILINE)


def test_a_set_that_lost_a_block_is_not_done(tmp_path: Path) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write_set(raw, random_frames(8, SHAPE), mask=random_mask(SHAPE))
    words = ["archive", str(raw), "--to", str(to), *WORDS, "-H", "16", "-q"]
    assert main(words) == 0
    first, times = trees(to), {p: p.stat().st_mtime_ns for p in to.rglob("*.h5")}
    assert main(words) == 0
    assert {p: p.stat().st_mtime_ns for p in to.rglob("*.h5")} == times, "nothing was left to do"
    for lost in ("in_000001.h5", "in_000002.h5", "in_squash_000002.h5"):
        (to / "raw" / lost).unlink()
        assert main(words) == 0
        assert trees(to) == first
    # Of codestreams the data files can be made again: the user may throw them away.
    for path in (to / "raw").glob("in_0*.h5"):
        path.unlink()
    assert main(words) == 0
    assert not (to / "raw" / "in_000002.h5").exists()


def test_a_done_set_stays_done_when_its_raw_files_are_deleted(tmp_path: Path) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    master = write_set(raw, random_frames(4, SHAPE), mask=random_mask(SHAPE))
    (tmp_path / "list").write_text(f"{master}\n")
    for source in (raw, tmp_path / "list"):
        assert main(["archive", str(source), "--to", str(to), *WORDS]) == 0
    before = entries_of(to)
    # The data files go first, then the master.
    for pattern in ("in_data_*.h5", "in_master.h5"):
        for path in raw.glob(pattern):
            path.unlink()
        for source in (raw, tmp_path / "list"):
            assert main(["archive", str(source), "--to", str(to), *WORDS]) == 0
        assert entries_of(to) == before
    # Its output is gone too: no more.
    (to / "raw" / "in_000001.h5").unlink()
    assert main(["archive", str(tmp_path / "list"), "--to", str(to), *WORDS]) == 1
    assert entries_of(to)["raw/in"].stage == FAILED


def test_a_listed_set_that_is_not_there_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_set(tmp_path, random_frames(4, SHAPE), mask=random_mask(SHAPE))
    absent = tmp_path / "absent_master.h5"
    (tmp_path / "list").write_text(f"{absent}\n{made}\n")
    to = tmp_path / "out"
    assert main(["archive", str(tmp_path / "list"), "--root", str(tmp_path), "--to", str(to), *WORDS]) == 1
    assert {stem: entry.stage for stem, entry in entries_of(to).items()} == {"absent": FAILED, "in": DONE}
    assert f"{absent}: no such file" in capsys.readouterr().out


def test_what_is_no_output_of_ours_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out" / "raw"
    raw.mkdir()
    to.mkdir(parents=True)
    write_set(raw, random_frames(4, SHAPE), mask=random_mask(SHAPE))
    stranger = to / "in_master.h5"
    stranger.write_bytes(b"precious")
    for _ in range(2):
        assert main(["archive", str(raw), "--to", str(tmp_path / "out"), *WORDS]) == 1
        assert stranger.read_bytes() == b"precious"
    assert "in_master.h5" in capsys.readouterr().out


def test_tasks_of_an_array_share_the_sets(raw: Path, wanted: dict[str, Any], tmp_path: Path) -> None:
    to = tmp_path / "out"
    for task in range(3):
        bnl("archive", raw, "--to", to, *WORDS, "--task", task, "--tasks", 3, ok=False)
    assert not (to / "archive.db").exists()
    check_all(to, wanted)
    told = json.loads(bnl("archive", "--status", to, "--json").stdout)
    assert told["totals"]["stages"] == {FAILED: BROKEN, DONE: GOOD}
    # Whoever comes as the one writer takes the journals in.
    bnl("archive", raw, "--to", to, *WORDS, ok=False)
    assert (to / "archive.db").exists()
    check_all(to, wanted)


# ---- what is found --------------------------------------------------------------------------------------


def test_lists_folders_and_masters(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walked = sets.find([str(raw)], str(tmp_path))
    assert len(walked.sets) == GOOD + BROKEN
    assert all(one.stem.startswith("raw/") for one in walked.sets)
    paths = [one.master for one in walked.sets]
    (tmp_path / "list").write_text("# a comment\n\n" + "\n".join(paths) + "\n")
    listed = sets.find([str(tmp_path / "list")], str(tmp_path), root=str(raw.parent))
    assert listed.sets == walked.sets
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\0".join(paths).encode())))
    assert sets.find(["-"], str(tmp_path), root=str(raw.parent)).sets == walked.sets
    whole = sets.find([paths[0]], str(tmp_path)).sets[0]
    assert whole.stem == paths[0].lstrip("/").removesuffix("_master.h5")
    # What an archive knows keeps its place; --root, and a folder's walk, say another.
    homes = {one.master: f"home/{one.stem}" for one in walked.sets}
    assert [one.stem for one in sets.find([paths[0]], str(tmp_path), homes=homes).sets] == [homes[paths[0]]]
    assert sets.find([paths[0]], str(tmp_path), str(raw.parent), homes).sets == walked.sets[:1]
    assert sets.find([str(raw)], str(tmp_path), homes=homes).sets == walked.sets


def test_a_path_that_is_no_text_is_told_of_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/raw/caf\xe9")
    os.makedirs(odd)
    master = write_set(tmp_path / "raw", random_frames(4, SHAPE))
    shutil.copy(master, odd)
    assert main(["archive", str(tmp_path / "raw"), "--to", str(tmp_path / "to"), *WORDS]) == 0
    assert "its path isn't UTF-8" in capfd.readouterr().err
    assert [one.stage for one in entries_of(tmp_path / "to").values()] == [DONE]


def test_failed_sets_go_on_in_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    master = make_input(raw, InputSpec(shape=(20, 30), n_frames=4)).master
    data = next(path for path in Path(raw).glob("*.h5") if path.name != Path(master).name)
    data.rename(tmp_path / "data")
    assert main(["archive", str(raw), "--to", str(to), *WORDS]) == 1
    (tmp_path / "data").rename(data)
    failed = "\n".join(status.failed_paths(state.read(str(to))))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(failed.encode())))
    assert main(["archive", "-", "--to", str(to), *WORDS]) == 0
    assert [(stem, one.stage) for stem, one in state.read(str(to)).items()] == [("raw/in", DONE)]


def test_status_takes_no_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name after --json would be one."""
    assert main(["archive", "--status", str(tmp_path), "--json", "told.json"]) == 2
    assert "told.json: --status FOLDER takes nothing else" in capsys.readouterr().err
    assert main(["archive", "--status", str(tmp_path), "--failed", "--deletable"]) == 2
    assert "give one of --failed and --deletable" in capsys.readouterr().err


def test_links_in_circles_are_no_sets(tmp_path: Path) -> None:
    for name in ("in_circle", "in_master.h5", "other"):
        (tmp_path / name).symlink_to(name)
    made = write_set(tmp_path, random_frames(2, SHAPE), name="good")
    found = sets.find([str(tmp_path)], str(tmp_path / "out"))
    assert [one.master for one in found.sets] == [str(made)]
    assert found.skipped == {str(tmp_path / "in_master.h5"): "is a broken link"}
    assert growth_of(str(tmp_path / "in_master.h5")) == "[]"


def test_an_archive_lies_apart_from_the_raw_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert main(["archive", str(tmp_path), "--to", str(tmp_path / "link"), *WORDS]) == 2
    assert "is what to archive; give a folder apart from the raw data" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_one_place_for_each_set(tmp_path: Path) -> None:
    for side in "ab":
        (tmp_path / side / "x").mkdir(parents=True)
        write_set(tmp_path / side / "x", random_frames(2, SHAPE), name="in")
    with pytest.raises(InputError, match="both would be written as x/in"):
        sets.find([str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x")], str(tmp_path / "out"))
    with pytest.raises(UsageError, match="isn't below --root"):
        sets.find([str(tmp_path / "a" / "x" / "in_master.h5")], str(tmp_path / "out"), root=str(tmp_path / "b"))
    with pytest.raises(InputError, match="can't be read"):
        sets.find([str(tmp_path / "absent")], str(tmp_path / "out"))


def test_its_own_output_is_not_walked(raw: Path, tmp_path: Path) -> None:
    copy = tmp_path / "raw"
    shutil.copytree(raw / "eiger2", copy / "eiger2")
    assert main(["archive", str(copy), "--to", str(copy / "small"), *WORDS]) == 0
    assert len(sets.find([str(copy)], str(copy / "small")).sets) == 5
    assert main(["archive", str(copy), "--to", str(tmp_path / "other"), *WORDS]) == 1
    failed = [e for e in entries_of(tmp_path / "other").values() if e.stage == FAILED]
    assert all("made by this program" in e.reason for e in failed)


def test_facts(raw: Path, tmp_path: Path) -> None:
    told = read_facts(next(str(p) for p in (raw / "eiger2" / "2").glob("*_master.h5")))
    assert (told.frames, told.ny, told.nx, told.scan) == (8, *SHAPE, "rotation")
    assert told.width == pytest.approx(0.5)
    assert told.bytes == sum(os.stat(p).st_size for p in told.files)
    grid = write_set(tmp_path, random_frames(4, SHAPE), name="grid", osc=0.0, ntrigger=4)
    assert read_facts(str(grid)).scan == "grid"
    still = write_set(tmp_path, random_frames(4, SHAPE), name="still", osc=0.0)
    assert read_facts(str(still)).scan == "still"
    for name, places, scan in (("sam_x", [1, 1, 1, 1], "still"), ("sam_y", [0, 1, 0, 1], "grid")):
        with h5py.File(still, "r+") as file:
            file[f"/entry/sample/transformations/{name}"] = np.array(places, float)
        assert read_facts(str(still)).scan == scan


# ---- rules ----------------------------------------------------------------------------------------------

RULES = """
[[rule]]
name = "grids"
scan = "grid"
options = "-b 2"

[[rule]]
name = "processed"
reflections = true
frames = ">= 100"
width = "0.05 - 0.2"
options = "-b 2 -s 2 --keep {reflections} -c htj2k"

[[rule]]
name = "tests"
path = "*/test/*"
skip = "test shots"
"""


def facts_of(**changes: Any) -> Facts:
    return replace(Facts(frames=200, ny=10, nx=10, width=0.1, scan="rotation", bytes=5, stamp=""), **changes)


def test_the_first_rule_that_fits_decides(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    told = rules.read_rules(str(path))
    one, default = sets.DataSet("/a/test/x_master.h5", "x"), ["-b", "3"]
    assert rules.choose(told, default, one, facts_of(scan="grid"), None).rule == "grids"
    chosen = rules.choose(told, default, one, facts_of(), "/a/b c.refl")
    assert chosen.words == ("-b", "2", "-s", "2", "--keep", "/a/b c.refl", "-c", "htj2k")
    assert rules.choose(told, default, one, facts_of(), None).skip == "test shots"
    other = sets.DataSet("/a/x_master.h5", "x")
    assert rules.choose(told, default, other, facts_of(width=0.3), "/r").words == ("-b", "3")
    assert [one.name for one in rules.without_effect(told, ["grids", "", "tests"])] == ["processed"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[rule]]\noptions = '-b 2'\nscan = 'helical'", "scan = 'helical'"),
        ("[[rule]]\noptions = '-b 2'\nframes = 'many'", "frames = 'many'"),
        ("[[rule]]\nname = 'x'\nframes = 3", "'x': has no effect"),
        ("[[rule]]\noptions = '-b 2'\nskip = 'y'", "has no effect"),
        ("[[rule]]\noptions = '-b 2'\ncolour = 3", "'colour' is unknown"),
        ("[[rule]]\noptions = '-b 2'\nreflections = 3", "true or false"),
        ("[[rule]]\nname = 'x'\nskip = 'y'\n[[rule]]\nname = 'x'\nskip = 'z'", "two rules are named 'x'"),
        ("rule = 3", "tables"),
        ("[[rule", "no TOML"),
    ],
)
def test_wrong_rules_are_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        rules.read_rules(str(path))


@pytest.mark.parametrize("options", ["-b 0", "-b 'two", "--colour 3", "-o x", "-p 4", "--force"])
def test_wrong_options_of_a_rule_stop_before_the_work(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(f'[[rule]]\nname = "x"\noptions = "{options}"\n')
    write_set(tmp_path, random_frames(2, SHAPE))
    assert main(["archive", str(tmp_path), "--to", str(tmp_path / "o"), "--rules", str(tmp_path / "r.toml")]) == 2
    assert capsys.readouterr().err.startswith(f"bnl-mpi: {tmp_path / 'r.toml'}: 'x': ")
    assert not (tmp_path / "o").exists()


def test_a_width_is_what_the_table_says(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[[rule]]\nname = 'x'\nwidth = 0.1\noptions = ''\n")
    told = rules.read_rules(str(tmp_path / "r.toml"))
    one = sets.DataSet("/x_master.h5", "x")
    assert rules.choose(told, [], one, facts_of(width=float(np.float32(0.1))), None).rule == "x"
    assert rules.choose(told, [], one, facts_of(width=0.1001), None).rule == ""


def test_a_rule_without_effect_stops_before_the_work(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text("[[rule]]\nname = 'huge'\nframes = '> 100000'\noptions = '-b 4'\n")
    words = ["archive", str(raw), "--to", str(tmp_path / "out"), "--rules", str(tmp_path / "r.toml")]
    assert main(words) == 2
    assert "'huge' has no effect" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rules_by_what_the_sets_are(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text(
        "[[rule]]\nname = 'grids'\nscan = 'grid'\noptions = '-b 1 -c bslz4'\n"
        "[[rule]]\nname = 'odd'\npath = '*/with space/*'\nskip = 'not wanted'\n"
    )
    words = ["archive", str(raw), "--to", str(tmp_path / "out"), "--rules", str(tmp_path / "r.toml"), *WORDS]
    main([*words, "--dry_run"])
    told = capsys.readouterr().out
    assert "grid" in told
    assert "-b 1 -c bslz4" in told
    assert "is the same set as" in told
    assert not (tmp_path / "out").exists()
    assert main([*words, "-p", "2"]) == 1
    for stem, entry in entries_of(tmp_path / "out").items():
        if entry.rule == "grids":
            assert entry.words == ("-b", "1", "-c", "bslz4")
        assert (entry.stage == SKIPPED) == ("with space" in stem and entry.rule != "grids")


def test_reflections_are_found_beside_the_master(tmp_path: Path) -> None:
    (tmp_path / "process" / "a").mkdir(parents=True)
    one = sets.DataSet(str(tmp_path / "x[1]_master.h5"), "y/x[1]")
    assert rules.find_reflections(one, "process/*/{name}.refl") is None
    (tmp_path / "process" / "a" / "x[1].refl").write_text("")
    assert rules.find_reflections(one, "process/*/{name}.refl") == str(tmp_path / "process" / "a" / "x[1].refl")


# ---- parts ----------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 100), st.booleans()), max_size=40),
    n_ranks=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_dealing(sizes: list[tuple[int, int, bool]], n_ranks: int, seed: int) -> None:
    """Each set once, never to more ranks than are idle, and nobody idles for ever."""
    weighed = [Weighed(str(k), *one) for k, one in enumerate(sizes)]
    dealer, dice = Dealer(weighed, n_ranks), random.Random(seed)
    idle, busy, done = n_ranks, list[int](), list[str]()
    while len(done) < len(sizes):
        dealt = dealer.deal(idle)
        if dealt is None:
            assert busy
            idle += busy.pop(dice.randrange(len(busy)))
            continue
        one, size = dealt
        assert 1 <= size <= idle
        assert size == 1 or LEAST_CREW <= size <= one.blocks + 1
        done.append(one.stem)
        idle -= size
        busy.append(size)
    assert sorted(done) == sorted(one.stem for one in weighed)
    assert dealer.deal(n_ranks) is None


def test_the_largest_first_and_suspects_last() -> None:
    dealer = Dealer([Weighed("a", 1), Weighed("b", 9), Weighed("c", 99, suspect=True)], 1)
    assert [dealer.deal(1)[0].stem for _ in range(3)] == ["b", "a", "c"]  # type: ignore[index]


def test_the_state_survives_half_a_line(tmp_path: Path) -> None:
    entry = Entry("a/b", "/raw/b_master.h5", words=("-b", "2"), files=("/raw/b_master.h5",))
    journal = state.Journal(str(tmp_path), 3)
    journal.write(entry.now(REDUCING))
    journal.close()
    with open(journal.path, "ab") as file:
        file.write(b'{"stem": "a/b", "stage": "do')
    journal = state.Journal(str(tmp_path), 3)
    journal.write(entry.now(DONE, bytes_out=7))
    journal.close()
    assert state.read(str(tmp_path))["a/b"].bytes_out == 7
    store = state.State(str(tmp_path))
    assert store.entries()["a/b"].stage == DONE
    store.write(entry.now(NEW))
    store.close()
    assert state.read(str(tmp_path))["a/b"].stage == NEW
    with pytest.raises(InputError, match="holds no archive"):
        state.read(str(tmp_path / "state"))


def test_a_write_that_fails_is_taken_back(tmp_path: Path) -> None:
    store = state.State(str(tmp_path))
    store._db.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON sets WHEN NEW.stem = 'bad' BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    with pytest.raises(OutputError, match="can't be written: full"):
        store.write(Entry("good", "/raw/good_master.h5"), Entry("bad", "/raw/bad_master.h5"))
    assert store.entries() == {}
    store.write(Entry("next", "/raw/next_master.h5"))
    assert list(store.entries()) == ["next"]
    store.close()


def test_words_are_told_apart() -> None:
    mine, job = split_words(["raw", "-b", "2", "--to", "x", "-u", "-2", "--verify", "-c", "bslz4", "list", "-p", "3"])
    assert mine == ["raw", "--to", "x", "--verify", "list"]
    assert job == ["-b", "2", "-u-2", "-c", "bslz4", "-p", "3"]


@pytest.mark.parametrize(
    "words",
    [
        *(["-o", "x"], ["-i", "x"], ["-t", "1"], ["-q", "sq"], ["--task", "3"], ["--tasks", "3"], ["-b", "x"]),
        *(["--failed"], ["--deletable"], ["--csv"], ["--html", "x"], ["--all"]),
    ],
)
def test_options_without_a_place_here(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", str(tmp_path), "--to", str(tmp_path / "o"), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_status_tells_and_groups(tmp_path: Path) -> None:
    store = state.State(str(tmp_path))
    for k in range(3):
        bad = Entry(f"bad{k}", f"/raw/bad{k}_master.h5")
        store.write(bad.now(FAILED, f"/raw/bad{k}_data_000001.h5: chunk {k} is corrupt"))
    store.write(Entry("x", "/raw/x_master.h5").now(FAILED, "/raw/x_master.h5: not an HDF5 file"))
    good = Entry("<good>", "/raw/good_master.h5", frames=5, bytes_in=2_000_000, files=("/raw/good_master.h5",))
    store.write(good.now(DONE, bytes_out=40_000, seconds=2.0, verified=True))
    store.close()
    told = state.read(str(tmp_path))
    text = "\n".join(status.lines(told))
    assert "3 failed: /raw/bad0_data_000001.h5: chunk 0 is corrupt" in text
    assert "2 MB -> 40 kB, 50.0:1" in text
    assert status.as_csv(told).splitlines()[0].startswith("stem,stage,rule")
    assert len(status.as_csv(told).splitlines()) == 6
    page = status.as_html(told, "t")
    assert "&lt;good&gt;" in page
    assert "<good>" not in page
    assert "http" not in page
    assert "<li>1: MASTER: not an HDF5 file</li>" in page
    assert "<td class='reason'>not an HDF5 file</td>" in page
    assert [len(failed) for _, failed in status.reasons(told)] == [3, 1]
    # The raw files of a verified set are gone or have changed: they are nobody's to delete.
    assert status.deletable(told, str(tmp_path))[0] == []


def test_the_page_has_a_picture_of_each_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, to, page = tmp_path / "raw", tmp_path / "out", tmp_path / "page.html"
    raw.mkdir()
    mask = np.zeros(SHAPE, np.uint32)
    mask[:, 20:24] = 1
    for k in range(3):
        write_set(raw, random_frames(4, SHAPE, seed=k), name=f"set{k}", mask=mask)
    bnl("archive", raw, "--to", to, *WORDS)
    (to / "raw" / "set2_000001.h5").write_bytes(b"lost since")

    def shown() -> dict[str, bytes]:
        assert main(["archive", "--status", str(to), "--html", str(page)]) == 0
        urls = re.findall(r"src='data:image/png;base64,([^']*)' alt='first image of ([^']*)'", page.read_text())
        return {stem: base64.b64decode(url) for url, stem in urls}

    found = shown()
    assert set(found) == {"raw/set0", "raw/set1"}
    assert "are pictured" not in page.read_text()
    with h5py.File(to / "raw" / "set1_000001.h5") as file:
        image = file["/entry/data/data"][0]
    pixels = np.asarray(PIL.Image.open(io.BytesIO(found["raw/set1"])))
    assert pixels.shape == image.shape == (20, 25)
    np.testing.assert_array_equal(pixels == thumbnails.LEVELS, image == 65535)
    assert (image == 65535).sum() >= 40
    monkeypatch.setattr(thumbnails, "MOST", 1)
    assert set(shown()) == {"raw/set0"}
    assert "The first 1 sets are pictured; 2 more are not." in page.read_text()


@given(
    arrays(st.sampled_from(["u1", "u2", "u4", "i2", "i4", "f4"]), st.tuples(*[st.integers(1, 90)] * 2), fill=st.just(7))
)
@example(np.array([[np.inf, 1, -np.inf, np.nan]], "f4"))
def test_every_image_has_a_small_picture(image: np.ndarray[Any, Any]) -> None:
    shape = np.asarray(PIL.Image.open(io.BytesIO(thumbnails.picture(image)))).shape
    step = -(-max(image.shape) // thumbnails.WIDEST)
    assert shape == tuple(-(-n // step) for n in image.shape)


def test_a_picture_of_noise_is_small() -> None:
    image = np.random.default_rng(1).poisson(0.8, (1100, 1030)).astype("<u2")
    assert len(thumbnails.picture(image)) < 3000


def test_durations_and_sizes() -> None:
    assert [status.duration(s) for s in (5, 300, 7800, 300000)] == ["5 s", "5 min", "2 h 10 min", "3 d 11 h"]
    assert [status.size(n) for n in (5, 1500, 2.5e9, 4e15)] == ["5 B", "1.5 kB", "2.5 GB", "4e+03 TB"]


# ---- while data are collected ---------------------------------------------------------------------------


class Clock:
    """Lets `follow` look as often as there are steps, which change the folder in between."""

    def __init__(self, request: Any, *steps: Any) -> None:
        self._request, self._steps = request, list(steps)

    def __call__(self, seconds: float) -> None:
        if not self._steps:
            self._request.name = "SIGTERM"
        else:
            self._steps.pop(0)()


def follow_with(raw: Path, to: Path, *steps: Any, words: tuple[str, ...] = (), idle_minutes: float = 60.0) -> int:
    from bnl_mpi.archive import follow, pool, session
    from bnl_mpi.run.signals import StopRequest

    request, hands = StopRequest(), pool.Pool(1)
    wish = session.Wish((str(raw),), str(to), (*WORDS, *words))
    try:
        return follow.follow(
            wish,
            hands,
            request,
            idle_minutes=idle_minutes,
            stop_minutes=None,
            settle=0.0,
            nap=Clock(request, *steps),
        )
    finally:
        hands.end()


def test_sets_are_taken_up_when_they_are_complete(tmp_path: Path) -> None:
    raw, to, aside = tmp_path / "raw", tmp_path / "out", tmp_path / "aside"
    raw.mkdir()
    aside.mkdir()
    write_set(raw, random_frames(6, SHAPE), name="first", mask=random_mask(SHAPE))
    write_set(aside, random_frames(6, SHAPE), name="later", mask=random_mask(SHAPE))
    seen: list[set[str]] = []

    def move(pattern: str) -> None:
        for path in sorted(aside.glob(pattern)):
            shutil.move(path, raw)

    def look() -> None:
        seen.append({e.stem for e in entries_of(to).values() if e.stage == DONE})

    def master() -> None:
        look()
        move("later_master.h5")

    def half() -> None:
        look()
        move("later_data_000001.h5")

    def rest() -> None:
        look()
        move("later_data_000002.h5")

    assert follow_with(raw, to, master, half, rest, look, look) == 0
    assert seen == [{"raw/first"}] * 3 + [{"raw/first", "raw/later"}] * 2


def test_an_aborted_collection_fails_after_the_idle_time(tmp_path: Path) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write_set(raw, random_frames(6, SHAPE), name="aborted", mask=random_mask(SHAPE))
    (raw / "aborted_data_000002.h5").unlink()
    assert follow_with(raw, to, idle_minutes=0.0) == 1
    (entry,) = entries_of(to).values()
    assert entry.stage == FAILED
    assert "incomplete for" in entry.reason
    assert "aborted_data_000002.h5" in entry.reason


@pytest.mark.parametrize("words", [("-b", "2", "--salvage"), ("-b", "2")])
def test_it_is_salvaged_by_its_own_options(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Which may be a rule's."""
    master = str(write_set(tmp_path, random_frames(6, SHAPE), mask=random_mask(SHAPE), per_file=4))
    (tmp_path / "in_data_000002.h5").unlink()
    watch = Watch(changed={"in": time.monotonic() - 100}, stamps={"in": growth_of(master)})
    plan = Plan(entries={"in": Entry("in", master, words=words)}, to_do=["in"])
    keep_ready(plan, {}, watch, 10, 0)
    assert plan.to_do == (["in"] if "--salvage" in words else [])
    assert plan.entries["in"].stage == (NEW if "--salvage" in words else FAILED)


def test_an_aborted_collection_is_salvaged_after_the_idle_time(tmp_path: Path) -> None:
    """With --salvage, as far as it goes and not before: what the same option makes of it alone."""
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write_set(raw, random_frames(6, SHAPE), name="whole", mask=random_mask(SHAPE), per_file=4)
    master = write_set(raw, random_frames(6, SHAPE, seed=1), name="aborted", mask=random_mask(SHAPE), per_file=4)
    (raw / "aborted_data_000002.h5").unlink()
    seen: list[dict[str, str]] = []

    def look() -> None:
        seen.append({e.stem: e.stage for e in entries_of(to).values()})
        time.sleep(0.3)

    words = ("--salvage",)
    assert follow_with(raw, to, look, words=words) == 0
    assert follow_with(raw, to, look, look, look, words=words, idle_minutes=0.001) == 0
    assert seen[0] == {"raw/whole": DONE}
    assert seen[-1] == {"raw/whole": DONE, "raw/aborted": DONE}
    entry = entries_of(to)["raw/aborted"]
    assert (entry.frames, entry.images) == (4, 2)
    bnl_mpi.reduce(str(master), out_file=str(tmp_path / "aborted"), bin=2, sum=2, salvage=True, **SAME)
    bnl("archive", raw, "--to", tmp_path / "at once", *WORDS, "--salvage")
    for name in ("aborted_000001.h5", "aborted_master.h5", "aborted.nxs"):
        assert tree(to / "raw" / name) == tree(tmp_path / name) == tree(tmp_path / "at once" / "raw" / name)


# ---- to the deletion ------------------------------------------------------------------------------------


def test_raw_files_of_verified_sets_may_go(tmp_path: Path) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for k in range(3):
        write_set(raw, random_frames(4, SHAPE, seed=k), name=f"set{k}", mask=random_mask(SHAPE))
    bnl("archive", raw, "--to", to, *WORDS)
    assert bnl("archive", "--status", to, "--deletable").stdout == ""
    bnl("archive", raw, "--to", to, *WORDS, "--verify", "-p", "2")
    assert all(e.verified for e in entries_of(to).values())
    told = set(bnl("archive", "--status", to, "--deletable", "-0").stdout.split("\0")[:-1])
    assert told == {str(p) for p in raw.glob("*_master.h5")} | {str(p) for p in raw.glob("*_data_*.h5")}
    # What another set is of too stays until that is verified; then it is told once.
    shutil.copy(raw / "set0_master.h5", raw / "copy_master.h5")
    bnl("archive", raw, "--to", to, *WORDS)
    more = bnl("archive", "--status", to, "--deletable").stdout.splitlines()
    assert set(more) == told - {str(raw / "set0_data_000001.h5")}
    bnl("archive", raw, "--to", to, *WORDS, "--verify")
    more = bnl("archive", "--status", to, "--deletable").stdout.splitlines()
    assert sorted(more) == sorted({*told, str(raw / "copy_master.h5")})
    (raw / "copy_master.h5").unlink()
    spoil_chunk(raw / "set1_data_000001.h5")
    done = bnl("archive", "--status", to, "--deletable")
    told = set(done.stdout.splitlines())
    assert done.stderr.startswith("bnl-mpi: raw/set1: none of its raw files: ")
    assert "has changed since" in done.stderr
    assert {Path(p).name for p in told} == {f"set{k}_{x}.h5" for k in (0, 2) for x in ("master", "data_000001")}


def test_cbf_series_are_sets_too(tmp_path: Path) -> None:
    raw, to = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    for k, name in enumerate("ab"):
        write_series(raw, counts(4, (40, 50), seed=k), stem=f"{name}_1_")
    assert [one.stem for one in sets.find([str(raw)], str(to)).sets] == ["raw/a_1", "raw/b_1"]
    bnl("archive", raw, "--to", to, "-b", "2", "-c", "bslz4", "--verify")
    told = set(bnl("archive", "--status", to, "--deletable").stdout.splitlines())
    assert told == {str(p) for p in raw.glob("*.cbf")}


class _Eyes:
    """Hands that look at masters: each answers in its own time, or dies of it."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._free, self._rng = n, rng
        self._given: list[list[str]] = []

    def give(self, masters: Any) -> bool:
        if not self._free or self._rng.random() < 0.2:
            return False
        self._free -= 1
        self._given.append(list(masters))
        return True

    def hear(self) -> dict[str, Any]:
        seen = self._given.pop(int(self._rng.integers(len(self._given))))
        if self._rng.random() < 0.2:
            return dict.fromkeys(seen)
        self._free += 1
        return {master: f"facts of {master}" for master in seen}


@given(st.integers(0, 200), st.integers(0, 5), st.integers(0, 10**6))
def test_facts_come_in_turn_whoever_reads_them(n_masters: int, n_eyes: int, seed: int) -> None:
    masters = [f"{k}_master.h5" for k in range(n_masters)]
    seen = list(in_turn(masters, _Eyes(n_eyes, np.random.default_rng(seed))))
    assert len(seen) == n_masters
    # Cast: what stands for facts here is a text.
    assert all(
        found in (None, f"facts of {master}") for master, found in zip(masters, cast(list[Any], seen), strict=True)
    )
    assert not masters or seen[0] is None  # nobody waits for the first


def test_processes_look_and_may_die_of_it(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnl_mpi.archive import looking, pool

    monkeypatch.setattr(looking, "AT_ONCE", 2)
    masters = [one.master for one in sets.find([str(raw)], str(tmp_path)).sets]
    hands = pool.Pool(2)
    hands.expect(2)
    try:
        first, second = hands._workers
        wait_for(lambda: first.is_ready() and second.is_ready(), None)
        seen = list(hands.look(masters))
        assert sum(found is not None for found in seen) > len(masters) // 2
        second.process.kill()
        second.process.join()
        others = list(hands.look(masters))
        assert hands._workers == [first]
    finally:
        hands.end()
    for master, *those in zip(masters, seen, others, strict=True):
        if any(those):
            assert {*those, read_facts(master)} - {None} == {read_facts(master)}


class _Comm:
    """Of rank 0 and two others, of which one is ready late."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int, int]] = []
        self.waiting: dict[int, list[Any]] = {}
        self._asked = 0

    def Get_size(self) -> int:
        return 3

    def iprobe(self, tag: int) -> bool:
        from bnl_mpi.archive import crews

        self._asked += 1
        if self._asked == 1:
            self.waiting[crews.READY] = [1]
        if self._asked == 5:
            self.waiting[crews.READY].append(2)
        return bool(self.waiting.get(tag))

    def recv(self, tag: int) -> Any:
        return self.waiting[tag].pop(0)

    def send(self, thing: Any, dest: int, tag: int) -> None:
        from bnl_mpi.archive import crews

        self.sent.append((thing, dest, tag))
        if thing is None:
            assert self._asked >= 5
            assert not any(self.waiting.values())
        else:
            self.waiting.setdefault(crews.SEEN, []).append((dest, dict.fromkeys(thing)))


@pytest.mark.parametrize("n_masters", [0, 9])
def test_ranks_go_when_all_that_they_sent_is_received(n_masters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nobody asked for it: MPICH now and then kills ranks whose messages nobody took."""
    from bnl_mpi.archive import crews, looking

    monkeypatch.setattr(looking, "AT_ONCE", 2)
    comm = _Comm()
    hands = crews.Crews(comm)
    seen = hands.look([f"{k}_master.h5" for k in range(n_masters)])
    assert next(seen, None) is None  # and the rest is never asked for
    hands.end()
    assert [(dest, tag) for thing, dest, tag in comm.sent if thing is None] == [(1, crews.DEAL), (2, crews.DEAL)]
    assert len(comm.sent) == 2 + (n_masters > 0)


class _Stand:
    """In a process's place."""

    work: Any = None

    def __init__(self, words: Any) -> None: ...

    def end(self) -> None: ...


def test_processes_start_as_sets_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnl_mpi.archive import pool

    monkeypatch.setattr(pool, "_Worker", _Stand)
    hands = pool.Pool(3)
    for n_sets, n_processes in ((0, 0), (1, 1), (1, 1), (2, 2), (9, 3)):
        hands.expect(n_sets)
        assert len(hands._workers) == n_processes


def test_a_process_that_died_before_its_first_set_is_replaced(tmp_path: Path) -> None:
    from bnl_mpi.archive import pool
    from bnl_mpi.archive.stages import Work
    from bnl_mpi.run.signals import StopRequest

    hands, told = pool.Pool(1), list[Entry]()
    hands.expect(1)
    (dead,) = hands._workers
    dead.process.kill()
    dead.process.join()
    work = Work(Entry("a", str(tmp_path / "a_master.h5")), str(tmp_path), verify=False)
    dead.give(work)  # no error: its end shows when it is listened to
    dead.work = None
    try:
        dealer = Dealer([Weighed("a", 1)], 1)
        hands.run(dealer, lambda stem: work, StopRequest(), lambda *entries: told.extend(entries))
    finally:
        hands.end()
    assert told[-1].stage == FAILED
    assert "a_master.h5" in told[-1].reason
    assert dead not in hands._workers


def test_what_cannot_be_remembered_ends_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnl_mpi.archive import session

    keeper = Keeper(session.Wish((), str(tmp_path / "out"), ()), session.Plan())

    def write(*entries: Entry) -> None:
        raise OutputError("archive.db: can't be written: no room")

    monkeypatch.setattr(keeper._store, "write", write)
    keeper.tell(Entry("a", "a_master.h5", DONE))
    with pytest.raises(OutputError, match="no room"):
        keeper.close()
    with pytest.raises(OutputError, match="no room"):
        keeper.tell()


def test_what_is_told_is_remembered_and_said_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bnl_mpi.archive import session

    keeper = Keeper(session.Wish((), str(tmp_path), ()), session.Plan())
    for k in range(5):
        keeper.tell(Entry(f"s{k}", "", REDUCING).now(REDUCING), Entry(f"s{k}", "").now(FAILED, "why"))
    keeper.close()
    assert {e.stem: e.stage for e in entries_of(tmp_path).values()} == {f"s{k}": FAILED for k in range(5)}
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2:4] for line in said] == [["failed", f"s{k}:"] for k in range(5)]
