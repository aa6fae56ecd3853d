"""What is compared: data sets, and the settings that each is reduced with, by their short names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import InputError, UsageError
from ..estimate import names
from ..estimate.names import RAW, Setting
from ..estimate.resolution import read_geometry
from ..hdf5.access import open_read
from ..input import discovery

# The settings of the ACA 2025 talk.
PUBLISHED = ("b2s2", "b2s2H12", "b2s2H16", "b2s2J120", "b2s2J360")
# Without a codec, so that nothing but b and s is lost, and XDS reads them.
EXACT = ("b2s4", "b3s2", "b3s4", "b4s4")
# HTJ2K codestreams as the stored chunks, at the file sizes of the published settings: J120 and H12, then H16.
EQUAL_SIZE = ("b2s2T6.45", "b2s2T9.1")
# At ratios of about 50, 110, 200 and 500 to 2 bytes a raw pixel: more bins and sums, or a coarser code.
TIERS = (
    *("b2s1T12.9", "b1s1T51.5"),
    *("b2s2T14", "b2s4T7", "b3s2T6.3", "b2s1T28", "b1s1T112"),
    *("b2s2T25", "b2s4T12.6", "b3s2T11.3", "b3s4T5.7", "b4s2T6.4", "b2s8T6.4"),
    *("b2s2T62.5", "b2s4T31.5", "b3s4T14", "b4s2T15.8", "b4s4T7.9", "b2s8T16", "b3s8T7"),
)
# Reflections kept, beside what `kept.STUDY` makes of the simulated series.
KEPT = ("b2s2keep", "b2s2keep:zstd9", "b2s3keep:zstd9", "b2s5keep:zstd9")
# For data of one's own: the published ones, and what kept the most of the simulated data at each size.
FOR_INPUT = (*PUBLISHED, *EXACT, *EQUAL_SIZE, "b2s2T14", "b3s2T6.3", "b2s2T25", "b3s4T5.7", "b4s4T7.9", *KEPT)

PREDICTED = "{predicted}"
"""In a setting's words: the reflections that DIALS integrated of the unreduced data."""


DRAWN = "+poisson"
"""After a setting's name: its set is expanded, with a background drawn anew from the kept level, as for XDS."""


@dataclass(frozen=True)
class Drawn(Setting):
    """A kept set that `bnl-mpi expand --background poisson` made a full one of."""

    @property
    def name(self) -> str:
        return super().name + DRAWN

    @property
    def kept(self) -> Setting:
        """The set that is expanded."""
        return Setting(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True)
class Series:
    """One data set, processed with several settings."""

    name: str
    title: str
    simulate: str
    """Words for `bnl-mpi simulate`; empty for a given `master`."""
    master: Path
    d_min: float
    """Resolution limit of all its integrations, Angstrom."""
    truth: Path | None = None
    """The simulation's side file, if there is one."""
    space_group: str | None = None
    anomalous: bool = False
    quick: bool = False


@dataclass(frozen=True)
class _Simulated:
    title: str
    simulate: str
    d_min: float
    settings: tuple[str, ...]
    space_group: str | None = None


# Hot pixels that no mask flags spoil single reflections of the unreduced data too, and a facility masks
# them: without them the codecs' own errors are seen.
SIMULATED: Mapping[str, _Simulated] = {
    "weak": _Simulated(
        "Weak data",
        "--frames 450 --osc 0.1 --resolution 1.65 --brightness 80 --bad_pixels 0",
        1.65,
        (*PUBLISHED, *EXACT, *EQUAL_SIZE, *TIERS),
    ),
    "anomalous": _Simulated(
        "Anomalous differences",
        "--frames 450 --osc 0.1 --resolution 1.9 --brightness 400 --bad_pixels 0 --anomalous --anomalous_ratio 0.1",
        1.9,
        (*PUBLISHED, *EQUAL_SIZE, "b2s2T14", "b2s4T7"),
    ),
    "long": _Simulated(
        "A long axis, wide rocking",
        "--frames 450 --osc 0.1 --resolution 2.2 --brightness 150 --bad_pixels 0 --mosaicity 0.4 --distance 110 "
        "--cell 50 70 190 90 90 90",
        2.2,
        (*PUBLISHED, *EXACT, "b2s2T14", "b3s2T6.3", "b2s2T25"),
        space_group="P 21 21 21",
    ),
}


def simulated_series(name: str, work: Path, quick: bool = False) -> Series:
    """The series of that name, in `work`/name; a UsageError for a name that none has.

    A seed may follow, as in weak:2: the same kind of data, of another crystal, orientation and noise.
    """
    kind, _, seed = name.partition(":")
    if kind not in SIMULATED or not (seed.isdecimal() or name == kind):
        raise UsageError(f"--series {name} is not known; give {' or '.join(SIMULATED)}, or another seed as weak:2")
    chosen = SIMULATED[kind]
    prefix = work / place_of(name) / "input"
    return Series(
        place_of(name),
        f"{chosen.title}, seed {seed}" if seed else chosen.title,
        f"{chosen.simulate} --seed {seed}" if seed else chosen.simulate,
        Path(f"{prefix}_master.h5"),
        chosen.d_min,
        truth=Path(f"{prefix}_truth.h5"),
        space_group=chosen.space_group,
        anomalous="--anomalous" in chosen.simulate.split(),
        quick=quick,
    )


def name_of(setting: Setting | None) -> str:
    """The short name; None is the unreduced input."""
    return RAW if setting is None else setting.name


def place_of(name: str) -> str:
    """The name as a part of a path."""
    return name.replace(":", "_")


def described(setting: Setting | None) -> str:
    """The command's words, without the filter that all have but where codestreams are stored."""
    if setting is None:
        return ""
    if isinstance(setting, Drawn):
        # Expanded, it is stored as any other.
        stored = replace(setting.kept, compression="bslz4", compression_level=None)
        return f"{described(stored)}; expand --background poisson"
    return " ".join(setting.words(PREDICTED)).removesuffix(" -c bslz4")


def settings_of(short_names: Sequence[str]) -> tuple[Setting | None, ...]:
    """The settings, each once; the unreduced data come first, as the others are compared with them."""
    return (None, *dict.fromkeys(_parsed(name) for name in short_names if name != RAW))


def _parsed(name: str) -> Setting:
    setting = names.parse(name.removesuffix(DRAWN))
    if not name.endswith(DRAWN):
        return setting
    if not setting.keep:
        raise UsageError(f"setting '{name}': {DRAWN} draws the background of what --keep left; give b2s2keep{DRAWN}")
    return Drawn(**{field.name: getattr(setting, field.name) for field in fields(setting)})


def resolution_of(master: Path) -> float:
    """Angstrom at the edge of the detector that is nearest to the beam: down to there, circles are whole."""
    with open_read(master) as file:
        geometry, lacking = read_geometry(file)
        slow, fast = discovery.open_source(str(master), file, None, trust_counts=True).shape
    if geometry is None:
        raise InputError(f"{master}: {lacking} isn't told; give the resolution limit by --d_min")
    x, y = geometry.beam_centre
    x, y = min(max(x, 0.0), fast), min(max(y, 0.0), slow)
    edges = geometry.resolution([0, fast, x, x], [y, y, 0, slow])
    return math.ceil(100 * float(edges.max())) / 100
