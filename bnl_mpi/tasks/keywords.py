"""What Python callers give, made what `Options` holds, as the command's words are; or one line that says how."""

from __future__ import annotations

import dataclasses
import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from ..errors import UsageError
from ..options import Options
from ..pixels.patterns import ZERO_AXES, ZeroPattern, parse_frame_list, parse_rectangle, parse_zero_pattern

PATHS = frozenset({"infile", "out_file", "out_master", "out_squash", "json", "log_json"})


def values_of(given: Mapping[str, Any], taken: Collection[str] = ()) -> dict[str, Any]:
    """What `Options` is made of.  `taken` are the names that this job takes: all, where none is told.

    None means an option's default.  Raises UsageError that names the option.
    """
    types = {field.name: str(field.type) for field in dataclasses.fields(Options)}
    known = taken or sorted({*types, *ZERO_AXES})
    values: dict[str, Any] = {}
    zero: list[ZeroPattern] = []
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{name}: not an option here; these are: {', '.join(known)}")
        if value is None and name != "infile":
            continue
        if name in ZERO_AXES:
            zero += (parse_zero_pattern(_text(name, one), ZERO_AXES[name]) for one in _several(value))
        else:
            read = _path if name in PATHS else SEVERAL.get(name) or READERS[types[name]]
            values[name] = read(name, value)
    if zero:
        values["zero"] = (*values.get("zero", ()), *zero)
    return values


def _wrong(name: str, value: object, wanted: str) -> UsageError:
    return UsageError(f"--{name} {value!r}: give {wanted}")


def _path(name: str, value: object) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise _wrong(name, value, "a path, as text or pathlib's")
    return path


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    # A text of numpy's is one too, but would be written otherwise.
    return str(value)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise _wrong(name, value, "a whole number") from None


def _block_size(name: str, value: object) -> int | str:
    return value if isinstance(value, str) else _whole(name, value)


def _number(name: str, value: object) -> float:
    if name in ("logarithm", "exponential") and value == "e":
        return math.e
    if not isinstance(value, Real):
        raise _wrong(name, value, "a number")
    return int(value) if isinstance(value, Integral) else float(value)


def _switch(name: str, value: object) -> bool:
    # Those of numpy are no bool.
    if isinstance(value, (bool, int)) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise _wrong(name, value, "True or False")


def _several(value: object) -> Iterable[Any]:
    """One, or several."""
    return value if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else (value,)


def _kept(name: str, value: object) -> tuple[str, ...]:
    return tuple(_path(name, one) for one in _several(value))


def _patterns(name: str, value: object) -> tuple[ZeroPattern, ...]:
    patterns = tuple(_several(value))
    if not all(isinstance(one, ZeroPattern) for one in patterns):
        raise _wrong(name, value, "rows as RO and columns as CO, in the command's words")
    return patterns


def _frames(name: str, value: object) -> tuple[tuple[int, int], ...]:
    """Texts as the command's, numbers, and pairs of a range's ends."""
    ranges: list[tuple[int, int]] = []
    for one in _several(value):
        text = one if isinstance(one, str) else "-".join(map(str, _integers(name, value, one, (1, 2))))
        ranges += parse_frame_list(text)
    return tuple(ranges)


def _rectangles(name: str, value: object) -> tuple[tuple[int, int, int, int], ...]:
    """Texts as the command's, and four numbers; one, or several."""
    ones = tuple(_several(value))
    if ones and isinstance(ones[0], Integral):
        ones = (ones,)
    texts = (one if isinstance(one, str) else ",".join(map(str, _integers(name, value, one, (4,)))) for one in ones)
    return tuple(parse_rectangle(text) for text in texts)


def _integers(name: str, value: object, one: object, lengths: tuple[int, ...]) -> list[int]:
    try:
        numbers = [operator.index(number) for number in _several(one)]
    except TypeError:
        numbers = []
    if len(numbers) not in lengths:
        raise _wrong(name, value, MEANT[name])
    return numbers


MEANT = {
    "omit": "frames from 1: numbers, pairs of a range's ends, or a text such as 1,5,10-20",
    "keep_also": "x0, x1, y0, y1 of a rectangle in pixels of a frame from 0, or several of these",
}
SEVERAL: Mapping[str, Callable[[str, object], tuple[Any, ...]]] = {
    "keep": _kept,
    "zero": _patterns,
    "omit": _frames,
    "keep_also": _rectangles,
}
READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "str": _text,
    "str | None": _text,
    "int": _whole,
    "int | None": _whole,
    "Bytes": _whole,
    "int | str": _block_size,
    "Real": _number,
    "Real | None": _number,
    "bool": _switch,
}
"""By the types of `Options`' fields, but for paths and what can be several."""
