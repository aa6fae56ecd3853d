"""Launchers: whether one started this process, and starting ranks on this machine.  No MPI is needed here."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..options import Options
from . import guard

SIZE_VARIABLES = (
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "PALS_SIZE",
    "SLURM_STEP_NUM_TASKS",
)
"""What launchers tell of the number of processes.  SLURM_NTASKS is not one: a batch shell has it too."""
RANK_VARIABLES = (
    "PMI_RANK",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "PALS_RANKID",
    "ALPS_APP_PE",
)


def launched() -> bool:
    """Whether a launcher (mpiexec, srun, ...) started this process as one of its ranks."""
    if any(name in os.environ for name in RANK_VARIABLES):
        return True
    return told_size() > 1


def told_size() -> int:
    """How many processes the launcher's environment speaks of; 0 where it says nothing."""
    sizes = [int(n) for name in SIZE_VARIABLES if (n := os.environ.get(name, "")).isdigit()]
    # A rank above 0 tells of others too.
    return max([*sizes, told_rank() + 1 if told_rank() else 0])


def told_rank() -> int:
    """This process's place among those that the launcher started; 0 where it says nothing."""
    ranks = [os.environ.get(name, "") for name in (*RANK_VARIABLES, "SLURM_PROCID")]
    return next((int(n) for n in ranks if n.isdigit()), 0)


def is_left_alone() -> bool:
    """Whether nobody tells this rank of another's death (`watch`): srun started this step with --mpi=pmi2."""
    return "SLURM_STEP_ID" in os.environ and "PMI_FD" in os.environ


LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS", "OPJ_NUM_THREADS")


@contextlib.contextmanager
def library_threads() -> Iterator[None]:
    """One thread a rank: the ranks themselves fill the machine.  A user's own setting is left alone.

    Begun before NumPy is imported: its OpenBLAS starts a thread a core then, and they spin for a while.
    """
    mine = [name for name in LIBRARY_THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(mine, "1"))
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


FILES_OF_MPI, MOST_RANKS = 36, 64
"""What MPICH has open in a rank of few: found by trial, with UCX. One more for each rank, of a node at most."""
FILES_WANTED = 1024


def allow_files(n_ranks: int) -> None:
    """Let this process, and what it starts, open as many files as MPI and a job of that many ranks need.

    Raises UsageError where the system doesn't allow that: MPI would end in words of its own.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(FILES_WANTED, FILES_OF_MPI + 4 * n_ranks)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    needed = FILES_OF_MPI + min(n_ranks, MOST_RANKS)
    if wanted < needed:
        raise UsageError(
            f"a process may have {wanted} files open (ulimit -Hn), and MPI needs {needed} for {n_ranks} ranks; raise "
            "that limit, or work without MPI: one process, or shares (-t)"
        )


JOIN_SECONDS = 600.0
"""Some sites start thousands of processes from one file system."""
GUARD_DELAY = 0.5
"""Seconds by which a rank leaves it to the one before it to tell that somebody is missing."""


def is_spokesman() -> bool:
    """Of several processes that meet the same error before MPI joins them, whether this one tells of it."""
    return told_rank() == 0


@contextlib.contextmanager
def guarded_start() -> Iterator[None]:
    """While MPI starts within: signals end this process at once, and so does a limit on the time for all to join.

    In MPI's library a rank waits for all others, and Python's handlers don't run; nothing is there to be cleaned up.
    """
    seconds = join_seconds()
    allow_files(told_size())
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    pid, tell = _start_guard(seconds)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.write(tell, b"joined")
        os.close(tell)
        os.waitpid(pid, 0)
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _start_guard(seconds: float) -> tuple[int, int]:
    """Fork this rank's `guard`: its process number, and where to tell it that all have joined.

    A fork, for another Python would take as much of a core as MPI itself to start.
    """
    rank, delay = os.getpid(), GUARD_DELAY * min(told_rank(), 20)
    said, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(said)
        return pid, tell
    try:
        # In a session of its own: what ends the ranks must not end it. And it holds nothing of theirs open.
        os.setsid()
        os.dup2(said, 0)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2:
                with contextlib.suppress(OSError):
                    os.close(number)
        guard.main(rank, seconds, delay, told_size())
    finally:
        os._exit(0)


def join_seconds() -> float:
    """How long ranks wait for one another at the start."""
    text = os.environ.get("BNL_MPI_JOIN_SECONDS", "")
    try:
        seconds = float(text) if text else JOIN_SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"BNL_MPI_JOIN_SECONDS={text}: give a number of seconds above 0, or unset it")
    return seconds


def workers_to_start(options: Options) -> int:
    """How many workers `-p` wants that nobody has started."""
    return options.parallel or 0 if options.thread is None and not launched() else 0


def run_mpiexec(n_ranks: int, words: Sequence[str]) -> int:
    """Run `bnl_mpi` with `words` on `n_ranks` ranks of this machine; returns the exit status.

    MPICH's mpiexec takes this process's place, since it passes every signal on.  Open MPI's kills the ranks when it
    gets SIGTERM or SIGINT, but passes SIGUSR1 on, which means the same to them: so it is kept below this process.
    """
    command, environment = mpiexec_command(n_ranks, words)
    allow_files(n_ranks)
    sys.stdout.flush()
    if not _is_open_mpi(command[0]):
        os.execvpe(command[0], command, environment)
    import subprocess

    # In a session of its own, so that a terminal's Ctrl-C doesn't reach it directly.
    with subprocess.Popen(command, env=environment, start_new_session=True) as child:
        count = 0

        def pass_on(number: int, _frame: Any) -> None:
            nonlocal count
            count += 1
            child.send_signal(signal.SIGUSR1 if count == 1 else number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, pass_on)
        status = child.wait()
    return status if status >= 0 else 128 - status


def _is_open_mpi(launcher: str) -> bool:
    real = Path(os.path.realpath(launcher))
    if (Path(launcher).parent / "mpiexec.hydra").exists() and real.name != "orterun":
        return False
    return real.name in ("orterun", "prterun", "mpirun.openmpi") or (Path(launcher).parent / "prterun").exists()


def mpiexec_command(n_ranks: int, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that start `bnl_mpi` with `words` on `n_ranks` ranks of this machine."""
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise UsageError(
            "-p starts workers through mpiexec, and there is none beside this Python or on PATH; "
            "pip install 'bnl-mpi[mpich]', or load the site's MPI module"
        )
    environment = dict(os.environ)
    # Open MPI counts cores before it starts more ranks than these, binds ranks to cores, spins, and asks root
    # twice.  A user who gives -p has said how many ranks are wanted; other MPIs don't look at these.
    for name, value in {
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # In a batch job both would spread the ranks over all its nodes, and Open MPI count the job's tasks.
        "HYDRA_LAUNCHER": "fork",
        "HYDRA_RMK": "user",
        "PRTE_MCA_ras": "^slurm",
        "PRTE_MCA_plm": "^slurm",
        "OMPI_MCA_ras": "^slurm",
        "OMPI_MCA_plm": "^slurm",
    }.items():
        environment.setdefault(name, value)
    if os.geteuid() == 0:
        environment.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
        environment.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    # By its path rather than by `-m`, which would take a package of this name in the current folder first.
    program = str(Path(__file__).parents[1] / "__main__.py")
    return [launcher, "-n", str(n_ranks), sys.executable, program, *words], environment
