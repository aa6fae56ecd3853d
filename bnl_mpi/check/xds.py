"""What XDS demands, which reads Eiger files through neggia (https://github.com/dectris/neggia, 1.2).

neggia parses HDF5 itself: what it doesn't know ends XDS, or yields wrong pixels without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np

from ..hdf5 import access
from ..hdf5.layout import MOST_LINKS, H5Bytes, LayoutError
from ..hdf5.names import BITSHUFFLE, BITSHUFFLE_LZ4, BLOSC2, DETECTOR, HTJ2K, LZ4, SPECIFIC, ZSTD
from .facts import Stored, is_paged
from .rule import XDS, rule, worst
from .subject import Observation, Subject

MASK = f"{SPECIFIC}/pixel_mask"
NIMAGES, NTRIGGER = f"{SPECIFIC}/nimages", f"{SPECIFIC}/ntrigger"
PIXEL_SIZES = (f"{DETECTOR}/x_pixel_size", f"{DETECTOR}/y_pixel_size")
SUPERBLOCKS = (0, 2, 3)
FILTER_NAMES = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    LZ4: "lz4",
    BITSHUFFLE: "bitshuffle",
    32001: "blosc",
    ZSTD: "zstd",
    BLOSC2: "blosc2",
    HTJ2K: "htj2k",
}


def _read_by_xds(s: Subject) -> Iterator[tuple[str, Stored]]:
    """The datasets of the master that neggia reads, as far as they are there."""
    for place in (MASK, NIMAGES, NTRIGGER, *PIXEL_SIZES):
        found = s.stored(place)
        if found is not None:
            yield place, found


def is_plain(found: Stored, kind: str) -> bool:
    """Whether values are little-endian and of a type that neggia takes for what it is: no enumeration, and unnamed."""
    return found.kind == kind and found.dtype.str[0] in "<|"


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


@rule(XDS, "file-space", "file space that isn't managed in pages")
def file_space(s: Subject) -> Iterator[Observation]:
    yield s.saw("", not is_paged(s.h5), "paged" if is_paged(s.h5) else "not paged")


@rule(XDS, "groups", "groups that can be followed by symbol tables alone (superblock 0), or by links (2, 3)")
def groups(s: Subject) -> Iterator[Observation]:
    places = [place for place, _ in _read_by_xds(s)] + [f"entry/data/{block.name}" for block in s.blocks[:1]]
    return worst([s.saw(place, not (fault := path_fault(s, place)), fault or "found") for place in places])


def path_fault(s: Subject, place: str) -> str | None:
    """Why a parser that trusts what symbol tables cache doesn't find `place`; None where it does."""
    try:
        with H5Bytes(s.path) as raw:
            trace = raw.trace(place)
            if raw.container.superblock > 1:
                return _links_fault(s, raw, place)
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


def _links_fault(s: Subject, raw: H5Bytes, place: str) -> str | None:
    """The same for a later superblock, whose groups are followed by their link messages alone."""
    names, group, links = [name for name in place.split("/") if name], s.h5["/"], MOST_LINKS
    while names:
        if raw.has_symbol_table(h5py.h5o.get_info(group.id).addr):
            return f"{group.name} keeps its links in a symbol table, as superblock 0 does"
        name, names = names[0], names[1:]
        link = access.link(group, name)
        if isinstance(link, h5py.ExternalLink):
            return None
        if isinstance(link, h5py.SoftLink):
            names = [part for part in link.path.split("/") if part] + names
            group, links = s.h5["/"] if link.path.startswith("/") else group, links - 1
            if links == 0:
                return f"soft links in {group.name} lead in a circle"
            continue
        found = access.resolve(group, name)
        if found is None:
            return f"no {name} in {group.name}"
        if isinstance(found, h5py.Dataset):
            return None
        group = found
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
    ok = len(found.shape) == 2 and is_plain(found, "integer")
    yield s.saw(MASK, ok, f"{found.kind} {found.dtype.str} {found.shape}")


@rule(XDS, "mask-values", "the mask's values of 32 bits, none below 0")
def mask_values(s: Subject) -> Iterator[Observation]:
    found = s.dataset(MASK)
    if found is not None and found.dtype.kind in "iu" and found.size:
        values = access.read(found)
        low, high = int(values.min()), int(values.max())
        yield s.saw(MASK, low >= 0 and high < 1 << 32, f"{low} to {high}")


@rule(XDS, "mask-plain", "the mask contiguous, unfiltered, in the master itself, and written")
def mask_plain(s: Subject) -> Iterator[Observation]:
    found = s.stored(MASK)
    if found is not None:
        kind = found.layout.kind if found.layout else found.fault or "unknown layout"
        filters = filter_text(found)
        inside = found.has_storage and not found.is_external
        ok = kind in ("contiguous", "compact") and not found.filters and inside
        where = ", in a file of its own" if found.is_external else "" if inside else ", never written"
        yield s.saw(MASK, ok, f"{kind}, {filters}{where}")


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
        is_plain(found, "integer")
        and size == 1
        and kind in ("contiguous", "compact")
        and not found.filters
        and found.has_storage
        and not found.is_external
        and value is not None
        and value > 0
    )
    shown = "" if value is None else f"{value:g}, "
    never = "" if found.has_storage else ", never written"
    return s.saw(place, ok, f"{shown}{found.kind} {found.dtype.str} {found.shape}, {kind}{never}")


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
        ok = found.dtype.str in ("<f4", "<f8") and is_plain(found, "float") and kind in ("contiguous", "compact")
        never = "" if found.has_storage else ", never written"
        yield s.saw(place, ok and not never, f"{found.kind} {found.dtype.str}, {kind}{never}")


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


@rule(XDS, "link-places", "links that name a data file where it lies, from the master's folder if not absolute")
def link_places(s: Subject) -> Iterator[Observation]:
    return worst(
        Observation(b.is_where_told, b.target, f"/entry/data/{b.name}", "found" if b.is_where_told else "not there")
        for b, _ in s.present
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


# Filters


def is_read_filter(images: Stored) -> bool:
    if len(images.filters) != 1:
        return not images.filters
    number, parameters = images.filters[0]
    if number == BITSHUFFLE:
        return parameters[4:5] == (BITSHUFFLE_LZ4,)
    return number == LZ4


def filter_text(images: Stored) -> str:
    def one(number: int, parameters: tuple[int, ...]) -> str:
        text = f"{FILTER_NAMES.get(number, 'filter')} ({number})"
        return f"{text} with LZ4" if number == BITSHUFFLE and parameters[4:5] == (BITSHUFFLE_LZ4,) else text

    return " + ".join(one(*f) for f in images.filters) or "no filter"
