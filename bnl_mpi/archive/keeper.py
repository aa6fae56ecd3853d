"""What happens to an archive's sets, remembered and said."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .state import CHECKING, DONE, FAILED, STOPPED, Entry, Journal, State

if TYPE_CHECKING:
    from .session import Plan, Wish


class Keeper:
    """Writes what happens into the state, and says it.

    In a thread, which waits for the disk: nobody else does, and what comes meanwhile is written together.
    """

    def __init__(self, wish: Wish, plan: Plan) -> None:
        self._plan = plan
        self._store: State | Journal = State(wish.to) if wish.task is None else Journal(wish.to, wish.task)
        self._begun = len(plan.to_do)
        self._ended = 0
        self._told: SimpleQueue[tuple[Entry, ...] | None] = SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def start(self, known: Mapping[str, Entry]) -> None:
        """Write what the plan changed."""
        self._store.write(*(entry for stem, entry in self._plan.entries.items() if known.get(stem) != entry))

    def tell(self, *entries: Entry) -> None:
        """Hear of entries, which are written in a moment.  Raises what went wrong with earlier ones."""
        for entry in entries:
            self._plan.entries[entry.stem] = entry
        if entries:
            self._told.put(entries)
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        """All that is told, until None is."""
        try:
            while (entries := self._told.get()) is not None:
                waiting = [self._told.get() for _ in range(self._told.qsize())]
                self._write([*entries, *(one for those in waiting if those is not None for one in those)])
                if None in waiting:
                    return
        except Exception as error:
            self._error = error

    def _write(self, entries: Sequence[Entry]) -> None:
        # What is checked has its next entry in a moment, for which alone the disk is worth waiting.
        self._store.write(*(entry for entry in entries if entry.stage != CHECKING))
        for entry in entries:
            if entry.stage in (DONE, FAILED, STOPPED):
                self._ended += 1
                sys.stderr.write(f"bnl-mpi: {self._ended}/{self._begun} {line(entry)}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Wait until all is written.  Raises what went wrong."""
        self._told.put(None)
        self._thread.join()
        self._store.close()
        if self._error is not None:
            raise self._error


def line(entry: Entry) -> str:
    """What became of a set."""
    if entry.stage != DONE:
        return f"{entry.stage} {entry.stem}: {entry.reason}"
    ratio = entry.bytes_in / entry.bytes_out if entry.bytes_out else 0.0
    return (
        f"done {entry.stem}: {entry.frames} frames, {entry.bytes_in / 1e6:.1f} -> {entry.bytes_out / 1e6:.1f} MB "
        f"({ratio:.1f}:1), {entry.seconds:.1f} s"
    )
