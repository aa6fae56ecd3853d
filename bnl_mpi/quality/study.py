"""What a reduction leaves of the diffraction: ``python -m bnl_mpi.quality.study``.

Each setting (a name and words for bnl-mpi) is applied to one data set, DIALS processes the result in the
same way and to the same resolution, and the merged intensities are compared with what is known. A record
of each setting stays in the work folder as JSON, so that an interrupted run goes on where it was; the page
is written from the records.

Without ``--input`` the series below are simulated, and the reference is the simulation's truth. With it the
reference is the truth named by ``--truth``, or the unreduced data's own merged intensities.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .chain import ChainError, ChainOptions, ChainResult, missing_dials, run_chain
from .records import stores_codestreams
from .settings import FOR_INPUT, PREDICTED, SETTINGS, SIMULATED, UNREDUCED

SHELLS = 10
RECORD_VERSION = 6
STRONG_FILTER = "bszstd"  # stores smaller than bslz4, which XDS needs


@dataclass(frozen=True)
class Series:
    """One data set, processed with several settings.

    ``simulate``: words for bnl-mpi simulate, empty for a given ``master``. ``d_min``: resolution limit of
    all its integrations, Angstrom. ``truth``: the simulation's side file, if there is one.
    """

    name: str
    title: str
    simulate: str
    master: Path
    d_min: float
    truth: Path | None = None
    space_group: str | None = None
    anomalous: bool = False
    quick: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 on success, 1 where a setting failed, 2 for a wrong command line."""
    namespace = _parser().parse_args(arguments)
    namespace.work.mkdir(parents=True, exist_ok=True)
    chosen = dict(SETTINGS) | dict(namespace.setting)
    try:
        jobs = _jobs(namespace, chosen)
    except ValueError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    if not namespace.page_only and (reason := missing_dials()):
        print(f"quality: {reason}", file=sys.stderr)
        return 1
    failed = 0
    for series, names in jobs:
        if not namespace.page_only:
            failed += _run_series(series, {name: chosen[name] for name in names}, namespace)
    if namespace.page:
        from .page import write_page

        write_page(namespace.page, [namespace.work / series.name for series, _ in jobs])
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bnl_mpi.quality.study", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, default=Path("quality-work"), help="folder of data and records")
    add("--series", nargs="+", choices=tuple(SIMULATED), help="simulated sets to do (default: all)")
    add("--input", type=Path, help="master of a data set to use in place of simulated ones")
    add("--d_min", type=float, help="resolution limit of all integrations, Angstrom; needed with --input")
    add("--truth", type=Path, help="PREFIX_truth.h5 of an --input that was simulated")
    add("--space_group", help="space group of --input, as P43212; else dials.symmetry finds it")
    add("--anomalous", action="store_true", help="keep Friedel mates of --input apart in scaling")
    add("--settings", nargs="+", help="names of settings to do (default: the series' own; fewer with --input)")
    add(
        "--setting",
        type=_named_words,
        action="append",
        default=[],
        metavar="NAME=WORDS",
        help="another setting, as 'b4j60=-b 4 -J 60'; may be repeated",
    )
    add("--quick", action="store_true", help="faster, less careful algorithms of DIALS")
    add("--nproc", type=int, default=2, help="processes of a DIALS command and workers of bnl-mpi")
    add("--page", type=Path, help="write the page of tables here, as docs/quality.md")
    add("--page_only", action="store_true", help="only write the page from the records that are there")
    return parser


def _named_words(text: str) -> tuple[str, str]:
    name, equals, words = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} isn't NAME=WORDS")
    return name, words


def _jobs(namespace: argparse.Namespace, known: Mapping[str, str]) -> list[tuple[Series, list[str]]]:
    """Each series with the names of its settings, the unreduced data first; ValueError for a wrong wish."""
    if unknown := [name for name in namespace.settings or () if name not in known]:
        raise ValueError(f"--settings {unknown[0]} is unknown: choose from {', '.join(known)}, or --setting it")
    added = [name for name, _ in namespace.setting]
    if namespace.input is None:
        return [
            (series, _order(namespace.settings or [*SIMULATED[series.name].settings, *added]))
            for name in namespace.series or SIMULATED
            for series in [simulated_series(name, namespace.work, namespace.quick)]
        ]
    if namespace.d_min is None:
        raise ValueError("--input needs --d_min: the resolution limit that all settings are integrated to")
    if not namespace.input.is_file():
        raise ValueError(f"--input {namespace.input}: no such file; give a data set's master")
    return [(_given_series(namespace), _order(namespace.settings or [*FOR_INPUT, *added]))]


