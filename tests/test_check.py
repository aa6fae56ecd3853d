"""`bnl-mpi check`: each rule on a file that keeps it and on one that breaks it; the parser; the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import breaking
import h5py
import hdf5plugin
import numpy as np
import pytest
from make_inputs import DETECTOR, SPECIFIC, InputSpec, make_input

from bnl_mpi.arguments import options_from
from bnl_mpi.check.dials import is_detector_size
from bnl_mpi.check.facts import stored
from bnl_mpi.check.rule import DIALS, DURIN, EIGER2CBF, FABIO, NXMX, OURS, RULES, UPSTREAM, XDS
from bnl_mpi.check.subject import Subject
from bnl_mpi.check.verdict import READ_NXS, judge, sibling_nxs
from bnl_mpi.check.xds import path_fault
from bnl_mpi.cli import main
from bnl_mpi.errors import InputError
from bnl_mpi.hdf5.layout import H5Bytes, LayoutError
from bnl_mpi.run import driver
from bnl_mpi.tasks.reduction import REDUCTION

SHAPE = (11, 14)
BSLZ4 = dict(hdf5plugin.Bitshuffle(cname="lz4"))
FIRST = "in_data_000001.h5"
MODULE = f"{DETECTOR}/module"
GONIOMETER = "/entry/sample/goniometer"

# Sets that keep the rules


def older(folder: Path) -> Path:
    return make_input(folder).master


def older_500k(folder: Path) -> Path:
    """As large as the smallest Eiger: DIALS reads no other size of this flavour."""
    spec = InputSpec(shape=(514, 1030), n_frames=3, frames_per_file=2)
    return make_input(folder, spec).master


def nxmx(folder: Path) -> Path:
    return make_input(folder, InputSpec(flavour="nxmx", string_kind="fixed")).master


def nxmx_eiger(folder: Path) -> Path:
    """As from a detector of 514 x 1030 pixels and 32 bits; only what tells so is of that size."""
    master = make_input(folder, InputSpec(flavour="nxmx", dtype="uint32")).master
    put(master, f"{MODULE}/data_size", np.array([514, 1030]))
    return master


def nxmx_u4(folder: Path) -> Path:
    return make_input(folder, InputSpec(flavour="nxmx", dtype="uint32")).master


def ours(folder: Path) -> Path:
    """12 frames as 6 images in 3 files of 2, XDS-ready, and OUT.nxs."""
    source = make_input(folder).master
    words = f"-i {source} -s 2 -b 2 -c bslz4 -d 2 -o {folder / 'out'} -m out_master"
    driver.call(REDUCTION, options_from(words.split()))
    return folder / "out_master.h5"


MAKERS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker for maker in (older, older_500k, nxmx, nxmx_eiger, nxmx_u4, ours)
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, maker in MAKERS.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = maker(folder)
    return made


# Ways to break them


def put(path: Path, place: str, value: Any, *, libver: Any = "earliest", **options: Any) -> None:
    """Replace a dataset; its attributes stay."""
    with h5py.File(path, "r+", libver=libver) as h5:
        attributes = {}
        if place in h5:
            attributes = dict(h5[place].attrs)
            del h5[place]
        made = h5.create_dataset(place, data=value, **options)
        made.attrs.update(attributes)


def drop(*places: str) -> Callable[[Path], None]:
    def break_it(master: Path) -> None:
        with h5py.File(master, "r+") as h5:
            for place in places:
                del h5[place]

    return break_it


def setting(place: str, value: Any, **options: Any) -> Callable[[Path], None]:
    return lambda master: put(master, place, value, **options)


def attribute(place: str, name: str, value: Any) -> Callable[[Path], None]:
    def break_it(master: Path) -> None:
        with h5py.File(master, "r+") as h5:
            if value is None:
                del h5[place].attrs[name]
            else:
                h5[place].attrs[name] = value

    return break_it


def several(*breaks: Callable[[Path], None]) -> Callable[[Path], None]:
    def break_it(master: Path) -> None:
        for one in breaks:
            one(master)

    return break_it


def in_nxs(break_it: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda master: break_it(master.with_name("out.nxs"))


def in_block(number: int, break_it: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda master: break_it(master.with_name(f"out_{number:06d}.h5"))


def data_file(
    *,
    n: int = 5,
    shape: tuple[int, int] = SHAPE,
    dtype: str = "<u2",
    chunks: tuple[int, ...] | None = (1, *SHAPE),
    libver: Any = "earliest",
    name: str = FIRST,
    write: bool = True,
    file_options: dict[str, Any] | None = None,
    **options: Any,
) -> Callable[[Path], None]:
    """Replace a data file by one of these traits."""

    def break_it(master: Path) -> None:
        with h5py.File(master.with_name(name), "w", libver=libver, **(file_options or {})) as h5:
            made = h5.create_dataset("/entry/data/data", shape=(n, *shape), dtype=dtype, chunks=chunks, **options)
            if write:
                made[...] = 1

    return break_it


def no_hdf5(master: Path) -> None:
    master.with_name(FIRST).write_bytes(b"no HDF5")


def left_out_filter(master: Path) -> None:
    data_file(write=False, **BSLZ4)(master)
    with h5py.File(master.with_name(FIRST), "r+") as h5:
        for k in range(5):
            h5["/entry/data/data"].id.write_direct_chunk((k, 0, 0), bytes(2 * 11 * 14), filter_mask=k == 3)


def rebuilt(*, libver: Any = "earliest", **file_options: Any) -> Callable[[Path], None]:
    """The same tree in another container, group by group."""

    def copy(source: h5py.Group, target: h5py.Group) -> None:
        target.attrs.update(dict(source.attrs))
        for name in source:
            link = source.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                target[name] = link
            elif isinstance(source[name], h5py.Group):
                copy(source[name], target.create_group(name))
            else:
                source.copy(name, target)

    def break_it(master: Path) -> None:
        old = master.rename(master.with_suffix(".old"))
        with h5py.File(old) as source, h5py.File(master, "w", libver=libver, **file_options) as target:
            copy(source, target)

    return break_it


def narrow_addresses(master: Path) -> None:
    old = master.rename(master.with_suffix(".old"))
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    made = h5py.File(h5py.h5f.create(bytes(master), h5py.h5f.ACC_TRUNC, plist))
    with h5py.File(old) as source, made:
        source.copy("/entry", made)


def copied_whole(master: Path) -> None:
    old = master.rename(master.with_suffix(".old"))
    with h5py.File(old) as source, h5py.File(master, "w", libver="earliest") as target:
        source.copy("/entry", target)


def superblock_1(master: Path) -> None:
    """Version 1 is version 0 with 4 bytes more, for which the root group's header has to make room."""
    raw = bytearray(master.read_bytes())
    header = raw[96 : 96 + 40]
    entry = raw[56:64] + len(raw).to_bytes(8, "little") + raw[72:96]
    end = (len(raw) + len(header)).to_bytes(8, "little")
    frame = raw[:8] + b"\x01" + raw[9:24] + b"\x20\0\0\0" + raw[24:40] + end + raw[48:56] + entry
    raw[: len(frame)] = frame
    master.write_bytes(raw + header)


