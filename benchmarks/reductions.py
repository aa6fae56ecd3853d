"""Whole runs of one worker in this process: seconds in each stage, and against a floor.

The floor reads and decodes the input's frames and encodes the output's images, and does nothing else: no
sums, no codec, no files, no checksums. It is measured in the same rounds as the runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bnl_mpi
from benchmarks.timing import Spread, interleaved, ratio_of, spread_of
from bnl_mpi.hdf5.access import open_read
from bnl_mpi.input import discovery, frames
from bnl_mpi.output.filters import Filter
from bnl_mpi.tasks.images import STAGES
from bnl_mpi.tasks.report import SetSummary


@dataclass(frozen=True)
class Setting:
    """A reduction by name; `options` are fields of `bnl_mpi.options.Options`."""

    name: str
    options: dict[str, Any]
    frames: int | None = None
    """How many of the input's frames at most; a slow codec needs no more."""

    @property
    def summed(self) -> int:
        return int(self.options.get("sum", 1))


B2S2: dict[str, Any] = {"bin": 2, "sum": 2, "compression": "bslz4"}
HTJ2K: dict[str, Any] = {"compression": "htj2k", "codec": "htj2k"}
H16 = Setting("b2s2 H16", {**B2S2, "codec": "hcompress", "codec_level": 16})
SLOW = 8
SETTINGS = (
    Setting("b1s1", {"compression": "bslz4"}),
    Setting("b2s2", B2S2),
    H16,
    Setting("b2s2 J120", {**B2S2, "codec": "j2k", "codec_level": 120}, SLOW),
    Setting("b2s2 J120, 2 threads", {**B2S2, "codec": "j2k", "codec_level": 120, "codec_threads": 2}, SLOW),
    Setting("b2s2 K120", {**B2S2, "codec": "j2k2", "codec_level": 120}, SLOW),
    Setting("b2s2 T120", {**B2S2, "codec": "htj2k", "codec_level": 120}),
    Setting("b2s2 htj2k", {**B2S2, "compression": "htj2k"}),
    Setting("b2s2 T14 htj2k", {**B2S2, **HTJ2K, "codec_level": 14}),
    Setting("b3s2 T6.3 htj2k", {**B2S2, **HTJ2K, "bin": 3, "codec_level": 6.3}),
)


def available(settings: Sequence[Setting]) -> list[Setting]:
    """Those whose codec this installation has."""
    from bnl_mpi import codecs
    from bnl_mpi.errors import BnlError
    from bnl_mpi.options import Options

    found = []
    for setting in settings:
        try:
            codec = codecs.make(Options(infile="", **setting.options))
        except (BnlError, ImportError):
            continue
        if codec is not None or "codec" not in setting.options:
            found.append(setting)
    return found


class Run:
    """One setting applied to one set, again and again; `summaries` holds what each call told."""

    def __init__(self, master: Path, setting: Setting, folder: Path) -> None:
        self.summaries: list[SetSummary] = []
        self._infile, self._setting = str(master), setting
        self._stem = str(folder / f"out_{setting.name.replace(' ', '_').replace(',', '')}")
        self.frames = _frames(master, setting)

    def __call__(self) -> float:
        summary = bnl_mpi.reduce(
            self._infile, out_file=self._stem, force=True, last_image=self.frames, **self._setting.options
        )
        assert summary is not None
        self.summaries.append(summary)
        return float(summary.ranks[0]["busy"])

    def stages(self, last: int) -> dict[str, Spread]:
        """Seconds in each stage over the `last` calls."""
        ranks = [summary.ranks[0] for summary in self.summaries[-last:]]
        return {stage: spread_of([rank[stage] for rank in ranks]) for stage in STAGES}

    @property
    def summary(self) -> SetSummary:
        return self.summaries[-1]


