"""The same output for every number of ranks and every way of starting."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import (
    MAIN,
    PATIENCE,
    Hold,
    background,
    bnl,
    needs_mpi,
    outputs,
    python_of,
    ranks_of,
    wait_for,
    with_option,
)
from small_sets import random_frames, random_mask, write_set

from bnl_mpi import job
from bnl_mpi.errors import BnlError
from bnl_mpi.options import Options
from bnl_mpi.run import watch, work
from bnl_mpi.tasks.reduction import REDUCTION, Pipeline

pytestmark = [pytest.mark.mpi, needs_mpi]

SETTINGS = {
    "hcompress": ["-H", "16", "-c", "bslz4", "-q"],
    "j2k": ["-J", "10", "-c", "zstd"],
    "lossless": ["-c", "bszstd", "-u", "4", "--saturation", "scaled"],
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """(words of the job, its output by one process)."""
    folder = tmp_path_factory.mktemp("in")
    shape = (70, 83)
    master = write_set(folder, random_frames(23, shape), mask=random_mask(shape), per_file=6)
    words = ["-i", str(master), "-b", "2", "-s", "2", "-1", "2", "-d", "3", *SETTINGS[request.param]]
    one = tmp_path_factory.mktemp("one")
    bnl(*words, "-o", "set", cwd=one)
    return words, outputs(one, "set")


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_any_number_of_ranks(reference, ranks: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, expected = reference
    bnl(*words, "-o", "set", ranks=ranks, cwd=tmp_path)
    found = outputs(tmp_path, "set")
    assert found.keys() == expected.keys()
    assert found == expected


def test_minus_p_starts_workers(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, expected = reference
    done = bnl(*words, "-o", "set", "-p", "2", "--json", "run.json", cwd=tmp_path)
    assert outputs(tmp_path, "set") == expected
    assert "2 workers" in done.stderr
    summary = json.loads((tmp_path / "run.json").read_text())
    assert (summary["workers"], summary["frames"], summary["images"]) == (2, 22, 11)
    assert {r["rank"] for r in summary["ranks"]} == {1, 2}


def test_shares_in_any_order(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, expected = reference
    shares = list(range(7))
    random.Random(len(expected)).shuffle(shares)
    for before, share in enumerate(shares):
        done = bnl(*words, "-o", "set", "-p", "6", "-t", share, cwd=tmp_path, ok=share != 0)
        if share > 4:
            assert "no block" in done.stdout
        if share == 0:
            complete = set(shares[:before]) >= {1, 2, 3, 4}
            assert done.returncode == (0 if complete else 75)
    assert outputs(tmp_path, "set") == expected


def test_more_workers_than_blocks_is_said_with_the_cure(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = with_option(reference[0], "-d", "6")
    done = bnl(*words, "-o", "set", ranks=5, cwd=tmp_path)
    assert "2 of 4 workers have no block: -d 2 would give each one" in done.stderr
    # What takes a set's own blocks has no -d.
    done = bnl("verify", "set_master.h5", ranks=5, cwd=tmp_path)
    assert "2 of 4 workers have no block: the work is 2 blocks" in done.stderr


def test_minus_p_must_agree_with_the_launcher(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    bnl(*words, "-o", "set", "-p", "2", ranks=3, cwd=tmp_path)
    done = bnl(*words, "-o", "other", "-p", "4", ranks=3, cwd=tmp_path, ok=False)
    assert done.returncode != 0
    assert "-p 4 asks for 4 workers" in done.stderr
    assert done.stderr.count("bnl-mpi:") == 1
    assert not outputs(tmp_path, "other")


def test_a_world_of_one_among_several_tasks_is_refused(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    done = bnl(*words, "-o", "set", cwd=tmp_path, env={"SLURM_STEP_NUM_TASKS": "4"}, ok=False)
    assert done.returncode == 2
    assert "srun --mpi=pmi2" in done.stderr
    assert not outputs(tmp_path, "set")
    bnl(*words, "-o", "set", "-p", "3", "-t", "1", cwd=tmp_path, env={"SLURM_STEP_NUM_TASKS": "4"})
    bnl(*words, "-o", "other", cwd=tmp_path, env={"SLURM_NTASKS": "4"})


def test_without_an_mpi_library_a_launcher_of_several_is_refused(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    env = {"SLURM_STEP_NUM_TASKS": "4", "MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")}
    done = bnl(*words, "-o", "set", cwd=tmp_path, env=env, ok=False)
    assert done.returncode == 2
    assert "no MPI library could be loaded" in done.stderr
    # The others of the four leave the telling to the first.
    done = bnl(*words, "-o", "set", cwd=tmp_path, env={**env, "SLURM_PROCID": "2"}, ok=False)
    assert (done.returncode, done.stderr) == (2, "")


# ---- waiting, failing -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("slow")
    master = write_set(folder, random_frames(60, (240, 250)), per_file=20)
    return ["-i", str(master), "-J", "20", "-c", "bslz4", "-o", "set"]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def segments() -> set[str]:
    """What MPI libraries leave in shared memory."""
    return {p.name for p in Path("/dev/shm").iterdir() if p.name.startswith(("mpich_shm", "sm_segment"))}


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
def test_idle_ranks_sleep(tmp_path: Path, slow_words: list[str], hold: Hold, mpi: str) -> None:
    with background(*slow_words, "-d", "60", cwd=tmp_path, ranks=4, python=python_of(mpi), env=hold(1)) as run:
        # The one block belongs to rank 1, and waits.
        (busy,) = wait_for(hold.held, run)
        pids = wait_for(lambda: p if len(p := ranks_of(tmp_path)) == 4 else None, run)

        def rests(pid: int) -> bool:
            begin = cpu_seconds(pid)
            time.sleep(0.5)
            return cpu_seconds(pid) - begin <= 0.01

        # It prepares the masters first.
        wait_for(lambda: rests(pids[0]), run)

        def shares() -> dict[int, float]:
            before, begin = {rank: cpu_seconds(pid) for rank, pid in pids.items()}, time.monotonic()
            time.sleep(3)
            spent = {rank: cpu_seconds(pid) - before[rank] for rank, pid in pids.items()}
            return {rank: seconds / (time.monotonic() - begin) for rank, seconds in spent.items()}

        # Time that another machine took from this one's core may be put down to whoever had the core.
        seen: list[dict[int, float]] = []
        while len(seen) < 5 and (not seen or max(seen[-1][rank] for rank in (0, 2, 3)) >= 0.02):
            seen.append(shares())
        os.kill(pids[0], signal.SIGTERM)
        run.wait(PATIENCE)
    assert pids[1] == busy
    assert max(seen[-1][rank] for rank in (0, 2, 3)) < 0.02, seen


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
def test_a_rank_that_is_killed_ends_the_job(
    tmp_path: Path, slow_words: list[str], hold: Hold, mpi: str, rank: int
) -> None:
    with background(*slow_words, "-d", "5", cwd=tmp_path, ranks=3, python=python_of(mpi), env=hold(3)) as run:
        wait_for(hold.held, run)
        pids = wait_for(lambda: p if len(p := ranks_of(tmp_path)) == 3 else None, run)
        os.kill(pids[rank], signal.SIGKILL)
        assert run.wait(PATIENCE) != 0
    wait_for(lambda: not ranks_of(tmp_path), None)
    assert not (tmp_path / "set_master.h5").exists()


def test_nothing_of_a_killed_job_stays_in_shared_memory(tmp_path: Path, slow_words: list[str], hold: Hold) -> None:
    with background(*slow_words, "-d", "5", cwd=tmp_path, ranks=3, env=hold(3)) as run:
        wait_for(hold.held, run)
        pids = wait_for(lambda: p if len(p := ranks_of(tmp_path)) == 3 else None, run)
        maps = Path(f"/proc/{pids[1]}/maps").read_text()
        named = {name for name in segments() if name in maps}
        assert not named
        assert "mpich_shm" not in maps or "(deleted)" in maps
        os.kill(pids[2], signal.SIGKILL)
        assert run.wait(PATIENCE) != 0


@pytest.mark.parametrize(
    ("error", "told"), [(MemoryError(), "out of memory"), (ZeroDivisionError("x"), "ZeroDivisionError: x")]
)
def test_a_failing_block_is_named(  # type: ignore[no-untyped-def]
    reference, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    words, _ = reference
    prepared = job.prepare(Options(infile=words[1], out_file="set"))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Pipeline, "make", fail)
    with pytest.raises((BnlError, RuntimeError), match=f"block 2: set_000002.h5: {told}"):
        list(work.make_blocks(REDUCTION, prepared.job, [2], 1))


# ---- the watch ------------------------------------------------------------------------------------------


def test_the_watch_tells_death_from_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    listener = watch.Listener()
    _, port, token = listener.address
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from bnl_mpi.run import watch\n"
        "line = watch.Lifeline(('127.0.0.1', int(sys.argv[2]), bytes.fromhex(sys.argv[3])), int(sys.argv[4]))\n"
        "line.close() if sys.argv[5] == 'close' else os._exit(0)"
    )

    def worker(rank: int, end: str, secret: bytes = token) -> None:
        folder = str(Path(MAIN).parent.parent)
        subprocess.run([sys.executable, "-c", code, folder, str(port), secret.hex(), str(rank), end], check=True)

    worker(5, "close")
    worker(6, "die", bytes(16))
    assert [listener.dead() for _ in range(10)] == [None] * 10
    worker(7, "die")
    # The system may take a moment to tell of it.
    assert wait_for(listener.dead, None) == 7
    lifelines = [watch.Lifeline(("127.0.0.1", port, token), rank) for rank in (1, 2)]
    assert not any(line.is_cut() for line in lifelines)
    listener.close()
    assert not any(line.is_cut() for line in lifelines for _ in range(10))


def test_a_worker_notices_that_rank_0_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from bnl_mpi.run import watch\n"
        "one = watch.Listener(); print(one.address[1], one.address[2].hex(), flush=True)\n"
        "sys.stdin.read(1)"
    )
    folder = str(Path(MAIN).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as rank_0:
        assert rank_0.stdout is not None
        port, token = rank_0.stdout.readline().split()
        lifeline = watch.Lifeline(("127.0.0.1", int(port), bytes.fromhex(token)), 3)
        assert not lifeline.is_cut()
        rank_0.kill()
        rank_0.wait()
        wait_for(lifeline.is_cut, None)
    nowhere = watch.Lifeline(("127.0.0.1", int(port), b""), 3)
    assert not nowhere.is_cut()


# ---- the log --------------------------------------------------------------------------------------------


def test_the_log_is_one_whole_object_a_line(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    done = bnl(*words, "-o", "set", "-v", "--log_json", "log", ranks=4, cwd=tmp_path)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [e["event"] for e in events if e["event"] != "warning"] == ["start", *["block"] * 4, "end"]
    blocks = {e["block"]: e for e in events if e["event"] == "block"}
    assert {k: b["rank"] for k, b in blocks.items()} == {1: 1, 2: 2, 3: 3, 4: 1}
    assert all(b["seconds"] > 0 and b["mb_per_s"] > 0 and b["ratio"] > 0 and b["host"] for b in blocks.values())
    lines = [line for line in done.stderr.splitlines() if ": block" in line]
    assert len(lines) == 4
    assert all(line.startswith("bnl-mpi: block ") and "MB/s" in line for line in lines)
    done = bnl(*words, "-o", "no", "--log_json", tmp_path / "absent" / "log", cwd=tmp_path, ranks=2, ok=False)
    assert done.returncode == 1
    assert "--log_json" in done.stderr


# ---- file systems ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
def test_who_touches_which_file(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    trace = tmp_path / "trace"
    tracer = tmp_path / "traced.sh"
    tracer.write_text(f'#!/bin/sh\nexec strace -f -y -e trace=%file,fsync -o {trace}.$PMI_RANK {sys.executable} "$@"\n')
    tracer.chmod(0o755)
    words = [w for w in words if w != "-q"]
    with background(*words, "-o", "set", cwd=tmp_path, ranks=3, python_program=str(tracer)) as run:
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, told
    traces = {rank: Path(f"{trace}.{rank}").read_text().splitlines() for rank in (0, 1, 2)}

    def calls(rank: int, *parts: str) -> list[str]:
        return [line for line in traces[rank] if all(part in line for part in parts) and "execve" not in line]

    for rank in (1, 2):
        assert not calls(rank, words[1]), "a worker looked at the master"
    folder = os.path.dirname(words[1])
    assert {line.split('"')[1] for line in calls(1, f'"{folder}/') if "openat(" in line} <= {
        f"{folder}/in_data_{k:06d}.h5" for k in range(1, 5)
    }
    # Four blocks, of which rank 1 makes 1 and 3, and rank 2 the others; rank 0 the two masters.
    for rank, files in ((0, ("set.nxs", "set_master.h5")), (1, ("set_000001.h5", "set_000003.h5"))):
        for name in files:
            assert len(calls(rank, "openat(", f'"{name}.', "O_CREAT")) == 1
            assert len(calls(rank, "rename(", f'"{name}.')) == 1
            assert len(calls(rank, "fsync(", f"/{name}.")) == 1
            assert not [k for k in (0, 1, 2) if k != rank and calls(k, f'"{name}.')]
