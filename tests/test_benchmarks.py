"""The speed benchmarks' own arithmetic, and what they promise that needs no clock."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from running import needs_mpi
from small_sets import random_frames, write_set

import bnl_mpi
from benchmarks import (
    archive,
    calls,
    inputs,
    instrumented,
    laws,
    machine,
    many_ranks,
    memory,
    node,
    original,
    original_page,
    performance,
    performance_page,
    reductions,
    scaling,
    soak,
    timing,
)
from benchmarks.__main__ import main
from bnl_mpi.input import frames, hdf5frames, virtual
from bnl_mpi.pixels import kernels
from bnl_mpi.run.lock import HEARTBEAT_SECONDS
from bnl_mpi.tasks.images import STAGES

WORDS = "-b 2 -s 2 -H 16 -c bslz4"


# ---- arithmetic -----------------------------------------------------------------------------------------


def test_amdahl_is_found_again() -> None:
    law = laws.fit_amdahl({n: 80.0 * (0.05 + 0.95 / n) for n in (1, 2, 4, 8, 32)})
    assert law.serial == pytest.approx(0.05)
    assert law.seconds == pytest.approx(80.0)


def test_scalability_is_found_again() -> None:
    def rate(n: int) -> float:
        return 7.0 * n / (1 + 0.03 * (n - 1) + 0.0004 * n * (n - 1))

    law = laws.fit_scalability({n: rate(n) for n in (1, 2, 4, 8, 16, 64)})
    assert law.rate == pytest.approx(7.0)
    assert law.contention == pytest.approx(0.03)
    assert law.coherency == pytest.approx(0.0004)


def test_two_points_leave_coherency_open() -> None:
    law = laws.fit_scalability({1: 10.0, 2: 19.0})
    assert law.contention == pytest.approx(1 / 19)
    assert law.coherency is None


def test_faster_than_ideal_is_no_negative_contention() -> None:
    law = laws.fit_scalability({1: 10.0, 2: 21.0, 4: 44.0})
    assert (law.contention, law.coherency) == (0.0, 0.0)
    assert laws.fit_amdahl({1: 10.0, 2: 4.5}).serial == 0.0


def test_one_point_is_no_law() -> None:
    with pytest.raises(ValueError, match="at least two"):
        laws.fit_amdahl({4: 1.0})


def test_spread_and_ratio() -> None:
    assert timing.spread_of([3.0, 1.0, 2.0, 4.0, 10.0]) == timing.Spread(1.0, 3.0, 2.0, 5)
    assert timing.spread_of([2.0, 5.0]).spread == 3.0
    # pair by pair: what slowed a whole round down doesn't show
    assert timing.ratio_of([2.0, 20.0], [1.0, 10.0]) == timing.Spread(2.0, 2.0, 0.0, 2)


def test_rounds_are_interleaved() -> None:
    done: list[str] = []

    def noting(name: str, answer: float | None) -> Callable[[], float | None]:
        def note() -> float | None:
            done.append(name)
            return answer

        return note

    told = timing.interleaved({"a": noting("a", None), "b": noting("b", 5.0)}, 2, 1)
    assert done == ["a", "b"] * 3
    assert told["b"] == [5.0, 5.0]
    assert len(told["a"]) == 2


def test_calls_are_counted_by_kind() -> None:
    lines = [
        '12 newfstatat(AT_FDCWD</home>, "/data/in_master.h5", {st_mode=S_IFREG|0644, ...}, 0) = 0',
        '12 openat(AT_FDCWD</home>, "/data/in_000001.h5", O_RDONLY) = 5</data/in_000001.h5>',
        '12 openat(AT_FDCWD</home>, "/lib/x.so", O_RDONLY) = 6</lib/x.so>',
        "12 fsync(5</out/a.h5.partial>) = 0",
        '12 rename("/out/a.h5.partial", "/out/a.h5") = 0',
        '13 openat(AT_FDCWD</home>, "/data/in_000002.h5", O_RDONLY <unfinished ...>',
        "12 +++ exited with 0 +++",
        "13 <... openat resumed>) = 5</data/in_000002.h5>",
    ]
    found = calls.count(lines, ["/data", "/out"])
    assert found == {"stat": 1, "open": 2, "fsync": 1, "create, rename or remove": 1}


# ---- inputs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return inputs.simulated(tmp_path_factory.mktemp("in"), "500k", 16, 4)


def test_multiplied_set_is_whole(simulated: Path) -> None:
    longer = inputs.multiplied(simulated, 3)
    with h5py.File(simulated) as short, h5py.File(longer) as file:
        step = np.diff(short["entry/sample/goniometer/omega"][()])[0]
        omega = file["entry/sample/goniometer/omega"]
        assert omega.dtype == short["entry/sample/goniometer/omega"].dtype
        np.testing.assert_allclose(np.diff(omega[()]), step, rtol=1e-3)
        assert len(file["entry/data"]) == 3
        assert file["entry/instrument/detector/detectorSpecific/nimages"][()] == 12
    files = list(longer.parent.glob("*_x3_data_*.h5"))
    assert (len(files), len({p.stat().st_ino for p in files})) == (3, 1)
    summary = bnl_mpi.reduce(str(longer), out_file=str(longer.with_name("whole")), bin=8)
    assert summary is not None
    assert summary.frames == 12


# ---- promises -------------------------------------------------------------------------------------------


def test_a_plan_with_10000_files_is_a_small_broadcast(tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(2, (514, 1030)), per_file=2)
    name = os.path.basename(next(tmp_path.glob("*_data_*.h5")))
    with h5py.File(master, "r+") as file:
        mask = np.random.default_rng(3).random((514, 1030)) < 0.5
        specific = file["entry/instrument/detector/detectorSpecific"]
        if "pixel_mask" in specific:
            del specific["pixel_mask"]
        specific["pixel_mask"] = mask.astype("u4")
        group = file["entry/data"]
        path = group.get("data_000001", getlink=True).path
        for number in range(2, 10_001):
            os.link(tmp_path / name, tmp_path / name.replace("000001", f"{number:06d}"))
            group[f"data_{number:06d}"] = h5py.ExternalLink(name.replace("000001", f"{number:06d}"), path)
        specific["nimages"][...] = 20_000
    job = many_ranks.planned_job(master, compression="bslz4", data_block_size=2)
    assert len(job.source.segments) == 10_000
    assert job.plan.n_blocks == 10_000
    assert many_ranks.broadcast_bytes(job) < 1_000_000


def test_rank_0_opens_one_data_file(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = h5py.h5f.open

    def counting(name: bytes, *arguments: Any, **more: Any) -> Any:
        opened.append(os.path.basename(os.fsdecode(name)))
        return original(name, *arguments, **more)

    monkeypatch.setattr(h5py.h5f, "open", counting)
    many_ranks.planned_job(inputs.multiplied(simulated, 3), compression="bslz4")
    assert {name for name in opened if "_data_" in name} == {"in_500k_16_4_x3_data_000001.h5"}


def test_each_file_is_renamed_and_flushed_once(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed: list[str] = []
    flushed: list[str] = []
    replace, fsync = os.replace, os.fsync

    def counting_replace(old: Any, new: Any) -> None:
        renamed.append(os.path.basename(os.fspath(new)))
        replace(old, new)

    def counting_fsync(file: int) -> None:
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    monkeypatch.setattr(os, "replace", counting_replace)
    monkeypatch.setattr(os, "fsync", counting_fsync)
    bnl_mpi.reduce(str(simulated), out_file=str(tmp_path / "o"), data_block_size=2, compression="bslz4")
    written = ["o.nxs", "o_000001.h5", "o_000002.h5", "o_master.h5"]
    assert sorted(renamed) == written
    files = [name for name in flushed if name.endswith((".h5", ".partial", ".nxs"))]
    # A temporary name is the final one, with an ending that tells who writes it.
    assert len(files) == len(written)
    assert all(name.startswith(final) for name, final in zip(sorted(files), written, strict=True))


def test_a_worker_opens_each_input_file_once_for_a_block(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = hdf5frames.open_dataset

    def counting(path: str, name: str) -> Any:
        opened.append(os.path.basename(path))
        return original(path, name)

    job = many_ranks.planned_job(simulated, out_file=str(tmp_path / "o"), compression="bslz4")
    monkeypatch.setattr(virtual, "open_dataset", counting)
    reader = frames.FrameReader(job.source)
    frame = np.empty(job.source.shape, job.source.dtype)
    for number in range(4):
        reader.fetch(number, frame)
    reader.close()
    assert opened == ["in_500k_16_4_data_000001.h5"]


# ---- the benchmarks themselves --------------------------------------------------------------------------


def test_the_floor_does_what_a_run_reads(simulated: Path, tmp_path: Path) -> None:
    run = reductions.Run(simulated, reductions.H16, tmp_path)
    assert run() > 0
    floor = reductions.Floor(simulated, run)
    assert floor() > 0
    assert run.summary.images == 2
    # the last frame that the floor decoded is the set's last
    with h5py.File(inputs.simulated(simulated.parent, "500k", 16, 4)) as file:
        np.testing.assert_array_equal(floor._frame, file["entry/data/data_000001"][3])


def test_peak_memory_counts_what_is_touched() -> None:
    before = instrumented.peak_bytes()
    np.ones(before + 50_000_000, np.uint8)
    assert instrumented.peak_bytes() >= before + 50_000_000


def test_rank_as_launchers_tell_it() -> None:
    assert instrumented.rank_here({"PMI_RANK": "3"}) == 3
    assert instrumented.rank_here({"SLURM_PROCID": "5"}) == 5
    assert instrumented.rank_here({}) == 0


@pytest.mark.mpi
@needs_mpi
@pytest.mark.skipif(not kernels.COMPILED, reason="the kernel section compares compiled kernels")
def test_all_of_it_runs(simulated: Path, tmp_path: Path) -> None:
    """Sections that need no strace, on the smallest sets; then the page of all their results."""
    sizes = performance.Sizes(
        (("500k", 16),), 4, "500k", 4, 2, 2, 1, 1, (1, 2), (2,), 1, 0.02, (("500k", 8),), (("500k", 4),)
    )
    results = tmp_path / "results"
    sections = ["kernels", "stages", "settings", "keeping", "memory", "scaling", "starting", "waiting", "verifying"]
    performance.measure(sizes, simulated.parent, results, sections)
    page = tmp_path / "docs" / "performance.md"
    assert main(["--page_only", "--results", str(results), "--page", str(page)]) == 0
    text = page.read_text()
    found = performance.read_results(results)
    assert {row["setting"] for row in found["settings"]} >= {"b1s1", "b2s2", "b2s2 H16"}
    for row in [*found["settings"], *found["keeping"]]:
        assert f"| {row['setting']} | " in text
    assert {row["words"] for row in found["memory"]} == set(memory.available())
    assert all(row["peak_bytes"] > 1e7 for row in found["memory"])
    assert "## Memory" in text
    (verified,) = found["verifying"]["sets"]
    assert verified["frames"] == 8
    assert all(verified["seconds"][how]["minimum"] > 0 for how in ("alone", "certify"))
    assert found["verifying"]["sha256"]["rate"]["minimum"] > 0
    assert "## Verifying" in text
    (short,) = found["starting"]["sets"]
    for way in ("alone", "mpiexec"):
        assert 0 < short[way]["first_frame"]["minimum"] < short[way]["wall"]["minimum"]
        assert short[way]["cpu"]["minimum"] > 0
    assert found["starting"]["imports"]["cpu"]["minimum"] > 0
    assert "one process, from its start to the first frame read, 500k, 16 bit" in text
    assert "## Short jobs" in text
    (single, double) = found["scaling"]["strong"]
    assert [len(single["ranks"]), len(double["ranks"])] == [1, 2]
    assert single["frames"] == double["frames"] == 8
    assert [row["frames"] for row in found["scaling"]["weak"]] == [4, 8]
    assert all(row["speed"]["minimum"] > 0 for row in found["scaling"]["independent"])
    for row in found["stages"]:
        # Of one run the stages are parts; of their medians that need not hold.
        assert sum(s["minimum"] for s in row["stages"].values()) <= 1.05 * row["seconds_a_frame"]["minimum"]


@pytest.mark.mpi
@needs_mpi
@pytest.mark.skipif(not calls.available(), reason="needs strace, and leave to trace")
def test_calls_of_rank_0_grow_by_one_look_at_each_file(simulated: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    found = calls.measure(inputs.multiplied(simulated, 20), WORDS, tmp_path)
    # Where the machine is busy, the lock gets signs of life: each opens it once.
    beats = int((time.monotonic() - begin) / HEARTBEAT_SECONDS)
    once, twice = found["rank_0"], found["rank_0_of_twice_the_blocks"]
    # At the end it looks once at each block and each input file: 4 blocks and 10 files more here.
    more = {k: twice.get(k, 0) - once.get(k, 0) for k in calls.METADATA}
    assert more.pop("open") <= 4 + beats
    assert more.pop("stat") <= 4 * 6 + 10 + 4 * beats
    assert set(more.values()) == {0}
    assert found["block"]["fsync"] == 2  # the file, and the folder that has its name
    assert found["block"]["create, rename or remove"] == 1
    assert found["block"]["list"] == 0


def test_page_says_which_bound_is_missed(tmp_path: Path) -> None:
    spread = {"minimum": 1.0, "median": 3.1, "spread": 0.1, "n": 5}
    row = {
        "setting": "b2s2 H16",
        "frames": 4,
        "raw_bytes": 1,
        "run_seconds": spread,
        "floor_seconds": spread,
        "over_floor": spread,
        "raw_mb_per_s": spread,
        "whole_job_seconds": spread,
        "ratio_to_raw16": 9.0,
        "stages": dict.fromkeys(STAGES, spread),
    }
    page = tmp_path / "performance.md"
    performance_page.write_page(page, {"machine": {}, "settings": [row]})
    assert "| b2s2 H16 over the floor | at most 1.5 | 3.10 (1.00; 0.10) | **no** |" in page.read_text()


def test_a_failed_launch_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input", str(tmp_path / "absent_master.h5"), "--work", str(tmp_path), "--repeats", "1"]
    assert scaling.main([*words, "--launcher", "env -u PMI_RANK", "--workers", "1"]) == 1
    assert "absent_master.h5: no such file" in capsys.readouterr().err
    assert not (tmp_path / "scaling.json").exists()


def test_notes_of_a_rank(simulated: Path, tmp_path: Path) -> None:
    scale = scaling.Scale(simulated, 4, 1, launcher="env", words=("-b", "2", "-c", "bslz4"))
    run = scaling.launch(scale, 0, 4, tmp_path)
    (note,) = run.notes
    assert note["rank"] == 0
    assert 0 < note["entered"] < note["first_frame"] < note["ended"]
    assert run.workers == [note]
    assert json.loads(json.dumps(run.summary))["frames"] == 4


@needs_mpi
def test_a_node_of_many_cores_has_its_section(tmp_path: Path) -> None:
    words = ["--workers", "1", "2", "--detector", "500k", "--frames", "8", "--block", "2", "--seconds", "0"]
    words += ["--settings", WORDS, "--work", str(tmp_path), "--result", str(tmp_path / "node.json")]
    assert node.main(words) == 0
    found = performance.read_results(tmp_path)
    setting = found["node"]["settings"][0]
    assert found["node"]["rounds"] == 1
    assert [(row["workers"], row["frames"]) for row in setting["strong"]] == [(1, 8), (2, 8)]
    assert [(row["workers"], row["frames"]) for row in setting["weak"]] == [(1, 4), (2, 8)]
    performance_page.write_page(tmp_path / "page.md", found)
    page = (tmp_path / "page.md").read_text()
    assert f"## Scaling on {found['machine']['node']['cores']} cores" in page
    assert "| weak | 1 | 4 |" in page
    assert "| copy of a frame |" in page


STAND_IN = """version = "0.7"
import sys
from bnl_mpi.cli import main
sys.exit(main())
"""
"""Takes the options that the original takes, and writes a data file of that name."""


def of_original(folder: Path, script: str) -> list[str]:
    (folder / "l_bnl_compress.py").write_text(script)
    words = [str(folder / "l_bnl_compress.py"), "--settings", WORDS, "--detectors", "500k", "--frames", "4"]
    return [*words, "--repeats", "1", "--work", str(folder), "--result", str(folder / "original.json")]


@needs_mpi
def test_the_original_has_its_section(tmp_path: Path) -> None:
    assert original.main(of_original(tmp_path, STAND_IN)) == 0
    found = performance.read_results(tmp_path)
    (version,) = found["original"]
    (row,) = version["rows"]
    assert version["version"] == "0.7"
    for name in ("original", "alone", "mpiexec"):
        assert row[name]["wall"]["minimum"] > 0
        assert row[name]["cpu"]["minimum"] > 0
    assert (row["frames"], row["pixels"]["differ"]) == (4, 0)
    assert row["pixels"]["valid"] > 2 * 250 * 500
    performance_page.write_page(tmp_path / "page.md", found)
    page = (tmp_path / "page.md").read_text()
    assert f"0.7, SHA-256 {version['sha256']}" in page
    assert f"| 500k, 16 bit | `{WORDS}` |" in page
    # A bound is of the 9M set alone.
    row["set"], row["times"]["wall"]["median"], row["times"]["worker"]["median"] = "in_9M_16_4", 14.9, 15.1
    bounds = original_page.bounds(found["original"], performance_page.figure)
    assert [(bound[1], bound[3]) for bound in bounds] == [("at least 15", False), ("at least 15", True)]


def test_an_original_that_fails_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert original.main(of_original(tmp_path, "raise SystemExit('no module named x')")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks.original: ")
    assert line.endswith("ended with status 1: no module named x")


def test_pixels_differ_where_both_have_them() -> None:
    ours, theirs = np.array([[0, 5, 65535, 9]], np.uint16), np.array([[0, 7, 3, 0]], np.uint16)
    assert original.differences(theirs, ours) == {"valid": 3, "differ": 2, "most": 9}


@needs_mpi
def test_many_small_sets_have_their_section(tmp_path: Path) -> None:
    words = ["--quick", "--settings", WORDS, "--work", str(tmp_path), "--result", str(tmp_path / "archive.json")]
    assert archive.main(words) == 0
    found = performance.read_results(tmp_path)
    row = found["archive"][0]
    assert (row["sets"], row["frames"]) == (4, 4)
    parts = {name: told["minimum"] for name, told in row["parts"].items()}
    assert all(parts[name] > 0 for name in ("facts", "plan", "frames", "data file", "masters", "check"))
    performance_page.write_page(tmp_path / "page.md", found)
    page = (tmp_path / "page.md").read_text()
    assert "## Many small data sets" in page
    assert [row["how"] for row in found["archive"]] == ["processes", "ranks"]
    assert f"| `{WORDS}` | 500k | 4 | 4 | `mpiexec` |" in page
    grows = archive.Run(1.0, 1.0, {1: [(100 + k, 9) for k in range(40)]})
    assert (grows.growth(0) > 1.1, grows.growth(1)) == (True, 1.0)


def test_a_failed_run_of_many_sets_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(archive.RunError, match="no such file"):
        archive.run(["-i", str(tmp_path / "none_master.h5"), "-o", str(tmp_path / "out")])


def test_threads_a_core_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "thread_siblings_list"
    monkeypatch.setattr(machine, "SIBLINGS", path)
    assert machine.threads_a_core() == 1
    for text, n in (("0\n", 1), ("0,16\n", 2), ("0-1\n", 2)):
        path.write_text(text)
        assert machine.threads_a_core() == n


@pytest.mark.mpi
@needs_mpi
def test_a_run_is_watched(simulated: Path, tmp_path: Path) -> None:
    """Each rank is found, and what grows is told from what stays."""
    longer = inputs.multiplied(simulated, 50)
    found = soak.watch(longer, "-b 2 -s 2 -J 20 -c bslz4", tmp_path / "soak", workers=2, seconds=0.05)
    # Beside each rank there is a guard while MPI starts.
    assert len({*found.early, *found.late}) >= 3
    assert not (tmp_path / "soak").exists()
    grows = soak.Watched("", late={1: soak.Rank([(1000 + k, 9, 1) for k in range(400)])})
    stays = soak.Watched("", late={1: soak.Rank([(1000 + k % 20, 9, 1) for k in range(400)])})
    assert not grows.is_flat()
    assert stays.is_flat()
