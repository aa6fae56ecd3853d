"""The statistics and the page of the quality benchmark, without DIALS."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import h5py
import numpy as np
import pytest

from bnl_mpi import cli
from bnl_mpi.errors import BnlError
from bnl_mpi.estimate import names
from bnl_mpi.quality import chain, kept, merging, observations, page, records, reduced, settings, sizes, study
from bnl_mpi.quality.likeness import likeness
from bnl_mpi.simulate import simulate

CELL = (78.0, 78.0, 78.0, 90.0, 90.0, 90.0)
EDGES = merging.shell_edges(30.0, 3.0, 4)


def crystal(symbol: str = "I 21 3") -> observations.Crystal:
    return observations.Crystal(gemmi.UnitCell(*CELL), gemmi.find_spacegroup_by_name(symbol))


def truth(form: observations.Crystal, rng: np.random.Generator) -> observations.Reference:
    hkl = np.asarray(gemmi.make_miller_array(form.cell, form.group, 3.0), dtype=np.int64)
    centric = form.group.operations().centric_flag_array(hkl.astype(np.int32))
    difference = np.where(centric, np.nan, rng.normal(0, 20, len(hkl)))
    return observations.Reference(hkl, rng.exponential(100, len(hkl)) + 1, difference)


def observe(
    form: observations.Crystal, known: observations.Reference, noise: float, rng: np.random.Generator, path: Path
) -> observations.Observations:
    """Four observations of each mate with random errors, through an MTZ file of equivalent indices."""
    operations = form.group.operations()
    assert known.difference is not None
    half = np.nan_to_num(known.difference) / 2
    rows = []
    for sign, mean in ((1, known.mean + half), (-1, known.mean - half)):
        for operation in list(operations.sym_ops)[:4]:
            moved = [[sign * index for index in operation.apply_to_hkl(list(hkl))] for hkl in known.hkl]
            rows.append(np.column_stack([moved, mean + rng.normal(0, noise, mean.size)]))
    table = np.concatenate(rows)
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = form.group
    mtz.set_cell_for_all(form.cell)
    for name, kind in (("M/ISYM", "Y"), ("BATCH", "B"), ("I", "J"), ("SIGI", "Q")):
        mtz.add_column(name, kind, dataset_id=0)
    batch = gemmi.Mtz.Batch()
    batch.number = 1
    mtz.batches.append(batch)
    ones = np.ones(len(table))
    mtz.set_data(np.column_stack([table[:, :3], ones, ones, table[:, 3], ones * noise]).astype(np.float32))
    mtz.switch_to_asu_hkl()
    mtz.write_to_file(str(path))
    return observations.read_observations(path)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_statistics_of_known_errors(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    shells = merging.statistics(observe(form, known, 60.0, rng, tmp_path / "a.mtz"), known, EDGES)
    whole = shells[0]
    assert whole.unique == sum(shell.unique for shell in shells[1:])
    assert whole.completeness == pytest.approx(1.0, abs=0.01)
    signal = 100.0**2
    # a mean of 8 observations has error 60^2 / 8, one of 4 has twice that; the mates' own difference adds
    # to the scatter
    half_error = (60.0**2 + 10.0**2) / 4
    assert whole.cc_half == pytest.approx(signal / (signal + half_error), abs=0.02)
    assert whole.cc_reference == pytest.approx((signal / (signal + half_error / 2)) ** 0.5, abs=0.02)
    difference, error = 20.0**2, 2 * 60.0**2 / 4
    assert whole.cc_anomalous_reference == pytest.approx((difference / (difference + error)) ** 0.5, abs=0.06)
    assert whole.cc_anomalous == pytest.approx(difference / (difference + 2 * error), abs=0.08)


def test_cc_half_is_gemmis(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    data = observe(form, known, 150.0, rng, tmp_path / "a.mtz")
    other = gemmi.Intensities()
    other.import_mtz(gemmi.read_mtz_file(str(tmp_path / "a.mtz")), gemmi.DataType.Unmerged)
    other.prepare_for_merging(gemmi.DataType.Mean)
    expected = other.calculate_merging_stats(None, use_weights="U")[0].cc_half()
    merged = merging.merge(data)
    assert merging.cc_half(merged.plain_mean, merged.scatter) == pytest.approx(expected, abs=1e-4)


def test_wrong_errors_are_put_right(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    same_mates = replace(known, difference=np.zeros_like(known.mean))
    right = observe(form, same_mates, 30.0, rng, tmp_path / "a.mtz")
    wrong = replace(right, sigma=3 * right.sigma)
    sigma = merging.calibrated(wrong, EDGES).sigma
    assert np.median(sigma) == pytest.approx(30.0, rel=0.05)
    before = merging.statistics(right, known, EDGES)[0]
    assert merging.statistics(wrong, known, EDGES)[0].i_over_sigma == pytest.approx(before.i_over_sigma)


def test_lost_intensity_shows(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    data = observe(form, known, 5.0, rng, tmp_path / "a.mtz")
    outer = observations.spacing(form, data.hkl) <= EDGES[3]
    halved = replace(data, value=np.where(outer, data.value / 2, data.value))
    shells = merging.statistics(halved, known, EDGES)
    assert [shell.recovered for shell in shells[1:]] == pytest.approx([1, 1, 1, 0.5], abs=0.03)


def test_reflections_without_any_error_do_not_make_i_over_sigma(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    data = observe(form, known, 30.0, rng, tmp_path / "a.mtz")
    before = merging.statistics(data, known, EDGES)[0].i_over_sigma
    flat = observations.packed(data.hkl) % 50 == 0
    data = replace(data, sigma=np.where(flat, 1e-14, data.sigma), value=np.where(flat, 0, data.value))
    assert merging.statistics(data, known, EDGES)[0].i_over_sigma == pytest.approx(before, rel=0.05)


def test_no_signal_gives_no_correlation(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    nothing = observations.Reference(known.hkl, np.zeros_like(known.mean), np.zeros_like(known.mean))
    shells = merging.statistics(observe(form, nothing, 60.0, rng, tmp_path / "a.mtz"), known, EDGES)
    assert abs(shells[0].cc_half) < 0.1
    assert abs(shells[0].cc_reference) < 0.1
    assert abs(shells[0].cc_anomalous_reference) < 0.1


def test_the_other_indexing_is_found(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal()
    known = truth(form, rng)
    data = observe(form, known, 30.0, rng, tmp_path / "a.mtz")
    # the lattice's two-fold axis that the point group 23 lacks
    unit, operations = gemmi.ReciprocalAsu(form.group), form.group.operations()
    moved = [unit.to_asu([int(k), int(h), -int(ell)], operations) for h, k, ell in known.hkl]
    turned = observations.Reference(
        np.array([indices for indices, _ in moved], dtype=np.int64),
        known.mean,
        np.where([number % 2 for _, number in moved], 1, -1) * known.difference,
    )
    assert merging.statistics(data, turned, EDGES)[0].cc_reference < 0.5
    found, operator = merging.aligned(turned, data)
    assert operator != "h,k,l"
    whole = merging.statistics(data, found, EDGES)[0]
    assert whole.cc_reference > 0.95
    assert whole.cc_anomalous_reference > 0.5


def test_a_set_is_its_own_reference(rng: np.random.Generator, tmp_path: Path) -> None:
    form = crystal("P 21 21 21")
    data = observe(form, truth(form, rng), 60.0, rng, tmp_path / "a.mtz")
    whole = merging.statistics(data, merging.reference_from(data), EDGES)[0]
    assert whole.cc_reference == pytest.approx(1)
    assert whole.cc_anomalous_reference == pytest.approx(1)


def shell(cc: float, i_over_sigma: float, d_max: float, d_min: float) -> dict[str, Any]:
    return {
        "d_max": d_max,
        "d_min": d_min,
        "i_over_sigma": i_over_sigma,
        "cc_half": cc,
        "cc_reference": cc,
        "recovered": cc,
        "cc_anomalous": cc,
        "cc_anomalous_reference": cc,
    }


def record(name: str, words: str, ratio: float, outer: float, i_over_sigma: float) -> dict[str, Any]:
    shells = [shell(0.999, 20, 30, 1.6), shell(0.999, 50, 30, 2.0), shell(outer, i_over_sigma, 2.0, 1.6)]
    series = {"title": "Made up", "simulate": "--frames 9", "anomalous": "False", "d_min": "1.6", "truth": "t"}
    return {
        "wish": {"name": name, "words": words, "series": series},
        "error": "",
        "bytes": int(1e8 / ratio),
        "ratio": ratio,
        "ratio_stored": ratio / 10,
        "ratio_strong": ratio * 2,
        "image": [10, 12],
        "images": 9,
        "spots": 100,
        "indexed_fraction": 0.99,
        "cell_error": 0.0001,
        "shells": shells,
    }


def test_page_says_what_was_lost(tmp_path: Path) -> None:
    folder = tmp_path / "made_up"
    folder.mkdir()
    made = [
        record("raw", "", 1, 0.8, 2.0),
        record("b2", "-b 2", 4, 0.79, 1.9),
        record("strong", "-b 2 -J 999", 99, 0.1, 0.01),
    ]
    for one in made:
        study.record_path(folder, one["wish"]["name"]).write_text(json.dumps(one))
    written = tmp_path / "docs" / "quality.md"
    page.write_page(written, [folder])
    text = written.read_text()
    assert "`strong` (99:1)" in text
    sentence = next(line for line in text.splitlines() if line.startswith("- `strong`"))
    assert "**destroyed**" in sentence
    assert "usable to 2.00 Angstrom" in sentence
    kept = next(line for line in text.splitlines() if line.startswith("- `b2`"))
    assert "**kept**" in kept
    assert "To keep all of the resolution: `b2`" in text
    assert "- The codec of `strong` makes the files 96 % smaller than `b2` alone" in text
    assert "takes the usable resolution from 1.60 Angstrom to 2.00 Angstrom" in text
    assert "Don't judge by the overall CC1/2" in text
    table = [line for line in text.splitlines() if line.startswith("| `strong`")]
    assert "| 1.01 | 99.0 | 198.0 | 9.90 | 100 | 99.0 | 0.010 |" in table[0]


def test_sizes_are_compared_like_with_like(tmp_path: Path) -> None:
    folder = tmp_path / "made_up"
    folder.mkdir()
    geometry = {
        "oscillation": 0.1,
        "rocking_sigma": 0.1,
        "spot_sigma": 1.0,
        "spot_spacing": 12.0,
        "longest_axis": 79.0,
    }
    made = [
        record("raw", "", 12, 0.95, 3.0) | {"geometry": geometry},
        record("coded", "-b 2 -s 2 -H 16", 70, 0.42, 0.5),
        record("too_large", "-b 2 -s 2 -T 8 -c htj2k", 64, 0.9, 2.0),
        record("same", "-b 2 -s 2 -T 9 -c htj2k", 72, 0.85, 2.0),
        record("smaller", "-b 2 -s 2 -T 14 -c htj2k", 112, 0.7, 2.0),
        record("other_bins", "-b 2 -s 4 -T 7 -c htj2k", 113, 0.75, 2.0),
        record("near_50", "-b 2 -s 1 -T 13 -c htj2k", 52, 0.8, 2.0),
        record("at_50", "-b 2 -s 1", 51, 0.7, 2.0),
        record("just_larger", "-b 2 -s 2", 47, 0.9, 2.0),
    ]
    for one in made:
        (folder / f"result_{one['wish']['name']}.json").write_text(json.dumps(one))
    done = records.read_records(folder)
    assert sizes.partner(done["coded"], done) == "same"
    assert list(sizes.of_tier(110, done)) == ["other_bins", "smaller"]
    assert sizes.best_of_tiers(done) == {50: "near_50", 110: "other_bins"}
    page.write_page(tmp_path / "page.md", [folder])
    written = (tmp_path / "page.md").read_text()
    assert "`coded`, 1.4 MB: kept 0.7" in written
    assert "`same`, 1.4 MB: kept 0.9" in written
    assert "What keeps the most: `-b 2 -s 1 -T 13 -c htj2k` at 50:1, `-b 2 -s 4 -T 7 -c htj2k` at 110:1." in written
    assert "| -b 2 -s 4 | 6.0 | 0.40 | 1.7 | - | `other_bins` |" in written
    assert "smaller files are better made by binning and summing more" in written


def test_rows_that_are_not_run_again_stay_on_the_page(tmp_path: Path) -> None:
    """A page from records, and the same from the figures beside it and the one row that ran anew."""
    first, second, written = tmp_path / "one" / "made_up", tmp_path / "two" / "made_up", tmp_path / "page.md"
    flat = record("flat", "-b 2 -s 2 -H 16", 70, float("nan"), float("nan"))
    made = [record("raw", "", 12, 0.95, 3.0) | {"cell_error": 1 / 7e5}, flat, record("b2s4", "-b 2 -s 4", 80, 0.7, 1.0)]
    made += [record("lost", "-b 2 -s 4 -T 7 -c htj2k", 1100 / 7, 0.1 / 3, 1.0)]
    for folder, records_of_it in ((first, made), (second, [made[0], record("b2s4", "-b 2 -s 4", 81, 0.75, 1.0)])):
        folder.mkdir(parents=True)
        for one in records_of_it:
            study.record_path(folder, one["wish"]["name"]).write_text(json.dumps(one))
    page.write_page(written, [first])
    before = written.read_text()
    page.write_page(written, [tmp_path / "none" / "made_up"])
    assert written.read_text() == before
    page.write_page(written, [second])
    changed = written.read_text().splitlines()
    assert [line for line in changed if line.startswith("| `flat`")] == [
        line for line in before.splitlines() if line.startswith("| `flat`")
    ]
    assert "| `b2s4` | `-b 2 -s 4` | 1.23 | 81.0 |" in written.read_text()
    told = json.loads((tmp_path / "page.json").read_text())["made_up"]
    assert [one["wish"]["name"] for one in told] == ["raw", "flat", "b2s4", "lost"]
    # Another series of the same name has rows of its own.
    other = json.loads(study.record_path(second, "raw").read_text())
    other["wish"]["series"]["simulate"] = "--frames 10"
    study.record_path(second, "raw").write_text(json.dumps(other))
    study.record_path(second, "b2s4").unlink()
    page.write_page(written, [second])
    assert "`flat`" not in written.read_text()


def test_page_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BnlError, match="no records"):
        page.write_page(tmp_path / "page.md", [tmp_path])


def test_the_settings_of_all_series_are_known() -> None:
    of_series = [series.settings for series in settings.SIMULATED.values()]
    for tried in (settings.FOR_INPUT, *of_series, *map(tuple, kept.STUDY.values())):
        assert [settings.name_of(one) for one in settings.settings_of(tried)] == ["raw", *tried]


def test_a_seed_makes_another_series_of_the_same_kind(tmp_path: Path) -> None:
    first, second = (settings.simulated_series(name, tmp_path) for name in ("anomalous", "anomalous:2"))
    assert second.simulate == f"{first.simulate} --seed 2"
    assert second.title == f"{first.title}, seed 2"
    assert second.name == second.master.parent.name == "anomalous_2"
    changed = replace(
        second,
        name=first.name,
        title=first.title,
        simulate=first.simulate,
        master=first.master,
        truth=first.truth,
    )
    assert changed == first
    for wrong in ("weak:", "weak:x", "other:1"):
        with pytest.raises(BnlError, match="weak:2"):
            settings.simulated_series(wrong, tmp_path)


def test_the_page_of_kept_sets_tells_series_and_seeds(tmp_path: Path) -> None:
    for series, better in (("weak", 0.0), ("weak_1", 0.02), ("weak_2", 0.04), ("anomalous", 0.0)):
        (tmp_path / series).mkdir()
        for one in (
            record("raw", "", 12, 0.9 + better, 3.0),
            record("b2s2keep:zstd9", "-b 2 -s 2 --keep {predicted} -c zstd -l 9", 170, 0.8 + better, 2.0),
            record("b3s3", "-b 3 -s 3", 99, 0.7, 2.0),
        ):
            place = settings.place_of(one["wish"]["name"])
            (tmp_path / series / f"result_{place}.json").write_text(json.dumps(one))
    kept.write_page(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| `b2s2keep:zstd9` | `-b 2 -s 2 --keep FILE -c zstd -l 9` | zstd 9 | 170 |" in text
    assert "b3s3" not in text  # no part of the study
    losses = [line for line in text[text.index("## Other seeds") :].splitlines() if line.startswith("| `b2s2keep")]
    assert len(losses) == 1
    assert "| 170 to 170 | 0.8995, 0.9095, 0.9195 |" in losses[0]
    assert losses[0].endswith("| 0.0500 | 0.0000 |")
    with pytest.raises(BnlError, match="no records"):
        kept.write_page(tmp_path / "other.md", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("name", "told", "given"),
    [
        ("b2", "-b 2 -s 1", "-b 2 -s 1 -c bslz4"),
        ("b2s4", "-b 2 -s 4", "-b 2 -s 4 -c bslz4 --drop_partial"),
        ("b2s2h16", "-b 2 -s 2 -H 16", "-b 2 -s 2 -H 16 -c bslz4 --drop_partial"),
        ("b2s2T6.45", "-b 2 -s 2 -T 6.45 -c htj2k", "-b 2 -s 2 -T 6.45 -c htj2k --drop_partial"),
    ],
)
def test_the_words_of_a_setting(
    name: str, told: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(reduced, "_bnl_mpi", lambda words: commands.append(" ".join(words)))
    monkeypatch.setattr(reduced, "_linked_files", lambda master: [])
    series = settings.Series("s", "s", "", tmp_path / "raw_master.h5", 2.0)
    setting = names.parse(name)
    assert settings.described(setting) == told
    reduced.make_reduced(series, setting, tmp_path, 3)
    stem = tmp_path / setting.name / setting.name
    assert commands == [f"-i {series.master} {given} -p 3 --force -o {stem}"]


def test_a_drawn_background_is_that_of_an_expanded_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    monkeypatch.setattr(reduced, "_bnl_mpi", lambda words: commands.append(" ".join(words)))
    monkeypatch.setattr(reduced, "_linked_files", lambda master: [])
    series = settings.Series("s", "s", "", tmp_path / "raw_master.h5", 2.0)
    (setting,) = settings.settings_of(["b2s2keep:zstd9+poisson"])[1:]
    assert setting is not None
    assert settings.name_of(setting) == "b2s2keep:zstd9+poisson"
    assert settings.described(setting) == "-b 2 -s 2 --keep {predicted}; expand --background poisson"
    reduced.make_reduced(series, setting, tmp_path, 3)
    stem = tmp_path / "b2s2keep_zstd9+poisson" / "b2s2keep_zstd9+poisson"
    kept_words = f"--keep {tmp_path}/dials_raw/integrated.refl -c zstd -l 9 --drop_partial"
    assert commands == [
        f"-i {series.master} -b 2 -s 2 {kept_words} -p 3 --force -o {stem}_kept",
        f"expand {stem}_kept_master.h5 --background poisson -p 3 --force -o {stem}",
    ]
    with pytest.raises(BnlError, match="--keep left"):
        settings.settings_of(["b2s2+poisson"])


def test_likeness_of_two_sets(rng: np.random.Generator, tmp_path: Path) -> None:
    """Twice the scale, errors that are told wrong, and a tenth of the reflections gone; and thrice the errors."""
    known = truth(crystal(), rng)
    one = observe(crystal(), known, 40.0, rng, tmp_path / "a.mtz")
    again = replace(one, value=2 * one.value, sigma=7 * one.sigma)
    gone = np.unique(observations.packed(one.hkl))[::10]
    there = ~np.isin(observations.packed(again.hkl), gone)
    again = replace(
        again, hkl=again.hkl[there], value=again.value[there], sigma=again.sigma[there], plus=again.plus[there]
    )
    told = likeness(again, one, EDGES)
    assert told.common == pytest.approx(0.9, abs=0.01)
    assert told.cc == pytest.approx(1)
    assert told.cc_outer == pytest.approx(1)
    assert told.sigma == pytest.approx(1, abs=0.03)
    noisy = replace(one, value=one.value + rng.normal(0, 40 * 8**0.5, one.value.size))
    assert likeness(noisy, one, EDGES).sigma == pytest.approx(3, rel=0.1)
    assert likeness(noisy, one, EDGES).cc < 0.95


def test_ratios_are_to_the_frames_that_images_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 450 frames sums of four leave two out."""
    series = settings.Series("s", "s", "", tmp_path / "raw_master.h5", 2.0)
    raw = {"error": "", "images": 450, "bytes": 9000, "unpacked_bytes": 90000}
    (tmp_path / "result_raw.json").write_text(json.dumps(raw))
    monkeypatch.setattr(reduced, "size", lambda files: 100)
    for name, frames in (("b2s4:zstd", 448), ("b2s5:zstd", 450)):
        told = study._sizes(series, names.parse(name), [], tmp_path, 1)
        assert told["ratio"] == pytest.approx(200 * frames / 100)
        assert told["ratio_stored"] == pytest.approx(20 * frames / 100)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("raw") / "raw", detector="500k", frames=2, resolution=6.0)