def _order(names: Sequence[str]) -> list[str]:
    """The names, each once; the unreduced data come first, as the others are compared with them."""
    return list(dict.fromkeys([UNREDUCED, *names]))


def simulated_series(name: str, work: Path, quick: bool = False) -> Series:
    """The series of that name, in ``work``/name."""
    chosen = SIMULATED[name]
    prefix = work / name / "input"
    return Series(
        name,
        chosen.title,
        chosen.simulate,
        Path(f"{prefix}_master.h5"),
        chosen.d_min,
        truth=Path(f"{prefix}_truth.h5"),
        space_group=chosen.space_group,
        anomalous="--anomalous" in chosen.simulate.split(),
        quick=quick,
    )


def _given_series(namespace: argparse.Namespace) -> Series:
    stem = namespace.input.name.removesuffix(".h5").removesuffix("_master")
    return Series(
        stem,
        stem,
        "",
        namespace.input.resolve(),
        namespace.d_min,
        truth=namespace.truth,
        space_group=namespace.space_group,
        anomalous=namespace.anomalous,
        quick=namespace.quick,
    )


def _run_series(series: Series, settings: Mapping[str, str], namespace: argparse.Namespace) -> int:
    """Do every setting that has no record yet; the number that failed."""
    folder = namespace.work / series.name
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, words in settings.items():
        try:
            record = run_setting(series, name, words, folder, namespace.nproc)
        except ChainError as error:
            print(f"quality: {series.name} {name}: {error}", file=sys.stderr, flush=True)
            record = _failure(series, name, words, folder, str(error))
            failed += 1
        print(f"{series.name} {name}: {_summary(record)}", flush=True)
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


def run_setting(series: Series, name: str, words: str, folder: Path, nproc: int = 2) -> dict[str, Any]:
    """The record of one setting: read if it is there and of the same wish, else made and kept.

    Raises ChainError where bnl-mpi or DIALS fails.
    """
    path = record_path(folder, name)
    wish = _wish(series, name, words)
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text())
        if record["wish"] == wish and not record["error"]:
            return record
    make_input(series)
    image_file, data_files = make_reduced(series, name, words, folder, nproc)
    size = _size(data_files)
    unreduced = (
        {"bytes": size, "unpacked_bytes": _unpacked_size(data_files)}
        if name == UNREDUCED
        else read_record(folder, UNREDUCED)
    )
    result = run_chain(image_file, folder / f"dials_{name}", chain_options(series, nproc))
    record = {
        "wish": wish,
        "error": "",
        "bytes": size,
        "unpacked_bytes": unreduced["unpacked_bytes"],
        "ratio": unreduced["unpacked_bytes"] / size,
        "ratio_stored": unreduced["bytes"] / size,
        "ratio_strong": (
            None
            if stores_codestreams(words)
            else unreduced["unpacked_bytes"] / _strong_size(series, words, folder, nproc)
        ),
        "image": _image_shape(data_files[0]),
        **_chain_record(result),
        **_measure(series, result, folder),
    }
    _keep(path, record)
    return record


def record_path(folder: Path, name: str) -> Path:
    """Where the record of a setting lies."""
    return folder / f"result_{name}.json"


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """The record of a setting that was run; ChainError without one."""
    path = record_path(folder, name)
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"error": "never run"}
    if record["error"]:
        raise ChainError(f"the setting {name!r} is needed first ({path}): {record['error']}")
    return record


def _wish(series: Series, name: str, words: str) -> dict[str, Any]:
    """All that a record depends on, save the code."""
    described = {key: str(value) for key, value in asdict(series).items() if value is not None}
    if series.simulate:
        described = {key: value for key, value in described.items() if key not in ("master", "truth")}
    return {"version": RECORD_VERSION, "name": name, "words": words, "series": described}


def _keep(path: Path, record: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record, indent=1))
    partial.rename(path)


def _failure(series: Series, name: str, words: str, folder: Path, message: str) -> dict[str, Any]:
    record = {"wish": _wish(series, name, words), "error": message}
    _keep(record_path(folder, name), record)
    return record


def make_input(series: Series) -> None:
    """Simulate the series' input unless it is there."""
    if not series.simulate:
        return
    marker = series.master.with_name("simulated.txt")
    if marker.exists() and marker.read_text() == series.simulate:
        return
    series.master.parent.mkdir(parents=True, exist_ok=True)
    prefix = str(series.master).removesuffix("_master.h5")
    group = ["--space_group", series.space_group] if series.space_group else []
    _bnl_mpi(["simulate", prefix, *series.simulate.split(), *group, "--force"])
    marker.write_text(series.simulate)


