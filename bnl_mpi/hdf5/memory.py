"""What was found out of one file, for the next of the same form (`form`).

An answer holds for another file where all is the same, byte for byte, but for names of data files, times, and values
that it isn't made of (`trail`).  For a file that is like none, all is found out as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from . import access, digest, guard, steady
from .form import LARGEST, Form, Place, Recorder, form_of
from .guard import FAULTS, FRAMES_NAME, Survey
from .layout import LayoutError
from .names import DATA
from .trail import Trail

T = TypeVar("T")

MOST_BYTES, MOST_FORMS = 1 << 27, 16
"""Kept in all by a process."""
MOST_ANSWERS = 8
"""To one question, of files of one form."""
HOPEFUL = 4
"""Times that a costly answer is kept though none was found again."""


class Answer(NamedTuple):
    """What was found out of a file, and the values that it was made of."""

    places: frozenset[Place]
    values: Mapping[Place, bytes]
    """Those of them that aren't what they are in the form's own file."""
    found: Any
    n_bytes: int


@dataclass
class Kept:
    """A form of files that were read, and what was found out of them."""

    form: Form
    surveyed: Survey
    """What `guard` has seen of its structure, without a look at values."""
    answers: dict[Hashable, list[Answer]] = field(default_factory=dict)
    """The one used last comes first."""
    missed: dict[Hashable, int] = field(default_factory=dict)
    """How often a question had to be asked since it was last answered from here."""

    def __post_init__(self) -> None:
        places = [*self.form.values.values(), *(Place(at, 4) for at in self.form.times)]
        # A mapping's block has a checksum, which would have to be followed.
        places += [place for (_, link), found in self.form.names.items() if link for place in found]
        self._places = sorted(places)
        self._starts = np.array([place.offset for place in self._places], np.intp)
        self._ends = self._starts + np.array([place.n for place in self._places], np.intp)

    def unlike(self, image: bytes) -> frozenset[Place] | None:
        """Where that file isn't as the form's own one; None where it is no file of the form."""
        if len(image) != len(self.form.image):
            return None
        differs = _differences(self.form.image, image)
        if not len(differs):
            return frozenset()
        of = np.searchsorted(self._starts, differs, side="right") - 1
        if not len(self._starts) or (of < 0).any() or (differs >= self._ends[of]).any():
            return None
        return frozenset(self._places[k] for k in np.unique(of).tolist())

    def find(self, key: Hashable, image: bytes, unlike: frozenset[Place]) -> Answer | None:
        """The answer that was found out of a file in which all that it is made of is the same."""
        answers = self.answers.get(key, [])
        for k, one in enumerate(answers):
            alike = all(place.of(image) == value for place, value in one.values.items())
            if alike and not any(place in one.places and place not in one.values for place in unlike):
                answers.insert(0, answers.pop(k))
                self.missed[key] = 0
                return one
        self.missed[key] = self.missed.get(key, 0) + 1
        return None

    def put(self, key: Hashable, answer: Answer) -> None:
        self.answers[key] = [answer, *self.answers.get(key, [])][:MOST_ANSWERS]

    @property
    def n_bytes(self) -> int:
        """Held, about: what is made of a master's maps is as much again."""
        return 2 * len(self.form.image) + sum(one.n_bytes for found in self.answers.values() for one in found)


def _differences(a: bytes, b: bytes) -> npt.NDArray[np.intp]:
    """Where two files of one length differ; most are alike, so eight bytes are looked at at a time."""
    n = len(a) // 8
    wide = np.flatnonzero(np.frombuffer(a, np.uint64, n) != np.frombuffer(b, np.uint64, n))
    near = (wide[:, np.newaxis] * 8 + np.arange(8)).ravel()
    near = np.concatenate([near, np.arange(n * 8, len(a))])
    found: npt.NDArray[np.intp] = near[np.frombuffer(a, np.uint8)[near] != np.frombuffer(b, np.uint8)[near]]
    return found


