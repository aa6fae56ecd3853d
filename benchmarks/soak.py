"""A long run watched: `python -m benchmarks.soak --frames 3600`.

A few simulated frames, linked again and again, make a long set.  Two workers reduce it, once to HTJ2K codestreams and
once through HCompress; every half second each rank's memory, descriptors and threads, and the space of temporary
files, are read.  After the first block all of them must stay flat: the memory within five per cent.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import inputs
from bnl_mpi.run.launch import mpiexec_command

SETTINGS = ("-b 2 -s 2 -T 14 -c htj2k", "-b 2 -s 2 -H 16 -c bslz4")
FLAT = 1.05
TOKEN = "BNL_MPI_SOAK"
"""In the environment of all processes of a run: by it they are found."""


@dataclass
class Rank:
    """What was seen of one rank: (bytes held, descriptors, threads), one after the other."""

    seen: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Watched:
    """One run: its ranks, and the most temporary space, before and after its first block was there."""

    settings: str
    seconds: float = 0.0
    early: dict[int, Rank] = field(default_factory=dict)
    late: dict[int, Rank] = field(default_factory=dict)
    temporary: list[int] = field(default_factory=list)

    def growth(self) -> float:
        """The most memory of any rank in the last quarter of its time, by the most in the first of it."""
        return max((_ends(rank, 0) for rank in self.late.values() if len(rank.seen) >= 8), default=1.0)

    def is_flat(self) -> bool:
        counts = [_ends(rank, k) for rank in self.late.values() if len(rank.seen) >= 8 for k in (1, 2)]
        return self.growth() <= FLAT and all(count <= FLAT for count in counts)

    def lines(self) -> Iterator[str]:
        yield f"{self.settings}: {self.seconds:.0f} s, {max(self.temporary, default=0) >> 20} MiB of temporary files"
        for pid, rank in sorted(self.late.items()):
            memory, descriptors, threads = zip(*rank.seen, strict=True)
            ends = f"{_ends(rank, 0):.3f} of the first quarter's in the last"
            counts = f"{min(descriptors)} to {max(descriptors)} descriptors, {min(threads)} to {max(threads)} threads"
            yield f"  process {pid}: {max(memory) / 1e6:.0f} MB, {ends}; {counts}"


def _ends(rank: Rank, which: int) -> float:
    quarter = max(1, len(rank.seen) // 4)
    return max(s[which] for s in rank.seen[-quarter:]) / max(s[which] for s in rank.seen[:quarter])


def _ranks(token: str) -> Iterator[int]:
    """Processes of the run that are Python: launcher and proxies are not of interest."""
    word = f"{TOKEN}={token}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            if word in environment and any(name.startswith((b"PMI_RANK=", b"OMPI_COMM")) for name in environment):
                yield int(folder.name)


def _facts(pid: int) -> tuple[int, int, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def _temporary(folders: Sequence[Path]) -> int:
    """Bytes of what isn't under a final name, and of all in TMPDIR."""
    total = 0
    for path in (p for folder in folders for p in folder.rglob("*")):
        with contextlib.suppress(OSError):
            if path.name.endswith(".partial") or folders[1] in path.parents:
                total += path.stat().st_size
    return total


def watch(master: Path, settings: str, folder: Path, *, workers: int, seconds: float = 0.5) -> Watched:
    """Reduce the set with `settings`; raises CalledProcessError where that fails."""
    out, temporary = folder / "out", folder / "tmp"
    for path in (out, temporary):
        path.mkdir(parents=True)
    words = ["-i", str(master), *settings.split(), "-o", str(out / "set"), "-d", "50"]
    command, environment = mpiexec_command(workers + 1, words)
    environment |= {TOKEN: str(os.getpid()), "TMPDIR": str(temporary)}
    found, begin = Watched(settings), time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            is_late = (out / "set_000002.h5").exists()
            for pid in _ranks(environment[TOKEN]):
                with contextlib.suppress(OSError, KeyError, ValueError):
                    (found.late if is_late else found.early).setdefault(pid, Rank()).seen.append(_facts(pid))
            found.temporary.append(_temporary((out, temporary)))
            time.sleep(seconds)
    found.seconds = time.monotonic() - begin
    shutil.rmtree(folder)
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command)
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Watch both runs and tell; 0 if all was flat."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--detector", default="16M")
    parser.add_argument("--frames", type=int, default=3600, help="a multiple of --stored")
    parser.add_argument("--stored", type=int, default=4, help="frames that are really there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, choices=range(1, len(SETTINGS) + 1), help="one setting, by its number")
    given = parser.parse_args(words)
    flat = True
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        short = inputs.simulated(Path(name), given.detector, 32, given.stored)
        master = inputs.multiplied(short, given.frames // given.stored)
        for k, settings in enumerate(SETTINGS if given.only is None else SETTINGS[given.only - 1 : given.only]):
            found = watch(master, settings, Path(name) / str(k), workers=given.workers)
            flat = flat and found.is_flat()
            print("\n".join(found.lines()), flush=True)
    print("soak: flat" if flat else "soak: something grew")
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
