"""Parts of images and frames that options name, and the words for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError

ZERO_AXES = {"RO": 0, "CO": 1}
"""The axis that each option of zero patterns means, where a pattern names none."""


@dataclass(frozen=True)
class ZeroPattern:
    """Pixels set to 0: `axis` 0 is rows (slow), 1 is columns (fast); indices are 0-based on the image."""

    text: str
    rows: tuple[int | None, int | None, int | None] = (None, None, None)
    columns: tuple[int | None, int | None, int | None] = (None, None, None)
    group: tuple[int, int] | None = None
    """(k, n): of every n rows or columns the first k."""
    axis: int = 0


def parse_zero_pattern(text: str, axis: int) -> ZeroPattern:
    """One of `columns_A:B:C`, `rows_A:B:C` (Python's slices), `zero_K_of_N_columns` (or `_rows`), and
    `x0,x1[,y0,y1]`: columns x0..x1 of rows y0..y1 (of all rows), from 0, both ends included.

    `axis` names the direction where the text does not: 0 for `-R`, 1 for `-C`.
    """
    number = r"(-?\d+|)"
    if m := re.fullmatch(rf"(?:(columns|rows)_)?{number}:{number}(?::{number})?", text):
        word, *numbers = m.groups()
        cut = tuple(int(n) if n else None for n in numbers)
        if cut[2] == 0:
            raise UsageError(f"pattern '{text}': a step of 0 selects nothing; give 1 or more")
        along = {"rows": 0, "columns": 1, None: axis}[word]
        a, b, c = cut
        key = "rows" if along == 0 else "columns"
        return ZeroPattern(text, axis=along, **{key: (a, b, c)})  # type: ignore[arg-type]
    if m := re.fullmatch(r"zero_(\d+)_of_(\d+)(?:_(columns|rows))?", text):
        k, n = int(m[1]), int(m[2])
        if not 1 <= k <= n:
            raise UsageError(f"pattern '{text}': {k} of {n} is not possible; give 1 of 2, 2 of 3, ...")
        along = {"rows": 0, "columns": 1, None: axis}[m[3]]
        return ZeroPattern(text, group=(k, n), axis=along)
    if re.fullmatch(r"\d+,\d+(,\d+,\d+)?", text):
        x0, x1, *y = (int(n) for n in text.split(","))
        y0, y1 = y or (0, None)
        if x1 < x0 or (y1 is not None and y1 < y0):
            raise UsageError(f"pattern '{text}': x0,x1[,y0,y1] needs x0 <= x1 and y0 <= y1")
        return ZeroPattern(text, (y0, None if y1 is None else y1 + 1, None), (x0, x1 + 1, None), axis=axis)
    raise UsageError(
        f"pattern '{text}' not understood; give columns_::2, rows_1::2, zero_2_of_3_columns or x0,x1[,y0,y1]"
    )


def parse_frame_list(text: str) -> tuple[tuple[int, int], ...]:
    """`1,5,10-20`: frames from 1, as inclusive ranges."""
    ranges = []
    for part in text.split(","):
        m = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not m or int(m[1]) < 1 or (m[2] and int(m[2]) < int(m[1])):
            raise UsageError(f"--omit '{text}': '{part}' is no frame number or range; give 1,5,10-20, from 1")
        ranges.append((int(m[1]), int(m[2] or m[1])))
    return tuple(ranges)


def parse_rectangle(text: str) -> tuple[int, int, int, int]:
    """`x0,x1,y0,y1`: columns x0..x1 of rows y0..y1 of a frame, from 0, both ends included."""
    if not re.fullmatch(r"\d+,\d+,\d+,\d+", text):
        raise UsageError(f"--keep_also '{text}': give x0,x1,y0,y1, in pixels of a frame from 0")
    x0, x1, y0, y1 = (int(n) for n in text.split(","))
    if x1 < x0 or y1 < y0:
        raise UsageError(f"--keep_also '{text}': x0,x1,y0,y1 needs x0 <= x1 and y0 <= y1")
    return x0, x1, y0, y1
