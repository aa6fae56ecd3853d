"""Kills at random moments, seeded: `python -m tests.kill --n 100 --seed 1`.

A case starts a reduction, an expansion or `verify --certify`, alone, as a share or on ranks under a real mpiexec
(MPICH's or Open MPI's), into an empty folder or with `--force` over an older finished set, and ends it at a system
call that concerns the output: one rank of any kind by SIGKILL or SIGTERM, the launcher, or all processes of the job at
once.  So it hits blocks, masters, certificates and renames alike, however slow the machine is.  Afterwards: nothing of
the job is left at work, what has its final name is whole and of one run, a certificate is over all of its set, the
input is as it was, and the same command with `--resume` (after `--force`, the same command) leaves the files of an
undisturbed run.  A hundred cases take each scenario with each rank and each way at least once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import aftermath
import children
import faults
import numpy as np
from aftermath import Version
from running import MAIN, path_of
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.run.launch import mpiexec_command

SHAPE = (40, 44)
PAUSE = -1000
"""As the C source has it: the rank leaves its mark, and waits for a while."""
ALONE = ("rank killed", "rank terminated")
HOWS = (*ALONE, "job killed", "launcher killed", "launcher terminated")
RAW = ("-i", "../in/in_master.h5", "-s", "2", "-c", "bslz4", "-d", "1", "-o", "set")


@dataclass(frozen=True)
class Scenario:
    """A command, and how many ranks it is given (0: alone)."""

    name: str
    words: tuple[str, ...]
    ranks: int = 0
    before: tuple[str, ...] = ()
    """Words of the run whose set is there already."""
    calls: int = 250
    """At which call of a rank the end comes at the latest."""
    mpi: str = "mpich"

    @property
    def again(self) -> tuple[str, ...]:
        return self.words if "--force" in self.words else (*self.words, "--resume")


EXPAND = ("expand", "../in/small_master.h5", "-c", "bslz4", "-o", "set")
CERTIFY = ("verify", "set_master.h5", "--against", "../in/in_master.h5", "--certify")
SCENARIOS = (
    Scenario("alone", RAW),
    Scenario("share", (*RAW, "-p", "2", "-t", "1"), calls=130),
    Scenario("ranks", (*RAW, "-H", "8", "-q"), ranks=3, calls=80),
    Scenario("ranks of Open MPI", RAW, ranks=3, calls=60, mpi="openmpi"),
    Scenario("force", (*RAW, "-b", "2", "--force"), before=RAW),
    Scenario("force on ranks", (*RAW, "-b", "2", "--force"), ranks=3, before=RAW, calls=80),
    Scenario("expand", EXPAND),
    Scenario("expand on ranks", EXPAND, ranks=3, calls=80),
    Scenario("certify", CERTIFY, before=RAW, calls=32),
    Scenario("certify on ranks", CERTIFY, ranks=3, before=RAW, calls=12),
)


def combinations(scenarios: Sequence[Scenario]) -> list[tuple[Scenario, int, str]]:
    """Each scenario with each of its ranks and each way to end it."""
    return [
        (scenario, rank, how)
        for scenario in scenarios
        for rank in range(max(1, scenario.ranks))
        for how in (HOWS if scenario.ranks else ALONE)
    ]


def available() -> tuple[Scenario, ...]:
    """Those whose MPI is here."""
    return tuple(s for s in SCENARIOS if s.mpi == "mpich" or os.path.exists(path_of(s.mpi)))


@dataclass(frozen=True)
class Case:
    """Which run is ended, at which call of which rank, and how."""

    scenario: Scenario
    rank: int
    at: int
    how: str

    def __str__(self) -> str:
        return f"{self.scenario.name}, {self.how} at call {self.at} of rank {self.rank}"


class Attack:
    """Cases in a folder, each the same for a seed."""

    def __init__(self, folder: Path, seed: int, library: Path) -> None:
        self._folder, self._seed, self._library = folder, seed, library
        self._in = folder / "in"
        self._in.mkdir()
        write_set(self._in, random_frames(12, SHAPE), mask=random_mask(SHAPE), per_file=3)
        self._run(self._in, ["-i", "in_master.h5", "-T", "12", "-c", "htj2k", "-d", "2", "-o", "small"])
        self._input = aftermath.state_of(self._in)
        self._versions: dict[str, list[Version]] = {}
        self.ends: Counter[str] = Counter()

    def _run(self, here: Path, words: Sequence[str]) -> None:
        done = children.run(children.command(words), here)
        if done.status != 0:
            raise RuntimeError(f"{' '.join(words)}: {done.status}: {done.err}")

    def _prepare(self, scenario: Scenario) -> tuple[Path, list[Version]]:
        """The output's folder as it is before, and what may be in it afterwards: the new set first."""
        out, ready = self._folder / "out", self._folder / "ready"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if scenario.before and not ready.exists():
            ready.mkdir()
            self._run(ready, scenario.before)
        if scenario.before:
            shutil.copytree(ready, out, dirs_exist_ok=True)
        if scenario.name not in self._versions:
            before = [aftermath.version_of(out)] if scenario.before else []
            self._run(out, scenario.words)
            self._versions[scenario.name] = [aftermath.version_of(out), *before]
            return self._prepare(scenario)
        return out, self._versions[scenario.name]

    def case(self, number: int) -> Case:
        rng = np.random.default_rng([self._seed, number])
        combined = combinations(available())
        order = np.random.default_rng(self._seed).permutation(len(combined))
        scenario, rank, how = combined[order[number % len(combined)]]
        # Rank 0 writes the masters, and has no block.
        return Case(scenario, rank, int(rng.integers(1, scenario.calls)), how)

    def attack(self, case: Case) -> str | None:
        """What went wrong, or None."""
        out, versions = self._prepare(case.scenario)
        said = self._end(case, out) if case.scenario.ranks else self._end_alone(case, out)
        return (
            said
            or aftermath.complaint(out, versions)
            or (None if aftermath.state_of(self._in) == self._input else "the input has changed")
            or self._again(case.scenario, out, versions[0])
        )

    def _again(self, scenario: Scenario, out: Path, wanted: Version) -> str | None:
        done = children.run(children.command(scenario.again), out)
        if done.status != 0:
            return f"the run after it ended with {done.status}: {done.err.strip()}"
        if aftermath.version_of(out) != wanted:
            return "the run after it left other files than an undisturbed one"
        left = aftermath.leftovers(out)
        return f"the run after it left {left}" if left else None

    # ---- how a run is ended -------------------------------------------------------------------------------

    def _environment(self, case: Case, out: Path) -> dict[str, str]:
        action = {"rank killed": -signal.SIGKILL, "rank terminated": -signal.SIGTERM}.get(case.how, PAUSE)
        return {
            **os.environ,
            "LD_PRELOAD": str(self._library),
            "FAULTS_RANK": str(case.rank),
            "FAULTS_FOLDER": str(out),
            "FAULTS_AT": str(case.at),
            "FAULTS_ACTION": str(int(action)),
            "FAULTS_MARK": str(self._folder / "mark"),
        }

    def _end_alone(self, case: Case, out: Path) -> str | None:
        """Without MPI the environment tells no rank: a word to the shim in a process of its own."""
        environment = {**self._environment(case, out), "PMI_RANK": "0"}
        program = f"import os, sys; del os.environ['PMI_RANK']; sys.path.insert(0, {str(Path(MAIN).parents[1])!r}); "
        program += f"from bnl_mpi.cli import main; sys.exit(main({list(case.scenario.words)!r}))"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=out, env=environment, capture_output=True, text=True,
            timeout=children.SECONDS, check=False,
        )  # fmt: skip
        return self._of_end(case, done.returncode, done.stderr)

    def _end(self, case: Case, out: Path) -> str | None:
        mark = self._folder / "mark"
        mark.unlink(missing_ok=True)
        python = path_of(case.scenario.mpi)
        command, environment = mpiexec_command(case.scenario.ranks, case.scenario.words)
        command = [str(Path(python).parent / "mpiexec"), *(python if w == sys.executable else w for w in command[1:])]
        environment |= self._environment(case, out)
        with tempfile.TemporaryFile("w+") as err:
            run = subprocess.Popen(command, cwd=out, env=environment, stdout=err, stderr=err, start_new_session=True)
            try:
                status = self._wait(case, run, mark)
                if status is None:
                    return f"still at work after {children.SECONDS:.0f} s"
                left = self._left()
            finally:
                for pid in self._processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                run.wait()
            err.seek(0)
            return self._of_end(case, status, err.read()) or left

    def _wait(self, case: Case, run: subprocess.Popen[bytes], mark: Path) -> int | None:
        """The launcher's status; None if it didn't end.  At the mark, what `case` says is done."""
        end, done = time.monotonic() + children.SECONDS, False
        while run.poll() is None:
            if time.monotonic() > end:
                return None
            if mark.exists() and not done and not case.how.startswith("rank"):
                done = True
                self._kill(case.how, run)
            time.sleep(0.01)
        return run.returncode

    def _kill(self, how: str, run: subprocess.Popen[bytes]) -> None:
        if how == "job killed":
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            run.send_signal(signal.SIGKILL if how == "launcher killed" else signal.SIGTERM)

    def _processes(self) -> Iterator[int]:
        """All that were started with this attack's library: launcher, proxies and ranks."""
        word = f"FAULTS_MARK={self._folder / 'mark'}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if word in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)

    def _left(self) -> str | None:
        """What is still at work a while after the launcher's end."""
        end = time.monotonic() + children.SECONDS
        while left := list(self._processes()):
            if time.monotonic() > end:
                return f"{len(left)} processes of the job are still there"
            time.sleep(0.02)
        return None

    def _of_end(self, case: Case, status: int, err: str) -> str | None:
        if "Traceback (most recent call last)" in err:
            return f"traceback: {err}"
        self.ends["ended" if status else "was done before"] += 1
        out = self._folder / "out"
        wanted = self._versions[case.scenario.name][0]
        return None if status or aftermath.version_of(out) == wanted else "status 0, and not all files are there"


def main(words: Sequence[str] | None = None) -> int:
    """Run the attack; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--n", type=int, default=20, help="kills (default 20)")
    parser.add_argument("--first", type=int, default=0, help="the first one's number (default 0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, nargs="+", help="these alone")
    given = parser.parse_args(words)
    children.warm_up()
    numbers, n_found = given.case or range(given.first, given.first + given.n), 0
    with children.scratch("kill-") as folder, tempfile.TemporaryDirectory(prefix="kill-") as beside:
        attack = Attack(folder, given.seed, faults.build(Path(beside)))
        for number in numbers:
            case = attack.case(number)
            if (found := attack.attack(case)) is not None:
                n_found += 1
                print(f"kill: --seed {given.seed} --case {number}: {case}: {found}", flush=True)
    ends = ", ".join(f"{n} {what}" for what, n in sorted(attack.ends.items()))
    print(f"kill: {len(numbers)} runs, {ends}; {n_found} left what none may")
    return int(bool(n_found))


if __name__ == "__main__":
    sys.exit(main())
