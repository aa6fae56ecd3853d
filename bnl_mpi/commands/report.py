"""The command `bnl-mpi report OUT_master.h5 --against RAW_master.h5 -o report.html`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Any

from ..arguments import add_option
from ..errors import OutputError, UsageError
from ..hdf5.names import PROCESS
from ..verify.replaying import checked_words, drawn, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both sets, and the file to write."""
    parser.description = (
        "Show a set beside the one that it was made from, for somebody who wants to know whether to trust it: one "
        "page of HTML with all its pictures in it, or a PNG."
    )
    parser.add_argument("master", metavar="MASTER", help="OUT_master.h5, as this program wrote it")
    add_option(parser, "--against", metavar="RAW_MASTER", required=True, help="the input that it was made from")
    add_option(
        parser,
        "-o",
        "--out_file",
        required=True,
        metavar="FILE",
        help="a name that ends in .html, or in .png (which needs the extra [report])",
    )


def run(namespace: argparse.Namespace) -> int:
    """Gather, draw, write; 0 on success."""
    kind = os.path.splitext(namespace.out_file)[1].lower()
    if kind not in (".html", ".png"):
        raise UsageError(f"-o {namespace.out_file}: give a name that ends in .html or .png")
    folder = os.path.dirname(os.path.abspath(namespace.out_file))
    if not os.path.isdir(folder):
        raise OutputError(f"{folder}: no such folder for the report; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: the report's folder is not writable; give another")
    if os.path.realpath(namespace.out_file) in {os.path.realpath(p) for p in (namespace.master, namespace.against)}:
        raise UsageError(f"-o {namespace.out_file}: is one of the sets")
    record, _ = read_record(namespace.master)
    if os.path.realpath(namespace.master) == os.path.realpath(namespace.against):
        raise UsageError(f"--against {namespace.against}: is the set itself; give the raw data's master")
    words = checked_words(record, namespace.master, namespace.against)
    from ..report import gather

    shown = gather.gather(namespace.master, namespace.against, words, _progress)
    _progress("")
    replay = shlex.join(["bnl-mpi", *checked_words(record, namespace.master)])
    if made := drawn(record):
        replay += f", expanded with {made}"
    if kind == ".html":
        from ..report import page

        _write(namespace.out_file, page.report(shown, replay, provenance(namespace.master)).encode())
    else:
        from ..report import poster

        _write(namespace.out_file, poster.png(shown))
    print(f"{namespace.out_file}: {shown.losses.verdict}: {shown.losses.reason}")
    return 0


def _write(path: str, content: bytes) -> None:
    from ..output.whole import whole_file

    try:
        with whole_file(path) as partial, open(partial, "wb") as file:
            file.write(content)
    except OSError as error:
        raise OutputError.unwritten(path, error) from error


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\033[K")
        sys.stderr.flush()


def provenance(master: str) -> dict[str, str]:
    """What the set tells of how it came to be."""
    from ..hdf5 import access

    told: dict[str, str] = {}
    with access.open_read(master) as h5:
        group: Any = access.get_group(h5, PROCESS)
        for name in ("program", "version", "date", "input", "libraries", "plan_sha256"):
            found = access.get_dataset(group, name)
            if found is not None:
                told[name.replace("_", " ")] = access.text(found[()])
    return told
