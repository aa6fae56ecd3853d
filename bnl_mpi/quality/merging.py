"""Merging statistics in shells that are the same for every data set, and comparison with a reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .observations import Crystal, Floats, Integers, Observations, Reference, packed, spacing

FLAT = 1e-6  # of the median sigma of all shells
NORMAL_QUARTILES = 1.349  # between the quartiles of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Merged:
    """Unique reflections: `hkl` (m, 3), `d` (Angstrom), `count`, weighted `mean` and its `sigma`.

    `scatter` (m,): unbiased variance of the unweighted mean of the observations, NaN where there is one.
    """

    hkl: Integers
    d: Floats
    count: Integers
    mean: Floats
    sigma: Floats
    plain_mean: Floats
    scatter: Floats


def merge(data: Observations, chosen: npt.NDArray[np.bool_] | None = None) -> Merged:
    """Merge symmetry equivalents (and Friedel mates), weighted by 1 / sigma^2; only the `chosen` ones."""
    keep = data.sigma > 0
    if chosen is not None:
        keep &= chosen
    hkl, value, weight = data.hkl[keep], data.value[keep], 1 / data.sigma[keep] ** 2
    _, first, group = np.unique(packed(hkl), return_index=True, return_inverse=True)
    count = np.bincount(group, minlength=first.size)
    total_weight = np.bincount(group, weight, first.size)
    plain_mean = np.bincount(group, value, first.size) / count
    squares = np.bincount(group, (value - plain_mean[group]) ** 2, first.size)
    scatter = np.full(first.size, np.nan)
    many = count > 1
    scatter[many] = squares[many] / (count[many] - 1) / count[many]
    unique = hkl[first]
    return Merged(
        unique,
        spacing(data.crystal, unique),
        count,
        np.bincount(group, weight * value, first.size) / total_weight,
        1 / np.sqrt(total_weight),
        plain_mean,
        scatter,
    )


def cc_half(plain_mean: Floats, scatter: Floats) -> float:
    """CC1/2 without random halves (Assmann, Brehm and Diederichs, J. Appl. Cryst. 49, 2016, 1021).

    The error of a half set's mean has twice the variance of the whole set's: so with V the variance of the
    means and E the mean variance of a mean, CC1/2 = (V - E) / (V + E).
    """
    many = np.isfinite(scatter)
    if many.sum() < 3:
        return float("nan")
    total, error = float(np.var(plain_mean[many], ddof=1)), float(np.mean(scatter[many]))
    return (total - error) / (total + error) if total + error > 0 else float("nan")


def correlation(one: Floats, other: Floats) -> float:
    """Pearson's correlation of the pairs that are both finite; NaN for fewer than three."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3 or not np.ptp(one[both]) or not np.ptp(other[both]):
        return float("nan")
    return float(np.corrcoef(one[both], other[both])[0, 1])


def anomalous_difference(data: Observations, chosen: npt.NDArray[np.bool_] | None = None) -> Reference:
    """I(+) - I(-) of the acentric reflections with both mates observed (among the `chosen`)."""
    every = np.ones(data.hkl.shape[0], dtype=bool) if chosen is None else chosen
    plus, minus = merge(data, every & data.plus), merge(data, every & ~data.plus)
    _, at_plus, at_minus = np.intersect1d(packed(plus.hkl), packed(minus.hkl), assume_unique=True, return_indices=True)
    hkl = plus.hkl[at_plus]
    centric = np.asarray(data.crystal.group.operations().centric_flag_array(hkl.astype(np.int32)), dtype=bool)
    difference = plus.mean[at_plus] - minus.mean[at_minus]
    mean = (plus.mean[at_plus] + minus.mean[at_minus]) / 2
    return Reference(hkl[~centric], mean[~centric], difference[~centric])


def looked_up(reference: Reference, column: Floats, hkl: Integers) -> Floats:
    """The reference's `column` at each of `hkl`; NaN where it has none."""
    keys = packed(reference.hkl)
    order = np.argsort(keys)
    wanted = packed(hkl)
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), keys.size - 1)]
    return np.where(keys[at] == wanted, column[at], np.nan)


