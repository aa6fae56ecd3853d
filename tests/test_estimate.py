"""`bnl-mpi estimate`: sizes against what runs then write, losses against what was added, the command's words."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_sets import random_frames, random_mask, read_images, write_set

from bnl_mpi import reduce
from bnl_mpi.cli import main
from bnl_mpi.errors import UsageError
from bnl_mpi.estimate import choose, names, sampling, study
from bnl_mpi.estimate.measure import Measured, Predicted, Study, images_within, place_of
from bnl_mpi.estimate.project import images_total
from bnl_mpi.estimate.study import Findings, Wish
from bnl_mpi.input.frames import FrameReader
from bnl_mpi.job import prepare
from bnl_mpi.options import Options
from bnl_mpi.plan import Plan
from bnl_mpi.run.world import World
from bnl_mpi.simulate import simulate

Array = np.ndarray[Any, Any]

# Where a test compares sizes the data sets have frames that differ, and more of them than are looked at.
SIMULATED: dict[str, dict[str, Any]] = {
    "weak": {"brightness": 40.0, "frames": 90},
    "strong": {"brightness": 4000.0, "frames": 90, "flavour": "eiger2"},
    "dense": {"crystal": "thaumatin", "frames": 72, "osc": 0.4},
    "sparse": {"cell": (20.0, 22.0, 25.0, 90.0, 90.0, 90.0), "space_group": "P 21 21 21", "frames": 70},
}


def estimate(master: Path, tried: str, **more: Any) -> Findings:
    found = study.run(Wish(str(master), names.parse_list(tried), **more), World())
    assert found is not None
    return found


def written(master: Path, setting: str, folder: Path) -> int:
    """Bytes of all files of a real run."""
    folder.mkdir()
    words = names.parse(setting).words()
    assert main(["-i", str(master), *words, "-o", str(folder / "out")]) == 0
    return sum(path.stat().st_size for path in folder.iterdir())


def grid_scan(folder: Path) -> Path:
    """Frames without rotation, of which few show a crystal, and the background of all differs."""
    rng = np.random.default_rng(8)
    frames = rng.poisson(rng.uniform(0.05, 1.5, 120)[:, None, None], (120, 200, 240)).astype(np.uint16)
    for k in range(50, 66):
        for _ in range(40):
            y, x = rng.integers(5, 190), rng.integers(5, 230)
            frames[k, y : y + 3, x : x + 3] += rng.poisson(40, (3, 3)).astype(np.uint16)
    return write_set(folder, frames, mask=np.zeros((200, 240), np.uint32), per_file=50, osc=0.0)


@pytest.mark.parametrize("kind", [*SIMULATED, "grid"])
def test_the_size_told_is_the_size_that_a_run_writes(kind: str, tmp_path: Path, capsys: Any) -> None:
    if kind == "grid":
        master, tried = grid_scan(tmp_path), "b1s1 b2s1T5"
    else:
        master = simulate(tmp_path / "in", detector="500k", images_per_file=40, **SIMULATED[kind])
        tried = "b2s2 b2s1H16 b2s2T6"
    for one in estimate(master, tried).estimates:
        size = written(master, one.name, tmp_path / one.name)
        assert one.projection.total == pytest.approx(size, rel=0.03), one.name
        assert one.projection.low <= one.projection.total <= one.projection.high
        assert one.projection.ratio_low <= one.projection.ratio <= one.projection.ratio_high
    capsys.readouterr()


@pytest.fixture(scope="module")
def lyso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rotation with spots, 40 frames of 0.2 degrees."""
    folder = tmp_path_factory.mktemp("lyso")
    return simulate(folder / "lyso", frames=40, osc=0.2, resolution=2.2)


@pytest.fixture(scope="module")
def findings(lyso: Path) -> Findings:
    return estimate(lyso, "b1s1 b2s2 b2s2H16 b2s2T6 b4s4T20")


