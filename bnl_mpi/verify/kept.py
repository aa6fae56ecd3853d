"""What `--keep` kept, by the set's own word: its master holds the regions, its blocks' records the SHA-256 of these and
of the files that they are from.  So no such file is needed; one that is at hand is held against both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import InputError, UsageError
from ..hdf5 import guard
from ..input.reflections import selection
from ..input.reflections.reading import ReflectionFile
from ..job import Keeping
from ..options import Options
from ..output.master import read_regions
from ..plan import Plan
from .files import hash_file
from .findings import DIFFERS, UNREADABLE, Finding


@dataclass(frozen=True)
class Told:
    """What a set tells of `--keep`."""

    keeping: Keeping
    regions_sha256: str
    """As the blocks have it."""


def told_by(master: str, told: Mapping[str, Any]) -> Told | None:
    """Of the set of `master`, whose blocks' job is `told`; None where it was made without `--keep`."""
    kept = told.get("input", {}).get("kept")
    if kept is None:
        return None
    with guard.opened(master) as file:
        regions = read_regions(file)
    if regions is None:
        raise InputError(f"{master}: tells of no regions that --keep kept; its blocks do: restore the file")
    try:
        files = tuple(ReflectionFile(**one) for one in kept["files"])
        return Told(Keeping(files, regions), str(kept["regions_sha256"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{master}: what --keep kept isn't understood ({error})") from error


class Given(NamedTuple):
    """A file that the user gave."""

    path: str
    sha256: str | None
    why: str
    """It can't be read; else ""."""


def given_files(kept: Told | None, master: str, paths: Sequence[str]) -> list[Given]:
    """The files of these paths; UsageError where one is none that the set is of, neither by its content nor by name."""
    files = () if kept is None else kept.keeping.files
    found = []
    for path in paths:
        try:
            one = Given(path, hash_file(path).sha256, "")
        except OSError as error:
            one = Given(path, None, "no such file" if isinstance(error, FileNotFoundError) else str(error))
        if not any(one.sha256 == file.sha256 or os.path.basename(path) == file.name for file in files):
            wanted = f"those of {', '.join(sorted(file.name for file in files))}" if files else "none"
            other = f"; {one.why}" if one.why else ", and this is another file"
            raise UsageError(f"--keep {path}: {master} keeps {wanted}{other}; leave it out, or give the right one")
        found.append(one)
    return found


def compare(
    kept: Told, master: str, options: Options, plan: Plan, given: Sequence[Given], folders: Sequence[str]
) -> tuple[list[Finding], list[str]]:
    """(findings, notes) on the regions, and on each file that they are from.

    A file is looked for among those `given`, by its content, and in `folders`, by its name; only one that is given by
    that name must be the right one.
    """
    findings, notes, found = [], [], list[str]()
    now = hashlib.sha256(kept.keeping.regions).hexdigest()
    if now != kept.regions_sha256:
        what = "regions of --keep"
        findings.append(Finding(DIFFERS, master, what, f"SHA-256 {kept.regions_sha256[:12]}", f"SHA-256 {now[:12]}"))
    right = {file.sha256 for file in kept.keeping.files}
    for file in kept.keeping.files:
        mine = [one.path for one in given if one.sha256 == file.sha256]
        wrong = [one for one in given if os.path.basename(one.path) == file.name and one.sha256 not in right]
        path, why = (mine[0], "") if mine else (None, "")
        if not (mine or wrong):
            path, why = _at_hand(file, [os.path.join(folder, file.name) for folder in folders])
        if path is not None:
            found.append(path)
            notes.append(f"--keep {path}: SHA-256 as noted")
        elif not wrong:
            state = "isn't at hand" if why else "another file of that name is at hand"
            notes.append(f"--keep {file.name}: {state}; its regions are those that the set holds")
        for one in wrong:
            wanted = f"the reflections that were kept, SHA-256 {file.sha256[:12]}"
            sign = UNREADABLE if one.why else DIFFERS
            findings.append(Finding(sign, one.path, "file", wanted, one.why or "another file"))
    if found and len(found) == len(kept.keeping.files):
        again = selection.select(found, options.keep_radius, options.keep_frames, plan).regions.packed()
        if again != kept.keeping.regions:
            findings.append(Finding(DIFFERS, master, "regions of --keep", f"those of {', '.join(found)}", "others"))
    return findings, notes


def _at_hand(file: ReflectionFile, places: Sequence[str]) -> tuple[str | None, str]:
    """(the path of that very file, "") or (None, what is wrong with the first that is there)."""
    for path in places:
        try:
            if hash_file(path).sha256 == file.sha256:
                return path, ""
        except FileNotFoundError:
            continue
        except OSError as error:
            return None, str(error)
    return None, "" if any(os.path.exists(path) for path in places) else "no such file"
