"""DIALS' own Python, and what its models of data sets are when it reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

PYTHON = next((found for name in ("dials.python", "dxtbx.python") if (found := shutil.which(name))), None)


def run_script(script: str, told: Any) -> dict[str, dict[str, Any]]:
    """What a script of this folder prints as its MODELS when DIALS' Python runs it on `told`, as JSON."""
    import hdf5plugin

    assert PYTHON is not None
    done = subprocess.run(
        [PYTHON, str(Path(__file__).with_name(script))],
        input=json.dumps(told),
        env={**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MODELS ")]
    assert lines, done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(lines[-1][len("MODELS ") :])
    return found
