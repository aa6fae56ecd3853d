"""The simulated data set: does it hold what its side file says, and what readers ask of its layout?"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters)
import numpy as np
import pytest

from bnl_mpi.commands.simulate import add_arguments, run
from bnl_mpi.errors import OutputError, UsageError
from bnl_mpi.simulate import simulate
from bnl_mpi.simulate.crystal import make_crystal, random_rotation
from bnl_mpi.simulate.detector import GAP, make_geometry, module_layout, silicon_attenuation
from bnl_mpi.simulate.diffraction import crossings, rotate
from bnl_mpi.simulate.noise import PoissonField
from bnl_mpi.simulate.settings import Settings

SMALL: dict[str, Any] = {"detector": "500k", "frames": 6, "images_per_file": 4, "resolution": 3.0}
DETECTOR = "entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"


def read_frames(master: Path) -> np.ndarray:
    """All frames behind a master's links, in order: (frames, slow, fast)."""
    with h5py.File(master) as file:
        links = sorted(key for key in file["entry/data"] if key.startswith("data_"))
        return np.concatenate([file["entry/data"][link][()] for link in links])


def read_truth(master: Path) -> dict[str, np.ndarray]:
    """Columns of the side file, by 'group/name'."""
    with h5py.File(str(master).replace("_master.h5", "_truth.h5")) as file:
        return {f"{group}/{name}": dataset[()] for group in file for name, dataset in file[group].items()}


@pytest.mark.parametrize(
    ("model", "flavour", "shape"),
    [
        ("500k", "eiger1", (514, 1030)),
        ("1M", "eiger1", (1065, 1030)),
        ("4M", "eiger1", (2167, 2070)),
        ("9M", "eiger1", (3269, 3110)),
        ("16M", "eiger1", (4371, 4150)),
        ("500k", "eiger2", (512, 1028)),
        ("1M", "eiger2", (1062, 1028)),
        ("4M", "eiger2", (2162, 2068)),
        ("9M", "eiger2", (3262, 3108)),
        ("16M", "eiger2", (4362, 4148)),
    ],
)
def test_detector_sizes_and_sensitive_area(model: str, flavour: str, shape: tuple[int, int]) -> None:
    layout = module_layout(model, flavour)
    assert layout.shape == shape
    sensitive = layout.modules[0] * layout.modules[1] * layout.size[0] * layout.size[1]
    assert np.count_nonzero(~layout.gap_mask()) == sensitive


def test_gap_lies_between_modules() -> None:
    gap = module_layout("1M", "eiger1").gap_mask()
    assert gap[514:551].all()
    assert not gap[:514].any()
    assert not gap[551:].any()


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("flavour", ["eiger1", "eiger2"])
def test_marks_are_where_the_mask_says(tmp_path: Path, flavour: str, bits: int) -> None:
    master = simulate(tmp_path / "x", detector="1M", frames=1, bits=bits, flavour=flavour, resolution=3.0)
    frames = read_frames(master)
    assert frames.dtype == np.dtype(f"u{bits // 8}")
    with h5py.File(master) as file:
        mask = file[f"{SPECIFIC}/pixel_mask"]
        assert mask.chunks is None
        assert mask.dtype == np.dtype("<u4")
        mask = mask[()]
        cutoff = file[f"{SPECIFIC}/countrate_correction_count_cutoff"][()]
        assert file[f"{SPECIFIC}/number_of_excluded_pixels"][()] == np.count_nonzero(mask)
        if flavour == "eiger2":
            np.testing.assert_array_equal(file[f"{DETECTOR}/pixel_mask"][()], mask)
    np.testing.assert_array_equal(frames[0] == np.iinfo(frames.dtype).max, mask != 0)
    assert frames[0][mask == 0].max() <= cutoff
    assert set(np.unique(mask)) == {0, 1, 2, 4, 8, 16}
    np.testing.assert_array_equal((mask & GAP) != 0, module_layout("1M", flavour).gap_mask())


def test_same_seed_same_counts_however_split(tmp_path: Path) -> None:
    first = read_frames(simulate(tmp_path / "a", seed=5, **SMALL))
    again = read_frames(simulate(tmp_path / "b", seed=5, **{**SMALL, "images_per_file": 5}))
    other = read_frames(simulate(tmp_path / "c", seed=6, **SMALL))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.any(first[0] != first[1])