def aligned(reference: Reference, data: Observations) -> tuple[Reference, str]:
    """The reference, indexed as the data are, and the operator used, as `h,k,l`.

    Where the lattice has more symmetry than the point group, indexing chooses at random among settings that
    are equivalent by the lattice: the one with the best correlation is taken.
    """
    import gemmi

    merged = merge(data)
    tried = [(correlation(merged.mean, looked_up(reference, reference.mean, merged.hkl)), reference, "h,k,l")]
    for operator in gemmi.find_twin_laws(data.crystal.cell, data.crystal.group, 2.0, False):
        other = _reindexed(reference, operator, data.crystal.group)
        cc = correlation(merged.mean, looked_up(other, other.mean, merged.hkl))
        tried.append((cc, other, operator.as_hkl().triplet()))
    _, best, name = max(tried, key=lambda one: np.nan_to_num(one[0], nan=-2.0))
    return best, name


def _reindexed(reference: Reference, operator: Any, group: Any) -> Reference:
    """The reference with its indices turned by `operator` and brought back to the asymmetric unit."""
    import gemmi

    unit, operations = gemmi.ReciprocalAsu(group), group.operations()
    moved = [unit.to_asu(operator.apply_to_hkl([int(index) for index in hkl]), operations) for hkl in reference.hkl]
    hkl = np.array([indices for indices, _ in moved], dtype=np.int64)
    sign = np.where(np.array([symmetry for _, symmetry in moved]) % 2, 1.0, -1.0)
    difference = None if reference.difference is None else sign * reference.difference
    return Reference(hkl, reference.mean, difference)


def shell_edges(d_max: float, d_min: float, count: int) -> Floats:
    """Limits of `count` shells of equal volume in reciprocal space, from d_max to d_min, Angstrom."""
    volumes = np.linspace(d_max**-3, d_min**-3, count + 1)
    return np.asarray(volumes ** (-1 / 3))


@dataclass(frozen=True)
class Shell:
    """Statistics of the reflections with d_max >= d > d_min (Angstrom).

    `i_over_sigma`: mean of merged I/sigma, sigma calibrated (`calibrated`). `cc_reference`:
    correlation of the merged intensities with the reference's. `recovered`: sum of the merged intensities
    over that of the reference's, as a fraction of the same in the first shell. `cc_anomalous`: of
    I(+) - I(-) between random halves of the observations; `cc_anomalous_reference`: of I(+) - I(-) with
    the reference's. NaN: not to be had.
    """

    d_max: float
    d_min: float
    observations: int
    unique: int
    completeness: float
    i_over_sigma: float
    cc_half: float
    cc_reference: float
    recovered: float
    cc_anomalous: float
    cc_anomalous_reference: float


def statistics(data: Observations, reference: Reference | None, edges: Floats) -> list[Shell]:
    """The statistics over all shells first, then those of each shell.

    `edges`: falling d, Angstrom. The reference must be indexed as the data are (`aligned`).
    """
    data = calibrated(data, edges)
    merged = merge(data)
    limits = [(edges[0], edges[-1]), *itertools.pairwise(edges)]
    known = np.full(merged.d.size, np.nan)
    if reference is not None:
        known = looked_up(reference, reference.mean, merged.hkl)
    anomalous = _AnomalousColumns(data, reference)
    possible = _possible(data.crystal, float(edges[-1]))
    first_share = _share(merged, known, (merged.d <= edges[0]) & (merged.d > edges[1]))
    shells = []
    for d_max, d_min in limits:
        inside = (merged.d <= d_max) & (merged.d > d_min)
        expected = int(((possible <= d_max) & (possible > d_min)).sum())
        shells.append(
            Shell(
                float(d_max),
                float(d_min),
                int(merged.count[inside].sum()),
                int(inside.sum()),
                float(inside.sum() / max(expected, 1)),
                _mean_i_over_sigma(merged, inside),
                cc_half(merged.plain_mean[inside], merged.scatter[inside]),
                correlation(merged.mean[inside], known[inside]),
                _share(merged, known, inside) / first_share,
                *anomalous.correlations(d_max, d_min),
            )
        )
    return shells


def _mean_i_over_sigma(merged: Merged, inside: npt.NDArray[np.bool_]) -> float:
    """Without the reflections that lie in areas left flat by a codec: no counts, no variance, rounding errors alone."""
    known = inside & (merged.sigma > FLAT * np.median(merged.sigma))
    return float(np.mean(merged.mean[known] / merged.sigma[known])) if known.any() else float("nan")


