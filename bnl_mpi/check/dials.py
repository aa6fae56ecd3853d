"""What DIALS demands, by the reader in DIALS 3.12 (dxtbx/format, https://github.com/cctbx/dxtbx).

It reads two kinds of files in two ways: NXmx entries, and the older flavour of the detector's own masters,
which it turns into an NXmx entry in memory first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import h5py

from ..hdf5 import access
from ..hdf5.names import DETECTOR, SPECIFIC
from ..output.nxmx import chain
from .rule import DIALS, Function, rule, worst
from .subject import Observation, Subject, integers

GEOMETRY = {
    f"{DETECTOR}/geometry/orientation/value": 6,
    f"{DETECTOR}/geometry/translation/distances": 3,
    f"{DETECTOR}/detector_number": 1,
    f"{DETECTOR}/x_pixel_size": 1,
    f"{DETECTOR}/y_pixel_size": 1,
    "entry/sample/goniometer/omega_range_average": 1,
}
"""Values that each must have."""
CUTOFFS = (
    f"{SPECIFIC}/countrate_correction_count_cutoff",
    f"{SPECIFIC}/detectorModule_000/countrate_correction_count_cutoff",
)
CRASHES = (f"{DETECTOR}/saturation_value", "entry/sample/beam")
MAKES_ITSELF = tuple(f"{DETECTOR}/{name}" for name in ("type", "module", "depends_on", "transformations"))
WAVELENGTH = "entry/instrument/beam/incident_wavelength"
THICKNESS, MATERIAL = f"{DETECTOR}/sensor_thickness", f"{DETECTOR}/sensor_material"
MATERIALS = ("Si", "Silicon", "CdTe", "GaAs")
MODULES = ((1030, 514, 10, 37, (1, 2, 3, 4)), (1028, 512, 12, 38, (1, 2, 3, 4)), (487, 195, 7, 17, (1, 3, 5)))
"""Eiger, Eiger 2, Pilatus: a module's pixels (fast, slow), gaps between modules, and modules along fast."""
RANGE = "entry/sample/goniometer/omega_range_average"
OMEGA_STEP = 1e-6
"""Degrees; a width that rounding changes by less is the same one, in f4."""
CLASSES = {
    "entry": ("NXinstrument", "NXsample", "NXdata"),
    "entry/instrument": ("NXdetector", "NXbeam"),
}


def _older(function: Function) -> Function:
    def look(s: Subject) -> Iterator[Observation]:
        if not s.is_nxmx:
            yield from function(s)

    return look


def _nxmx(function: Function) -> Function:
    def look(s: Subject) -> Iterator[Observation]:
        if s.is_nxmx:
            yield from function(s)

    return look


# Both flavours


@rule(DIALS, "beam-and-sensor", "incident_wavelength, sensor_thickness with units; a known sensor_material")
def beam_and_sensor(s: Subject) -> Iterator[Observation]:
    seen = []
    for place in (WAVELENGTH, THICKNESS):
        found = s.dataset(place)
        units = "" if found is None else access.attribute_text(found, "units")
        seen.append(s.saw(place, bool(units), "absent" if found is None else f"units '{units}'"))
    material = s.dataset(MATERIAL)
    name = None if material is None else access.text(material[()])
    seen.append(s.saw(MATERIAL, name in MATERIALS, name or "absent"))
    return worst(seen)


@rule(DIALS, "classes", "one NXinstrument, NXsample, NXdata; in the instrument one NXdetector and an NXbeam")
def classes(s: Subject) -> Iterator[Observation]:
    seen = []
    for place, wanted in CLASSES.items():
        group = access.get_group(s.h5, place)
        for nx_class in wanted:
            n = 0 if group is None else len(_of_class(group, nx_class))
            ok = n == 1 or (n > 1 and nx_class == "NXbeam")
            seen.append(s.saw(place, ok, f"{n} {nx_class}"))
    return worst(seen)


def _of_class(group: h5py.Group, nx_class: str) -> list[h5py.Group]:
    found = [access.get_group(group, name) for name in group if not access.is_data_link(group, name)]
    return [g for g in found if g is not None and access.attribute_text(g, "NX_class") == nx_class]


# The older flavour


@rule(DIALS, "entry-class", "older flavour: /entry@NX_class a fixed-length 'NXentry'")
@_older
def entry_class(s: Subject) -> Iterator[Observation]:
    group = access.get_group(s.h5, "entry")
    if group is None or "NX_class" not in group.attrs:
        yield s.saw("entry@NX_class", False, "absent")
        return
    is_vlen = is_variable(h5py.h5a.open(group.id, b"NX_class").get_type())
    value = access.attribute_text(group, "NX_class")
    kind = "variable-length" if is_vlen else "fixed-length"
    yield s.saw("entry@NX_class", not is_vlen and value == "NXentry", f"'{value}', {kind}")


