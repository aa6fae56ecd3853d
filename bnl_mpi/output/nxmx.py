"""What an NXmx entry needs, and where it is: beam, modules, chains of axes.

Source: https://manual.nexusformat.org/classes/applications/NXmx.html.
"""

from __future__ import annotations

import posixpath

import h5py
import numpy as np

from ..hdf5 import access
from ..hdf5.names import DETECTOR
from ..input.experiment import Experiment

INSTRUMENT = "entry/instrument"
SAMPLE = "entry/sample"
BEAM_PATHS = (f"{INSTRUMENT}/beam", f"{SAMPLE}/beam")
MAX_CHAIN = 50
PARALLEL_ROTATIONS = ("omega", "phi")
"""Axes of the older flavour that may be taken as the spindle: kappa and chi lie askew, who knows how."""


def missing(source: h5py.File, experiment: Experiment) -> list[str]:
    """What an NXmx entry needs and the input doesn't have."""
    lacking = []
    if wavelength(source) is None:
        lacking.append(f"the wavelength (/{BEAM_PATHS[0]}/incident_wavelength)")
    for name in ("sensor_material", "sensor_thickness"):
        if access.get_dataset(source, f"{DETECTOR}/{name}") is None:
            lacking.append(f"the {name.replace('_', ' ')} (/{DETECTOR}/{name})")
    if experiment.flavour == "nxmx":
        return lacking + _missing_chains(source)
    return lacking + _missing_geometry(source) + _missing_directions(experiment)


def wavelength(source: h5py.File) -> h5py.Dataset | None:
    for path in BEAM_PATHS:
        found = access.get_dataset(source, f"{path}/incident_wavelength")
        if found is not None and found.dtype.kind in "iuf":
            return found
    return None


def _missing_geometry(source: h5py.File) -> list[str]:
    wanted = {
        f"{DETECTOR}/geometry/orientation/value": 6,
        f"{DETECTOR}/geometry/translation/distances": 3,
        f"{DETECTOR}/x_pixel_size": 1,
        f"{DETECTOR}/y_pixel_size": 1,
    }
    return [f"/{path}" for path, n in wanted.items() if not _has_numbers(access.get_dataset(source, path), n)]


def _has_numbers(dataset: h5py.Dataset | None, n: int) -> bool:
    return dataset is not None and dataset.size == n and dataset.dtype.kind in "iuf"


def _missing_directions(experiment: Experiment) -> list[str]:
    names = {posixpath.basename(axis.path) for axis in experiment.axes if axis.moves}
    names = {name for name in names if name != "two_theta"}
    if len(names) > 1 or names - set(PARALLEL_ROTATIONS):
        return [f"the directions of the axes that move ({', '.join(sorted(names))})"]
    return []


def _missing_chains(source: h5py.File) -> list[str]:
    found = modules(source)
    if not found:
        return [f"an NXdetector_module (/{DETECTOR}/module)"]
    ends: list[tuple[str, h5py.Dataset | None]] = []
    for module in found:
        for name in ("fast_pixel_direction", "slow_pixel_direction"):
            ends.append((f"{module.name}/{name}", access.get_dataset(module, name)))
    lacking = []
    for path, dataset in ends:
        lacking += [path] if dataset is None else _broken_links(dataset)
    start = sample_axis(source)
    return lacking + (_broken_links(start) if isinstance(start, h5py.Dataset) else start or [])


def modules(h5: h5py.File) -> list[h5py.Group]:
    detector = access.get_group(h5, DETECTOR)
    groups = [] if detector is None else [access.get_group(detector, name) for name in detector]
    wanted = "NXdetector_module"
    return [g for g in groups if g is not None and access.attribute_text(g, "NX_class") == wanted]


def sample_axis(h5: h5py.File) -> h5py.Dataset | list[str] | None:
    """The axis that the sample sits on; None where it rests on nothing, a list where the axis is missing."""
    sample = access.get_group(h5, SAMPLE)
    told = None if sample is None else access.get_dataset(sample, "depends_on")
    if sample is None or told is None:
        return [f"/{SAMPLE}/depends_on"]
    place = access.text(told[()])
    if place in ("", "."):
        return None
    axis = access.get_dataset(sample, place)
    return axis if axis is not None else [f"{place}, on which the sample depends"]


def chain(dataset: h5py.Dataset) -> list[h5py.Dataset]:
    """An axis and all that it depends on, outermost last; cut where a link is broken."""
    found = [dataset]
    while len(found) < MAX_CHAIN:
        place = access.attribute_text(found[-1], "depends_on")
        if place in ("", "."):
            break
        following = access.get_dataset(found[-1].parent, place)
        if following is None:
            break
        found.append(following)
    return found


def _broken_links(dataset: h5py.Dataset) -> list[str]:
    axes = chain(dataset)
    lacking = [
        f"{axis.name}@{name}"
        for axis in axes
        for name in ("vector", "transformation_type", "units")
        if name not in axis.attrs
    ]
    last = access.attribute_text(axes[-1], "depends_on")
    if last not in ("", "."):
        lacking.append(f"{last}, on which {axes[-1].name} depends")
    return lacking


def put_string(group: h5py.Group, name: str, value: str) -> None:
    if name in group:
        del group[name]
    group[name] = np.bytes_(value)
