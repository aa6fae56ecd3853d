"""Expand from Python: `bnl_mpi.expand.expand(master, out_file=...)`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tasks.report import SetSummary

__all__ = ["expand"]

TAKEN = (
    "infile", "out_file", "out_master", "compression", "compression_level", "background", "seed", "force", "resume",
    "json", "log_json", "grace", "verbose", "progress", "parallel", "thread", "codec_threads",
)  # fmt: skip
"""All but these are told by the set."""


def expand(
    master: str | os.PathLike[str], *, out_file: str | os.PathLike[str], comm: Any = None, **options: Any
) -> SetSummary | None:
    """Expand a set from Python: `options` are those of `bnl-mpi expand`, and all else is as for `bnl_mpi.reduce`."""
    from .run import driver
    from .tasks.expansion import EXPANSION, options_for
    from .tasks.keywords import values_of

    values = values_of({"infile": master, "out_file": out_file, **options}, TAKEN)
    return driver.call(EXPANSION, options_for(values.pop("infile"), values), comm)
