"""The seeded attackers, each for a while; `python -m tests.mutate`, `tests.faults` and `tests.kill` go on by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import needs_mpi


def attack(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_damaged_set_gets_past() -> None:
    """No crash, hang, traceback, or success with wrong pixels, whatever is in the files."""
    attack("tests.mutate", "--cases", "350", "--seed", "3")


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc, which the preloaded library is compiled with")
def test_no_failing_system_call_leaves_half_a_set() -> None:
    attack("tests.faults", "--n", "220", "--seed", "2")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc, which the preloaded library is compiled with")
def test_no_kill_leaves_half_a_set() -> None:
    attack("tests.kill", "--n", "24", "--seed", "4")
