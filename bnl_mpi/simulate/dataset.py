"""From settings to files: the one place where the parts of a simulation meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnl_mpi.errors import OutputError
from bnl_mpi.simulate.crystal import make_crystal
from bnl_mpi.simulate.detector import Geometry, make_faults, make_geometry
from bnl_mpi.simulate.diffraction import predict
from bnl_mpi.simulate.frames import FrameMaker
from bnl_mpi.simulate.master import DataFile, MasterContents, write_master
from bnl_mpi.simulate.settings import Settings
from bnl_mpi.simulate.tree import new_file, written_whole
from bnl_mpi.simulate.truth import write_truth

_COUNT_RATE_LIMIT = 2.0e6  # counts a second and pixel above which the correction gives up


def count_cutoff(settings: Settings) -> int:
    """The count that pixels saturate at, below the values that readers of each depth take for marks."""
    representable = {8: 254, 16: 65530, 32: 4294967290}[settings.bits]
    return min(representable, max(int(_COUNT_RATE_LIMIT * settings.frame_time), 1))


def planned_files(prefix: Path, settings: Settings) -> tuple[DataFile, ...]:
    """The data files, in order."""
    starts = range(0, settings.frames, settings.images_per_file)
    return tuple(
        DataFile(
            number := settings.first_file_number + index,
            prefix.with_name(f"{prefix.name}_data_{number:06d}.h5"),
            range(start, min(start + settings.images_per_file, settings.frames)),
        )
        for index, start in enumerate(starts)
    )


def write_dataset(prefix: Path, settings: Settings, *, force: bool) -> Path:
    """Write data files and the truth, the master last; return the master's path."""
    master = prefix.with_name(f"{prefix.name}_master.h5")
    truth = prefix.with_name(f"{prefix.name}_truth.h5")
    data_files = planned_files(prefix, settings)
    geometry = make_geometry(settings)
    resolution = max(settings.resolution or 0.0, geometry.highest_resolution)
    rng = np.random.default_rng([settings.seed, 0])
    crystal = make_crystal(settings, resolution, rng)
    faults = make_faults(geometry.layout, settings.bad_pixels, rng)
    predictions = predict(crystal, geometry, settings)
    maker = FrameMaker(settings, geometry, faults, predictions, count_cutoff(settings))
    _clear_way([master, truth, *(data_file.path for data_file in data_files)], force)
    with written_whole(truth) as path:
        write_truth(path, settings, geometry, crystal, predictions)
    for data_file in data_files:
        with written_whole(data_file.path) as path:
            _write_data_file(path, data_file.frames, maker, geometry, settings)
    with written_whole(master) as path:
        contents = MasterContents(settings, geometry, faults, count_cutoff(settings), maker.mark, data_files)
        write_master(path, contents)
    _remove_surplus(prefix, data_files)
    return master


def _clear_way(paths: list[Path], force: bool) -> None:
    """Check that nothing is in place, or with `force` take the old master away before anything else."""
    folder = paths[0].parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder: make it first")
    existing = [path for path in paths if path.exists()]
    if existing and not force:
        raise OutputError(f"{existing[0]}: exists already: give another prefix, or --force to replace it")
    paths[0].unlink(missing_ok=True)


def _remove_surplus(prefix: Path, data_files: tuple[DataFile, ...]) -> None:
    """Remove data files of an earlier, longer set of this prefix, which nothing refers to any more."""
    kept = {data_file.path.name for data_file in data_files}
    pattern = re.compile(re.escape(prefix.name) + r"_data_\d{6}\.h5")
    for path in prefix.parent.iterdir():
        if pattern.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def _filter(compression: str) -> Mapping[str, Any]:
    """What h5py is to be told for one of the names of settings.COMPRESSIONS."""
    if compression == "none":
        return {}
    import hdf5plugin

    if compression == "lz4":
        return hdf5plugin.LZ4()  # type: ignore[no-any-return]
    return hdf5plugin.Bitshuffle(nelems=0, cname="lz4")  # type: ignore[no-any-return]


def _write_data_file(path: Path, frames: range, maker: FrameMaker, geometry: Geometry, settings: Settings) -> None:
    """One data file: /entry/data/data (frames, slow, fast), a chunk an image."""
    shape = geometry.layout.shape
    with new_file(path) as file:
        for name, nx_class in (("entry", "NXentry"), ("entry/data", "NXdata")):
            file.create_group(name).attrs["NX_class"] = np.bytes_(nx_class)
        data = file.create_dataset(
            "entry/data/data",
            (len(frames), *shape),
            maker.dtype,
            chunks=(1, *shape),
            **_filter(settings.compression),
        )
        data.attrs["image_nr_low"] = np.int32(frames.start + 1)
        data.attrs["image_nr_high"] = np.int32(frames.stop)
        for index, frame in enumerate(frames):
            data[index] = maker(frame)
