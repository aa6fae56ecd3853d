"""Repeated timings that other work on the machine spoils as little as possible."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing: the least, the median, and the interquartile range."""

    minimum: float
    median: float
    spread: float
    n: int


def spread_of(values: Sequence[float]) -> Spread:
    """The spread of at least one value; with fewer than four, greatest less least stands for the range."""
    if len(values) < 4:
        width = max(values) - min(values)
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        width = high - low
    return Spread(min(values), statistics.median(values), width, len(values))


def ratio_of(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Of `values` over `others`, pair by pair: of two measured in one round, a disturbed machine spoils both."""
    return spread_of([a / b for a, b in zip(values, others, strict=True)])


def interleaved(
    works: Mapping[str, Callable[[], float | None]], repeats: int, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Do all `works` in turn, `repeats` times over: A B C A B C ...

    Returns for each the seconds of every round: those that it returns, or those that it took if it returns
    None. Rounds that only warm up come first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warm_ups, repeats):
        for name, work in works.items():
            begin = time.perf_counter()
            told = work()
            spent = time.perf_counter() - begin if told is None else told
            if turn >= 0:
                seconds[name].append(spent)
    return seconds