def in_data_file(break_it: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda master: break_it(master.with_name(FIRST))


def unlink(name: str) -> Callable[[Path], None]:
    return lambda master: master.with_name(name).unlink()


def relink(master: Path) -> None:
    """Number the links from 0."""
    with h5py.File(master, "r+") as h5:
        for k in range(1, 4):
            h5["entry/data"].move(f"data_{k:06d}", f"data_{k - 1:06d}")


def swap_blocks(master: Path) -> None:
    one, two = (master.with_name(f"out_{k:06d}.h5") for k in (1, 2))
    other = master.with_name("other.h5")
    one.rename(other)
    two.rename(one)
    other.rename(two)


def variable_class(master: Path) -> None:
    attribute("/entry", "NX_class", "NXentry")(master)


def link_only(master: Path) -> None:
    """NXmx as the detector writes it: no virtual dataset."""
    drop("/entry/data/data")(master)
    attribute("/entry/data", "signal", None)(master)


def copied_latest(master: Path) -> None:
    """A later superblock over groups that keep their old form."""
    old = master.rename(master.with_suffix(".old"))
    with h5py.File(old) as source, h5py.File(master, "w", libver="latest") as target:
        source.copy("/entry", target)


def narrow_block(master: Path) -> None:
    path = master.with_name(FIRST)
    old = path.rename(path.with_suffix(".old"))
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    made = h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, plist))
    with h5py.File(old) as source, made:
        source.copy("/entry", made)


PAGED = {"libver": ("earliest", "v110"), "fs_strategy": "page"}
PAGED_FILE: dict[str, Any] = {"libver": PAGED["libver"], "file_options": {"fs_strategy": "page"}}
KINDS = ("enumeration", "bitfield", "committed")
MASK, IMAGES = f"{SPECIFIC}/pixel_mask", "/entry/data/data"

