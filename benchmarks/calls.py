"""What a run asks of the file system: system calls on input and output, by rank and kind, counted by strace."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnl_mpi.run.launch import mpiexec_command

KINDS: Mapping[str, tuple[str, ...]] = {
    "stat": ("stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2"),
    "open": ("open", "openat", "creat"),
    "list": ("getdents", "getdents64"),
    "create, rename or remove": ("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat"),
    "truncate": ("ftruncate", "truncate"),
    "fsync": ("fsync", "fdatasync"),
    "read": ("read", "pread64", "readv", "preadv"),
    "write": ("write", "pwrite64", "writev", "pwritev"),
}
METADATA = ("stat", "open", "list", "create, rename or remove", "truncate")
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)(?:\) += -?\d+| <unfinished \.\.\.>)")
"""A call, also one that another thread's line has interrupted, whose end comes in a line that isn't one."""
_KIND_OF = {call: kind for kind, calls in KINDS.items() for call in calls}


def available() -> bool:
    """Whether strace is installed and may trace here."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def count(lines: Iterable[str], folders: Iterable[str]) -> Counter[str]:
    """Calls by kind in the lines of `strace -y` that name a path in one of `folders`."""
    names = tuple(folders)
    found: Counter[str] = Counter()
    for line in lines:
        match = _CALL.match(line)
        if match and match[1] in _KIND_OF and any(name in match[2] for name in names):
            found[_KIND_OF[match[1]]] += 1
    return found


def trace(master: Path, words: str, ranks: int, folder: Path) -> list[Counter[str]]:
    """Counts of each rank of a run, rank 0 first: the one that reads the master to the end is rank 0."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name) / "out"
        out.mkdir()
        command, environment = mpiexec_command(ranks, ["-i", str(master), *shlex.split(words), "-o", str(out / "set")])
        at = command.index(sys.executable)
        traced = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "512", "-e", "trace=" + ",".join(_KIND_OF)]
        # A shell a rank, so that each rank's trace has a file of its own.
        ranked = shlex.join(traced) + f" -o {shlex.quote(name)}/trace.$$ " + shlex.join(command[at:])
        done = subprocess.run(
            [*command[:at], "sh", "-c", ranked], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise RuntimeError(f"a traced run ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        counts = []
        for path in Path(name).glob("trace.*"):
            with path.open(errors="replace") as file:
                lines = file.readlines()
            is_rank_0 = any("set_master.h5" in line for line in lines)
            counts.append((not is_rank_0, path.name, count(lines, [str(out), str(master.parent)])))
    return [found for *_, found in sorted(counts, key=lambda item: item[:2])]


def measure(master: Path, words: str, folder: Path, ranks: int = 3) -> dict[str, Any]:
    """Counts by kind of rank 0 and of a worker, and what one more block costs the worker."""
    few = trace(master, f"{words} -N 40 -d 5", ranks, folder)
    many = trace(master, f"{words} -N 80 -d 5", ranks, folder)
    blocks = 40 // 2 // 5 // (ranks - 1)
    return {
        "rank_0": dict(few[0]),
        "rank_0_of_twice_the_blocks": dict(many[0]),
        "worker": dict(few[1]),
        "block": {kind: (many[1][kind] - few[1][kind]) / blocks for kind in KINDS},
    }
