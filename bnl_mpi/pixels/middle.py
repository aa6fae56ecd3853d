"""The median, without NumPy's own, which imports masked arrays first: they cost a short job more than its frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def median(values: npt.ArrayLike) -> float:
    """As `numpy.median`: of an even number of values the mean of the two in the middle; NaN where there is one."""
    ordered = np.sort(np.asarray(values), axis=None)
    n = len(ordered)
    if n == 0 or np.isnan(ordered[-1]):
        return float("nan")
    return float(np.mean(ordered[(n - 1) // 2 : n // 2 + 1]))
