"""Real frames: two sweeps of a small-molecule crystal, reduced, and indexed by DIALS jointly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_sets import shared_data

from bnl_mpi.quality import chain, indexing

pytestmark = pytest.mark.dials

RAW_SPOTS, RAW_INDEXED = 87, 74
CELL = (5.45, 8.15, 12.06)

KEPT = 0.85
"""Of the raw data's indexed spots, at least: what a setting that the README recommends for such data must leave."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, indexing.Row]:
    """What each setting gives; the unreduced files too."""
    data = shared_data()
    if data is None or not (data / "l_cysteine").is_dir():
        pytest.skip("no shared/data/l_cysteine")
    if reason := chain.missing_dials():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI must run this test: install the package dials")
        pytest.skip(reason)
    work: Path = tmp_path_factory.mktemp("real")
    sweeps = [str(data / "l_cysteine" / f"l-cyst_{k:02d}_#####.cbf.gz") for k in (1, 2)]
    chosen = {name: indexing.SETTINGS[name] for name in ("raw", "b2", "t60")}
    return {name: indexing.run_setting(sweeps, name, words, work) for name, words in chosen.items()}


def test_the_unreduced_sweeps(rows: dict[str, indexing.Row]) -> None:
    found = rows["raw"].found
    assert found is not None
    assert (found.spots, found.indexed) == (RAW_SPOTS, RAW_INDEXED)
    assert indexing.cell_difference(found.cell, CELL) < 0.002


@pytest.mark.parametrize("name", ["b2", "t60"])
def test_a_reduction_indexes_as_well(rows: dict[str, indexing.Row], name: str) -> None:
    found, raw = rows[name].found, rows["raw"].found
    assert found is not None
    assert raw is not None
    assert indexing.cell_difference(found.cell, raw.cell) < 0.01
    assert found.indexed >= KEPT * RAW_INDEXED


def test_the_table_holds_every_setting(rows: dict[str, indexing.Row]) -> None:
    lines = indexing.table(list(rows.values())).splitlines()
    assert len(lines) == 2 + len(rows)
    assert "| 87 | 74 | 5.45, 8.15, 12.06 | 0.00 |" in lines[2]


def test_a_sweep_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(chain.ChainError, match="no file fits this template"):
        indexing.files_of(str(tmp_path / "x_###.cbf"))
    with pytest.raises(chain.ChainError, match="no such file"):
        indexing.reduce_sweep(str(tmp_path / "x_master.h5"), "-b 2", tmp_path / "out")
