"""The RO-Crate of a certified set, after the profile Process Run Crate: plain JSON-LD."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .._version import __version__
from ..hdf5 import access, guard
from ..hdf5.names import PROCESS
from ..output.places import VERIFIER
from .blocks import VerifyReport
from .files import Hashed
from .job import VerifyJob
from .losses import added
from .replaying import checked_words, read_record
from .summary import VerifySummary, codec_errors

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CRATE = "https://w3id.org/ro/crate/1.1"
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
VERDICT = "verdict"
LICENCE = "#licence"

Entity = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """What a crate is made of."""

    job: VerifyJob
    summary: VerifySummary
    reports: Sequence[VerifyReport]
    outputs: Sequence[Hashed]
    raw: Sequence[Hashed]
    """The master first."""
    folder: str
    """The crate's, to which outputs are relative."""
    now: str
    """ISO 8601."""

    @property
    def names(self) -> list[str]:
        return [quote(os.path.relpath(one.path, self.folder)) for one in self.outputs]

    @property
    def uris(self) -> list[str]:
        return [Path(one.path).as_uri() for one in self.raw]


def make(parts: Parts) -> Entity:
    """The crate as JSON can hold it."""
    properties = [*_measured(parts), _property(VERDICT, json.dumps(_verdict(parts), sort_keys=True))]
    files = [
        *(_file(one, name) for one, name in zip(parts.outputs, parts.names, strict=True)),
        *(_file(one, uri) for one, uri in zip(parts.raw, parts.uris, strict=True)),
    ]
    graph = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": {"@id": CRATE},
            "about": {"@id": "./"},
        },
        _root(parts),
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": LICENCE, "@type": "CreativeWork", "name": "That of the raw data", "description": "It applies here too"},
        *_actions(parts, properties),
        *properties,
        *files,
    ]
    return {"@context": [CONTEXT, TERMS], "@graph": graph}


def _refer(names: Sequence[str]) -> list[Entity]:
    return [{"@id": name} for name in names]


def _property(name: str, value: Any) -> Entity:
    return {"@id": f"#{name}", "@type": "PropertyValue", "propertyID": name, "name": name, "value": value}


def _file(one: Hashed, identifier: str) -> Entity:
    when = datetime.datetime.fromtimestamp(one.mtime_ns / 1e9, datetime.UTC)
    is_hdf5 = os.path.splitext(one.path)[1] in (".h5", ".nxs")
    return {
        "@id": identifier,
        "@type": "File",
        "name": os.path.basename(one.path),
        "contentSize": str(one.bytes),
        "sha256": one.sha256,
        "dateModified": when.isoformat(timespec="microseconds"),
        **({"encodingFormat": "application/x-hdf5"} if is_hdf5 else {}),
    }


def _root(parts: Parts) -> Entity:
    job = parts.job
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": os.path.basename(job.stem),
        "description": f"A reduced diffraction data set that stands for {os.path.basename(job.source.master)}",
        "datePublished": parts.now,
        "license": {"@id": LICENCE},
        "conformsTo": {"@id": PROFILE},
        "hasPart": _refer([*parts.names, *parts.uris]),
        "mentions": _refer(["#reduction", "#verification"]),
    }


def _actions(parts: Parts, properties: Sequence[Entity]) -> list[Entity]:
    """What was done, and by which programs."""
    record, version = read_record(parts.job.master)
    made, libraries = _made(parts.job)
    program = {
        "@id": "#bnl_mpi",
        "@type": "SoftwareApplication",
        "name": "bnl_mpi",
        "softwareVersion": version,
        "softwareRequirements": json.dumps(libraries, sort_keys=True),
    }
    reduction = {
        "@id": "#reduction",
        "@type": "CreateAction",
        "name": "Reduction of a diffraction data set",
        "description": shlex.join(["bnl-mpi", *checked_words(record, parts.job.master, record["infile"])]),
        "endTime": made,
        "instrument": {"@id": "#bnl_mpi"},
        "object": _refer(parts.uris),
        "result": _refer(parts.names),
    }
    verification = {
        "@id": "#verification",
        "@type": "AssessAction",
        "name": "Verification of the set against the raw data, all images",
        "endTime": parts.now,
        "instrument": {"@id": VERIFIER},
        "object": _refer(parts.names),
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "result": _refer([one["@id"] for one in properties]),
    }
    verifier = {**program, "@id": VERIFIER, "name": "bnl_mpi verify", "softwareVersion": __version__}
    return [reduction, verification, program, verifier]


