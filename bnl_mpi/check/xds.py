"""What XDS demands, which reads Eiger files through neggia (https://github.com/dectris/neggia, 1.2).

neggia parses HDF5 itself: what it doesn't know ends XDS, or yields wrong pixels without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from ..hdf5 import access
from ..hdf5.layout import H5Bytes, LayoutError
from ..input.experiment import DETECTOR, SPECIFIC
from .rule import XDS, rule, worst
from .subject import Block, Observation, Stored, Subject

MASK = f"{SPECIFIC}/pixel_mask"
NIMAGES, NTRIGGER = f"{SPECIFIC}/nimages", f"{SPECIFIC}/ntrigger"
PIXEL_SIZES = (f"{DETECTOR}/x_pixel_size", f"{DETECTOR}/y_pixel_size")
SUPERBLOCKS = (0, 2, 3)
IMAGE_TYPES = ("|u1", "<u2", "<u4")
LZ4, BITSHUFFLE = 32004, 32008
BITSHUFFLE_LZ4 = 2
"""The fifth parameter of the bitshuffle filter, where it compresses with LZ4."""
EXTENSIBLE_ARRAY_IMAGES = 4
"""As many chunks of an extensible array lie in its index block; neggia looks no further."""
FILTER_NAMES = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    LZ4: "lz4",
    BITSHUFFLE: "bitshuffle",
    32001: "blosc",
    32015: "zstd",
    32026: "blosc2",
    32033: "htj2k",
}


def _read_by_xds(s: Subject) -> Iterator[tuple[str, Stored]]:
    """The datasets of the master that neggia reads, as far as they are there."""
    for place in (MASK, NIMAGES, NTRIGGER, *PIXEL_SIZES):
        found = s.stored(place)
        if found is not None:
            yield place, found


def _each(s: Subject, look: Callable[[Block, Stored], tuple[bool, object]]) -> Iterator[Observation]:
    seen = []
    for block, images in s.present:
        ok, found = look(block, images)
        seen.append(Observation(ok, images.file, images.path, str(found)))
    return worst(seen)


# The container


@rule(XDS, "superblock", "superblock version 0, 2 or 3")
def superblock(s: Subject) -> Iterator[Observation]:
    if s.container is None:
        yield s.saw("", False, s.bytes_fault)
    else:
        yield s.saw("", s.container.superblock in SUPERBLOCKS, f"version {s.container.superblock}")


@rule(XDS, "userblock", "no userblock before the superblock")
def userblock(s: Subject) -> Iterator[Observation]:
    if s.container is not None:
        yield s.saw("", s.container.userblock == 0, f"{s.container.userblock} bytes")


@rule(XDS, "address-size", "addresses and lengths of 8 bytes")
def address_size(s: Subject) -> Iterator[Observation]:
    if s.container is not None:
        sizes = (s.container.offset_size, s.container.length_size)
        yield s.saw("", sizes == (8, 8), f"{sizes[0]} and {sizes[1]} bytes")


@rule(XDS, "groups", "groups that can be followed by symbol tables alone (superblock 0), or by links (2, 3)")
def groups(s: Subject) -> Iterator[Observation]:
    places = [place for place, _ in _read_by_xds(s)] + [f"entry/data/{block.name}" for block in s.blocks[:1]]
    return worst([s.saw(place, not (fault := path_fault(s, place)), fault or "found") for place in places])


def path_fault(s: Subject, place: str) -> str | None:
    """Why a parser that trusts what symbol tables cache doesn't find `place`; None where it does."""
    try:
        with H5Bytes(s.path) as raw:
            trace = raw.trace(place)
    except LayoutError as error:
        return str(error)
    if trace.outside is None:
        return trace.fault
    group, name, further = trace.outside
    link = access.link(s.h5[group], name)
    if link is None:
        return f"no {name} in {group}"
    if isinstance(link, h5py.HardLink) and further > 1:
        return f"{group} keeps its links in its header, and {name} is a group"
    return None


@rule(XDS, "layout-version", "layout messages of version 3 or 4 in the master")
def layout_version(s: Subject) -> Iterator[Observation]:
    seen = []
    for place, found in _read_by_xds(s):
        ok = found.layout is not None and found.layout.version in (3, 4)
        seen.append(Observation(ok, found.file, f"/{place}", found.fault or str(found.layout)))
    return worst(seen)


