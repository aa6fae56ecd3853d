"""One call of `bnl-mpi archive`: sets found and matched with rules, the state brought up to date, the rest dealt."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from ..errors import BnlError, UsageError
from ..hdf5.memory import Memory
from ..input.discovery import STRICT, Leniency
from ..plan import block_path, counted
from . import facts, rules, sets
from .dealing import Dealer, Weighed
from .facts import Facts
from .keeper import Keeper
from .rules import Rule
from .sets import DataSet
from .stages import TellAll, Work
from .state import AT_WORK, DONE, FAILED, NEW, SKIPPED, STOPPED, Entry, read

if TYPE_CHECKING:
    from ..run.signals import StopRequest


Look = Callable[[Sequence[str]], Iterator[Facts | None]]


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    sources: tuple[str, ...]
    to: str
    words: tuple[str, ...]
    """The main job's options for sets that no rule fits."""
    running: tuple[str, ...] = ()
    """Those that are no matter of the set, as `--grace`."""
    root: str | None = None
    rules: tuple[Rule, ...] = ()
    find_reflections: str | None = None
    verify: bool = False
    force: bool = False
    task: int | None = None
    """Which of `tasks`, from 0: sets k, k + tasks, ... are its own."""
    tasks: int = 1

    def is_own(self, number: int) -> bool:
        """Whether the set of that number, from 0, is to be done here."""
        return self.task is None or number % self.tasks == self.task


