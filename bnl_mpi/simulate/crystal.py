"""A crystal: intensities that obey its symmetry and Wilson's statistics, and its orientation.

Symmetry comes from gemmi.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnl_mpi.errors import UsageError
from bnl_mpi.simulate.settings import CrystalForm, Settings

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Intensities:
    """Unique reflections: `hkl` (n, 3) in the asymmetric unit that gemmi and CCP4 use.

    `plus` and `minus` (n,): intensity of hkl and of its Friedel mate, in counts of a fully recorded
    reflection before Lorentz factor, polarisation and the sensor's efficiency; equal for centric ones.
    """

    hkl: Integers
    plus: Floats
    minus: Floats
    centric: npt.NDArray[np.bool_]

    @property
    def mean(self) -> Floats:
        """Mean of both mates."""
        return (self.plus + self.minus) / 2


@dataclass(frozen=True)
class Crystal:
    """A crystal in its orientation at omega = 0.

    `a_matrix` (3, 3) turns hkl (a column) into a reciprocal vector in 1/Angstrom in the laboratory frame
    of `bnl_mpi.simulate.detector`. `all_hkl` (m, 3): every reflection in the sphere, Friedel mates
    included; `all_intensity` (m,): theirs.
    """

    form: CrystalForm
    a_matrix: Floats
    unique: Intensities
    all_hkl: Integers
    all_intensity: Floats


def random_rotation(rng: np.random.Generator) -> Floats:
    """A rotation matrix, uniform over all orientations (from a uniform unit quaternion)."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _gemmi() -> Any:
    try:
        import gemmi
    except ImportError as error:
        raise UsageError("simulate needs gemmi for the crystal's symmetry: pip install 'bnl-mpi[simulate]'") from error
    return gemmi


def _space_group(form: CrystalForm) -> tuple[Any, Any]:
    """gemmi's cell and space group, checked against each other."""
    gemmi = _gemmi()
    group = gemmi.find_spacegroup_by_name(form.space_group)
    if group is None:
        raise UsageError(f"--space_group {form.space_group} is unknown: give a symbol such as 'P 21 21 21'")
    if not group.is_sohncke():
        raise UsageError(f"--space_group {form.space_group} has mirrors or inversions: give a chiral one")
    cell = gemmi.UnitCell(*form.cell)
    if not cell.is_crystal() or not cell.volume > 0:
        raise UsageError(f"--cell {' '.join(map(str, form.cell))} is no cell: give a b c alpha beta gamma")
    if not cell.is_compatible_with_spacegroup(group):
        raise UsageError(
            f"--cell {' '.join(map(str, form.cell))} doesn't fit --space_group {form.space_group}: change one"
        )
    return cell, group


def wilson_intensities(settings: Settings, resolution: float, rng: np.random.Generator) -> tuple[Intensities, Any, Any]:
    """Unique intensities down to `resolution` Angstrom, with gemmi's cell and space group.

    Structure factors of a random structure: complex normal where acentric, real normal where centric, with
    variance epsilon * brightness * exp(-B / 2 d^2).
    """
    cell, group = _space_group(settings.crystal_form)
    hkl = np.asarray(_gemmi().make_miller_array(cell, group, resolution), dtype=np.int32)
    if not len(hkl):
        raise UsageError(f"no reflection has d above {resolution:.2f} Angstrom: give a larger --cell")
    operations = group.operations()
    centric = np.asarray(operations.centric_flag_array(hkl), dtype=bool)
    epsilon = np.asarray(operations.epsilon_factor_without_centering_array(hkl), dtype=float)
    inverse_d2 = np.asarray(cell.calculate_1_d2_array(hkl), dtype=float)
    variance = epsilon * settings.brightness * np.exp(-settings.b_factor * inverse_d2 / 2)
    parts = rng.standard_normal((2, len(hkl)))
    amplitude2 = np.where(centric, parts[0] ** 2, (parts**2).sum(axis=0) / 2)
    amplitude = np.sqrt(variance * amplitude2)
    half_difference = np.zeros(len(hkl))
    if settings.anomalous:
        spread = settings.anomalous_ratio / 2 * np.sqrt(variance) * rng.standard_normal(len(hkl))
        half_difference = np.where(centric, 0.0, spread)
    plus, minus = (amplitude + half_difference) ** 2, (amplitude - half_difference) ** 2
    return Intensities(hkl, plus, minus, centric), cell, group


def expand(unique: Intensities, group: Any) -> tuple[Integers, Floats]:
    """All symmetry equivalents and Friedel mates, each once: hkl (m, 3) and intensity (m,)."""
    rotations = [np.array(operation.rot) // operation.DEN for operation in group.operations().sym_ops]
    found: list[tuple[Integers, Floats]] = []
    for sign, intensity in ((1, unique.plus), (-1, unique.minus)):
        found.extend((sign * unique.hkl @ rotation, intensity) for rotation in rotations)
    hkl = np.concatenate([indices for indices, _ in found])
    intensity = np.concatenate([values for _, values in found])
    _, first = np.unique(_packed(hkl), return_index=True)
    return hkl[first].astype(np.int32), intensity[first]


def _packed(hkl: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """One number for each hkl, for |index| < 2^20."""
    shifted = hkl.astype(np.int64) + (1 << 20)
    return np.asarray((shifted[:, 0] << 42) | (shifted[:, 1] << 21) | shifted[:, 2])


def make_crystal(settings: Settings, resolution: float, rng: np.random.Generator) -> Crystal:
    """The crystal of the settings, at random orientation, with intensities to `resolution` Angstrom."""
    rotation = random_rotation(rng)
    unique, cell, group = wilson_intensities(settings, resolution, rng)
    # hkl . fractional is invariant, and fractional = M cartesian: so the vector is M^T hkl
    b_matrix = np.array(cell.frac.mat.tolist()).T
    all_hkl, all_intensity = expand(unique, group)
    return Crystal(settings.crystal_form, rotation @ b_matrix, unique, all_hkl, all_intensity)
