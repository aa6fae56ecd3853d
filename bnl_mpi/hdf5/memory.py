"""What was found out of one file, for the next of the same form (`form`).

What is `known` of a file's like is asked of it again; for a file that is like none, all is found out as ever.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from . import access, digest, guard, steady
from .alike import Form, form_of
from .form import LARGEST, Place, Recorder, TooMuchError
from .guard import FAULTS, FRAMES_NAME, Survey
from .known import UNKNOWN, Answer, Known, Parts, laid
from .names import DATA

MOST_BYTES, MOST_FORMS = 1 << 27, 16
"""Kept in all by a process."""
MOST_ANSWERS = 8
"""To one question, of files of one form."""
LARGE = 1 << 16
"""Bytes from which on values are large."""


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
        self.large = frozenset(place for place in self._places if place.n >= LARGE)
        ends = [0, *(at for place in sorted(self.large) for at in (place.offset, place.offset + place.n))]
        self._others = list(zip(ends[::2], [*ends[1::2], len(self.form.image)], strict=True))
        """(begin, end) of all bytes but those."""
        self._starts = np.array([place.offset for place in self._places], np.intp)
        self._ends = self._starts + np.array([place.n for place in self._places], np.intp)

    def unlike(self, image: bytes) -> frozenset[Place] | None:
        """Where that file isn't as the form's own one; None where it is no file of the form."""
        if len(image) != len(self.form.image):
            return None
        return self._places_of(_differences(self.form.image, image))

    def unlike_but_large(self, path: str) -> tuple[Parts, frozenset[Place]] | None:
        """The same of a file of which what the values of large datasets are isn't looked at, and what was read."""
        parts, unlike = [], self.large
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != len(self.form.image):
                return None
            for begin, end in self._others:
                file.seek(begin)
                part, own = file.read(end - begin), self.form.image[begin:end]
                parts.append((begin, part))
                if part == own:
                    continue
                found = self._places_of(begin + _differences(own, part)) if len(part) == len(own) else None
                if found is None:
                    return None
                unlike |= found
        return Parts(parts), unlike

    def _places_of(self, differs: npt.NDArray[np.intp]) -> frozenset[Place] | None:
        if not len(differs):
            return frozenset()
        of = np.searchsorted(self._starts, differs, side="right") - 1
        if not len(self._starts) or (of < 0).any() or (differs >= self._ends[of]).any():
            return None
        return frozenset(self._places[k] for k in np.unique(of).tolist())

    def find(self, key: Hashable, image: bytes | Parts, unlike: frozenset[Place]) -> Answer | None:
        """The answer that was found out of a file in which all that it is made of is the same."""
        answers = self.answers.get(key, [])
        for k, one in enumerate(answers):
            if isinstance(image, Parts) and one.places & self.large:
                continue
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


class Memory:
    """Forms of the files that a process has read lately."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Kept] = []
        """The one used last comes first."""

    def know(self, h5: h5py.File, *, large: bool = True) -> Known:
        """What is known of the like of an open master.  Raises what `guard.survey` does.

        Without `large` the values of large datasets aren't read, as masks, nor answers that they are part of found.
        """
        if not isinstance(h5, steady.File) or os.path.getsize(h5.filename) > LARGEST:
            return UNKNOWN
        for kept in () if large else self._kept:
            if (found := kept.unlike_but_large(h5.filename)) is not None:
                self._kept.remove(kept)
                self._put(kept)
                return Known(found[0], kept, kept.surveyed, found[1])
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


def frames_elsewhere(path: str) -> bool:
    """Whether a path of a master is that of frames, which count by other means."""
    return access.DATA_NAME.fullmatch(path.removeprefix(f"{DATA}/")) is not None


def _walked(h5: h5py.File, image: bytes) -> Form | None:
    recorder = Recorder()
    try:
        digest.walk(h5, recorder, checked_elsewhere=frames_elsewhere)
    except (*FAULTS, TooMuchError):
        return None
    form = form_of(recorder, image)
    # What other files hold isn't in these bytes.
    alone = form is not None and all(_is_at_home(link, found, image) for (_, link), found in form.names.items())
    return form if alone else None


def _is_at_home(link: bytes, names: list[Place], image: bytes) -> bool:
    """Whether a link leads to frames, which others open, or the mappings of a virtual dataset to the file itself."""
    return bool(FRAMES_NAME.fullmatch(os.fsdecode(link))) or (not link and all(n.of(image) == b"." for n in names))
