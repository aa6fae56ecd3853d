"""Run by DIALS' own Python: writes to argv[2] the pixels and the masks of all images of the file argv[1]."""

from __future__ import annotations

import sys

import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory

experiments = ExperimentListFactory.from_filenames([sys.argv[1]])
(imageset,) = experiments.imagesets()
numbers = range(len(imageset))
np.savez(
    sys.argv[2],
    images=np.array([imageset.get_raw_data(i)[0].as_numpy_array() for i in numbers]),
    masks=np.array([imageset.get_mask(i)[0].as_numpy_array() for i in numbers]),
)
