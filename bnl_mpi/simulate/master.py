"""Both flavours of the master file: the older FileWriter's, and Eiger 2's NXmx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bnl_mpi.simulate.detector import PIXEL_SIZE, Faults, Geometry
from bnl_mpi.simulate.frames import frame_omegas
from bnl_mpi.simulate.settings import Settings
from bnl_mpi.simulate.tree import Tree, new_file

_DETECTOR = "/entry/instrument/detector"
_SPECIFIC = f"{_DETECTOR}/detectorSpecific"
_TRANSLATION = f"{_DETECTOR}/transformations/translation"
_OMEGA = "/entry/sample/transformations/omega"
_START_TIME = datetime(2020, 1, 1)  # a fixed date, so that equal settings give equal files
_HC_EV = 12398.419843


@dataclass(frozen=True)
class DataFile:
    """A data file: number in its name, path, frames (counted from 0)."""

    number: int
    path: Path
    frames: range


@dataclass(frozen=True)
class MasterContents:
    """All that a master tells of."""

    settings: Settings
    geometry: Geometry
    faults: Faults
    cutoff: int
    mark: int
    data_files: Sequence[DataFile]


def write_master(path: Path, contents: MasterContents) -> None:
    """Write the master of the settings' flavour to `path`."""
    with new_file(path) as file:
        tree = Tree(file, older=contents.settings.flavour == "eiger1")
        _entry(tree, contents)
        _data_links(tree, contents)
        _beam(tree, "/entry/instrument/beam", contents.settings.wavelength)
        _detector(tree, contents)
        _detector_specific(tree, contents)
        _geometry_group(tree, contents.geometry)
        _goniometer(tree, contents.settings)
        if not tree.older:
            _nxmx_detector(tree, contents)
            _beam(tree, "/entry/sample/beam", contents.settings.wavelength)
            _nxmx_sample(tree, contents.settings)
            _virtual_data(tree, contents)