def test_pixels_that_are_kept_as_they_are_lose_nothing(findings: Findings) -> None:
    losses = next(one for one in findings.estimates if one.name == "b1s1").losses
    assert losses.outer_noise == pytest.approx(0, abs=1e-9)
    assert losses.verdict == "kept"
    assert losses.kept == pytest.approx(1)
    assert losses.background.bias == 0
    assert losses.background.variance == pytest.approx(1, abs=0.05)


def test_sums_that_do_not_fill_a_group_lose_no_more_than_others(lyso: Path) -> None:
    """Five and seven frames an image: no group of a sample holds whole images of both."""
    for one in estimate(lyso, "b1s2 b1s3 b1s5 b1s7").estimates:
        assert one.losses.kept == pytest.approx(1, abs=0.05), one.name


def test_spots_that_last_longer_than_a_group_are_judged_too(tmp_path: Path) -> None:
    """Groups of ten frames hold no whole number of threes; all spots last longer than the group."""
    master = simulate(tmp_path / "wide", detector="500k", frames=30, mosaicity=0.6, resolution=3, bad_pixels=0)
    found = {one.name: one.losses for one in estimate(master, "b1s2 b1s3 b1s5").estimates}
    spots = {name: losses.every.spots for name, losses in found.items()}
    assert spots["b1s3"] > 0.8 * spots["b1s5"] > 80
    for name, losses in found.items():
        assert losses.kept == pytest.approx(1, abs=0.02), name


def test_a_hot_pixel_beside_a_spot_and_a_spot_in_two_parts_are_no_losses(tmp_path: Path) -> None:
    """The 500k set of seed 0 has an unflagged hot pixel four pixels from a weak spot, which a bin would take in."""
    hot, clean = (
        estimate(simulate(tmp_path / f"{bad}", detector="500k", frames=60, bad_pixels=bad), "b1s2 b2s1")
        for bad in (2e-5, 0.0)
    )
    noise = [{one.name: one.losses.worst_noise or 0.0 for one in found.estimates} for found in (hot, clean)]
    assert noise[0] == pytest.approx(noise[1], abs=0.05)
    # The parts of a spot that fell below the threshold for a frame made it 0.6.
    assert noise[1]["b1s2"] < 0.45
    assert any("always strong" in note for note in hot.notes)
    assert not any("always strong" in note for note in clean.notes)


def test_settings_come_by_size_and_the_front_is_what_nothing_beats(findings: Findings) -> None:
    sizes = [one.projection.total for one in findings.estimates]
    assert sizes == sorted(sizes, reverse=True)
    for one in findings.estimates:
        better = [
            other
            for other in findings.estimates
            if other.projection.total < one.projection.total and study.harm(other) < study.harm(one)
        ]
        assert one.front == (not better)
    assert {one.name for one in findings.estimates if one.front} >= {"b1s1", "b4s4T20"}


def test_coarser_settings_add_more_noise(findings: Findings) -> None:
    noise = {one.name: study.harm(one) for one in findings.estimates}
    assert noise["b1s1"] < noise["b2s2"] < noise["b2s2H16"]
    assert noise["b2s2"] <= noise["b2s2T6"] < noise["b4s4T20"]


