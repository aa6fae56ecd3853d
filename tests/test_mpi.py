"""The same output for every number of ranks and every way of starting (spec sections 3 and 4)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from running import bnl, needs_mpi, outputs
from small_sets import random_frames, random_mask, write_set

pytestmark = [pytest.mark.mpi, needs_mpi]

SETTINGS = {
    "hcompress": ["-H", "16", "-c", "bslz4", "-q"],
    "j2k": ["-J", "10", "-c", "zstd"],
    "lossless": ["-c", "bszstd", "-u", "4", "--saturation", "scaled"],
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """(words of the job, its output by one process)."""
    folder = tmp_path_factory.mktemp("in")
    shape = (70, 83)
    master = write_set(folder, random_frames(23, shape), mask=random_mask(shape), per_file=6)
    words = ["-i", str(master), "-b", "2", "-s", "2", "-1", "2", "-d", "3", *SETTINGS[request.param]]
    one = tmp_path_factory.mktemp("one")
    bnl(*words, "-o", "set", cwd=one)
    return words, outputs(one, "set")


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_any_number_of_ranks(reference, ranks: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, expected = reference
    bnl(*words, "-o", "set", ranks=ranks, cwd=tmp_path)
    found = outputs(tmp_path, "set")
    assert found.keys() == expected.keys()
    assert found == expected


def test_minus_p_starts_workers(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, expected = reference
    done = bnl(*words, "-o", "set", "-p", "2", "--json", "run.json", cwd=tmp_path)
    assert outputs(tmp_path, "set") == expected
    assert "2 workers" in done.stderr
    summary = json.loads((tmp_path / "run.json").read_text())
    assert (summary["workers"], summary["frames"], summary["images"]) == (2, 22, 11)
    assert {r["rank"] for r in summary["ranks"]} == {1, 2}


def test_shares_in_any_order(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, expected = reference
    shares = list(range(7))
    random.Random(len(expected)).shuffle(shares)
    for share in shares:
        done = bnl(*words, "-o", "set", "-p", "6", "-t", share, cwd=tmp_path)
        if share > 4:
            assert "no block" in done.stdout
    assert outputs(tmp_path, "set") == expected


def test_more_workers_than_blocks_is_said_with_the_cure(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    done = bnl(*words, "-o", "set", "-d", "6", ranks=5, cwd=tmp_path)
    assert "2 of 4 workers have no block: -d 2 would give each one" in done.stderr


def test_minus_p_must_agree_with_the_launcher(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    bnl(*words, "-o", "set", "-p", "2", ranks=3, cwd=tmp_path)
    done = bnl(*words, "-o", "other", "-p", "4", ranks=3, cwd=tmp_path, ok=False)
    assert done.returncode != 0
    assert "-p 4 asks for 4 workers" in done.stderr
    assert done.stderr.count("bnl-mpi:") == 1
    assert not outputs(tmp_path, "other")


def test_a_world_of_one_among_several_tasks_is_refused(reference, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words, _ = reference
    done = bnl(*words, "-o", "set", cwd=tmp_path, env={"SLURM_STEP_NUM_TASKS": "4"}, ok=False)
    assert done.returncode == 2
    assert "srun --mpi=pmi2" in done.stderr
    assert not outputs(tmp_path, "set")
    bnl(*words, "-o", "set", "-p", "3", "-t", "1", cwd=tmp_path, env={"SLURM_STEP_NUM_TASKS": "4"})
    bnl(*words, "-o", "other", cwd=tmp_path, env={"SLURM_NTASKS": "4"})
