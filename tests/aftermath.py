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


MASTERS = ("_master.h5", ".nxs")
CERTIFICATES = (".sha256", ".crate.json")


def is_named(path: Path) -> bool:
    """Whether it is a file of a set, or of its certificate, under its final name."""
    return path.name.endswith((".h5", ".nxs", *CERTIFICATES)) and not any(part in path.name for part in _UNNAMED)


def version_of(folder: Path) -> Version:
    return {p.name: _content(p) for p in sorted(folder.iterdir()) if is_named(p)}


def _content(path: Path) -> Any:
    """In a form that compares with ==; raises OSError or ValueError where the file isn't whole."""
    if path.suffix == ".sha256":
        return path.read_text()
    if not path.name.endswith(".crate.json"):
        return tree(path)
    found = {one["@id"]: one for one in json.loads(path.read_text())["@graph"]}
    try:
        # When it was verified.
        del found["./"]["datePublished"], found["#verification"]["endTime"]
        verdict = json.loads(found["#verdict"]["value"])
        # And when each raw file came to lie where it lies.
        del verdict["verified"], verdict["ctime_ns"]
    except KeyError as error:
        raise ValueError(f"no {error} in it") from error
    return found, verdict, found["#verdict"].pop("value") is not None


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
            here = _content(path)
        except (OSError, ValueError) as error:
            return f"{path.name} is not whole: {error}"
        found[path.name] = {k for k, version in enumerate(versions) if version.get(path.name) == here}
        if not found[path.name]:
            return f"{path.name} is what no run writes"
    return _mixed(found, versions) or _texts(folder)


def _mixed(found: Mapping[str, set[int]], versions: Sequence[Version]) -> str | None:
    for name in (name for name in found if name.endswith((*MASTERS, *CERTIFICATES))):
        above = CERTIFICATES if name.endswith(CERTIFICATES) else (*MASTERS, *CERTIFICATES)
        for k in found[name]:
            if all(k in found.get(one, ()) for one in versions[k] if not one.endswith(above)):
                break
        else:
            return f"{name} is over files that are missing or of another run: {found}"
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
