"""Which ranks or processes do which set: the largest first, big ones by several ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LEAST_CREW = 3
"""Ranks of a crew, one of which writes the masters: two would work no faster than one alone."""


@dataclass(frozen=True)
class Weighed:
    """A set by its name, with its bytes and how many workers could do something at a time (its blocks)."""

    stem: str
    bytes: int
    blocks: int = 1
    suspect: bool = False
    """It was in hand when an earlier run died: dealt last, so that it can't keep the others from being done."""


class Dealer:
    """Deals sets to ranks as these become idle; plain numbers, no MPI."""

    def __init__(self, sets: Iterable[Weighed], n_ranks: int) -> None:
        self._queue = sorted(sets, key=lambda one: (one.suspect, -one.bytes, one.stem))
        self._n_ranks = n_ranks
        self._bytes_left = sum(one.bytes for one in self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def crew(self, one: Weighed) -> int:
        """How many ranks a set deserves: its share of what is left to do, no more than its blocks can use."""
        fair = self._n_ranks * one.bytes / self._bytes_left if self._bytes_left else 1.0
        size = 1 + min(round(fair), one.blocks)
        return min(size, self._n_ranks) if size >= LEAST_CREW and self._n_ranks >= LEAST_CREW else 1

    def deal(self, n_idle: int) -> tuple[Weighed, int] | None:
        """The next set and the size of its crew, at most `n_idle`; None if nobody is idle or nothing is left.

        A set that deserves more ranks than are idle waits while smaller sets are there for them.
        """
        if n_idle < 1 or not self._queue:
            return None
        chosen = next((k for k, one in enumerate(self._queue) if self.crew(one) <= n_idle), 0)
        size = min(self.crew(self._queue[chosen]), n_idle)
        one = self._queue.pop(chosen)
        self._bytes_left -= one.bytes
        return one, size if size >= LEAST_CREW else 1
