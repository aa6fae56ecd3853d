"""Limits of the kernels that options are held against before NumPy is needed."""

from __future__ import annotations

MAX_BINNING = 64
