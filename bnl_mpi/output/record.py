"""The record: what the program writes of a job and of its blocks, and reads again years later.

Stored items have names of their own, written and read here alone: renaming a field of a class changes no file.
Format 1 is that of version 0.1.0, which told no number.  Format 2 adds `format`, in each block a digest over all of
the file but the images' bytes, and where an image's checksum wasn't taken, that.  Readers take the items they know,
and leave others alone; a later format that they couldn't read gets a number above FORMAT, and is refused by it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from ..errors import BnlError
from ..hdf5 import access
from ..hdf5.digest import content_sha256
from ..hdf5.names import RECORD
from ..plan import Plan

FORMAT = 2

PROGRAM = '"program": "bnl_mpi"'
"""In the JSON of every job's identity."""

GROUP = RECORD
CONTENT = "content_sha256"
"""Attribute of GROUP: the digest of the file."""
COUNTS = (
    "bytes_read", "bytes_codestream", "n_clipped", "n_invalid", "greatest_error", "squared_error", "n_measured",
    "n_exact", "missed_end", "missed_jump", "missed_trials", "n_kept", "n_kept_measured", "n_kept_beside",
    "sum_before", "sum_after", "greatest_background", "squared_background",
    "n_judged", "n_over", "n_gentler", "added_noise_1000",
)  # fmt: skip
"""Attributes of GROUP: what a block's report tells, beyond what its files tell themselves."""
SCALAR = h5py.h5s.create(h5py.h5s.SCALAR)
WORTH_PACKING = 8192
"""Bytes: the index that a compressed dataset needs takes some 3 kB."""


# ---- the job --------------------------------------------------------------------------------------------


def plan_items(plan: Plan) -> dict[str, Any]:
    """A plan as JSON can hold it."""
    return {
        "n_frames_in": plan.n_frames_in,
        "first_frame": plan.first_frame,
        "n_frames": plan.n_frames,
        "sum": plan.sum,
        "binning": plan.binning,
        "scale": plan.scale,
        "shape_in": list(plan.shape_in),
        "dtype_in": plan.dtype_in,
        "dtype_out": plan.dtype_out,
        "block_size": plan.block_size,
        "satval": plan.satval,
        "limit": plan.limit,
        "saturation": plan.saturation,
    }


def plan_from(items: Mapping[str, Any]) -> Plan:
    """The plan that `plan_items` wrote, in this format or an older one.

    Raises KeyError, TypeError or ValueError where they aren't a plan's.
    """
    ny, nx = (_count(one, "shape_in") for one in items["shape_in"])
    return Plan(
        n_frames_in=_count(items["n_frames_in"], "n_frames_in"),
        first_frame=_count(items["first_frame"], "first_frame", least=0),
        n_frames=_count(items["n_frames"], "n_frames"),
        sum=_count(items["sum"], "sum"),
        binning=_count(items["binning"], "binning"),
        scale=float(items["scale"]),
        shape_in=(ny, nx),
        dtype_in=_type(items["dtype_in"], "dtype_in"),
        dtype_out=_type(items["dtype_out"], "dtype_out"),
        block_size=_count(items["block_size"], "block_size"),
        satval=_number(items["satval"], "satval"),
        limit=_number(items["limit"], "limit"),
        saturation=str(items.get("saturation", "clip")),
    )


def _count(value: Any, name: str, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}")
    return value


def _type(value: Any, name: str) -> str:
    if not isinstance(value, str) or np.dtype(value).name != value:
        raise ValueError(f"{name} is {value!r}")
    return value


def _number(value: Any, name: str) -> float:
    """As it is: an integer and a float of one value make different JSON, and so different hashes."""
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}")
    return value


def identity(options: Mapping[str, Any], plan: Plan, source: Mapping[str, Any], version: str) -> str:
    """JSON of what determines the output; `options` as `Options.identity` gives them, `source` tells the input."""
    items = {
        "program": "bnl_mpi",
        "format": FORMAT,
        "version": version,
        "options": dict(options),
        "plan": plan_items(plan),
        "input": dict(source),
    }
    return json.dumps(items, sort_keys=True)