def test_what_is_measured_is_what_a_run_stores(findings: Findings, lyso: Path, tmp_path: Path) -> None:
    """The sampled pixels' background, once more from the files of a real run."""
    reduce(str(lyso), out_file=str(tmp_path / "out"), bin=2, sum=2, codec="hcompress", codec_level=16)
    reduce(str(lyso), out_file=str(tmp_path / "exact"), bin=2, sum=2)
    images, exact = (read_images(tmp_path / f"{name}_master.h5") for name in ("out", "exact"))
    chosen = [frame // 2 for group in findings.groups for frame in group[::2]]
    one = next(one for one in findings.estimates if one.name == "b2s2H16").losses.background
    # Nearly all pixels are background; the marks of gaps, and spots, are left out.
    usable = (exact[chosen] < 60) & (images[chosen] < 200)
    assert one.mean == pytest.approx(exact[chosen][usable].mean(), rel=0.1)
    assert one.bias == pytest.approx(images[chosen][usable].mean() - exact[chosen][usable].mean(), abs=0.05)


def test_spot_sizes_and_advice_are_the_simulations(findings: Findings) -> None:
    assert findings.rotation
    sizes = findings.sizes
    assert sizes.sigma == pytest.approx(1.1, abs=0.35)
    assert sizes.rocking is not None
    assert 1 <= sizes.rocking < 4
    assert len(sizes.advice()) == 2


def test_predicted_spots_are_judged_in_place_of_found_ones(lyso: Path) -> None:
    with h5py.File(str(lyso).replace("_master", "_truth")) as truth:
        columns = [truth["predictions"][name][()].astype(float) for name in ("fast", "slow", "frame", "sigma")]
    x, y, z, sigma = columns
    predicted = Predicted(x, y, z, np.maximum(0.5, 3 * sigma / 0.2))
    by_truth = estimate(lyso, "b2s2 b2s2H16", predicted=predicted)
    found = estimate(lyso, "b2s2 b2s2H16")
    truth_of, found_of = ({e.name: e.losses for e in f.estimates} for f in (by_truth, found))
    assert truth_of["b2s2"].every.spots > found_of["b2s2"].every.spots
    assert truth_of["b2s2"].predicted
    assert not any("only spots that were found" in note for note in by_truth.notes)
    assert any("only spots that were found" in note for note in found.notes)
    weak = [one["b2s2H16"].every.i_over_sigma for one in (truth_of, found_of)]
    assert weak[0] is not None
    assert weak[1] is not None
    assert weak[0] < weak[1]


def test_ranks_share_the_groups_and_find_the_same(findings: Findings, lyso: Path, tmp_path: Path) -> None:
    told = []
    for words in ([], ["-p", "3"]):
        path = tmp_path / f"{len(words)}.json"
        command = [sys.executable, "-m", "bnl_mpi", "estimate", str(lyso), "--try", "b2s2 b2s2T6", "--json", str(path)]
        command += ["--target_ratio", "20"]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(path.read_text()))
    for one in told:
        for setting in one["settings"]:
            for name in ("ms_per_frame", "seconds"):
                del setting[name]
        one["command"] = one["command"].replace("-p 3 ", "")
        del one["sbatch"]
    assert told[0] == told[1]
    assert [s["name"] for s in told[0]["settings"]] == ["b2s2", "b2s2T6"]


def test_the_command_that_is_told_makes_the_set_of_the_size_told(lyso: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["estimate", str(lyso), "--try", "b2s2 b3s2", "--target_ratio", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    command = next(line for line in lines if line.startswith("  bnl-mpi"))
    assert any(line.startswith("  sbatch -n ") for line in lines)
    words = shlex.split(command)[1:]
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        assert main(words) == 0
    finally:
        os.chdir(here)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    name = next(line for line in lines if line.startswith("recommended: ")).split()[1].rstrip(",")
    row = next(line for line in lines if name in line.split()[:2]).replace("*", "").split()
    told = float(row[1]) * choose.UNITS[row[2].upper()]
    assert told == pytest.approx(size, rel=0.03)


def test_spots_come_from_a_file_of_reflections_too(lyso: Path, tmp_path: Path, capsys: Any) -> None:
    with h5py.File(str(lyso).replace("_master", "_truth")) as truth:
        columns = [truth["predictions"][name][()].astype(float) for name in ("fast", "slow", "frame")]
    x, y, z = columns
    inside = (z > 0) & (z < 40)
    table = np.stack([x[inside], y[inside], np.floor(z[inside]) + 1, np.full(inside.sum(), 4.0)], axis=1)
    np.savetxt(tmp_path / "spots.txt", table)
    words = ["--try", "b2s2", "--spots", str(tmp_path / "spots.txt"), "--json", str(tmp_path / "j.json")]
    assert main(["estimate", str(lyso), *words]) == 0
    assert "only spots that were found" not in capsys.readouterr().out
    losses = json.loads((tmp_path / "j.json").read_text())["settings"][0]["losses"]
    assert losses["predicted"]
    assert losses["all"]["spots"] > 1000
    (tmp_path / "other.txt").write_text("5 5 41\n")
    (tmp_path / "larger.txt").write_text("5000 5 4\n")
    capsys.readouterr()
    for name, told in (
        ("none", "No such file"),
        ("other", "1 of 1 reflections are outside frames 1 to 40"),
        ("larger", "1 of 1 reflections are outside a frame"),
    ):
        assert main(["estimate", str(lyso), "--spots", str(tmp_path / f"{name}.txt")]) != 0
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert line.startswith(f"bnl-mpi: --spots {tmp_path / name}.txt: ")
        assert told in line


# Recommendation


def test_aims_choose_the_gentlest_small_one_or_the_smallest_good_one(findings: Findings) -> None:
    by_name = {one.name: one for one in findings.estimates}
    ratio = by_name["b2s2T6"].projection.ratio
    assert choose.recommend(findings, choose.Aim(target_ratio=ratio * 0.99)).estimate in (
        by_name["b2s2T6"],
        by_name["b2s2"],
    )
    small = choose.recommend(findings, choose.Aim(max_size=by_name["b4s4T20"].projection.total * 1.01)).estimate
    assert small is by_name["b4s4T20"]
    assert choose.recommend(findings, choose.Aim(min_kept=1.0 - 1e-9)).estimate is by_name["b1s1"]
    none = choose.recommend(findings, choose.Aim(max_size=1000))
    assert none.estimate is None
    assert "at most 1 kB" in none.reason


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("500 MB", 5e8), ("1.5kB", 1500), ("1e9", 1e9), ("3T", 3e12), ("1GiB", 2**30)]
)
def test_sizes_are_bytes_with_units(text: str, size: float) -> None:
    assert choose.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "3 zB", "-2GB"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--max_size"):
        choose.parse_size(text)


