"""System calls that fail, or at which a process dies: `python -m tests.faults --n 2000 --seed 1`.

For each scenario (a reduction, one with squash files, `--force` over an older set, `--resume`, an expansion,
`verify --certify`) the calls are counted that write to the output folder, or read from the input's; then the run is
done again for every one of them, which fails with ENOSPC, EIO, EDQUOT or EACCES, once, or from then on, or writes
half, or ends the process.
Afterwards: no traceback; status 0 over good output alone; what has its final name is whole; the same command with
`--resume` ends well.  All of it without a new Python a case: see `children`.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import aftermath
import children
import numpy as np
from aftermath import Version
from children import Outcome
from small_sets import random_frames, random_mask, write_set

SHAPE = (40, 44)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES)
WAYS = ("once", "from then on", "half, then")
"""As the C source has them."""

RAW = ("-i", "../in/in_master.h5", "-s", "2", "-c", "bslz4", "-d", "2", "-o", "set")
CERTIFY = ("verify", "set_master.h5", "--against", "../in/in_master.h5", "--certify")
TEXTS = ("--json", "set.json", "--log_json", "set.log")


@dataclass(frozen=True)
class Scenario:
    """A command in the folder `out`, beside which the input's folder `in` lies."""

    name: str
    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    """Commands that make what is there already."""
    forced: bool = False
    adds: bool = False
    """Whether what is there already stays, and may be all that is there afterwards."""

    @property
    def again(self) -> tuple[str, ...]:
        """What a user does after a failure; resumed, but where all is to be made anew."""
        if self.forced or "--resume" in self.words:
            return self.words
        return (*self.words, "--resume")


SCENARIOS = (
    Scenario("reduce", RAW + TEXTS),
    Scenario("squash", (*RAW, "-H", "8", "-q")),
    Scenario("force", (*RAW, "-b", "2", "--force"), (RAW,), forced=True),
    Scenario("resume", (*RAW, "--resume"), (RAW, ("rm", "set_000002.h5", "set_master.h5", "set.nxs"))),
    Scenario("expand", ("expand", "../in/small_master.h5", "-c", "bslz4", "-o", "set")),
    Scenario("certify", CERTIFY, (RAW,), adds=True),
    Scenario("share", (*RAW, "-p", "2", "-t", "0"), ((*RAW, "-p", "2", "-t", "1"), (*RAW, "-p", "2", "-t", "2"))),
)


@dataclass(frozen=True)
class Fault:
    """Call `at` of a scenario, counted from 1, and what happens there."""

    scenario: Scenario
    at: int
    action: int
    """An errno; negative: the signal that ends the process."""
    way: int
    reads: bool = False

    def __str__(self) -> str:
        what = errno.errorcode[self.action] if self.action > 0 else signal.Signals(-self.action).name
        return f"{self.scenario.name}, {'read' if self.reads else 'write'} call {self.at}: {WAYS[self.way]} {what}"


