"""Run by DIALS' own Python: prints as JSON what dxtbx makes of each file named on stdin."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def models(path: str) -> dict[str, Any]:
    """Format, geometry, scan and mask of one file; all lengths in mm, angles in degrees."""
    from dxtbx.format import Registry

    image = Registry.get_format_class_for_file(path).get_instance(path)
    panel, beam = image.get_detector()[0], image.get_beam()
    goniometer, scan, mask = image.get_goniometer(), image.get_scan(), image.get_static_mask()
    mask = mask[0] if isinstance(mask, tuple) else mask
    raw = image.get_raw_data(image.get_num_images() - 1)
    raw = raw[0] if isinstance(raw, tuple) else raw
    return {
        "format": type(image).__name__,
        "images": image.get_num_images(),
        "pixel_size": panel.get_pixel_size(),
        "image_size": panel.get_image_size(),
        "origin": panel.get_origin(),
        "fast": panel.get_fast_axis(),
        "slow": panel.get_slow_axis(),
        "normal": panel.get_normal(),
        "distance": panel.get_distance(),
        "trusted_range": panel.get_trusted_range(),
        "thickness": panel.get_thickness(),
        "material": panel.get_material(),
        "wavelength": beam.get_wavelength(),
        "s0": beam.get_s0(),
        "beam_centre": panel.get_beam_centre(beam.get_s0()),
        "rotation_axis": goniometer and goniometer.get_rotation_axis(),
        "oscillation": scan and scan.get_oscillation(),
        "exposure": scan and scan.get_exposure_times()[0],
        "mask": None if mask is None else np.packbits(mask.as_numpy_array()).tobytes().hex(),
        "mask_shape": None if mask is None else list(mask.focus()),
        "last_trusted": trusted(panel, raw) if raw.size() < 1000 else None,
        "last_image": [int(one) for one in raw.as_1d()] if raw.size() < 1000 else None,
    }


def trusted(panel: Any, raw: Any) -> list[bool]:
    """Whether each pixel of an image counts as good, the mask apart."""
    return [bool(one) for one in panel.get_trusted_range_mask(raw).as_1d()]


def main() -> None:
    result = {}
    for path in json.load(sys.stdin):
        try:
            result[path] = models(path)
        except Exception as error:  # what fails for one file is the answer for it
            result[path] = {"error": f"{type(error).__name__}: {error}"}
    print("MODELS " + json.dumps(result))


main()