def _time(seconds: float) -> str:
    return (_START_TIME + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def _entry(tree: Tree, contents: MasterContents) -> None:
    settings = contents.settings
    tree.group("/entry", "NXentry")
    if not tree.older:
        tree.file["/entry"].attrs["version"] = "1.0"
        tree.put("/entry/definition", "NXmx", version="1.5")
        tree.put("/entry/start_time", _time(0))
        tree.put("/entry/end_time", _time(settings.frames * settings.frame_time))
        tree.put("/entry/end_time_estimated", _time(settings.frames * settings.frame_time))
        tree.group("/entry/source", "NXsource")
        tree.put("/entry/source/name", "simulation", short_name="sim")
    tree.group("/entry/instrument", "NXinstrument")
    if not tree.older:
        tree.put("/entry/instrument/name", "simulation", short_name="sim")
    tree.group("/entry/sample", "NXsample")
    if not tree.older:
        tree.put("/entry/sample/name", settings.crystal)


def _data_links(tree: Tree, contents: MasterContents) -> None:
    import h5py

    tree.group("/entry/data", "NXdata")
    for data_file in contents.data_files:
        link = h5py.ExternalLink(data_file.path.name, "/entry/data/data")
        tree.file[f"/entry/data/data_{data_file.number:06d}"] = link


def _virtual_data(tree: Tree, contents: MasterContents) -> None:
    """One dataset over all data files, which readers of NXmx look for."""
    import h5py

    shape = contents.geometry.layout.shape
    dtype = np.dtype(f"u{contents.settings.bits // 8}")
    layout = h5py.VirtualLayout((contents.settings.frames, *shape), dtype)
    for data_file in contents.data_files:
        count = len(data_file.frames)
        source = h5py.VirtualSource(data_file.path.name, "/entry/data/data", (count, *shape), dtype)
        layout[data_file.frames.start : data_file.frames.stop] = source
    tree.file["/entry/data"].create_virtual_dataset("data", layout, fillvalue=contents.mark)
    tree.file["/entry/data"].attrs["signal"] = "data"


def _beam(tree: Tree, path: str, wavelength: float) -> None:
    tree.group(path, "NXbeam")
    tree.put(f"{path}/incident_wavelength", wavelength, units="angstrom")


def _detector(tree: Tree, contents: MasterContents) -> None:
    settings, geometry = contents.settings, contents.geometry
    name = "Dectris Eiger" if tree.older else "Dectris EIGER2 Si"
    values: dict[str, Any] = {
        "description": f"{name} {settings.detector.upper()}",
        "detector_number": "E-00-0000",
        "bit_depth_image": settings.bits,
        "bit_depth_readout": settings.bits,
        "countrate_correction_applied": True,
        "flatfield_correction_applied": True,
        "pixel_mask_applied": True,
        "virtual_pixel_correction_applied": False,
        "efficiency_correction_applied": False,
        "sensor_material": "Si",
    }
    lengths = {
        "detector_distance": geometry.distance / 1000,
        "sensor_thickness": geometry.sensor_thickness / 1000,
        "x_pixel_size": PIXEL_SIZE / 1000,
        "y_pixel_size": PIXEL_SIZE / 1000,
    }
    times = {
        "count_time": settings.frame_time - _readout_time(settings),
        "frame_time": settings.frame_time,
        "detector_readout_time": _readout_time(settings),
    }
    tree.group(_DETECTOR, "NXdetector")
    for key, value in values.items():
        tree.put(f"{_DETECTOR}/{key}", value)
    for key, value in lengths.items():
        tree.put(f"{_DETECTOR}/{key}", value, units="m")
    for key, value in times.items():
        tree.put(f"{_DETECTOR}/{key}", value, units="s")
    energy = _HC_EV / settings.wavelength
    tree.put(f"{_DETECTOR}/threshold_energy", energy / 2, units="eV")
    tree.put(f"{_DETECTOR}/beam_center_x", geometry.beam_center[0], units="pixel")
    tree.put(f"{_DETECTOR}/beam_center_y", geometry.beam_center[1], units="pixel")


def _readout_time(settings: Settings) -> float:
    """Dead time between frames in seconds: as those detectors have it, or less if frames are short."""
    return min(3e-6 if settings.flavour == "eiger1" else 1e-7, settings.frame_time / 10)


def _detector_specific(tree: Tree, contents: MasterContents) -> None:
    settings, layout = contents.settings, contents.geometry.layout
    slow, fast = layout.shape
    tree.group(_SPECIFIC, "NXcollection" if tree.older else None)
    values: dict[str, Any] = {
        "auto_summation": True,
        "calibration_type": "calibrated",
        "compression": settings.compression,
        "countrate_correction_count_cutoff": contents.cutoff,
        "data_collection_date": _time(0),
        "eiger_fw_version": "release-1.8.0" if tree.older else "release-2022.1.2",
        "element": "",
        "nframes_sum": 1,
        "nimages": settings.frames // settings.ntrigger,
        "ntrigger": settings.ntrigger,
        "number_of_excluded_pixels": int(np.count_nonzero(contents.faults.mask)),
        "roi_mode": "disabled",
        "software_version": "1.8.0",
        "summation_nimages": 1,
        "test_mode": 0,
        "trigger_mode": "exts",
        "x_pixels_in_detector": fast,
        "y_pixels_in_detector": slow,
    }
    for key, value in values.items():
        tree.put(f"{_SPECIFIC}/{key}", value)
    tree.put(f"{_SPECIFIC}/photon_energy", _HC_EV / settings.wavelength, units="eV")
    tree.put(f"{_SPECIFIC}/frame_count_time", settings.frame_time - _readout_time(settings), units="s")
    tree.put(f"{_SPECIFIC}/frame_period", settings.frame_time, units="s")
    tree.put(f"{_SPECIFIC}/pixel_mask", contents.faults.mask)
    if settings.flatfield:
        tree.put(f"{_SPECIFIC}/flatfield", _flatfield(contents))
    if tree.older:
        for index in range(layout.modules[0] * layout.modules[1]):
            _module_group(tree, f"{_SPECIFIC}/detectorModule_{index:03d}", contents)


def _module_group(tree: Tree, path: str, contents: MasterContents) -> None:
    tree.group(path, "NXcollection")
    tree.put(f"{path}/countrate_correction_bunch_mode", "continuous")
    tree.put(f"{path}/countrate_correction_count_cutoff", contents.cutoff)
    counts = np.linspace(0, contents.cutoff, 16)
    tree.put(f"{path}/countrate_correction_table", np.stack((counts, counts)))


def _flatfield(contents: MasterContents) -> Any:
    """float32 (slow, fast): some 2 % around 1 on modules, 0 elsewhere; the frames are corrected already."""
    rng = np.random.default_rng([contents.settings.seed, 2])
    field = rng.normal(1.0, 0.02, contents.faults.mask.shape).clip(0.9, 1.1)
    return np.where(contents.faults.mask, 0.0, field).astype(np.float32)


def _origin(geometry: Geometry) -> np.ndarray[Any, np.dtype[np.float64]]:
    """First pixel's outer corner in metres, in NeXus' frame: Z along the beam, X against the fast axis."""
    x, y = (PIXEL_SIZE * centre for centre in geometry.beam_center)
    return np.array([x, y, geometry.distance]) / 1000


def _geometry_group(tree: Tree, geometry: Geometry) -> None:
    tree.group(f"{_DETECTOR}/geometry", "NXgeometry")
    tree.group(f"{_DETECTOR}/geometry/orientation", "NXorientation")
    tree.put(f"{_DETECTOR}/geometry/orientation/value", np.array([-1.0, 0, 0, 0, -1.0, 0]))
    tree.group(f"{_DETECTOR}/geometry/translation", "NXtranslation")
    # this group's Z runs against the beam
    distances = _origin(geometry) * (1, 1, -1)
    tree.put(f"{_DETECTOR}/geometry/translation/distances", distances, units="m")


def _goniometer(tree: Tree, settings: Settings) -> None:
    start, end = frame_omegas(settings)
    _axis(tree, "/entry/sample/goniometer/omega", start, end)
    for name in ("chi", "kappa", "phi"):
        _axis(tree, f"/entry/sample/goniometer/{name}", 0 * start, 0 * start)
    _axis(tree, f"{_DETECTOR}/goniometer/two_theta", 0 * start, 0 * start)


def _axis(tree: Tree, path: str, start: Any, end: Any) -> None:
    """An axis in degrees, as the FileWriter tells of it; its group is created with its first axis."""
    group = path.rpartition("/")[0]
    if group not in tree.file:
        tree.group(group, "NXtransformations")
    values = {
        "": start,
        "_end": end,
        "_increment": float(end[0] - start[0]),
        "_range_average": float(end[0] - start[0]),
        "_range_total": float(end[-1] - start[0]),
        "_start": float(start[0]),
    }
    for suffix, value in values.items():
        tree.put(path + suffix, value, units="degree")


def _nxmx_detector(tree: Tree, contents: MasterContents) -> None:
    """What NXmx asks for beyond the older flavour: the chain of axes, the module, the mask, the overload."""
    geometry = contents.geometry
    tree.put(f"{_DETECTOR}/type", "Pixel")
    tree.put(f"{_DETECTOR}/distance", geometry.distance / 1000, units="m")
    tree.put(f"{_DETECTOR}/saturation_value", contents.cutoff)
    tree.put(f"{_DETECTOR}/pixel_mask", contents.faults.mask)
    tree.put(f"{_DETECTOR}/depends_on", _TRANSLATION)
    tree.group(f"{_DETECTOR}/transformations", "NXtransformations")
    origin = _origin(geometry)
    length = float(np.linalg.norm(origin))
    _transformation(tree, _TRANSLATION, length, "translation", origin / length, ".", "m")
    module = f"{_DETECTOR}/module"
    tree.group(module, "NXdetector_module")
    tree.put(f"{module}/data_origin", np.zeros(2, np.uint32))
    tree.put(f"{module}/data_size", np.array(geometry.layout.shape, np.uint32))
    tree.put(f"{module}/module_index", 0)
    pixel = PIXEL_SIZE / 1000
    for name, value, vector in (
        ("module_offset", 0.0, (0.0, 0.0, 0.0)),
        ("fast_pixel_direction", pixel, (-1.0, 0.0, 0.0)),
        ("slow_pixel_direction", pixel, (0.0, -1.0, 0.0)),
    ):
        _transformation(tree, f"{module}/{name}", value, "translation", vector, _TRANSLATION, "m")


def _transformation(tree: Tree, path: str, value: Any, kind: str, vector: Any, depends_on: str, units: str) -> None:
    tree.put(
        path,
        value,
        transformation_type=kind,
        vector=np.asarray(vector, dtype=float),
        offset=np.zeros(3),
        depends_on=depends_on,
        units=units,
    )


def _nxmx_sample(tree: Tree, settings: Settings) -> None:
    start, end = frame_omegas(settings)
    tree.put("/entry/sample/depends_on", _OMEGA)
    tree.group("/entry/sample/transformations", "NXtransformations")
    _transformation(tree, _OMEGA, start, "rotation", (-1.0, 0.0, 0.0), ".", "degree")
    tree.put(f"{_OMEGA}_end", end, units="degree")
    tree.put(f"{_OMEGA}_increment_set", settings.osc, units="degree")
    tree.put(f"{_OMEGA}_range_average", settings.osc, units="degree")
    tree.put(f"{_OMEGA}_range_total", float(end[-1] - start[0]), units="degree")
    tree.put(f"{_OMEGA}_start", settings.omega_start, units="degree")
