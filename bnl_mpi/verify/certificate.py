"""The certificate: two standard files, by which a set can be checked in ten years without this program.

`OUT.sha256` is coreutils' list of checksums (`sha256sum -c OUT.sha256`).  `OUT.crate.json` is an RO-Crate of the
profile Process Run Crate: the raw files, the outputs, the action that made these of those, the software, what was
measured, and the verdict.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import Interrupted, OutputError, UsageError
from ..output import places
from ..output.text import write_text
from . import crate, journal
from .blocks import VerifyReport
from .files import Hashed, hash_file
from .job import VerifyJob
from .summary import VerifySummary


def check_places(job: VerifyJob) -> None:
    """OutputError where somebody else's file has the name of one of the certificate's."""
    sums, crate = places.certificate_paths(job.stem)
    if places.is_certificate(crate):
        return
    for path, is_ours in ((crate, False), (sums, _is_of(job, sums))):
        if os.path.lexists(path) and not is_ours:
            raise OutputError(f"{path}: isn't a certificate of {job.master}; rename it or move it away")


def _is_of(job: VerifyJob, sums: str) -> bool:
    """Whether only files of the set are listed: a run that was killed before the crate was there left it."""
    own = {os.path.basename(path) for path in _own_files(job)}
    try:
        lines = Path(sums).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return all(line.partition("  ")[2] in own for line in lines)


def certify(job: VerifyJob, summary: VerifySummary, reports: Sequence[VerifyReport]) -> list[str]:
    """Write both files, if everything held, for all images; the paths.  Else an error that says what doesn't."""
    if not job.against:
        raise UsageError("--certify needs --against RAW_master.h5: a certificate says what raw data a set stands for")
    if summary.findings:
        return []
    missing = sorted({*range(1, job.plan.n_blocks + 1)} - {r.number for r in reports if r.chosen})
    if missing:
        # Subsets add up: what others have verified is in the journal.
        known = journal.verified(job)
        reports = [*(r for r in reports if r.chosen), *(known[k] for k in missing if k in known)]
        missing = [k for k in missing if k not in known]
    if missing:
        raise Interrupted(
            f"{job.master}: no certificate yet: {len(missing)} of {job.plan.n_blocks} blocks, as block {missing[0]}, "
            "weren't verified with --certify; verify other subsets or shares with it, or all with --certify --resume"
        )
    hashed = {one.path: one for report in reports for one in report.hashed}
    stem = job.stem
    own = _own_files(job)
    raw = _raw_files(job)
    for path in [*own, *raw]:
        if os.path.abspath(path) not in hashed:
            hashed[os.path.abspath(path)] = hash_file(path)
    folder = os.path.dirname(os.path.abspath(stem))
    outputs = [hashed[os.path.abspath(path)] for path in own]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    raws = [hashed[os.path.abspath(path)] for path in raw]
    made = crate.make(crate.Parts(job, summary, reports, outputs, raws, folder, now))
    sums = "".join(_sum_line(one, folder) for one in outputs)
    sums_path, crate_path = places.certificate_paths(stem)
    _write(sums_path, sums)
    _write(crate_path, json.dumps(made, indent=1) + "\n")
    journal.remove(job)
    return [sums_path, crate_path]


def _sum_line(one: Hashed, folder: str) -> str:
    """As coreutils writes it: a name with a backslash or a line's end is escaped, and the line says so."""
    name = os.path.relpath(one.path, folder)
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
    return f"{chr(92) * (escaped != name)}{one.sha256}  {escaped}\n"


def _own_files(job: VerifyJob) -> list[str]:
    nxs = job.options.nxs_path
    return [job.master, *([nxs] if os.path.exists(nxs) else []), *job.data_files, *job.squash_files]


def _raw_files(job: VerifyJob) -> list[str]:
    """The master, but of a series, which has none, and the files that frames are in."""
    master = [job.source.master] if os.path.isfile(job.source.master) else []
    return list(dict.fromkeys([*master, *(s.path for s in job.source.segments if s.count)]))


def _write(path: str, text: str) -> None:
    """Whole or not at all."""
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError.unwritten(path, error) from error
