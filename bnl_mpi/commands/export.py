"""The command `bnl-mpi export MASTER --cbf name_#####.cbf`."""

from __future__ import annotations

import argparse

from ..arguments import add, add_overwriting, add_running


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The set to export, the images' names, and how to run."""
    parser.description = (
        "Write a data set as CBF images with miniCBF headers, for programs that read no HDF5. Runs like the main job: "
        "alone, with -p N, or under mpiexec or srun (but without -t)."
    )
    parser.add_argument("master", metavar="MASTER", help="the set's master; a CBF series too")
    out = parser.add_argument_group("output")
    add(
        out,
        "--cbf",
        optional=False,
        required=True,
        metavar="TEMPLATE",
        help="the images' names, with # for the digits of their numbers: name_#####.cbf",
    )
    add(
        out,
        "--channel",
        optional=False,
        type=int,
        metavar="N",
        help="which channel (energy threshold) of a data set with several, from 1",
    )
    add_overwriting(out)
    add_running(parser, share_0="")


def run(namespace: argparse.Namespace) -> int:
    """Export over ranks; returns the exit status."""
    from ..run import driver
    from ..tasks import export

    own = ("master", "cbf", "words")
    given = {k: v for k, v in vars(namespace).items() if v is not None and k not in own}
    options = export.options_for(namespace.master, namespace.cbf, given)
    return driver.main(export.ExportTask(namespace.cbf), options, namespace.words)
