"""The command `bnl-mpi estimate MASTER`: what settings would give and cost, measured on a sample of the frames."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from ..arguments import add_option
from ..errors import BnlError, OutputError, UsageError

if TYPE_CHECKING:
    from ..estimate.choose import Aim
    from ..estimate.study import Findings, Wish
    from ..run.world import World


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The set, what to try, how much to look at, what to aim at."""
    parser.description = (
        "Try settings on a sample of the frames, and tell for each how small the whole set gets, what it costs, and "
        "what is lost: spots are integrated before and after, in the same frames. Runs alone, with -p N, or under "
        "mpiexec or srun."
    )
    parser.add_argument("master", metavar="MASTER", help="the input's master file")
    add_option(
        parser,
        "--try",
        dest="settings",
        metavar="NAMES",
        help="settings as 'b2s2 b2s2H16 b3s2T6.3 b2s2J120:bszstd' (default: a dozen)",
    )
    add_option(parser, "--sample", type=int, metavar="N", help="groups of frames to look at (default: some 40 frames)")
    add_option(
        parser,
        "--spots",
        metavar="FILE",
        help="judge predicted spots: reflections of DIALS or XDS (default: found ones)",
    )
    add_option(parser, "--keep", metavar="FILE", help="for settings with keep; its reflections are the spots, too")
    add_option(parser, "--channel", type=int, metavar="N", help="which channel of a data set with several, from 1")
    aim = parser.add_argument_group("recommendation (one of these; default --target_ratio 50)")
    add_option(aim, "--target_ratio", type=float, metavar="R", help="least ratio, to 2 bytes a raw pixel")
    add_option(aim, "--max_size", metavar="SIZE", help="largest set, as 2GB")
    add_option(aim, "--min_kept", type=float, metavar="C", help="least correlation of any shell, before with after")
    out = parser.add_argument_group("output and running")
    add_option(out, "--json", metavar="FILE", help="all figures, by shell")
    add_option(out, "--html", metavar="FILE", help="the same as a page with pictures")
    add_option(out, "-p", "--parallel", type=int, metavar="N", help="workers, here and for the times and commands told")


def run(namespace: argparse.Namespace) -> int:
    """Start ranks where they are wanted, study, print; returns the exit status."""
    from ..run import launch, world

    if namespace.parallel is not None and namespace.parallel < 1:
        raise UsageError(f"--parallel {namespace.parallel}: must be 1 or more workers")
    for path in (namespace.json, namespace.html):
        if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise OutputError(f"{path}: no such folder; make it first")
    if namespace.sample is not None and namespace.sample < 1:
        raise UsageError(f"--sample {namespace.sample}: must be 1 or more groups of frames")
    aim = _aim(namespace)
    wish = _wish(namespace)
    if (namespace.parallel or 1) > 1 and not launch.launched():
        return launch.run_mpiexec(namespace.parallel + 1, namespace.words)
    ranks = world.World(world.connect() if launch.launched() else None)
    status = 0
    try:
        _study(namespace, wish, aim, ranks)
    except BnlError as error:
        # Every rank knows of it; one tells, and its status is the job's.
        if ranks.rank == 0:
            print(f"bnl-mpi: {error}", file=sys.stderr)
            status = error.exit_status
    except BaseException:
        ranks.abort(1)
        raise
    ranks.leave()
    return status


def _aim(namespace: argparse.Namespace) -> Aim:
    from ..estimate.choose import Aim, parse_size

    size = None if namespace.max_size is None else parse_size(namespace.max_size)
    return Aim(namespace.target_ratio, size, namespace.min_kept)


def _wish(namespace: argparse.Namespace) -> Wish:
    from ..estimate import names
    from ..estimate.study import Wish, check_names

    settings = () if namespace.settings is None else names.parse_list(namespace.settings)
    check_names(settings, namespace.keep)
    keep = namespace.keep
    spots = namespace.spots or (keep if keep != "auto" else None)
    named = None if spots is None else (spots, "--spots" if namespace.spots else "--keep")
    return Wish(namespace.master, settings, namespace.sample, keep, namespace.channel, spots=named)


def _study(namespace: argparse.Namespace, wish: Wish, aim: Aim, ranks: World) -> None:
    from ..estimate import study
    from ..run.report import ProgressLine

    bar: list[ProgressLine] = []

    def progress(done: int, total: int, frames: int) -> None:
        if not bar:
            bar.append(ProgressLine(total * frames))
        bar[0].advance(frames)

    findings = study.run(wish, ranks, progress)
    if bar:
        bar[0].finish()
    if findings is not None:
        _tell(namespace, findings, aim)


def _tell(namespace: argparse.Namespace, findings: Findings, aim: Aim) -> None:
    from ..estimate import choose, show
    from ..output import text

    choice = choose.recommend(findings, aim)
    lines = show.lines(findings, choice, namespace.parallel, namespace.keep)
    print("\n".join(lines), file=text.for_people(namespace.json, namespace.html))
    if namespace.json:
        told = show.as_json(findings, choice, namespace.parallel, namespace.keep)
        text.write_asked("--json", namespace.json, json.dumps(told, indent=1) + "\n")
    if namespace.html:
        from ..report.choices import choices

        text.write_asked("--html", namespace.html, choices(findings, choice, namespace.parallel, namespace.keep))