def _frames(master: Path, setting: Setting) -> int:
    with open_read(str(master)) as file:
        found = discovery.open_source(str(master), file, None, trust_counts=False)
    frames = min(found.n_frames, setting.frames or found.n_frames)
    return frames - frames % setting.summed


class Floor:
    """Read and decode as many frames as `run` does, encode its images without loss; one call is one whole set."""

    def __init__(self, master: Path, run: Run, compression: str = "bslz4") -> None:
        with open_read(str(master)) as file:
            self._source = discovery.open_source(str(master), file, None, trust_counts=False)
        self._frame = np.empty(self._source.shape, self._source.dtype)
        self._frames, self._n_images = run.frames, run.summary.images
        self._images = _stored_images(run.summary.data_files[0], 4)
        self._encode = Filter(compression).encoder()

    def __call__(self) -> float:
        begin = time.perf_counter()
        reader = frames.FrameReader(self._source)
        for frame in range(self._frames):
            reader.decode(reader.fetch(frame, self._frame), frame, self._frame)
        for image in range(self._n_images):
            self._encode(self._images[image % len(self._images)])
        reader.close()
        return time.perf_counter() - begin


def _stored_images(path: str, most: int) -> list[np.ndarray[Any, Any]]:
    import hdf5plugin  # noqa: F401

    with open_read(path) as file:
        images: list[np.ndarray[Any, Any]] = list(file["entry/data/data"][:most])
    return images


def measure_settings(master: Path, folder: Path, settings: Sequence[Setting], repeats: int) -> list[dict[str, Any]]:
    """A row for each setting: seconds of run and floor, their ratio, rates, stages."""
    return [_measure_setting(master, folder, setting, repeats) for setting in available(settings)]


def _measure_setting(master: Path, folder: Path, setting: Setting, repeats: int) -> dict[str, Any]:
    run = Run(master, setting, folder)
    run()
    floor = Floor(master, run)
    works: dict[str, Callable[[], float]] = {"run": run, "floor": floor}
    seconds = interleaved(works, repeats)
    raw = run.frames * _frame_bytes(master)
    return {
        "setting": setting.name,
        "frames": run.frames,
        "raw_bytes": raw,
        "run_seconds": asdict(spread_of(seconds["run"])),
        "floor_seconds": asdict(spread_of(seconds["floor"])),
        "over_floor": asdict(ratio_of(seconds["run"], seconds["floor"])),
        "raw_mb_per_s": asdict(spread_of([raw / 1e6 / s for s in seconds["run"]])),
        "whole_job_seconds": asdict(spread_of([s.seconds for s in run.summaries[-repeats:]])),
        "stages": {stage: asdict(spread) for stage, spread in run.stages(repeats).items()},
        "ratio_to_raw16": run.summary.ratio_to_raw16,
    }


def measure_stages(master: Path, folder: Path, repeats: int, setting: Setting = H16) -> dict[str, Any]:
    """Seconds a frame in each stage for `master`, and the raw bytes of a frame."""
    run = Run(master, setting, folder)
    seconds = interleaved({"run": run}, repeats)["run"]
    with open_read(str(master)) as file:
        shape = file["entry/data/data_000001"].shape
    return {
        "set": master.name.removesuffix("_master.h5"),
        "shape": list(shape[1:]),
        "frame_bytes": _frame_bytes(master),
        "image_bytes": _frame_bytes(Path(run.summary.master)),
        "stored_bytes": run.summary.bytes_in / run.frames,
        "frames": run.frames,
        "seconds_a_frame": asdict(spread_of([s / run.frames for s in seconds])),
        "stages": {
            stage: {k: v / run.frames if k != "n" else v for k, v in asdict(spread).items()}
            for stage, spread in run.stages(repeats).items()
        },
    }


def _frame_bytes(master: Path) -> int:
    with open_read(str(master)) as file:
        dataset = file["entry/data/data_000001"]
        return int(np.prod(dataset.shape[1:])) * int(dataset.dtype.itemsize)
