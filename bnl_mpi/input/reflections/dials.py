"""DIALS's reflection tables (`.refl`): a msgpack of columns, each a type's name, a length and bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from .value import Array, Reflections, check_finite, told_radius

SIGNATURE = b"dials::af::reflection_table"

_TYPES = {
    b"vec3<double>": ("<f8", 3),
    b"double": ("<f8", 1),
    b"int6": ("<i4", 6),
    b"int": ("<i4", 1),
    b"std::size_t": ("<u8", 1),
    b"bool": ("?", 1),
    b"cctbx::miller::index<>": ("<i4", 3),
}


def is_dials(head: bytes) -> bool:
    """Whether a file that begins with `head` is such a table."""
    return SIGNATURE in head[:64]


def read_dials(path: str) -> Reflections:
    """Predicted positions where there are any, else observed ones; the frames of the bounding boxes.

    In order of Miller indices where there are any, so that neighbours in the arrays are neighbours on the detector.
    """
    columns, n = _columns(path)
    xyz = _positions(path, columns, n)
    check_finite(path, xyz)
    _check_one_image_set(path, columns, n)
    xyz[:, :2] += _panel_offsets(path, columns, n)
    boxes = _column(path, columns, "bbox", n)
    frames = np.floor(xyz[:, 2]).astype(np.int64)
    if boxes is None:
        first = last = frames
        radius = told_radius(0)
    else:
        # Reflections that were never integrated have no box, or an empty one.
        first = np.minimum(boxes[:, 4].astype(np.int64), frames)
        last = np.maximum(boxes[:, 5].astype(np.int64) - 1, frames)
        unset = boxes[:, 5] <= boxes[:, 4]
        first[unset] = last[unset] = frames[unset]
        radius = _radius(columns, boxes[~unset])
    order = _order(path, columns, n)
    x, y, first, last = (a[order] for a in (xyz[:, 0], xyz[:, 1], first, last))
    return Reflections(x, y, first, last, np.full(n, radius), of_many_frames=boxes is not None)


def _columns(path: str) -> tuple[Mapping[bytes, Any], int]:
    import msgpack

    try:
        with open(path, "rb") as file:
            # Panels and images are listed by number.
            name, _, table = msgpack.unpackb(file.read(), raw=True, strict_map_key=False)
        if name != SIGNATURE:
            raise ValueError(f"it begins with {name!r}")
        return dict(table[b"data"]), int(table[b"nrows"])
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise InputError(f"{path}: a reflection table of DIALS that can't be read: {error}; make it again") from error


def _column(path: str, columns: Mapping[bytes, Any], name: str, n: int) -> Array | None:
    """The column as (n,) or (n, k); None where there is none."""
    found = columns.get(name.encode())
    if found is None:
        return None
    kind, (length, data) = found
    if kind not in _TYPES:
        raise InputError(f"{path}: its column {name} is of {kind.decode()}, which isn't understood; make it anew")
    dtype, width = _TYPES[kind]
    if length != n or len(data) != n * width * np.dtype(dtype).itemsize:
        raise InputError(f"{path}: its column {name} is cut short; make the file again")
    values = np.frombuffer(data, dtype)
    return values if width == 1 else values.reshape(n, width)


def _positions(path: str, columns: Mapping[bytes, Any], n: int) -> Array:
    """(n, 3): x, y in pixels, z in frames."""
    predicted, observed = (_column(path, columns, name, n) for name in ("xyzcal.px", "xyzobs.px.value"))
    if predicted is None and observed is None:
        raise InputError(f"{path}: has neither xyzcal.px nor xyzobs.px.value; give a table of spots or reflections")
    if predicted is None:
        assert observed is not None
        alone: Array = observed.copy()
        return alone
    found: Array = predicted.copy()
    if observed is not None:
        # What isn't indexed wasn't predicted.
        unset = ~found.any(axis=1)
        found[unset] = observed[unset]
    return found


def _check_one_image_set(path: str, columns: Mapping[bytes, Any], n: int) -> None:
    sets = _column(path, columns, "imageset_id", n)
    several = [] if sets is None else [int(k) for k in np.unique(sets) if k >= 0]
    if len(several) > 1:
        raise InputError(
            f"{path}: holds reflections of {len(several)} image sets ({', '.join(map(str, several[:5]))}); split it "
            "(dials.split_experiments) and give the file of this one"
        )


def _panel_offsets(path: str, columns: Mapping[bytes, Any], n: int) -> Array | float:
    """What to add to positions on panels; they are told by the experiments beside the table."""
    panels = _column(path, columns, "panel", n)
    if panels is None or not panels.any():
        return 0.0
    beside = f"{os.path.splitext(path)[0]}.expt"
    try:
        with open(beside, encoding="utf-8") as file:
            told = json.load(file)["detector"][0]["panels"]
        offsets = np.array([panel["raw_image_offset"] for panel in told], np.float64)
        return np.asarray(offsets[panels.astype(np.int64)])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: its positions are on {int(panels.max()) + 1} panels, and {beside} doesn't tell where these lie "
            f"({error}); put the experiments beside it"
        ) from error


def _radius(columns: Mapping[bytes, Any], boxes: Array) -> float:
    """Integration's boxes are twice as wide as the spot in them; spot finding's hold the spot barely."""
    if not len(boxes):
        return told_radius(0)
    half = float(np.median((boxes[:, 1] - boxes[:, 0] + boxes[:, 3] - boxes[:, 2]) / 4))
    return told_radius(half / 2 if b"background.mean" in columns else half + 1)


def _order(path: str, columns: Mapping[bytes, Any], n: int) -> Array:
    hkl = _column(path, columns, "miller_index", n)
    if hkl is None:
        return np.arange(n)
    keys = [hkl[:, 2], hkl[:, 1], hkl[:, 0]]
    for name in ("entering", "id"):
        column = _column(path, columns, name, n)
        if column is not None:
            keys.append(column)
    return np.lexsort(keys)
