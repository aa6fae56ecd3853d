"""By what a job's input is known again: the master's content, and what blocks have read of which file.

The master's digest is over its items, not its bytes, so that a set may be copied and moved.  Files of frames are told
by fingerprints, and each frame by a checksum; both come from the workers, which open these files anyhow, and are kept
in each block's record.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import h5py
import numpy as np

from ..errors import InputError
from ..hdf5 import access, steady
from ..hdf5.digest import NO_VALUES, Values, content_sha256
from ..pixels import kernels
from .experiment import Experiment
from .frames import FrameReader
from .reading import Fingerprint, Stamp, stamp
from .source import Source

FILES, CHECKSUMS, BAD = "input_files", "frames_crc32", "bad_frames"
"""Datasets of a block's record: JSON of fingerprints; a checksum for each frame; frames that couldn't be read."""


def master_sha256(h5: h5py.File, source: Source, experiment: Experiment, content: str | None = None) -> str:
    """Of all that a job reads of an open master; of what lies behind its links, what planning has read.

    Links to data files count by name.  Frames that the master holds itself count by their fingerprint.  `content` is
    the digest of its content with the data files' links left out, where it is known.
    """
    own = {segment.dataset for segment in source.segments if segment.path == source.master}

    def holds_frames(path: str) -> bool:
        return path in own or access.DATA_NAME.fullmatch(path.removeprefix("/entry/data/")) is not None

    digest = hashlib.sha256()
    try:
        known = None if own else content
        found = known or content_sha256(h5, checked_elsewhere=holds_frames, at_hand=_mask_of(h5, experiment))
        digest.update(found.encode())
    except (OSError, RuntimeError, TypeError, ValueError, KeyError, NotImplementedError) as error:
        if "file read failed" in str(error):
            raise
        # Something in it can't be read, and is left out of the output: the bytes then.
        digest.update(_bytes_sha256(source.master))
    digest.update(f"{experiment.satval} {experiment.nimages} {experiment.ntrigger}".encode())
    for axis in experiment.axes:
        digest.update(f"{axis.path} {axis.increment}".encode() + axis.start.tobytes())
    if experiment.mask is not None:
        # A mask in the master has counted already, in full; one behind a link is held against changes by accident.
        digest.update(f"{experiment.mask.shape} {kernels.crc32(experiment.mask)}".encode())
    return digest.hexdigest()


def _mask_of(h5: h5py.File, experiment: Experiment) -> Values:
    """The mask, where it is what the master stores, as it stores it: most of what a master holds, and read already."""
    mask = experiment.mask
    stored = None if experiment.mask_path is None else access.get_dataset(h5, experiment.mask_path)
    if mask is None or stored is None or stored.shape != mask.shape:
        return NO_VALUES
    same = steady.told(stored)[0].equal(h5py.h5t.py_create(mask.dtype))
    number, address = access.identity(stored)
    return {address: mask} if same and number == access.identity(h5)[0] else NO_VALUES


def _bytes_sha256(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.digest()


def items(source: Source, h5: h5py.File, experiment: Experiment, content: str | None = None) -> dict[str, Any]:
    """What a job's identity tells of its input; `content` as for `master_sha256`."""
    sizes = json.dumps(source.file_sizes(), sort_keys=True)
    return {
        "master": os.path.basename(source.master),
        "sizes_sha256": hashlib.sha256(sizes.encode()).hexdigest(),
        "master_sha256": master_sha256(h5, source, experiment, content),
    }


@dataclass
class BlockInput:
    """What a block was made of, as its record keeps it."""

    files: list[Fingerprint] = field(default_factory=list)
    """Of each file that frames were read from, in order."""
    frames_crc32: list[int] = field(default_factory=list)
    """Of each frame, in order, as `reading.Fetched` tells it; 0 where it couldn't be read."""
    bad_frames: list[int] = field(default_factory=list)
    """Frames, from 1, that couldn't be read and count as invalid."""

    def datasets(self) -> dict[str, Any]:
        """As the record stores it."""
        found: dict[str, Any] = {
            FILES: np.bytes_(json.dumps([asdict(one) for one in self.files], sort_keys=True).encode()),
            CHECKSUMS: np.array(self.frames_crc32, "<u4"),
        }
        if self.bad_frames:
            found[BAD] = np.array(self.bad_frames, "<u4")
        return found


def read_block_input(group: h5py.Group) -> BlockInput | None:
    """What the record `group` of an open block keeps; None in those of older versions."""
    if FILES not in group or CHECKSUMS not in group:
        return None
    files = [Fingerprint(**one) for one in json.loads(access.text(group[FILES][()]))]
    bad = group[BAD][()].tolist() if BAD in group else []
    return BlockInput(files, group[CHECKSUMS][()].tolist(), bad)


def block_input(reader: FrameReader, frames: range, bad: Sequence[int]) -> BlockInput:
    """What `reader` has read since `begin`: a block of `frames` (from 0), of which those of `bad` couldn't be."""
    checksums = [0 if frame in bad else reader.checksums.get(frame, 0) for frame in frames]
    return BlockInput(list(reader.fingerprints.values()), checksums, [frame + 1 for frame in bad])


def changed(stamps: Mapping[str, Stamp]) -> list[str]:
    """A line for each file that isn't any more what it was when it was stamped."""
    lines = []
    for path, before in stamps.items():
        try:
            now = stamp(path)
        except InputError as error:
            lines.append(f"{error}, though frames were read from it")
            continue
        if now != before:
            size = f" ({before.size} bytes before, {now.size} now)" if now.size != before.size else ""
            lines.append(f"{path}: was changed or replaced while the run went on{size}; start again with --force")
    return lines


SAMPLES = 3
"""Frames of a block that are read again to tell whether the raw data is what it was."""


def differs(source: Source, frames: range, kept: BlockInput) -> str | None:
    """Why the input isn't any more what a kept block of `frames` (from 0) was made of; None if it is."""
    reader = FrameReader(source)
    out = np.empty(source.shape, source.dtype)
    try:
        for fingerprint in _fingerprints(reader, frames, out):
            if fingerprint not in kept.files:
                return f"the input's file {fingerprint.name} had other content"
        for frame in sorted({frames[k * (len(frames) - 1) // max(1, SAMPLES - 1)] for k in range(SAMPLES)}):
            crc32 = kept.frames_crc32[frame - frames.start]
            if frame + 1 not in kept.bad_frames and reader.fetch(frame, out).crc32 != crc32:
                return f"frame {frame + 1} of the input was another"
    except InputError as error:
        return str(error)
    finally:
        reader.close()
    return None


def _fingerprints(reader: FrameReader, frames: range, out: np.ndarray[Any, Any]) -> Sequence[Fingerprint]:
    """Of each file that holds some of the frames."""
    begin, found = 0, []
    for segment in reader.source.segments:
        end = begin + segment.count
        if begin < frames.stop and frames.start < end:
            found.append(reader.fingerprint_of(max(begin, frames.start)))
        begin = end
    return found
