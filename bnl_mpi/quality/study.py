"""What a reduction leaves of the diffraction: a record of each setting.

Each setting is applied to one data set, DIALS processes the result in the same way and to the same resolution, and
the merged intensities are compared with what is known: the simulation's truth, or the unreduced data's own merged
intensities. A record of each setting stays in the work folder as JSON, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..estimate.names import RAW, Setting
from ..hdf5.access import open_read
from . import reduced
from .chain import ChainError, ChainOptions, ChainResult, run_chain
from .records import USUAL_FILTER, filter_of
from .settings import Drawn, Series, described, name_of, place_of

if TYPE_CHECKING:
    from .observations import Floats, Observations

SHELLS = 10
RECORD_VERSION = 7


def run_series(series: Series, settings: Sequence[Setting | None], work: Path, nproc: int) -> list[str]:
    """Do every setting that has no record yet, and print a line for each; what failed, a line each."""
    folder = work / series.name
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for setting in settings:
        name = name_of(setting)
        try:
            record = run_setting(series, setting, folder, nproc)
        except ChainError as error:
            failed.append(f"{series.name} {name}: {error}")
            record = {"wish": _wish(series, setting), "error": str(error)}
            _keep(record_path(folder, name), record)
        print(f"{series.name} {name}: {_summary(record)}", flush=True)
        if record["error"] and setting is None:
            break  # all others are compared with it
    return failed


def _summary(record: Mapping[str, Any]) -> str:
    if record["error"]:
        return "failed"
    overall, outer = record["shells"][0], record["shells"][-1]
    return (
        f"{record['ratio']:.1f}:1, {record['spots']} spots, {100 * record['indexed_fraction']:.1f} % indexed, "
        f"CC1/2 {overall['cc_half']:.4f}, outer {outer['cc_half']:.3f}, "
        f"with the reference {overall['cc_reference']:.4f}, outer {outer['cc_reference']:.3f}"
    )


def run_setting(series: Series, setting: Setting | None, folder: Path, nproc: int = 2) -> dict[str, Any]:
    """The record of one setting: read if it is there and of the same wish, else made and kept.

    Raises ChainError where bnl-mpi or DIALS fails.
    """
    name = name_of(setting)
    path = record_path(folder, name)
    wish = _wish(series, setting)
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text())
        if record["wish"] == wish and not record["error"]:
            return record
    reduced.make_input(series)
    image_file, data_files = reduced.make_reduced(series, setting, folder, nproc)
    sizes = _sizes(series, setting, data_files, folder, nproc)
    result = run_chain(image_file, folder / f"dials_{place_of(name)}", chain_options(series, nproc))
    record = {
        "wish": wish,
        "error": "",
        **sizes,
        "image": reduced.image_shape(data_files[0]),
        **_chain_record(result),
        **_measure(series, setting, result, folder),
    }
    _keep(path, record)
    return record


def _sizes(
    series: Series, setting: Setting | None, data_files: Sequence[Path], folder: Path, nproc: int
) -> dict[str, Any]:
    """Bytes, and ratios to 2 bytes a raw pixel: as stored, to the input as stored, and with the stronger filter.

    Ratios are to the frames that the images hold: the last ones may be fewer than a sum.
    """
    size = reduced.size(data_files)
    if setting is None:
        unreduced, held = {"bytes": size, "unpacked_bytes": reduced.unpacked_size(data_files)}, 1.0
    else:
        unreduced = read_record(folder, RAW)
        held = 1 - unreduced["images"] % setting.sum / unreduced["images"]
    unpacked = held * unreduced["unpacked_bytes"]
    usual = filter_of(described(setting)) == USUAL_FILTER and not isinstance(setting, Drawn)
    return {
        "bytes": size,
        "unpacked_bytes": unreduced["unpacked_bytes"],
        "ratio": unpacked / size,
        "ratio_stored": held * unreduced["bytes"] / size,
        "ratio_strong": unpacked / reduced.strong_size(series, setting, folder, nproc) if usual else None,
    }


def record_path(folder: Path, name: str) -> Path:
    """Where the record of a setting lies."""
    return folder / f"result_{place_of(name)}.json"


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """The record of a setting that was run; ChainError without one."""
    path = record_path(folder, name)
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"error": "never run"}
    if record["error"]:
        raise ChainError(f"the setting '{name}' is needed first ({path}): {record['error']}")
    return record


def _wish(series: Series, setting: Setting | None) -> dict[str, Any]:
    """All that a record depends on, save the code."""
    told = {key: str(value) for key, value in asdict(series).items() if value is not None}
    if series.simulate:
        told = {key: value for key, value in told.items() if key not in ("master", "truth")}
    return {"version": RECORD_VERSION, "name": name_of(setting), "words": described(setting), "series": told}


def _keep(path: Path, record: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record, indent=1))
    partial.rename(path)


def chain_options(series: Series, nproc: int) -> ChainOptions:
    """How DIALS processes every setting of the series."""
    options = ChainOptions(
        series.d_min,
        series.space_group,
        anomalous=series.anomalous,
        quick=series.quick,
        nproc=nproc,
    )
    return options if series.truth is None else replace(options, space_group=true_crystal(series.truth)[1])


def true_crystal(truth: Path) -> tuple[tuple[float, ...], str]:
    """Cell (Angstrom, degrees) and space group symbol of a simulation."""
    with open_read(truth) as file:
        experiment = file["experiment"]
        cell = tuple(float(value) for value in experiment["cell"][()])
        return cell, str(experiment["space_group"].asstr()[()])


def _chain_record(result: ChainResult) -> dict[str, Any]:
    return {
        "images": result.images,
        "spots": result.spots,
        "indexed": result.indexed,
        "indexed_fraction": result.indexed_fraction,
        "cell": list(result.cell),
        "geometry": asdict(result.geometry),
        "rmsd": list(result.rmsd),
        "seconds": result.seconds,
    }


def _measure(series: Series, setting: Setting | None, result: ChainResult, folder: Path) -> dict[str, Any]:
    """Shell statistics, and how far the cell is from the truth's (as a fraction; None without truth)."""
    from . import merging, observations

    data = observations.read_observations(result.unmerged)
    reference, cell_error = None, None
    if series.truth is not None:
        reference = observations.read_truth(series.truth)
        true_cell = true_crystal(series.truth)[0]
        cell_error = max(abs(found / true - 1) for found, true in zip(result.cell, true_cell, strict=True))
    elif setting is not None:
        unreduced = observations.read_observations(folder / f"dials_{RAW}" / "unmerged.mtz")
        reference = merging.reference_from(unreduced)
    operator = "h,k,l"
    if reference is not None:
        reference, operator = merging.aligned(reference, data)
    edges = merging.shell_edges(30.0, series.d_min, SHELLS)
    shells = [asdict(shell) for shell in merging.statistics(data, reference, edges)]
    beside = _beside(setting, data, folder, edges) if isinstance(setting, Drawn) else {}
    return {"cell_error": cell_error, "reindexed": operator, "shells": shells, **beside}


def _beside(setting: Drawn, data: Observations, folder: Path, edges: Floats) -> dict[str, Any]:
    """What a drawn background changes: against the kept set, and, where they ran, the plain one and the unreduced."""
    from .likeness import likeness
    from .observations import read_observations

    plain = Setting(setting.bin, setting.sum)
    found = {}
    for name in (setting.kept.name, plain.name, RAW):
        path = folder / f"dials_{place_of(name)}" / "unmerged.mtz"
        if path.exists():
            found[name] = asdict(likeness(data, read_observations(path), edges))
    return {"beside": found}
