"""The side file with what went into a simulated data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bnl_mpi.simulate.crystal import Crystal
from bnl_mpi.simulate.detector import PIXEL_SIZE, Geometry
from bnl_mpi.simulate.diffraction import Predictions
from bnl_mpi.simulate.settings import Settings
from bnl_mpi.simulate.tree import new_file


def write_truth(path: Path, settings: Settings, geometry: Geometry, crystal: Crystal, predictions: Predictions) -> None:
    """Write the truth to `path`.

    - `/unique`: `hkl` (n, 3) in the asymmetric unit of gemmi and CCP4; `I_true` (n,), the mean of
      Friedel mates, in counts of a whole reflection before Lorentz factor, polarisation and the sensor's
      efficiency; with anomalous also `I_plus` and `I_minus`; `centric`.
    - `/predictions`: each crossing on the detector: `hkl` (not reduced to the asymmetric unit),
      `fast`, `slow` (pixels, 0 is the first pixel's outer corner), `frame` (position in the scan,
      0 the start of the first frame), `omega` (degrees), `counts` (expected when wholly recorded, no
      beamstop), `factor` (counts / intensity), `sigma` (rocking curve's, degrees). Stills have no
      `frame`.
    - `/experiment`: `cell` (Angstrom, degrees), `space_group`, `a_matrix` (3, 3; column hkl to
      1/Angstrom at omega 0, in imgCIF's frame: X the rotation axis, Z towards the source), `wavelength`
      (Angstrom), `distance` and `pixel_size` (mm), `beam_center` (fast, slow; pixels), `settings`
      (JSON).
    """
    with new_file(path) as file:
        _experiment(file.create_group("experiment"), settings, geometry, crystal)
        _unique(file.create_group("unique"), settings, crystal)
        _predictions(file.create_group("predictions"), settings, predictions)


def _experiment(group: Any, settings: Settings, geometry: Geometry, crystal: Crystal) -> None:
    values = {
        "cell": np.array(crystal.form.cell),
        "space_group": crystal.form.space_group,
        "a_matrix": crystal.a_matrix,
        "wavelength": geometry.wavelength,
        "distance": geometry.distance,
        "pixel_size": PIXEL_SIZE,
        "beam_center": np.array(geometry.beam_center),
        "settings": json.dumps(asdict(settings), sort_keys=True),
    }
    for name, value in values.items():
        group[name] = value


def _unique(group: Any, settings: Settings, crystal: Crystal) -> None:
    unique = crystal.unique
    columns = {"hkl": unique.hkl, "I_true": unique.mean, "centric": unique.centric}
    if settings.anomalous:
        columns |= {"I_plus": unique.plus, "I_minus": unique.minus}
    _compressed(group, columns)


def _predictions(group: Any, settings: Settings, predictions: Predictions) -> None:
    columns = {"hkl": predictions.hkl.astype(np.int16)}
    for name in ("omega", "fast", "slow", "counts", "factor", "sigma"):
        columns[name] = getattr(predictions, name).astype(np.float32)
    if settings.osc:
        columns["frame"] = ((predictions.omega - settings.omega_start) / settings.osc).astype(np.float32)
    _compressed(group, columns)


def _compressed(group: Any, columns: dict[str, Any]) -> None:
    for name, column in columns.items():
        chunked = {"compression": "gzip", "shuffle": True} if len(column) else {}
        group.create_dataset(name, data=column, **chunked)
