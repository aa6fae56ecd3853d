"""Ranks notice one another's death where the launcher doesn't tell: SLURM's pmi2 lets the others wait for ever.

Each worker keeps a TCP connection to rank 0, on which nothing is said but goodbye: the system closes it when a
process dies, whatever of.  Where no connection can be made (a firewall, a name that doesn't resolve) there is no
watch, and `srun -K` must do.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time

CONNECT_SECONDS = 5.0
LOOK_SECONDS = 0.5
BACKLOG = 4096
TOKEN_BYTES, NUMBER_BYTES = 16, 4
GOODBYE = b"."


class _Pace:
    """True at most once in LOOK_SECONDS."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < LOOK_SECONDS:
            return False
        self._last = now
        return True


class Listener:
    """Rank 0's end."""

    def __init__(self) -> None:
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._server = socket.create_server(("", 0), backlog=BACKLOG)
        self._server.setblocking(False)
        self._strangers: list[socket.socket] = []
        self._ranks: dict[socket.socket, int] = {}
        self._due = _Pace()

    @property
    def address(self) -> tuple[str, int, bytes]:
        """Host, port and a secret, to be told to the workers."""
        return socket.gethostname(), self._server.getsockname()[1], self._token

    def dead(self) -> int | None:
        """A rank that died without saying goodbye, if there is one.  Cheap enough for any loop."""
        if not self._due():
            return None
        self._greet()
        for connection, rank in list(self._ranks.items()):
            said = _said(connection)
            if said is None:
                continue
            del self._ranks[connection]
            connection.close()
            if said != GOODBYE:
                return rank
        return None

    def _greet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._server.accept()
                connection.setblocking(False)
                self._strangers.append(connection)
        for connection in list(self._strangers):
            said = _said(connection, TOKEN_BYTES + NUMBER_BYTES)
            if said is None:
                continue
            self._strangers.remove(connection)
            token, number = said[:TOKEN_BYTES], said[TOKEN_BYTES:]
            if secrets.compare_digest(token, self._token) and len(number) == NUMBER_BYTES:
                self._ranks[connection] = int.from_bytes(number, "little")
            else:
                connection.close()

    def close(self) -> None:
        self._greet()
        for connection in self._ranks:
            _take_leave(connection)
        self._server.close()


class Lifeline:
    """A worker's end."""

    def __init__(self, address: tuple[str, int, bytes], rank: int) -> None:
        host, port, token = address
        self._due = _Pace()
        self._connection: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
            self._connection.sendall(token + rank.to_bytes(NUMBER_BYTES, "little"))
            self._connection.setblocking(False)

    def is_cut(self) -> bool:
        """Whether rank 0 died without saying goodbye."""
        if self._connection is None or not self._due():
            return False
        said = _said(self._connection)
        if said is None:
            return False
        self._connection.close()
        self._connection = None
        return said != GOODBYE

    def close(self) -> None:
        if self._connection is not None:
            _take_leave(self._connection)
            self._connection = None


def _said(connection: socket.socket, size: int = 1) -> bytes | None:
    """What came, empty if the other end is closed, None if nothing came yet."""
    try:
        return connection.recv(size)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _take_leave(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.send(GOODBYE)
    connection.close()
