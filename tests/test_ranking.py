"""The rank correlation of the quality page, and how the page keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnl_mpi.quality import ranking
from bnl_mpi.quality.ranking import Row

PAGE = Path(__file__).resolve().parents[1] / "docs" / "quality.md"


def test_rank_correlation_is_spearmans() -> None:
    assert ranking.rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert ranking.rank_correlation([1, 2, 3, 4], [9, 7, 5, 3]) == pytest.approx(-1)
    # 1 - 6 sum d^2 / n (n^2 - 1), where no two are equal.
    first, second = [3.0, 1.0, 4.0, 1.5, 9.0], [2.0, 7.0, 1.0, 8.0, 3.0]
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    wanted = 1 - 6 * float(np.sum((ranks[0] - ranks[1]) ** 2)) / (5 * 24)
    assert ranking.rank_correlation(first, second) == pytest.approx(wanted)
    assert ranking.rank_correlation([1, 1, 2, 2], [5, 5, 7, 7]) == pytest.approx(1)


def test_the_page_is_read_for_its_settings_and_their_correlations() -> None:
    words, rows = ranking.rows_of(PAGE.read_text())
    assert "--osc 0.1" in words
    found = {row.name: row.correlation for row in rows}
    assert found["raw"] > 0.9
    assert 0.8 < found["b2s2"] < found["raw"]
    assert found["b2s2H16"] < 0.5
    assert len(rows) > 25


def test_the_page_tells_an_agreement_of_nine_tenths_and_keeps_the_part() -> None:
    page = PAGE.read_text()
    part = ranking.kept(page)
    told = float(part.split("**")[1])
    assert told >= 0.9
    rows, raw = ranking.rows_of(page)[1], 0.0
    noise = {}
    for line in part.splitlines():
        if line.startswith("| `"):
            name, added, lost = (cell.strip(" `") for cell in line.strip("|").split("|"))
            noise[name], raw = float(added), float(lost) + next(row.correlation for row in rows if row.name == name)
    settings = [row for row in rows if row.name in noise]
    assert len(settings) == len(noise) > 25
    again = ranking.rank_correlation([noise[row.name] for row in settings], [raw - row.correlation for row in settings])
    assert again == pytest.approx(told, abs=0.02)
    assert ranking.with_section(page, part) == page


def test_a_part_takes_the_place_of_an_older_one() -> None:
    part = ranking.section([Row("b2s2", 0.8), Row("b4s4", 0.6)], 0.9, {"b2s2": 0.5, "b4s4": 1.5})
    assert "**1.00**" in part
    once = ranking.with_section("# page\n\ntext\n", part)
    assert once.startswith("# page\n\ntext\n\n<!-- ranking -->")
    assert ranking.with_section(once, part) == once
