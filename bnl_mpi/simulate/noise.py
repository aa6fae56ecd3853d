"""Counts of a steady background, drawn quickly and from the exact Poisson distribution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CELLS = 4096
_REFINE = np.uint16(65535)


def poisson_cdf(means: Floats) -> Floats:
    """P(count <= k) for each mean, shape (means, k); the last k has all but 1e-15 of the probability."""
    top = float(means.max())
    last = int(top + 12 * np.sqrt(top) + 30)
    k = np.arange(last + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, last + 1)))))
    safe = np.where(means > 0, means, 1.0)[:, np.newaxis]
    density = np.exp(k * np.log(safe) - safe - log_factorial)
    density[means == 0] = k == 0
    return np.cumsum(density, axis=1)


class PoissonField:
    """Draws independent Poisson counts for a field of means, many times over.

    The means are rounded to one of `levels` equal steps (half a step is 0.1 % of the largest mean). A
    draw looks up a 12-bit random number in a table of the inverse distribution; where a table cell spans
    a step of the distribution (a few in a thousand) more bits are drawn and the inverse is taken exactly.
    """

    def __init__(self, means: Floats, levels: int = 512) -> None:
        flat = means.ravel()
        top = float(flat.max(initial=0.0)) or 1.0
        self._level = np.rint(flat * (levels / top)).astype(np.int32)
        self._cdf = poisson_cdf(np.linspace(0.0, top, levels + 1))
        self._table = self._inverse_table().ravel()
        self._offset = self._level * np.int32(_CELLS)

    def _inverse_table(self) -> npt.NDArray[np.uint16]:
        """(levels + 1, cells) counts, or the mark where a cell needs more bits."""
        lower = np.arange(_CELLS) / _CELLS
        upper = np.nextafter(lower + 1 / _CELLS, 0)
        table = np.empty((len(self._cdf), _CELLS), np.uint16)
        for row, cdf in zip(table, self._cdf, strict=True):
            low, high = np.searchsorted(cdf, lower, side="right"), np.searchsorted(cdf, upper, side="right")
            row[:] = np.where(low == high, low, _REFINE)
        return table

    def draw(self, rng: np.random.Generator) -> npt.NDArray[np.int32]:
        """One count for each mean, flat."""
        cell = rng.integers(0, _CELLS, self._offset.size, dtype=np.uint16)
        counts = self._table.take(self._offset + cell).astype(np.int32)
        open_pixels = np.flatnonzero(counts == _REFINE)
        if open_pixels.size:
            exact = (cell[open_pixels] + rng.random(open_pixels.size)) / _CELLS
            cdf = self._cdf[self._level[open_pixels]]
            inverse = (cdf <= exact[:, np.newaxis]).sum(axis=1)
            counts[open_pixels] = np.minimum(inverse, self._cdf.shape[1] - 1)
        return np.asarray(counts)
