"""What durin demands (https://github.com/DiamondLightSource/durin), a plugin of XDS that reads through HDF5's library.

So it takes every filter that HDF5 has a plugin for ($HDF5_PLUGIN_PATH), except where it decodes chunks itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py

from ..hdf5 import access
from ..hdf5.names import BITSHUFFLE, DETECTOR, SPECIFIC
from .dials import is_variable
from .facts import Stored, stored
from .rule import DURIN, rule, worst
from .subject import Observation, Subject, integers
from .xds import FILTER_NAMES, filter_text, is_read_filter

PLACES = (f"{DETECTOR}/data_000001", f"{DETECTOR}/data", "entry/data/data_000001", "entry/data/data")
"""Where images are looked for, in this order."""
GROUPS = ("entry", "entry/instrument", DETECTOR, "entry/data")


def _images(s: Subject) -> tuple[str, h5py.Dataset | None]:
    """(place, images) that durin finds first."""
    for place in PLACES:
        folder, name = place.rsplit("/", 1)
        group = access.get_group(s.h5, folder)
        if group is not None and access.link(group, name) is not None:
            return place, access.get_dataset(s.h5, place)
    return PLACES[-1], None


@rule(DURIN, "images", "data_000001 or data, 3-D, in the NXdetector or NXdata group")
def images(s: Subject) -> Iterator[Observation]:
    place, found = _images(s)
    yield s.saw(place, found is not None and found.ndim == 3, "absent" if found is None else f"shape {found.shape}")


@rule(DURIN, "filter", "filters with a plugin for HDF5; by links, of bitshuffle that with LZ4 alone")
def filters(s: Subject) -> Iterator[Observation]:
    by_links = _images(s)[0].endswith("data_000001")
    return worst(
        Observation(_is_read(one, by_links), one.file, one.path, filter_text(one)) for _, one in _sources(s, by_links)
    )


def _sources(s: Subject, by_links: bool) -> Iterator[tuple[str, Stored]]:
    for block, one in s.present:
        yield block.name, one
    found = _images(s)[1]
    if not by_links and found is not None and not found.is_virtual:
        yield "", stored(found)


def _is_read(one: Stored, by_links: bool) -> bool:
    import hdf5plugin  # noqa: F401  (registers the filters)

    if by_links and BITSHUFFLE in one.filter_numbers:
        return is_read_filter(one)
    return all(n in FILTER_NAMES and h5py.h5z.filter_avail(n) for n in one.filter_numbers)


@rule(DURIN, "data-files", "every data file there, with images in it")
def data_files(s: Subject) -> Iterator[Observation]:
    return s.linked_files()


@rule(DURIN, "string-kind", "NX_class and units of fixed length")
def string_kind(s: Subject) -> Iterator[Observation]:
    seen = []
    items = [(place, access.get_group(s.h5, place), "NX_class") for place in GROUPS]
    items += [(f"{DETECTOR}/{axis}_pixel_size", s.dataset(f"{DETECTOR}/{axis}_pixel_size"), "units") for axis in "xy"]
    for place, item, name in items:
        if item is not None and name in item.attrs:
            is_vlen = is_variable(h5py.h5a.open(item.id, name.encode()).get_type())
            seen.append(s.saw(f"{place}@{name}", not is_vlen, "variable-length" if is_vlen else "fixed-length"))
    return worst(seen)


@rule(DURIN, "classes", "an NXdetector and an NXdata group")
def classes(s: Subject) -> Iterator[Observation]:
    seen = []
    for place, wanted in ((DETECTOR, "NXdetector"), ("entry/data", "NXdata")):
        group = access.get_group(s.h5, place)
        told = "absent" if group is None else access.attribute_text(group, "NX_class") or "no NX_class"
        seen.append(s.saw(place, told == wanted, told))
    return worst(seen)


@rule(DURIN, "pixel-size", "x_pixel_size and y_pixel_size: numbers")
def pixel_size(s: Subject) -> Iterator[Observation]:
    seen = []
    for axis in "xy":
        place = f"{DETECTOR}/{axis}_pixel_size"
        value = s.number(place)
        seen.append(s.saw(place, value is not None and value > 0, "absent" if value is None else f"{value:g}"))
    return worst(seen)


@rule(DURIN, "mask-shape", "the mask, in detector or detectorSpecific, integers as large as an image")
def mask_shape(s: Subject) -> Iterator[Observation]:
    for place in (f"{DETECTOR}/pixel_mask", f"{SPECIFIC}/pixel_mask"):
        found = s.dataset(place)
        if found is not None and s.image_shape is not None:
            ok = found.shape == s.image_shape and found.dtype.kind in "iub"
            yield s.saw(place, ok, f"mask {found.dtype.str} {found.shape}, image {s.image_shape}")
            return


@rule(DURIN, "mask", "a mask, else pixels aren't masked", required=False)
def mask(s: Subject) -> Iterator[Observation]:
    yield s.saw(DETECTOR, s.has_mask, "pixel_mask found" if s.has_mask else "no pixel_mask")


@rule(DURIN, "unsigned", "images of at most 4 bytes, integers: others are read as if they were")
def unsigned(s: Subject) -> Iterator[Observation]:
    if s.image_dtype is not None:
        ok = s.image_dtype.kind in "iu" and s.image_dtype.itemsize <= 4
        yield s.saw(_images(s)[0], ok, s.image_dtype.name)


@rule(DURIN, "definition", "an NXmx entry; others are read where they are alike", required=False)
def definition(s: Subject) -> Iterator[Observation]:
    yield s.saw("entry/definition", s.is_nxmx, "NXmx" if s.is_nxmx else "not NXmx")


@rule(DURIN, "data-size", "NXmx: module/data_size the image's (slow, fast)", required=False)
def data_size(s: Subject) -> Iterator[Observation]:
    place = f"{DETECTOR}/module/data_size"
    found = s.dataset(place)
    if found is not None and s.image_shape is not None:
        yield s.saw(place, integers(found) == s.image_shape, f"{integers(found)}, image {s.image_shape}")
