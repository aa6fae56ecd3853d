"""Files of one form: alike byte for byte, but for values in known places.

The masters of neighbouring data sets differ in a few values and in the names of data files.  A form tells where in a
file these lie, and how the digest of its content comes of its bytes.  It is found by a walk over the open file and a
look at the bytes, and refused where anything in them isn't as it is meant to be.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

from .form import Named, Place, Recorder
from .image import H5Image, external_file_name, virtual_block
from .layout import LayoutError

EXTERNAL_STORAGE = 0x07
TIME = 0x12
"""An object's modification time, as a message of its header: 4 bytes, then seconds since 1970 as 4 bytes."""


@dataclass
class Form:
    """The bytes of a file, and what in them may differ."""

    image: bytes
    sha256: str
    """`digest.content_sha256` of it."""
    parts: list[bytes | Place]
    """What that is made of, in order."""
    values: dict[int, Place]
    """All values of a contiguous dataset, by the address of its object header."""
    names: dict[tuple[int, bytes], list[Place]]
    """Names of linked files, without their end: by the group's address and the link's name; of a virtual dataset by
    its address and b"", one for each of its mappings."""
    times: list[int]
    """Where 4 bytes each tell when an object was made."""

    def digest_of(self, image: bytes | bytearray) -> str:
        """`digest.content_sha256` of a file of this form."""
        view, sha256 = memoryview(image), hashlib.sha256()
        for part in self.parts:
            sha256.update(view[part.offset : part.offset + part.n] if isinstance(part, Place) else part)
        return sha256.hexdigest()


def form_of(recorder: Recorder, image: bytes) -> Form | None:
    """The form of a file that was walked by `recorder`, and whose bytes are `image`; None where it has none."""
    try:
        form = _form_of(recorder, image)
    except LayoutError:
        return None
    names = [place for found in form.names.values() for place in found]
    taken = sorted([*form.values.values(), *names, *(Place(at, 4) for at in form.times)])
    if any(a.offset + a.n > b.offset for a, b in itertools.pairwise(taken)):
        return None
    return form if form.digest_of(image) == form.sha256 else None


def _form_of(recorder: Recorder, image: bytes) -> Form:
    raw = H5Image(image)
    if raw.container.superblock > 1 or raw.container.userblock:
        raise LayoutError("headers of this kind have checksums")
    names: dict[tuple[int, bytes], list[Place]] = {}
    times = []
    for address in recorder.objects:
        has_checksum = raw.bytes_at(address, 4) == b"OHDR"
        for kind, body, at in raw.messages(address):
            if kind == EXTERNAL_STORAGE:
                raise LayoutError("values lie in other files")
            if kind == TIME and not has_checksum:
                times.append(at + 4)
            elif not has_checksum and (found := external_file_name(kind, body)) is not None:
                names[address, found.link] = [Place(at + found.offset, found.n)]
    virtual = dict.fromkeys(part.address for part in recorder.parts if isinstance(part, Named) and not part.link)
    for address in virtual:
        texts = [p.text for p in recorder.parts if isinstance(p, Named) and (p.address, p.link) == (address, b"")]
        names[address, b""] = _in_heap(raw, address, texts)
    parts = _placed(recorder.parts, names)
    return Form(image, recorder.sha256.hexdigest(), parts, recorder.values, names, times)


def _placed(parts: list[bytes | Place | Named], names: dict[tuple[int, bytes], list[Place]]) -> list[bytes | Place]:
    """What a digest is made of: a name whose place isn't known is like anything else."""
    left = {key: iter(places) for key, places in names.items()}
    found: list[bytes | Place] = []
    for part in parts:
        one = next(left.get((part.address, part.link), iter(())), part.text) if isinstance(part, Named) else part
        if isinstance(one, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += one
        else:
            found.append(one)
    return found


def _in_heap(raw: H5Image, address: int, texts: list[bytes]) -> list[Place]:
    """Where the mappings of a virtual dataset name their files, in the order of these `texts`."""
    block = virtual_block(raw, address)
    if any(block.data.count(text + b"\0") != 1 for text in texts):
        raise LayoutError("a virtual dataset's files can't be told apart")
    return [Place(block.address + block.data.index(text + b"\0"), len(text)) for text in texts]
