"""Small inputs for tests: masters of both flavours, data files of a few frames, every trait a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

DETECTOR = "/entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
PIXEL = 75e-6


@dataclass(frozen=True)
class InputSpec:
    """What a made input is like.  Angles are in degrees, lengths in metres."""

    flavour: str = "filewriter"
    """'filewriter' (older) or 'nxmx'."""
    n_frames: int = 12
    shape: tuple[int, int] = (11, 14)
    """(slow, fast)."""
    dtype: str = "uint16"
    frames_per_file: Sequence[int] | int = 5
    """One number for all files but the last, or the number of each."""
    first_file: int = 1
    mask: bool = True
    filtered_mask: bool = False
    compression: str | None = None
    """h5py's name of the data's filter."""
    omega_start: float = 10.0
    omega_step: float = 0.5
    omega: Sequence[float] | None = None
    """Starts of all frames, instead of start and step."""
    axis_dtype: str = "f8"
    end_arrays: bool = True
    extra_axis_values: int = 0
    string_kind: str = "fixed"
    """'fixed' or 'vlen'."""
    scalar_shape: tuple[int, ...] = ()
    nimages: int | None = None
    ntrigger: int | None = 1
    saturation: int | None = 30000
    virtual: bool = True
    """NXmx alone: a virtual dataset with @signal in /entry/data."""
    reversed_size: bool = False
    """NXmx alone: data_size as (fast, slow)."""
    translation: tuple[float, float, float] = (0.0004, 0.00035, -0.2)
    wavelength: float | None = 0.9795
    description: str = "Dectris Eiger 4M"
    detector_number: str = "E-02-0100"
    libver: str = "earliest"
    extra: dict[str, Any] = field(default_factory=dict)
    """Further datasets by path."""

    @property
    def starts(self) -> npt.NDArray[np.float64]:
        if self.omega is not None:
            return np.asarray(self.omega, dtype=np.float64)
        return self.omega_start + self.omega_step * np.arange(self.n_frames, dtype=np.float64)

    @property
    def counts(self) -> list[int]:
        """Frames in each file."""
        if not isinstance(self.frames_per_file, int):
            return list(self.frames_per_file)
        whole, rest = divmod(self.n_frames, self.frames_per_file)
        return [self.frames_per_file] * whole + ([rest] if rest else [])


@dataclass(frozen=True)
class MadeInput:
    master: Path
    frames: npt.NDArray[Any]
    mask: npt.NDArray[np.uint32]
    spec: InputSpec


def make_mask(shape: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """A gap (bit 0), a dead pixel (bit 1), and a noisy one (bit 4)."""
    mask = np.zeros(shape, dtype=np.uint32)
    mask[shape[0] // 2 : shape[0] // 2 + 2] = 1
    mask[0, 1] = 2
    mask[1, 0] = 16
    return mask


def make_input(folder: Path, spec: InputSpec | None = None, name: str = "in") -> MadeInput:
    """Write NAME_master.h5 and NAME_data_NNNNNN.h5 to `folder`; the frames are Poisson noise, seeded."""
    spec = spec or InputSpec()
    rng = np.random.default_rng(7)
    frames = rng.poisson(6.0, (spec.n_frames, *spec.shape)).astype(spec.dtype)
    mask = make_mask(spec.shape) if spec.mask else np.zeros(spec.shape, dtype=np.uint32)
    if spec.mask:
        frames[:, (mask & 1) != 0] = np.iinfo(spec.dtype).max if np.dtype(spec.dtype).kind == "u" else -1
    files = _write_data(folder, name, frames, spec)
    master = folder / f"{name}_master.h5"
    with h5py.File(master, "w", libver=spec.libver, locking=False) as h5:
        tree = _Tree(h5, spec)
        _common(tree, mask)
        (_nxmx if spec.flavour == "nxmx" else _filewriter)(tree)
        _data(tree, files)
        for path, value in spec.extra.items():
            if path in h5:
                del h5[path]
            h5[path] = value
    return MadeInput(master, frames, mask, spec)


def _write_data(folder: Path, name: str, frames: npt.NDArray[Any], spec: InputSpec) -> list[tuple[str, int]]:
    files, at = [], 0
    for number, n in enumerate(spec.counts, spec.first_file):
        filename = f"{name}_data_{number:06d}.h5"
        with h5py.File(folder / filename, "w", libver=spec.libver, locking=False) as h5:
            data = h5.create_dataset(
                "entry/data/data",
                data=frames[at : at + n],
                chunks=(1, *spec.shape),
                maxshape=(None, *spec.shape),
                compression=spec.compression,
            )
            data.attrs["image_nr_low"] = np.int32(at + 1)
            data.attrs["image_nr_high"] = np.int32(at + n)
        files.append((filename, n))
        at += n
    return files


class _Tree:
    """Writes strings and scalars in the kinds that are found in masters."""

    def __init__(self, h5: h5py.File, spec: InputSpec) -> None:
        self.h5, self.spec = h5, spec

    def text(self, value: str) -> Any:
        return np.bytes_(value) if self.spec.string_kind == "fixed" else value

    def group(self, path: str, nx_class: str) -> h5py.Group:
        group = self.h5.require_group(path)
        if nx_class:
            group.attrs["NX_class"] = self.text(nx_class)
        return group

    def put(self, path: str, value: Any, dtype: str | None = None, **attributes: Any) -> h5py.Dataset:
        if isinstance(value, str):
            made = self.h5.create_dataset(path, data=self.text(value))
        else:
            array = np.asarray(value, dtype=dtype)
            shape = self.spec.scalar_shape if array.ndim == 0 else array.shape
            made = self.h5.create_dataset(path, data=array.reshape(shape))
        for name, one in attributes.items():
            made.attrs[name] = self.text(one) if isinstance(one, str) else one
        return made


def _common(tree: _Tree, mask: npt.NDArray[np.uint32]) -> None:
    spec = tree.spec
    (ny, nx), f = spec.shape, "f4" if spec.flavour == "filewriter" else "f8"
    tree.group("/entry", "NXentry")
    tree.group("/entry/instrument", "NXinstrument")
    tree.group(DETECTOR, "NXdetector")
    tree.group("/entry/sample", "NXsample")
    tree.group("/entry/instrument/beam", "NXbeam")
    if spec.wavelength is not None:
        tree.put("/entry/instrument/beam/incident_wavelength", spec.wavelength, f, units="angstrom")
    tree.put("/entry/sample/name", "thaumatin")
    tree.put(f"{DETECTOR}/description", spec.description)
    tree.put(f"{DETECTOR}/detector_number", spec.detector_number)
    tree.put(f"{DETECTOR}/sensor_material", "Si")
    tree.put(f"{DETECTOR}/sensor_thickness", 0.00045, f, units="m")
    tree.put(f"{DETECTOR}/beam_center_x", spec.translation[0] / PIXEL, f, units="pixel")
    tree.put(f"{DETECTOR}/beam_center_y", spec.translation[1] / PIXEL, f, units="pixel")
    tree.put(f"{DETECTOR}/x_pixel_size", PIXEL, f, units="m")
    tree.put(f"{DETECTOR}/y_pixel_size", PIXEL, f, units="m")
    tree.put(f"{DETECTOR}/detector_distance", abs(spec.translation[2]), f, units="m")
    tree.put(f"{DETECTOR}/count_time", 0.0999, f, units="s")
    tree.put(f"{DETECTOR}/frame_time", 0.1, f, units="s")
    bits = np.dtype(spec.dtype).itemsize * 8
    tree.put(f"{DETECTOR}/bit_depth_readout", bits, "u1")
    tree.put(f"{DETECTOR}/bit_depth_image", bits, "u1")
    tree.put(f"{DETECTOR}/pixel_mask_applied", 1, "i4")
    tree.put(f"{DETECTOR}/flatfield", np.linspace(0.9, 1.1, ny * nx).reshape(ny, nx), "f4")
    tree.group(SPECIFIC, "")
    tree.put(f"{SPECIFIC}/eiger_fw_version", "1.8.0")
    tree.put(f"{SPECIFIC}/data_collection_date", "2024-05-03T17:59:43")
    tree.put(f"{SPECIFIC}/x_pixels_in_detector", nx, "u4")
    tree.put(f"{SPECIFIC}/y_pixels_in_detector", ny, "u4")
    tree.put(f"{SPECIFIC}/nimages", spec.n_frames if spec.nimages is None else spec.nimages, "u4")
    tree.put(f"{SPECIFIC}/nframes_sum", 1, "u4")
    tree.put(f"{SPECIFIC}/number_of_excluded_pixels", np.count_nonzero(mask), "u4")
    if spec.ntrigger is not None:
        tree.put(f"{SPECIFIC}/ntrigger", spec.ntrigger, "u4")
    if spec.saturation is not None:
        tree.put(f"{SPECIFIC}/countrate_correction_count_cutoff", spec.saturation, "u4")
    if spec.mask:
        options: dict[str, Any] = {"chunks": (ny, nx), "compression": "gzip"} if spec.filtered_mask else {}
        tree.h5.create_dataset(f"{SPECIFIC}/pixel_mask", data=mask, **options)
        tree.h5[f"{DETECTOR}/pixel_mask"] = h5py.SoftLink(f"{SPECIFIC}/pixel_mask")
    _goniometer(tree)


def _goniometer(tree: _Tree) -> None:
    spec = tree.spec
    group, dtype = "/entry/sample/goniometer", "f4" if spec.flavour == "filewriter" else spec.axis_dtype
    tree.group(group, "NXtransformations")
    surplus = np.arange(1, spec.extra_axis_values + 1) * spec.omega_step
    starts = np.concatenate([spec.starts, spec.starts[-1] + surplus])
    tree.put(f"{group}/omega", starts, dtype, units="degree")
    tree.put(f"{group}/omega_end", starts + spec.omega_step, dtype, units="degree")
    tree.put(f"{group}/omega_range_average", spec.omega_step, "f4")
    tree.put(f"{group}/omega_range_total", spec.omega_step * spec.n_frames, "f4")
    tree.put(f"{group}/omega_start", spec.starts[0], "f4")
    tree.put(f"{group}/omega_increment", spec.omega_step, "f4")
    tree.put(f"{group}/chi", np.zeros_like(starts), dtype, units="degree")
    tree.put(f"{group}/chi_range_average", 0.0, "f4")


def _filewriter(tree: _Tree) -> None:
    spec = tree.spec
    geometry = f"{DETECTOR}/geometry"
    tree.group(geometry, "NXgeometry")
    tree.group(f"{geometry}/orientation", "NXorientation")
    tree.group(f"{geometry}/translation", "NXtranslation")
    tree.put(f"{geometry}/orientation/value", [-1, 0, 0, 0, -1, 0], "f4")
    tree.put(f"{geometry}/translation/distances", spec.translation, "f4", units="m")


def _nxmx(tree: _Tree) -> None:
    spec = tree.spec
    tree.put("/entry/definition", "NXmx")
    tree.put("/entry/start_time", "2024-05-03T17:59:43Z")
    tree.put("/entry/end_time_estimated", "2024-05-03T18:00:43Z")
    if spec.saturation is not None:
        tree.put(f"{DETECTOR}/saturation_value", spec.saturation, "u4")
    _nxmx_detector(tree)
    group = "/entry/sample/transformations"
    tree.group(group, "NXtransformations")
    rotation = {"transformation_type": "rotation", "units": "deg", "vector": [-1.0, 0.0, 0.0]}
    tree.put(f"{group}/omega", spec.starts, spec.axis_dtype, depends_on=".", **rotation)
    if spec.end_arrays:
        tree.put(f"{group}/omega_end", spec.starts + spec.omega_step, spec.axis_dtype, units="deg")
        steps = np.full(spec.n_frames, spec.omega_step)
        tree.put(f"{group}/omega_increment_set", steps, spec.axis_dtype, units="deg")
    rotation["vector"] = [0.006, -0.0264, 0.9996]
    tree.put(f"{group}/chi", [1.5], "f8", depends_on=f"{group}/omega", **rotation)
    tree.put("/entry/sample/depends_on", f"{group}/chi")


def _nxmx_detector(tree: _Tree) -> None:
    spec = tree.spec
    translations = f"{DETECTOR}/transformations"
    tree.group(translations, "NXtransformations")
    along = {"transformation_type": "translation", "units": "mm", "vector": [0.0, 0.0, 1.0]}
    det_z = f"{translations}/det_z"
    tree.put(det_z, [-spec.translation[2] * 1e3], "f8", depends_on=".", **along)
    tree.put(f"{DETECTOR}/depends_on", det_z)
    module = f"{DETECTOR}/module"
    tree.group(module, "NXdetector_module")
    across = {"transformation_type": "translation", "units": "m", "offset": np.zeros(3)}
    tree.put(
        f"{module}/module_offset",
        1.0,
        "f8",
        depends_on=det_z,
        vector=[spec.translation[0], spec.translation[1], 0.0],
        **across,
    )
    for name, vector in (("fast", [-1.0, 0.0, 0.0]), ("slow", [0.0, -1.0, 0.0])):
        path = f"{module}/{name}_pixel_direction"
        tree.put(path, PIXEL, "f8", depends_on=f"{module}/module_offset", vector=vector, **across)
    tree.put(f"{module}/data_origin", [0, 0], "u4")
    tree.put(f"{module}/data_size", spec.shape[::-1] if spec.reversed_size else spec.shape, "u4")


def _data(tree: _Tree, files: list[tuple[str, int]]) -> None:
    spec = tree.spec
    group = tree.group("/entry/data", "NXdata")
    for number, (filename, _) in enumerate(files, spec.first_file):
        group[f"data_{number:06d}"] = h5py.ExternalLink(filename, "/entry/data/data")
    if spec.flavour == "filewriter":
        return
    group["omega"] = tree.h5["/entry/sample/transformations/omega"]
    group.attrs["axes"] = tree.text("omega")
    if not spec.virtual:
        return
    layout = h5py.VirtualLayout((spec.n_frames, *spec.shape), dtype=spec.dtype)
    at = 0
    for filename, n in files:
        layout[at : at + n] = h5py.VirtualSource(filename, "/entry/data/data", shape=(n, *spec.shape))
        at += n
    group.create_virtual_dataset("data", layout, fillvalue=0)
    group.attrs["signal"] = tree.text("data")
