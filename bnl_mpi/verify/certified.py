"""A certificate read again: whether a set is still what it says, and which raw files may go."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from ..errors import InputError
from .crate import VERDICT
from .files import hash_file
from .findings import DIFFERS, EQUAL, MEANING, MISSING, UNREADABLE, Finding

GONE = " "
"""The sign of a raw file that was deleted, as it may be."""


@dataclass(frozen=True)
class Certified:
    """One file that a certificate lists."""

    path: str
    """Where it is now: outputs beside the certificate, raw files where they were."""
    bytes: int
    sha256: str
    is_raw: bool
    mtime_ns: int | None = None
    ctime_ns: int = 0
    """0 where the certificate tells none."""
    all_frames: bool = True
    """Of a raw file: whether all its frames are in the set."""


@dataclass(frozen=True)
class Certificate:
    """What a certificate says."""

    path: str
    outputs: tuple[Certified, ...]
    raw: tuple[Certified, ...]
    """The data files in order, the master first."""
    all_frames: bool
    verified: str
    """When, as ISO 8601."""


def read(path: str) -> Certificate:
    """Read OUT.crate.json.  InputError where it is no certificate of ours."""
    try:
        graph = {one["@id"]: one for one in json.loads(Path(path).read_text(encoding="utf-8"))["@graph"]}
        verdict = json.loads(graph[f"#{VERDICT}"]["value"])
        action = graph["#reduction"]
        folder = os.path.dirname(os.path.abspath(path))
        outputs = [_certified(graph[one["@id"]], folder) for one in action["result"]]
        raw = [_raw(graph[one["@id"]], verdict) for one in action["object"]]
        return Certificate(path, tuple(outputs), tuple(raw), bool(verdict["allFrames"]), str(verdict["verified"]))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; give OUT.crate.json") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no certificate of bnl-mpi, nor text at all; give OUT.crate.json") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no certificate of bnl-mpi ({error}); give OUT.crate.json") from error


def _certified(entity: dict[str, Any], folder: str) -> Certified:
    path = os.path.join(folder, unquote(entity["@id"]))
    return Certified(path, int(entity["contentSize"]), str(entity["sha256"]), is_raw=False)


def _raw(entity: dict[str, Any], verdict: dict[str, Any]) -> Certified:
    uri = entity["@id"]
    path = str(verdict.get("path", {}).get(uri) or unquote(urlparse(uri).path))
    return Certified(
        path,
        int(entity["contentSize"]),
        str(entity["sha256"]),
        is_raw=True,
        mtime_ns=int(verdict["mtime_ns"][uri]),
        ctime_ns=int(verdict.get("ctime_ns", {}).get(uri, 0)),
        all_frames=bool(verdict["standsFor"][uri]),
    )


def check(told: Certificate) -> tuple[list[Finding], dict[str, str]]:
    """(findings, signs by path): every output against its SHA-256, and the raw files as far as they are there."""
    findings, signs = [], dict[str, str]()
    for one in (*told.outputs, *told.raw):
        if one.is_raw and not os.path.exists(one.path):
            signs[one.path] = GONE
            continue
        fault = _fault(one)
        if fault is not None:
            findings.append(fault)
        signs[one.path] = fault.sign if fault else EQUAL
    return findings, signs


def lines(signs: dict[str, str]) -> list[str]:
    return [f"{sign} {path}" + (": raw file, gone" if sign == GONE else "") for path, sign in signs.items()]


def as_json(told: Certificate, findings: Sequence[Finding], signs: dict[str, str], status: int) -> dict[str, Any]:
    """What `check` found, in the words of a verification's summary."""
    return {
        "certificate": told.path,
        "verified": told.verified,
        "files": signs,
        "signs": {**MEANING, GONE: "raw file, gone"},
        "findings": [finding.as_json() for finding in findings],
        "status": status,
    }


def _fault(one: Certified) -> Finding | None:
    wanted = f"{one.bytes} bytes of SHA-256 {one.sha256[:12]}"
    if not os.path.exists(one.path):
        return Finding(MISSING, one.path, "file", wanted, "nothing")
    try:
        now = hash_file(one.path)
    except OSError as error:
        return Finding(UNREADABLE, one.path, "file", wanted, str(error))
    if (now.bytes, now.sha256) != (one.bytes, one.sha256):
        return Finding(DIFFERS, one.path, "file", wanted, f"{now.bytes} bytes of {now.sha256[:12]}")
    return None


def deletable(told: Certificate) -> tuple[list[str], str]:
    """(raw files that the set stands for, ""), the master last, or ([], why none may go).

    Raw files whose times have changed are read once more; what is gone already isn't listed.
    """
    for one in told.outputs:
        if (fault := _fault(one)) is not None:
            return [], f"the set no longer verifies: {fault.line()}"
    if not told.all_frames or not all(one.all_frames for one in told.raw):
        partial = next((one.path for one in told.raw if not one.all_frames), told.raw[0].path)
        return [], f"{partial}: not all of its frames are in the set"
    for one in told.raw:
        if os.path.exists(one.path) and not _unchanged(one):
            return [], f"{one.path}: has changed since {told.verified}; verify the set against it again"
    there = [one.path for one in told.raw if os.path.exists(one.path)]
    return [*there[1:], *there[:1]] if there and there[0] == told.raw[0].path else there, ""


def _unchanged(one: Certified) -> bool:
    now = os.stat(one.path)
    same_times = now.st_mtime_ns == one.mtime_ns and one.ctime_ns in (0, now.st_ctime_ns)
    if now.st_size == one.bytes and same_times:
        return True
    return _fault(one) is None