# The master


@rule(XDS, "mask", "detectorSpecific/pixel_mask: a 2-D little-endian integer")
def mask(s: Subject) -> Iterator[Observation]:
    found = s.stored(MASK)
    if found is None:
        yield s.saw(MASK, False, "absent")
        return
    ok = len(found.shape) == 2 and found.dtype.kind in "iu" and _little(found.dtype)
    yield s.saw(MASK, ok, f"{found.dtype.str} {found.shape}")


@rule(XDS, "mask-plain", "the mask contiguous, unfiltered and written")
def mask_plain(s: Subject) -> Iterator[Observation]:
    found = s.stored(MASK)
    if found is not None:
        kind = found.layout.kind if found.layout else found.fault or "unknown layout"
        filters = _filter_text(found)
        ok = kind in ("contiguous", "compact") and not found.filters and found.has_storage
        yield s.saw(MASK, ok, f"{kind}, {filters}" + ("" if found.has_storage else ", never written"))


@rule(XDS, "mask-shape", "the mask as large as an image")
def mask_shape(s: Subject) -> Iterator[Observation]:
    found = s.stored(MASK)
    if found is not None and s.image_shape is not None:
        yield s.saw(MASK, found.shape == s.image_shape, f"mask {found.shape}, image {s.image_shape}")


def _count(s: Subject, place: str, found: Stored) -> Observation:
    size = int(np.prod(found.shape)) if found.shape else 1
    kind = found.layout.kind if found.layout else "unknown"
    value = s.number(place)
    ok = (
        found.dtype.kind in "iu"
        and _little(found.dtype)
        and size == 1
        and kind in ("contiguous", "compact")
        and not found.filters
        and value is not None
        and value > 0
    )
    shown = "" if value is None else f"{value:g}, "
    return s.saw(place, ok, f"{shown}{found.dtype.str} {found.shape}, {kind}")


@rule(XDS, "nimages", "detectorSpecific/nimages: one little-endian integer above 0, not chunked")
def nimages(s: Subject) -> Iterator[Observation]:
    found = s.stored(NIMAGES)
    yield s.saw(NIMAGES, False, "absent") if found is None else _count(s, NIMAGES, found)


@rule(XDS, "ntrigger", "detectorSpecific/ntrigger, where there is one: as nimages")
def ntrigger(s: Subject) -> Iterator[Observation]:
    found = s.stored(NTRIGGER)
    if found is not None:
        yield _count(s, NTRIGGER, found)


@rule(XDS, "image-count", "nimages x ntrigger equal to the images in the data files")
def image_count(s: Subject) -> Iterator[Observation]:
    frames, triggers = s.number(NIMAGES), s.number(NTRIGGER)
    if frames is not None and s.blocks and s.n_images is not None:
        told = frames * (1 if triggers is None else triggers)
        yield s.saw(NIMAGES, told == s.n_images, f"{told:g} told, {s.n_images} stored")


@rule(XDS, "pixel-size", "x_pixel_size and y_pixel_size: f4 or f8, little-endian, not chunked")
def pixel_size(s: Subject) -> Iterator[Observation]:
    for place in PIXEL_SIZES:
        found = s.stored(place)
        if found is None:
            yield s.saw(place, False, "absent")
            continue
        kind = found.layout.kind if found.layout else "unknown"
        ok = found.dtype.str in ("<f4", "<f8") and kind in ("contiguous", "compact")
        yield s.saw(place, ok, f"{found.dtype.str}, {kind}")


@rule(XDS, "data-links", "/entry/data/data_000001 and on, without a gap")
def data_links(s: Subject) -> Iterator[Observation]:
    names = [block.name for block in s.blocks]
    wanted = [f"data_{k:06d}" for k in range(1, len(names) + 1)]
    differ = next((n for n, w in zip(names, wanted, strict=True) if n != w), None)
    found = "none" if not names else f"{differ} at a wrong place" if differ else f"{names[0]} to {names[-1]}"
    yield s.saw("entry/data", bool(names) and differ is None, found)


