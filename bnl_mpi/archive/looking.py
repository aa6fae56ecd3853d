"""Many masters looked at by all hands: they are idle until the last one's facts tell which set is the largest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ..hdf5.memory import Memory
from . import facts
from .facts import Facts

AT_ONCE = 16
"""Masters that one hand looks at before it tells: few, so that nobody waits long for the last ones."""

Seen = Mapping[str, Facts | None]
"""By master; None where its facts couldn't be read."""


def look(masters: Sequence[str], memory: Memory) -> Seen:
    """A hand's part.  What is wrong with a master is told by who asks, who reads it once more."""
    found: dict[str, Facts | None] = {}
    for master in masters:
        try:
            found[master] = facts.read_facts(master, memory=memory)
        except Exception:
            found[master] = None
    return found


class Eyes(Protocol):
    """Hands, as far as they look at masters."""

    def give(self, masters: Sequence[str]) -> bool:
        """Let one that is idle look at these; False where none is."""

    def hear(self) -> Seen:
        """Wait until one that was given some has seen them, or died."""


def in_turn(masters: Sequence[str], eyes: Eyes) -> Iterator[Facts | None]:
    """The facts of each master; None where who asks is to read them, as nobody else was idle or could."""
    seen: dict[str, Facts | None] = {}
    given = 0
    for k, master in enumerate(masters):
        own = k >= given
        given = max(given, k + 1)
        while True:
            while given < len(masters) and eyes.give(masters[given : given + AT_ONCE]):
                given += AT_ONCE
            if own or master in seen:
                break
            seen.update(eyes.hear())
        yield None if own else seen.pop(master)