def test_the_resolution_is_that_of_the_nearest_edge(master: Path) -> None:
    with h5py.File(master) as file:
        detector = file["/entry/instrument/detector"]
        size, away = detector["x_pixel_size"][()], detector["detector_distance"][()]
        centre = [detector[f"beam_center_{axis}"][()] for axis in "xy"]
        wavelength = file["/entry/instrument/beam/incident_wavelength"][()]
        slow, fast = file["/entry/data/data_000001"].shape[1:]
    nearest = min(*centre, fast - centre[0], slow - centre[1]) * size
    expected = wavelength / (2 * np.sin(np.arctan2(nearest, away) / 2))
    assert settings.resolution_of(master) == pytest.approx(expected, abs=0.011)


def test_an_input_without_geometry_needs_a_resolution(master: Path, tmp_path: Path) -> None:
    for path in master.parent.glob("raw*.h5"):
        shutil.copy(path, tmp_path)
    with h5py.File(tmp_path / master.name, "r+") as file:
        del file["/entry/instrument/beam/incident_wavelength"]
    with pytest.raises(BnlError, match=r"wavelength.*--d_min"):
        settings.resolution_of(tmp_path / master.name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "MASTER"),
        ("RAW --series weak", "MASTER"),
        ("--series strong", "strong"),
        ("--series weak --kept", "--kept"),
        ("--kept --try b2", "--kept has settings"),
        ("RAW --try b9Q", "b9Q"),
        ("RAW --d_min 0", "--d_min 0"),
        ("RAW --truth absent.h5", "absent.h5"),
        ("absent_master.h5", "absent_master.h5"),
        ("RAW -p 0", "--parallel 0"),
        ("RAW --page_only", "--page FILE"),
        ("RAW --page_only --page p.md", "no records"),
        ("RAW", "DIALS"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    words: str,
    told: str,
    master: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["quality", *words.replace("RAW", str(master)).split()]) != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert not list(tmp_path.iterdir())


def test_absent_gemmi_names_the_extra(
    master: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "missing_dials", lambda: "")
    monkeypatch.setitem(sys.modules, "gemmi", None)
    assert cli.main(["quality", str(master), "--work", str(tmp_path / "work")]) == 1
    assert "[quality]" in capsys.readouterr().err


def test_absent_dials_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "dials.integrate" in chain.missing_dials()
    with pytest.raises(chain.ChainError, match="isn't installed"):
        chain.run_chain(tmp_path / "a.nxs", tmp_path, chain.ChainOptions(2.0))


def test_a_failed_reduction_names_its_words(tmp_path: Path) -> None:
    series = settings.Series("s", "s", "", tmp_path / "absent_master.h5", 2.0)
    with pytest.raises(chain.ChainError, match=r"-b 2.*absent_master"):
        reduced.make_reduced(series, names.parse("b2"), tmp_path, 1)
