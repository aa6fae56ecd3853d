"""The digests that tell whether a set's metadata are as they were written, and where each is kept.

A data or squash file's own digest lies in its record, `/entry/bnl_mpi`: over all of the file but the images' bytes,
for which the record has a checksum each.  A master's and a NeXus file's own lies in `/entry/process_bnl_mpi`, less the
date, and each of the two holds the other's too: so one that was changed, by a fault of a disk or on purpose,
disagrees with itself, and one that was exchanged with its like of another run, or edited and given a new digest,
disagrees with the other.  The blocks don't hold the masters' digests: they are made while rank 0 writes the masters,
or before it under `-t`, and would have to wait.  What they hold, the plan's hash, is in the masters as well, and is
what the masters are computed from.
"""

from __future__ import annotations

import h5py
import numpy as np

from ..hdf5 import access, writing
from ..hdf5.digest import NO_VALUES, Digest, Values, walk
from ..hdf5.draft import Draft
from ..hdf5.form import Place
from ..hdf5.names import PROCESS

OWN, OTHER = "content_sha256", "sibling_sha256"
"""Items of PROCESS: the file's own digest; in the NeXus file the master's, and in the master that of the other."""
NONE = "none".ljust(64)
"""OTHER of a file that has no other."""
UNDIGESTED = frozenset({f"{PROCESS}/date", f"{PROCESS}/{OWN}", f"{PROCESS}/{OTHER}"})
"""Items whose values don't count: what differs between equal runs, and the digests themselves."""


def of_master(file: h5py.File, taker: Digest | None = None, at_hand: Values = NO_VALUES) -> str:
    """The digest of an open master or NeXus file; `taker` hears of all that it is made of."""
    taker = taker or Digest()
    walk(file, taker, leave_out=UNDIGESTED, at_hand=at_hand)
    return taker.sha256.hexdigest()


def told(file: h5py.File, name: str) -> str | None:
    """A digest that a master holds (OWN or OTHER), or None."""
    found = access.get_dataset(file, f"{PROCESS}/{name}")
    text = None if found is None else str(access.scalar(found)).strip()
    return None if text == NONE.strip() else text


def seal(file: h5py.File, draft: Draft | None = None, at_hand: Values = NO_VALUES) -> None:
    """Note the digest of a new master or NeXus file in itself, when all else is in it, with room for the other's.

    `draft` takes note of it all; values `at_hand` aren't read back.
    """
    for name in (OTHER, OWN):
        file[f"{PROCESS}/{name}"] = np.bytes_(NONE)
    file[f"{PROCESS}/{OWN}"][()] = np.bytes_(of_master(file, None if draft is None else draft.recorder, at_hand))
    if draft is not None:
        found = {name: file[f"{PROCESS}/{name}"].id for name in file[PROCESS]}
        draft.texts = {name: Place(one.get_offset(), one.get_storage_size()) for name, one in found.items()}


def join(master: str, nxs: str) -> None:
    """Note in a sealed master and a sealed NeXus file, both closed, the digest of the other.

    The room for it is written to in place: a file that HDF5 opens again can be broken by a full disk.  Raises
    WriteError where that can't be.
    """
    digests = {}
    places = {}
    for path in (master, nxs):
        with access.open_read(path) as file:
            digests[path] = told(file, OWN)
            places[path] = file[f"{PROCESS}/{OTHER}"].id.get_offset()
    for path, other in ((master, nxs), (nxs, master)):
        with writing.writing(), open(path, "rb+") as raw:
            raw.seek(places[path])
            raw.write(str(digests[other]).encode())
