"""Sets on the ranks of one MPI job: rank 0 deals, and writes the state; crews of the others reduce.

Rank 0 needs no core of its own: it looks for messages and sleeps.  A crew of several ranks is a communicator made for
one set, on which the run is as ever; ranks that end with a set are free for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..run.signals import StopRequest
from ..run.world import Nap, World
from . import stages
from .dealing import Dealer
from .facts import Facts
from .looking import Seen, in_turn
from .stages import Work
from .state import Entry

DEAL, TOLD, STOP, READY, SEEN = 21, 22, 23, 24, 25
"""Tags: a set for a crew, or masters to look at; an entry for rank 0; a signal that rank 0 passes on; to rank 0, once,
that all is imported; facts of those masters."""
NAP = 0.002


@dataclass(frozen=True)
class _Dealt:
    work: Work
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class _Told:
    rank: int
    entry: Entry | None
    """None from a crew's ranks that don't speak for it."""
    ended: bool


class CrewStop(StopRequest):
    """A stop that this rank's own signal asks for, or one that rank 0 passes on."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._name: str | None = None
        super().__init__()

    @property
    def name(self) -> str | None:
        if self._name is None and self._comm.iprobe(source=0, tag=STOP):
            self._name, self.since = self._comm.recv(source=0, tag=STOP), time.monotonic()
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = name


def serve(comm: Any, words: Sequence[str] = ()) -> None:
    """A rank's life, of all but rank 0: sets in, entries out, until nothing more comes.

    `words` are options that most sets will be reduced with.
    """
    request = CrewStop(comm)
    request.install()
    stages.get_ready(words)
    comm.send(comm.Get_rank(), dest=0, tag=READY)
    while True:
        nap = Nap()
        while not comm.iprobe(source=0, tag=DEAL):
            nap.take()
        dealt: _Dealt | Sequence[str] | None = comm.recv(source=0, tag=DEAL)
        if dealt is None:
            return
        if isinstance(dealt, _Dealt):
            _make(comm, dealt, request)
        else:
            comm.send((comm.Get_rank(), stages.look(dealt)), dest=0, tag=SEEN)


def _make(comm: Any, dealt: _Dealt, request: CrewStop) -> None:
    own = None
    if len(dealt.ranks) > 1:
        group = comm.group.Incl(list(dealt.ranks))
        own = comm.Create_group(group, tag=dealt.ranks[0])
        group.Free()
    here = comm.Get_rank()

    def tell(entry: Entry | None, *, ended: bool = False) -> None:
        comm.send(_Told(here, entry, ended), dest=0, tag=TOLD)

    tell(stages.do(dealt.work, World(own), request, tell), ended=True)
    if own is not None:
        own.Free()


class Crews:
    """All ranks but 0 of a communicator, as rank 0 sees them."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.n_ranks = comm.Get_size() - 1
        self._passed_on = False
        self._getting_ready, self._looking = self.n_ranks, 0
        self._free: set[int] = set()
        """Ranks that are ready and look at no masters, as long as these are looked at."""

    def expect(self, n_sets: int) -> None:
        """They make themselves ready."""

    def look(self, masters: Sequence[str]) -> Iterator[Facts | None]:
        """By the ranks that are ready meanwhile."""
        return in_turn(masters, self)

    def give(self, masters: Sequence[str]) -> bool:
        while self._comm.iprobe(tag=READY):
            self._hear_of_ready()
        if self._free:
            self._comm.send(masters, dest=self._free.pop(), tag=DEAL)
            self._looking += 1
            return True
        return False

    def _hear_of_ready(self) -> None:
        self._free.add(self._comm.recv(tag=READY))
        self._getting_ready -= 1

    def hear(self) -> Seen:
        while not self._comm.iprobe(tag=SEEN):
            time.sleep(NAP)
        rank, seen = self._comm.recv(tag=SEEN)
        self._free.add(rank)
        self._looking -= 1
        return cast(Seen, seen)

    def run(self, dealer: Dealer, work_of: Callable[[str], Work], request: StopRequest, tell: stages.TellAll) -> None:
        """Deal all sets; `tell` hears every entry.  Begins no set once a stop is asked for.

        Who is idle gets a set first, and only then the disk is waited for.
        """
        idle = set(range(1, self.n_ranks + 1))
        heard: list[Entry] = []
        while True:
            while request.name is None and (dealt := dealer.deal(len(idle))) is not None:
                crew = _choose(idle, dealt[1])
                for rank in crew:
                    self._comm.send(_Dealt(work_of(dealt[0].stem), crew), dest=rank, tag=DEAL)
            tell(*heard)
            if len(idle) == self.n_ranks:
                return
            if request.name is not None and not self._passed_on:
                self._passed_on = True
                self._to_all(request.name, STOP)
            heard = _listen(self._comm, idle)

    def end(self) -> None:
        """Let them go, when all that they have sent is received: MPI may end ranks that it has messages of."""
        while self._getting_ready:
            if self._comm.iprobe(tag=READY):
                self._hear_of_ready()
            else:
                time.sleep(NAP)
        while self._looking:
            self.hear()
        self._to_all(None, DEAL)

    def _to_all(self, thing: object, tag: int) -> None:
        for rank in range(1, self.n_ranks + 1):
            self._comm.send(thing, dest=rank, tag=tag)


def _choose(idle: set[int], size: int) -> tuple[int, ...]:
    """Neighbours, which as a rule are on one host."""
    crew = tuple(sorted(idle)[:size])
    idle.difference_update(crew)
    return crew


def _listen(comm: Any, idle: set[int]) -> list[Entry]:
    """The entries of all messages that are there; if none is, sleep."""
    if not comm.iprobe(tag=TOLD):
        time.sleep(NAP)
    entries = []
    while comm.iprobe(tag=TOLD):
        told: _Told = comm.recv(tag=TOLD)
        if told.ended:
            idle.add(told.rank)
        if told.entry is not None:
            entries.append(told.entry)
    return entries