BREAKS: list[tuple[str, str, str, Callable[[Path], None]]] = [
    (XDS, "superblock", "older", superblock_1),
    (XDS, "userblock", "older", rebuilt(userblock_size=512)),
    (XDS, "address-size", "older", narrow_addresses),
    (XDS, "file-space", "older", rebuilt(**PAGED)),
    (XDS, "groups", "older", copied_latest),
    (XDS, "groups", "older", copied_whole),
    (XDS, "groups", "older", rebuilt(track_order=True)),
    (
        XDS,
        "layout-version",
        "older",
        several(
            rebuilt(libver="latest"),
            setting(
                f"{SPECIFIC}/pixel_mask", np.zeros(SHAPE, "<u4"), libver="latest", compression="gzip", chunks=(1, 14)
            ),
        ),
    ),
    (XDS, "mask", "older", drop(f"{SPECIFIC}/pixel_mask")),
    (XDS, "mask", "older", setting(f"{SPECIFIC}/pixel_mask", np.zeros(SHAPE, ">u4"))),
    (XDS, "mask", "older", setting(f"{SPECIFIC}/pixel_mask", np.zeros((1, *SHAPE), "<u4"))),
    (XDS, "mask", "older", setting(f"{SPECIFIC}/pixel_mask", np.zeros(SHAPE, "<f4"))),
    (XDS, "mask", "older", breaking.typed(MASK, "committed")),
    (XDS, "mask", "older", breaking.typed(MASK, "enumeration")),
    (XDS, "mask", "older", breaking.typed(MASK, "bitfield")),
    (XDS, "mask-values", "older", setting(MASK, np.full(SHAPE, -1, "<i4"))),
    (XDS, "mask-values", "older", setting(MASK, np.full(SHAPE, 1 << 32, "<u8"))),
    (XDS, "mask-plain", "older", breaking.external(MASK)),
    (XDS, "mask-plain", "older", breaking.never_written(MASK, 0)),
    (XDS, "mask-plain", "older", setting(f"{SPECIFIC}/pixel_mask", np.zeros(SHAPE, "<u4"), chunks=SHAPE)),
    (XDS, "mask-plain", "older", setting(f"{SPECIFIC}/pixel_mask", np.zeros(SHAPE, "<u4"), compression="gzip")),
    (XDS, "mask-shape", "older", setting(f"{SPECIFIC}/pixel_mask", np.zeros((14, 11), "<u4"))),
    (XDS, "nimages", "older", drop(f"{SPECIFIC}/nimages")),
    (XDS, "nimages", "older", setting(f"{SPECIFIC}/nimages", np.float32(12))),
    (XDS, "nimages", "older", setting(f"{SPECIFIC}/nimages", np.array([12], ">u4"))),
    (XDS, "nimages", "older", setting(f"{SPECIFIC}/nimages", np.array([12], "<u4"), chunks=(1,))),
    (XDS, "nimages", "older", setting(f"{SPECIFIC}/nimages", np.array([6, 6], "<u4"))),
    (XDS, "nimages", "older", breaking.never_written(f"{SPECIFIC}/nimages", 12)),
    *((XDS, "nimages", "older", breaking.typed(f"{SPECIFIC}/nimages", kind)) for kind in KINDS),
    *((XDS, "ntrigger", "older", breaking.typed(f"{SPECIFIC}/ntrigger", kind)) for kind in KINDS),
    (XDS, "ntrigger", "older", setting(f"{SPECIFIC}/ntrigger", np.uint32(0))),
    (XDS, "image-count", "older", setting(f"{SPECIFIC}/nimages", np.uint32(13))),
    (XDS, "image-count", "older", setting(f"{SPECIFIC}/ntrigger", np.uint32(2))),
    (XDS, "pixel-size", "older", setting(f"{DETECTOR}/x_pixel_size", np.int32(1))),
    (XDS, "pixel-size", "older", drop(f"{DETECTOR}/y_pixel_size")),
    (XDS, "pixel-size", "older", breaking.never_written(f"{DETECTOR}/y_pixel_size", 7.5e-5)),
    (XDS, "pixel-size", "older", breaking.typed(f"{DETECTOR}/x_pixel_size", "committed")),
    (XDS, "data-links", "older", relink),
    (XDS, "link-places", "older", breaking.linked_as("data_000002", "/moved/in_data_000002.h5")),
    (XDS, "data-files", "older", breaking.cut("in_data_000002.h5", 0.6)),
    (XDS, "data-files", "older", breaking.overwritten("in_data_000002.h5", 0, 96)),
    (XDS, "data-links", "older", drop("/entry/data/data_000002")),
    (XDS, "data-links", "older", drop(*(f"/entry/data/data_{k:06d}" for k in (1, 2, 3)))),
    (XDS, "data-files", "older", unlink("in_data_000002.h5")),
    (XDS, "data-files", "older", no_hdf5),
    (XDS, "equal-files", "older", data_file(n=4)),
    (XDS, "equal-files", "older", data_file(n=6, name="in_data_000003.h5")),
    (XDS, "data-superblock", "older", data_file(file_options={"userblock_size": 1024})),
    (XDS, "data-superblock", "older", in_data_file(superblock_1)),
    (XDS, "data-superblock", "older", data_file(**PAGED_FILE)),
    (XDS, "data-superblock", "older", narrow_block),
    (XDS, "one-type", "older", data_file(dtype="<u4", name="in_data_000002.h5")),
    *((XDS, "data-type", "older", breaking.typed(IMAGES, kind, write=False, file=FIRST)) for kind in KINDS),
    (XDS, "data-type", "older", data_file(dtype="<i2")),
    (XDS, "data-type", "older", data_file(dtype=">u2")),
    (XDS, "data-type", "older", data_file(dtype="<u8")),
    (XDS, "data-type", "older", data_file(dtype="<f4")),
    (XDS, "data-shape", "older", data_file(shape=(12, 14), chunks=(1, 12, 14), name="in_data_000002.h5")),
    (XDS, "chunk-shape", "older", data_file(chunks=(2, *SHAPE))),
    (XDS, "chunk-shape", "older", data_file(chunks=(1, 11, 7))),
    (XDS, "chunk-shape", "older", data_file(chunks=None)),
    (XDS, "filter", "older", data_file(compression="gzip")),
    (XDS, "filter", "older", data_file(**hdf5plugin.Bitshuffle(cname="zstd"))),
    (XDS, "filter", "older", data_file(**hdf5plugin.Bitshuffle(cname="none"))),
    (XDS, "filter", "older", data_file(**hdf5plugin.Blosc(cname="zstd"))),
    (XDS, "filter", "older", data_file(fletcher32=True, **hdf5plugin.LZ4())),
    (XDS, "chunks-written", "older", data_file(write=False)),
    (XDS, "chunks-written", "older", left_out_filter),
    (XDS, "data-layout-version", "older", data_file(libver="latest", **BSLZ4)),
    (XDS, "chunk-index", "older", data_file(libver="v110", maxshape=(None, *SHAPE))),
    (XDS, "chunk-index", "older", data_file(libver="v110", n=1)),
    (XDS, "data-groups", "older", data_file(file_options={"track_order": True})),
    (DIALS, "beam-and-sensor", "older", attribute("/entry/instrument/beam/incident_wavelength", "units", None)),
    (DIALS, "beam-and-sensor", "nxmx", setting(f"{DETECTOR}/sensor_material", np.bytes_("Ge"))),
    (DIALS, "classes", "older", attribute("/entry/sample", "NX_class", None)),
    (DIALS, "classes", "nxmx", attribute("/entry/instrument/beam", "NX_class", np.bytes_("NXnote"))),
    (DIALS, "entry-class", "older", variable_class),
    (DIALS, "entry-class", "older", attribute("/entry", "NX_class", None)),
    (DIALS, "description", "older", setting(f"{DETECTOR}/description", np.bytes_("Pilatus 6M"))),
    (DIALS, "geometry", "older", drop(f"{DETECTOR}/geometry/translation/distances")),
    (DIALS, "geometry", "older", drop(f"{DETECTOR}/detector_number")),
    (DIALS, "module-gaps", "older_500k", data_file(shape=(512, 1030), chunks=(1, 512, 1030))),
    (DIALS, "module-gaps", "older_500k", data_file(shape=(257, 515), chunks=(1, 257, 515))),
    (DIALS, "omega-width", "older", setting(f"{GONIOMETER}/omega_range_average", np.float32(0.125))),
    (DIALS, "omega-width", "older", setting(f"{GONIOMETER}/omega_range_average", np.float32(-0.1))),
    (DIALS, "cutoff", "older", drop(f"{SPECIFIC}/countrate_correction_count_cutoff")),
    (DIALS, "no-clash", "older", setting(f"{DETECTOR}/saturation_value", np.uint32(9))),
    (DIALS, "no-clash", "older", setting("/entry/sample/beam/incident_wavelength", 1.0)),
    (DIALS, "no-own-names", "older", setting(f"{DETECTOR}/type", np.bytes_("PIXEL"))),
    (DIALS, "data-only-links", "older", setting("/entry/data/omega", np.zeros(12))),
    (DIALS, "data-only-links", "older", drop("/entry/data/data_000001")),
    (DIALS, "mask-applied", "older", setting(f"{DETECTOR}/pixel_mask_applied", np.int32(0))),
    (DIALS, "data-files", "older", unlink(FIRST)),
    (DIALS, "data-files", "ours", unlink("out_000003.h5")),
    (DIALS, "data-files", "older", breaking.cut(FIRST, 0.5)),
    (DIALS, "data-files", "ours", breaking.cut("out_000002.h5", 0.5)),
    (DIALS, "data-files", "nxmx", breaking.cut("in_data_000003.h5", 0.9)),
    (DIALS, "signal", "nxmx", link_only),
    (DIALS, "signal", "nxmx", setting("/entry/data/data", np.zeros((5, *SHAPE), "u2"))),
    (DIALS, "data-size", "nxmx", setting(f"{MODULE}/data_size", np.array(SHAPE[::-1]))),
    (DIALS, "data-size", "nxmx", drop(f"{MODULE}/data_size")),
    (DIALS, "chains", "nxmx", attribute(f"{DETECTOR}/transformations/det_z", "vector", None)),
    (DIALS, "chains", "nxmx", drop(f"{DETECTOR}/transformations/det_z")),
    (DIALS, "chains", "nxmx", drop("/entry/sample/depends_on")),
    (DIALS, "chains", "ours", in_nxs(attribute("/entry/sample/transformations/omega", "units", None))),
    (DIALS, "scan-axis", "nxmx", setting("/entry/sample/transformations/omega", np.arange(12, dtype="f4"))),
    (DIALS, "scan-axis", "nxmx", setting("/entry/sample/transformations/omega", np.arange(13.0))),
    (DIALS, "mask", "nxmx", drop(f"{DETECTOR}/pixel_mask")),
    (DIALS, "mask", "ours", in_nxs(setting(f"{DETECTOR}/pixel_mask", np.zeros(SHAPE, "u4")))),
    (DIALS, "overload", "nxmx", drop(f"{DETECTOR}/saturation_value")),
    (DIALS, "bit-depth", "nxmx", setting(f"{DETECTOR}/bit_depth_readout", np.uint8(12))),
    (UPSTREAM, "known-size", "nxmx_eiger", setting(f"{MODULE}/data_size", np.array([257, 515]))),
    (UPSTREAM, "bit-depth-image", "nxmx_u4", setting(f"{DETECTOR}/bit_depth_image", np.uint8(16))),
    (
        EIGER2CBF,
        "image-count",
        "older",
        several(
            setting(f"{SPECIFIC}/nimages", np.uint32(1)),
            setting(f"{SPECIFIC}/ntrigger", np.uint32(12)),
        ),
    ),
    (EIGER2CBF, "data-files", "older", breaking.cut(FIRST, 0.5)),
    (FABIO, "data-files", "older", breaking.cut(FIRST, 0.5)),
    (UPSTREAM, "data-files", "ours", breaking.cut("out_000001.h5", 0.5)),
    (DURIN, "data-files", "ours", breaking.cut("out_000001.h5", 0.5)),
    (DURIN, "images", "ours", in_nxs(drop(f"{DETECTOR}/data", "/entry/data/data_000001"))),
    (DURIN, "images", "older", drop("/entry/data/data_000001")),
    (DURIN, "filter", "older", data_file(**hdf5plugin.Bitshuffle(cname="zstd"))),
    (DURIN, "filter", "older", data_file(**hdf5plugin.Bitshuffle(cname="none"))),
    (DURIN, "string-kind", "ours", in_nxs(attribute(f"{DETECTOR}/x_pixel_size", "units", "m"))),
    (DURIN, "string-kind", "older", variable_class),
    (DURIN, "classes", "ours", in_nxs(attribute(DETECTOR, "NX_class", None))),
    (DURIN, "classes", "older", attribute("/entry/data", "NX_class", np.bytes_("NXcollection"))),
    (DURIN, "pixel-size", "ours", in_nxs(drop(f"{DETECTOR}/y_pixel_size"))),
    (DURIN, "mask-shape", "ours", in_nxs(setting(f"{DETECTOR}/pixel_mask", np.zeros((14, 11), "u4")))),
    (DURIN, "mask", "ours", in_nxs(drop(f"{DETECTOR}/pixel_mask"))),
    (DURIN, "unsigned", "older", data_file(dtype="<f4")),
    (DURIN, "definition", "ours", in_nxs(drop("/entry/definition"))),
    (DURIN, "data-size", "ours", in_nxs(setting(f"{MODULE}/data_size", np.array([14, 11])))),
    (EIGER2CBF, "image-size", "older", setting(f"{SPECIFIC}/x_pixels_in_detector", np.uint32(28))),
    (EIGER2CBF, "image-size", "older", drop(f"{SPECIFIC}/y_pixels_in_detector")),
    (EIGER2CBF, "first-file", "older", drop("/entry/data/data_000001")),
    (EIGER2CBF, "equal-files", "older", data_file(n=4, name="in_data_000002.h5")),
    (EIGER2CBF, "filter", "older", data_file(compression="gzip")),
    (EIGER2CBF, "unsigned", "older", data_file(dtype="<i4")),
    (EIGER2CBF, "string-kind", "older", setting(f"{DETECTOR}/description", "Dectris Eiger 4M")),
    (FABIO, "images-once", "older", setting("/entry/data/data", np.zeros((12, *SHAPE), "u2"))),
    (NXMX, "definition", "nxmx", drop("/entry/definition")),
    (NXMX, "definition", "ours", in_nxs(setting("/entry/definition", np.bytes_("NXsas")))),
    (OURS, "blocks", "ours", unlink("out_000002.h5")),
    (OURS, "one-plan", "ours", setting("/entry/process_bnl_mpi/plan_sha256", np.bytes_("0" * 64))),
    (OURS, "one-plan", "ours", in_block(2, attribute("/entry/bnl_mpi", "plan_sha256", np.bytes_("1" * 64)))),
    (OURS, "plan-hash", "ours", in_block(3, setting("/entry/bnl_mpi/plan", np.bytes_("{}")))),
    (OURS, "block-number", "ours", swap_blocks),
    (OURS, "records", "ours", in_block(2, setting("/entry/bnl_mpi/frames", np.array([[5, 6], [8, 8]], "u4")))),
    (OURS, "records", "ours", in_block(2, drop("/entry/bnl_mpi/chunk_crc32"))),
    (OURS, "kept-regions", "ours", setting("/entry/bnl_mpi/kept_regions", np.zeros(4, "u1"))),
]