# Sampling and projection


@pytest.mark.parametrize(("n", "length", "wanted"), [(450, 8, 5), (40, 8, 20), (7, 8, 5), (100, 1, 20), (450, 24, 3)])
def test_groups_are_whole_spread_and_within_the_frames(n: int, length: int, wanted: int) -> None:
    groups = sampling.choose_groups(10, n, length, wanted)
    assert len(groups) == min(wanted, max(1, n // length))
    for one, other in itertools.pairwise(groups):
        assert one.stop <= other.start
    for group in groups:
        assert (group.start - 10) % length == 0
        assert 10 <= group.start < group.stop <= 10 + n
        assert len(group) == min(length, n)


def test_groups_of_a_grid_scan_meet_its_few_large_frames() -> None:
    sizes = np.full(1000, 100)
    sizes[700:730] = np.arange(1000, 1030)
    groups = sampling.choose_groups(0, 1000, 1, 40, sizes)
    assert any(700 <= group.start < 730 for group in groups)


def test_images_of_a_group_are_those_whose_frames_lie_in_it() -> None:
    assert list(images_within(0, 2, 20, range(8, 16))) == [4, 5, 6, 7]
    assert list(images_within(10, 3, 4, range(10, 20))) == [0, 1, 2, 3]
    assert list(images_within(0, 8, 1, range(0, 5))) == [0]


def plan_of(n_frames: int) -> Plan:
    return Plan(n_frames, 0, n_frames, 1, 1, 1.0, (100, 100), "uint16", "uint16", 100, 65530.0, 65530.0)


def test_stored_sizes_of_all_frames_move_the_sample_mean() -> None:
    """Where output goes with input exactly, the total is exact however uneven the sample is."""
    rng = np.random.default_rng(1)
    stored = rng.integers(1000, 9000, 400)
    groups = [Measured(sizes=[50 + int(stored[k]) // 2], frames=[range(k, k + 1)]) for k in range(0, 40, 4)]
    total, spread = images_total(plan_of(400), groups, stored)
    true = sum(50 + int(size) // 2 for size in stored)
    assert total == pytest.approx(true, rel=1e-3)
    assert spread < 1e-3 * true


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(2)
    stored = rng.integers(5000, 6000, 400)
    sizes = rng.normal(800, 100, 400).astype(int)
    held = 0
    for _ in range(300):
        chosen = rng.choice(400, 8, replace=False)
        groups = [Measured(sizes=[int(sizes[k])], frames=[range(k, k + 1)]) for k in chosen]
        total, spread = images_total(plan_of(400), groups, stored)
        held += abs(total - sizes.sum()) <= spread
    assert 0.88 < held / 300 < 0.99


@pytest.mark.parametrize("filter_name", ["bslz4", "lz4", "none", "gzip"])
def test_stored_sizes_are_those_of_the_chunks(filter_name: str, tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(9, (60, 70)), filter_name=filter_name)
    job = prepare(Options(infile=str(master))).job
    sizes = sampling.stored_sizes(job.source)
    reader = FrameReader(job.source)
    frame = np.empty((60, 70), np.uint16)
    for k in range(9):
        before = reader.bytes_read
        reader.fetch(k, frame)
        if filter_name != "gzip":
            assert sizes[k] == reader.bytes_read - before
    reader.close()
    assert len(sizes) == 9
    assert sizes.min() > 0


# What bad input gets


def altered(master: Path, change: Callable[[Any], None]) -> Path:
    with h5py.File(master, "r+") as h5:
        change(h5)
    return master


def test_without_geometry_losses_are_by_radius_and_said_so(tmp_path: Path, capsys: Any) -> None:
    master = simulate(tmp_path / "in", frames=16, detector="500k", osc=0.2)

    def drop(h5: Any) -> None:
        del h5["entry/instrument/beam/incident_wavelength"]

    assert main(["estimate", str(altered(master, drop)), "--try", "b2s2H16", "--json", str(tmp_path / "j.json")]) == 0
    told = capsys.readouterr().out
    assert "incident_wavelength): losses are told by radius in pixels" in told
    losses = json.loads((tmp_path / "j.json").read_text())["settings"][0]["losses"]
    assert losses["by"] == "radius"
    assert "pixels" in losses["shells"][0]["label"]


def test_without_spots_the_background_alone_is_judged_and_said_so(tmp_path: Path, capsys: Any) -> None:
    frames = np.random.default_rng(1).poisson(4, (12, 90, 100)).astype(np.uint16)
    master = write_set(tmp_path, frames, mask=random_mask((90, 100)))
    assert main(["estimate", str(master), "--try", "b2s2 b2s2H16 b2s2:zstd9"]) == 0
    told = capsys.readouterr().out
    assert "no spots were found in the sample: settings are judged by the background alone" in told
    assert "b2s2:zstd9" in told
    assert "recommended: " in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--try", "b2s2X3"], "not understood"),
        (["--try", "b2s2keep"], "--keep FILE"),
        (["--sample", "0"], "--sample 0"),
        (["-p", "0"], "--parallel 0"),
        (["--target_ratio", "50", "--min_kept", "0.9"], "exclude each other"),
        (["--min_kept", "1.5"], "--min_kept 1.5"),
        (["--target_ratio", "-3"], "--target_ratio -3"),
        (["--try", "b99s1"], "99"),
        (["--try", "b1s1T1e9"], "not understood"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    master = write_set(tmp_path, random_frames(4, (40, 50)))
    assert main(["estimate", str(master), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_damaged_frame_is_one_line_that_names_it(tmp_path: Path, capsys: Any) -> None:
    master = write_set(tmp_path, random_frames(4, (40, 50)), filter_name="bslz4")
    with h5py.File(tmp_path / "in_data_000001.h5", "r+") as h5:
        h5["entry/data/data"].id.write_direct_chunk((1, 0, 0), b"\0" * 40)
    assert main(["estimate", str(master), "--try", "b1s1"]) != 0
    told = capsys.readouterr().err
    assert "frame 2" in told
    assert told.count("\n") == 1


def test_places_without_a_geometry_are_distances_from_the_middle() -> None:
    class Raw:
        plan = plan_of(1)

    one = Study(Raw(), (), (), None, None)  # type: ignore[arg-type]
    assert place_of(one, np.array([50.0, 53.0]), np.array([50.0, 54.0])).tolist() == [0.0, 5.0]
