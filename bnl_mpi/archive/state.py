"""What an archive remembers: `archive.db` (SQLite, one writer), and a journal for each task of a job array.

A journal is a file of JSON objects, one a line, which one process appends to: SQLite is no good for several hosts over
NFS.  Whoever opens the archive as its one writer takes the journals in; readers look at both.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError

NAME = "archive.db"
JOURNALS = "state"
FORMAT = 1
BUSY_SECONDS = 120.0
"""How long another process's look at the database, or its write, is waited for: a busy file system takes its time."""

NEW, REDUCING, CHECKING, VERIFYING = "new", "reducing", "checking", "verifying"
DONE, FAILED, SKIPPED, STOPPED = "done", "failed", "skipped", "stopped"
AT_WORK = (REDUCING, CHECKING, VERIFYING)
STAGES = (NEW, *AT_WORK, STOPPED, FAILED, SKIPPED, DONE)
"""Of a set that isn't done, the stage at which it was when somebody last wrote of it."""


@dataclass(frozen=True)
class Entry:
    """One set, as the archive remembers it."""

    stem: str
    """Its place below the archive's folder, and its key."""
    master: str
    stage: str = NEW
    reason: str = ""
    """Why it failed, was skipped or stopped, in a line."""
    words: tuple[str, ...] = ()
    """The options that it was reduced with, or is being."""
    rule: str = ""
    stamp: str = ""
    """Of the raw files, as they were then."""
    verified: bool = False
    """Against its raw data, all images."""
    frames: int = 0
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    attempts: int = 0
    """How often it was begun with these options."""
    replaces: bool = False
    """Until it is done, output of this archive with other options, or of other raw data, may be in its place."""
    ranks: int = 0
    """How many worked on it."""
    updated: float = 0.0
    """Seconds since the epoch."""
    files: tuple[str, ...] = ()
    """The raw files: master and data files."""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "words": list(self.words), "files": list(self.files)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Entry:
        known = {f.name for f in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        return cls(**{**kept, "words": tuple(kept.get("words", ())), "files": tuple(kept.get("files", ()))})

    def now(self, stage: str, reason: str = "", **changes: Any) -> Entry:
        """The entry at another stage, from this moment on."""
        return replace(self, stage=stage, reason=reason, updated=time.time(), **changes)


def newest(entries: Iterable[Entry]) -> dict[str, Entry]:
    """By stem, what was written last."""
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.stem not in found or entry.updated >= found[entry.stem].updated:
            found[entry.stem] = entry
    return found


class Journal:
    """What one task of a job array appends to; nobody else writes it."""

    def __init__(self, folder: str, task: int) -> None:
        place = Path(folder) / JOURNALS
        try:
            place.mkdir(parents=True, exist_ok=True)
            self.path = str(place / f"task-{task}.jsonl")
            # A line that a killed run left half-written must not swallow the next one.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            if self._file.tell() and Path(self.path).read_bytes()[-1:] != b"\n":
                self._file.write(b"\n")
        except OSError as error:
            raise OutputError(f"{place}: can't be written: {error.strerror}") from error

    def write(self, *entries: Entry) -> None:
        self._file.write(b"".join(json.dumps(entry.as_json()).encode() + b"\n" for entry in entries))

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def _journals(folder: str) -> Iterator[Entry]:
    for path in sorted((Path(folder) / JOURNALS).glob("task-*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                yield Entry.from_json(json.loads(line))
            except (ValueError, TypeError, AttributeError):
                continue  # the end of a run that was killed while it wrote


class State:
    """The archive's memory, opened by its one writer."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        path = os.path.join(folder, NAME)
        try:
            os.makedirs(folder, exist_ok=True)
            # One thread at a time: who opened it, then who writes, then who closes it.
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA synchronous=FULL")
            # The journal stays, empty: to make it anew and remove it each time is two more waits for the disk.
            self._db.execute("PRAGMA journal_mode=TRUNCATE")
            self._db.execute("CREATE TABLE IF NOT EXISTS sets (stem TEXT PRIMARY KEY, updated REAL, entry TEXT)")
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{path}: can't be opened: {error}; make room, or choose another --to") from error
        found = newest(_journals(folder)).values()
        self.write(*(e for e in found if (known := self._get(e.stem)) is None or known.updated < e.updated))

    def _get(self, stem: str) -> Entry | None:
        row = self._db.execute("SELECT entry FROM sets WHERE stem=?", (stem,)).fetchone()
        return None if row is None else Entry.from_json(json.loads(row[0]))

    def write(self, *entries: Entry) -> None:
        """Remember entries, at once and for good: the disk is waited for once for them all."""
        rows = [(entry.stem, entry.updated, json.dumps(entry.as_json())) for entry in entries]
        if not rows:
            return
        try:
            # Commits, or takes all of it back.
            with self._db:
                self._db.execute("BEGIN")
                self._db.executemany("INSERT OR REPLACE INTO sets VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise OutputError(f"{os.path.join(self.folder, NAME)}: can't be written: {error}") from error

    def entries(self) -> dict[str, Entry]:
        made = (Entry.from_json(json.loads(text)) for (text,) in self._db.execute("SELECT entry FROM sets"))
        return {entry.stem: entry for entry in made}

    def close(self) -> None:
        self._db.close()


def _stored(path: Path) -> list[Entry]:
    """The entries of a database, which stays as it is."""

    def rows(uri: str) -> list[Entry]:
        with closing(sqlite3.connect(uri, timeout=BUSY_SECONDS, uri=True)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master").fetchall():
                return []  # its writer is about to begin, or was killed before it had
            return [Entry.from_json(json.loads(text)) for (text,) in db.execute("SELECT entry FROM sets")]

    try:
        return rows(f"{path.resolve().as_uri()}?mode=ro")
    except sqlite3.OperationalError:
        # A writer that was killed left its journal, by which the next one will take back what it had begun; to read, a
        # copy does so.
        journal = Path(f"{path}-journal")
        if not journal.exists():
            raise
        with tempfile.TemporaryDirectory() as folder:
            copies = [shutil.copy(file, folder) for file in (path, journal)]
            return rows(Path(copies[0]).as_uri())


def read(folder: str) -> dict[str, Entry]:
    """All entries, by stem, without writing anything; InputError where there is no archive."""
    path = Path(folder) / NAME
    stored: list[Entry] = []
    if path.exists():
        try:
            stored = _stored(path)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path}: isn't an archive's state: {error}") from error
    entries = newest([*stored, *_journals(folder)])
    if not path.exists() and not entries:
        raise InputError(f"{folder}: holds no {NAME}; give the folder that an archive was made in (--to)")
    return dict(sorted(entries.items()))
