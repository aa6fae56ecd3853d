"""DIALS on one data set, from the images to scaled, unmerged intensities."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BnlError

PROGRAMS = ("import", "find_spots", "index", "refine", "integrate", "symmetry", "scale")


class ChainError(BnlError):
    """A step of the chain failed: the message names the step, its log and its last line."""


@dataclass(frozen=True)
class ChainOptions:
    """How every data set of a comparison is processed.

    `d_min`: resolution limit of the integration, Angstrom: the same for all, or their shells differ.
    `space_group`: symbol given to indexing; None lets dials.symmetry find it after integration.
    `anomalous`: Friedel mates are kept apart in scaling. `quick`: faster algorithms in place of DIALS's
    defaults for spots (without the extended threshold), indexing (1-D transforms) and background (constant).
    """

    d_min: float
    space_group: str | None = None
    anomalous: bool = False
    quick: bool = False
    nproc: int = 2


@dataclass(frozen=True)
class SpotGeometry:
    """How large the spots are and how close they lie, which bounds binning and summing.

    `oscillation`: of an image, degrees. `rocking_sigma`, degrees, and `spot_sigma`, pixels: standard
    deviations of the profiles that dials.integrate found. `spot_spacing`: of neighbours along the longest
    cell axis near the beam, pixels. `longest_axis`: Angstrom.
    """

    oscillation: float
    rocking_sigma: float
    spot_sigma: float
    spot_spacing: float
    longest_axis: float


@dataclass(frozen=True)
class ChainResult:
    """What the chain found. `cell`: a b c in Angstrom and angles in degrees, after refinement.

    `rmsd`: of the refined positions, fast and slow in pixels and rotation in images.
    `unmerged`: MTZ file of the scaled observations. `seconds`: of each step, as run.
    """

    images: int
    spots: int
    indexed: int
    cell: tuple[float, ...]
    rmsd: tuple[float, ...]
    geometry: SpotGeometry
    unmerged: Path
    seconds: dict[str, float]

    @property
    def indexed_fraction(self) -> float:
        """Indexed spots over those that indexing was given."""
        return self.indexed / self.spots if self.spots else 0.0


def missing_dials() -> str:
    """Why the chain can't be run here: the DIALS commands not on the PATH; empty if all are."""
    absent = [f"dials.{name}" for name in PROGRAMS if shutil.which(f"dials.{name}") is None]
    return f"DIALS isn't installed: no {', '.join(absent)} on the PATH" if absent else ""


def dials_environment() -> dict[str, str]:
    """The environment of DIALS's commands.

    DIALS has an HDF5 library of its own, which finds our filters by HDF5_PLUGIN_PATH; and a Python of its
    own, which must not see the packages of ours.
    """
    import hdf5plugin

    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {"HDF5_PLUGIN_PATH": str(hdf5plugin.PLUGIN_PATH), "HDF5_USE_FILE_LOCKING": "FALSE"}


def run_chain(image_file: Path, folder: Path, options: ChainOptions) -> ChainResult:
    """Import `image_file` (a master or a NeXus file) and process it in `folder`.

    Steps that ran before with the same words on the same input aren't repeated. Raises ChainError.
    """
    if reason := missing_dials():
        raise ChainError(reason)
    folder.mkdir(parents=True, exist_ok=True)
    runner = _Runner(folder)
    for name, words, outputs in _steps(image_file.resolve(), options):
        runner.step(name, words, outputs)
    return _result(folder, runner.seconds)


@dataclass(frozen=True)
class Indexed:
    """What indexing found in one or several sweeps together.  `cell`: a b c in Angstrom and angles in degrees."""

    spots: int
    indexed: int
    cell: tuple[float, ...]
    seconds: dict[str, float]


def run_indexing(image_files: Sequence[Path], folder: Path, nproc: int = 2) -> Indexed:
    """Import the files, of one crystal in one or several sweeps, find spots and index all of them together.

    Steps that ran before with the same words aren't repeated. Raises ChainError.
    """
    if reason := missing_dials():
        raise ChainError(reason)
    folder.mkdir(parents=True, exist_ok=True)
    runner = _Runner(folder)
    runner.step("import", [str(path.resolve()) for path in image_files], ["imported.expt"])
    runner.step("find_spots", ["imported.expt", f"nproc={nproc}"], ["strong.refl"])
    words = ["imported.expt", "strong.refl", f"nproc={nproc}"]
    runner.step("index", words, ["indexed.expt", "indexed.refl"])
    log = (folder / "index.out").read_text()
    saved = re.findall(r"Saved (\d+) reflections to strong.refl", (folder / "find_spots.out").read_text())
    experiments = json.loads((folder / "indexed.expt").read_text())
    return Indexed(
        spots=int(saved[-1]) if saved else 0,
        indexed=_counts(log, folder)[0],
        cell=_cell(experiments["crystal"][0]),
        seconds=runner.seconds,
    )


_Step = tuple[str, list[str], list[str]]


