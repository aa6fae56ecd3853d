"""Whatever goes wrong on whatever rank, the job ends: non-zero, soon, with a line, and without a master."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import MAIN, PATIENCE, background, bnl, needs_mpi, wait_for
from small_sets import random_frames, write_set

from bnl_mpi import cli
from bnl_mpi.run import guard
from bnl_mpi.run.launch import mpiexec_command

SHAPE = (30, 31)

FAULTS = {
    "inputs": "from bnl_mpi.tasks.reduction import ReductionTask as C; name = 'check_inputs'",
    "resume": "from bnl_mpi.run.files import SetFiles as C; name = 'inspect'",
    "maker": "from bnl_mpi.tasks.reduction import ReductionTask as C; name = 'maker'",
    "locks": "from bnl_mpi.run.state import Process as C; name = 'check_locks'",
    "goodbye": "from bnl_mpi.run.state import Process as C; name = 'end_watch'",
    "leave": "from bnl_mpi.run.world import World as C; name = 'leave'",
    "masters": "from bnl_mpi.tasks.reduction import ReductionTask as C; name = 'write_masters'",
    "summary": "from bnl_mpi.tasks.reduction import ReductionTask as C; name = 'summarise'",
    "prepare": "from bnl_mpi.tasks.reduction import ReductionTask as C; name = 'prepare'",
}
"""Where an error is made to come up: a class, and its method that fails."""

SABOTAGE = """
import os, sys
sys.path.insert(0, {folder!r})
{fault}
from bnl_mpi.errors import InputError
from bnl_mpi.run.launch import told_rank
def fail(*_, **__):
    raise {error}
if told_rank() == {rank}:
    setattr(C, name, fail)
from bnl_mpi.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    master = write_set(tmp_path_factory.mktemp("in"), random_frames(12, SHAPE), per_file=12)
    return ["-i", str(master), "-d", "2", "-o", "set"]


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("rank", "where", "error"),
    [
        (1, "inputs", "InputError('x: is bad')"),
        (1, "resume", "OSError(5, 'I/O error')"),
        (2, "maker", "ZeroDivisionError('x')"),
        (2, "locks", "InputError('x: is bad')"),
        (1, "goodbye", "ValueError('x')"),
        (0, "goodbye", "ValueError('x')"),
        (0, "leave", "OSError(5, 'I/O error')"),
        (0, "masters", "KeyError('x')"),
        (0, "summary", "ZeroDivisionError('x')"),
        (0, "prepare", "ZeroDivisionError('x')"),
    ],
)
def test_an_error_anywhere_ends_all_ranks(tmp_path: Path, words: list[str], rank: int, where: str, error: str) -> None:
    program = tmp_path / "sabotaged.py"
    folder = str(Path(MAIN).parents[1])
    program.write_text(SABOTAGE.format(folder=folder, fault=FAULTS[where], rank=rank, error=error))
    command, environment = mpiexec_command(3, [*words, "--resume"])
    command[command.index(MAIN)] = str(program)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0
    assert "bnl-mpi:" in done.stderr
    # What fails after the masters have their names leaves a whole set.
    assert (tmp_path / "set_master.h5").exists() == (where in ("goodbye", "leave", "summary"))
    assert not list(tmp_path.glob("*.lock")) or where == "goodbye"


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(("raised", "told"), [("ImportError('no such library')", 1), ("KeyboardInterrupt", 0)])
def test_a_rank_whose_libraries_cannot_be_loaded_ends_all(
    tmp_path: Path, words: list[str], raised: str, told: int
) -> None:
    program = tmp_path / "sabotaged.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(MAIN).parents[1])!r})\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'bnl_mpi.tasks.reduction':\n"
        f"            raise {raised}\n"
        "from bnl_mpi.run.launch import told_rank\n"
        "if told_rank() == 1:\n"
        "    sys.meta_path.insert(0, Missing())\n"
        "from bnl_mpi.cli import program\n"
        "program()"
    )
    command, environment = mpiexec_command(3, words)
    command[command.index(MAIN)] = str(program)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("ImportError: no such library") == done.stderr.count("Traceback") == told
    assert not list(tmp_path.glob("set_*"))


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [None, 3])
def test_a_summary_that_cannot_be_written(tmp_path: Path, words: list[str], ranks: int | None) -> None:
    (tmp_path / "folder").mkdir()
    for target in ("/dev/full", "folder"):
        done = bnl(*words, "--force", "--json", target, cwd=tmp_path, ranks=ranks, ok=False)
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if target in line]
        assert len(lines) == 1, done.stderr
        assert "--json" in lines[0]
        assert "Traceback" not in done.stderr


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [None, 3])
def test_json_on_standard_output_is_alone_there(tmp_path: Path, words: list[str], ranks: int | None) -> None:
    done = bnl(*words, "--json", "-", cwd=tmp_path, ranks=ranks)
    told = json.loads(done.stdout)
    assert told["images"] > 0
    assert f"{told['images']} images" in done.stderr
    done = bnl(*words, "--force", "--log_json", "-", cwd=tmp_path, ranks=ranks)
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert (events[0], events[-1]) == ("start", "end")
    shares = [bnl(*words, "--force", "-t", k, "-p", 1, "--json", "-", cwd=tmp_path, ok=False) for k in (1, 0)]
    assert all(json.loads(share.stdout) for share in shares)
    assert not (tmp_path / "-").exists()


