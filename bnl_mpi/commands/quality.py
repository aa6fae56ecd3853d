"""The command `bnl-mpi quality MASTER --try "b2s2 b2s2H16"`: settings compared by merged intensities, through DIALS."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import add_option
from ..errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from ..estimate.names import Setting
    from ..quality.settings import Series


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The set or the simulated ones, the settings, how DIALS is to process all, and the page."""
    parser.description = (
        "Reduce one data set with several settings, process each result with DIALS in the same way, and compare the "
        "merged intensities, by resolution shell, with the unreduced data's or with a simulation's truth. What is "
        "done is kept in a work folder, so that an interrupted command goes on where it was."
    )
    parser.add_argument("master", metavar="MASTER", nargs="?", type=Path, help="a data set's master file")
    add_option(parser, "--series", nargs="+", metavar="NAME", help="simulated sets in its place: weak, anomalous, long")
    add_option(
        parser,
        "--kept",
        action="store_true",
        help="what --keep leaves, on the simulated sets and three seeds (docs/kept.md)",
    )
    add_option(
        parser,
        "--try",
        dest="settings",
        metavar="NAMES",
        help="settings as 'b2s2 b2s2H16 b3s2T6.3' (default: some two dozen)",
    )
    how = parser.add_argument_group("processing")
    add_option(
        how,
        "--d_min",
        type=float,
        metavar="D",
        help="resolution limit of integration, Angstrom (default: the detector's nearest edge)",
    )
    add_option(how, "--truth", type=Path, metavar="FILE", help="PREFIX_truth.h5, where MASTER was simulated")
    add_option(how, "--space_group", metavar="SYMBOL", help="of MASTER, as P43212 (default: what DIALS finds)")
    add_option(how, "--anomalous", action="store_true", help="keep MASTER's Friedel mates apart in scaling")
    add_option(how, "--quick", action="store_true", help="faster, less careful algorithms of DIALS")
    add_option(how, "-p", "--parallel", type=int, default=2, metavar="N", help="processes (default 2)")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("output")
    add_option(
        out,
        "--work",
        type=Path,
        default=Path("quality-work"),
        metavar="FOLDER",
        help="data and records (default quality-work)",
    )
    add_option(out, "--page", type=Path, metavar="FILE", help="write tables of all, in Markdown")
    add_option(out, "--page_only", action="store_true", help="write the page from the records that are there")


def run(namespace: argparse.Namespace) -> int:
    """Do what isn't done yet, a line for each setting; 0 on success, 1 where a setting failed."""
    jobs = _jobs(namespace)
    if namespace.page_only and not namespace.page:
        raise UsageError("--page_only needs --page FILE")
    if namespace.page and not namespace.page.absolute().parent.is_dir():
        raise OutputError(f"--page {namespace.page}: no such folder; make it first")
    failed = [] if namespace.page_only else _run_all(jobs, namespace)
    for line in failed:
        print(f"bnl-mpi: {line}", file=sys.stderr)
    if namespace.page and namespace.kept:
        from ..quality import kept

        kept.write_page(namespace.page, namespace.work)
    elif namespace.page:
        from ..quality.page import write_page

        write_page(namespace.page, [namespace.work / series.name for series, _ in jobs])
    return 1 if failed else 0


def _run_all(jobs: list[tuple[Series, tuple[Setting | None, ...]]], namespace: argparse.Namespace) -> list[str]:
    """What failed, a line each."""
    from ..quality import chain, study

    if reason := chain.missing_dials():
        raise InputError(reason)
    try:
        import gemmi  # noqa: F401
    except ImportError:
        raise InputError("quality needs gemmi for the crystal's symmetry: pip install 'bnl-mpi[quality]'") from None
    try:
        os.makedirs(namespace.work, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--work {namespace.work}: {error.strerror}") from None
    return [
        line
        for series, settings in jobs
        for line in study.run_series(series, settings, namespace.work, namespace.parallel)
    ]


def _jobs(namespace: argparse.Namespace) -> list[tuple[Series, tuple[Setting | None, ...]]]:
    """Each series with its settings, the unreduced data first."""
    from ..quality import kept, settings

    if [namespace.master is not None, namespace.series is not None, namespace.kept].count(True) != 1:
        raise UsageError("give a data set's MASTER, or --series weak anomalous for the simulated ones, or --kept")
    if namespace.parallel < 1:
        raise UsageError(f"--parallel {namespace.parallel}: must be 1 or more")
    tried = None if namespace.settings is None else namespace.settings.replace(",", " ").split()
    if namespace.kept and tried:
        raise UsageError("--kept has settings of its own: drop --try, or give --series")
    if namespace.master is not None:
        return [(_given(namespace), settings.settings_of(tried or settings.FOR_INPUT))]
    return [
        (
            settings.simulated_series(name, namespace.work, namespace.quick),
            settings.settings_of(
                kept.STUDY[name] if namespace.kept else tried or settings.SIMULATED[name.partition(":")[0]].settings
            ),
        )
        for name in (kept.STUDY if namespace.kept else dict.fromkeys(namespace.series))
    ]


def _given(namespace: argparse.Namespace) -> Series:
    """The data set that is named, after a look whether it can be read."""
    from ..hdf5.access import open_read
    from ..quality import settings

    open_read(namespace.master).close()
    if namespace.d_min is not None and not namespace.d_min > 0:
        raise UsageError(f"--d_min {namespace.d_min:g}: must be a resolution in Angstrom, above 0")
    d_min = settings.resolution_of(namespace.master) if namespace.d_min is None else namespace.d_min
    if namespace.truth is not None and not namespace.truth.is_file():
        raise InputError(f"--truth {namespace.truth}: no such file")
    stem = namespace.master.name.removesuffix(".h5").removesuffix("_master")
    return settings.Series(
        stem,
        stem,
        "",
        namespace.master.resolve(),
        d_min,
        truth=namespace.truth,
        space_group=namespace.space_group,
        anomalous=namespace.anomalous,
        quick=namespace.quick,
    )
