"""Sets on processes of this machine, one each: one that crashes takes down its own set alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import cast

from ..run import signals
from ..run.signals import StopRequest
from ..run.world import World
from . import stages
from .dealing import Dealer
from .facts import Facts
from .looking import Seen, in_turn
from .stages import Work
from .state import FAILED, STOPPED, Entry

LOOK_SECONDS = 0.5
READY = None
"""What a process says first, when all is imported."""


def _serve(connection: Connection, words: Sequence[str]) -> None:
    """A process's life: sets in, entries out, until nothing more comes; `words` as for `Pool`."""
    request = StopRequest()
    request.install()
    signals.let_in()
    stages.get_ready(words)
    # Where the command itself was killed, nobody listens any more.
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        connection.send(READY)
        while (given := connection.recv()) is not None:
            if isinstance(given, Work):
                entry = stages.do(given, World(), request, lambda told: connection.send((False, told)))
                connection.send((True, entry))
            else:
                connection.send(stages.look(given))


class _Worker:
    def __init__(self, words: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, words), daemon=True)
        # Which lets these signals in while it is started.
        resource_tracker.ensure_running()
        # Until the process can heed them: Python's own way is a traceback.
        with signals.held_back():
            self.process.start()
        theirs.close()
        self.work: Work | None = None
        self.masters: Sequence[str] = ()
        """At which it looks."""
        self._asked = self._is_ready = False

    def is_ready(self) -> bool:
        """Whether it has said so.  One that has died never does."""
        if not self._is_ready and self.connection.poll():
            with contextlib.suppress(EOFError, OSError):
                self._is_ready = self.connection.recv() is READY
        return self._is_ready

    def ask_to_stop(self, name: str) -> None:
        """Pass a signal on, once: a terminal sends it to all processes, a batch system may send it to the first."""
        if not self._asked and self.process.pid is not None:
            self._asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.Signals[name])

    def give(self, work: Work) -> None:
        self.work = work
        self._send(work)

    def look_at(self, masters: Sequence[str]) -> None:
        self.masters = masters
        self._send(masters)

    def _send(self, thing: object) -> None:
        # Whether it lives to hear of it shows when it is listened to.
        with contextlib.suppress(ConnectionError):
            self.connection.send(thing)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(timeout=60)
        self.connection.close()


class Pool:
    """Up to `n_ranks` processes, each started when a set for it is known.

    `words` are options that most sets will be reduced with.
    """

    def __init__(self, n_ranks: int, words: Sequence[str] = ()) -> None:
        self.n_ranks, self._words = n_ranks, tuple(words)
        self._workers: list[_Worker] = []

    def expect(self, n_sets: int) -> None:
        while len(self._workers) < min(n_sets, self.n_ranks):
            self._workers.append(_Worker(self._words))

    def look(self, masters: Sequence[str]) -> Iterator[Facts | None]:
        """By the processes that are there and ready meanwhile."""
        return in_turn(masters, self)

    def give(self, masters: Sequence[str]) -> bool:
        free = next((one for one in self._workers if not one.masters and one.is_ready()), None)
        if free is not None:
            free.look_at(masters)
        return free is not None

    def hear(self) -> Seen:
        looking = [worker for worker in self._workers if worker.masters]
        ready = wait([worker.connection for worker in looking])
        worker = next(one for one in looking if one.connection in ready)
        try:
            seen: Seen = worker.connection.recv()
        except (EOFError, OSError):
            self._drop(worker)
            return dict.fromkeys(worker.masters)
        worker.masters = ()
        return seen

    def run(self, dealer: Dealer, work_of: Callable[[str], Work], request: StopRequest, tell: stages.TellAll) -> None:
        """Deal all sets; `tell` hears every entry.  Begins no set once a stop is asked for.

        Who is idle gets a set first, and only then the disk is waited for.
        """
        heard: list[Entry] = []
        while True:
            while request.name is None and (worker := self._idle(len(dealer))) is not None:
                dealt = dealer.deal(1)
                assert dealt is not None
                worker.give(work_of(dealt[0].stem))
            tell(*heard)
            busy = [worker for worker in self._workers if worker.work is not None]
            if not busy:
                return
            if request.name is not None:
                for worker in busy:
                    worker.ask_to_stop(request.name)
            ready = wait([worker.connection for worker in busy], timeout=LOOK_SECONDS)
            told = [self._hear(worker, request) for worker in busy if worker.connection in ready]
            heard = [entry for entry in told if entry is not None]

    def end(self) -> None:
        """Let them go."""
        for worker in self._workers:
            worker.end()

    def _idle(self, n_sets: int) -> _Worker | None:
        """A process without a set, if there is a set for it."""
        if n_sets == 0:
            return None
        for worker in [one for one in self._workers if one.work is None and not one.process.is_alive()]:
            # It died between two sets, of which none is to blame.
            self._drop(worker)
        idle = next((worker for worker in self._workers if worker.work is None), None)
        if idle is None and len(self._workers) < self.n_ranks:
            self.expect(len(self._workers) + 1)
            idle = self._workers[-1]
        return idle

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.connection.close()

    def _hear(self, worker: _Worker, request: StopRequest) -> Entry | None:
        """An entry, or that the process died; None where it is but ready now."""
        try:
            told = worker.connection.recv()
        except (EOFError, OSError):
            self._drop(worker)
            return _death(worker, request)
        if told is READY:
            return None
        ended, entry = told
        if ended:
            worker.work = None
        return cast(Entry, entry)


def _death(worker: _Worker, request: StopRequest) -> Entry:
    """The entry of the set that was in a process's hands when it died."""
    worker.process.join(timeout=60)
    assert worker.work is not None
    code = worker.process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
    if request.name is not None:
        return worker.work.entry.now(STOPPED, f"ended by {request.name}")
    return worker.work.entry.now(FAILED, f"its process died ({how}); run this set alone to see why")
