"""What was found out of one file, for the next of the same form (`form`).

An answer holds for another file where that is alike, byte for byte, but for values of which nothing was made that the
answer depends on (`trail`), names of data files and times.  For a file that is like none, all is found out as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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


@dataclass
class Kept:
    """A form of files that were read, and what was found out of one of them."""

    form: Form
    surveyed: Survey
    """What `guard` has seen of its structure, without a look at values."""
    fixed: set[int] = field(default_factory=set)
    """By address: datasets of whose values something was made.  Those of another file of the form are the same."""
    answers: dict[Hashable, Any] = field(default_factory=dict)
    bytes_more: int = 0
    """Held by the answers."""

    def __post_init__(self) -> None:
        self._image = np.frombuffer(self.form.image, np.uint8)
        self._free = self._free_places()

    def _free_places(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """(starts, ends) of what may differ, in order."""
        form = self.form
        places = [place for address, place in form.values.items() if address not in self.fixed]
        # A mapping's block has a checksum, which would have to be followed.
        places += [place for (_, link), found in form.names.items() if link for place in found]
        places += [Place(at, 4) for at in form.times]
        places.sort()
        starts = np.array([place.offset for place in places], np.intp)
        return starts, starts + np.array([place.n for place in places], np.intp)

    def fix(self, addresses: set[int]) -> None:
        """From now on these datasets' values are the same in all files of the form."""
        if not addresses <= self.fixed:
            self.fixed |= addresses
            self._free = self._free_places()

    def fits(self, image: bytes) -> bool:
        """Whether that is a file of the form, alike in all of which something was made."""
        if image is self.form.image:
            return True
        if len(image) != len(self.form.image):
            return False
        differs = np.flatnonzero(self._image != np.frombuffer(image, np.uint8))
        starts, ends = self._free
        if not len(differs):
            return True
        if not len(starts):
            return False
        of = np.searchsorted(starts, differs, side="right") - 1
        return bool((of >= 0).all() and (differs < ends[of]).all())


class Known:
    """A file that is being read, and what is known of its like: for `once`."""

    def __init__(self, image: bytes = b"", kept: Kept | None = None, surveyed: Survey | None = None) -> None:
        self.image = image
        self._kept = kept
        self.surveyed = surveyed
        """What `guard` has seen, where the file could be remembered."""

    def survey(self, h5: h5py.File) -> Survey:
        """`guard.survey` of the file, which is open as `h5`."""
        return guard.survey(h5, h5.filename) if self.surveyed is None else self.surveyed

    @property
    def form(self) -> Form | None:
        """Its form; None where it has turned out to be unlike."""
        return None if self._kept is None else self._kept.form

    def answer(self, key: Hashable) -> Any:
        """What `once` or `keep` has kept; None if nothing was."""
        return None if self._kept is None else self._kept.answers.get(key)

    def has(self, answer: object) -> bool:
        """Whether this very thing is an answer that was kept."""
        return self._kept is not None and any(one is answer for one in self._kept.answers.values())

    def once(
        self, key: Hashable, h5: h5py.File, ask: Callable[[], T], keep: Callable[[T], bool] = lambda found: True
    ) -> T:
        """What `ask` finds in the open file `h5`, this very one: asked once of all files of which it is the same.

        The key holds all else that the answer depends on.  Answers must not be changed, nor name the file; `keep`
        tells those that can be kept.
        """
        if self._kept is not None and key in self._kept.answers:
            found: T = self._kept.answers[key]
            return found
        with laid(h5) as trail:
            found = ask()
        if keep(found):
            self.keep(key, found, trail)
        return found

    def keep(self, key: Hashable, answer: Any, trail: Trail, n_bytes: int = 0) -> bool:
        """Keep what was found on `trail`, unless it led elsewhere; whether it is kept."""
        kept = self._kept
        if kept is None or trail.left:
            return False
        looked_at = {dataset.identity[1] for dataset in trail.read.values()}
        if any((address, b"") in kept.form.names for address in looked_at):
            # What a virtual dataset holds lies in others.
            return False
        kept.fix(looked_at)
        if not kept.fits(self.image):
            # It is unlike where now it matters.
            self._kept = None
            return False
        kept.answers[key] = answer
        kept.bytes_more += n_bytes
        return True

    def sha256(self) -> str | None:
        """`digest.content_sha256` of the file, frames that it holds left out; None where that isn't known."""
        return None if self._kept is None else self._kept.form.digest_of(self.image)


@contextmanager
def laid(h5: h5py.File) -> Iterator[Trail]:
    """Within, what is read of an open file is noted."""
    trail = Trail()
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
            if kept.fits(image):
                self._kept.remove(kept)
                self._put(kept)
                return Known(image, kept, kept.surveyed)
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
            # What is kept of a master's maps is about as much again.
            held += 2 * len(one.form.image) + one.bytes_more
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
