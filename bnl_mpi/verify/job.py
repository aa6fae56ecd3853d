"""From a set's master, and its raw data if these are given, to the job of verifying it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from .. import job as jobs
from ..arguments import options_from
from ..errors import InputError, UsageError
from ..hdf5 import guard
from ..hdf5.names import DATA, SQUASH
from ..input.experiment import Experiment
from ..input.source import Source
from ..job import Job, Prepared
from ..options import Options
from ..output import record as records
from ..output.contents import linked
from ..plan import BLOCK_ENDING, Plan
from . import kept
from .findings import DIFFERS, Finding
from .replaying import checked_words, drawn, read_record


@dataclass(frozen=True)
class VerifyJob(Job):
    """A set to verify: `options` are those that it was made with, of the names that its files have now."""

    master: str
    """Of the set, absolute."""
    data_files: tuple[str, ...]
    """Of each block, as the master links them."""
    squash_files: tuple[str, ...]
    plan_sha256: str
    """That the set's own files tell."""
    against: bool
    """Whether the raw data are there to hold it against; else `source` is empty."""
    paranoid: bool
    subset: tuple[int, int]
    """(k, n): blocks k, k + n, ... alone."""
    hashing: bool
    """Whether every file's SHA-256 is taken, for a certificate."""
    kept_notes: tuple[str, ...] = ()
    """What is known of the files that `--keep` kept reflections of."""
    takes_block_size: ClassVar[bool] = False

    @property
    def stem(self) -> str:
        """Of the master's name: what belongs to the set as a whole is called after it."""
        return self.options.nxs_path.removesuffix(".nxs")

    def is_chosen(self, number: int) -> bool:
        k, n = self.subset
        return (number - 1) % n == k - 1


@dataclass(frozen=True)
class PreparedVerification(Prepared):
    """What rank 0 keeps."""

    experiment: Experiment | None
    findings: tuple[Finding, ...]
    """What the comparison of identities found."""


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    master: str
    against: str | None = None
    paranoid: bool = False
    subset: tuple[int, int] = (1, 1)
    certify: bool = False
    keep: tuple[str, ...] = ()
    """Files that `--keep` kept reflections of, to be held against what the set tells."""


def parse_subset(text: str) -> tuple[int, int]:
    """ "3/10" as (3, 10); UsageError where that is no part."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UsageError(f"--subset {text}: give K/N, K from 1 to N, as 3/10")
    return int(first), int(last)


def prepare(wish: Wish, running: Options, *, trust_counts: bool = True) -> PreparedVerification:
    """Read what the set tells of itself, and with raw data plan its reduction once more."""
    master = os.path.abspath(wish.master)
    data, squash, plan_sha256 = _files_of(master)
    told = _told_plan(data)
    plan = _plan(told, master)
    for what, paths in (("data", data), ("squash", squash)):
        if len(paths) != plan.n_blocks and (paths or what == "data"):
            raise InputError(f"{master}: links {len(paths)} {what} files, its plan has {plan.n_blocks} blocks")
    options = _options(master, _stem_of(data[0]), wish, running, plan)
    experiment: Experiment | None = None
    keeping, findings, notes = _kept(master, told, wish, options, plan)
    if wish.against is None:
        source = Source(master, (), plan.shape_in, plan.dtype_in, channel=0, counts_known=True)
        base = Job(options, plan, source, json.dumps(told, sort_keys=True), None)
        warnings: tuple[str, ...] = ()
    else:
        made = jobs.prepare(options, trust_counts=trust_counts, keeping=keeping)
        base, warnings, experiment = made.job, made.warnings, made.experiment
        findings += _identity(told, json.loads(base.identity), master, wish.against)
        if base.plan != plan:
            raise InputError(
                f"{wish.against}: {master} isn't what these raw data give: "
                f"{_differences(records.plan_items(plan), records.plan_items(base.plan))}"
            )
    job = VerifyJob(
        **{field.name: getattr(base, field.name) for field in fields(Job)},
        master=master,
        data_files=tuple(data),
        squash_files=tuple(squash),
        plan_sha256=plan_sha256,
        against=wish.against is not None,
        paranoid=wish.paranoid,
        subset=wish.subset,
        hashing=wish.certify,
        kept_notes=tuple(notes),
    )
    return PreparedVerification(job, warnings, experiment, tuple(findings))


def _kept(
    master: str, told: Mapping[str, Any], wish: Wish, options: Options, plan: Plan
) -> tuple[jobs.Keeping | None, list[Finding], list[str]]:
    """What `--keep` kept, and what is found and known of it."""
    found = kept.told_by(master, told)
    given = kept.given_files(found, master, wish.keep)
    if found is None:
        return None, [], []
    folders = dict.fromkeys(os.path.dirname(path) for path in (master, wish.against or master, ""))
    return found.keeping, *kept.compare(found, master, options, plan, given, list(folders))


def _files_of(master: str) -> tuple[list[str], list[str], str]:
    if master.endswith(".nxs"):
        raise InputError(f"{master}: is no master; give {master.removesuffix('.nxs')}_master.h5, of the same set")
    plan_sha256, data = linked(master, DATA, "data")
    _, squash = linked(master, SQUASH, "squash")
    if plan_sha256 is None or not data:
        raise InputError(f"{master}: isn't the master of a set that bnl-mpi made; give OUT_master.h5")
    return [path for _, path, _ in data], [path for _, path, _ in squash], plan_sha256


def _told_plan(paths: list[str]) -> dict[str, Any]:
    """The job's identity, of the first data file that can tell it."""
    for path in paths:
        try:
            with guard.opened(path) as file:
                if told := records.told_plan(file):
                    return told
        except InputError:
            continue
    raise InputError(f"{paths[0]}: no data file tells of its plan; is this a set that bnl-mpi made?")


def _plan(told: Mapping[str, Any], master: str) -> Plan:
    try:
        return records.plan_from(told["plan"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{master}: its plan isn't understood ({error})") from error


def _stem_of(path: str) -> str:
    """What a block's file is called, less its number: not always after the master (`-m`)."""
    return re.sub(BLOCK_ENDING + "$", "", os.path.abspath(path))


def _options(master: str, stem: str, wish: Wish, running: Options, plan: Plan) -> Options:
    """The options of the reduction, by the set's own word; how to run is the command line's."""
    record, _ = read_record(master)
    if wish.against is not None and (made := drawn(record)):
        raise InputError(
            f"{master}: was expanded with {made}, so no raw data give its noise: leave --against out, or verify the "
            "set that it was expanded from"
        )
    words = checked_words(record, master, wish.against or master)
    return replace(
        options_from(words),
        out_file=stem,
        out_master=master.removesuffix(".h5"),
        data_block_size=plan.block_size,
        parallel=running.parallel,
        thread=running.thread,
        resume=running.resume,
        json=running.json,
        log_json=running.log_json,
        grace=running.grace,
        verbose=running.verbose,
    )


def _identity(told: Mapping[str, Any], now: Mapping[str, Any], master: str, raw: str) -> list[Finding]:
    """Whether the set was made of these raw data."""
    before, after = told.get("input", {}), now.get("input", {})
    differ = sorted(key for key in before.keys() & after.keys() - {"master"} if before[key] != after[key])
    return [
        Finding(
            DIFFERS, raw, f"input's {key}", str(before[key]), f"{after[key]} (the raw data aren't those of {master})"
        )
        for key in differ
    ]


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {before[key]} there, {after[key]} here" for key in before if before[key] != after.get(key))
