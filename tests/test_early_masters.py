"""Masters are made while the workers work, and appear when all blocks are there."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from small_sets import random_frames, random_mask, write_set

from bnl_mpi import job as jobs
from bnl_mpi.errors import OutputError
from bnl_mpi.hdf5 import access, writing
from bnl_mpi.options import Options
from bnl_mpi.run import driver
from bnl_mpi.run.task import Masters
from bnl_mpi.tasks import reduction


@pytest.fixture
def prepared(tmp_path: Path) -> jobs.PreparedReduction:
    master = write_set(tmp_path, random_frames(4, (40, 44)), mask=random_mask((40, 44)), per_file=4)
    return jobs.prepare(Options(infile=str(master), out_file=str(tmp_path / "o"), compression="bslz4"))


def test_names_come_at_the_end(prepared: jobs.PreparedReduction, tmp_path: Path) -> None:
    with ExitStack() as files:
        masters = reduction.write_masters(prepared, files)
        made = {path.name.split(".")[0] for path in tmp_path.glob("o*.partial")}
        assert made == {"o", "o_master"}
        assert not list(tmp_path.glob("o*.h5"))
    assert {path.name for path in tmp_path.glob("o*")} == {"o.nxs", "o_master.h5"}
    assert masters.nexus


def test_a_failed_run_drops_them(prepared: jobs.PreparedReduction, tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with ExitStack() as files:
            reduction.write_masters(prepared, files)
            raise OutputError("the disk is full")

    with pytest.raises(OutputError, match="full"):
        write_and_fail()
    assert not list(tmp_path.glob("o*"))


def test_the_master_is_named_last(
    prepared: jobs.PreparedReduction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace = os.replace

    def noting(old: str, new: str) -> None:
        order.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "replace", noting)
    with ExitStack() as files:
        reduction.write_masters(prepared, files)
    assert order == ["o.nxs", "o_master.h5"]


def test_an_early_error_waits_until_it_is_asked_for() -> None:
    calls: list[int] = []

    def fail() -> Masters:
        calls.append(1)
        raise OSError("no room")

    later = driver.Later(fail)
    later.attempt()
    with pytest.raises(OSError, match="no room"):
        later.result()
    assert calls == [1]


@pytest.mark.parametrize("early", [True, False])
def test_the_work_is_done_once(early: bool) -> None:
    calls: list[int] = []

    def work() -> Masters:
        calls.append(1)
        return Masters(True, ("a warning",))

    later = driver.Later(work)
    if early:
        later.attempt()
    assert later.result() == Masters(True, ("a warning",))
    assert calls == [1]


def write_half(path: Path) -> None:
    with writing.write_at_once(path) as file:
        file["entry/values"] = 1
        raise ValueError("half done")


def test_a_file_made_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    values = np.arange(100_000, dtype="<u4")
    with writing.write_at_once(path) as file:
        file["entry/values"] = values
        assert not path.exists()
    with access.open_read(path) as file:
        np.testing.assert_array_equal(file["entry/values"][()], values)
    with pytest.raises(ValueError, match="half"):
        write_half(tmp_path / "b.h5")
    assert not (tmp_path / "b.h5").exists()
