"""What further readers demand: eiger2cbf, fabio, nxmx 0.0.8, and the main branch of dxtbx."""

from __future__ import annotations

from collections.abc import Iterator

from ..hdf5 import access
from ..hdf5.names import BITSHUFFLE, BITSHUFFLE_LZ4, DETECTOR, LZ4, SPECIFIC
from .dials import is_variable
from .facts import Stored
from .rule import EIGER2CBF, FABIO, NXMX, UPSTREAM, rule, worst
from .subject import Observation, Subject, integers
from .xds import equal_files

EIGER_SIZES = frozenset(
    {
        (4362, 4148),
        (3262, 3108),
        (2162, 2068),
        (1062, 1028),
        (512, 4148),
        (512, 2068),
        (512, 1028),
        (514, 1030),
        (1065, 1030),
        (2167, 2070),
        (3269, 3110),
        (4371, 4150),
    }
)
"""(slow, fast) of the Eiger and Eiger 2 detectors and their regions of interest."""

STRINGS = (
    f"{DETECTOR}/description",
    f"{DETECTOR}/detector_number",
    f"{DETECTOR}/sensor_material",
    f"{SPECIFIC}/data_collection_date",
    f"{SPECIFIC}/software_version",
    f"{SPECIFIC}/eiger_fw_version",
)
FIRMWARE = f"{SPECIFIC}/eiger_fw_version"


def _is_filewriters(s: Subject) -> bool:
    """Whether dxtbx takes the file for one of the detector's own."""
    return s.is_nxmx and s.dataset(FIRMWARE) is not None


# dxtbx, main branch: FormatNXmxEigerFilewriter


@rule(UPSTREAM, "known-size", "with eiger_fw_version: module/data_size an Eiger's, in either order")
def known_size(s: Subject) -> Iterator[Observation]:
    if _is_filewriters(s):
        place = f"{DETECTOR}/module/data_size"
        found = s.dataset(place)
        size = () if found is None else integers(found)
        yield s.saw(place, size in EIGER_SIZES or size[::-1] in EIGER_SIZES, size or "absent")


@rule(UPSTREAM, "bit-depth-image", "with eiger_fw_version: bit_depth_image 32 where images are u4")
def bit_depth_image(s: Subject) -> Iterator[Observation]:
    if _is_filewriters(s) and s.image_dtype is not None and s.image_dtype.str == "<u4":
        for name in ("bit_depth_image", "bit_depth_readout"):
            value = s.number(f"{DETECTOR}/{name}")
            if value is not None:
                yield s.saw(f"{DETECTOR}/{name}", value == 32, f"{value:g}")
                return


# All that read images: nxmx alone looks at the master only


@rule(UPSTREAM, "data-files", "every data file there, with images in it")
def upstream_data_files(s: Subject) -> Iterator[Observation]:
    return s.linked_files()


@rule(EIGER2CBF, "data-files", "every data file there, with images in it")
def cbf_data_files(s: Subject) -> Iterator[Observation]:
    return s.linked_files()


@rule(FABIO, "data-files", "every data file there, with images in it")
def fabio_data_files(s: Subject) -> Iterator[Observation]:
    return s.linked_files()


# eiger2cbf


@rule(EIGER2CBF, "image-count", "nimages alone (not x ntrigger) equal to the images in the data files")
def cbf_image_count(s: Subject) -> Iterator[Observation]:
    place = f"{SPECIFIC}/nimages"
    value = s.number(place)
    if value is None:
        yield s.saw(place, False, "absent")
    elif s.blocks and s.n_images is not None:
        yield s.saw(place, value == s.n_images, f"{value:g} told, {s.n_images} stored")


@rule(EIGER2CBF, "image-size", "detectorSpecific/{x,y}_pixels_in_detector the image's size")
def cbf_image_size(s: Subject) -> Iterator[Observation]:
    if s.image_shape is None:
        return
    seen = []
    for axis, n in zip("yx", s.image_shape, strict=True):
        place = f"{SPECIFIC}/{axis}_pixels_in_detector"
        value = s.number(place)
        seen.append(s.saw(place, value == n, f"{'absent' if value is None else f'{value:g}'}, image {n}"))
    yield from worst(seen)


@rule(EIGER2CBF, "first-file", "data_000001 or data_000000 in /entry/data")
def cbf_first_file(s: Subject) -> Iterator[Observation]:
    names = [block.name for block in s.blocks]
    ok = "data_000001" in names or "data_000000" in names
    yield s.saw("entry/data", ok, names[0] if names else "no data_ links")


@rule(EIGER2CBF, "equal-files", "as many images in every data file as in the first; the last may have fewer")
def cbf_equal_files(s: Subject) -> Iterator[Observation]:
    return iter(equal_files(s))


@rule(EIGER2CBF, "filter", "no filter, LZ4, or bitshuffle with LZ4")
def cbf_filter(s: Subject) -> Iterator[Observation]:
    def is_read(images: Stored) -> bool:
        ours = [n == LZ4 or (n == BITSHUFFLE and p[4:5] == (BITSHUFFLE_LZ4,)) for n, p in images.filters]
        return all(ours) and len(ours) <= 1

    return worst(
        Observation(is_read(images), images.file, images.path, f"filters {images.filter_numbers}")
        for _, images in s.present
    )


@rule(EIGER2CBF, "unsigned", "unsigned images: others are read as if they were")
def cbf_unsigned(s: Subject) -> Iterator[Observation]:
    return worst(
        Observation(images.dtype.kind == "u", images.file, images.path, images.dtype.name) for _, images in s.present
    )


@rule(EIGER2CBF, "string-kind", "fixed-length strings")
def cbf_string_kind(s: Subject) -> Iterator[Observation]:
    seen = []
    for place in STRINGS:
        found = s.dataset(place)
        if found is not None:
            is_vlen = is_variable(found.id.get_type())
            seen.append(s.saw(place, not is_vlen, "variable-length" if is_vlen else "fixed-length"))
    return worst(seen)


# fabio, nxmx


@rule(FABIO, "images-once", "each image once under the names /entry/data/data*")
def images_once(s: Subject) -> Iterator[Observation]:
    group = access.get_group(s.h5, "entry/data")
    if group is None or s.n_images is None:
        return
    linked = {block.name: block.n_images for block in s.blocks}
    total = sum(linked.values())
    for name in group:
        if name.startswith("data") and name not in linked:
            found = access.get_dataset(group, name)
            total += int(found.shape[0]) if found is not None and found.ndim == 3 else 0
    yield s.saw("entry/data", total == s.n_images, f"{total} read, {s.n_images} stored")


@rule(NXMX, "definition", "an entry whose definition is NXmx")
def definition(s: Subject) -> Iterator[Observation]:
    found = s.dataset("entry/definition")
    yield s.saw("entry/definition", s.is_nxmx, "absent" if found is None else access.text(found[()]))
