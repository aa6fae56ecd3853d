"""A CBF series as an Eiger's NXmx master, in memory: all else in the program then sees one more of those.

Nothing is invented: what no header tells is left out.  Places and units are those of Dectris' FileWriter, strings
have a fixed length (eiger2cbf reads no others), axes are 8-byte floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...hdf5 import access
from . import imgcif, minicbf
from .geometry import Axis, Geometry, Vector
from .header import Header, cutoff, detector_name, exposure, sensor, start_time, wavelength
from .pixels import read_pixels
from .series import Series, find_series, read_headers

INSTRUMENT = "/entry/instrument"
DETECTOR = f"{INSTRUMENT}/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
GONIOMETER = "/entry/sample/goniometer"

GAP, DEAD = 1, 2
"""Bits of the mask: a pixel of -1 is none, one of -2 (and below) is a bad one."""

MM = 1e-3


@dataclass(frozen=True)
class Described:
    """A series with all that its headers tell."""

    series: Series
    headers: Sequence[Header]
    geometry: Geometry
    wavelength: float
    mask: npt.NDArray[np.uint32]

    @property
    def first(self) -> Header:
        return self.headers[0]


def describe(path: str) -> Described:
    """Find the series that `path` names, read its headers, and the pixels of three of its frames for the mask."""
    series = find_series(path)
    headers = read_headers(series)
    told = wavelength(headers[0])
    if told is None:
        raise InputError(f"{headers[0].path}: its header tells of no wavelength; add the line '# Wavelength X A'")
    place = (imgcif if imgcif.has_tables(headers[0]) else minicbf).geometry(headers)
    return Described(series, headers, place, told, _mask(headers))


def _mask(headers: Sequence[Header]) -> npt.NDArray[np.uint32]:
    """(ny, nx): bits of the pixels that are negative in the first, the middle and the last frame.

    Pixels of -2 in one of them alone are that frame's, and no mask's.
    """
    frames = _readable([headers[k] for k in dict.fromkeys((0, len(headers) // 2, len(headers) - 1))])
    first = next(frames)
    if first.dtype.kind == "u":
        return np.zeros(first.shape, np.uint32)
    mask = np.where(first == -1, GAP, 0) | np.where(first < -1, DEAD, 0)
    for frame in frames:
        mask[frame >= 0] = 0
    return mask.astype(np.uint32)


def _readable(headers: Sequence[Header]) -> Iterator[npt.NDArray[Any]]:
    """The pixels (ny, nx) of those that can be read: of others nothing is said before all frames are read.

    Raises InputError if none can.
    """
    n_read = 0
    for k, header in enumerate(headers, 1):
        try:
            pixels = read_pixels(header)
        except InputError:
            if k == len(headers) and not n_read:
                raise
            continue
        n_read += 1
        yield pixels


def write(h5: h5py.File, described: Described) -> None:
    """Write the master of a series into an open, empty file."""
    _entry(h5, described)
    _beam(h5, described)
    _detector(h5, described)
    _detector_specific(h5, described)
    _detector_chain(h5, described.geometry, described.first.binary.shape)
    _sample(h5, described)


def _put(h5: h5py.File, path: str, value: Any, **attributes: Any) -> h5py.Dataset:
    """A dataset with attributes; None is left out."""
    if isinstance(value, str):
        value = np.bytes_(value)
    made = h5.create_dataset(path, data=value)
    for name, attribute in attributes.items():
        made.attrs[name] = np.bytes_(attribute) if isinstance(attribute, str) else attribute
    return made


def _put_told(h5: h5py.File, folder: str, values: Mapping[str, Any], **attributes: Any) -> None:
    for name, value in values.items():
        if not (value is None or (isinstance(value, str) and not value)):
            _put(h5, f"{folder}/{name}", value, **attributes)


def _entry(h5: h5py.File, described: Described) -> None:
    access.make_group(h5, "/entry", "NXentry")
    _put(h5, "/entry/definition", "NXmx")
    _put_told(h5, "/entry", {"start_time": start_time(described.first)})
    group = access.make_group(h5, "/entry/data", "NXdata")
    group.attrs["signal"] = np.bytes_("data")
    # Says that the set is to be had as one stack; the frames are in the files of the series.
    binary = described.first.binary
    group.create_dataset("data", (len(described.headers), *binary.shape), binary.dtype, chunks=(1, *binary.shape))
    access.make_group(h5, INSTRUMENT, "NXinstrument")


def _beam(h5: h5py.File, described: Described) -> None:
    access.make_group(h5, f"{INSTRUMENT}/beam", "NXbeam")
    _put(h5, f"{INSTRUMENT}/beam/incident_wavelength", described.wavelength, units="angstrom")


def _detector(h5: h5py.File, described: Described) -> None:
    header, place = described.first, described.geometry
    access.make_group(h5, DETECTOR, "NXdetector")
    description, serial = detector_name(header)
    material, thickness = sensor(header)
    count, period = exposure(header)
    bits = np.dtype(header.binary.dtype).itemsize * 8
    _put_told(
        h5,
        DETECTOR,
        {
            "description": description,
            "detector_number": serial,
            "type": "Pixel",
            "sensor_material": material,
            "gain_setting": header.fields.get("Gain_setting"),
            "bit_depth_image": np.uint32(bits),
            "bit_depth_readout": np.uint32(bits),
            "pixel_mask_applied": np.uint8(1),
            "saturation_value": _cutoff(header),
            "underload_value": np.int32(0),
        },
    )
    _put_told(
        h5,
        DETECTOR,
        {
            "detector_distance": place.distance * MM,
            "distance": place.distance * MM,
            "sensor_thickness": thickness,
            "x_pixel_size": place.pixel[0] * MM,
            "y_pixel_size": place.pixel[1] * MM,
        },
        units="m",
    )
    _put_told(h5, DETECTOR, {"count_time": count, "frame_time": period}, units="s")
    _put_told(h5, DETECTOR, {"threshold_energy": header.number("Threshold_setting")}, units="eV")
    x, y = place.beam_centre
    _put_told(h5, DETECTOR, {"beam_center_x": x, "beam_center_y": y}, units="pixel")


def _cutoff(header: Header) -> np.uint32 | None:
    told = cutoff(header)
    return None if told is None else np.uint32(min(told, 0xFFFFFFFF))


def _detector_specific(h5: h5py.File, described: Described) -> None:
    header, (ny, nx) = described.first, described.first.binary.shape
    count, period = exposure(header)
    access.make_group(h5, SPECIFIC, "NXcollection")
    _put_told(
        h5,
        SPECIFIC,
        {
            "nimages": np.uint32(len(described.headers)),
            "ntrigger": np.uint32(1),
            "x_pixels_in_detector": np.uint32(nx),
            "y_pixels_in_detector": np.uint32(ny),
            "countrate_correction_count_cutoff": _cutoff(header),
            "number_of_excluded_pixels": np.uint32(np.count_nonzero(described.mask)),
            "data_collection_date": start_time(header),
            "cbf_header": header.text.strip(),
        },
    )
    _put_told(h5, SPECIFIC, {"frame_count_time": count, "frame_period": period}, units="s")
    _put(h5, f"{SPECIFIC}/photon_energy", 12398.419843320026 / described.wavelength, units="eV")
    _put(h5, f"{SPECIFIC}/pixel_mask", described.mask.astype("<u4"))
    h5[f"{DETECTOR}/pixel_mask"] = h5[f"{SPECIFIC}/pixel_mask"]


def _link(h5: h5py.File, folder: str, axis: Axis, on: str) -> str:
    """One axis of a chain; returns its path."""
    rotates = axis.kind == "rotation"
    path = f"{folder}/{axis.name}"
    _put(
        h5,
        path,
        np.asarray(axis.settings if rotates else axis.settings * MM, dtype="<f8"),
        transformation_type=axis.kind,
        units="deg" if rotates else "m",
        vector=axis.vector,
        offset=axis.offset * MM,
        offset_units="m",
        depends_on=on,
    )
    return path


def _chain(h5: h5py.File, folder: str, axes: Sequence[Axis]) -> str:
    """Axes, outermost first; returns the path of the last, or '.'."""
    access.make_group(h5, folder, "NXtransformations")
    on = "."
    for axis in axes:
        on = _link(h5, folder, axis, on)
    return on


def _detector_chain(h5: h5py.File, place: Geometry, shape: tuple[int, int]) -> None:
    on = _chain(h5, f"{DETECTOR}/transformations", place.detector)
    _put(h5, f"{DETECTOR}/depends_on", on)
    module = f"{DETECTOR}/module"
    access.make_group(h5, module, "NXdetector_module")
    _put(h5, f"{module}/data_origin", np.zeros(2, "<i4"))
    _put(h5, f"{module}/data_size", np.array(shape, "<i4"))
    length = float(np.linalg.norm(place.module_offset))
    across = place.module_offset / length if length else np.array([1.0, 0.0, 0.0])
    still = np.zeros(3)

    def step(name: str, size: float, vector: Vector, on: str) -> str:
        return _link(h5, module, Axis(name, "translation", vector, still, on, np.array(size)), on)

    offset = step("module_offset", length, across, on)
    step("fast_pixel_direction", place.pixel[0], place.fast, offset)
    step("slow_pixel_direction", place.pixel[1], place.slow, offset)


def _sample(h5: h5py.File, described: Described) -> None:
    """The crystal's chain, and its axes again where an Eiger's master has them."""
    place, n = described.geometry, len(described.headers)
    access.make_group(h5, "/entry/sample", "NXsample")
    folder = "/entry/sample/transformations"
    _put(h5, "/entry/sample/depends_on", _chain(h5, folder, place.goniometer))
    access.make_group(h5, GONIOMETER, "NXtransformations")
    for axis in place.goniometer:
        if axis.kind == "rotation":
            _put(h5, f"{GONIOMETER}/{axis.name}", np.broadcast_to(axis.settings, (n,)).astype("<f8"), units="deg")
        if axis.increments is not None:
            _companions(h5, folder, axis)
    for name, angle in place.settings.items():
        _put(h5, f"{GONIOMETER}/{name}", np.full(n, angle), units="deg")


def _companions(h5: h5py.File, folder: str, axis: Axis) -> None:
    assert axis.increments is not None
    ends = axis.settings + axis.increments
    usual = float(np.median(axis.increments))
    _put(h5, f"{folder}/{axis.name}_end", ends, units="deg")
    _put(h5, f"{folder}/{axis.name}_increment_set", axis.increments, units="deg")
    _put_told(
        h5,
        GONIOMETER,
        {
            f"{axis.name}_end": ends,
            f"{axis.name}_increment": usual,
            f"{axis.name}_range_average": usual,
            f"{axis.name}_range_total": float(ends[-1] - axis.settings[0]),
            f"{axis.name}_start": float(axis.settings[0]),
        },
        units="deg",
    )