def seen(master: Path, reader: str, name: str) -> list[bool]:
    """What one rule says of the file that its reader would open."""
    path = (sibling_nxs(str(master)) if reader in READ_NXS else None) or str(master)
    with Subject(path) as subject:
        return [one.ok for one in RULES[reader, name].function(subject)]


def copy_set(master: Path, folder: Path) -> Path:
    shutil.copytree(master.parent, folder, dirs_exist_ok=True)
    return folder / master.name


@pytest.mark.parametrize(
    ("reader", "name", "which", "break_it"),
    BREAKS,
    ids=[f"{reader}-{name}-{k}" for k, (reader, name, _, _) in enumerate(BREAKS)],
)
def test_each_rule_holds_and_fails(
    reader: str, name: str, which: str, break_it: Callable[[Path], None], kept: dict[str, Path], tmp_path: Path
) -> None:
    if name.endswith("layout-version") and h5py.version.hdf5_version_tuple < (2, 0, 0):
        pytest.skip("HDF5 1.14 writes no layout that XDS's plugin can't read")
    master = copy_set(kept[which], tmp_path)
    before = seen(master, reader, name)
    assert before
    assert all(before)
    break_it(master)
    after = seen(master, reader, name)
    assert not all(after)


def test_every_rule_is_broken_by_a_test() -> None:
    assert {(reader, name) for reader, name, _, _ in BREAKS} == set(RULES)


