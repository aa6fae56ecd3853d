"""Runs ended at random moments: nothing half-made has a final name, and the next run mends all."""

from __future__ import annotations

import shutil

import attackers
import pytest
from running import needs_mpi


@pytest.mark.mpi
@needs_mpi
@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc, which the preloaded library is compiled with")
@pytest.mark.parametrize("first", [0, 25, 50, 75])
def test_no_kill_leaves_half_a_set(first: int) -> None:
    attackers.kills(first)
