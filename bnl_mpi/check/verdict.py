"""Runs the rules on a set, and tells what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..hdf5 import guard
from ..hdf5.memory import Memory
from ..input.discovery import refuse_data_file
from ..output import contents
from . import dials, durin, others, soundness, xds, xds_data  # noqa: F401  (their rules enter the table)
from .rule import DIALS, DURIN, NXMX, OURS, READERS, RULES, UPSTREAM, XDS, Rule
from .subject import Observation, Subject
from .xds import is_read_filter
from .xds_data import is_read_type

READ_NXS = (DIALS, DURIN, UPSTREAM, NXMX)
"""Readers that take OUT.nxs, where it lies beside the master."""

CONTENT = {name: Rule(OURS, name, demand, True, lambda subject: ()) for name, demand in contents.CHECKS.items()}
"""What is looked at with `--data`, file by file and not by a rule's function."""


@dataclass(frozen=True)
class Finding:
    """A demand, and what was seen of it at one object."""

    rule: Rule
    seen: Observation

    def line(self) -> str:
        rule, seen = self.rule, self.seen
        reader = rule.reader if rule.required else f"{rule.reader} (advice)"
        return f"{reader}: {seen.file}: {seen.object}: {seen.found}; wanted: {rule.demand}"

    def as_json(self) -> dict[str, object]:
        rule, seen = self.rule, self.seen
        return {
            "reader": rule.reader,
            "rule": rule.name,
            "demand": rule.demand,
            "required": rule.required,
            "ok": seen.ok,
            "file": seen.file,
            "object": seen.object,
            "found": seen.found,
        }


@dataclass(frozen=True)
class Verdict:
    """All findings on a set."""

    master: str
    nxs: str | None
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    """Data files that the master links and that aren't there."""
    meant_for: tuple[str, ...]
    """Readers that must be able to read the set: those asked for, or those that its filter is for."""

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if not f.seen.ok)

    @property
    def exit_status(self) -> int:
        return int(bool(self.deciding))

    @property
    def deciding(self) -> tuple[Finding, ...]:
        """What makes the set unfit: it is unsound, or one of those that it is meant for can't read it."""
        decisive = (OURS, *self.meant_for)
        return tuple(f for f in self.failed if f.rule.required and f.rule.reader in decisive)

    def readers(self) -> Iterator[tuple[str, str, int, int]]:
        """(reader, file, required demands that fail, demands judged) of each."""
        for reader in dict.fromkeys(f.rule.reader for f in self.findings):
            mine = [f for f in self.findings if f.rule.reader == reader]
            broken = {f.rule.name for f in mine if not f.seen.ok and f.rule.required}
            file = self.nxs if self.nxs and reader in READ_NXS else self.master
            yield reader, file, len(broken), len({f.rule.name for f in mine})


def judge_soundness(master: str, memory: Memory | None = None) -> tuple[tuple[str, ...], list[Finding]]:
    """Data files that a master links and that are missing, and all that is wrong with a set whoever reads it.

    Raises InputError where a file can't be opened as HDF5.  `memory` remembers masters from set to set.
    """
    with guard.understood(master), Subject(master, memory) as subject:
        missing = _missing(subject)
        return missing, [found for found in _apply(subject, {OURS}) if not found.seen.ok and found.rule.required]


def _missing(subject: Subject) -> tuple[str, ...]:
    return tuple(block.target for block in subject.blocks if block.problem == "missing")


def judge(master: str, *, data: bool = False, meant_for: Sequence[str] = ()) -> Verdict:
    """Look at a master, its data files, and the .nxs file beside it; with `data` all content too.

    `meant_for` names the readers on which the verdict depends; by default these are DIALS, and XDS where its plugin
    takes the images' filter and type.  Raises InputError where a file can't be opened as HDF5.
    """
    with guard.understood(master):
        return _judge(master, data, meant_for)


def _judge(master: str, data: bool, meant_for: Sequence[str]) -> Verdict:
    nxs = sibling_nxs(master)
    findings: list[Finding] = []
    with Subject(master) as subject:
        refuse_data_file(master, subject.h5)
        missing = _missing(subject)
        if nxs is None:
            findings += _apply(subject, set(READ_NXS))
        else:
            with Subject(nxs) as other:
                findings += _apply(other, set(READ_NXS))
        findings += _apply(subject, {r.reader for r in RULES.values()} - set(READ_NXS))
        readers = tuple(meant_for) or _meant_for(subject)
        if data:
            findings += [_of_content(found) for found in contents.whole_set(master)]
    order = {key: k for k, key in enumerate(RULES)}
    findings.sort(key=lambda f: order.get((f.rule.reader, f.rule.name), len(order)))
    ranks = [OURS, *readers, *(name for name in READERS if name not in readers)]
    findings.sort(key=lambda f: ranks.index(f.rule.reader))
    return Verdict(master, nxs, tuple(findings), missing, readers)


def _meant_for(subject: Subject) -> tuple[str, ...]:
    """Whoever chooses a filter or type that XDS's plugin doesn't take didn't mean the set for XDS."""
    images = [one for _, one in subject.present]
    for_xds = not images or any(is_read_filter(one) and is_read_type(one) for one in images)
    return (XDS, DIALS) if for_xds else (DIALS,)


def _of_content(found: contents.Finding) -> Finding:
    return Finding(CONTENT[found.check], Observation(found.ok, found.file, found.object, found.found))


def _apply(subject: Subject, readers: set[str]) -> list[Finding]:
    rules = [rule for rule in RULES.values() if rule.reader in readers]
    return [Finding(rule, seen) for rule in rules for seen in rule.function(subject)]


def sibling_nxs(master: str) -> str | None:
    """OUT.nxs beside OUT_master.h5, where it is."""
    stem = master.removesuffix(".h5")
    path = f"{stem.removesuffix('_master')}.nxs"
    return path if path != master and os.path.exists(path) else None
