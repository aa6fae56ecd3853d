"""The job of exporting a set: what its CBF headers tell."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import h5py
import numpy as np

from .._version import __version__
from ..errors import InputError, UsageError
from ..hdf5 import access, guard
from ..hdf5.names import DETECTOR
from ..input import experiment as metadata
from ..input import opening
from ..input.experiment import Experiment
from ..input.source import Source
from ..job import Job, Prepared
from ..options import Options
from ..output import nexus, nxmx, record
from ..output.cbffile import Template
from ..output.cbfheader import Told
from ..output.placement import read_placement
from ..plan import Plan
from .expanded import is_htj2k

IMAGES_A_BLOCK = 10
"""Work is shared out, and reported, by so many images."""

GAP, BAD = -1, -2
"""Pixels that the mask flags with 1 alone; all others that are no counts."""


@dataclass(frozen=True)
class Export(Job):
    """The job of writing a set as CBF files; images are the set's own, from 0."""

    template: Template
    told: Told
    packed_marks: bytes
    """int8, deflated: what the mask makes of each pixel, 0 where it flags none."""
    takes_block_size: ClassVar[bool] = False

    def marks(self) -> np.ndarray[Any, Any]:
        """(ny, nx) int8."""
        return np.frombuffer(zlib.decompress(self.packed_marks), np.int8).reshape(self.plan.shape_in)

    def images_of(self, number: int) -> range:
        return self.plan.block(number).images


def prepare(options: Options, template: Template, *, trust_counts: bool = True) -> Prepared:
    """Read the set's master, and make the headers' facts of it.  Opens nothing for writing but a scratch file."""
    with opening.open_master(options.infile) as h5, guard.understood(options.infile):
        surveyed = guard.survey(h5, h5.filename)
        expected = opening.frames_told(h5)[0]
        source = opening.open_source(options.infile, h5, expected, trust_counts=trust_counts, channel=options.channel)
        guard.check_sizes(surveyed, source.shape)
        dtype = np.dtype(source.dtype)
        experiment = metadata.read_experiment(h5, source.n_frames, dtype, source.shape)
    _check_pixels(options.infile, source, template)
    plan = _plan(source, experiment)
    told = _told(options, plan, experiment)
    sizes = json.dumps(source.file_sizes(), sort_keys=True)
    items = {"master": os.path.basename(source.master), "sizes_sha256": hashlib.sha256(sizes.encode()).hexdigest()}
    identity = record.identity({"cbf": os.path.basename(str(template))}, plan, items, __version__)
    told = dataclasses.replace(told, made_by=f"{told.made_by} {record.sha256_of(identity)}")
    job = Export(options, plan, source, identity, None, template, told, _packed_marks(experiment, source.shape))
    return Prepared(job, (*source.warnings, *experiment.warnings))


def _check_pixels(infile: str, source: Source, template: Template) -> None:
    if np.dtype(source.dtype).kind not in "ui":
        raise InputError(f"{infile}: pixels of type {source.dtype}; CBF images are of integers")
    first = source.segments[0]
    if first.kind == "hdf5" and is_htj2k(first.path, first.dataset):
        raise InputError(f"{infile}: HTJ2K codestreams hold no marks; bnl-mpi expand makes a set that can be exported")
    if source.n_frames >= 10**template.digits:
        raise UsageError(f"--cbf {template}: {source.n_frames} images need more digits; add a # or more")


def _plan(source: Source, experiment: Experiment) -> Plan:
    n = source.n_frames
    satval = experiment.satval
    return Plan(n, 0, n, 1, 1, 1.0, source.shape, source.dtype, "int32", IMAGES_A_BLOCK, satval, satval)


def _told(options: Options, plan: Plan, experiment: Experiment) -> Told:
    """Through the set's NXmx file, in which the geometry of both flavours is complete."""
    with tempfile.TemporaryDirectory(prefix="bnl-mpi-") as folder:
        path = os.path.join(folder, "set.nxs")
        lacking = nexus.write_nxs(
            path,
            options.infile,
            plan,
            data_files=[("data.h5", plan.n_images)],
            experiment=experiment,
            provenance={},
            data_dtype=np.dtype(plan.dtype_in),
        )
        if lacking:
            raise InputError(f"{options.infile}: lacks {', '.join(lacking)}, without which no CBF header can be made")
        with access.open_read(path) as h5, guard.understood(options.infile):
            return _facts(h5, options, plan, experiment)


def _facts(h5: h5py.File, options: Options, plan: Plan, experiment: Experiment) -> Told:
    def text(path: str) -> str:
        found = access.get_dataset(h5, path)
        return "" if found is None else access.text(found[()])

    def number(name: str) -> float | None:
        return access.number(h5, f"{DETECTOR}/{name}")

    place = read_placement(h5, plan.n_images)
    normal = np.cross(place.fast, place.slow)
    distance = abs(float(normal @ place.origin))
    # Where the detector faces the beam, its place is the truth; else the beam centre is the header's own affair.
    beam = (-float(place.origin @ place.fast) / place.pixel[0], -float(place.origin @ place.slow) / place.pixel[1])
    told = number("beam_center_x"), number("beam_center_y")
    if not place.is_plain and told[0] is not None and told[1] is not None:
        beam = told[0], told[1]
    wavelength = nxmx.wavelength(h5)
    assert wavelength is not None
    limit = experiment.satval
    return Told(
        shape=plan.shape_in,
        detector=text(f"{DETECTOR}/description"),
        serial=text(f"{DETECTOR}/detector_number"),
        material=text(f"{DETECTOR}/sensor_material") or None,
        thickness=number("sensor_thickness"),
        exposure=number("count_time"),
        period=number("frame_time"),
        cutoff=None if experiment.satval_from.startswith("default") else int(limit),
        threshold=number("threshold_energy"),
        wavelength=float(np.asarray(access.read(wavelength)).reshape(-1)[0]),
        distance=distance / 1e3,
        beam=beam,
        n_excluded=0 if experiment.mask is None else int(np.count_nonzero(experiment.mask)),
        start_time=text("entry/start_time") or None,
        placement=place,
        made_by=f"Exported_by bnl_mpi {__version__}, {os.path.basename(os.path.abspath(options.infile))}",
    )


def _packed_marks(experiment: Experiment, shape: tuple[int, int]) -> bytes:
    mask = np.zeros(shape, np.uint32) if experiment.mask is None else experiment.mask
    marks = np.where(mask == 1, GAP, np.where(mask != 0, BAD, 0)).astype(np.int8)
    return zlib.compress(marks.tobytes(), 1)