def test_whole_files_are_reproduced(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        simulate(tmp_path / folder / "x", **SMALL)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["x_data_000001.h5", "x_data_000002.h5", "x_master.h5", "x_truth.h5"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_beamstop_lies_on_sensitive_pixels(tmp_path: Path) -> None:
    """Around the beam centre hardly anything is counted, half-way to the water ring it is."""
    master = simulate(tmp_path / "x", detector="1M", frames=4, background=40.0, brightness=0.0, bad_pixels=0.0)
    (x, y), frames = read_truth(master)["experiment/beam_center"].astype(int), read_frames(master)
    assert frames[:, y - 8 : y + 8, x - 8 : x + 8].mean() < 0.3
    assert frames[:, y - 8 : y + 8, x + 40 : x + 56].mean() > 1


def test_older_master(tmp_path: Path) -> None:
    master = simulate(tmp_path / "x", omega_start=12.5, osc=0.2, ntrigger=2, **SMALL)
    with h5py.File(master) as file:
        assert master.read_bytes()[8] == 0, "superblock version"
        assert "definition" not in file["entry"]
        assert file["entry"].attrs.get_id("NX_class").get_type().is_variable_str() is False
        detector, specific = file[DETECTOR], file[SPECIFIC]
        assert "dectris eiger" in detector["description"][()].decode().lower()
        assert not {"saturation_value", "module", "transformations", "type", "depends_on"} & set(detector)
        assert "beam" not in file["entry/sample"]
        assert detector["x_pixel_size"].dtype == np.float32
        assert detector["x_pixel_size"][()] == pytest.approx(75e-6)
        assert specific["nimages"][()] * specific["ntrigger"][()] == 6
        assert specific["ntrigger"][()] == 2
        assert set(file["entry/data"]) == {"data_000001", "data_000002"}
        goniometer = file["entry/sample/goniometer"]
        np.testing.assert_allclose(goniometer["omega"][()], 12.5 + 0.2 * np.arange(6), rtol=1e-6)
        np.testing.assert_allclose(goniometer["omega_end"][()], 12.7 + 0.2 * np.arange(6), rtol=1e-6)
        assert goniometer["omega_range_average"][()] == pytest.approx(0.2)
        assert goniometer["omega_range_total"][()] == pytest.approx(1.2)
        distances = detector["geometry/translation/distances"][()]
        beam = [detector[f"beam_center_{axis}"][()] * 75e-6 for axis in "xy"]
        np.testing.assert_allclose(distances, [*beam, -detector["detector_distance"][()]], rtol=1e-6)


def test_nxmx_master(tmp_path: Path) -> None:
    master = simulate(tmp_path / "x", flavour="eiger2", osc=-0.1, **SMALL)
    frames = read_frames(master)
    with h5py.File(master) as file:
        entry = file["entry"]
        assert entry["definition"][()] == b"NXmx"
        assert h5py.check_string_dtype(entry["definition"].dtype).length is None
        assert entry["data"].attrs["signal"] == "data"
        np.testing.assert_array_equal(entry["data/data"][()], frames)
        np.testing.assert_array_equal(entry["instrument/detector/module/data_size"][()], frames.shape[1:])
        omega = file[entry["sample/depends_on"][()]]
        assert omega.dtype == np.float64
        np.testing.assert_allclose(omega[()], -0.1 * np.arange(6))
        np.testing.assert_array_equal(omega.attrs["vector"], [-1, 0, 0])
        assert entry["instrument/detector/x_pixel_size"].dtype == np.float64
        translation = file[entry["instrument/detector/depends_on"][()]]
        origin = translation[()] * translation.attrs["vector"]
        beam = [entry[f"instrument/detector/beam_center_{axis}"][()] * 75e-6 for axis in "xy"]
        np.testing.assert_allclose(origin, [*beam, entry["instrument/detector/distance"][()]])


def test_nxmx_master_is_valid_to_nxmx(tmp_path: Path) -> None:
    nxmx = pytest.importorskip("nxmx")
    with h5py.File(simulate(tmp_path / "x", flavour="eiger2", **SMALL)) as file:
        (entry,) = nxmx.NXmx(file).entries
        (axis,) = nxmx.get_dependency_chain(entry.samples[0].depends_on)
        assert axis.transformation_type == "rotation"
        assert len(axis) == 6
        detector = entry.instruments[0].detectors[0]
        assert detector.modules[0].fast_pixel_direction[()].to("mm").magnitude == pytest.approx(0.075)
        wavelength = entry.instruments[0].beams[0].incident_wavelength
        assert wavelength.to("angstrom").magnitude == pytest.approx(1.0)


def test_data_files(tmp_path: Path) -> None:
    simulate(tmp_path / "x", first_file_number=0, **SMALL)
    for number, low, high in ((0, 1, 4), (1, 5, 6)):
        with h5py.File(tmp_path / f"x_data_{number:06d}.h5") as file:
            data = file["entry/data/data"]
            assert data.shape == (high - low + 1, 514, 1030)
            assert data.chunks == (1, 514, 1030)
            assert (data.attrs["image_nr_low"], data.attrs["image_nr_high"]) == (low, high)
            assert data.attrs["image_nr_low"].dtype == np.int32


@pytest.mark.parametrize(("compression", "filter_id"), [("bslz4", 32008), ("lz4", 32004), ("none", None)])
def test_compression(tmp_path: Path, compression: str, filter_id: int | None) -> None:
    simulate(tmp_path / "x", compression=compression, **SMALL)
    with h5py.File(tmp_path / "x_data_000001.h5") as file:
        properties = file["entry/data/data"].id.get_create_plist()
        filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    assert filters == ([] if filter_id is None else [filter_id])


def test_spots_hold_the_counts_of_the_truth(tmp_path: Path) -> None:
    """Sums around isolated strong reflections, less their surroundings, against the side file."""
    settings: dict[str, Any] = {"detector": "500k", "frames": 40, "resolution": 2.5, "bits": 32, "bad_pixels": 0.0}
    master = simulate(tmp_path / "x", **settings, brightness=3000, background=1.0)
    frames, truth = read_frames(master).astype(np.int64), read_truth(master)
    fast, slow, frame = (truth[f"predictions/{name}"] for name in ("fast", "slow", "frame"))
    counts, reach = truth["predictions/counts"], 4 * truth["predictions/sigma"] / 0.1
    first, last = np.floor(frame - reach), np.ceil(frame + reach)
    beam = truth["experiment/beam_center"]
    measured, expected = [], []
    for index in np.flatnonzero((counts > 1000) & (counts < 30000) & (first >= 0) & (last <= 40)):
        x, y = int(fast[index]), int(slow[index])
        near = (np.abs(fast - x) < 14) & (np.abs(slow - y) < 14)
        near &= (first < last[index]) & (last > first[index])
        if np.count_nonzero(near) > 1 or not (10 <= x < 1020 and 10 <= y < 500):
            continue
        if np.hypot(x - beam[0], y - beam[1]) < 40 or (abs(x - beam[0]) < 20 and y > beam[1]):
            continue  # beamstop
        picture = frames[int(first[index]) : int(last[index])].sum(axis=0)
        box, ring = picture[y - 5 : y + 6, x - 5 : x + 6], picture[y - 9 : y + 10, x - 9 : x + 10]
        background = (ring.sum() - box.sum()) / (ring.size - box.size)
        measured.append(box.sum() - background * box.size)
        expected.append(counts[index])
    assert len(expected) >= 15
    pull = (np.array(measured) - expected) / np.sqrt(np.array(expected) + 400)
    assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert np.abs(pull).max() < 5


def test_rocking_curve_is_centred_on_the_prediction(tmp_path: Path) -> None:
    """Mean frame of strong reflections' counts, for either sense of rotation."""
    for osc in (0.1, -0.1):
        settings = {**SMALL, "frames": 30, "resolution": 4.0, "osc": osc, "omega_start": 33.0, "bits": 32}
        master = simulate(tmp_path / f"x{osc}", **settings, brightness=20000, background=0.0, bad_pixels=0.0)
        frames, truth = read_frames(master).astype(np.int64), read_truth(master)
        fast, slow, frame = (truth[f"predictions/{name}"] for name in ("fast", "slow", "frame"))
        strong = (truth["predictions/counts"] > 8000) & (frame > 10) & (frame < 20)
        strong &= truth["predictions/sigma"] < 0.2
        checked, beam = 0, truth["experiment/beam_center"]
        for x, y, centre in zip(fast[strong], slow[strong], frame[strong], strict=True):
            alone = np.count_nonzero((np.abs(fast - x) < 10) & (np.abs(slow - y) < 10)) == 1
            if not alone or not (6 < x < 1020 and 6 < y < 506) or np.hypot(*([x, y] - beam)) < 40:
                continue
            column, row = int(x), int(y)
            curve = frames[:, row - 4 : row + 5, column - 4 : column + 5].sum(axis=(1, 2))
            assert curve @ (np.arange(30) + 0.5) / curve.sum() == pytest.approx(centre, abs=0.2)
            checked += 1
        assert checked >= 3


def test_equivalents_have_equal_intensity_and_mates_differ_only_if_asked() -> None:
    gemmi = pytest.importorskip("gemmi")
    for anomalous in (False, True):
        settings = Settings(anomalous=anomalous, crystal="insulin")
        crystal = make_crystal(settings, 6.0, np.random.default_rng(3))
        group = gemmi.find_spacegroup_by_name("I 21 3")
        asu, operations = gemmi.ReciprocalAsu(group), group.operations()
        seen = {tuple(hkl): value for hkl, value in zip(crystal.unique.hkl, crystal.unique.plus, strict=True)}
        mates = {tuple(hkl): value for hkl, value in zip(crystal.unique.hkl, crystal.unique.minus, strict=True)}
        for hkl, intensity in zip(crystal.all_hkl.tolist(), crystal.all_intensity, strict=True):
            unique, isym = asu.to_asu(hkl, operations)
            assert intensity == (seen if isym % 2 else mates)[tuple(unique)]
            assert not operations.is_systematically_absent(hkl)
        assert np.any(crystal.unique.plus != crystal.unique.minus) == anomalous
        centric = crystal.unique.centric
        np.testing.assert_array_equal(crystal.unique.plus[centric], crystal.unique.minus[centric])
        # the sphere is complete: as many as lattice points that aren't absent
        count = round(4 / 3 * np.pi / 6.0**3 * 78.0**3 / 2)
        assert len(crystal.all_hkl) == pytest.approx(count, rel=0.03)


def test_wilson_statistics() -> None:
    settings = Settings(b_factor=0.0, brightness=100.0)
    crystal = make_crystal(settings, 2.0, np.random.default_rng(4))
    unique = crystal.unique
    for centric, second_moment in ((False, 2.0), (True, 3.0)):
        intensity = unique.mean[unique.centric == centric]
        # epsilon is 1 but for special directions, so the moments are those of the plain distributions
        assert intensity.mean() == pytest.approx(100, rel=0.2)
        assert (intensity**2).mean() / intensity.mean() ** 2 == pytest.approx(second_moment, rel=0.2)


def test_crossings_lie_on_the_ewald_sphere() -> None:
    vectors = np.random.default_rng(1).normal(0, 0.3, (500, 3))
    phi, rows = crossings(vectors, 1.1)
    beam = rotate(vectors[rows], phi) + np.array([0, 0, -1 / 1.1])
    np.testing.assert_allclose(np.linalg.norm(beam, axis=1), 1 / 1.1)
    assert 0 < len(rows) < 2 * len(vectors)


def test_orientation_is_a_rotation() -> None:
    rotation = random_rotation(np.random.default_rng(2))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_sensor() -> None:
    # interpolated between tabulated energies; the coefficient that reduction programs take is 4.208 / mm
    assert silicon_attenuation(1.0) == pytest.approx(4.208, rel=0.01)
    geometry = make_geometry(Settings())
    angle = np.radians(30)
    fast, slow = geometry.project(np.array([[0.0, 0.0, -1.0], [np.sin(angle), 0.0, -np.cos(angle)]]))
    surface = np.tan(angle) * geometry.distance / 0.075
    np.testing.assert_allclose(fast[0], geometry.beam_center[0])
    np.testing.assert_allclose(slow, geometry.beam_center[1])
    assert 0.3 < fast[1] - fast[0] - surface < 0.32 * np.sin(angle) / np.cos(angle) / 0.075


@pytest.mark.parametrize("mean", [0.05, 0.8, 7.0, 60.0])
def test_background_is_poisson(mean: float) -> None:
    field = PoissonField(np.full(200_000, mean))
    counts = field.draw(np.random.default_rng(7))
    edges = np.arange(counts.max() + 2)
    observed = np.histogram(counts, edges)[0]
    log_factorial = np.concatenate(([0], np.cumsum(np.log(np.arange(1, counts.max() + 1)))))
    expected = counts.size * np.exp(edges[:-1] * np.log(mean) - mean - log_factorial)
    common = expected > 10
    chi2 = ((observed - expected)[common] ** 2 / expected[common]).sum()
    freedom = np.count_nonzero(common)
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)
    assert np.corrcoef(counts[:-1], counts[1:])[0, 1] == pytest.approx(0, abs=0.012)


def test_background_follows_its_means() -> None:
    means = np.linspace(0, 5, 400).repeat(1000)
    counts = PoissonField(means).draw(np.random.default_rng(8)).reshape(400, 1000)
    np.testing.assert_allclose(counts.mean(axis=1), np.linspace(0, 5, 400), atol=5 * np.sqrt(5 / 1000))
    assert counts[0].max() == 0


def test_anomalous_truth(tmp_path: Path) -> None:
    truth = read_truth(simulate(tmp_path / "x", anomalous=True, **SMALL))
    mean = (truth["unique/I_plus"] + truth["unique/I_minus"]) / 2
    np.testing.assert_allclose(truth["unique/I_true"], mean)
    acentric = ~truth["unique/centric"]
    assert np.any(truth["unique/I_plus"][acentric] != truth["unique/I_minus"][acentric])


def test_truth_predictions_obey_their_matrix(tmp_path: Path) -> None:
    """Matrix, distance and beam centre lead to the stated positions, but for the sensor's depth."""
    truth = read_truth(simulate(tmp_path / "x", omega_start=77.0, **SMALL))
    vectors = truth["predictions/hkl"] @ truth["experiment/a_matrix"].T
    omega = np.radians(truth["predictions/omega"].astype(float))
    beam = rotate(vectors, omega) * truth["experiment/wavelength"] + [0, 0, -1]
    np.testing.assert_allclose(np.linalg.norm(beam, axis=1), 1, atol=1e-5)
    scale = truth["experiment/distance"] / -beam[:, 2] / truth["experiment/pixel_size"]
    centre = truth["experiment/beam_center"]
    np.testing.assert_allclose(truth["predictions/fast"], centre[0] + beam[:, 0] * scale, atol=2)
    np.testing.assert_allclose(truth["predictions/slow"], centre[1] - beam[:, 1] * scale, atol=2)


def test_existing_files_are_kept_unless_forced(tmp_path: Path) -> None:
    simulate(tmp_path / "x", **SMALL)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=r"x_master\.h5"):
        simulate(tmp_path / "x", seed=1, **SMALL)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    simulate(tmp_path / "x", force=True, seed=1, **{**SMALL, "frames": 2})
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(after) == ["x_data_000001.h5", "x_master.h5", "x_truth.h5"]
    assert after["x_data_000001.h5"] != before["x_data_000001.h5"]


