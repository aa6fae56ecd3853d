"""How reductions index: `python -m bnl_mpi.quality.indexing --input SWEEP [SWEEP ...]`.

For sweeps too short to be scaled. Each setting is applied to all sweeps of one crystal, and DIALS imports them
together, finds spots and indexes. A sweep is a master file, or a CBF series named by its template,
`name_#####.cbf`. Results stay in the work folder; what ran isn't repeated.
"""

from __future__ import annotations

import argparse
import glob
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..hdf5.names import IMAGES
from .chain import ChainError, Indexed, run_indexing

UNREDUCED, COPIED = "raw", "b1s1"
"""The sweeps as they are, and as a set with all their pixels, from which these are counted."""

SETTINGS: Mapping[str, str] = {
    UNREDUCED: "",
    COPIED: "-u 4",
    "s2": "-s 2 -u 4",
    "b2": "-b 2 -u 4",
    "b2s2": "-b 2 -s 2 -u 4",
    "b3s2": "-b 3 -s 2 -u 4",
    "t60": "-T 60 -c htj2k",
    "t120": "-T 120 -c htj2k",
    "b2t30": "-b 2 -T 30 -c htj2k",
    "b2s2h16": "-b 2 -s 2 -H 16",
}


@dataclass(frozen=True)
class Row:
    """What a setting gave.  `size`: bytes of the files of all sweeps; `pixels`: of all their images."""

    name: str
    words: str
    size: int
    pixels: int
    found: Indexed | None
    """None where DIALS didn't get through."""


def run_setting(sweeps: Sequence[str], name: str, words: str, work: Path, nproc: int = 2) -> Row:
    """Reduce all sweeps with `words` (none: leave them as they are) and index them together."""
    if name == UNREDUCED:
        images = [path for sweep in sweeps for path in files_of(sweep)]
        size, pixels = sum(path.stat().st_size for path in images), 0
    else:
        stems = [reduce_sweep(sweep, words, work / name / f"sweep{k}") for k, sweep in enumerate(sweeps, 1)]
        images = [Path(f"{stem}.nxs") for stem in stems]
        blocks = [path for stem in stems for path in stem.parent.glob(f"{stem.name}_0*.h5")]
        size, pixels = sum(path.stat().st_size for path in blocks), _pixels(blocks)
    try:
        found = run_indexing(images, work / f"dials_{name}", nproc)
    except ChainError as error:
        print(f"indexing: {name}: {error}", file=sys.stderr)
        found = None
    return Row(name, words, size, pixels, found)


def _pixels(blocks: Sequence[Path]) -> int:
    import h5py

    total = 0
    for path in blocks:
        with h5py.File(path, "r", locking=False) as file:
            total += int(file[IMAGES].size)
    return total


def files_of(sweep: str) -> list[Path]:
    """What DIALS imports of an unreduced sweep: the master, or all images of a template."""
    if "#" not in sweep:
        return [Path(sweep)]
    found = sorted(Path(path) for path in glob.glob(sweep.replace("#", "[0-9]")))
    if not found:
        raise ChainError(f"{sweep}: no file fits this template")
    return found


def reduce_sweep(sweep: str, words: str, stem: Path) -> Path:
    """Run bnl-mpi unless that was done with these words; returns the stem of its files."""
    marker = stem.parent / f"{stem.name}.txt"
    wish = f"{words}\n{sweep}\n"
    if not (marker.exists() and marker.read_text() == wish):
        stem.parent.mkdir(parents=True, exist_ok=True)
        filters = [] if "-c" in words.split() else ["-c", "bslz4"]
        command = ["-i", sweep, *filters, "--force", *words.split(), "-o", str(stem)]
        done = subprocess.run([sys.executable, "-m", "bnl_mpi", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise ChainError(f"bnl-mpi {' '.join(command)} ended with status {done.returncode}: {lines[-1]}")
        marker.write_text(wish)
    return stem


def cell_difference(cell: Sequence[float], reference: Sequence[float]) -> float:
    """The largest difference of an axis' length, as a part of it."""
    return max(abs(a / b - 1) for a, b in zip(cell[:3], reference[:3], strict=True))


def table(rows: Sequence[Row]) -> str:
    """A Markdown table; the first row is the unreduced data, with which the others are compared."""
    first = rows[0].found
    raw16 = next((2 * row.pixels for row in rows if row.name == COPIED), 0)
    lines = [
        "| setting | options | size, MB | ratio | spots | indexed | cell, Angstrom | off by, % |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        found, options = row.found, f"`{row.words}`" if row.words else "none"
        ratio = raw16 / max(1, row.size)
        begin = f"| `{row.name}` | {options} | {row.size / 1e6:.2f} | {ratio:.1f} |"
        if found is None:
            lines.append(f"{begin} DIALS doesn't index it | | | |")
            continue
        off = f"{100 * cell_difference(found.cell, first.cell):.2f}" if first is not None else "-"
        cell = ", ".join(f"{axis:.2f}" for axis in found.cell[:3])
        lines.append(f"{begin} {found.spots} | {found.indexed} | {cell} | {off} |")
    return "\n".join(lines)


PAGE = """# Real data

This page is made by `python -m bnl_mpi.quality.indexing`; don't edit it by hand. The same command takes any sweeps of
one crystal, masters or CBF series (`--input 'name_1_#####.cbf' 'name_2_#####.cbf'`), and makes such a page of them.

{title}.

DIALS imports the sweeps together, finds spots and indexes with its defaults; nothing else was set. *Ratio* is against
2 bytes a pixel of the input. Sizes are those of the data files with bslz4, but where the options say otherwise.

{table}

{notes}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all settings; 0 on success, 1 where a reduction failed."""
    parser = argparse.ArgumentParser(prog="python -m bnl_mpi.quality.indexing", description=__doc__)
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="SWEEP", help="masters, or templates of CBF series"
    )
    parser.add_argument("--work", type=Path, default=Path("indexing-work"), help="folder of data and results")
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS), help="default: all")
    parser.add_argument("--title", default="Sweeps of one crystal", help="what the data are, for the page")
    parser.add_argument("--notes", type=Path, help="a file of what to say below the table")
    parser.add_argument("--nproc", type=int, default=2, help="processes of a DIALS command")
    parser.add_argument("--page", type=Path, help="write the page here, as docs/real-data.md")
    namespace = parser.parse_args(arguments)
    rows = []
    try:
        for name in dict.fromkeys([UNREDUCED, COPIED, *namespace.settings]):
            rows.append(run_setting(namespace.input, name, SETTINGS[name], namespace.work, namespace.nproc))
            print(table(rows).splitlines()[-1], flush=True)
    except ChainError as error:
        print(f"indexing: {error}", file=sys.stderr)
        return 1
    if namespace.page:
        notes = namespace.notes.read_text().strip() if namespace.notes else ""
        text = PAGE.format(title=namespace.title, table=table(rows), notes=notes)
        namespace.page.write_text(text.rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
