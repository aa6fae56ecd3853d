"""Which setting: the one that adds least noise among those that are as small, or as good, as is asked for."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from ..errors import UsageError
from .study import Estimate, Findings, harm

UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
DEFAULT_RATIO = 50.0
"""To 2 bytes a raw pixel: where the published advice begins."""


@dataclass(frozen=True)
class Aim:
    """At most one of the three."""

    target_ratio: float | None = None
    max_size: float | None = None
    """Bytes."""
    min_kept: float | None = None
    """Least correlation of any shell, before with after."""

    def __post_init__(self) -> None:
        given = [n for n in ("target_ratio", "max_size", "min_kept") if getattr(self, n) is not None]
        if len(given) > 1:
            raise UsageError(f"--{' and --'.join(given)} exclude each other: give one")
        for name in given:
            value = getattr(self, name)
            if not value > 0 or (name == "min_kept" and value > 1):
                raise UsageError(f"--{name} {value:g}: must be above 0" + (", at most 1" * (name == "min_kept")))

    def words(self) -> str:
        """What is asked for."""
        if self.max_size is not None:
            return f"at most {size_text(self.max_size)}"
        if self.min_kept is not None:
            return f"a correlation of at least {self.min_kept:g} in every shell"
        return f"a ratio of at least {self.target_ratio or DEFAULT_RATIO:g}"


def parse_size(text: str) -> float:
    """Bytes of `2GB`, `500 MB`, `1e9`."""
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([kKMGT]?i?B?)\s*", text)
    unit = match[2].upper() if match else "?"
    unit = unit if unit in UNITS else f"{unit}B"
    if match is None or unit not in UNITS:
        raise UsageError(f"--max_size {text}: give bytes, or a number with kB, MB, GB or TB")
    return float(match[1]) * UNITS[unit]


def size_text(n_bytes: float) -> str:
    """`1.25 GB`: three figures, decimal units."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}" if n_bytes < 999.5 * size else f"{n_bytes / size:.0f} {unit}"
    return f"{n_bytes:.0f} bytes"


@dataclass(frozen=True)
class Choice:
    """The recommendation; `estimate` is None where no setting meets the aim."""

    estimate: Estimate | None
    reason: str


def recommend(findings: Findings, aim: Aim) -> Choice:
    """The gentlest that is small enough, or with `min_kept` the smallest that is good enough."""
    fitting = [one for one in findings.estimates if _fits(one, aim)]
    if not fitting:
        nearest = min(findings.estimates, key=lambda e: harm(e) if aim.min_kept is not None else e.projection.total)
        return Choice(None, f"no setting gives {aim.words()}; the nearest is {nearest.name}: try others with --try")
    if aim.min_kept is not None:
        best = min(fitting, key=lambda e: e.projection.total)
        return Choice(best, f"the smallest with {aim.words()}")
    best = min(fitting, key=lambda e: (harm(e), e.projection.total))
    return Choice(best, f"adds least noise of those with {aim.words()}")


def _fits(one: Estimate, aim: Aim) -> bool:
    if aim.max_size is not None:
        return one.projection.total <= aim.max_size
    if aim.min_kept is not None:
        return one.losses.kept is not None and one.losses.kept >= aim.min_kept
    return one.projection.ratio >= (aim.target_ratio or DEFAULT_RATIO)


def command(findings: Findings, one: Estimate, workers: int | None, keep: str | None = None) -> str:
    """The command that makes the set, as a shell takes it."""
    stem = os.path.basename(findings.infile).removesuffix(".h5").removesuffix("_master")
    name = re.sub(r"[^\w.]", "_", one.name).replace(".", "_")
    words = ["bnl-mpi", "-i", findings.infile, *one.setting.words(keep)]
    if workers:
        words += ["-p", str(workers)]
    return shlex.join([*words, "-o", f"{stem}_{name}"])


def sbatch(findings: Findings, one: Estimate, workers: int | None, keep: str | None = None) -> str:
    """The same as a batch job by the script in `slurm/`: a rank for the masters, and the workers."""
    ranks = min(workers or 32, one.files) + 1
    words = command(findings, one, None, keep).removeprefix("bnl-mpi ")
    return f"sbatch -n {ranks} slurm/one_dataset.sbatch {words}"
