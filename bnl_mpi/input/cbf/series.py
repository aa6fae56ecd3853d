"""Which files make a series, and whether their headers are of one experiment."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ...errors import InputError
from .header import Damaged, Header, cutoff, exposure, read_header, wavelength
from .naming import NAME as NAME

PLACE = re.compile(r"[#?]+")

THREADS = 8
"""Headers are read by so many threads: opening a file takes long on a parallel file system."""

Key = tuple[str, str]
"""What the names of a series have in common: prefix and suffix."""


@dataclass(frozen=True)
class Series:
    """The files of a series in the order of their numbers, without a gap."""

    paths: tuple[str, ...]
    first_number: int

    @property
    def template(self) -> str:
        """The files' names as `name_#####.cbf`."""
        folder, name = os.path.split(self.paths[0])
        found = NAME.fullmatch(name)
        if found is None:
            return self.paths[0]
        return os.path.join(folder, f"{found['prefix']}{'#' * len(found['number'])}{found['suffix']}")


def find_series(path: str) -> Series:
    """The series that a file, a template `name_#####.cbf` or a folder names.

    InputError where there is none, where a folder holds two, or where an image is missing.
    """
    folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    if not os.path.isdir(folder or "."):
        raise InputError(f"{path}: no such folder")
    found = _by_key(folder)
    if not name:
        return _checked(folder, found, _only_key(path, found))
    place = PLACE.search(name)
    if place is not None and not os.path.exists(path):
        key = (name[: place.start()], name[place.end() :])
        if key not in found:
            raise InputError(f"{path}: no file fits this template{_near(found)}")
        return _checked(folder, found, key)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file{_near(found)}")
    match = NAME.fullmatch(name)
    if match is None:
        return Series((path,), 1)
    return _checked(folder, found, (match["prefix"], match["suffix"]))


def _by_key(folder: str) -> dict[Key, list[tuple[int, str]]]:
    """(number, name) of every CBF file with a number, by what else is in the name."""
    found: dict[Key, list[tuple[int, str]]] = {}
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError as error:
        raise InputError(f"{folder or '.'}: can't be listed: {error.strerror}") from None
    for name in names:
        match = NAME.fullmatch(name)
        if match is not None:
            found.setdefault((match["prefix"], match["suffix"]), []).append((int(match["number"]), name))
    return found


def _only_key(path: str, found: dict[Key, list[tuple[int, str]]]) -> Key:
    if not found:
        raise InputError(f"{path}: no CBF series in this folder")
    if len(found) > 1:
        several = ", ".join(
            f"{prefix}#{suffix} ({len(files)})" for (prefix, suffix), files in sorted(found.items())[:4]
        )
        raise InputError(f"{path}: {len(found)} series in this folder: {several}; give -i an image of the one you want")
    return next(iter(found))


def _near(found: dict[Key, list[tuple[int, str]]]) -> str:
    names = [f"{prefix}#{suffix}" for prefix, suffix in sorted(found)[:3]]
    return f"; there are {', '.join(names)}" if names else ""


def _checked(folder: str, found: dict[Key, list[tuple[int, str]]], key: Key) -> Series:
    files = sorted(found[key])
    numbers = [number for number, _ in files]
    where = os.path.join(folder, f"{key[0]}#{key[1]}")
    for (number, name), (following, other) in itertools.pairwise(files):
        if following == number:
            raise InputError(f"{where}: {name} and {other} have one number; take one of them away")
    n_missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if n_missing:
        # A date in one name makes a gap of millions: only the first of them are looked for.
        absent = (k for one, following in itertools.pairwise(numbers) for k in range(one + 1, following))
        shown = ", ".join(map(str, itertools.islice(absent, 5))) + (", ..." if n_missing > 5 else "")
        raise InputError(
            f"{where}: {n_missing} of the images {numbers[0]} to {numbers[-1]} "
            f"{'are' if n_missing > 1 else 'is'} missing: {shown}; restore them, or move one side of the gap away"
        )
    return Series(tuple(os.path.join(folder, name) for _, name in files), numbers[0])


def read_headers(series: Series) -> list[Header]:
    """Every file's header: of one that is damaged the first file's, with `damage`.

    InputError where the first can't be read, or another isn't of its experiment.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(_header_or_damage, series.paths))
    first = found[0]
    if isinstance(first, Damaged):
        # What no other file tells: where the rotation begins.
        others = ", or move it away: a series' first image can't be skipped" if len(found) > 1 else ""
        raise InputError(f"{first}; restore the file{others}")
    return [first, *(_of_series(first, path, one) for path, one in zip(series.paths[1:], found[1:], strict=True))]


def _header_or_damage(path: str) -> Header | Damaged:
    try:
        return read_header(path)
    except Damaged as error:
        return error


def _of_series(first: Header, path: str, found: Header | Damaged) -> Header:
    if isinstance(found, Header):
        try:
            _check_like(first, found)
        except Damaged as error:
            found = error
    return found if isinstance(found, Header) else replace(first, path=path, cut=None, damage=str(found))


def _text_of_shape(header: Header) -> str:
    ny, nx = header.binary.shape
    return f"{nx} x {ny} pixels of type {header.binary.dtype}"


SAME: tuple[tuple[str, Callable[[Header], object]], ...] = (
    ("frames", _text_of_shape),
    ("the exposure time", lambda header: exposure(header)[0]),
    ("the exposure period", lambda header: exposure(header)[1]),
    ("the saturation value", cutoff),
    ("the detector", lambda header: header.fields.get("Detector")),
    ("the pixel size", lambda header: header.fields.get("Pixel_size")),
)
"""What must be the same in all headers."""

NEARLY: tuple[tuple[str, Callable[[Header], float | None], float], ...] = (
    ("the wavelength", wavelength, 1e-3),
    ("the detector distance", lambda header: header.number("Detector_distance"), 1e-3),
)
"""What may differ by so small a part: some beamlines write what was read back, frame by frame."""

COMMON = (*SAME, *((label, get) for label, get, _ in NEARLY))
"""What all headers tell, if the first does."""

ANGLES = ("Start_angle", "Angle_increment")
"""What each header has of its own."""


def _check_like(first: Header, header: Header) -> None:
    """InputError where a header isn't of the experiment of the first, Damaged where it lacks what that one has."""
    lacking = [name for name in ANGLES if header.number(name) is None and first.number(name) is not None]
    lacking += [label for label, get in COMMON if get(header) is None and get(first) is not None]
    if lacking:
        raise Damaged(f"{header.path}: its header lacks {lacking[0]}, which {os.path.basename(first.path)} tells")
    for label, get in SAME:
        if get(header) != get(first):
            raise _differs(header, label, get(header), get(first), first)
    for label, number, tolerance in NEARLY:
        here, there = number(header), number(first)
        if here != there and (here is None or there is None or abs(here - there) > tolerance * abs(there)):
            raise _differs(header, label, here, there, first)


def _differs(header: Header, label: str, here: object, there: object, first: Header) -> InputError:
    verb = "are" if label.endswith("s") else "is"
    return InputError(
        f"{header.path}: {label} {verb} {here}, but {there} in {os.path.basename(first.path)}; "
        "a series is of one experiment: move the others to a folder of their own"
    )