def test_nobody_reads_the_summary(tmp_path: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, MAIN, *words, "--json", "-"],
            cwd=tmp_path,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 0
    assert "Error" not in done.stderr


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [None, 3])
def test_a_full_disk_under_the_log_does_not_stop_a_run(tmp_path: Path, words: list[str], ranks: int | None) -> None:
    done = bnl(*words, "--log_json", "/dev/full", cwd=tmp_path, ranks=ranks)
    assert done.stderr.count("--log_json /dev/full: can't be written any more") == 1
    assert (tmp_path / "set_master.h5").exists()


def test_a_full_standard_output(tmp_path: Path, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, MAIN, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "the summary can't be printed: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_resume_alone_needs_no_mpi(tmp_path: Path, words: list[str]) -> None:
    bnl(*words, cwd=tmp_path)
    (tmp_path / "set_000002.h5").unlink()
    bnl(*words, "--resume", cwd=tmp_path, env={"MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")})
    assert (tmp_path / "set_000002.h5").exists()


def test_a_process_alone_has_one_thread(tmp_path: Path, words: list[str]) -> None:
    """Else each of a node's ranks starts one a core, which NumPy's library makes spin."""
    # One that has done its work, a file's flush, may not be quite gone.
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv.pop(1)); from bnl_mpi import cli\n"
        "assert cli.main() == 0\n"
        "end = time.monotonic() + 10\n"
        "while (n := len(os.listdir('/proc/self/task'))) > 1 and time.monotonic() < end:\n"
        "    time.sleep(0.01)\n"
        "print(n, file=sys.stderr)"
    )
    folder = str(Path(MAIN).parents[1])
    env = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS") and k != "BLOSC_NTHREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder, *words],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "1"


def test_reduce_leaves_the_environment_alone(tmp_path: Path, words: list[str]) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import bnl_mpi\n"
        "before = dict(os.environ)\n"
        "bnl_mpi.reduce(sys.argv[2], out_file='set')\n"
        "assert dict(os.environ) == before, set(os.environ) ^ set(before)"
    )
    folder = str(Path(MAIN).parents[1])
    env = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS") and k != "BLOSC_NTHREADS"}
    subprocess.run([sys.executable, "-c", code, folder, words[1]], cwd=tmp_path, env=env, check=True)


