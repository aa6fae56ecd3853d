"""`verify`: core seconds of a set alone, against its raw data, and with a certificate; and SHA-256 by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bnl_mpi
from benchmarks.timing import interleaved, ratio_of, spread_of
from bnl_mpi.verify.files import hash_file

WORDS = {"bin": 2, "sum": 2, "compression": "bslz4"}
MAIN = str(Path(bnl_mpi.__file__).parent / "__main__.py")


@dataclass
class Verification:
    """`verify` in a process of its own, again and again; a call returns the seconds of a core that it took."""

    words: Sequence[str]
    wall: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        begin = time.perf_counter()
        run = subprocess.Popen(
            [sys.executable, MAIN, "verify", *self.words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        self.wall.append(time.perf_counter() - begin)
        if run.returncode:
            raise subprocess.CalledProcessError(run.returncode, run.args)
        return usage.ru_utime + usage.ru_stime


def measure(masters: Sequence[tuple[Path, int]], folder: Path, repeats: int) -> dict[str, Any]:
    """A row for each set, (master, its frames), and the rate of SHA-256."""
    return {
        "sets": [_of_set(master, frames, folder, repeats) for master, frames in masters],
        "sha256": _sha256(masters[-1][0], 3 * repeats),
    }


def _of_set(master: Path, frames: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Of the whole set, and of its first half: what one frame more takes is the difference."""
    import h5py

    whole, half = (_reduced(master, n, folder) for n in (frames, frames // 2))
    against = ["--against", str(master)]
    works = {
        "alone": Verification([str(whole)]),
        "half alone": Verification([str(half)]),
        "against": Verification([str(whole), *against]),
        "half against": Verification([str(half), *against]),
        "certify": Verification([str(whole), *against, "--certify"]),
    }
    seconds = interleaved(works, repeats)
    with h5py.File(master, "r", locking=False) as file:
        frame_bytes = file["entry/data/data_000001"][0].nbytes
    more = frames - frames // 2
    raw = frames * frame_bytes
    return {
        "set": master.name.removesuffix("_master.h5"),
        "frames": frames,
        "raw_bytes": raw,
        "stored_bytes": sum(path.stat().st_size for path in whole.parent.glob(f"{whole.name[:-10]}_0*.h5")),
        "seconds": {name: asdict(spread_of(seconds[name])) for name in ("alone", "against", "certify")},
        "wall": {name: asdict(spread_of(works[name].wall[-repeats:])) for name in ("alone", "against", "certify")},
        "rate": asdict(spread_of([raw / one for one in seconds["against"]])),
        "frame": {
            name: asdict(
                spread_of([(a - b) / more for a, b in zip(seconds[name], seconds[f"half {name}"], strict=True)])
            )
            for name in ("alone", "against")
        },
        "frame_bytes": frame_bytes,
        "certify_over_against": asdict(ratio_of(seconds["certify"], seconds["against"])),
    }


def _reduced(master: Path, frames: int, folder: Path) -> Path:
    stem = folder / f"verified_{master.name.removesuffix('_master.h5')}_{frames}"
    bnl_mpi.reduce(str(master), out_file=str(stem), last_image=frames, force=True, **WORDS)
    return Path(f"{stem}_master.h5")


def _sha256(master: Path, repeats: int) -> dict[str, Any]:
    """Bytes a second of a core over a data file in the system's cache."""
    path = sorted(master.parent.glob(master.name.replace("_master.h5", "_data_*.h5")))[0]
    rates = []
    for _ in range(repeats):
        begin = time.process_time()
        for _ in range(8):
            n_bytes = hash_file(str(path)).bytes
        rates.append(8 * n_bytes / max(1e-9, time.process_time() - begin))
    flags = Path("/proc/cpuinfo").read_text().split() if os.path.exists("/proc/cpuinfo") else []
    return {"rate": asdict(spread_of(rates)), "has_instructions": "sha_ni" in flags or "sha2" in flags}
