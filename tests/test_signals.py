"""Signals end a run in step: status 75, whole blocks only, and one line that says how to go on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from running import PATIENCE, Hold, background, bnl, needs_mpi, outputs, python_of, wait_for, with_option
from small_sets import random_frames, write_set

from bnl_mpi.options import Options
from bnl_mpi.run import signals
from bnl_mpi.run.log import RunLog
from bnl_mpi.run.signals import StopRequest
from bnl_mpi.run.state import Process
from bnl_mpi.run.task import BlockReport
from bnl_mpi.run.work import Guide
from bnl_mpi.run.world import World
from bnl_mpi.tasks.reduction import REDUCTION

SHAPE = (160, 170)
N_FRAMES = 300
ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A job that has time for every block in hand."""
    folder = tmp_path_factory.mktemp("in")
    master = write_set(folder, random_frames(N_FRAMES, SHAPE), per_file=100)
    return ["-i", str(master), "-J", "20", "-c", "bslz4", "--grace", "600", "-o", "set"]


def pid_of(partial: Path) -> int:
    """The process that writes the temporary file."""
    return int(partial.name.split("-")[-1].split(".")[0])


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("set"))


@pytest.mark.parametrize("number", ALL)
def test_no_new_block_and_the_one_in_hand_is_finished(
    tmp_path: Path, words: list[str], hold: Hold, number: signal.Signals
) -> None:
    with background(*words, "-d", "60", cwd=tmp_path, env=hold(1)) as run:
        wait_for(hold.held, run)
        run.send_signal(number)
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75
    assert left(tmp_path) == ["set_000001.h5"]
    lines = [line for line in told.splitlines() if "stopped" in line]
    assert lines == [
        f"bnl-mpi: stopped by {number.name}: 1 of 5 blocks are complete; the same command with --resume goes on"
    ]


def test_without_grace_the_block_in_hand_is_dropped(tmp_path: Path, words: list[str], hold: Hold) -> None:
    words = with_option(words, "--grace", "0")
    with background(*words, "-d", "60", cwd=tmp_path, env=hold(1)) as run:
        wait_for(hold.held, run)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75
    assert "0 of 5 blocks" in told
    assert not left(tmp_path)


def test_a_second_sigterm_stops_at_once(tmp_path: Path, words: list[str], hold: Hold) -> None:
    with background(*words, "-d", "1000", cwd=tmp_path, env=hold(1, "release")) as run:
        wait_for(hold.held, run)
        run.send_signal(signal.SIGTERM)
        wait_for(hold.told, run)
        time.sleep(1.5 * signals.ECHO_SECONDS)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75
    assert "second signal" in told
    assert not left(tmp_path)


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("whom", ["launcher", "rank 0", "worker"])
def test_a_signal_to_any_rank_stops_all(tmp_path: Path, words: list[str], hold: Hold, whom: str) -> None:
    with background(*words, "-d", "10", "--log_json", "log", cwd=tmp_path, ranks=3, env=hold(3)) as run:
        # Block 3 belongs to rank 1 and block 4 to rank 2, so both are at work.
        partial = wait_for(lambda: next(tmp_path.glob("set_00000[34]*.partial"), None), run)
        start = json.loads((tmp_path / "log").read_text().splitlines()[0])
        pid = {"launcher": run.pid, "rank 0": start["pid"], "worker": pid_of(partial)}[whom]
        os.kill(pid, signal.SIGUSR1)
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75
    whole = left(tmp_path)
    assert f"stopped by SIGUSR1: {len(whole)} of 30 blocks are complete" in told
    assert all(name.endswith(".h5") for name in whole)
    assert "set_master.h5" not in whole
    bnl(*words, "-d", "10", "--resume", cwd=tmp_path, ranks=2)
    one = tmp_path / "one"
    one.mkdir()
    bnl(*words, "-d", "10", cwd=one)
    assert outputs(tmp_path, "set") == outputs(one, "set")
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [e["status"] for e in events if e["event"] == "stop"] == [75]


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_minus_p_reaches_the_ranks(
    tmp_path: Path, words: list[str], hold: Hold, mpi: str, number: signal.Signals
) -> None:
    # Open MPI's own mpiexec would kill them instead.
    with background(*words, "-d", "10", "-p", "2", cwd=tmp_path, python=python_of(mpi), env=hold(3)) as run:
        wait_for(hold.held, run)
        run.send_signal(number)
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75
    whole = left(tmp_path)
    assert f"{len(whole)} of 30 blocks are complete" in told
    assert all(name.endswith(".h5") for name in whole)
    assert not list(tmp_path.glob("*.lock"))


def test_a_share_stops_too(tmp_path: Path, words: list[str], hold: Hold) -> None:
    words = [*words, "-d", "20", "-p", "2", "-t", "1"]
    with background(*words, cwd=tmp_path, env=hold(1)) as run:
        wait_for(hold.held, run)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75
    assert "share 1 of 2 stopped by SIGTERM: 1 of its 8 blocks are complete" in told
    assert left(tmp_path) == ["set_000001.h5"]
    bnl(*words, "--resume", cwd=tmp_path)
    assert left(tmp_path) == [f"set_{k:06d}.h5" for k in range(1, 16, 2)]


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
def test_no_block_is_begun_that_cannot_end_in_time(tmp_path: Path, words: list[str], ranks: int | None) -> None:
    env = {"SLURM_JOB_END_TIME": str(int(time.time()) + 2)}
    done = bnl(*words, "-d", "100", cwd=tmp_path, ranks=ranks, env=env, ok=False)
    assert done.returncode == 75
    assert "before the batch job's time ends: 0 of 3 blocks" in done.stderr
    assert not left(tmp_path)
    env = {"SLURM_JOB_END_TIME": str(int(time.time()) + 3600)}
    bnl(*words, "-d", "100", "-N", "20", cwd=tmp_path, ranks=ranks, env=env)
    assert "set_master.h5" in left(tmp_path)


def test_the_time_of_a_block_is_judged_by_those_before() -> None:
    run = Process(REDUCTION, Options(infile="x"), World(), StopRequest(), RunLog(None))
    guide = Guide(run, time.time() + 3600)
    assert guide.may_begin(100)
    guide.made(BlockReport(1, n_images=100, n_frames=100, seconds=3000.0))
    assert guide.may_begin(100)
    guide.made(BlockReport(2, n_images=100, n_frames=100, seconds=3700.0))
    assert not guide.may_begin(100)
    assert guide.stopping


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("5:00", 300), ("1:00:00", 3600), ("2-01:00:00", 176400), ("UNLIMITED", None), ("INVALID", None)],
)
def test_slurms_way_to_write_times(text: str, seconds: float | None) -> None:
    assert signals._seconds(text) == seconds


def test_the_end_is_asked_of_slurm_where_the_environment_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "QUERY_SECONDS", PATIENCE)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert signals.job_end_time() is None
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\n[ "$3" = 12 ] && echo 1:00:00\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    end = signals.job_end_time()
    assert end is not None
    assert abs(end - time.time() - 3600) < PATIENCE
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert signals.job_end_time() is None
