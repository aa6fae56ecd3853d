"""The command `bnl-mpi check OUT_master.h5`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..errors import UsageError

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
    parser.add_argument(
        "--for",
        dest="meant_for",
        metavar="READERS",
        default="",
        help="exit status 0 only if these can read the set, as xds,dials: of xds, dials, durin, dxtbx, eiger2cbf, "
        "fabio, nxmx (default: dials, and xds where its plugin takes the filter and type)",
    )
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of the demands that hold, too")


def run(namespace: argparse.Namespace) -> int:
    """Judge the set and print what was found; 0 if it is sound and those read it that it is meant for, else 1."""
    from ..check.rule import READERS
    from ..check.verdict import judge

    by_name = {reader.lower(): reader for reader in READERS}
    asked = [name.strip().lower() for name in namespace.meant_for.split(",") if name.strip()]
    for name in asked:
        if name not in by_name:
            raise UsageError(f"--for {name}: not known; give some of {', '.join(by_name)}")
    readers = tuple(dict.fromkeys(by_name[name] for name in asked))
    verdict = judge(namespace.master, data=namespace.data, meant_for=readers)
    if namespace.json:
        print(json.dumps(as_json(verdict), indent=1))
    else:
        print("\n".join(lines(verdict, verbose=namespace.verbose, data=namespace.data)))
    return verdict.exit_status


def as_json(verdict: Verdict) -> dict[str, object]:
    """Everything, for other programs."""
    return {
        "master": verdict.master,
        "nxs": verdict.nxs,
        "status": verdict.exit_status,
        "for": list(verdict.meant_for),
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


def lines(verdict: Verdict, *, verbose: bool, data: bool = True) -> list[str]:
    """The failed demands, one a line; then a line for each reader, and the blocks that are missing.

    `data`: whether the images' chunks were looked at too.
    """
    from ..check.rule import OURS

    if verbose:
        told = [f"{'holds' if f.seen.ok else 'fails'} {f.line()}" for f in verdict.findings]
    else:
        told = _failures(verdict)
    for reader, file, broken, judged in verdict.readers():
        outcome = f"{broken} of {judged} demands fail" if broken else f"all {judged} demands hold"
        meant = "" if reader == OURS or reader in verdict.meant_for else "; the set isn't meant for it" * bool(broken)
        told.append(f"{reader}: {outcome} ({file}){meant}")
    if not data:
        told.append("the images themselves weren't read: --data holds every chunk against its checksum")
    if verdict.missing:
        told.append(f"{len(verdict.missing)} data files missing: {', '.join(verdict.missing)}")
    return told
