"""`python -m bnl_mpi`, or this file by its path, which runs the package that it lies in."""

import os
import sys

if not __package__:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from bnl_mpi.cli import program

if __name__ == "__main__":
    program()
