"""Whether `estimate` ranks settings as DIALS does: `python -m bnl_mpi.quality.ranking --page docs/quality.md`.

The page's first series is simulated again, every setting of its table is judged by the added noise of its spots, at
the simulation's own predictions, and the order is compared with that of the loss of correlation with the truth.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..estimate import names, study
from ..estimate.measure import Predicted
from ..run.world import World

BEGIN, END = "<!-- ranking -->", "<!-- ranking ends -->"
HEAD = "## What `estimate` says of the same settings"
ROCKING_SIGMAS = 3.0


@dataclass(frozen=True)
class Row:
    """A setting of the page, and its merged intensities' correlation with the truth in the outer shell."""

    name: str
    correlation: float


def rows_of(page: str) -> tuple[str, list[Row]]:
    """What simulates the page's first series, and the settings of its table, the unreduced data first."""
    simulated = re.search(r"`bnl-mpi simulate ([^`]*)`", page)
    if simulated is None:
        raise InputError("the page tells of no simulated series; give docs/quality.md")
    rows, column = [], None
    for line in page[simulated.end() :].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "setting":
            column = cells.index("CC with reference") + 1
        elif column is not None and len(cells) > column and (name := _short(cells[1].strip("`"))):
            rows.append(Row(name, float(cells[column])))
        elif rows and not line.startswith("|"):
            break
    return simulated[1], rows


def _short(words: str) -> str:
    """The short name of the words of a setting; empty where it has none that needs no file of reflections."""
    if words == "none":
        return names.RAW
    found = re.fullmatch(r"-b (\d+) -s (\d+)(?: -([HJKT]) ([\d.]+))?(?: -c \w+)?", words)
    if found is None:
        return ""
    return names.parse(f"b{found[1]}s{found[2]}{found[3] or ''}{found[4] or ''}").name


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's, with the mean rank for equal values."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Any) -> Any:
    values = np.asarray(values, float)
    _, group = np.unique(values, return_inverse=True)
    order = np.empty(len(values))
    order[np.argsort(values, kind="stable")] = np.arange(len(values))
    return (np.bincount(group, order) / np.bincount(group))[group]


def predictions(truth: Path, osc: float) -> Predicted:
    """Where a simulation put its spots, and how long they last."""
    import h5py

    with h5py.File(truth, "r", locking=False) as file:
        x, y, z, sigma = (file["predictions"][name][()].astype(float) for name in ("fast", "slow", "frame", "sigma"))
    return Predicted(x, y, z, np.maximum(0.5, ROCKING_SIGMAS * sigma / abs(osc)))


def judge(words: str, rows: list[Row], folder: Path, master: Path | None = None) -> dict[str, float]:
    """Added noise in the outer shells of each setting."""
    if master is None:
        master = folder / "in_master.h5"
        command = [sys.executable, "-m", "bnl_mpi", "simulate", str(folder / "in"), *words.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    osc = float(re.findall(r"--osc ([-\d.]+)", words)[0])
    predicted = predictions(Path(str(master).replace("_master.h5", "_truth.h5")), osc)
    tried = names.parse_list(" ".join(row.name for row in rows))
    found = study.run(study.Wish(str(master), tried, predicted=predicted), World())
    assert found is not None
    return {one.name: study.harm(one) for one in found.estimates}


def section(rows: list[Row], raw: float, noise: dict[str, float]) -> str:
    """The page's part."""
    loss = [raw - row.correlation for row in rows]
    agreement = rank_correlation([noise[row.name] for row in rows], loss)
    lines = [
        BEGIN,
        HEAD,
        "",
        "`bnl-mpi estimate` judges a setting without DIALS, by the noise that it adds to the sums of spots in the "
        "outer half of the shells. On this page's first series, at the simulation's own predictions, its order is "
        "that of the "
        f"loss of correlation with the truth in the outer shell: Spearman's rank correlation over {len(rows)} settings "
        f"is **{agreement:.2f}**. Made by `python -m bnl_mpi.quality.ranking --page docs/quality.md`.",
        "",
        "| setting | added noise, outer shells | correlation lost, outer shell |",
        "| --- | ---: | ---: |",
    ]
    ordered = sorted(zip(rows, loss, strict=True), key=lambda pair: noise[pair[0].name])
    lines += [f"| `{row.name}` | {noise[row.name]:.2f} | {lost:.3f} |" for row, lost in ordered]
    return "\n".join([*lines, END, ""])


def kept(page: str) -> str:
    """The part of a page that this module made; empty where there is none."""
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}\n", page, re.DOTALL)
    return "" if found is None else found[0]


def with_section(page: str, part: str) -> str:
    """The page with that part at its end, in place of an older one."""
    return (
        page.replace(kept(page), "").rstrip("\n") + "\n\n" + part if kept(page) else page.rstrip("\n") + "\n\n" + part
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, required=True, help="docs/quality.md, which gets the figure")
    parser.add_argument("--master", type=Path, help="the series' master, where it was simulated before")
    given = parser.parse_args(arguments)
    page = given.page.read_text()
    words, rows = rows_of(page)
    raw = next(row.correlation for row in rows if row.name == names.RAW)
    rows = [row for row in rows if row.name != names.RAW]
    with tempfile.TemporaryDirectory() as folder:
        noise = judge(words, rows, Path(folder), given.master)
    given.page.write_text(with_section(page, section(rows, raw, noise)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
