"""What changes around a run while it goes on: permissions are lost, the clock jumps, input is cut short."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import aftermath
import faults
import pytest
from running import MAIN, PATIENCE, Hold, background, bnl, needs_mpi, outputs, wait_for
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.run.lock import STALE_SECONDS

DAYS = 10 * 86400


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = random_frames(40, (160, 170))
    return write_set(tmp_path_factory.mktemp("in"), frames, mask=random_mask((160, 170)), per_file=20)


# ---- permissions ----------------------------------------------------------------------------------------


def test_permission_to_write_is_lost_while_running(
    master: Path, tmp_path: Path, obedient: list[str], hold: Hold
) -> None:
    words = ["-i", str(master), "-J", "20", "-d", "2", "-o", "out/set"]
    out = tmp_path / "out"
    out.mkdir()
    run = subprocess.Popen(
        [*obedient, sys.executable, MAIN, *words], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, env={**os.environ, **hold(2)},
    )  # fmt: skip
    wait_for(hold.held, run)
    out.chmod(0o555)
    hold.release()
    _, said = run.communicate(timeout=PATIENCE)
    out.chmod(0o755)
    assert run.returncode == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("bnl-mpi: ")
    assert "ermission" in said
    assert not (out / "set_master.h5").exists()
    # Nobody may remove what lies in such a folder: the next run does.
    bnl(*words, "--resume", cwd=tmp_path)
    bnl(*words[:-1], "whole", cwd=tmp_path)
    assert aftermath.leftovers(out) == []
    wanted = {name.replace("whole", "set"): tree for name, tree in outputs(tmp_path, "whole").items()}
    assert outputs(out, "set").keys() == wanted.keys()


@pytest.mark.parametrize("what", ["set_000001.h5", "set_master.h5", "in_data_000002.h5"])
def test_verify_without_permission_to_read(master: Path, tmp_path: Path, obedient: list[str], what: str) -> None:
    shutil.copytree(master.parent, tmp_path, dirs_exist_ok=True)
    bnl("-i", master.name, "-d", "10", "-c", "bslz4", "-o", "set", cwd=tmp_path)
    (tmp_path / what).chmod(0)
    done = subprocess.run(
        [*obedient, sys.executable, MAIN, "verify", "set_master.h5", "--against", master.name, "--certify"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert what in done.stdout + done.stderr
    assert "ermission" in done.stdout + done.stderr
    assert not (tmp_path / "set.sha256").exists()


@pytest.fixture(scope="module")
def made(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw data and a set of them."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(master.parent, folder / "raw")
    bnl("-i", f"raw/{master.name}", "-b", "2", "-c", "bslz4", "-o", "set", cwd=folder)
    return folder


@pytest.mark.parametrize(
    ("locked", "mode", "words"),
    [
        ("raw", 0, "-i raw -o out"),
        ("raw", 0, "-i raw/in_master.h5 -o out"),
        ("raw", 0o111, "-i raw/x_00001.cbf -o out"),
        ("raw", 0, "estimate raw/in_master.h5"),
        ("raw", 0, "verify set_master.h5 --against raw/in_master.h5"),
        ("raw", 0, "report set_master.h5 --against raw/in_master.h5 -o raw.html"),
        ("raw", 0, "archive raw --to out"),
        ("raw/in_data_000002.h5", 0, "-i raw/in_master.h5 -o out"),
        ("raw/in_data_000002.h5", 0, "estimate raw/in_master.h5 --try b2"),
        ("raw/in_data_000002.h5", 0, "report set_master.h5 --against raw/in_master.h5 -o raw.html"),
        ("raw/in_master.h5", 0, "export raw/in_master.h5 --cbf x_##.cbf"),
        (".", 0o555, "report set_master.h5 --against raw/in_master.h5 -o raw.html"),
        (".", 0o555, "simulate lyso --frames 1 --detector 500k"),
        (".", 0o555, "export raw/in_master.h5 --cbf x_##.cbf"),
        (".", 0o555, "archive raw --to out"),
        (".", 0o555, "estimate raw/in_master.h5 --try b2 --html x.html"),
    ],
)
def test_without_permission_is_one_line(made: Path, obedient: list[str], locked: str, mode: int, words: str) -> None:
    place = made / locked
    before, there = place.stat().st_mode, sorted(made.rglob("*"))
    place.chmod(mode)
    try:
        done = subprocess.run(
            [*obedient, sys.executable, MAIN, *words.split()],
            cwd=made, capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
    finally:
        place.chmod(before)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert re.match(r"bnl-mpi: .*(ermission|not writable|can't be (listed|written))", lines[0])
    assert sorted(made.rglob("*")) == there


def test_a_folder_that_an_archive_can_not_look_into_is_told(made: Path, obedient: list[str], tmp_path: Path) -> None:
    shutil.copytree(made / "raw", tmp_path / "all" / "raw")
    (tmp_path / "all" / "more").mkdir(mode=0)
    done = subprocess.run(
        [*obedient, sys.executable, MAIN, "archive", "all", "--to", "out", "-b", "2"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    (tmp_path / "all" / "more").chmod(0o755)
    assert f"skipped {tmp_path / 'all' / 'more'}: can't be read: Permission denied" in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


# ---- the clock ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("no gcc, which the preloaded library is compiled with")
    return faults.build(tmp_path_factory.mktemp("shim"))


def clock(shim: Path, jump: int, when: Path | str = "/") -> dict[str, str]:
    """The environment of a process whose clock jumps when that file is there."""
    return {"LD_PRELOAD": str(shim), "CLOCK_JUMP": str(jump), "CLOCK_WHEN": str(when)}


@pytest.mark.parametrize("jump", [DAYS, -DAYS])
def test_the_shim_makes_the_clock_jump(shim: Path, jump: int, tmp_path: Path) -> None:
    told = []
    for when in ("/", tmp_path / "absent"):
        environment = {**os.environ, **clock(shim, jump, when)}
        code = "import time; print(time.time())"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        told.append(float(done.stdout) - time.time())
    assert abs(told[0] - jump) < 3600
    assert abs(told[1]) < 3600


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
@pytest.mark.parametrize("jump", [DAYS, -DAYS])
def test_the_clock_jumps_while_running(master: Path, tmp_path: Path, shim: Path, ranks: int | None, jump: int) -> None:
    """No run hangs, loses its lock or writes other pixels, and a certificate holds."""
    words = ["-i", str(master), "-s", "2", "-d", "4", "-c", "bslz4"]
    bnl(*words, "-o", "whole", cwd=tmp_path)
    environment = clock(shim, jump, tmp_path / "set_000001.h5")
    bnl(*words, "-o", "set", "--grace", "5", cwd=tmp_path, ranks=ranks, env=environment)
    wanted = outputs(tmp_path, "whole")
    for name, tree in outputs(tmp_path, "set").items():
        if not name.endswith(("_master.h5", ".nxs")):
            assert tree["/entry/data/data"] == wanted[name.replace("set", "whole")]["/entry/data/data"]
    environment = clock(shim, jump, tmp_path / "set.verify")
    certify = ["verify", "set_master.h5", "--against", str(master), "--certify"]
    bnl(*certify, cwd=tmp_path, ranks=ranks, env=environment)
    assert bnl("verify", "--deletable", "set.crate.json", cwd=tmp_path).stdout.count(".h5") == 3


@pytest.mark.parametrize("jump", [DAYS, -DAYS])
def test_a_lock_is_as_old_as_the_file_system_says(master: Path, tmp_path: Path, shim: Path, jump: int) -> None:
    words, lock = ["-i", str(master), "-o", "set"], tmp_path / "set.lock"
    lock.write_text(json.dumps({"host": "n99", "pid": 5}))
    done = bnl(*words, cwd=tmp_path, env=clock(shim, jump), ok=False)
    assert done.returncode == 1
    assert "another run is at work" in done.stderr
    then = time.time() - STALE_SECONDS - 60
    os.utime(lock, (then, then))
    bnl(*words, cwd=tmp_path, env=clock(shim, jump))
    assert not lock.exists()


# ---- the input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=[pytest.mark.mpi, needs_mpi])])
def test_a_data_file_is_cut_short_while_running(master: Path, tmp_path: Path, hold: Hold, ranks: int | None) -> None:
    shutil.copytree(master.parent, tmp_path, dirs_exist_ok=True)
    words = ["-i", master.name, "-J", "20", "-d", "2", "-o", "set"]
    with background(*words, cwd=tmp_path, ranks=ranks, env=hold(2)) as run:
        wait_for(hold.held, run)
        for path in tmp_path.glob("in_data_*.h5"):
            os.truncate(path, path.stat().st_size // 2)
        hold.release()
        _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode not in (0, None)
    assert "Traceback" not in said
    assert "in_data_00000" in said
    assert not (tmp_path / "set_master.h5").exists()
    assert not list(tmp_path.glob("*.partial"))


# ---- standard output ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certified(master: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certified")
    bnl("-i", master, "-d", "10", "-c", "bslz4", "-o", "set", cwd=folder)
    bnl("verify", "set_master.h5", "--against", master, "--certify", cwd=folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "verify set_master.h5", "verify --certificate set.crate.json", "verify --deletable set.crate.json",
        "verify --deletable set.crate.json -0", "check set_master.h5", "replay set_master.h5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(certified: Path, words: str, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, MAIN, *words.split()], cwd=certified, env=environment, stdout=full,
            stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    what = "a file, or standard output" if unbuffered else "standard output"
    told = f"{what}: No space left on device; make room and start again"
    if words == "verify set_master.h5":
        told = "the summary can't be printed: No space left on device; the output itself is complete"
    assert done.stderr.splitlines()[-1] == f"bnl-mpi: {told}"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("OSError(28, os.strerror(28))", "a file: No space left on device; make room and start again"),
        ("OSError(28, os.strerror(28), 'x.txt')", "x.txt: No space left on device; make room and start again"),
        ("OSError(5, os.strerror(5), b'x.txt')", "x.txt: Input/output error"),
    ],
)
def test_a_file_that_cannot_be_written_is_not_standard_output(raised: str, told: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1)); from bnl_mpi import cli\n"
        "def fail(words):\n"
        "    print('said before')\n"
        f"    raise {raised}\n"
        "cli._run = fail\n"
        "sys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(MAIN).parents[1]), "any"],
        env={**os.environ, "PYTHONUNBUFFERED": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "said before\n", f"bnl-mpi: {told}\n")


def test_files_of_an_estimate_are_named(master: Path, tmp_path: Path) -> None:
    for option in ("--json", "--html"):
        done = bnl("estimate", master, "--try", "b2", option, "/dev/full", cwd=tmp_path, ok=False)
        assert done.returncode == 1
        assert f"{option} /dev/full: can't be written: No space left on device" in done.stderr
        done = bnl("estimate", master, "--try", "b2", option, "-", cwd=tmp_path)
        assert done.stdout[0] == {"--json": "{", "--html": "<"}[option]
        assert "b2" in done.stderr
