"""Which options a data set is reduced with: the first rule of a TOML file that it fits, else the command line's.

[[rule]]
name = "grid scans"
scan = "grid"                      # rotation, grid or still
options = "-b 2 -c bslz4"

[[rule]]
name = "processed rotations"
reflections = true                 # --find_reflections found a file
frames = ">= 100"                  # also width (degrees), ny, nx (pixels), bytes: "100", "100 - 3600", "< 0.2"
path = "*/visit-7/*"               # of the master, as the shell's patterns
options = "-b 2 -s 2 --keep {reflections} -c htj2k"

[[rule]]
name = "tests"
path = "*/test/*"
skip = "test shots"                # in place of options
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from .facts import SCANS, Facts
from .sets import DataSet

NUMBERS = ("frames", "width", "ny", "nx", "bytes")
CONDITIONS = ("path", "scan", "reflections", *NUMBERS)
OUTCOMES = ("options", "skip")
_RANGE = re.compile(r"\s*([0-9.e+]+)\s*-\s*([0-9.e+]+)\s*$")
_BOUND = re.compile(r"\s*(<=|>=|<|>|=|)\s*([0-9.e+]+)\s*$")

Test = Callable[[float], bool]


@dataclass(frozen=True)
class Choice:
    """What becomes of one set."""

    words: tuple[str, ...]
    """Options of the main job; empty where it is skipped."""
    rule: str
    """The rule's name; "" where none fitted."""
    skip: str | None = None
    """Why it isn't done."""


@dataclass(frozen=True)
class Rule:
    name: str
    conditions: Mapping[str, Any]
    options: str | None
    skip: str | None
    place: str = ""
    """The file and the name, for messages."""

    def fits(self, one: DataSet, facts: Facts, reflections: str | None) -> bool:
        """Whether a set meets all conditions."""
        for key, wanted in self.conditions.items():
            if key == "path":
                met = fnmatch.fnmatchcase(one.master, wanted)
            elif key == "scan":
                met = facts.scan == wanted
            elif key == "reflections":
                met = (reflections is not None) == wanted
            else:
                # As the table of --dry_run shows it: single precision has no 0.1.
                met = wanted(float(f"{getattr(facts, key):g}") if key == "width" else float(getattr(facts, key)))
            if not met:
                return False
        return True


def condition_on_number(text: str | float) -> Test:
    """What "100", "100 - 3600", "<= 0.2" and the like say of a number; ValueError for what says nothing."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return lambda value: value == text
    if isinstance(text, str) and (m := _RANGE.match(text)):
        low, high = float(m[1]), float(m[2])
        return lambda value: low <= value <= high
    if isinstance(text, str) and (m := _BOUND.match(text)):
        sign, bound = m[1], float(m[2])
        tests: dict[str, Test] = {
            "<=": lambda value: value <= bound,
            ">=": lambda value: value >= bound,
            "<": lambda value: value < bound,
            ">": lambda value: value > bound,
        }
        return tests.get(sign, lambda value: value == bound)
    raise ValueError(f"{text!r} isn't a number, a range as 1 - 5, or a bound as >= 5")


def read_rules(path: str) -> tuple[Rule, ...]:
    """The rules of a TOML file; InputError or UsageError for what can't be understood."""
    import tomllib

    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; give a file of rules") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error
    tables = told.pop("rule", None)
    if not isinstance(tables, list) or not tables or told:
        raise UsageError(f"{path}: rules are tables [[rule]], and nothing else is in the file")
    rules = tuple(_rule(path, number, table) for number, table in enumerate(tables, 1))
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{path}: two rules are named {twice!r}; name them apart")
    return rules


def _rule(path: str, number: int, table: dict[str, Any]) -> Rule:
    name = str(table.get("name", f"rule {number}"))
    where = f"{path}: {name!r}"
    if unknown := sorted(set(table) - {"name", *CONDITIONS, *OUTCOMES}):
        raise UsageError(f"{where}: {unknown[0]!r} is unknown; a rule has {', '.join((*CONDITIONS, *OUTCOMES))}")
    if len([key for key in OUTCOMES if key in table]) != 1:
        raise UsageError(f"{where}: has no effect; give it either options or skip")
    conditions: dict[str, Any] = {}
    for key in CONDITIONS:
        if key not in table:
            continue
        value = table[key]
        if key in NUMBERS:
            try:
                value = condition_on_number(value)
            except ValueError as error:
                raise UsageError(f"{where}: {key} = {error}") from error
        elif key == "scan" and value not in SCANS:
            raise UsageError(f"{where}: scan = {value!r}; it is one of {', '.join(SCANS)}")
        elif key == "reflections" and not isinstance(value, bool):
            raise UsageError(f"{where}: reflections = {value!r}; it is true or false")
        elif key == "path" and not isinstance(value, str):
            raise UsageError(f"{where}: path = {value!r}; it is a pattern in quotes")
        conditions[key] = value
    options, skip = table.get("options"), table.get("skip")
    words, reason = (None if outcome is None else str(outcome) for outcome in (options, skip))
    return Rule(name, conditions, words, reason, where)


def find_reflections(one: DataSet, pattern: str | None) -> str | None:
    """The newest file that `pattern`, relative to the master's folder, names; {name} in it is the set's name."""
    if pattern is None:
        return None
    folder = os.path.dirname(one.master)
    wanted = pattern.replace("{name}", glob.escape(one.name))
    hits = [hit for hit in glob.glob(os.path.join(glob.escape(folder), wanted)) if os.path.isfile(hit)]
    return max(hits, key=lambda hit: (os.stat(hit).st_mtime_ns, hit)) if hits else None


def choose(
    rules: Sequence[Rule], default: Sequence[str], one: DataSet, facts: Facts, reflections: str | None
) -> Choice:
    """The first rule's options that a set fits, or `default`."""
    for rule in rules:
        if rule.fits(one, facts, reflections):
            if rule.skip is not None:
                return Choice((), rule.name, rule.skip)
            return Choice(_words(rule.options or "", reflections, one), rule.name)
    return Choice(_words(shlex.join(default), reflections, one), "")


def _words(options: str, reflections: str | None, one: DataSet) -> tuple[str, ...]:
    """A rule's options as words; {reflections} and {name} are filled in a word at a time, so that blanks do no harm."""
    filled = []
    for word in shlex.split(options):
        if "{reflections}" in word and reflections is None:
            raise UsageError(f"{one.master}: its options name {{reflections}}, but --find_reflections found none")
        filled.append(word.replace("{reflections}", reflections or "").replace("{name}", one.name))
    return tuple(filled)


def without_effect(rules: Sequence[Rule], chosen: Sequence[str]) -> list[Rule]:
    """The rules that no set was given to; `chosen` are the names of those that were taken."""
    return [rule for rule in rules if rule.name not in set(chosen)]