# ---- few files at a time ---------------------------------------------------------------------------------


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("way", ["-p", "mpiexec"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_low_limit_on_open_files(tmp_path: Path, words: list[str], way: str, hard: bool) -> None:
    """A soft one is raised; a hard one is told of, and not by MPI."""
    command, environment = mpiexec_command(3, words)
    limit = f"ulimit -{'' if hard else 'S'}n 24"
    if way == "mpiexec":
        # The ranks alone.
        place = command.index(sys.executable)
        command[place:] = ["sh", "-c", f'{limit}; exec "$@"', "sh", *command[place:]]
    else:
        command = ["sh", "-c", f'{limit}; exec "$@"', "sh", sys.executable, MAIN, *words, "-p", "2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if not hard:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "set_master.h5").exists()
        return
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("bnl-mpi: ")]
    assert told == [
        "bnl-mpi: a process may have 24 files open (ulimit -Hn), and MPI needs 39 for 3 ranks; raise that limit, or "
        "work without MPI: one process, or shares (-t)"
    ]
    assert not list(tmp_path.glob("set_*"))


# ---- a rank that never joins ----------------------------------------------------------------------------


@pytest.fixture
def late(tmp_path: Path) -> str:
    """A Python whose rank 1 never gets as far as MPI."""
    program = tmp_path / "late.sh"
    program.write_text(f'#!/bin/sh\n[ "$PMI_RANK" = 1 ] && exec sleep 600\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return str(program)


def in_init(folder: Path) -> list[int]:
    """Ranks of a job in `folder` that have MPI loaded and wait."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_rank = os.readlink(entry / "cwd") == str(folder) and MAIN in (entry / "cmdline").read_text()
            if is_rank and "libmpi" in (entry / "maps").read_text():
                found.append(int(entry.name))
    return found


@pytest.mark.mpi
@needs_mpi
def test_sigterm_ends_ranks_that_wait_for_another(tmp_path: Path, words: list[str], late: str) -> None:
    with background(*words, cwd=tmp_path, ranks=3, python_program=late) as run:
        pids = wait_for(lambda: p if len(p := in_init(tmp_path)) == 2 else None, run)
        os.kill(pids[0], signal.SIGTERM)
        assert run.wait(PATIENCE) != 0
    wait_for(lambda: not in_init(tmp_path), None)


@pytest.mark.mpi
@needs_mpi
def test_a_rank_that_never_joins_is_told_of(
    tmp_path: Path, words: list[str], late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNL_MPI_JOIN_SECONDS", "2")
    with background(*words, cwd=tmp_path, ranks=3, python_program=late) as run:
        _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0
    # Once, but where the machine is so busy that another rank gives up too before it is ended.
    assert "not all 3 ranks have joined within 2 s" in told
    assert not list(tmp_path.glob("set_*"))


@pytest.mark.mpi
@needs_mpi
def test_ranks_killed_while_they_wait_leave_nothing_in_shared_memory(
    tmp_path: Path, words: list[str], late: str
) -> None:
    """Only a kill before the ranks' guards looked at a new segment can leave it: given more time, they have."""

    def mapped() -> set[str]:
        found: set[str] = set()
        for pid in in_init(tmp_path):
            with contextlib.suppress(OSError):
                found |= set(re.findall(r"/dev/shm/mpich_shm_\w+", Path(f"/proc/{pid}/maps").read_text()))
        return found

    def killed(after: float) -> set[str]:
        with background(*words, cwd=tmp_path, ranks=3, python_program=late) as run:
            names: set[str] = wait_for(mapped, run)
            time.sleep(after)
            for pid in in_init(tmp_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert run.wait(PATIENCE) != 0
        return names

    def is_left(names: set[str]) -> bool:
        end = time.monotonic() + 30
        while time.monotonic() < end and any(os.path.exists(name) for name in names):
            time.sleep(0.05)
        left = [name for name in names if os.path.exists(name)]
        for name in left:
            os.unlink(name)
        return bool(left)

    assert not all(is_left(killed(k * guard.LONGEST_LOOK)) for k in (4, 16, 64, 256))


def test_the_end_of_a_process_says_all_and_does_what_was_put_off() -> None:
    code = (
        "import atexit, sys; from bnl_mpi import cli\n"
        "atexit.register(print, 'put off')\n"
        "print('said', end=' '); print('told', end='', file=sys.stderr)\n"
        "cli.end(3)\n"
        "print('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said put off\n", "told")


def test_a_rank_and_a_profile_end_as_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpiexec may lose a status that comes with MPI's own end, and a profile is printed after it."""
    monkeypatch.setenv("PMI_RANK", "0")
    with pytest.raises(SystemExit) as ended:
        cli.end(3)
    assert ended.value.code == 3
    code = "import cProfile; from bnl_mpi import cli; cProfile.run('cli.end(3)')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "function calls" in done.stdout


def test_a_program_that_runs_this_one_goes_on_after_it(tmp_path: Path) -> None:
    """As notebooks, debuggers and profilers do, of which newer Pythons tell nothing."""
    program = tmp_path / "program.py"
    program.write_text("from bnl_mpi.cli import program\nprogram()")
    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['estimate']\n"
        "try:\n"
        f"    runpy.run_path({str(program)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print('ended with', end.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ended with 2\n"), done.stderr
