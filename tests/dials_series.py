"""Run by DIALS' own Python: prints as JSON what dxtbx makes of each list of files (or one file) named on stdin."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np


def models(paths: list[str]) -> dict[str, Any]:
    """The one experiment of the files: geometry, scan, mask and pixels; lengths in mm, angles in degrees."""
    from dxtbx.model.experiment_list import ExperimentListFactory

    (experiment,) = ExperimentListFactory.from_filenames(paths)
    panel, beam, scan = experiment.detector[0], experiment.beam, experiment.scan
    goniometer, imageset = experiment.goniometer, experiment.imageset
    masks = [imageset.get_mask(i)[0].as_numpy_array() for i in range(min(2, len(imageset)))]
    numbers = range(len(imageset))
    return {
        "format": imageset.get_format_class().__name__,
        "images": len(imageset),
        "first_image": scan and scan.get_image_range()[0],
        "pixel_size": panel.get_pixel_size(),
        "image_size": panel.get_image_size(),
        "origin": panel.get_origin(),
        "fast": panel.get_fast_axis(),
        "slow": panel.get_slow_axis(),
        "trusted_range": panel.get_trusted_range(),
        "thickness": panel.get_thickness(),
        "material": panel.get_material(),
        "s0": beam.get_s0(),
        "beam_centre": panel.get_beam_centre(beam.get_s0()),
        "rotation_axis": goniometer and goniometer.get_rotation_axis(),
        "rotation_axis_datum": goniometer and goniometer.get_rotation_axis_datum(),
        "fixed": goniometer and goniometer.get_fixed_rotation(),
        "setting": goniometer and goniometer.get_setting_rotation(),
        "oscillation": scan and scan.get_oscillation(),
        "exposure": scan and scan.get_exposure_times()[0],
        "mask_shape": list(masks[0].shape),
        "masks": [np.packbits(mask).tobytes().hex() for mask in masks],
        "pixels": [hashlib.sha256(as_bytes(imageset, i)).hexdigest() for i in numbers],
    }


def as_bytes(imageset: Any, image: int) -> bytes:
    """The pixels as int32, -1 where they are masked: how formats mark these differs."""
    raw, mask = imageset.get_raw_data(image)[0], imageset.get_mask(image)[0]
    pixels: bytes = np.where(mask.as_numpy_array(), raw.as_numpy_array(), -1).astype(np.int32).tobytes()
    return pixels


def main() -> None:
    result: dict[str, Any] = {}
    for name, paths in json.load(sys.stdin).items():
        try:
            result[name] = models(paths)
        except Exception as error:  # what fails for one set is the answer for it
            result[name] = {"error": f"{type(error).__name__}: {error}"}
    print("MODELS " + json.dumps(result))


main()