def _share(merged: Merged, known: Floats, inside: npt.NDArray[np.bool_]) -> float:
    """Merged intensities over the reference's, each summed over what both have `inside`."""
    both = inside & np.isfinite(known)
    total = float(known[both].sum())
    return float(merged.mean[both].sum()) / total if total else float("nan")


def calibrated(data: Observations, edges: Floats) -> Observations:
    """The observations with sigma multiplied, shell by shell, to agree with the scatter of equivalents.

    A processing program's errors of weak, profile-fitted intensities are off by a factor that depends on
    its error model, and differs between sets of the same photons: without this, I/sigma can't be compared.
    The width of the normalised deviations comes from their quartiles, so that outliers don't count. A shell
    of fewer than 50 deviations keeps its sigma.
    """
    _, group = np.unique(packed(data.hkl), return_inverse=True)
    count = np.bincount(group)[group]
    mean = (np.bincount(group, data.value) / np.bincount(group))[group]
    d = spacing(data.crystal, data.hkl)
    usable = (count > 1) & (data.sigma > 0)
    deviation = np.full(count.size, np.nan)
    deviation[usable] = (data.value - mean)[usable] / (data.sigma * np.sqrt(1 - 1 / count))[usable]
    factor = np.ones(count.size)
    for d_max, d_min in itertools.pairwise(edges):
        inside = (d <= d_max) & (d > d_min)
        if (inside & usable).sum() >= 50:
            low, high = np.percentile(deviation[inside & usable], [25, 75])
            factor[inside] = (high - low) / NORMAL_QUARTILES
    return replace(data, sigma=data.sigma * factor)


def _possible(crystal: Crystal, d_min: float) -> Floats:
    """d of every unique reflection down to `d_min`."""
    import gemmi

    hkl = np.asarray(gemmi.make_miller_array(crystal.cell, crystal.group, d_min), dtype=np.int64)
    return spacing(crystal, hkl)


class _AnomalousColumns:
    """Anomalous differences of the whole set beside the reference's, and of two random halves."""

    def __init__(self, data: Observations, reference: Reference | None) -> None:
        self._whole = anomalous_difference(data)
        self._d = spacing(data.crystal, self._whole.hkl)
        self._known = np.full(self._d.size, np.nan)
        if reference is not None and reference.difference is not None:
            self._known = looked_up(reference, reference.difference, self._whole.hkl)
        half = _balanced_halves(data, np.random.default_rng(0))
        one, other = anomalous_difference(data, half), anomalous_difference(data, ~half)
        self._one = self._column(one)
        self._other = self._column(other)

    def _column(self, half: Reference) -> Floats:
        if half.difference is None or not half.difference.size:
            return np.full(self._d.size, np.nan)
        return looked_up(half, half.difference, self._whole.hkl)

    def correlations(self, d_max: float, d_min: float) -> tuple[float, float]:
        inside = (self._d <= d_max) & (self._d > d_min)
        between = correlation(self._one[inside], self._other[inside])
        if self._whole.difference is None:
            return between, float("nan")
        return between, correlation(self._whole.difference[inside], self._known[inside])


def _balanced_halves(data: Observations, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A random half of the observations of each reflection and sign: a boolean (n,).

    Where the number is odd the surplus one goes to either half at random.
    """
    key = packed(data.hkl) * 2 + data.plus
    order = np.lexsort((rng.random(key.size), key))
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    rank = np.arange(key.size) - np.repeat(first, count)
    flip = np.repeat(rng.integers(0, 2, first.size), count)
    half = np.empty(key.size, dtype=bool)
    half[order] = (rank + flip) % 2 == 0
    return half


def reference_from(data: Observations) -> Reference:
    """The merged intensities of one set as the reference of others."""
    merged = merge(data)
    anomalous = anomalous_difference(data)
    column = np.full(merged.d.size, np.nan)
    if anomalous.difference is not None and anomalous.difference.size:
        column = looked_up(anomalous, anomalous.difference, merged.hkl)
    return Reference(merged.hkl, merged.mean, column)
