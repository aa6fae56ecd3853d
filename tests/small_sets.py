"""Small data sets in the FileWriter's layout, with pixels that reach every rule of the arithmetic."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

FILTERS: dict[str, dict[str, Any]] = {
    "bslz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "lz4": dict(hdf5plugin.LZ4()),
    "none": {},
    "gzip": {"compression": "gzip"},
}


def random_frames(
    n: int, shape: tuple[int, int], dtype: str = "uint16", seed: int = 1, *, marks: bool = True
) -> np.ndarray[Any, Any]:
    """(n, ny, nx): a few counts, some strong ones, and (with `marks`) some of the type's top values."""
    rng = np.random.default_rng(seed)
    frames = rng.poisson(3, (n, *shape)).astype(np.int64)
    info = np.iinfo(dtype)
    strong = rng.random(frames.shape) < 0.02
    frames[strong] = rng.integers(0, min(info.max, 1 << 20), int(strong.sum()), endpoint=True)
    if marks:
        bad = rng.random(frames.shape) < 0.003
        frames[bad] = info.max - rng.integers(0, 7, int(bad.sum()))
        if info.min < 0:
            negative = rng.random(frames.shape) < 0.003
            frames[negative] = -rng.integers(1, 3, int(negative.sum()))
    return np.clip(frames, info.min, info.max).astype(dtype)


def random_mask(shape: tuple[int, int], seed: int = 2) -> np.ndarray[Any, Any]:
    """(ny, nx) uint32: a gap of three rows and four columns, and single dead and hot pixels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint32)
    mask[shape[0] // 2 : shape[0] // 2 + 3] |= 1
    mask[:, shape[1] // 3 : shape[1] // 3 + 4] |= 1
    mask[rng.random(shape) < 0.01] |= 2
    mask[rng.random(shape) < 0.01] |= 16
    return mask


def write_set(
    folder: Path,
    frames: np.ndarray[Any, Any],
    *,
    name: str = "in",
    mask: np.ndarray[Any, Any] | None = None,
    per_file: int | Sequence[int] = 4,
    first_file: int = 1,
    filter_name: str = "bslz4",
    cutoff: int | None = 9000,
    osc: float = 0.1,
    omega: np.ndarray[Any, Any] | None = None,
    ntrigger: int = 1,
    chunk_frames: int = 1,
    dataset: str = "/entry/data/data",
) -> Path:
    """Write `frames`, (n, ny, nx), and an older-flavour master for them; returns the master's path."""
    n, ny, nx = frames.shape
    counts = [per_file] * -(-n // per_file) if isinstance(per_file, int) else list(per_file)
    master_path = folder / f"{name}_master.h5"
    with h5py.File(master_path, "w") as h5:
        entry = h5.create_group("entry")
        entry.attrs["NX_class"] = np.bytes_("NXentry")
        detector = h5.create_group("entry/instrument/detector")
        detector["description"] = np.bytes_("Dectris Eiger 1M")
        detector["detector_number"] = np.bytes_("E-01-0001")
        for key, value in {
            "beam_center_x": nx / 2,
            "beam_center_y": ny / 2,
            "x_pixel_size": 75e-6,
            "y_pixel_size": 75e-6,
            "count_time": 0.0099,
            "frame_time": 0.01,
            "sensor_thickness": 0.00045,
            "detector_distance": 0.1,
        }.items():
            detector[key] = np.float32(value)
        detector["sensor_material"] = np.bytes_("Si")
        detector["bit_depth_image"] = np.uint32(frames.dtype.itemsize * 8)
        detector["bit_depth_readout"] = np.uint32(frames.dtype.itemsize * 8)
        detector["pixel_mask_applied"] = np.int32(1)
        detector["geometry/orientation/value"] = np.array([-1, 0, 0, 0, -1, 0], np.float32)
        detector["geometry/translation/distances"] = np.array([nx / 2 * 75e-6, ny / 2 * 75e-6, -0.1], np.float32)
        specific = h5.create_group("entry/instrument/detector/detectorSpecific")
        specific["nimages"] = np.uint32(n // ntrigger)
        specific["ntrigger"] = np.uint32(ntrigger)
        specific["x_pixels_in_detector"] = np.uint32(nx)
        specific["y_pixels_in_detector"] = np.uint32(ny)
        specific["nframes_sum"] = np.uint32(1)
        if cutoff is not None:
            specific["countrate_correction_count_cutoff"] = np.uint32(cutoff)
        if mask is not None:
            specific["pixel_mask"] = mask
        h5["entry/instrument/beam/incident_wavelength"] = np.float32(1.0)
        angles = np.arange(n) * osc if omega is None else omega
        goniometer = h5.create_group("entry/sample/goniometer")
        goniometer["omega"] = angles.astype(np.float32)
        goniometer["omega_end"] = (angles + osc).astype(np.float32)
        goniometer["omega_range_average"] = np.float32(osc)
        data = h5.create_group("entry/data")
        data.attrs["NX_class"] = np.bytes_("NXdata")
        begin = 0
        for k, count in enumerate(counts):
            part = frames[begin : begin + count]
            file_name = f"{name}_data_{first_file + k:06d}.h5"
            data[f"data_{first_file + k:06d}"] = h5py.ExternalLink(file_name, dataset)
            with h5py.File(folder / file_name, "w") as out:
                d = out.create_dataset(dataset, data=part, chunks=(chunk_frames, ny, nx), **FILTERS[filter_name])
                d.attrs["image_nr_low"], d.attrs["image_nr_high"] = (
                    np.int32(begin + 1),
                    np.int32(begin + len(part)),
                )
            begin += count
    return master_path


def read_images(master: Path | str) -> np.ndarray[Any, Any]:
    """All images of a set that was written, through the master's links, as a user's program reads them."""
    with h5py.File(master, "r") as h5:
        data = h5["/entry/data"]
        return np.concatenate([data[key][()] for key in sorted(data) if key.startswith("data_")])


def shared_data() -> Path | None:
    """The folder of real masters, shared/data beside the checkout or $BNL_MPI_SHARED_DATA; None without one."""
    places = [os.environ.get("BNL_MPI_SHARED_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    return next((Path(place) for place in places if place and Path(place).is_dir()), None)
