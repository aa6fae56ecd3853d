"""Scaled observations of a data set, and the intensities that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..hdf5.access import open_read

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Crystal:
    """gemmi's cell and space group."""

    cell: Any
    group: Any


@dataclass(frozen=True)
class Observations:
    """Scaled observations: `hkl` (n, 3) in gemmi's (CCP4's) asymmetric unit, `value` and `sigma` (n,)
    on any scale, `plus` (n,): not the Friedel mate of an index in that unit."""

    crystal: Crystal
    hkl: Integers
    value: Floats
    sigma: Floats
    plus: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """Intensities to compare with: `hkl` (n, 3) in the asymmetric unit, `mean`, and, where Friedel mates
    differ, `difference` = I(+) - I(-) (n,), NaN where it isn't known."""

    hkl: Integers
    mean: Floats
    difference: Floats | None = None


def packed(hkl: npt.NDArray[Any]) -> Integers:
    """One number for each row of indices, for |index| < 2^20."""
    shifted = hkl.astype(np.int64) + (1 << 20)
    return np.asarray((shifted[:, 0] << 42) | (shifted[:, 1] << 21) | shifted[:, 2])


def read_observations(path: Path) -> Observations:
    """The observations of an unmerged MTZ file."""
    import gemmi

    mtz = gemmi.read_mtz_file(str(path))
    data = gemmi.Intensities()
    data.import_mtz(mtz, gemmi.DataType.Unmerged)
    data.prepare_for_merging(gemmi.DataType.Anomalous)
    return Observations(
        Crystal(data.unit_cell, data.spacegroup),
        np.array(data.miller_array, dtype=np.int64),
        np.array(data.value_array, dtype=np.float64),
        np.array(data.sigma_array, dtype=np.float64),
        np.array(data.isign_array) >= 0,
    )


def read_truth(path: Path) -> Reference:
    """The intensities that `bnl-mpi simulate` wrote beside its data set, as PREFIX_truth.h5."""
    with open_read(path) as file:
        unique = file["unique"]
        difference = unique["I_plus"][()] - unique["I_minus"][()] if "I_plus" in unique else None
        if difference is not None:
            difference[unique["centric"][()]] = np.nan
        return Reference(unique["hkl"][()].astype(np.int64), unique["I_true"][()], difference)


def spacing(crystal: Crystal, hkl: Integers) -> Floats:
    """d of each reflection, Angstrom."""
    return np.asarray(crystal.cell.calculate_d_array(hkl.astype(np.int32)), dtype=np.float64)
