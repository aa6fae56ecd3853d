"""A file that is being read, and what is known of its like, where something is (`memory`).

An answer holds for another file where all is the same, byte for byte, but for names of data files, times, and values
that it isn't made of (`trail`).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import h5py

from . import guard, steady
from .form import Place
from .guard import Survey
from .trail import Trail

if TYPE_CHECKING:
    from .alike import Form
    from .memory import Kept

T = TypeVar("T")

HOPEFUL = 4
"""Times that a costly answer is kept though none was found again."""


class Answer(NamedTuple):
    """What was found out of a file, and the values that it was made of."""

    places: frozenset[Place]
    values: Mapping[Place, bytes]
    """Those of them that aren't what they are in the form's own file."""
    found: Any
    n_bytes: int


class Parts:
    """Bytes of a file between those that weren't read."""

    def __init__(self, parts: Sequence[tuple[int, bytes]]) -> None:
        """`parts` are (offset, bytes), in order."""
        self._parts, self._starts = parts, [at for at, _ in parts]

    def __getitem__(self, wanted: slice) -> bytes:
        """Those of one part."""
        at, part = self._parts[bisect.bisect_right(self._starts, wanted.start) - 1]
        return part[wanted.start - at : wanted.stop - at]

    def are_of(self, image: bytes) -> bool:
        """Whether all of them are those of a whole file."""
        return all(image.startswith(part, at) for at, part in self._parts)


class Known:
    """A file that is being read, and what is known of its like: for `once`."""

    def __init__(
        self,
        image: bytes | Parts = b"",
        kept: Kept | None = None,
        surveyed: Survey | None = None,
        unlike: frozenset[Place] = frozenset(),
    ) -> None:
        self._image = image
        self._kept, self._unlike = kept, unlike
        self.surveyed = surveyed
        """What `guard` has seen, where the file could be remembered."""
        self._made_of: dict[int, tuple[Any, frozenset[Place]]] = {}
        """By `id()`: answers, and the values that each was made of."""

    @property
    def image(self) -> bytes:
        """Its bytes, where it was looked at as a whole."""
        assert isinstance(self._image, bytes)
        return self._image

    @property
    def form(self) -> Form | None:
        """Its form; None where nothing of it is remembered."""
        return None if self._kept is None else self._kept.form

    def survey(self, h5: h5py.File) -> Survey:
        """`guard.survey` of the file, which is open as `h5`."""
        return guard.survey(h5, h5.filename) if self.surveyed is None else self.surveyed

    def answer(self, key: Hashable) -> Any:
        """What `once` or `keep` has kept for such a file; None if nothing was."""
        found = None if self._kept is None else self._kept.find(key, self._image, self._unlike)
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
        if self._kept is None or trail.left or not self._is_still(Path(trail.path).read_bytes()):
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

    def _is_still(self, image: bytes) -> bool:
        """Whether those are the bytes that were looked at; if that were some, all are from now on."""
        if not isinstance(self._image, Parts):
            return image == self._image
        unlike = self._kept.unlike(image) if self._kept is not None and self._image.are_of(image) else None
        if unlike is not None:
            self._image, self._unlike = image, unlike
        return unlike is not None

    def sha256(self) -> str | None:
        """`digest.content_sha256` of the file, frames that it holds left out; None where that isn't known."""
        return None if self._kept is None else self._kept.form.digest_of(self.image)


UNKNOWN = Known()
"""Of a file of which nothing is remembered."""


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
