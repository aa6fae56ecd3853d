"""How a run's time changes with the number of workers: Amdahl's law and the universal scalability law.

G. M. Amdahl, AFIPS Conf. Proc. 30 (1967), 483; N. J. Gunther, Guerrilla Capacity Planning (Springer, 2007).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Amdahl:
    """T(n) = T(1) (serial + (1 - serial) / n)."""

    serial: float
    seconds: float
    """T(1) of the fit."""


@dataclass(frozen=True)
class Scalability:
    """X(n) = rate n / (1 + contention (n - 1) + coherency n (n - 1)), with X in work a second."""

    rate: float
    contention: float
    coherency: float | None
    """None with fewer than three different n, which don't determine it."""


def fit_amdahl(seconds: Mapping[int, float]) -> Amdahl:
    """Least squares over T(n); a serial part below 0, which only noise can make, becomes 0.

    Raises ValueError for fewer than two different n.
    """
    n = _workers(seconds)
    t = np.array([seconds[k] for k in seconds], float)
    (constant, divided), *_ = np.linalg.lstsq(np.column_stack([np.ones_like(n), 1 / n]), t, rcond=None)
    whole = float(constant + divided)
    return Amdahl(min(1.0, max(0.0, float(constant) / whole)), whole)


def fit_scalability(rates: Mapping[int, float]) -> Scalability:
    """Least squares over n / X(n), which is linear in the parameters; negative ones are left out in turn.

    Raises ValueError for fewer than two different n.
    """
    n = _workers(rates)
    y = n / np.array([rates[k] for k in rates], float)
    terms = {"rate": np.ones_like(n), "contention": n - 1, "coherency": n * (n - 1)}
    if n.size < 3:
        del terms["coherency"]
    while True:
        found, *_ = np.linalg.lstsq(np.column_stack(list(terms.values())), y, rcond=None)
        by_name = dict(zip(terms, found.tolist(), strict=True))
        worst = min(by_name, key=lambda name: by_name[name])
        if by_name[worst] >= 0 or worst == "rate":
            break
        del terms[worst]
    unit = by_name["rate"]
    coherency = by_name.get("coherency", 0.0) / unit if n.size >= 3 else None
    return Scalability(1 / unit, by_name.get("contention", 0.0) / unit, coherency)


def _workers(measured: Mapping[int, float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if len(measured) < 2:
        raise ValueError("a law of scaling needs runs with at least two different numbers of workers")
    return np.array(list(measured), float)
