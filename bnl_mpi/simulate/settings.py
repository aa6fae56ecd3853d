"""What can be chosen about a simulated data set; the command line is made from these fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from bnl_mpi.errors import UsageError


@dataclass(frozen=True)
class CrystalForm:
    """A crystal known by name: cell edges in Angstrom and angles in degrees, Hermann-Mauguin symbol."""

    cell: tuple[float, float, float, float, float, float]
    space_group: str


CRYSTALS: Mapping[str, CrystalForm] = {
    "lysozyme": CrystalForm((78.54, 78.54, 37.77, 90.0, 90.0, 90.0), "P 43 21 2"),
    "insulin": CrystalForm((78.0, 78.0, 78.0, 90.0, 90.0, 90.0), "I 21 3"),
    "thaumatin": CrystalForm((57.8, 57.8, 150.2, 90.0, 90.0, 90.0), "P 41 21 2"),
}
MODELS = ("500k", "1M", "4M", "9M", "16M")
FLAVOURS = ("eiger1", "eiger2")
COMPRESSIONS = ("bslz4", "lz4", "none")
BITS = (8, 16, 32)


def _option(default: Any, text: str, **extra: Any) -> Any:
    """A field whose help text and choices the command line takes over."""
    return field(default=default, metadata={"help": text, **extra})


@dataclass(frozen=True)
class Settings:
    """A simulated experiment, checked on creation: a wrong value raises UsageError."""

    detector: str = _option("1M", "detector model", choices=MODELS)
    bits: int = _option(16, "bits a pixel in the data files", choices=BITS)
    frames: int = _option(90, "number of frames, over all triggers")
    osc: float = _option(0.1, "rotation a frame in degrees; negative turns backwards, 0 gives stills")
    omega_start: float = _option(0.0, "omega at the start of the first frame, degrees")
    images_per_file: int = _option(100, "frames a data file")
    flavour: str = _option("eiger1", "master as the older FileWriter or Eiger 2 writes it", choices=FLAVOURS)
    anomalous: bool = _option(False, "let Friedel mates differ")
    seed: int = _option(0, "seed of crystal, orientation and noise")
    first_file_number: int = _option(1, "number of the first data file (0 or 1 in practice)")
    compression: str = _option("bslz4", "filter of the data files", choices=COMPRESSIONS)
    ntrigger: int = _option(1, "triggers that the frames are shared among, must divide them")
    crystal: str = _option("lysozyme", "crystal form", choices=tuple(CRYSTALS))
    cell: tuple[float, ...] | None = _option(
        None, "cell in place of the crystal's own: a b c in Angstrom, angles in degrees", nargs=6
    )
    space_group: str | None = _option(None, "space group in place of the crystal's own, as 'P 21 21 21'")
    distance: float | None = _option(
        None, "detector distance in mm; by default the edge of the detector sees about 2 Angstrom"
    )
    wavelength: float = _option(1.0, "wavelength, Angstrom")
    resolution: float | None = _option(None, "resolution limit in Angstrom; by default the detector's corner")
    mosaicity: float = _option(0.1, "standard deviation of the rocking curve, degrees")
    spot_sigma: float = _option(0.9, "standard deviation of the spot profile, pixels")
    b_factor: float = _option(18.0, "overall B factor, square Angstrom")
    brightness: float = _option(400.0, "mean intensity of a reflection at zero angle, counts")
    background: float = _option(8.0, "background at the water ring: counts a pixel and degree")
    anomalous_ratio: float = _option(0.05, "rms of (F+ - F-) over rms of F, with anomalous")
    frame_time: float = _option(0.1, "time a frame, seconds")
    bad_pixels: float = _option(2e-5, "share of the pixels that are bad, for each kind of fault")
    flatfield: bool = _option(False, "also store a flat field in the master")

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        if self.frames % self.ntrigger:
            raise UsageError(
                f"--ntrigger {self.ntrigger} doesn't divide --frames {self.frames}: "
                "give a number of frames that is a multiple of the triggers"
            )
        if self.cell is not None and len(self.cell) != 6:
            raise UsageError(f"--cell has {len(self.cell)} values: give a b c alpha beta gamma")
        if self.resolution is not None and 2 * self.resolution <= self.wavelength:
            raise UsageError(
                f"--resolution {self.resolution} can't be reached at --wavelength {self.wavelength}: "
                "give more than half the wavelength"
            )

    def _check_choices(self) -> None:
        choices = {
            "detector": MODELS,
            "bits": BITS,
            "flavour": FLAVOURS,
            "compression": COMPRESSIONS,
            "crystal": tuple(CRYSTALS),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"--{name} {value} is unknown: choose from {', '.join(map(str, known))}")

    def _check_numbers(self) -> None:
        for name in ("frames", "images_per_file", "ntrigger"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}: give 1 or more")
        for name in ("seed", "first_file_number"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name} is {getattr(self, name)}: give 0 or more")
        for name in ("distance", "wavelength", "resolution", "mosaicity", "spot_sigma", "frame_time"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise UsageError(f"--{name} is {value}: give a number above 0")
        for name in ("b_factor", "brightness", "background", "anomalous_ratio", "bad_pixels"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise UsageError(f"--{name} is {value}: give 0 or more")
        for name in ("osc", "omega_start"):
            if not isfinite(getattr(self, name)):
                raise UsageError(f"--{name} is {getattr(self, name)}: give an angle in degrees")
        if self.bad_pixels > 0.01:
            raise UsageError(f"--bad_pixels is {self.bad_pixels}: give a share of at most 0.01")

    @property
    def exposed_width(self) -> float:
        """Rotation in degrees that a frame's exposure is worth: for stills that of a 0.1 degree frame."""
        return abs(self.osc) or 0.1

    @property
    def crystal_form(self) -> CrystalForm:
        """Cell and space group after what was given in place of the named crystal's."""
        named = CRYSTALS[self.crystal]
        a, b, c, alpha, beta, gamma = self.cell if self.cell is not None else named.cell
        return CrystalForm((a, b, c, alpha, beta, gamma), self.space_group or named.space_group)
