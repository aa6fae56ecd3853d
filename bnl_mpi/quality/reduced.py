"""The data sets of a comparison: simulated where they aren't given, reduced, and how large their files are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..estimate.names import RAW, Setting
from ..hdf5.access import open_read
from ..hdf5.names import DATA, IMAGES
from .chain import ChainError
from .settings import Drawn, Series, described, name_of, place_of

STRONG_FILTER = "bszstd"
"""Stores smaller than bslz4, which XDS needs."""


def make_input(series: Series) -> None:
    """Simulate the series' input unless it is there."""
    if not series.simulate:
        return
    marker = series.master.with_name("simulated.txt")
    if marker.exists() and marker.read_text() == series.simulate:
        return
    series.master.parent.mkdir(parents=True, exist_ok=True)
    prefix = str(series.master).removesuffix("_master.h5")
    group = ["--space_group", series.space_group] if series.space_group else []
    _bnl_mpi(["simulate", prefix, *series.simulate.split(), *group, "--force"])
    marker.write_text(series.simulate)


def make_reduced(series: Series, setting: Setting | None, folder: Path, nproc: int) -> tuple[Path, list[Path]]:
    """What DIALS is to import, and the data files; None leaves the input as it is."""
    if setting is None:
        return series.master, _linked_files(series.master)
    place = place_of(name_of(setting))
    stem = folder / place / place
    master, marker = Path(f"{stem}_master.h5"), stem.parent / "words.txt"
    wish = f"{described(setting)}\n{series.simulate or series.master}\n"
    if not (master.exists() and marker.exists() and marker.read_text() == wish):
        _reduce(series, setting, folder, stem, nproc)
        marker.write_text(wish)
    return Path(f"{stem}.nxs"), _linked_files(master)


def strong_size(series: Series, setting: Setting | None, folder: Path, nproc: int) -> int:
    """Bytes of the data files when the same images are stored with the stronger lossless filter."""
    stem = folder / "strong" / "strong"
    _reduce(
        series, replace(setting or Setting(), compression=STRONG_FILTER, compression_level=None), folder, stem, nproc
    )
    total = size(_linked_files(Path(f"{stem}_master.h5")))
    shutil.rmtree(stem.parent)
    return total


def _reduce(series: Series, setting: Setting, folder: Path, stem: Path, nproc: int) -> None:
    """Images are of equally many frames: one of fewer would spoil the merged intensities by itself."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    made = stem.with_name(f"{stem.name}_kept") if isinstance(setting, Drawn) else stem
    words = setting.words(str(folder / f"dials_{RAW}" / "integrated.refl"))
    words += ["--drop_partial"] if setting.sum > 1 else []
    how = ["-p", str(nproc), "--force"]
    _bnl_mpi(["-i", str(series.master), *words, *how, "-o", str(made)])
    if isinstance(setting, Drawn):
        _bnl_mpi(["expand", f"{made}_master.h5", "--background", "poisson", *how, "-o", str(stem)])


def _bnl_mpi(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "bnl_mpi", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # the launcher's own lines come last and say nothing of the cause
        lines = [line for line in done.stderr.splitlines() if line.strip() and "MPI_Abort" not in line]
        cause = lines[-1].strip() if lines else "no message"
        raise ChainError(f"bnl-mpi {' '.join(words)} ended with status {done.returncode}: {cause}")


def _linked_files(master: Path) -> list[Path]:
    """The data files that a master's /entry/data links."""
    import h5py

    with open_read(master) as file:
        group = file[DATA]
        links = [group.get(name, getlink=True) for name in sorted(group)]
    names = dict.fromkeys(link.filename for link in links if isinstance(link, h5py.ExternalLink))
    if not names:
        raise ChainError(f"{master} links no data files in /entry/data: give a master of the Eiger FileWriter")
    return [master.parent / name for name in names]


def size(files: Sequence[Path]) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in files)


def unpacked_size(files: Sequence[Path]) -> int:
    """Bytes of all images at 2 bytes a pixel."""
    total = 0
    for name in files:
        with open_read(name) as file:
            total += 2 * int(file[IMAGES].size)
    return total


def image_shape(data_file: Path) -> list[int]:
    """Images of the first data file: slow, fast."""
    with open_read(data_file) as file:
        return [int(size) for size in file[IMAGES].shape[1:]]
