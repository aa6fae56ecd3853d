"""Plans, and the new masters of made-up inputs, without data files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from make_inputs import InputSpec, MadeInput

from bnl_mpi.hdf5 import access
from bnl_mpi.input import experiment as metadata
from bnl_mpi.output import master, nexus
from bnl_mpi.plan import Plan

TRANSFORMATIONS = "/entry/sample/transformations"
PROVENANCE = {"program": "bnl_mpi", "version": "1", "options": {"bin": 2}}
SELECTIONS = [
    {"sum": 1},
    {"sum": 2},
    {"sum": 5},  # leaves a partial image
    {"sum": 3, "first_frame": 2, "n_frames": 7},
    {"sum": 12},
    {"first_frame": 11, "n_frames": 1},
]


def make_plan(total: int, **changes: Any) -> Plan:
    plan = Plan(
        n_frames_in=total,
        first_frame=0,
        n_frames=total,
        sum=1,
        binning=1,
        scale=1.0,
        shape_in=(11, 14),
        dtype_in="uint16",
        dtype_out="uint16",
        block_size=4,
        satval=30000,
        limit=30000,
    )
    return replace(plan, **changes)


def reduce_master(made: MadeInput, target: Path | None = None, **changes: Any) -> tuple[Path, list[str], Plan]:
    """Write OUT_master.h5 for the plan, without data files."""
    spec = made.spec
    with access.open_read(made.master) as h5:
        experiment = metadata.read_experiment(h5, spec.n_frames, np.dtype(spec.dtype), spec.shape)
    plan = make_plan(spec.n_frames, shape_in=spec.shape, satval=experiment.satval, limit=experiment.satval)
    plan = replace(plan, **changes)
    target = target or made.master.with_name("out_master.h5")
    warnings = master.write_master(
        target,
        made.master,
        plan,
        data_files=[(f"out_{block.number:06d}.h5", block.n_images) for block in plan.blocks()],
        experiment=experiment,
        provenance=PROVENANCE,
        data_dtype=np.dtype(plan.dtype_out),
    )
    return target, warnings, plan


def reduce_nxs(made: MadeInput, **changes: Any) -> tuple[Path, list[str], Plan]:
    """Write OUT.nxs for the plan, without data files."""
    spec = made.spec
    with access.open_read(made.master) as h5:
        experiment = metadata.read_experiment(h5, spec.n_frames, np.dtype(spec.dtype), spec.shape)
    plan = make_plan(spec.n_frames, shape_in=spec.shape, satval=experiment.satval, **changes)
    target = made.master.with_name("out.nxs")
    lacking = nexus.write_nxs(
        target,
        made.master,
        plan,
        data_files=[(f"out_{block.number:06d}.h5", block.n_images) for block in plan.blocks()],
        experiment=experiment,
        provenance={"program": "bnl_mpi"},
        data_dtype=np.dtype(plan.dtype_out),
    )
    return target, lacking, plan


def nxmx(**changes: Any) -> InputSpec:
    return InputSpec(flavour="nxmx", libver="v110", **changes)


def value(h5: h5py.File, path: str) -> Any:
    return access.scalar(h5[path])


def brute(values: npt.NDArray[Any], binning: int, one: Any) -> npt.NDArray[Any]:
    """A map over bins, `one` called with each bin's slices."""
    ny, nx = values.shape
    rows = range(0, ny, binning)
    return np.array([[one(slice(y, y + binning), slice(x, x + binning)) for x in range(0, nx, binning)] for y in rows])
