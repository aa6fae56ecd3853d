"""The seeded attackers as tests start them: a Python of their own each, and nothing may be found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def attack(*words: object) -> None:
    """`python -m WORDS`, which tells what it found, and with its status whether there was anything."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def mutations(first: int, n: int = 500) -> None:
    attack("tests.mutate", "--first", first, "--cases", n, "--seed", 3)


def kills(first: int, n: int = 25) -> None:
    attack("tests.kill", "--first", first, "--n", n, "--seed", 4)
