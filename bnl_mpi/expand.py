"""Expand from Python: `bnl_mpi.expand.expand(master, out_file=...)`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tasks.report import SetSummary

__all__ = ["expand"]


def expand(
    master: str | os.PathLike[str], *, out_file: str | os.PathLike[str], comm: Any = None, **options: Any
) -> SetSummary | None:
    """Expand a set from Python: `options` are those of `bnl-mpi expand`, and all else is as for `bnl_mpi.reduce`."""
    from .run import driver
    from .tasks.expansion import EXPANSION, options_for

    words = driver.given({"out_file": out_file, **options})
    return driver.call(EXPANSION, options_for(os.fspath(master), words), comm)
