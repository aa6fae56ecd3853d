"""Paths inside masters and data files, and numbers of filters, that several rooms speak of: each once."""

from __future__ import annotations

DATA = "/entry/data"
IMAGES = f"{DATA}/data"
"""In a data file: its images."""

SQUASH = "/entry/squash"
"""In a master: links to the files of codestreams."""

DETECTOR = "entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"

RECORD = "/entry/bnl_mpi"
"""What a data file tells of its block."""

PROCESS = "/entry/process_bnl_mpi"
"""What a master tells of the run that made it."""

# Registered numbers of HDF5 filters.
LZ4, BITSHUFFLE, ZSTD, BLOSC2, HTJ2K = 32004, 32008, 32015, 32026, 32033

BITSHUFFLE_LZ4 = 2
"""The bitshuffle filter's fifth parameter, where it compresses with LZ4."""