def test_failure_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnl_mpi.simulate import frames

    def fail(self: frames.FrameMaker, frame: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(frames.FrameMaker, "__call__", fail)
    with pytest.raises(OutputError, match=r"x_data_000001\.h5"):
        simulate(tmp_path / "x", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["x_truth.h5"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"detector": "2M"}, "--detector 2M"),
        ({"bits": 12}, "--bits 12"),
        ({"frames": 0}, "--frames is 0"),
        ({"frames": 10, "ntrigger": 3}, "--ntrigger 3"),
        ({"seed": -1}, "--seed is -1"),
        ({"wavelength": 0.1}, "keV"),
        ({"osc": float("nan")}, "--osc is nan"),
        ({"space_group": "P 9"}, "--space_group P 9"),
        ({"space_group": "P -1"}, "chiral"),
        ({"cell": (70.0, 80.0, 90.0, 90.0, 90.0, 90.0)}, "doesn't fit"),
        ({"resolution": 0.4}, "--resolution 0.4"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulate(tmp_path / "x", **wrong)
    assert not list(tmp_path.iterdir())


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        simulate(tmp_path / "absent" / "x", **SMALL)


@pytest.mark.parametrize("dash", ["_", "-"])
def test_command_line(tmp_path: Path, dash: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [str(tmp_path / "x"), "--detector", "500k", "--frames", "2", "--osc", "-0.5", "--anomalous"]
    words += [f"--omega{dash}start", "-20", f"--images{dash}per{dash}file", "1", "--resolution", "4"]
    assert run(parser.parse_args(words)) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "x_master.h5")
    with h5py.File(tmp_path / "x_master.h5") as file:
        np.testing.assert_allclose(file["entry/sample/goniometer/omega"][()], [-20, -20.5])
        assert len(file["entry/data"]) == 2
    assert "unique/I_plus" in read_truth(tmp_path / "x_master.h5")


def test_command_line_imports_nothing_heavy() -> None:
    code = "import sys, bnl_mpi.commands.simulate; print({'numpy', 'h5py', 'gemmi', 'hdf5plugin'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_stills_see_one_orientation(tmp_path: Path) -> None:
    master = simulate(tmp_path / "x", osc=0.0, background=0.0, bad_pixels=0.0, **SMALL)
    frames = read_frames(master).astype(int)
    strong = [frame > 8 for frame in frames]
    assert np.count_nonzero(strong[0] & strong[5]) > 0.6 * np.count_nonzero(strong[0]) > 10
    with h5py.File(master) as file:
        assert np.ptp(file["entry/sample/goniometer/omega"][()]) == 0