def _made(job: VerifyJob) -> tuple[str, Any]:
    """When the set was made, and by which libraries, by its master's own word."""
    with guard.opened(job.master) as file:
        group = file[PROCESS]
        date = access.text(group["date"][()]) if "date" in group else ""
        libraries = access.text(group["libraries"][()]) if "libraries" in group else "{}"
    try:
        return date, json.loads(libraries)
    except ValueError:
        return date, libraries


def _measured(parts: Parts) -> list[Entity]:
    reports, summary = parts.reports, parts.summary
    # Of all parts that were verified, not of the last one's summary alone.
    greatest, rms = codec_errors(reports)
    measured = {
        "countsBefore": sum(r.counts_before for r in reports),
        "countsStored": sum(r.counts_stored for r in reports),
        "clippedPixels": sum(r.n_clipped for r in reports),
        "invalidPixels": sum(r.n_invalid for r in reports),
        "imagesCompared": sum(r.n_compared for r in reports),
        "imagesComparedIndependently": sum(r.n_independent for r in reports),
        "greatestCodecError": greatest,
        "rmsCodecError": rms,
        **_codec_errors(parts),
        "keptReflections": "; ".join(summary.kept) or None,
    }
    return [_property(name, value) for name, value in measured.items() if value is not None]


def _codec_errors(parts: Parts) -> Entity:
    """The codec's errors image by image, in order, and by shells of resolution; texts, since JSON-LD's lists have no
    order."""
    reports = sorted(parts.reports, key=lambda report: report.number)
    by_image = [one for report in reports for one in report.errors]
    if not by_image:
        return {}
    told = {
        "greatestCodecErrorOfImages": json.dumps([one.greatest for one in by_image]),
        "rmsCodecErrorOfImages": json.dumps([round(one.rms, 4) for one in by_image]),
    }
    by_shell = functools.reduce(added, [report.errors_by_shell for report in reports])
    if by_shell:
        limits = itertools.pairwise(reports[0].shell_limits)
        told["codecErrorOfShells"] = json.dumps(
            [
                {
                    "dMax": round(d_max, 3) if math.isfinite(d_max) else None,
                    "dMin": round(d_min, 3),
                    "pixels": one.n_pixels,
                    "greatest": one.greatest,
                    "rms": round(one.rms, 4),
                }
                for (d_max, d_min), one in zip(limits, by_shell, strict=True)
            ]
        )
    return told


def _verdict(parts: Parts) -> Entity:
    """Which raw files the set stands for."""
    job, plan, covered = parts.job, parts.job.plan, _covered(parts.job)
    uris = dict(zip(parts.uris, parts.raw, strict=True))
    return {
        "standsFor": {uri: covered.get(one.path, True) for uri, one in uris.items()},
        "firstFrame": plan.first_frame + 1,
        "lastFrame": plan.first_frame + plan.n_frames,
        "framesOfRaw": plan.n_frames_in,
        "allFrames": plan.n_frames == plan.n_frames_in and all(covered.values()) and not _lacks_frames(parts),
        "badFrames": sorted(frame for r in parts.reports for frame in r.bad_frames),
        "missingFiles": list(job.source.missing),
        "mtime_ns": {uri: one.mtime_ns for uri, one in uris.items()},
        "ctime_ns": {uri: one.ctime_ns for uri, one in uris.items()},
        "path": {uri: one.path for uri, one in uris.items()},
        "planSha256": job.plan_sha256,
        "verified": parts.now,
    }


def _lacks_frames(parts: Parts) -> bool:
    """Whether frames couldn't be read, or files never came: the set doesn't stand for these."""
    return bool(parts.job.source.missing) or any(r.bad_frames for r in parts.reports)


def _covered(job: VerifyJob) -> dict[str, bool]:
    """Whether all frames of each raw data file are in the set."""
    plan, begin, covered = job.plan, 0, dict[str, bool]()
    for segment in job.source.segments:
        inside = plan.first_frame <= begin and begin + segment.count <= plan.first_frame + plan.n_frames
        covered[segment.path] = covered.get(segment.path, True) and inside
        begin += segment.count
    return covered
