"""What all tests share: the folder of helpers on the path, and a clean environment for child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A test run under a scheduler or a launcher must not hand its place there to the ranks that tests start.
for _name in list(os.environ):
    if _name.startswith(("PMI_", "PMIX_", "OMPI_COMM_WORLD", "SLURM_STEP")):
        del os.environ[_name]