@rule(XDS, "data-files", "every data file there, with images in it")
def data_files(s: Subject) -> Iterator[Observation]:
    return worst(
        Observation(b.images is not None, b.target, f"/entry/data/{b.name}", b.problem or "found") for b in s.blocks
    )


@rule(XDS, "equal-files", "as many images in every data file as in the first; the last may have fewer")
def equal_files(s: Subject) -> Iterator[Observation]:
    blocks = [block for block, _ in s.present]
    if not blocks or blocks[0] is not s.blocks[0]:
        return
    first = blocks[0].n_images
    seen = []
    for block in blocks:
        ok = block.n_images == first or (block is s.blocks[-1] and block.n_images < first)
        found = f"{block.n_images} images, {first} in the first"
        seen.append(Observation(ok, block.target, f"/entry/data/{block.name}", found))
    yield from worst(seen)


# The data files


@rule(XDS, "data-superblock", "data files: superblock version 0, 2 or 3, no userblock")
def data_superblock(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        c = images.container
        if c is None:
            return False, images.fault
        ok = c.superblock in SUPERBLOCKS and c.userblock == 0
        return ok, f"version {c.superblock}, userblock {c.userblock} bytes"

    return _each(s, look)


@rule(XDS, "data-type", "images stored as u1, u2 or u4, little-endian")
def data_type(s: Subject) -> Iterator[Observation]:
    return _each(s, lambda block, images: (images.dtype.str in IMAGE_TYPES, images.dtype.str))


@rule(XDS, "data-shape", "images of one size, (images, slow, fast)")
def data_shape(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        return len(images.shape) == 3 and images.shape[1:] == s.image_shape, images.shape

    return _each(s, look)


@rule(XDS, "chunk-shape", "one image a chunk: (1, slow, fast)")
def chunk_shape(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        return images.chunks == (1, *images.shape[1:]), images.chunks or "not chunked"

    return _each(s, look)


@rule(XDS, "filter", "no filter, LZ4, or bitshuffle with LZ4")
def filter_pipeline(s: Subject) -> Iterator[Observation]:
    return _each(s, lambda block, images: (_is_read_filter(images), _filter_text(images)))


def _is_read_filter(images: Stored) -> bool:
    if len(images.filters) != 1:
        return not images.filters
    number, parameters = images.filters[0]
    if number == BITSHUFFLE:
        return parameters[4:5] == (BITSHUFFLE_LZ4,)
    return number == LZ4


def _filter_text(images: Stored) -> str:
    def one(number: int, parameters: tuple[int, ...]) -> str:
        text = f"{FILTER_NAMES.get(number, 'filter')} ({number})"
        return f"{text} with LZ4" if number == BITSHUFFLE and parameters[4:5] == (BITSHUFFLE_LZ4,) else text

    return " + ".join(one(*f) for f in images.filters) or "no filter"


@rule(XDS, "chunks-written", "every chunk stored, and by the whole filter pipeline")
def chunks_written(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        missing, skipping = block.missing_chunks, block.skipping_chunks
        return not (missing or skipping), f"{missing} chunks missing, {skipping} with a filter left out"

    return _each(s, look)


@rule(XDS, "data-layout-version", "data files: layout messages of version 3 or 4")
def data_layout_version(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        ok = images.layout is not None and images.layout.version in (3, 4)
        return ok, images.layout or images.fault

    return _each(s, look)


@rule(XDS, "chunk-index", "chunks found by a B-tree or a fixed array (an extensible array: up to 4 images)")
def chunk_index(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        index = images.layout.index if images.layout else None
        ok = index in ("B-tree v1", "B-tree v2", "fixed array")
        short = index == "extensible array" and block.n_images <= EXTENSIBLE_ARRAY_IMAGES
        return ok or short, f"{index}, {block.n_images} images"

    return _each(s, look)


@rule(XDS, "data-groups", "data files: groups that can be followed, as in the master")
def data_groups(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        if images.file == s.path:
            fault = path_fault(s, images.path)
        else:
            with Subject(images.file) as other:
                fault = path_fault(other, images.path)
        return fault is None, fault or "found"

    return _each(s, look)


def _little(dtype: np.dtype[Any]) -> bool:
    return dtype.str[0] in "<|"
