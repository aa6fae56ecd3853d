"""Limits of the kernels that options are held against before NumPy is needed."""

from __future__ import annotations

MAX_BINNING = 64

LARGEST_RADIUS = 100
"""Pixels of a frame, of what is kept about a reflection."""
