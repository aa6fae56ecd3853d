"""Damaged sets: no crash, hang, traceback, or success with wrong pixels."""

from __future__ import annotations

import attackers
import pytest


@pytest.mark.parametrize("first", [0, 500, 1000, 1500])
def test_no_damaged_set_gets_past(first: int) -> None:
    attackers.mutations(first)
