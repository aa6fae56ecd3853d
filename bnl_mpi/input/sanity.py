"""Metadata that no reader can use: the data is reduced all the same, and the user is told."""

from __future__ import annotations

import json

import h5py
import numpy as np

from ..hdf5 import access
from ..hdf5.names import DETECTOR, PROCESS, SPECIFIC

RANGES: dict[str, tuple[float, float]] = {
    f"{DETECTOR}/x_pixel_size": (1e-9, 1.0),
    f"{DETECTOR}/y_pixel_size": (1e-9, 1.0),
    f"{DETECTOR}/beam_center_x": (-1e6, 1e6),
    f"{DETECTOR}/beam_center_y": (-1e6, 1e6),
    f"{DETECTOR}/detector_distance": (-1e6, 1e6),
    f"{DETECTOR}/distance": (-1e6, 1e6),
    f"{DETECTOR}/count_time": (0.0, 1e7),
    f"{DETECTOR}/frame_time": (0.0, 1e7),
    f"{DETECTOR}/sensor_thickness": (0.0, 1e3),
    f"{SPECIFIC}/nimages": (1, 1e8),
    f"{SPECIFIC}/ntrigger": (1, 1e8),
    "entry/instrument/beam/incident_wavelength": (1e-6, 1e4),
    "entry/sample/beam/incident_wavelength": (1e-6, 1e4),
}
"""Least and greatest value that can be meant, in whatever usual unit the item is told (pixel sizes: m or mm)."""


MOST_VALUES = 1 << 20
"""Longer items aren't looked at."""


def odd_items(h5: h5py.File) -> list[str]:
    """A line for each item of an open master that is there, and is no number of its kind."""
    lines = []
    for path, (least, most) in RANGES.items():
        dataset = access.get_dataset(h5, path)
        if dataset is not None and (odd := _odd(dataset, least, most)):
            lines.append(f"{h5.filename}: /{path} is {odd}; no reader can use that")
    return lines


def lossy_codestreams(h5: h5py.File) -> list[str]:
    """A line where an open master is of this program, and its images are codestreams that hold no marks."""
    told = access.get_dataset(h5, f"{PROCESS}/options")
    try:
        options = {} if told is None else json.loads(access.text(told[()]))
    except ValueError:
        return []
    if not isinstance(options, dict) or options.get("compression") != "htj2k" or not options.get("codec"):
        return []
    return [
        f"{h5.filename}: its lossy HTJ2K images hold no marks, so that overloads in them count as valid; bnl-mpi "
        "expand makes a set that has them"
    ]


def _odd(dataset: h5py.Dataset, least: float, most: float) -> str | None:
    """What is wrong with the values, in a few words."""
    if dataset.dtype.kind not in "iufb":
        return "a text" if dataset.dtype.kind in "SO" else f"of type {dataset.dtype}"
    if not dataset.size:
        return "empty"
    if dataset.size > MOST_VALUES:
        return None
    values = np.asarray(access.read(dataset), dtype=np.float64).reshape(-1)
    odd = values[~((values >= least) & (values <= most))]
    return f"{odd[0]:g}" if len(odd) else None
