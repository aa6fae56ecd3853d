"""What XDS demands of the data files, through neggia."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .facts import Block, Stored
from .rule import XDS, rule, worst
from .subject import Observation, Subject
from .xds import SUPERBLOCKS, filter_text, is_plain, is_read_filter, path_fault

IMAGE_TYPES = ("|u1", "<u2", "<u4")
EXTENSIBLE_ARRAY_IMAGES = 4
"""As many chunks of an extensible array lie in its index block; neggia looks no further."""


def _each(s: Subject, look: Callable[[Block, Stored], tuple[bool, object]]) -> Iterator[Observation]:
    seen = []
    for block, images in s.present:
        ok, found = look(block, images)
        seen.append(Observation(ok, images.file, images.path, str(found)))
    return worst(seen)


@rule(XDS, "data-superblock", "data files: superblock version 0, 2 or 3, addresses of 8 bytes, no userblock, no pages")
def data_superblock(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        c = images.container
        if c is None:
            return False, images.fault
        sizes = (c.offset_size, c.length_size)
        ok = c.superblock in SUPERBLOCKS and c.userblock == 0 and sizes == (8, 8) and not images.is_paged
        pages = ", paged" if images.is_paged else ""
        return ok, f"version {c.superblock}, userblock {c.userblock} bytes, sizes {sizes[0]} and {sizes[1]}{pages}"

    return _each(s, look)


@rule(XDS, "data-type", "images stored as u1, u2 or u4, little-endian")
def data_type(s: Subject) -> Iterator[Observation]:
    def look(block: Block, images: Stored) -> tuple[bool, object]:
        return is_read_type(images), f"{images.kind} {images.dtype.str}"

    return _each(s, look)


def is_read_type(images: Stored) -> bool:
    """Whether neggia takes images of this type."""
    return images.dtype.str in IMAGE_TYPES and is_plain(images, "integer")


@rule(XDS, "one-type", "images of one type in all data files")
def one_type(s: Subject) -> Iterator[Observation]:
    return _each(s, lambda block, images: (images.dtype == s.image_dtype, f"{images.dtype.str}, first {s.image_dtype}"))


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
    return _each(s, lambda block, images: (is_read_filter(images), filter_text(images)))


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
            fault = path_fault(s, block.place)
        else:
            with Subject(images.file) as other:
                fault = path_fault(other, block.place)
        return fault is None, fault or "found"

    return _each(s, look)