def is_variable(kind: h5py.h5t.TypeID) -> bool:
    """Whether an HDF5 type is that of variable-length strings."""
    return isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()


@rule(DIALS, "description", "older flavour: detector/description contains 'Dectris Eiger', in any case")
@_older
def description(s: Subject) -> Iterator[Observation]:
    found = s.dataset(f"{DETECTOR}/description")
    value = "absent" if found is None else access.text(found[()])
    ok = found is not None and "dectris eiger" in value.lower()
    yield s.saw(f"{DETECTOR}/description", ok, value)


@rule(DIALS, "geometry", "older flavour: geometry, detector_number, pixel sizes, omega_range_average")
@_older
def geometry(s: Subject) -> Iterator[Observation]:
    seen = []
    for place, n in GEOMETRY.items():
        found = s.dataset(place)
        ok = found is not None and found.size == n
        seen.append(s.saw(place, ok, "absent" if found is None else f"{found.size} values"))
    return worst(seen)


@rule(DIALS, "module-gaps", "older flavour: the size of an Eiger or Pilatus, in which gaps are looked for")
@_older
def module_gaps(s: Subject) -> Iterator[Observation]:
    if s.image_shape is not None:
        yield s.saw("entry/data", is_detector_size(s.image_shape), f"(slow, fast) {s.image_shape}")


def is_detector_size(shape: tuple[int, int]) -> bool:
    """Whether (slow, fast), or (fast, slow), is tiled by modules as some detector is."""

    def tiled(size: int, module: int, gap: int, numbers: Iterable[int]) -> bool:
        return any(n * module + (n - 1) * gap == size for n in numbers)

    return any(
        tiled(x, fast, gap_fast, along) and tiled(y, slow, gap_slow, range(1, 100))
        for x, y in (shape, shape[::-1])
        for fast, slow, gap_fast, gap_slow, along in MODULES
    )


@rule(DIALS, "omega-width", "older flavour: omega_range_average as int(100 w + 0.5)/100, what is read")
@_older
def omega_width(s: Subject) -> Iterator[Observation]:
    width = s.number(RANGE)
    if width is not None:
        read = int(width * 100 + 0.5) / 100
        yield s.saw(RANGE, abs(read - width) < OMEGA_STEP, f"{width:g} degrees, read as {read:g}")


@rule(DIALS, "cutoff", "older flavour: countrate_correction_count_cutoff, the trusted range's end")
@_older
def cutoff(s: Subject) -> Iterator[Observation]:
    found = next((place for place in CUTOFFS if s.number(place) is not None), None)
    yield s.saw(found or CUTOFFS[0], found is not None, f"{s.number(found):g}" if found else "absent")


@rule(DIALS, "no-clash", "older flavour: no detector/saturation_value and no sample/beam, at which it stops")
@_older
def no_clash(s: Subject) -> Iterator[Observation]:
    return _absent(s, CRASHES)


@rule(DIALS, "no-own-names", "older flavour: no detector/type, module, depends_on or transformations")
@_older
def no_own_names(s: Subject) -> Iterator[Observation]:
    return _absent(s, MAKES_ITSELF)


def _absent(s: Subject, places: Iterable[str]) -> Iterator[Observation]:
    found = [(place, place in s.h5) for place in places]
    return worst([s.saw(place, not there, "present" if there else "absent") for place, there in found])


@rule(DIALS, "data-only-links", "older flavour: nothing in /entry/data but data_000001 and on")
@_older
def data_only_links(s: Subject) -> Iterator[Observation]:
    group = access.get_group(s.h5, "entry/data")
    names = [] if group is None else sorted(group)
    others = [name for name in names if access.DATA_NAME.fullmatch(name) is None]
    has_first = "data_000001" in names
    if others:
        yield from (s.saw(f"entry/data/{name}", False, "present") for name in others)
    else:
        yield s.saw("entry/data", has_first, f"{len(names)} links" if has_first else "no data_000001")


@rule(DIALS, "mask-applied", "older flavour: pixel_mask_applied not 0, else no mask", required=False)
@_older
def mask_applied(s: Subject) -> Iterator[Observation]:
    if s.has_mask:
        place = f"{DETECTOR}/pixel_mask_applied"
        value = s.number(place)
        yield s.saw(place, bool(value), "absent" if value is None else f"{value:g}")


@rule(DIALS, "data-files", "every data file there, with images in it")
def data_files(s: Subject) -> Iterator[Observation]:
    return s.linked_files()


# NXmx


@rule(DIALS, "signal", "NXmx: all images in the one dataset that /entry/data@signal names")
@_nxmx
def signal(s: Subject) -> Iterator[Observation]:
    place, found = s.signal
    if found is None or found.ndim != 3:
        yield s.saw(place, False, "absent" if found is None else f"shape {found.shape}")
        return
    total = s.n_images if s.blocks else found.shape[0]
    if total is not None:
        yield s.saw(place, found.shape[0] == total, f"{found.shape[0]} images, {total} stored")


