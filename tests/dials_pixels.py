"""Run by DIALS' own Python: writes to argv[2] all images of the file argv[1] as dxtbx gives them."""

from __future__ import annotations

import sys

import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory

experiments = ExperimentListFactory.from_filenames([sys.argv[1]])
(imageset,) = experiments.imagesets()
images = [imageset.get_raw_data(i)[0].as_numpy_array() for i in range(len(imageset))]
np.save(sys.argv[2], np.array(images))