def stem_of(out_file: str) -> str:
    """The last part of a set's name, as text that any file can hold."""
    return os.fsencode(os.path.basename(out_file)).decode("utf-8", "replace")


def sha256_of(text: str) -> str:
    """The hash of a job's identity, by which all files of one run are known."""
    return hashlib.sha256(text.encode()).hexdigest()


# ---- a block --------------------------------------------------------------------------------------------


@dataclass
class BlockRecord:
    """What `/entry/bnl_mpi` holds of a block.  Frames are counted from 1 there."""

    plan_sha256: str
    plan: str
    """What `plan_sha256` is the hash of: the job's identity."""
    number: int
    chunk_crc32: list[int] = field(default_factory=list)
    image_crc32: list[int | None] = field(default_factory=list)
    """Of each image's pixels: as any reader decodes them from a data file, as marked ones in a squash file.  None
    where an image wasn't decoded: 0 in the file, whose `image_crc32_taken` is 0 there, 1 elsewhere."""
    frames: list[tuple[int, int]] = field(default_factory=list)
    """First and last frame of each image."""
    invalid: list[np.ndarray[Any, Any]] | None = None
    """Where the stored form has no marks: flat indices (slow * nx + fast) of each image's invalid pixels, but for
    those of `blank`."""
    blank: np.ndarray[Any, Any] | None = None
    """(ny, nx) uint8, with `invalid`: not 0 where every image is invalid."""
    counts: dict[str, int] = field(default_factory=dict)
    """Figures of the block for the summary of a run that finds it made already; see COUNTS."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further datasets by name: what readers need not know of."""
    stem: str = ""
    """`stem_of` the set's name, for data and squash files alike: by it `--force` knows its own."""

    def begin(self, file: Any) -> None:
        """Write whose the new file is, before all else."""
        group = file.create_group(GROUP)
        # Fixed-length: Debian's DIALS takes no other kind.
        group.attrs["NX_class"] = np.bytes_("NXcollection")
        group.attrs["format"] = np.uint32(FORMAT)
        group.attrs["plan_sha256"] = np.bytes_(self.plan_sha256)
        group.attrs["block"] = np.uint32(self.number)
        if self.stem:
            group.attrs["stem"] = np.bytes_(self.stem.encode())
        group["plan"] = np.bytes_(self.plan.encode())

    def finish(self, file: Any) -> None:
        """Write what is known when all images are in the file, a digest last."""
        group = file[GROUP]
        group["chunk_crc32"] = np.array(self.chunk_crc32, "<u4")
        group["image_crc32"] = np.array([crc or 0 for crc in self.image_crc32], "<u4")
        if None in self.image_crc32:
            group["image_crc32_taken"] = np.array([crc is not None for crc in self.image_crc32], "u1")
        group["frames"] = np.array(self.frames, "<u4").reshape(-1, 2)
        for name, value in self.counts.items():
            _put_count(group, name, value)
        for name, values in self.extra.items():
            group[name] = values
        if self.invalid is not None:
            _write_invalid(group, self.invalid, self.blank)


def _put_count(group: Any, name: str, value: int) -> None:
    """A new attribute, by HDF5's own calls: there are many of them."""
    made = h5py.h5a.create(group.id, name.encode(), h5py.h5t.STD_U64LE, SCALAR)
    made.write(np.array(value, "<u8"))


def _write_invalid(group: Any, invalid: list[np.ndarray[Any, Any]], blank: np.ndarray[Any, Any] | None) -> None:
    ends = np.cumsum([len(i) for i in invalid], dtype="<u8")
    group["invalid_ends"] = ends
    pixels = np.concatenate([*invalid, np.empty(0, "<u4")]).astype("<u4")
    packed = {"compression": "gzip", "shuffle": True} if pixels.nbytes > WORTH_PACKING else {}
    group.create_dataset("invalid_pixels", data=pixels, **packed)
    if blank is not None:
        # Gaps are most of it, and pack to next to nothing.
        group.create_dataset("blank", data=blank, chunks=blank.shape, compression="gzip")


def seal(file: Any) -> None:
    """Note the digest of an open block file, when all else is in it."""
    file[GROUP].attrs[CONTENT] = np.bytes_(digest(file))


