"""Which data sets an archive is made of: masters in lists and folders, each set once, and where its output goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, UsageError
from ..input.cbf.series import NAME

MASTER = "_master.h5"
NEXUS = ".nxs"
SETS = (MASTER, NEXUS, ".h5", ".cbf", ".cbf.gz", ".cbf.bz2")
"""How the name of a data set given by itself ends; any other file is a list."""


@dataclass(frozen=True)
class DataSet:
    """One set to reduce."""

    master: str
    """Absolute path, links resolved."""
    stem: str
    """The output's stem, relative to the archive's folder; its name in the archive's state too."""

    @property
    def name(self) -> str:
        return os.path.basename(self.stem)


@dataclass
class Found:
    """What was found, in order of stems."""

    sets: list[DataSet] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a path is no set of its own."""


def is_text(path: str) -> bool:
    """Whether a path's bytes are UTF-8."""
    return not any(0xDC80 <= ord(letter) <= 0xDCFF for letter in path)


def stem_of(path: str) -> str:
    """A set's path without what tells that it is one; of a series' image without its number too."""
    folder, name = os.path.split(path)
    if image := NAME.fullmatch(name):
        return os.path.join(folder, image["prefix"].rstrip("_-.") or name)
    for ending in SETS:
        if path.endswith(ending):
            return path.removesuffix(ending)
    return path


def find(sources: Sequence[str], to: str, root: str | None = None, homes: Mapping[str, str] | None = None) -> Found:
    """The data sets of `sources`: masters, folders (walked), lists of paths, or `-` for a list on standard input.

    A folder's sets keep their place below the folder's own name; those of a list or given by themselves keep their
    whole path, or what is below `root`; but one that `homes` (stems by master) knows stays where it is, so that the
    list of failed sets leads to where a folder's walk would have put them.  `to` itself is not walked.  What a list
    names is a set even where no such file is: it must not be missed in silence.

    Raises:
        InputError: a source isn't there, or two sets would be written to one place.
    """
    found, places, real = Found(), dict[str, str](), dict[str, str]()
    candidates = list(_candidates(sources, os.path.realpath(to), root, found.skipped))
    named = {path for path, _, is_named in candidates if is_named}
    # A set's own name before those of links to it.
    for path, relative, _ in sorted(candidates, key=lambda one: os.path.islink(one[0])):
        stem, master = stem_of(relative), os.path.realpath(path)
        if homes and relative == _below(path, None):
            stem = homes.get(master, stem)
        if not os.path.isfile(master) and path not in named:
            found.skipped[path] = "is a broken link"
        elif not (is_text(stem) and is_text(master)):
            found.skipped[path] = "its path isn't UTF-8, which the archive's memory needs; rename what isn't"
        elif master in real:
            if real[master] != path:
                found.skipped[path] = f"is the same set as {real[master]}"
        elif (earlier := places.get(stem)) is not None:
            raise InputError(f"{path} and {earlier}: both would be written as {stem}; give --root, or fewer folders")
        else:
            real[master] = places[stem] = path
            found.sets.append(DataSet(master, stem))
    found.sets.sort(key=lambda one: one.stem)
    return found


def _candidates(
    sources: Sequence[str], to: str, root: str | None, skipped: dict[str, str]
) -> Iterator[tuple[str, str, bool]]:
    """(path, path below the archive's folder, whether it was named, not found by a walk) of what may be a set.

    Folders that can't be read are added to `skipped`, with the reason.
    """
    for source in sources:
        if source == "-":
            yield from _listed(sys.stdin.buffer.read(), "-", root)
        elif os.path.isdir(source):
            top = os.path.abspath(source)
            if not os.access(top, os.R_OK | os.X_OK):
                raise InputError(f"{source}: permission to read this folder is denied")
            for path in _walk(top, to, set(), skipped):
                yield path, os.path.relpath(path, os.path.dirname(top)), False
        elif source.endswith(SETS):
            yield os.path.abspath(source), _below(source, root), True
        else:
            try:
                content = Path(source).read_bytes()
            except OSError as error:
                raise InputError(f"{source}: can't be read: {error.strerror}; give a master, folder or list") from error
            yield from _listed(content, source, root)


def _listed(content: bytes, name: str, root: str | None) -> Iterator[tuple[str, str, bool]]:
    """The paths of a list, one a line, or ended by NUL where there is one."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: byte {error.start} is no text; a list has a path a line") from error
    for line in text.split("\0") if "\0" in text else text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield os.path.abspath(line), _below(line, root), True


def _below(path: str, root: str | None) -> str:
    absolute = os.path.abspath(path)
    if root is None:
        return absolute.lstrip("/")
    relative = os.path.relpath(absolute, os.path.abspath(root))
    if relative.startswith(".."):
        raise UsageError(f"{path}: isn't below --root {root}; give a folder that holds all sets, or leave --root out")
    return relative


def _walk(folder: str, to: str, visited: set[str], skipped: dict[str, str]) -> Iterator[str]:
    """Masters below a folder, NeXus files without a master beside them, and the first image of each CBF series; each
    folder once, however it is linked."""
    real = os.path.realpath(folder)
    if real in visited or real == to:
        return
    visited.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        skipped[folder] = f"can't be read: {error.strerror}"
        return
    names = {entry.name for entry in entries}
    begun: set[tuple[str, str]] = set()
    for entry in entries:
        # A link in a circle is none, as for `isdir`.
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
            yield from _walk(entry.path, to, visited, skipped)
        elif entry.name.endswith(MASTER) or (
            entry.name.endswith(NEXUS) and entry.name.removesuffix(NEXUS) + MASTER not in names
        ):
            yield entry.path
        elif (image := NAME.fullmatch(entry.name)) and (image["prefix"], image["suffix"]) not in begun:
            begun.add((image["prefix"], image["suffix"]))
            yield entry.path
