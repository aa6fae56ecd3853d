"""The command `bnl-mpi verify OUT_master.h5 [--against RAW_master.h5]`."""

from __future__ import annotations

import argparse
import os
import sys

from ..arguments import add, add_running
from ..errors import UsageError

WHOLE = "1/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The set, its raw data, how much to look at, and the certificate."""
    parser.description = (
        "Whether a set is as it was written: every file, checksum, image and item of metadata; with --against, whether "
        "it is what these raw data give, all of it. One sign a file: = as it should be, * differs, + not in the plan, "
        "- missing, ! unreadable. Status 0 if all holds, 1 with findings, 2 for wrong use, 75 if it was interrupted or "
        "waits for other parts. Runs like the main job: alone, with -p N, in shares (-t), or under mpiexec or srun."
    )
    parser.add_argument("master", nargs="?", metavar="MASTER", help="OUT_master.h5, as this program wrote it")
    parser.add_argument("--against", metavar="RAW", help="the raw data's master: reduce again, and compare")
    parser.add_argument(
        "--paranoid", action="store_true", help="each image by the NumPy kernels too, not only the first of a block"
    )
    parser.add_argument("--subset", default=WHOLE, metavar="K/N", help="every N-th block from the K-th on, as 3/10")
    parser.add_argument("--resume", action="store_true", help="take as verified what an earlier run has noted")
    parser.add_argument(
        "--certify",
        action="store_true",
        help="write OUT.sha256 and OUT.crate.json when all images were held against the raw data",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="FILE",
        help="a file whose reflections were kept, to be held against the set, which knows its regions; may be repeated",
    )
    parser.add_argument("--json", metavar="FILE", help="write what was found as JSON too")
    told = parser.add_argument_group("certificates")
    told.add_argument("--certificate", metavar="CRATE", help="check files against OUT.crate.json, without raw data")
    told.add_argument("--deletable", metavar="CRATE", help="print the raw files that a certified set stands for")
    add(told, "-0", dest="null", optional=False, action="store_true", help="with --deletable: end paths with NUL")
    add_running(parser, share_0="tells what all have found")


def run(namespace: argparse.Namespace) -> int:
    """Verify over ranks or shares, or read a certificate; returns the exit status."""
    if namespace.certificate or namespace.deletable:
        _check_alone(namespace)
        return _certificate(namespace) if namespace.certificate else _deletable(namespace)
    if namespace.null:
        raise UsageError("-0 goes with --deletable alone")
    if namespace.master is None:
        raise UsageError("MASTER is missing; see bnl-mpi verify --help")
    if namespace.certify and namespace.against is None:
        raise UsageError("--certify needs --against RAW: a certificate says what raw data a set stands for")
    from ..options import Options
    from ..run import driver
    from ..verify.job import Wish, parse_subset
    from ..verify.task import VerifyTask

    wish = Wish(
        namespace.master,
        namespace.against,
        namespace.paranoid,
        parse_subset(namespace.subset),
        namespace.certify,
        tuple(namespace.keep),
    )
    names = ("parallel", "thread", "grace", "log_json", "verbose", "json", "resume")
    given = {name: value for name in names if (value := getattr(namespace, name, None)) is not None}
    options = Options(infile=namespace.against or namespace.master, **given)
    return driver.main(VerifyTask(wish), options, namespace.words)


def _check_alone(namespace: argparse.Namespace) -> None:
    """A certificate is read by itself: what else is asked for would silently not be done."""
    if namespace.master or (namespace.certificate and namespace.deletable):
        raise UsageError("give either MASTER, or --certificate CRATE, or --deletable CRATE")
    which, more = ("--certificate", "json") if namespace.certificate else ("--deletable", "null")
    idle: dict[str, object] = {"against": None, "paranoid": False, "subset": WHOLE, "resume": False, "certify": False}
    idle |= {"keep": [], "json": None, "null": False}
    for name, unset in idle.items():
        if name != more and getattr(namespace, name) != unset:
            flag = "-0" if name == "null" else f"--{name}"
            raise UsageError(f"{flag} is of no use with {which}, which looks at files by their checksums alone")


def _certificate(namespace: argparse.Namespace) -> int:
    from ..output.text import for_people
    from ..run.report import write_json_object
    from ..verify import certified

    told = certified.read(namespace.certificate)
    findings, signs = certified.check(told)
    n, people = len(findings), for_people(namespace.json)
    print("\n".join([*certified.lines(signs), *(finding.line() for finding in findings)]), file=people)
    print(f"{n} finding{'s' * (n > 1)}" if n else f"all as verified {told.verified}", file=people)
    status = 1 if findings else 0
    if namespace.json:
        write_json_object(namespace.json, certified.as_json(told, findings, signs, status))
    return status


def _deletable(namespace: argparse.Namespace) -> int:
    from ..verify import certified

    paths, why_not = certified.deletable(certified.read(namespace.deletable))
    if why_not:
        print(f"bnl-mpi: nothing may be deleted: {why_not}", file=sys.stderr)
        return 1
    if not paths:
        print("bnl-mpi: no raw file is where it was", file=sys.stderr)
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(os.fsencode(path) + (b"\0" if namespace.null else b"\n") for path in paths))
    sys.stdout.buffer.flush()
    return 0
