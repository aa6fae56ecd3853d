"""The command `bnl-mpi expand MASTER -o OUT`."""

from __future__ import annotations

import argparse

from ..arguments import add, add_overwriting, add_running


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The set to expand, the new set's names and filter, and how to run."""
    parser.description = (
        "Make a full data set from the codestreams of a smaller one: bit for bit what the run that coded them stored, "
        "or would have stored with this -c. Runs like the main job: alone, with -p N, or under mpiexec or srun."
    )
    parser.add_argument(
        "master",
        metavar="MASTER",
        help="the master of a set that was made with -q (its data files may be gone, the squash files must be where "
        "/entry/squash links them), with -c htj2k or with --keep",
    )
    out = parser.add_argument_group("output")
    add(out, "-o", "--out_file", optional=False, required=True, metavar="STEM", help="data files STEM_000001.h5, ...")
    add(out, "-m", "--out_master", optional=False, metavar="NAME", help="master's name (default STEM_master)")
    add(
        out,
        "-c",
        "--compression",
        optional=False,
        metavar="FILTER",
        help="bslz4 (the one that XDS reads, the default), bszstd, bshuf, zstd, none",
    )
    add(out, "-l", "--compression_level", optional=False, type=int, metavar="N", help="zstd 0..9, bszstd 1..22")
    add(
        out,
        "--background",
        optional=False,
        choices=("poisson",),
        help="of a set made with --keep: draw the background anew from its level, for XDS",
    )
    add(out, "--seed", optional=False, type=int, metavar="N", help="of --background (default 0)")
    add_overwriting(out)
    add_running(parser)


def run(namespace: argparse.Namespace) -> int:
    """Expand over ranks or shares; returns the exit status."""
    from ..run import driver
    from ..tasks import expansion

    given = {k: v for k, v in vars(namespace).items() if v is not None and k not in ("master", "words")}
    return driver.main(expansion.EXPANSION, expansion.options_for(namespace.master, given), namespace.words)