def _steps(image_file: Path, options: ChainOptions) -> list[_Step]:
    """Name, words and output files of each command, in order."""
    group = [f"space_group={options.space_group.replace(' ', '')}"] if options.space_group else []
    threshold = ["spotfinder.threshold.algorithm=dispersion"] if options.quick else []
    method = ["indexing.method=fft1d"] if options.quick else []
    background = ["background.algorithm=simple"] if options.quick else []
    nproc = f"nproc={options.nproc}"
    integrated = ["integrated.expt", "integrated.refl"]
    symmetry: list[_Step] = []
    to_scale = integrated
    if not options.space_group:
        to_scale = ["symmetrized.expt", "symmetrized.refl"]
        symmetry = [("symmetry", integrated, to_scale)]
    return [
        ("import", [str(image_file)], ["imported.expt"]),
        ("find_spots", ["imported.expt", nproc, *threshold], ["strong.refl"]),
        # two macrocycles instead of five: the scan-varying refinement comes next anyway
        (
            "index",
            ["imported.expt", "strong.refl", "n_macro_cycles=2", *method, *group],
            ["indexed.expt", "indexed.refl"],
        ),
        ("refine", ["indexed.expt", "indexed.refl"], ["refined.expt", "refined.refl"]),
        (
            "integrate",
            ["refined.expt", "refined.refl", nproc, f"prediction.d_min={options.d_min}", *background],
            integrated,
        ),
        *symmetry,
        (
            "scale",
            [*to_scale, "unmerged_mtz=unmerged.mtz", f"anomalous={options.anomalous}"],
            ["scaled.expt", "scaled.refl", "unmerged.mtz"],
        ),
    ]


class _Runner:
    """Runs commands in a folder, and leaves out those whose result is there from an earlier run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "steps.json"
        self._done: dict[str, Any] = json.loads(self._state.read_text()) if self._state.exists() else {}
        self._fresh = False
        self._environment = dials_environment()
        self.seconds: dict[str, float] = {}

    def step(self, name: str, words: Sequence[str], outputs: Sequence[str]) -> None:
        """Run `dials.NAME WORDS`; a step after one that ran anew runs anew too."""
        before = self._done.get(name)
        there = all((self._folder / output).exists() for output in outputs)
        if self._fresh or before is None or before["words"] != list(words) or not there:
            self._fresh = True
            self._done[name] = {"words": list(words), "seconds": self._run(name, words, outputs)}
            self._state.write_text(json.dumps(self._done, indent=1))
        self.seconds[name] = self._done[name]["seconds"]

    def _run(self, name: str, words: Sequence[str], outputs: Sequence[str]) -> float:
        for output in outputs:
            (self._folder / output).unlink(missing_ok=True)
        log = self._folder / f"{name}.out"
        start = time.perf_counter()
        with log.open("w") as stream:
            status = subprocess.run(
                [f"dials.{name}", *words],
                cwd=self._folder,
                env=self._environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        absent = [output for output in outputs if not (self._folder / output).exists()]
        if status or absent:
            lines = [line for line in log.read_text().splitlines() if line.strip()] or ["no output"]
            raise ChainError(f"dials.{name} ended with status {status} ({log}): {lines[-1].strip()}")
        return round(time.perf_counter() - start, 1)


def _result(folder: Path, seconds: dict[str, float]) -> ChainResult:
    indexed, unindexed = _counts((folder / "index.out").read_text(), folder)
    refined = json.loads((folder / "refined.expt").read_text())
    first, last = refined["scan"][0]["image_range"]
    return ChainResult(
        images=last - first + 1,
        spots=indexed + unindexed,
        indexed=indexed,
        cell=_cell(refined["crystal"][0]),
        rmsd=_rmsd((folder / "refine.out").read_text()),
        geometry=_spot_geometry(json.loads((folder / "integrated.expt").read_text())),
        unmerged=folder / "unmerged.mtz",
        seconds=seconds,
    )


def _counts(log: str, folder: Path) -> tuple[int, int]:
    """Indexed and unindexed spots from the last such table of dials.index's log, over all image sets."""
    start = log.rfind("# unindexed")
    rows = re.findall(r"^\|\s*\d+\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|", log[start:], re.MULTILINE)
    if start < 0 or not rows:
        raise ChainError(f"{folder / 'index.out'} has no table of indexed spots: look what dials.index says")
    return sum(int(row[0]) for row in rows), sum(int(row[1]) for row in rows)


def _rmsd(log: str) -> tuple[float, ...]:
    """RMSD_X, RMSD_Y (pixels) and RMSD_Z (images) of the last table by experiment; empty if it has none."""
    rows = re.findall(r"^\|\s*\d+\s*\|\s*\d+\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|$", log, re.M)
    return tuple(float(value) for value in rows[-1]) if rows else ()


def _spot_geometry(experiments: dict[str, Any]) -> SpotGeometry:
    """Sizes and spacing of the spots from an experiment list that dials.integrate wrote."""
    import numpy as np

    profile, panel = experiments["profile"][0], experiments["detector"][0]["panels"][0]
    normal = np.cross(panel["fast_axis"], panel["slow_axis"])
    pixels = abs(float(np.dot(panel["origin"], normal))) / panel["pixel_size"][0]
    longest = max(_cell(experiments["crystal"][0])[:3])
    return SpotGeometry(
        oscillation=float(experiments["scan"][0]["oscillation"][1]),
        rocking_sigma=float(profile["sigma_m"]),
        spot_sigma=float(np.tan(np.radians(profile["sigma_b"]))) * pixels,
        spot_spacing=experiments["beam"][0]["wavelength"] / longest * pixels,
        longest_axis=longest,
    )


def _cell(crystal: dict[str, Any]) -> tuple[float, ...]:
    """Cell of an experiment list's crystal model: lengths in Angstrom, angles in degrees."""
    import numpy as np

    axes = [np.array(crystal[f"real_space_{name}"]) for name in "abc"]
    lengths = [float(np.linalg.norm(axis)) for axis in axes]
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = [float(axes[i] @ axes[j]) / (lengths[i] * lengths[j]) for i, j in pairs]
    return tuple(lengths) + tuple(float(np.degrees(np.arccos(value))) for value in cosines)
