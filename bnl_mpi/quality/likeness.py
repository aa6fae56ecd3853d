"""Merged intensities of two sets of the same crystal, indexed alike, beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .merging import calibrated, correlation, merge
from .observations import Floats, Observations, packed


@dataclass(frozen=True)
class Likeness:
    """`common`: share of the other's unique reflections that are there.  `cc`, `cc_outer`: correlation of merged
    intensities, over all and in the outer shell.  `sigma`: median ratio of their errors, `calibrated`, on one scale."""

    common: float
    cc: float
    cc_outer: float
    sigma: float


def likeness(data: Observations, other: Observations, edges: Floats) -> Likeness:
    """How `data` are beside `other`.  `edges`: of the shells, falling d, Angstrom."""
    one, two = merge(calibrated(data, edges)), merge(calibrated(other, edges))
    _, at, at_other = np.intersect1d(packed(one.hkl), packed(two.hkl), assume_unique=True, return_indices=True)
    mean, wanted, d = one.mean[at], two.mean[at_other], two.d[at_other]
    scale = float(np.sum(wanted) / np.sum(mean))
    outer = (d <= edges[-2]) & (d > edges[-1])
    return Likeness(
        len(at_other) / max(1, len(two.d)),
        correlation(mean, wanted),
        correlation(mean[outer], wanted[outer]),
        scale * float(np.median(one.sigma[at] / two.sigma[at_other])),
    )
