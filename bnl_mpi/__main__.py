"""`python -m bnl_mpi`."""

import sys

from .cli import main

sys.exit(main())