def digest(file: Any) -> str:
    """Over all of an open block file, but for the bytes of its images and of its codestreams."""
    return content_sha256(
        file, leave_out={f"{GROUP}@{CONTENT}"}, checked_elsewhere=lambda path: path.startswith("/entry/data/")
    )


class InvalidPixels:
    """What an open block file lists of invalid pixels, where its images can't hold marks."""

    def __init__(self, file: Any, shape: tuple[int, int]) -> None:
        group = file[GROUP]
        blank = group["blank"][()] if "blank" in group else np.zeros(shape, np.uint8)
        self._blank = np.ascontiguousarray(blank != 0)
        self._pixels = np.split(group["invalid_pixels"][()], group["invalid_ends"][:-1].astype(int))
        if blank.shape != shape:
            raise ValueError(f"{GROUP}/blank is of {blank.shape} pixels, the images are of {shape}")

    def of(self, index: int) -> np.ndarray[Any, Any]:
        """(ny, nx) bool: what is invalid in image `index` of the block, from 0."""
        invalid: np.ndarray[Any, Any] = self._blank.copy()
        invalid.reshape(-1)[self._pixels[index]] = True
        return invalid


def read_invalid(file: Any, shape: tuple[int, int]) -> InvalidPixels | None:
    """The invalid pixels of the images (ny, nx) of an open block file; None where it lists none."""
    return InvalidPixels(file, shape) if "invalid_ends" in file[GROUP] else None


def image_checksums(file: Any) -> list[int | None]:
    """The checksum of each image's pixels in an open block file; None where the run didn't take it."""
    group = file[GROUP]
    found = group["image_crc32"][()].tolist()
    taken = group["image_crc32_taken"][()].tolist() if "image_crc32_taken" in group else [1] * len(found)
    return [crc if had else None for crc, had in zip(found, taken, strict=True)]


@dataclass(frozen=True)
class Head:
    """What a block file tells of itself."""

    format: int
    plan_sha256: str
    number: int
    n_images: int
    stem: str | None
    """None in format 1, as the following."""
    content_sha256: str | None


def read_head(file: Any) -> Head:
    """Of an open file.  Raises what h5py does, or ValueError, where it is no block file or one of a later format."""
    group = file[GROUP]
    version = int(group.attrs.get("format", 1))
    if version > FORMAT:
        raise ValueError(f"{GROUP} is of format {version}, made by a later bnl-mpi; this one reads up to {FORMAT}")
    n_images = len(group["chunk_crc32"])
    if len(group["image_crc32"]) != n_images:
        raise ValueError(f"{GROUP}/image_crc32 is not of {n_images} images")
    content = access.text(group.attrs[CONTENT]) if CONTENT in group.attrs else None
    if version > 1 and content is None:
        raise ValueError(f"{GROUP} of format {version} has no {CONTENT}")
    stem = access.text(group.attrs["stem"]) if "stem" in group.attrs else None
    return Head(version, access.text(group.attrs["plan_sha256"]), int(group.attrs["block"]), n_images, stem, content)


def read_plan_sha256(path: str) -> str | None:
    """The plan that the block file at `path` belongs to, or None where that is no block file of ours."""
    try:
        with access.open_read(path) as file:
            return access.text(file[GROUP].attrs["plan_sha256"])
    except (KeyError, OSError, RuntimeError, ValueError, BnlError):
        return None


def read_plan(path: str) -> dict[str, Any]:
    """The job's identity that the block file at `path` was made with; empty if it can't tell."""
    try:
        with access.open_read(path) as file:
            return told_plan(file)
    except (KeyError, OSError, RuntimeError, ValueError, BnlError):
        return {}


def told_plan(file: Any) -> dict[str, Any]:
    """The same of an open block file.  Raises what h5py does, or ValueError, where it can't tell."""
    plan = json.loads(access.text(file[GROUP]["plan"][()]))
    return plan if isinstance(plan, dict) else {}


def read_counts(path: str) -> dict[str, int]:
    """COUNTS of a sound data file."""
    with access.open_read(path) as file:
        attributes = file[GROUP].attrs
        return {name: int(attributes[name]) for name in COUNTS if name in attributes}