def _module(s: Subject) -> h5py.Group | None:
    detector = access.get_group(s.h5, DETECTOR)
    found = [] if detector is None else _of_class(detector, "NXdetector_module")
    return found[0] if found else None


@rule(DIALS, "data-size", "NXmx: module/data_size the image's (slow, fast)")
@_nxmx
def data_size(s: Subject) -> Iterator[Observation]:
    module = _module(s)
    size = None if module is None else access.get_dataset(module, "data_size")
    if module is None or size is None:
        yield s.saw(f"{DETECTOR}/module/data_size", False, "absent")
    elif s.image_shape is not None:
        told = integers(size)
        yield s.saw(str(size.name), told == s.image_shape, f"{told}, image {s.image_shape}")


def _sample_start(s: Subject) -> tuple[str | None, h5py.Dataset | None]:
    """(place, first axis) of the sample's chain; (None, None) where it rests on nothing."""
    sample = access.get_group(s.h5, "entry/sample")
    told = None if sample is None else access.get_dataset(sample, "depends_on")
    if sample is None or told is None:
        return "entry/sample/depends_on", None
    name = access.text(told[()])
    return (None, None) if name == "." else (name, access.get_dataset(sample, name))


def _starts(s: Subject) -> Iterator[tuple[str, h5py.Dataset | None]]:
    """(place, first axis) of each chain: of the sample's, and of the pixels'."""
    place, start = _sample_start(s)
    if place is not None:
        yield place, start
    module = _module(s)
    for name in ("fast_pixel_direction", "slow_pixel_direction"):
        yield f"{DETECTOR}/module/{name}", None if module is None else access.get_dataset(module, name)


@rule(DIALS, "chains", "NXmx: complete depends_on chains of the sample and of the module's pixel directions")
@_nxmx
def chains(s: Subject) -> Iterator[Observation]:
    seen = []
    for place, start in _starts(s):
        fault = "absent" if start is None else chain_fault(start)
        seen.append(s.saw(place, fault is None, fault or "complete"))
    return worst(seen)


def chain_fault(start: h5py.Dataset) -> str | None:
    """What a chain of axes lacks, or None."""
    axes = chain(start)
    for axis in axes:
        for name in ("vector", "transformation_type", "units", "depends_on"):
            if name not in axis.attrs:
                return f"{axis.name} has no {name}"
    end = access.attribute_text(axes[-1], "depends_on")
    return None if end == "." else f"{axes[-1].name} depends on {end}, which isn't there"


@rule(DIALS, "scan-axis", "NXmx: the axis that turns in f8, with one value an image")
@_nxmx
def scan_axis(s: Subject) -> Iterator[Observation]:
    _, start = _sample_start(s)
    for axis in [] if start is None else chain(start):
        if access.attribute_text(axis, "transformation_type") != "rotation" or (axis.size or 0) < 2:
            continue
        ok = axis.dtype.kind == "f" and axis.dtype.itemsize == 8
        found = s.signal[1]
        n = found.shape[0] if found is not None and found.ndim else s.n_images
        if n is not None:
            ok = ok and axis.size == n
        yield s.saw(str(axis.name), ok, f"{axis.dtype.name}, {axis.size} values, {n} images")


@rule(DIALS, "mask", "NXmx: the mask at detector/pixel_mask, of the image's shape")
@_nxmx
def mask(s: Subject) -> Iterator[Observation]:
    place = f"{DETECTOR}/pixel_mask"
    found = s.dataset(place)
    if found is None:
        if s.has_mask:
            yield s.saw(place, False, "absent, but detectorSpecific has one")
    elif s.image_shape is not None:
        yield s.saw(place, found.shape == s.image_shape, f"mask {found.shape}, image {s.image_shape}")


@rule(DIALS, "overload", "NXmx: detector/saturation_value, or overloads count", required=False)
@_nxmx
def overload(s: Subject) -> Iterator[Observation]:
    value = s.number(f"{DETECTOR}/saturation_value")
    found = "absent" if value is None else f"{value:g}"
    yield s.saw(f"{DETECTOR}/saturation_value", value is not None, found)


@rule(DIALS, "bit-depth", "NXmx: bit_depth_readout the bits whose top values mark", required=False)
@_nxmx
def bit_depth(s: Subject) -> Iterator[Observation]:
    bits, dtype = s.number(f"{DETECTOR}/bit_depth_readout"), s.image_dtype
    if bits is not None and dtype is not None and dtype.kind == "u":
        stored = dtype.itemsize * 8
        yield s.saw(f"{DETECTOR}/bit_depth_readout", bits == stored, f"{bits:g}, images of {stored} bits")
