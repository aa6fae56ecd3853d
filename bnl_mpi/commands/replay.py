"""The command `bnl-mpi replay OUT_master.h5`: prints the shell command that makes the set again.

It comes from `/entry/process_bnl_mpi`, which holds what determines the images, and names without folders.  So the
printed command writes in the folder where it is started; its input is looked for there, and beside the set.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from .._version import __version__
from ..errors import InputError
from ..verify.replaying import checked_words, drawn, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A file that holds the record, and what its input is called now."""
    parser.add_argument("master", metavar="MASTER", help="OUT_master.h5 (or OUT.nxs), as this program wrote it")
    parser.add_argument(
        "--infile", metavar="PATH", help="the input master, where it lies neither here nor beside MASTER"
    )


def run(namespace: argparse.Namespace) -> int:
    """Print the command, in one line that a shell takes; 0 on success."""
    record, version = read_record(namespace.master)
    if made := drawn(record):
        raise InputError(
            f"{namespace.master}: was expanded with {made}, which no one command repeats: replay the set that it was "
            f"expanded from, then bnl-mpi expand that with {made}"
        )
    if version != __version__:
        note = f"{namespace.master} was made by version {version}, this is {__version__}: pixels may differ"
        print(f"bnl-mpi: warning: {note}", file=sys.stderr)
    infile = namespace.infile or find_input(record["infile"], namespace.master)
    words = checked_words(record, namespace.master, infile)
    # A series' name has its numbers left out.
    if "#" not in infile and not os.path.exists(infile):
        note = f"{infile}: the input's folder isn't recorded, and it is neither here nor beside {namespace.master}"
        print(f"bnl-mpi: warning: {note}; give --infile PATH", file=sys.stderr)
    print(shlex.join(["bnl-mpi", *words]))
    return 0


def find_input(name: str, master: str) -> str:
    """The input's path: its name, with the set's folder where it lies there and not here."""
    beside = os.path.join(os.path.dirname(master), name)
    return beside if not os.path.exists(name) and os.path.exists(beside) else name
