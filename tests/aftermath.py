"""What a run that failed or was killed may leave, and what must be as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from running import tree

Version = Mapping[str, Any]
"""What an undisturbed run writes: the tree of each file, by name."""
State = dict[str, tuple[bytes, int]]

_UNNAMED = (".partial", ".lock", ".dead")
"""Endings and parts of the names of files that no reader takes for a set's."""


def is_named(path: Path) -> bool:
    """Whether it is a file of a set under its final name."""
    return path.suffix in (".h5", ".nxs") and not any(part in path.name for part in _UNNAMED)


def version_of(folder: Path) -> Version:
    return {p.name: tree(p) for p in sorted(folder.iterdir()) if is_named(p)}


def state_of(folder: Path) -> State:
    """Bytes and modification time of each file."""
    return {p.name: (p.read_bytes(), os.stat(p).st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()}


def complaint(folder: Path, versions: Sequence[Version]) -> str | None:
    """What is wrong with the files under final names: each is whole, and a master's all of its own version."""
    found: dict[str, set[int]] = {}
    for path in sorted(folder.iterdir()):
        if not is_named(path):
            continue
        try:
            here = tree(path)
        except OSError as error:
            return f"{path.name} is not whole: {error}"
        found[path.name] = {k for k, version in enumerate(versions) if version.get(path.name) == here}
        if not found[path.name]:
            return f"{path.name} is what no run writes"
    return _mixed(found, versions) or _texts(folder)


def _mixed(found: Mapping[str, set[int]], versions: Sequence[Version]) -> str | None:
    for master in (name for name in found if name.endswith(("_master.h5", ".nxs"))):
        for k in found[master]:
            blocks = [n for n in versions[k] if not n.endswith(("_master.h5", ".nxs"))]
            if all(k in found.get(name, ()) for name in blocks):
                break
        else:
            return f"{master} is over blocks that are missing or of another run: {found}"
    return None


def _texts(folder: Path) -> str | None:
    for path in folder.glob("*.json"):
        try:
            json.loads(path.read_text() or "{}")
        except ValueError as error:
            return f"{path.name} is half-written: {error}"
    return None


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in sorted(folder.iterdir()) if any(part in p.name for part in _UNNAMED)]
