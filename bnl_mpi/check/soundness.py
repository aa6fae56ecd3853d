"""Whether a set of this program is whole and of one piece: what `/entry/bnl_mpi` of each file tells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import h5py
import numpy as np

from ..hdf5 import access
from ..hdf5.names import PROCESS, RECORD
from ..input.reflections.regions import unpack_columns
from ..output.record import GROUP
from .facts import Block, Stored
from .rule import OURS, rule, worst
from .subject import Observation, Subject

KEPT, REGIONS = f"{PROCESS}/kept".lstrip("/"), f"{RECORD}/kept_regions".lstrip("/")
PROCESS_SHA256 = f"{PROCESS}/plan_sha256".lstrip("/")


def _ours(s: Subject) -> Iterator[tuple[Block, Stored]]:
    for block, images in s.present:
        if block.plan_sha256 is not None:
            yield block, images


def _records(s: Subject) -> Iterator[tuple[Block, Stored, h5py.Group]]:
    for block, images in _ours(s):
        yield block, images, s.opened(images.file)[GROUP]


@rule(OURS, "blocks", "a master of this program: every data file of it there")
def blocks(s: Subject) -> Iterator[Observation]:
    if s.dataset(PROCESS_SHA256) is not None:
        yield from worst(
            Observation(b.images is not None, b.target, f"/entry/data/{b.name}", b.problem or "found") for b in s.blocks
        )


@rule(OURS, "one-plan", "master and data files of one run's plan")
def one_plan(s: Subject) -> Iterator[Observation]:
    told = s.dataset(PROCESS_SHA256)
    wanted = None if told is None else access.text(told[()])
    seen = []
    for block, _ in s.present:
        if wanted is None and block.plan_sha256 is None:
            continue
        wanted = wanted or block.plan_sha256
        found = f"{(block.plan_sha256 or 'none')[:12]}, wanted {str(wanted)[:12]}"
        seen.append(Observation(block.plan_sha256 == wanted, block.target, f"{GROUP}@plan_sha256", found))
    yield from worst(seen)


@rule(OURS, "plan-hash", "each data file's plan the one that its hash is of")
def plan_hash(s: Subject) -> Iterator[Observation]:
    seen = []
    for block, images, group in _records(s):
        plan = access.get_dataset(group, "plan")
        text = b"" if plan is None else bytes(plan[()])
        digest = hashlib.sha256(text).hexdigest()
        seen.append(Observation(digest == block.plan_sha256, images.file, f"{GROUP}/plan", digest[:12]))
    yield from worst(seen)


@rule(OURS, "block-number", "each data file linked under its own number")
def block_number(s: Subject) -> Iterator[Observation]:
    seen = []
    for block, images, group in _records(s):
        number = int(group.attrs["block"]) if "block" in group.attrs else -1
        ok = block.name == f"data_{number:06d}"
        seen.append(Observation(ok, images.file, f"{GROUP}@block", f"{number}, linked as {block.name}"))
    yield from worst(seen)


@rule(OURS, "records", "a checksum and a range of frames for every image, the frames without a gap")
def records(s: Subject) -> Iterator[Observation]:
    seen = []
    following: int | None = None
    for _, images, group in _records(s):
        sizes = [_length(group, name) for name in ("chunk_crc32", "image_crc32", "frames")]
        n = images.shape[0]
        seen.append(Observation(sizes == [n] * 3, images.file, GROUP, f"{sizes} records, {n} images"))
        if sizes != [n] * 3 or n == 0:
            following = None
            continue
        frames = group["frames"][()].astype(np.int64)
        ok = bool((frames[1:, 0] == frames[:-1, 1] + 1).all()) and following in (None, frames[0, 0])
        found = f"frames {frames[0, 0]} to {frames[-1, 1]}"
        seen.append(Observation(ok, images.file, f"{GROUP}/frames", found))
        following = int(frames[-1, 1]) + 1
    yield from worst(seen)


@rule(OURS, "kept-regions", "of a set made with --keep: its regions whole, and told by every data file")
def kept_regions(s: Subject) -> Iterator[Observation]:
    told, regions = s.dataset(KEPT), s.dataset(REGIONS)
    if told is None and regions is None:
        if s.dataset(PROCESS_SHA256) is not None:
            yield Observation(True, s.path, f"/{KEPT}", "made without")
        return
    wanted = None if told is None else json.loads(access.text(told[()])).get("regions_sha256")
    found = None if regions is None else hashlib.sha256(regions[()].tobytes()).hexdigest()
    yield Observation(found == wanted, s.path, f"/{REGIONS}", f"{str(found)[:12]}, wanted {str(wanted)[:12]}")
    seen = []
    for _, images, group in _records(s):
        problem = _problem_of_pixels(group, images)
        seen.append(Observation(problem is None, images.file, f"{GROUP}/kept_pixels", problem or "found"))
    yield from worst(seen)


def _problem_of_pixels(group: h5py.Group, images: Stored) -> str | None:
    packed = access.get_dataset(group, "kept_pixels")
    if packed is None:
        return "absent"
    try:
        numbers, pixels = unpack_columns(packed[()].tobytes(), 2)
    except ValueError as error:
        return str(error)
    n, ny, nx = images.shape
    fits = not len(pixels) or (
        numbers.min() >= 0 and numbers.max() < n and pixels.min() >= 0 and pixels.max() < ny * nx
    )
    return None if fits else "outside the images"


def _length(group: h5py.Group, name: str) -> int:
    found = access.get_dataset(group, name)
    return -1 if found is None or not found.ndim else int(found.shape[0])
