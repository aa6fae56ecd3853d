"""MPI, as this program uses it; the only module that imports mpi4py.

Nothing here spins: every wait tests and sleeps, since the machine has other work for the core.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import re
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import launch

SHORTEST_NAP, LONGEST_NAP = 0.0005, 0.02
NAP_GROWTH = 1.1
"""So that no wait gets longer by more than a tenth."""
TAG, STOP_TAG, SIGNAL_TAG = 7, 8, 9


def _refuse_lonely_world() -> None:
    told = launch.told_size()
    if told > 1:
        raise UsageError(
            f"the launcher started {told} processes but MPI sees only this one, so each would do the whole job: "
            "launcher and MPI library don't fit; try srun --mpi=pmi2 (MPICH), srun --mpi=pmix (Open MPI), "
            "or the mpiexec of the library that mpi4py loads"
        )


@functools.cache
def connect() -> Any:
    """The communicator of all ranks.  Initialises MPI, under a guard, when it is first asked for."""
    with launch.guarded_start():
        comm = _initialise()
        if comm.Get_size() == 1:
            _refuse_lonely_world()
        _unlink_shared_memory(comm)
    return comm


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Within, MPI is there if a launcher is; an error ends all ranks, for the others would wait.

    For imports: MPI starts at less cost, and ranks wait less for one another, while processes are small.
    """
    comm = connect() if launch.launched() else None
    try:
        yield
    except BaseException as error:
        if comm is not None and comm.Get_size() > 1:
            is_stop = isinstance(error, KeyboardInterrupt)
            if not is_stop:
                sys.excepthook(type(error), error, error.__traceback__)
            World(comm).abort(128 + signal.SIGINT if is_stop else 1)
        raise


def _initialise() -> Any:
    try:
        import mpi4py

        mpi4py.rc.recv_mprobe = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"started by a launcher, but no MPI library could be loaded ({reason}); load the site's MPI module, "
            "or pip install 'bnl-mpi[mpich]'"
        ) from error
    return MPI.COMM_WORLD


def _unlink_shared_memory(comm: Any) -> None:
    """Take MPICH's segment out of /dev/shm as soon as all ranks have it mapped, or an aborted run leaves it there."""
    request, nap = comm.Ibarrier(), Nap()
    while not request.Test():
        nap.take()
    with contextlib.suppress(OSError):
        mapped = Path("/proc/self/maps").read_text()
        for path in sorted(set(re.findall(r"/dev/shm/mpich_shm_\w+", mapped))):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


