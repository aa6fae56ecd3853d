"""What grows with the number of ranks or files: broadcast, memory of rank 0, calls to the file system."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import calls, scaling
from bnl_mpi import job as jobs
from bnl_mpi.job import Job
from bnl_mpi.options import Options


def broadcast_bytes(job: Job) -> int:
    """Bytes that each worker gets from rank 0 before it starts."""
    return len(zlib.compress(pickle.dumps(job), 1))


def planned_job(master: Path, **options: Any) -> Job:
    """The job for `master`; nothing is written."""
    return jobs.prepare(Options(infile=os.fspath(master), **options)).job


def measure(
    master: Path, workers: Sequence[int], folder: Path, words: str = "-b 2 -s 2 -H 16 -c bslz4"
) -> list[dict[str, Any]]:
    """A row for each number of workers, each worker with one block: peak memory, broadcast, calls."""
    rows = []
    for n in workers:
        scale = scaling.Scale(master, 4 * n, 2, words=tuple(words.split()))
        run = scaling.launch(scale, n, 4 * n, folder)
        job = planned_job(master, bin=2, sum=2, last_image=4 * n, data_block_size=2, compression="bslz4")
        row: dict[str, Any] = {
            "workers": n,
            "broadcast_bytes": broadcast_bytes(job),
            "peak_bytes_rank_0": run.notes[0]["peak_bytes"],
            "peak_bytes_worker": max(note["peak_bytes"] for note in run.workers),
            "first_frame": max(note["first_frame"] for note in run.workers),
        }
        if calls.available():
            counts = calls.trace(master, f"{words} -d 2 -N {4 * n}", n + 1, folder)
            row["metadata_calls_rank_0"] = sum(counts[0][kind] for kind in calls.METADATA)
            row["metadata_calls_worker"] = max(sum(c[kind] for kind in calls.METADATA) for c in counts[1:])
        rows.append(row)
    return rows
