"""A small rotation data set with a known answer, in the layout that Dectris' FileWriter gives.

The crystal diffracts by the Ewald construction, the counts obey Poisson statistics, and the intensities
that went in lie in a side file, so that what a reduction does to them can be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["simulate"]


def simulate(prefix: str | Path, *, force: bool = False, **settings: Any) -> Path:
    """Write `PREFIX_master.h5`, its data files and `PREFIX_truth.h5`; return the master's path.

    The settings are the fields of `bnl_mpi.simulate.settings.Settings` (detector="1M", bits=16,
    frames=90, osc=0.1, omega_start=0.0, images_per_file=100, flavour="eiger1", anomalous=False, seed=0,
    first_file_number=1, compression="bslz4", ntrigger=1, ...), all with defaults. The same settings give
    the same counts on every machine with the same numpy, however the frames are shared among files.

    Raises UsageError for a setting that makes no sense, OutputError where a file is in place already and
    `force` is not set.
    """
    from .dataset import write_dataset
    from .settings import Settings

    return write_dataset(Path(prefix), Settings(**settings), force=force)