def of_xds(master: Path) -> set[str]:
    return {f.rule.name for f in judge(str(master)).failed if f.rule.reader == XDS}


@pytest.mark.parametrize("libver", ["earliest", ("earliest", "v108")])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_soft_links_among_the_data_links_are_followed(
    number: int, libver: Any, kept: dict[str, Path], tmp_path: Path
) -> None:
    master = copy_set(kept["older"], tmp_path)
    breaking.through_a_soft_link(f"data_{number:06d}")(master)
    if libver != "earliest":
        rebuilt(libver=libver)(master)
    assert of_xds(master) == set()


def test_an_empty_last_file_does_no_harm(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["older"], tmp_path)
    data_file(n=0, name="in_data_000003.h5", maxshape=(None, *SHAPE))(master)
    put(master, f"{SPECIFIC}/nimages", np.uint32(10))
    assert of_xds(master) == set()


def test_a_link_from_the_current_folder_leads_nowhere(
    kept: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = copy_set(kept["older"], tmp_path / "set")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    master.with_name(FIRST).rename(elsewhere / "moved.h5")
    breaking.linked_as("data_000001", "moved.h5")(master)
    monkeypatch.chdir(elsewhere)
    with h5py.File(master) as h5:
        assert h5["/entry/data/data_000001"].shape[0] == 5
    assert of_xds(master) == {"link-places"}


@pytest.mark.parametrize(
    "break_it",
    [
        *(breaking.cut("out_000002.h5", part) for part in (0.02, 0.3, 0.6, 0.99)),
        breaking.overwritten("out_000002.h5", 0, 8),
        breaking.overwritten("out_000002.h5", 96, 400),
    ],
)
def test_a_damaged_data_file_fails_for_all_who_read_images(
    break_it: Callable[[Path], None], kept: dict[str, Path], tmp_path: Path
) -> None:
    master = copy_set(kept["ours"], tmp_path)
    break_it(master)
    verdict = judge(str(master))
    failing = {f.rule.reader for f in verdict.failed if f.rule.name in ("data-files", "blocks")}
    assert failing == {XDS, DIALS, DURIN, UPSTREAM, EIGER2CBF, FABIO, OURS}
    assert verdict.exit_status == 1


def test_damage_behind_a_virtual_dataset_alone_is_found(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["nxmx"], tmp_path)
    drop(*(f"/entry/data/data_{k:06d}" for k in (1, 2, 3)))(master)
    assert all(seen(master, DIALS, "data-files"))
    breaking.cut("in_data_000002.h5", 0.5)(master)
    assert not all(seen(master, DIALS, "data-files"))


# Whom a set is meant for


@pytest.fixture(scope="module")
def by_filter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("filters")
    source = make_input(folder, InputSpec(shape=(66, 70), n_frames=4)).master
    found = {}
    for words in ("bslz4", "none", "zstd", "bszstd", "bshuf", "htj2k", "zstd -f 4", "bslz4 -u -2"):
        name = words.replace(" ", "")
        driver.call(REDUCTION, options_from(f"-i {source} -s 2 -b 2 -c {words} -o {folder / name}".split()))
        found[words] = folder / f"{name}_master.h5"
    return found


XDS_FILTERS = ("bslz4", "none")


def test_healthy_sets_of_every_filter_pass(by_filter: dict[str, Path]) -> None:
    for words, master in by_filter.items():
        verdict = judge(str(master), data=True)
        assert verdict.exit_status == 0, (words, [f.line() for f in verdict.deciding])
        assert (XDS in verdict.meant_for) == (words in XDS_FILTERS)


@pytest.mark.parametrize(
    ("asked", "passing"),
    [
        ("xds", {"bslz4", "none"}),
        ("DIALS", {"bslz4", "none", "zstd", "bszstd", "bshuf", "htj2k", "zstd -f 4", "bslz4 -u -2"}),
        ("durin", {"bslz4", "none", "zstd", "bszstd", "bshuf", "htj2k", "bslz4 -u -2"}),
        ("xds,durin", {"bslz4", "none"}),
        ("eiger2cbf", {"bslz4", "none"}),
    ],
)
def test_for_asks_for_readers(
    asked: str, passing: set[str], by_filter: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {words for words, master in by_filter.items() if main(["check", str(master), "--for", asked]) == 0}
    capsys.readouterr()
    # eiger2cbf knows no bitshuffle but LZ4's.
    assert found == passing


def test_unsound_sets_fail_whoever_is_asked_for(by_filter: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(by_filter["zstd"], tmp_path)
    master.with_name("zstd_000001.h5").unlink()
    assert judge(str(master), meant_for=(NXMX,)).exit_status == 1
    assert judge(str(master)).exit_status == 1


def test_readers_are_named(by_filter: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(by_filter["none"]), "--for", "mosflm"]) != 0
    assert "--for mosflm: not known; give some of xds, dials, durin" in capsys.readouterr().err


def test_what_was_not_looked_at_is_told(by_filter: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(by_filter["zstd"])])
    told = capsys.readouterr().out
    assert "the images themselves weren't read: --data" in told
    assert "XDS: 1 of 28 demands fail" in told or "the set isn't meant for it" in told
    main(["check", "--data", str(by_filter["zstd"])])
    assert "weren't read" not in capsys.readouterr().out


@pytest.mark.parametrize("which", ["older_500k", "nxmx", "ours"])
def test_good_sets_are_read(which: str, kept: dict[str, Path]) -> None:
    verdict = judge(str(kept[which]), data=True)
    assert verdict.exit_status == 0
    assert not [f.line() for f in verdict.failed if f.rule.reader in (XDS, DIALS, OURS)]
    assert not verdict.missing


@pytest.mark.parametrize(
    ("options", "ok"),
    [
        ({"libver": "v108", **BSLZ4}, True),
        ({"libver": "v110", **BSLZ4}, True),
        ({"libver": "v110", "n": 4, "maxshape": (None, *SHAPE)}, True),
        ({"libver": "v110", "maxshape": (None, None, None)}, True),
        ({"maxshape": (None, *SHAPE), **hdf5plugin.LZ4()}, True),
        ({"libver": "v110", "maxshape": (None, *SHAPE)}, False),
    ],
)
def test_forms_of_data_files_that_xds_reads(
    options: dict[str, Any], ok: bool, kept: dict[str, Path], tmp_path: Path
) -> None:
    master = copy_set(kept["older"], tmp_path)
    data_file(**options)(master)
    failed = {f.rule.name for f in judge(str(master)).failed if f.rule.reader == XDS}
    # Files of 4 images and 5 aren't equal; that is another rule's.
    assert (failed - {"equal-files", "image-count"} == set()) is ok


def test_masters_of_later_superblocks_are_read(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["older_500k"], tmp_path)
    rebuilt(libver="v108")(master)
    verdict = judge(str(master))
    assert verdict.exit_status == 0
    with Subject(str(master)) as subject:
        assert subject.container is not None
        assert subject.container.superblock == 2


def test_dials_is_judged_through_the_nxs_beside(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["ours"], tmp_path)
    attribute("/entry", "NX_class", "NXentry")(master)
    assert judge(str(master)).exit_status == 0
    master.with_name("out.nxs").unlink()
    verdict = judge(str(master))
    assert {f.rule.name for f in verdict.deciding} == {"entry-class", "module-gaps"}
    assert verdict.exit_status == 1


def test_advice_and_other_readers_do_not_decide(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["nxmx"], tmp_path)
    drop(f"{DETECTOR}/saturation_value")(master)
    verdict = judge(str(master))
    assert {(f.rule.reader, f.rule.name) for f in verdict.failed} >= {(DIALS, "overload"), (FABIO, "images-once")}
    assert verdict.exit_status == 0


def test_corrupt_chunk_is_named(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["ours"], tmp_path)
    block = master.with_name("out_000002.h5")
    with h5py.File(block) as h5:
        chunk = h5["/entry/data/data"].id.get_chunk_info(1)
    raw = bytearray(block.read_bytes())
    raw[chunk.byte_offset + chunk.size - 1] ^= 0x10
    block.write_bytes(raw)
    assert judge(str(master)).exit_status == 0
    verdict = judge(str(master), data=True)
    assert verdict.exit_status == 1
    (failed,) = [f.seen for f in verdict.failed]
    assert (failed.file, failed.object) == (str(block), "/entry/data/data[1]")


# The command


def test_failed_demands_are_one_line_each(
    kept: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    master = copy_set(kept["older"], tmp_path)
    data_file(compression="gzip")(master)
    setting(f"{SPECIFIC}/nimages", np.uint32(99))(master)
    assert main(["check", str(master)]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("fails XDS")]
    assert len(failed) == 2
    assert f"{master}: /entry/instrument/detector/detectorSpecific/nimages: 99 told, 12 stored; wanted:" in failed[0]
    assert f"{master.with_name(FIRST)}: /entry/data/data: gzip (1); wanted: no filter, LZ4" in failed[1]
    judged = sum(reader == XDS for reader, _ in RULES)
    assert any(line.startswith("XDS: 2 of ") and line.endswith(f" demands fail ({master})") for line in lines)
    assert judged > 24


def test_files_that_fail_alike_share_a_line(
    kept: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    master = copy_set(kept["ours"], tmp_path)
    for k in (1, 3):
        unlink(f"out_{k:06d}.h5")(master)
    assert main(["check", str(master)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (failed,) = [line for line in lines if line.startswith("fails XDS: ")]
    assert failed.startswith(f"fails XDS: {tmp_path / 'out_000001.h5'}: /entry/data/data_000001: missing; wanted: ")
    assert failed.endswith(" (and 1 files more)")
    assert lines[-1] == f"2 data files missing: {tmp_path / 'out_000001.h5'}, {tmp_path / 'out_000003.h5'}"


def test_verbose_tells_of_all(kept: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-v", str(kept["older_500k"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Two pixel sizes are one demand.
    assert sum(line.startswith("holds XDS:") for line in lines) == sum(reader == XDS for reader, _ in RULES) + 1


def test_json(kept: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    master = copy_set(kept["ours"], tmp_path)
    unlink("out_000003.h5")(master)
    assert main(["check", "--json", str(master)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == [str(tmp_path / "out_000003.h5")]
    assert told["status"] == 1
    assert told["for"] == [XDS, DIALS]
    assert {f["rule"] for f in told["findings"] if not f["ok"]} == {"data-files", "blocks"}


def test_missing_blocks_are_named_while_shares_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_input(tmp_path).master
    words = f"-i {source} -s 2 -c bslz4 -d 2 -o {tmp_path / 'out'} -p 2 -t".split()
    assert main([*words, "0"]) == 75
    assert main([*words, "1"]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "out_master.h5")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"1 data files missing: {tmp_path / 'out_000002.h5'}"
    assert main([*words, "2"]) == 0
    assert main(["check", "--data", str(tmp_path / "out_master.h5")]) == 0


@pytest.mark.parametrize("size", [(514, 1030), (1030, 514), (4362, 4148), (3269, 3110), (2167, 2070), (1062, 1028)])
def test_sizes_of_detectors(size: tuple[int, int]) -> None:
    assert is_detector_size(size)
    assert not is_detector_size((size[0] // 2, size[1] // 2))
    assert not is_detector_size((size[0] + 1, size[1]))


@pytest.mark.parametrize("content", [b"", b"text\n", b"\x89HDF\r\n\x1a\n", None])
def test_what_is_no_hdf5_is_one_line(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x_master.h5"
    if content is not None:
        path.write_bytes(content)
    assert main(["check", str(path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert str(path) in told.err


def test_an_empty_hdf5_file_fails_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "x_master.h5"
    h5py.File(path, "w").close()
    verdict = judge(str(path))
    assert verdict.exit_status == 1
    assert {"mask", "nimages", "data-links"} <= {f.rule.name for f in verdict.failed}


# The parser


def test_superblock_1_is_read_as_hdf5_reads_it(kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["older"], tmp_path)
    superblock_1(master)
    with h5py.File(master) as h5, H5Bytes(master) as raw:
        assert raw.container.superblock == 1
        assert h5[f"{SPECIFIC}/nimages"][()] == 12
        assert stored(h5[f"{SPECIFIC}/nimages"]).fault is None


def test_layouts_as_they_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for libver, version, expected in [
        ("earliest", 3, ["B-tree v1"] * 4),
        ("v110", 4, ["fixed array", "extensible array", "B-tree v2", "single chunk"]),
    ]:
        with h5py.File(path, "w", libver=libver) as h5:
            limits: list[tuple[int | None, ...]] = [(3, 4), (None, 4), (None, None), (3, 4)]
            for k, (limit, chunk) in enumerate(zip(limits, [(1, 4)] * 3 + [(3, 4)], strict=True)):
                h5.create_dataset(f"d{k}", data=np.ones((3, 4)), chunks=chunk, maxshape=limit)
            h5["plain"] = np.ones(4)
            for k in range(40):
                h5["plain"].attrs[f"a{k}"] = np.ones(30)
        with h5py.File(path) as h5:
            layouts = [stored(h5[f"d{k}"]).layout for k in range(4)]
            assert [x.index for x in layouts if x] == expected
            assert {x.version for x in layouts if x} == {version}
            plain = stored(h5["plain"]).layout
            assert plain is not None
            assert (plain.kind, plain.index) == ("contiguous", None)


def test_many_names_and_soft_links_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="earliest") as h5:
        for k in range(400):
            h5[f"many/group/d{k:03d}"] = k
        h5["soft"] = h5py.SoftLink("/many/group")
        h5["round"] = h5py.SoftLink("/round")
        h5["away/x"] = h5py.ExternalLink("b.h5", "/x")
    with Subject(str(path)) as subject:
        for place in ("many/group/d000", "many/group/d399", "soft/d200", "away/x"):
            assert path_fault(subject, place) is None
        assert path_fault(subject, "round/x") == "soft links in / lead in a circle"
        assert path_fault(subject, "many/none") == "no none in /many"


def test_damaged_files_are_layout_errors(kept: dict[str, Path], tmp_path: Path) -> None:
    """Any byte may be wrong: no other exception, and an end."""
    whole = kept["ours"].with_name("out_000001.h5").read_bytes()
    with h5py.File(kept["ours"].with_name("out_000001.h5")) as h5:
        address = h5py.h5o.get_info(h5["/entry/data/data"].id).addr
    rng = np.random.default_rng(5)
    path = tmp_path / "damaged.h5"
    outcomes = set()
    for _ in range(300):
        raw = bytearray(whole[: rng.integers(100, len(whole))] if rng.random() < 0.3 else whole)
        for at in rng.integers(0, min(len(raw), 4096), 20):
            raw[at] = rng.integers(256)
        path.write_bytes(raw)
        try:
            with H5Bytes(path) as opened:
                outcomes.add(opened.trace("/entry/data/data").fault is None)
                opened.layout(address)
        except LayoutError as error:
            outcomes.add(bool(str(error)))
    assert outcomes == {True, False}


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        judge(str(tmp_path))


ODD: list[Any] = [
    np.bytes_("what"),
    np.array([b"what", b"ever"]),
    h5py.Empty("f4"),
    np.zeros((0, 2)),
    np.ones((1, 2, 2), "i8"),
    np.float64("nan"),
]
SIZES = [np.bytes_("what"), h5py.Empty("i4"), np.float64("nan"), np.int32(5), np.array([514.0, 1030.0])]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("which", ["older", "nxmx", "nxmx_eiger"])
def test_odd_values_are_findings_not_tracebacks(which: str, shift: int, kept: dict[str, Path], tmp_path: Path) -> None:
    """Every dataset of a master in turn is of a kind that nobody expects."""
    master = copy_set(kept[which], tmp_path)
    whole = master.read_bytes()
    places: list[str] = []
    with h5py.File(master) as h5:
        h5.visititems(lambda name, item: places.append(name) if isinstance(item, h5py.Dataset) else None)
    assert len(places) > 30
    for k, place in enumerate(places):
        put(master, place, ODD[(k + shift) % len(ODD)])
        assert judge(str(master)).findings
        master.write_bytes(whole)


@pytest.mark.parametrize("size", SIZES)
def test_odd_sizes_fail(size: Any, kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["nxmx_eiger"], tmp_path)
    put(master, f"{MODULE}/data_size", size)
    failed = {(f.rule.reader, f.rule.name) for f in judge(str(master)).failed}
    assert failed >= {(DIALS, "data-size"), (UPSTREAM, "known-size")}


@pytest.mark.parametrize("value", [np.float32(3), np.zeros(3), h5py.Empty("f4"), np.bytes_("what"), "what"])
def test_odd_attributes_are_findings_not_tracebacks(value: Any, kept: dict[str, Path], tmp_path: Path) -> None:
    master = copy_set(kept["nxmx"], tmp_path)
    axis = "/entry/sample/transformations/omega"
    for place, name in [("/entry", "NX_class"), ("/entry/data", "signal"), (axis, "depends_on"), (axis, "units")]:
        attribute(place, name, value)(master)
        assert judge(str(master)).findings


def test_a_file_that_is_refused_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x_master.h5"
    with h5py.File(path, "w") as h5:
        h5["entry/instrument"] = h5py.ExternalLink("/dev/zero", "/entry/instrument")
    with pytest.raises(InputError, match="no regular file") as caught:
        Subject(str(path))
    # The traceback holds what failed, and its file.
    assert caught.tb is not None
    assert not [n for n in h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE) if h5py.h5f.get_name(n) == bytes(path)]