class Nap:
    """Sleeps a little longer each time it is asked, up to a bound."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seconds = SHORTEST_NAP

    def take(self) -> None:
        time.sleep(self._seconds)
        self._seconds = min(self._seconds * NAP_GROWTH, LONGEST_NAP)


def _nothing() -> None:
    pass


class World:
    """The ranks of a communicator, or this process alone."""

    def __init__(self, comm: Any = None) -> None:
        self._comm = comm
        self.rank = 0 if comm is None else comm.Get_rank()
        self.size = 1 if comm is None else comm.Get_size()
        self._sending: list[Any] = []
        self._nap = Nap()
        self.while_waiting: Callable[[], None] = _nothing
        """Called again and again in every wait."""
        self.before_abort: Callable[[], None] = _nothing

    @property
    def n_workers(self) -> int:
        """How many ranks make blocks: all but rank 0, which does so only when it is alone."""
        return max(1, self.size - 1)

    @property
    def worker(self) -> int:
        """This rank's number among the workers, from 1; 0 for a rank 0 that has workers."""
        return self.rank if self.size > 1 else 1

    def _wait(self, request: Any) -> None:
        nap = Nap()
        while not request.Test():
            self.while_waiting()
            nap.take()

    def broadcast(self, thing: Any = None) -> Any:
        """Rank 0's `thing`, on every rank."""
        if self.size == 1:
            return thing
        packed = zlib.compress(pickle.dumps(thing), 1) if self.rank == 0 else b""
        length = bytearray(len(packed).to_bytes(8, "little"))
        self._wait(self._comm.Ibcast(length, root=0))
        payload = bytearray(packed) if self.rank == 0 else bytearray(int.from_bytes(length, "little"))
        self._wait(self._comm.Ibcast(payload, root=0))
        return thing if self.rank == 0 else pickle.loads(zlib.decompress(payload))

    def send(self, thing: Any) -> None:
        """Send a small `thing` to rank 0, without waiting for it to arrive."""
        self._sending = [(request, data) for request, data in self._sending if not request.Test()]
        data = bytearray(pickle.dumps(thing))
        self._sending.append((self._comm.Isend(data, dest=0, tag=TAG), data))

    def tell_stop(self, grace: float) -> None:
        """On rank 0: ask every worker to begin nothing new, and to finish what it can within `grace` seconds."""
        for worker in range(1, self.size):
            data = bytearray(struct.pack("d", grace))
            self._sending.append((self._comm.Isend(data, dest=worker, tag=STOP_TAG), data))

    def stop_asked(self) -> float | None:
        """On a worker: the grace in seconds that rank 0 has just told of, None if it told of none."""
        grace = None
        while self.size > 1 and self._comm.Iprobe(source=0, tag=STOP_TAG):
            data = bytearray(struct.calcsize("d"))
            self._comm.Recv(data, source=0, tag=STOP_TAG)
            (grace,) = struct.unpack("d", data)
        return grace

    def tell_signal(self, name: str) -> None:
        """On a worker: let rank 0 know that this rank was asked to stop."""
        data = bytearray(name.encode())
        self._sending.append((self._comm.Isend(data, dest=0, tag=SIGNAL_TAG), data))

    def signal_told(self) -> str | None:
        """On rank 0: the signal that some worker got, if one did since the last call."""
        if self.size == 1:
            return None
        from mpi4py import MPI

        status, name = MPI.Status(), None
        while self._comm.Iprobe(source=MPI.ANY_SOURCE, tag=SIGNAL_TAG, status=status):
            data = bytearray(status.Get_count(MPI.BYTE))
            self._comm.Recv(data, source=status.Get_source(), tag=SIGNAL_TAG)
            name = data.decode()
        return name

    def flush(self) -> None:
        """Wait until all that was sent has left."""
        for request, _ in self._sending:
            self._wait(request)
        self._sending = []

    def poll(self) -> Any:
        """On rank 0: the next thing that a worker sent, or None after a short sleep if there is none yet."""
        from mpi4py import MPI

        status = MPI.Status()
        if not self._comm.Iprobe(source=MPI.ANY_SOURCE, tag=TAG, status=status):
            self.while_waiting()
            self._nap.take()
            return None
        self._nap.reset()
        data = bytearray(status.Get_count(MPI.BYTE))
        self._comm.Recv(data, source=status.Get_source(), tag=TAG)
        return pickle.loads(data)

    def collect(self, mine: Any) -> list[Any]:
        """On rank 0 every worker's `mine`, in no order; elsewhere nothing.  Rank 0's own is not among them."""
        if self.size == 1:
            return [mine]
        if self.rank:
            self.send(mine)
            return []
        things: list[Any] = []
        while len(things) < self.size - 1:
            thing = self.poll()
            if thing is not None:
                things.append(thing)
        return things

    def leave(self) -> None:
        """Wait, asleep, until every rank has come here: MPI's own end would wait spinning."""
        if self.size > 1:
            self.flush()
            self._wait(self._comm.Ibarrier())
            # MPICH ends a process, and so the job, on a message that nobody took before MPI's end.
            self._drain()

    def _drain(self) -> None:
        from mpi4py import MPI

        status = MPI.Status()
        while self._comm.Iprobe(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status):
            data = bytearray(status.Get_count(MPI.BYTE))
            self._comm.Recv(data, source=status.Get_source(), tag=status.Get_tag())

    def abort(self, status: int) -> None:
        """End all ranks.  Does not return where there is more than one."""
        if self.size > 1:
            # Whatever else goes wrong, all ranks must end.
            for last in (self.before_abort, sys.stdout.flush, sys.stderr.flush):
                with contextlib.suppress(Exception):
                    last()
            try:
                self._comm.Abort(status)
            finally:
                # MPICH's Abort may return for some milliseconds.
                os._exit(status)
