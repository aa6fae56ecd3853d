"""The command `bnl-mpi check OUT_master.h5`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..check.verdict import Finding, Verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A master, and how much to look at and to tell."""
    parser.add_argument("master", metavar="MASTER", help="OUT_master.h5; OUT.nxs beside it is judged too")
    parser.add_argument(
        "--data",
        action="store_true",
        help="read all content too, squash files and masters as well, and compare checksums",
    )
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of the demands that hold, too")


def run(namespace: argparse.Namespace) -> int:
    """Judge the set and print what was found; 0 if XDS and DIALS read it and it is whole, else 1."""
    from ..check.verdict import judge

    verdict = judge(namespace.master, data=namespace.data)
    if namespace.json:
        print(json.dumps(as_json(verdict), indent=1))
    else:
        print("\n".join(lines(verdict, verbose=namespace.verbose)))
    return verdict.exit_status


def as_json(verdict: Verdict) -> dict[str, object]:
    """Everything, for other programs."""
    return {
        "master": verdict.master,
        "nxs": verdict.nxs,
        "status": verdict.exit_status,
        "missing": list(verdict.missing),
        "findings": [finding.as_json() for finding in verdict.findings],
    }


def _failures(verdict: Verdict) -> list[str]:
    """Each failed demand once for all files that fail it in the same way: there may be thousands."""
    alike: dict[tuple[str, str, str, str], list[Finding]] = {}
    for f in verdict.failed:
        # A link's own name tells no two failures apart.
        place = "" if f.seen.object.startswith("/entry/data/data_") else f.seen.object
        key = (f.rule.reader, f.rule.name, place, f.seen.found)
        alike.setdefault(key, []).append(f)
    told = []
    for first, *others in alike.values():
        more = f" (and {len(others)} files more)" if others else ""
        told.append(f"fails {first.line()}{more}")
    return told


def lines(verdict: Verdict, *, verbose: bool) -> list[str]:
    """The failed demands, one a line; then a line for each reader, and the blocks that are missing."""
    if verbose:
        told = [f"{'holds' if f.seen.ok else 'fails'} {f.line()}" for f in verdict.findings]
    else:
        told = _failures(verdict)
    for reader, file, broken, judged in verdict.readers():
        outcome = f"{broken} of {judged} demands fail" if broken else f"all {judged} demands hold"
        told.append(f"{reader}: {outcome} ({file})")
    if verdict.missing:
        told.append(f"{len(verdict.missing)} data files missing: {', '.join(verdict.missing)}")
    return told
