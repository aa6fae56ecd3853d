"""What the speed benchmarks reduce: simulated sets, and long ones made of the same frames again and again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np


def simulated(folder: Path, detector: str, bits: int, frames: int) -> Path:
    """The master of a simulated set in `folder`, made unless it is there."""
    from bnl_mpi.simulate import simulate

    prefix = folder / f"in_{detector}_{bits}_{frames}"
    master = prefix.with_name(f"{prefix.name}_master.h5")
    if not master.exists():
        folder.mkdir(parents=True, exist_ok=True)
        simulate(prefix, force=True, detector=detector, bits=bits, frames=frames, images_per_file=frames)
    return master


def multiplied(master: Path, copies: int) -> Path:
    """A set of `copies` times the frames of the simulated `master`: its data files are hard links to one.

    So a long run needs little disk, and reads what the system has cached. The rotation goes on evenly. The file is a
    copy of the simulated one that doesn't tell its frames' numbers, which can be true of one link only.
    """
    import h5py

    longer = master.with_name(master.name.replace("_master.h5", f"_x{copies}_master.h5"))
    if longer.exists():
        return longer
    stem, partial = longer.name.removesuffix("_master.h5"), longer.with_suffix(".partial")
    shutil.copyfile(master, partial)
    with h5py.File(partial, "r+", locking=False) as file:
        group = file["entry/data"]
        first = group.get("data_000001", getlink=True)
        specific = file["entry/instrument/detector/detectorSpecific"]
        frames = int(specific["nimages"][()])
        specific["nimages"][...] = frames * copies
        for name in _axes(file, frames):
            _prolong(file, name, copies)
        for name in list(group):
            del group[name]
        data = [longer.with_name(f"{stem}_data_{number:06d}.h5") for number in range(1, copies + 1)]
        for number, path in enumerate(data, 1):
            path.unlink(missing_ok=True)
            if number == 1:
                _copy_unnumbered(master.with_name(first.filename), path, first.path)
            else:
                os.link(data[0], path)
            group[f"data_{number:06d}"] = h5py.ExternalLink(path.name, first.path)
    partial.rename(longer)
    return longer


def _copy_unnumbered(source: Path, path: Path, dataset: str) -> None:
    import h5py

    shutil.copyfile(source, path)
    with h5py.File(path, "r+", locking=False) as file:
        for name in ("image_nr_low", "image_nr_high"):
            file[dataset].attrs.pop(name, None)


def _axes(file: Any, frames: int) -> list[str]:
    """Names of the datasets with one number a frame."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if getattr(item, "shape", None) == (frames,) and item.dtype.kind == "f":
            found.append(name)

    file.visititems(visit)
    return found


def _prolong(file: Any, name: str, copies: int) -> None:
    dataset = file[name]
    values, attributes = dataset[()], dict(dataset.attrs)
    step = float(values[-1] - values[0]) / max(1, values.size - 1)
    longer = values[0] + step * np.arange(values.size * copies)
    del file[name]
    file[name] = longer.astype(values.dtype)
    for key, value in attributes.items():
        file[name].attrs[key] = value