def _n_blocks(entry: Entry) -> int:
    """How many blocks a set will have, about: more ranks would find nothing to do."""
    return max(1, entry.frames // _frames_of_block(entry.words))


@functools.lru_cache
def _frames_of_block(words: tuple[str, ...]) -> int:
    from ..arguments import options_from

    options = options_from(["-i", "x", *words])
    return options.sum * (options.data_block_size if isinstance(options.data_block_size, int) else 1)


@dataclass
class Plan:
    """All sets with what is to become of them, before anything is done."""

    entries: dict[str, Entry] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    to_do: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Paths that are no sets of their own, with the reason."""
    memory: Memory = field(default_factory=Memory)
    """Of the masters that were looked at."""

    def dealer(self, n_ranks: int) -> Dealer:
        return Dealer((self._weigh(stem) for stem in self.to_do), n_ranks)

    def _weigh(self, stem: str) -> Weighed:
        entry = self.entries[stem]
        return Weighed(stem, self.facts[stem].bytes, _n_blocks(entry), entry.stage in AT_WORK)


def make_plan(
    wish: Wish,
    known: Mapping[str, Entry],
    say: Callable[[str], None] = lambda text: None,
    *,
    following: bool = False,
    expect: Callable[[int], None] = lambda n_sets: None,
    look: Look = lambda masters: itertools.repeat(None),
) -> Plan:
    """Find all sets, read what rules need to know of them, and compare with what is known.

    `expect` hears on the way how many sets are to be done at least.  `look` gives the facts of masters, or None where
    these are to be read here.

    Raises UsageError for a rule that no set is given to, a wish that would be lost in silence; not when `following`,
    where what is done isn't looked at again either.
    """
    found = sets.find(wish.sources, wish.to, wish.root, {entry.master: stem for stem, entry in known.items()})
    plan, taken = Plan(skipped=dict(found.skipped)), []
    told = look([one.master for number, one in enumerate(found.sets) if wish.rules or wish.is_own(number)])
    for number, one in enumerate(found.sets):
        if number and number % 200 == 0:
            say(f"looked at {number} of {len(found.sets)} data sets")
        if following and one.stem in known and known[one.stem].stage in (DONE, SKIPPED):
            plan.entries[one.stem] = known[one.stem]
        elif wish.is_own(number):
            taken.append(_plan_set(plan, wish, one, known.get(one.stem), next(told), following=following))
            expect(len(plan.to_do))
        elif wish.rules:
            taken.append(_rule_of(plan, wish, one, next(told)))
    if not following and (idle := rules.without_effect(wish.rules, taken)):
        raise UsageError(f"{idle[0].place} has no effect: no data set is given to it; mend it or take it out")
    return plan


def _rule_of(plan: Plan, wish: Wish, one: DataSet, told: Facts | None) -> str:
    """The rule that another task's set is given to."""
    try:
        return _look(plan, wish, one, told)[1].rule
    except BnlError:
        return ""


def _look(plan: Plan, wish: Wish, one: DataSet, told: Facts | None) -> tuple[Facts, rules.Choice]:
    """A set's facts, unless they are `told`, and the options that it is given; of a damaged one where these are
    `--salvage` or the like."""
    try:
        told = told or facts.read_facts(one.master, memory=plan.memory)
    except BnlError:
        from ..arguments import options_from

        with contextlib.suppress(BnlError):
            told = facts.read_facts(one.master, Leniency(salvage=True, ignore_numbers=True, bad_frames=True))
            choice = _choose(wish, one, told)
            options = options_from(["-i", one.master, *choice.words])
            lenient = Leniency.asked(options)
            if choice.skip is None and lenient != STRICT:
                return facts.read_facts(one.master, lenient), choice
        raise
    return told, _choose(wish, one, told)


def _choose(wish: Wish, one: DataSet, told: Facts) -> rules.Choice:
    return rules.choose(wish.rules, wish.words, one, told, rules.find_reflections(one, wish.find_reflections))


def _plan_set(plan: Plan, wish: Wish, one: DataSet, known: Entry | None, told: Facts | None, *, following: bool) -> str:
    """Enter one set; the name of its rule.  When `following`, what has failed isn't tried again and again."""
    entry = known if known is not None and known.master == one.master else Entry(one.stem, one.master)
    try:
        told, choice = _look(plan, wish, one, told)
    except BnlError as error:
        if is_done(entry, wish) and not all(os.path.exists(path) for path in entry.files):
            # Its raw files were deleted since, as they may be.
            plan.entries[one.stem] = entry
            return entry.rule
        known_of = entry.stage == FAILED and entry.reason == str(error)
        plan.entries[one.stem] = entry if known_of else entry.now(FAILED, str(error))
        return ""
    fresh = replace(
        entry, rule=choice.rule, frames=told.frames, bytes_in=told.bytes, files=told.files, stamp=told.stamp
    )
    plan.facts[one.stem] = told
    if choice.skip is not None:
        plan.entries[one.stem] = fresh.now(SKIPPED, choice.skip, words=())
        return choice.rule
    same = entry.words == choice.words and entry.stamp == told.stamp
    fresh = replace(fresh, words=choice.words)
    if same and not wish.force and (is_done(entry, wish) or (following and entry.stage == FAILED)):
        plan.entries[one.stem] = entry
        return choice.rule
    plan.to_do.append(one.stem)
    if same and not wish.force:
        # What was in hand when a run died keeps its stage, by which the dealer knows it.
        plan.entries[one.stem] = fresh if entry.stage in AT_WORK else fresh.now(NEW)
    else:
        plan.entries[one.stem] = fresh.now(NEW, attempts=0, replaces=entry.replaces or entry.attempts > 0)
    return choice.rule


def is_done(entry: Entry, wish: Wish) -> bool:
    """Whether nothing is left to do: it is done, as far as is asked now, and still there."""
    return entry.stage == DONE and (entry.verified or not wish.verify) and _is_there(entry, wish)


def _is_there(entry: Entry, wish: Wish) -> bool:
    """Whether master and data files are there, with as many bytes as they had; data files may be thrown away where
    there are files of codestreams."""
    stem = os.path.join(wish.to, entry.stem)
    data, squash = _sizes(stem), _sizes(f"{stem}_squash")
    whole = sum(data) + sum(squash) == entry.bytes_out
    thrown_away = not any(os.path.exists(block_path(stem, number)) for number in range(1, len(squash) + 1))
    return (whole or (bool(squash) and thrown_away)) and os.path.exists(f"{stem}_master.h5")


def _sizes(stem: str) -> list[int]:
    """Of the files STEM_NNNNNN.h5, up to the first missing; folders of a thousand sets aren't listed for each."""
    sizes: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        while True:
            sizes.append(os.path.getsize(block_path(stem, len(sizes) + 1)))
    return sizes


def known_entries(wish: Wish) -> dict[str, Entry]:
    """What the archive remembers; nothing where there is none yet."""
    try:
        return read(wish.to)
    except BnlError:
        if os.path.exists(os.path.join(wish.to, "archive.db")):
            raise
        return {}


def work_maker(wish: Wish, plan: Plan) -> Callable[[str], Work]:
    """Makes the work of a set by its stem."""

    def make(stem: str) -> Work:
        return Work(plan.entries[stem], os.path.abspath(wish.to), wish.verify, wish.running)

    return make


class Hands(Protocol):
    """Who does the work: ranks, or processes of this machine."""

    n_ranks: int

    def run(self, dealer: Dealer, work_of: Callable[[str], Work], request: StopRequest, tell: TellAll) -> None: ...

    def expect(self, n_sets: int) -> None:
        """Make ready for so many sets at least, while others are looked at."""

    def look(self, masters: Sequence[str]) -> Iterator[Facts | None]:
        """The facts of each master in turn; None where who asks is to read them."""

    def end(self) -> None: ...


def run(wish: Wish, hands: Hands, request: StopRequest) -> int:
    """Do all that is to be done; the exit status."""
    known = known_entries(wish)
    plan = make_plan(wish, known, say, expect=hands.expect, look=hands.look)
    for path, reason in plan.skipped.items():
        say(f"skipped {path}: {reason}")
    return do_plan(wish, plan, known, hands, request)


def do_plan(wish: Wish, plan: Plan, known: Mapping[str, Entry], hands: Hands, request: StopRequest) -> int:
    """Do what a plan holds; the exit status."""
    keeper = Keeper(wish, plan)
    try:
        keeper.start(known)
        say(f"{len(plan.to_do)} of {counted(len(plan.entries), 'data set')} to do")
        hands.run(plan.dealer(hands.n_ranks), work_maker(wish, plan), request, keeper.tell)
    finally:
        keeper.close()
    return status_of(plan, stopped=request.name is not None)


def status_of(plan: Plan, *, stopped: bool) -> int:
    """75 where something is left to do, 1 where a set failed, else 0."""
    stages = [entry.stage for entry in plan.entries.values()]
    if stopped or STOPPED in stages:
        return 75
    return 1 if FAILED in stages else 0


def say(text: str) -> None:
    sys.stderr.write(f"bnl-mpi: {text}\n")
    sys.stderr.flush()
