"""While data are collected: a set is taken up when its master and all that the master names are complete."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import BnlError
from ..input import opening
from ..run.signals import StopRequest
from .session import Hands, Plan, Wish, do_plan, known_entries, make_plan, say
from .state import DONE, FAILED, SKIPPED, Entry

SETTLE_SECONDS = 10.0
"""A file that hasn't changed for so long is no longer being written; NFS tells of a change within seconds."""
LOOK_SECONDS = 5.0


@dataclass
class Watch:
    """What is known of the sets that aren't complete: when each was last seen to change."""

    changed: dict[str, float] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    """The stamp with which a set was judged to be never completed."""

    def idle(self, stem: str, stamp: str, now: float) -> float:
        """Seconds since the set was last seen to change."""
        if self.stamps.get(stem) != stamp:
            self.stamps[stem], self.changed[stem] = stamp, now
        return now - self.changed[stem]


def lacks(master: str, settle: float = SETTLE_SECONDS) -> str:
    """What a set lacks to be complete, in a line; "" for a complete one."""
    try:
        with opening.open_master(master) as h5:
            expected, _ = opening.frames_told(h5)
            source = opening.open_source(master, h5, expected, trust_counts=False)
        youngest = max(os.stat(s.path).st_mtime for s in source.segments)
    except BnlError as error:
        return str(error)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        return f"{master}: can't be read yet: {' '.join(str(error).split())}"
    if expected is not None and source.n_frames < expected:
        return f"{master}: {source.n_frames} of {expected} frames are there"
    if time.time() - youngest < settle:
        return f"{master}: its files have changed within {settle:.0f} s"
    return ""


def growth_of(master: str) -> str:
    """Sizes and times of the master and of all that lies beside it under its name: grows as long as frames come."""
    folder, name = os.path.split(master)
    stem = name.removesuffix("_master.h5")
    told = []
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        # One may go, or be a link in a circle.
        with contextlib.suppress(OSError):
            if entry.name.startswith(stem) and entry.is_file():
                stat = entry.stat()
                told.append((entry.name, stat.st_size, stat.st_mtime_ns))
    return repr(told)


def follow(
    wish: Wish,
    hands: Hands,
    request: StopRequest,
    *,
    idle_minutes: float,
    stop_minutes: float | None,
    settle: float = SETTLE_SECONDS,
    nap: Callable[[float], None] = time.sleep,
) -> int:
    """Take up sets as they are complete, until a signal comes, or nothing new has come for `stop_minutes`.

    A set that stays incomplete for `idle_minutes` is taken as far as it goes with `--salvage`, else it has failed.
    """
    watch, last, status = Watch(), time.monotonic(), 0
    while request.name is None:
        known = known_entries(wish)
        plan = make_plan(wish, known, following=True)
        keep_ready(plan, known, watch, idle_minutes * 60, settle)
        changed = {stem for stem, entry in plan.entries.items() if known.get(stem) != entry}
        if plan.to_do or changed:
            status = max(status, do_plan(wish, plan, known, hands, request))
            last = time.monotonic()
        if stop_minutes is not None and time.monotonic() - last > stop_minutes * 60:
            return status
        nap(LOOK_SECONDS if settle >= LOOK_SECONDS else settle)
    return status


def keep_ready(plan: Plan, known: Mapping[str, Entry], watch: Watch, idle: float, settle: float) -> None:
    """Leave in the plan what can be done now, and what has failed for good; times in seconds."""
    now = time.monotonic()
    for stem in list(plan.entries):
        entry = plan.entries[stem]
        if entry.stage in (DONE, SKIPPED) and stem not in plan.to_do:
            continue
        reason = lacks(entry.master, settle)
        if not reason:
            continue
        stamp = growth_of(entry.master)
        waited = watch.idle(stem, stamp, now)
        if waited < idle:
            _leave_out(plan, stem)
        elif watch.given_up.get(stem) == stamp and stem in known:
            _leave_out(plan, stem)
            plan.entries[stem] = known[stem]
        elif not ("--salvage" in entry.words and stem in plan.to_do):
            watch.given_up[stem] = stamp
            _leave_out(plan, stem)
            plan.entries[stem] = entry.now(FAILED, f"incomplete for {waited / 60:.0f} minutes: {reason}")
            say(f"gave up {stem}: {reason}")


def _leave_out(plan: Plan, stem: str) -> None:
    del plan.entries[stem]
    plan.to_do = [one for one in plan.to_do if one != stem]