def _words_of(words: str, folder: Path) -> list[str]:
    """A setting's words with the file of reflections, if it wants one."""
    predicted = folder / f"dials_{UNREDUCED}" / "integrated.refl"
    return [word.replace(PREDICTED, str(predicted)) for word in words.split()]


def make_reduced(series: Series, name: str, words: str, folder: Path, nproc: int) -> tuple[Path, list[Path]]:
    """What DIALS is to import, and the data files; reduced with ``words`` unless the setting is "raw"."""
    if name == UNREDUCED:
        return series.master, _linked_files(series.master)
    stem = folder / name / name
    master, marker = Path(f"{stem}_master.h5"), stem.parent / "words.txt"
    wish = f"{words}\n{series.simulate or series.master}\n"
    if not (master.exists() and marker.exists() and marker.read_text() == wish):
        stem.parent.mkdir(parents=True, exist_ok=True)
        common = [*([] if "-c" in words.split() else ["-c", "bslz4"]), "-p", str(nproc), "--force"]
        _bnl_mpi(["-i", str(series.master), *common, *_words_of(words, folder), "-o", str(stem)])
        marker.write_text(wish)
    return Path(f"{stem}.nxs"), _linked_files(master)


def _strong_size(series: Series, words: str, folder: Path, nproc: int) -> int:
    """Bytes of the data files when the same images are stored with the stronger lossless filter."""
    stem = folder / "strong" / "strong"
    stem.parent.mkdir(exist_ok=True)
    common = ["-c", STRONG_FILTER, "-p", str(nproc), "--force"]
    _bnl_mpi(["-i", str(series.master), *_words_of(words, folder), *common, "-o", str(stem)])
    size = _size(_linked_files(Path(f"{stem}_master.h5")))
    shutil.rmtree(stem.parent)
    return size


def _bnl_mpi(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "bnl_mpi", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # the launcher's own lines come last and say nothing of the cause
        lines = [line for line in done.stderr.splitlines() if line.strip() and "MPI_Abort" not in line]
        cause = lines[-1].strip() if lines else "no message"
        raise ChainError(f"bnl-mpi {' '.join(words)} ended with status {done.returncode}: {cause}")


def _linked_files(master: Path) -> list[Path]:
    """The data files that a master's /entry/data links."""
    import h5py

    with h5py.File(master, "r", locking=False) as file:
        group = file["entry/data"]
        links = [group.get(name, getlink=True) for name in sorted(group)]
    names = dict.fromkeys(link.filename for link in links if isinstance(link, h5py.ExternalLink))
    if not names:
        raise ChainError(f"{master} links no data files in /entry/data: give a master of the Eiger FileWriter")
    return [master.parent / name for name in names]


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _unpacked_size(files: Sequence[Path]) -> int:
    """Bytes of all images at 2 bytes a pixel."""
    import h5py

    total = 0
    for name in files:
        with h5py.File(name, "r", locking=False) as file:
            total += 2 * int(file["entry/data/data"].size)
    return total


def _image_shape(data_file: Path) -> list[int]:
    """Images of the first data file: slow, fast."""
    import h5py

    with h5py.File(data_file, "r", locking=False) as file:
        return [int(size) for size in file["entry/data/data"].shape[1:]]


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
    import h5py

    with h5py.File(truth, "r", locking=False) as file:
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


def _measure(series: Series, result: ChainResult, folder: Path) -> dict[str, Any]:
    """Shell statistics, and how far the cell is from the truth's (as a fraction; None without truth)."""
    from . import merging

    data = merging.read_observations(result.unmerged)
    reference, cell_error = None, None
    if series.truth is not None:
        reference = merging.read_truth(series.truth)
        true_cell = true_crystal(series.truth)[0]
        cell_error = max(abs(found / true - 1) for found, true in zip(result.cell, true_cell, strict=True))
    elif result.unmerged.parent.name != f"dials_{UNREDUCED}":
        unreduced = merging.read_observations(folder / f"dials_{UNREDUCED}" / "unmerged.mtz")
        reference = merging.reference_from(unreduced)
    operator = "h,k,l"
    if reference is not None:
        reference, operator = merging.aligned(reference, data)
    edges = merging.shell_edges(30.0, series.d_min, SHELLS)
    shells = [asdict(shell) for shell in merging.statistics(data, reference, edges)]
    return {"cell_error": cell_error, "reindexed": operator, "shells": shells}


if __name__ == "__main__":
    sys.exit(main())
