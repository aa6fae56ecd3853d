"""Masters like those of the set before: its bytes, with the values, names and texts of this one in their places.

A file of some two hundred items takes HDF5 and h5py tens of milliseconds, as long as a small set's frames.  Where the
input is of a form that was met before, alike in all that rules look at (`hdf5.memory`), and the plan is the same, the
new masters differ in nothing but what is copied, names of data files, texts of provenance, times and digests.  What
isn't so to the last byte is written by HDF5, as for a single set.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..hdf5.alike import Form, form_of
from ..hdf5.draft import Draft
from ..hdf5.form import Named, Place
from ..hdf5.image import H5Image, checksum, virtual_block
from ..hdf5.known import Known
from ..hdf5.layout import LayoutError
from ..input.experiment import Experiment
from ..plan import Plan
from . import digest
from .master import DataFiles, stored_text


@dataclass(frozen=True)
class Given:
    """What masters are made of, beside the input's."""

    plan: Plan
    names: tuple[bytes, ...]
    """Of data files, then of squash files, relative to the masters' folder."""
    texts: Mapping[str, bytes]
    """Provenance, as it is stored."""
    key: Hashable
    """Equal where masters may be alike."""


def given(plan: Plan, data_files: DataFiles, squash_files: DataFiles, provenance: Mapping[str, Any]) -> Given:
    """Of a run's masters."""
    names = tuple(name.encode("utf-8", "surrogateescape") for name, _ in (*data_files, *squash_files))
    texts = {name: stored_text(value) for name, value in provenance.items()}
    lengths = tuple((name, len(text)) for name, text in texts.items())
    key = ("masters", plan, len(data_files), tuple(map(len, names)), lengths)
    return Given(plan, names, texts, key)


class Copy(NamedTuple):
    """Values of the input, and where they go."""

    source: Place
    target: Place
    is_text: bool
    """Without the NULs after it, so that one of another length makes another file."""

    def fits(self, image: bytes) -> bool:
        """Whether the same copy would be made of this input."""
        n = self.target.n
        if not self.is_text:
            return n == self.source.n
        text, rest = Place(self.source.offset, n).of(image), Place(self.source.offset + n, self.source.n - n).of(image)
        return text.isascii() and not (0 in text or text.endswith(b" ") or any(rest))


@dataclass(frozen=True)
class Pattern:
    """A new file, and what in it is another set's own."""

    form: Form
    copies: tuple[Copy, ...]
    names: tuple[tuple[int, Place], ...]
    """Which of the names, and where."""
    blocks: tuple[Place, ...]
    """Blocks with names in them, of which the last 4 bytes are a checksum."""
    texts: Mapping[str, Place]

    def filled(self, image: bytes, given: Given, now: int) -> bytearray | None:
        """The file for an input of these bytes, its digest in it; None where it is no such file."""
        if not all(copy.fits(image) for copy in self.copies):
            return None
        new = bytearray(self.form.image)
        for (at, _), (to, n), _ in self.copies:
            new[to : to + n] = image[at : at + n]
        for k, (to, n) in self.names:
            new[to : to + n] = given.names[k]
        for to, n in self.blocks:
            new[to + n - 4 : to + n] = checksum(bytes(new[to : to + n - 4]))
        for name, text in given.texts.items():
            to, n = self.texts[name]
            new[to : to + n] = text
        for to in self.form.times:
            new[to : to + 4] = now.to_bytes(4, "little")
        self.put(new, digest.OWN, self.form.digest_of(new).encode())
        return new

    def put(self, new: bytearray, name: str, text: bytes) -> None:
        to, n = self.texts[name]
        assert len(text) == n
        new[to : to + n] = text

    def own_digest(self, new: bytes | bytearray) -> bytes:
        return self.texts[digest.OWN].of(new)


def pattern_of(draft: Draft, known: Known, given: Given) -> Pattern | None:
    """The pattern of a file that was written with notes, for `given`; None where it can't be made out."""
    form, source = form_of(draft.recorder, draft.image), known.form
    if form is None or source is None or not _is_all_placed(draft, form):
        return None
    copies, placed = [], set(form.values.values())
    for one in draft.copied:
        at = source.values.get(one.dataset.identity[1])
        if one.offset is None or (to := Place(one.offset, one.n)) not in placed:
            # It is there no longer, or can't be told from others.
            draft.trail.read[id(one.dataset)] = one.dataset
        elif at is not None:
            copies.append(Copy(at, to, one.is_text))
    places = [place for found in form.names.values() for place in found if place.of(form.image) != b"."]
    texts = [place.of(form.image) for place in places]
    if not set(texts) <= set(given.names) or len(set(given.names)) < len(given.names):
        return None
    names = tuple((given.names.index(text), place) for text, place in zip(texts, places, strict=True))
    try:
        blocks = _blocks_of(form)
    except LayoutError:
        return None
    made = Pattern(form, tuple(copies), names, blocks, draft.texts)
    return made if _is_made_again(made, known.image, given) else None


def _is_all_placed(draft: Draft, form: Form) -> bool:
    """Whether all names of files are where they can be exchanged."""
    named = sum(isinstance(part, Named) for part in draft.recorder.parts)
    return named == sum(map(len, form.names.values()))


def _blocks_of(form: Form) -> tuple[Place, ...]:
    raw = H5Image(form.image)
    blocks = [virtual_block(raw, address) for address, link in form.names if not link]
    return tuple(Place(block.address, len(block.data)) for block in blocks)


def _is_made_again(pattern: Pattern, image: bytes, given: Given) -> bool:
    """Whether the pattern gives the very file that it is of, but for times."""
    now, told = 0, dict(pattern.texts)
    if told.keys() != given.texts.keys() | {digest.OWN, digest.OTHER}:
        return False
    if any(told[name].n != len(text) for name, text in given.texts.items()):
        return False
    made, meant = pattern.filled(image, given, now), bytearray(pattern.form.image)
    for to in pattern.form.times:
        meant[to : to + 4] = now.to_bytes(4, "little")
    return made == meant


@dataclass(frozen=True)
class Pair:
    """The patterns of a master and of the NeXus file beside it."""

    master: Pattern
    nexus: Pattern | None
    lacking: tuple[str, ...]
    """Why there is no NeXus file."""

    def filled(self, known: Known, given: Given) -> tuple[bytearray, bytearray | None] | None:
        """Both files for another input; None where they aren't like these."""
        now = int(time.time())
        master = self.master.filled(known.image, given, now)
        nexus = self.nexus.filled(known.image, given, now) if self.nexus is not None else None
        if master is None or (nexus is None and self.nexus is not None):
            return None
        if self.nexus is not None and nexus is not None:
            self.nexus.put(nexus, digest.OTHER, self.master.own_digest(master))
            self.master.put(master, digest.OTHER, self.nexus.own_digest(nexus))
        return master, nexus


def keep(drafts: Sequence[Draft], known: Known, experiment: Experiment, given: Given, lacking: Sequence[str]) -> None:
    """Keep the patterns of a run's masters, the NeXus file's first if it was written, for the next sets."""
    patterns = [pattern_of(draft, known, given) for draft in drafts if draft.image]
    trail = drafts[0].trail
    made = [pattern for pattern in patterns if pattern is not None]
    if len(made) == len(patterns) and made:
        pair = Pair(made[-1], made[0] if len(made) > 1 else None, tuple(lacking))
        known.keep(given.key, pair, trail, [experiment], n_bytes=sum(len(one.form.image) for one in made))