class Known:
    """A file that is being read, and what is known of its like: for `once`."""

    def __init__(
        self,
        image: bytes = b"",
        kept: Kept | None = None,
        surveyed: Survey | None = None,
        unlike: frozenset[Place] = frozenset(),
    ) -> None:
        self.image = image
        self._kept, self._unlike = kept, unlike
        self.surveyed = surveyed
        """What `guard` has seen, where the file could be remembered."""
        self._made_of: dict[int, tuple[Any, frozenset[Place]]] = {}
        """By `id()`: answers, and the values that each was made of."""

    @property
    def form(self) -> Form | None:
        """Its form; None where nothing of it is remembered."""
        return None if self._kept is None else self._kept.form

    def survey(self, h5: h5py.File) -> Survey:
        """`guard.survey` of the file, which is open as `h5`."""
        return guard.survey(h5, h5.filename) if self.surveyed is None else self.surveyed

    def answer(self, key: Hashable) -> Any:
        """What `once` or `keep` has kept for such a file; None if nothing was."""
        found = None if self._kept is None else self._kept.find(key, self.image, self._unlike)
        if found is None:
            return None
        self._made_of[id(found.found)] = found.found, found.places
        return found.found

    def has(self, answer: object) -> bool:
        """Whether this very thing is an answer that was kept."""
        return id(answer) in self._made_of

    def is_worth_keeping(self, key: Hashable) -> bool:
        """Whether an answer may be found again: where many weren't, few more are kept."""
        missed = 0 if self._kept is None else self._kept.missed.get(key, 0)
        return self._kept is not None and (missed <= HOPEFUL or not missed & (missed - 1))

    def once(
        self, key: Hashable, h5: h5py.File, ask: Callable[[], T], keep: Callable[[T], bool] = lambda found: True
    ) -> T:
        """What `ask` finds in the open file `h5`, this very one: asked once of all files of which it is the same.

        The key holds all else that the answer depends on.  Answers must not be changed, nor name the file; `keep`
        tells those that can be kept.
        """
        known: T | None = self.answer(key)
        if known is not None:
            return known
        with laid(h5) as trail:
            found = ask()
        if keep(found):
            self.keep(key, found, trail)
        return found

    def keep(self, key: Hashable, answer: Any, trail: Trail, made_of: Sequence[object] = (), n_bytes: int = 0) -> None:
        """Keep what was found on `trail` and `made_of` other answers, unless the trail led elsewhere.

        Nor where the file has been rewritten since: what it was isn't what was looked at.
        """
        if self._kept is None or trail.left or Path(trail.path).read_bytes() != self.image:
            return
        form = self._kept.form
        looked_at = {dataset.identity[1] for dataset in trail.read.values()}
        if any((address, b"") in form.names for address in looked_at):
            # What a virtual dataset holds lies in others.
            return
        # What has no place of its own is the same in all files of the form.
        places = frozenset(form.values[address] for address in looked_at if address in form.values)
        places = places.union(*(self._made_of[id(one)][1] for one in made_of))
        values = {place: place.of(self.image) for place in places & self._unlike}
        self._kept.put(key, Answer(places, values, answer, n_bytes + sum(map(len, values.values()))))
        self._made_of[id(answer)] = answer, places

    def sha256(self) -> str | None:
        """`digest.content_sha256` of the file, frames that it holds left out; None where that isn't known."""
        return None if self._kept is None else self._kept.form.digest_of(self.image)


@contextmanager
def laid(h5: h5py.File) -> Iterator[Trail]:
    """Within, what is read of an open file is noted."""
    trail = Trail(h5.filename)
    if not isinstance(h5, steady.File):
        trail.left = True
        yield trail
        return
    h5.trail = trail
    try:
        yield trail
    finally:
        h5.trail = None


class Memory:
    """Forms of the files that a process has read lately."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Kept] = []
        """The one used last comes first."""

    def know(self, h5: h5py.File) -> Known:
        """What is known of the like of an open master.  Raises what `guard.survey` does."""
        if not isinstance(h5, steady.File) or os.path.getsize(h5.filename) > LARGEST:
            return UNKNOWN
        image = Path(h5.filename).read_bytes()
        for kept in self._kept:
            if (unlike := kept.unlike(image)) is not None:
                self._kept.remove(kept)
                self._put(kept)
                return Known(image, kept, kept.surveyed, unlike)
        with laid(h5) as trail:
            surveyed = guard.survey(h5, h5.filename)
        form = None if trail.left or surveyed.large else _walked(h5, image)
        if form is None:
            return Known(surveyed=surveyed)
        self._put(Kept(form, surveyed))
        return Known(image, self._kept[0], surveyed)

    def _put(self, kept: Kept) -> None:
        """As the one used last; others go where there is no room for all."""
        self._kept.insert(0, kept)
        held = 0
        for k, one in enumerate(self._kept):
            held += one.n_bytes
            if k and (k >= MOST_FORMS or held > self._most_bytes):
                del self._kept[k:]
                return


UNKNOWN = Known()
"""Of a file of which nothing is remembered."""


def frames_elsewhere(path: str) -> bool:
    """Whether a path of a master is that of frames, which count by other means."""
    return access.DATA_NAME.fullmatch(path.removeprefix(f"{DATA}/")) is not None


def _walked(h5: h5py.File, image: bytes) -> Form | None:
    recorder = Recorder()
    try:
        digest.walk(h5, recorder, checked_elsewhere=frames_elsewhere)
    except (*FAULTS, LayoutError):
        return None
    form = form_of(recorder, image)
    # What other files hold isn't in these bytes.
    alone = form is not None and all(_is_at_home(link, found, image) for (_, link), found in form.names.items())
    return form if alone else None


def _is_at_home(link: bytes, names: list[Place], image: bytes) -> bool:
    """Whether a link leads to frames, which others open, or the mappings of a virtual dataset to the file itself."""
    return bool(FRAMES_NAME.fullmatch(os.fsdecode(link))) or (not link and all(n.of(image) == b"." for n in names))