class Shim:
    """The preloaded library, in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_count.restype = ctypes.c_long

    def arm(self, folder: Path, at: int, action: int, way: int, reads: bool) -> None:
        self._library.faults_arm(os.fsencode(folder), ctypes.c_long(at), action, way, int(reads))

    def count(self) -> int:
        return int(self._library.faults_count())


class Attack:
    """Scenarios in a folder: what an undisturbed run of each leaves, and runs with a fault."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._shim = folder, Shim()
        self._in = folder / "in"
        self._in.mkdir()
        write_set(self._in, random_frames(6, SHAPE), mask=random_mask(SHAPE), per_file=3)
        self._must(self._in, "-i", "in_master.h5", "-T", "12", "-c", "htj2k", "-d", "2", "-o", "small")
        self._input = aftermath.state_of(self._in)
        self._wanted: dict[str, list[Version]] = {}
        self.ends: Counter[str] = Counter()

    def _must(self, here: Path, *words: str) -> None:
        if words[0] == "rm":
            for name in words[1:]:
                (here / name).unlink()
            return
        done = children.run(children.command(words), here)
        # 75: share 0 before the others.
        assert done.status == 0, (words, done)

    def _prepare(self, scenario: Scenario) -> Path:
        out, ready = self._folder / "out", self._folder / f"ready-{scenario.name}"
        if not ready.exists():
            ready.mkdir()
            out.mkdir(exist_ok=True)
            for words in scenario.before:
                self._must(ready, *words)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(ready, out)
        return out

    def faults(self, scenario: Scenario) -> list[Fault]:
        """All of a scenario, once its undisturbed run is known."""
        out = self._prepare(scenario)
        old = aftermath.version_of(out) if scenario.forced or scenario.adds else None
        counts = []
        for reads in (False, True):
            out = self._prepare(scenario)
            done = self._run(scenario.words, out, 0, 0, 0, reads)
            assert done.status == 0, done
            counts.append(int(done.err.rsplit("calls ", 1)[1]))
        self._wanted[scenario.name] = [aftermath.version_of(out), *([old] if old else [])]
        writes = [
            Fault(scenario, n, action, way)
            for n in range(1, counts[0] + 1)
            for action, way in [*((e, w) for e in ERRORS for w in range(len(WAYS))), (-signal.SIGKILL, 0)]
        ]
        return writes + [Fault(scenario, n, errno.EIO, way, True) for n in range(1, counts[1] + 1) for way in (0, 1)]

    def _run(self, words: Sequence[str], out: Path, at: int, action: int, way: int, reads: bool) -> Outcome:
        def call() -> int:
            self._shim.arm(self._in if reads else out, at, action, way, reads)
            status = children.command(words)()
            print(f"calls {self._shim.count()}", file=sys.stderr)
            return status

        return children.run(call, out)

    def attack(self, fault: Fault) -> str | None:
        """What went wrong, or None."""
        scenario, versions = fault.scenario, self._wanted[fault.scenario.name]
        out = self._prepare(scenario)
        done = self._run(scenario.words, out, fault.at, fault.action, fault.way, fault.reads)
        self.ends["failed" if done.status else "went through"] += 1
        return (
            _of_end(fault, done, out, versions)
            or aftermath.complaint(out, versions)
            or self._of_input()
            or self._again(scenario, out, versions[0])
        )

    def _of_input(self) -> str | None:
        return None if aftermath.state_of(self._in) == self._input else "the input has changed"

    def _again(self, scenario: Scenario, out: Path, wanted: Version) -> str | None:
        words = scenario.again
        if scenario.forced and not any(out.glob("set_*")):
            words = tuple(w for w in words if w != "--force")
        done = children.run(children.command(words), out)
        if done.status != 0:
            return f"the run after it ended with {done.status}: {done.err.strip()}"
        if aftermath.version_of(out) != wanted:
            return "the run after it gave other files than an undisturbed one"
        left = aftermath.leftovers(out)
        return f"the run after it left {left}" if left else None


def _of_end(fault: Fault, done: Outcome, out: Path, versions: Sequence[Version]) -> str | None:
    if fault.action < 0:
        return None if done.status == fault.action else f"wasn't killed: {done}"
    if (bad := done.complaint) is not None:
        return bad
    if done.status == 0:
        return None if aftermath.version_of(out) == versions[0] else "status 0, and not all files are there"
    said = [line for line in done.err.strip().splitlines() if not line.startswith("calls ")]
    return None if said and said[-1].startswith("bnl-mpi: ") else f"its last line is {said[-1:]}"


# ---- other faults: what the machine or the user does ----------------------------------------------------


def build(folder: Path) -> Path:
    """The preloaded library, compiled."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def _with_shim(words: Sequence[str]) -> int:
    """This program again, with the library loaded."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        environment = {**os.environ, "LD_PRELOAD": str(build(Path(folder))), "PYTHONPATH": os.getcwd()}
        return subprocess.run([sys.executable, __file__, *words], env=environment, check=False).returncode


def chosen(faults: Sequence[Fault], n: int, seed: int) -> list[Fault]:
    """At most `n` of them: of every call one first, in an order that the seed gives."""
    order = np.random.default_rng(seed).permutation(len(faults))
    by_call: dict[Any, list[Fault]] = {}
    for k in order:
        fault = faults[k]
        by_call.setdefault((fault.scenario.name, fault.reads, fault.at), []).append(fault)
    rounds = [
        f for depth in range(max(map(len, by_call.values()))) for c in by_call.values() for f in c[depth : depth + 1]
    ]
    return rounds[:n]


def main(words: Sequence[str] | None = None) -> int:
    """Run the attack; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="faults, of every call one first (default 300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="SCENARIO", help="one scenario, and with --at one call of it, in all ways")
    parser.add_argument("--at", type=int)
    given = parser.parse_args(words)
    if not hasattr(ctypes.CDLL(None), "faults_arm"):
        return _with_shim(sys.argv[1:] if words is None else words)
    children.warm_up()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    n_found = 0
    try:
        attack = Attack(folder)
        scenarios = [s for s in SCENARIOS if given.only in (None, s.name)]
        faults = [f for s in scenarios for f in attack.faults(s) if given.at in (None, f.at)]
        some = chosen(faults, given.n, given.seed)
        for fault in some:
            if (found := attack.attack(fault)) is not None:
                n_found += 1
                print(f"faults: {fault}: {found}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ends = ", ".join(f"{n} {what}" for what, n in sorted(attack.ends.items()))
    calls = len({(f.scenario.name, f.reads, f.at) for f in faults})
    print(f"faults: {len(some)} of {len(faults)} faults at {calls} system calls: {ends}; {n_found} ended as none may")
    return int(bool(n_found))


if __name__ == "__main__":
    sys.exit(main())
