"""Links of a master to files: where they lead, and whether something is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError


def link_folders(master: str) -> list[str]:
    """Where the files that `master` links may be: its folder as given, and as it really is where that differs."""
    return list(dict.fromkeys(os.path.dirname(f(master)) for f in (os.path.abspath, os.path.realpath)))


def resolve_link(filename: str, master: str, folders: Sequence[str] = ()) -> str:
    """The path of a file that `master` links, relative to one of `folders` (by default its `link_folders`).

    An absolute path that leads nowhere is looked for beside the master, as HDF5 does: sets are moved about.
    """
    beside = folders or link_folders(master)
    names = [filename, os.path.basename(filename)] if os.path.isabs(filename) else [filename]
    candidates = [os.path.join(folder, name) for name in names for folder in beside]
    # Where there is no choice, whoever opens the file finds out: a look at each of thousands of files is dear.
    if len(candidates) == 1:
        return candidates[0]
    return next((c for c in candidates if os.path.exists(c)), candidates[0])


def check_present(paths: Iterable[str], master: str) -> None:
    missing = [p for p in dict.fromkeys(paths) if not os.path.isfile(p)]
    if missing:
        names = ", ".join(missing)
        raise InputError(
            f"{master}: {len(missing)} linked data file{'s are' * (len(missing) > 1) or ' is'} missing: {names}; "
            f"put {'them' if len(missing) > 1 else 'it'} where the master's links point"
        )


def _is_denied(path: str) -> bool:
    """Whether the system won't tell what is in this folder, or whether there is a file of this name."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK)


def find_master(path: str) -> str:
    """`path` if it is a file, else the error that says what is there instead."""
    if _is_denied(path):
        raise InputError(f"{path}: permission to read it is denied")
    if os.path.isdir(path):
        first = next(iter(sorted(Path(path).glob("*_master.h5"))), "NAME_master.h5")
        raise InputError(f"{path}: is a folder; give the master file, {first}")
    if not os.path.exists(path):
        near = sorted(p.name for p in Path(path).parent.glob("*_master.h5"))[:3] if Path(path).parent.is_dir() else []
        hint = f"; there {'are' if near[1:] else 'is'} {', '.join(near)}" if near else ""
        name = path or "--infile ''"
        raise InputError(f"{name}: no such file{hint}")
    return path
