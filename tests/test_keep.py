"""`--keep`: reflections exact, all else smooth; the same on any number of workers; records that make it again."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import bnl, needs_mpi, outputs
from small_sets import read_images, write_set

import bnl_mpi
from bnl_mpi import expand
from bnl_mpi.arguments import options_from
from bnl_mpi.cli import main
from bnl_mpi.errors import BnlError, UsageError
from bnl_mpi.input.reflections.regions import Regions, pack_columns, regions_of, unpack_columns, unpacked
from bnl_mpi.input.reflections.value import Reflections
from bnl_mpi.options import Options
from bnl_mpi.pixels import background
from bnl_mpi.pixels.background import KEPT
from bnl_mpi.plan import Plan
from bnl_mpi.simulate import simulate
from bnl_mpi.verify.replaying import NAMES, checked_words

pytest.importorskip("imagecodecs")

Array = np.ndarray[Any, Any]
SHAPE, N = (120, 140), 12
CUTOFF = 3000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of twelve frames with spots, predicted (in spots.txt) and not, a gap, dead pixels and an overload."""
    folder = tmp_path_factory.mktemp("keep")
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = np.broadcast_to(0.4 + 2 * np.exp(-((x - 60) ** 2 + (y - 50) ** 2) / 4000), (N, *SHAPE)).copy()
    lines = []
    for k in range(60):
        at = rng.uniform(3, (SHAPE[1] - 3, SHAPE[0] - 3))
        first = int(rng.integers(0, N - 1))
        spot = rng.uniform(5, 400) * np.exp(-((x + 0.5 - at[0]) ** 2 + (y + 0.5 - at[1]) ** 2) / 2) / 6.28
        expected[first : first + 2] += spot
        if k < 50:
            lines += [f"{at[0]:.3f} {at[1]:.3f} {frame + 1}" for frame in (first, first + 1)]
    frames = rng.poisson(expected).astype(np.uint16)
    mask = np.zeros(SHAPE, np.uint32)
    mask[70:74] |= 1
    mask[rng.random(SHAPE) < 0.002] |= 2
    frames[:, mask != 0] = 65535
    frames[4, 30, 30] = 65535
    frames[5, 90:92, 90:92] = CUTOFF
    write_set(folder, frames, mask=mask, per_file=5, cutoff=CUTOFF)
    (folder / "spots.txt").write_text("\n".join(lines) + "\n")
    return folder


def run(folder: Path, out: Path, **options: Any) -> Any:
    options.setdefault("keep", (str(folder / "spots.txt"),))
    return bnl_mpi.reduce(
        str(folder / "in_master.h5"), out_file=str(out / "o"), **{"sum": 2, "bin": 2, "data_block_size": 2, **options}
    )


def kept_of(folder: Path, out: Path, *, radius: float = 4.0) -> Array:
    """(n, ny, nx) bool: what the table's reflections ask for, at least."""
    table = np.loadtxt(folder / "spots.txt")
    y, x = np.mgrid[:60, :70] + 0.5
    kept = np.zeros((6, 60, 70), bool)
    for at_x, at_y, frame in table:
        kept[(int(frame) - 1) // 2] |= np.hypot(x - at_x / 2, y - at_y / 2) <= radius / 2 + 0.5
    return kept


def test_reflections_stay_to_the_count_and_the_rest_is_smooth(made: Path, tmp_path: Path) -> None:
    for name in ("plain", "exact", "moved"):
        (tmp_path / name).mkdir()
    run(made, tmp_path / "plain", keep=(), compression="bslz4")
    run(made, tmp_path / "exact", compression="bslz4", keep_exact=True)
    summary = run(made, tmp_path / "moved", compression="bslz4")
    plain, exact, moved = (read_images(tmp_path / n / "o_master.h5").astype(int) for n in ("plain", "exact", "moved"))
    kept, valid = kept_of(made, tmp_path), plain != 65535
    np.testing.assert_array_equal(exact == 65535, ~valid)
    np.testing.assert_array_equal(moved == 65535, ~valid)
    np.testing.assert_array_equal(exact[kept & valid], plain[kept & valid])
    shift = (moved - plain)[kept & valid]
    assert np.abs(shift).max() <= 8
    assert np.abs(np.mean(shift)) < 0.5
    # Elsewhere: few distinct levels, with no noise between neighbours but at what stands out.
    for image, keep, good in zip(moved, kept, valid, strict=True):
        rest = ~keep & good
        assert np.mean(np.abs(np.diff(image, axis=1))[rest[:, 1:] & rest[:, :-1]] <= 1) > 0.97
        assert np.ptp(np.quantile(image[rest], [0.02, 0.5])) <= 14
    assert abs(summary.kept["sum_change"]) < 0.001
    assert abs(moved[valid].sum() / plain[valid].sum() - 1) < 0.001
    assert summary.kept["files"] == [("spots.txt", 100)]
    # What nobody predicted but stands out is there, and so is what surrounds an overload and saturated pixels.
    assert (exact[plain > 60] == plain[plain > 60])[plain[plain > 60] != 65535].all()
    for image, y, x in ((2, 15, 15), (2, 45, 45)):
        around = (image, slice(y - 1, y + 2), slice(x - 1, x + 2))
        np.testing.assert_array_equal(exact[around], plain[around])


def records_of(out: Path) -> list[tuple[Any, ...]]:
    with h5py.File(out / "o_master.h5") as master:
        regions = unpacked(master["/entry/bnl_mpi/kept_regions"][()].tobytes())
    found = []
    for k in (1, 2, 3):
        with h5py.File(out / f"o_{k:06d}.h5") as file:
            group = file["/entry/bnl_mpi"]
            found.append((regions, unpack_columns(group["kept_pixels"][()].tobytes(), 2), dict(group.attrs)))
    return found


@pytest.mark.parametrize("words", [{}, {"codec": "htj2k", "codec_level": 6}, {"rms": 1}])
def test_codestreams_expand_to_what_the_run_itself_stores(made: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    for name in ("small", "full", "expanded"):
        (tmp_path / name).mkdir()
    run(made, tmp_path / "small", compression="htj2k", **words)
    run(made, tmp_path / "full", compression="bslz4", **words)
    expand.expand(str(tmp_path / "small" / "o_master.h5"), out_file=str(tmp_path / "expanded" / "o"))
    full, expanded = (read_images(tmp_path / n / "o_master.h5") for n in ("full", "expanded"))
    np.testing.assert_array_equal(expanded, full)
    for one, other in zip(records_of(tmp_path / "full"), records_of(tmp_path / "expanded"), strict=True):
        np.testing.assert_array_equal(one[0].discs, other[0].discs)
        np.testing.assert_array_equal(one[1], other[1])
        assert one[2]["plan_sha256"] == other[2]["plan_sha256"]


def shuffles(folder: Path) -> tuple[bool, bool]:
    """Whether bytes are shuffled before zstd, by what the first data file declares and by its first chunk's header."""
    with h5py.File(folder / "o_000001.h5") as file:
        dataset = file["/entry/data/data"]
        _, _, values, _ = dataset.id.get_create_plist().get_filter(0)
        return bool(values[5]), bool(dataset.id.read_direct_chunk((0, 0, 0))[1][2] & 1)


def test_a_codec_of_wider_pixels_gets_what_others_do(made: Path, tmp_path: Path) -> None:
    """HCompress takes 32 bits; with a scale of 1 it loses nothing."""
    for name, words in (("exact", {"keep_exact": True}), ("coded", {"codec": "hcompress", "codec_level": 1})):
        (tmp_path / name).mkdir()
        run(made, tmp_path / name, compression="bslz4", **words)
    exact, coded = (read_images(tmp_path / name / "o_master.h5") for name in ("exact", "coded"))
    np.testing.assert_array_equal(coded, exact)


def test_zstd_shuffles_the_bytes_of_kept_sets_alone(made: Path, tmp_path: Path) -> None:
    for name in ("plain", "kept", "stored", "expanded"):
        (tmp_path / name).mkdir()
    run(made, tmp_path / "plain", keep=(), compression="zstd")
    run(made, tmp_path / "kept", compression="zstd", compression_level=9)
    run(made, tmp_path / "stored", compression="bslz4")
    source, stem = str(tmp_path / "stored" / "o_master.h5"), str(tmp_path / "expanded" / "o")
    expand.expand(source, out_file=stem, compression="zstd", compression_level=9)
    assert shuffles(tmp_path / "plain") == (False, False)
    assert shuffles(tmp_path / "kept") == (True, True)
    assert shuffles(tmp_path / "expanded") == (True, True)
    kept, stored = (read_images(tmp_path / n / "o_master.h5") for n in ("kept", "stored"))
    np.testing.assert_array_equal(kept, stored)


def test_a_rectangle_beyond_the_frame_is_told(made: Path, tmp_path: Path) -> None:
    summary = run(made, tmp_path, compression="bslz4", keep_also=((139, 500, 0, 3), (140, 500, 0, 3)))
    told = [text for text in summary.warnings if "--keep_also" in text]
    assert told == ["--keep_also 140,500,0,3: lies beyond a frame of 140 x 120 pixels, so it keeps nothing"]


def test_the_set_tells_what_was_kept(made: Path, tmp_path: Path) -> None:
    from bnl_mpi.tasks.keeping import KeptRegions

    summary = run(made, tmp_path, compression="htj2k", keep_also=((100, 109, 20, 25),))
    plain = tmp_path / "plain"
    plain.mkdir()
    run(made, plain, keep=(), compression="bslz4")
    originals, images = read_images(plain / "o_master.h5").astype(int), read_images(tmp_path / "o_master.h5")
    always = np.zeros((60, 70), np.uint8)
    always[10:13, 50:55] = KEPT
    changed = n_kept = 0
    for k in (1, 2, 3):
        with h5py.File(tmp_path / f"o_{k:06d}.h5") as file, h5py.File(tmp_path / "o_master.h5") as master:
            regions = unpacked(master["/entry/bnl_mpi/kept_regions"][()].tobytes())
            kept = KeptRegions(file["/entry/bnl_mpi"], regions, always)
            for index in (0, 1):
                image = 2 * (k - 1) + index
                state, valid = kept.of(image, index) == KEPT, originals[image] != 65535
                n_kept += int(np.count_nonzero(state & valid))
                assert kept_of(made, tmp_path)[image][~state].sum() == 0
                assert state[10:13, 50:55].all()
                difference = np.abs(images[image].astype(int) - originals[image])
                assert difference[state & valid].max() <= 8
                # What isn't kept has lost its noise.
                changed += int(np.count_nonzero(difference[~state & valid]))
    assert changed > 5000
    assert n_kept == round(summary.kept["share"] * images.size)
    with h5py.File(tmp_path / "o_master.h5") as master:
        process = master["/entry/process_bnl_mpi"]
        told = json.loads(process["kept"][()])
        assert told["files"][0]["name"] == "spots.txt"
        assert told["files"][0]["n_reflections"] == 100
        assert len(told["files"][0]["sha256"]) == 64
        assert json.loads(process["options"][()])["keep"] == ["spots.txt"]


def test_bounds_and_errors_are_those_of_kept_pixels(made: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    run(made, plain, compression="bslz4", keep_exact=True)
    summary = run(made, tmp_path, compression="bslz4", max_error=3, data_block_size=6)
    before, after = (read_images(p / "o_master.h5").astype(int) for p in (plain, tmp_path))
    kept = kept_of(made, tmp_path) & (before != 65535)
    difference = np.abs(after - before)
    assert 0 < difference[kept].max() <= 3
    assert summary.greatest_error <= 3
    assert summary.kept["greatest_background"] > 3
    text = "\n".join(summary.lines())
    assert "of kept pixels" in text
    assert "error of the level" in text


def test_workers_shares_and_ranks_store_the_same(made: Path, tmp_path: Path) -> None:
    words = [made / "in_master.h5", "-s", "2", "-b", "2", "-d", "2", "-c", "htj2k", "--keep", made / "spots.txt"]
    words += ["--keep", "auto"]
    for name in ("alone", "shares"):
        (tmp_path / name).mkdir()
    bnl("-i", *words, "-o", tmp_path / "alone" / "o")
    for share in (2, 1, 0):
        bnl("-i", *words, "-o", tmp_path / "shares" / "o", "-p", "2", "-t", share)
    assert _comparable(tmp_path / "alone") == _comparable(tmp_path / "shares")
    (tmp_path / "shares" / "o_000002.h5").unlink()
    bnl("-i", *words, "-o", tmp_path / "shares" / "o", "--resume")
    assert _comparable(tmp_path / "alone") == _comparable(tmp_path / "shares")


@needs_mpi
@pytest.mark.mpi
def test_ranks_store_the_same(made: Path, tmp_path: Path) -> None:
    words = [made / "in_master.h5", "-s", "2", "-b", "2", "-d", "2", "-T", "9", "-c", "htj2k", "--keep"]
    for name in ("alone", "ranks"):
        (tmp_path / name).mkdir()
    bnl("-i", *words, made / "spots.txt", "-o", tmp_path / "alone" / "o")
    bnl("-i", *words, made / "spots.txt", "-o", tmp_path / "ranks" / "o", ranks=3)
    assert _comparable(tmp_path / "alone") == _comparable(tmp_path / "ranks")


def _comparable(folder: Path) -> dict[str, Any]:
    trees = outputs(folder, "o")
    return {
        name: {k: repr(v) for k, v in tree.items() if not k.startswith("/entry/process_bnl_mpi/date")}
        for name, tree in trees.items()
    }


def test_auto_keeps_strong_spots_and_says_what_it_loses(made: Path, tmp_path: Path) -> None:
    summary = run(made, tmp_path, keep=("auto",), compression="bslz4")
    plain = tmp_path / "plain"
    plain.mkdir()
    run(made, plain, keep=(), compression="bslz4")
    before, after = (read_images(p / "o_master.h5").astype(int) for p in (plain, tmp_path))
    strong = (before > 40) & (before != 65535)
    assert strong.sum() > 20
    assert np.abs(after - before)[strong].max() <= 2
    assert any("weak reflections are smoothed away" in text for text in summary.warnings)
    assert "strong spots alone" in "\n".join(summary.lines())
    with h5py.File(tmp_path / "o_000001.h5") as file:
        assert len(unpacked(file["/entry/bnl_mpi/kept_discs"][()].tobytes())) > 2


# ---- what is wrong is said before the work ----


def spoiled(folder: Path, tmp_path: Path, change: Any) -> str:
    table = change(np.loadtxt(folder / "spots.txt"))
    path = tmp_path / "changed.txt"
    np.savetxt(path, table, fmt="%.3f")
    return str(path)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda t: t + [1000, 0, 0], {}, "outside a frame of 140 x 120 pixels"),
        (lambda t: t + [0, 0, 40], {}, "a scan of another length"),
        (lambda t: t[t[:, 2] < 2], {"first_image": 9}, "no reflection is on frames 9 to 12"),
        (lambda t: t, {"keep_radius": 30}, "nothing to gain"),
    ],
)
def test_a_file_of_something_else_is_one_line(
    made: Path, tmp_path: Path, change: Any, options: dict[str, Any], words: str
) -> None:
    path = spoiled(made, tmp_path, change)
    with pytest.raises(BnlError, match=words) as raised:
        run(made, tmp_path, keep=(path,), **options)
    assert path in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("o*"))


def test_reflections_of_a_part_of_the_scan_are_refused(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).poisson(1, (40, 24, 30)).astype(np.uint16)
    write_set(tmp_path, frames, per_file=40)
    (tmp_path / "half.txt").write_text("".join(f"10 12 {k}\n" for k in range(1, 21)))
    with pytest.raises(BnlError, match=r"on frames 1 to 20, the selected ones are 1 to 40"):
        run(tmp_path, tmp_path, keep=(str(tmp_path / "half.txt"),))
    run(tmp_path, tmp_path, keep=(str(tmp_path / "half.txt"),), last_image=20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--keep_radius 5", "--keep_radius goes with --keep"),
        ("--keep_also 1,2,3,4", "--keep_also goes with --keep"),
        ("--keep_exact", "--keep_exact goes with --keep"),
        ("--keep a --keep_radius 0", "--keep_radius 0"),
        ("--keep a --keep_radius 500", "--keep_radius 500"),
        ("--keep a --keep_frames -1", "--keep_frames -1"),
        ("--keep a --keep_also 1,2,3", "x0,x1,y0,y1"),
        ("--keep a --keep_also 4,2,3,4", "x0 <= x1"),
        ("--keep a -u 4", "give -u 2"),
        ("--keep a -f", "give -u 2"),
        ("--keep a -L", "drop -L or -X"),
    ],
)
def test_options_that_make_no_sense_are_errors(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options_from(["-i", "in_master.h5", *words.split()])


def replayed(words: str) -> Options:
    """The options that the printed command gives, of a set made with `words`."""
    made = options_from(["-i", "in_master.h5", *words.split()])
    names = {name: getattr(made, name) for name in NAMES}
    again = options_from(checked_words(json.loads(json.dumps({**made.identity(), **names})), "x_master.h5"))
    assert again.identity() == made.identity()
    return again


def test_the_command_can_be_replayed() -> None:
    again = replayed("--keep a.refl --keep b/INTEGRATE.HKL --keep_radius 5.5 --keep_frames 1 --keep_also 1,2,3,4")
    assert again.keep == ("a.refl", "INTEGRATE.HKL")
    assert again.keep_also == ((1, 2, 3, 4),)
    assert replayed("--keep auto --keep_exact -T 100 -c htj2k").keep_exact


# ---- regions ----


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3), max_size=40))
def test_packed_columns_come_back(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array([row[k] for row in rows], np.int32) for k in range(3)]
    for ours, theirs in zip(unpack_columns(pack_columns(columns), 3), columns, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_packed_columns_are_those_of_the_whole_preset() -> None:
    """A dictionary no larger than the data takes less time and gives the bytes that 0.2.0 wrote."""
    rng = np.random.default_rng(5)
    whole = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]
    for n in (0, 1, 13, 1000, 13_107, 13_108, 30_000):
        column = np.sort(rng.integers(0, 2**20, n))
        packed = pack_columns([column])
        raw = lzma.decompress(packed[8:], lzma.FORMAT_RAW, filters=whole)
        assert packed[8:] == lzma.compress(raw, lzma.FORMAT_RAW, filters=whole)
        np.testing.assert_array_equal(unpack_columns(packed, 1)[0], column)


def test_damaged_columns_are_an_error() -> None:
    data = pack_columns([np.arange(40)])
    for wrong in (b"", data[:20], data[:4], data[:8] + b"\xff" * 20, b"\xff" * 8 + data[8:]):
        with pytest.raises(ValueError, match="damaged"):
            unpack_columns(wrong, 1)
    with pytest.raises(ValueError, match="damaged"):
        unpack_columns(data, 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10000), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_regions_hold_every_pixel_within_reach_of_a_reflection(seed: int, b: int, s: int, skipped: int) -> None:
    rng = np.random.default_rng(seed)
    n = 8
    x, y = rng.uniform(0, 37, n), rng.uniform(0, 29, n)
    first = rng.integers(-3, 12, n)
    last, radius = first + rng.integers(0, 4, n), rng.uniform(0.5, 6, n)
    plan = Plan(12, skipped, 12 - skipped, s, b, 1.0, (29, 37), "uint16", "uint16", 100, 9000, 9000)
    regions = unpacked(regions_of(Reflections(x, y, first, last, radius), plan).packed())
    for image in range(plan.n_images):
        state = np.zeros(plan.shape_out, np.uint8)
        background.keep_discs(state, regions.on(image))
        wanted, wider = np.zeros(plan.shape_out, bool), np.zeros(plan.shape_out, bool)
        rows, columns = np.mgrid[: state.shape[0], : state.shape[1]] + 0.5
        for k in range(n):
            if any(first[k] <= frame <= last[k] for frame in plan.frames_of(image)):
                distance = np.hypot(columns - x[k] / b, rows - y[k] / b)
                wanted |= distance <= radius[k] / b + 0.5
                wider |= distance <= radius[k] / b + 0.5 + 0.35
        assert not np.any(wanted & (state == 0))
        assert not np.any(~wider & (state != 0))


def test_regions_of_a_block_are_a_part_of_all() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 30, 50).astype(np.int32)
    regions = Regions(rng.integers(0, 500, (50, 3)).astype(np.int32), first, first + 3)
    part = regions.among(range(10, 20))
    for image in range(10, 20):
        np.testing.assert_array_equal(part.on(image), regions.on(image))
    assert len(part.on(9)) == len(part.on(20)) == 0


def test_a_lattice_is_packed_to_two_bytes_a_reflection() -> None:
    h, k = (a.ravel() for a in np.mgrid[:100, :200])
    x, y = 37.3 + 10.1 * h + 0.3 * k, 12.1 + 5.2 * k - 0.2 * h
    columns = np.stack([x * 8, y * 8, np.full(len(h), 25)], 1).astype(np.int32)
    first = ((h * 7 + k * 3) % 220).astype(np.int32)
    assert len(Regions(columns, first, first + 1).packed()) < 2 * len(h)


# ---- the background drawn anew ----


def test_poisson_gives_the_background_its_noise_and_says_that_it_is_made(made: Path, tmp_path: Path) -> None:
    for name in ("plain", "small", "drawn", "again", "other"):
        (tmp_path / name).mkdir()
    run(made, tmp_path / "plain", keep=(), compression="bslz4")
    run(made, tmp_path / "small", compression="htj2k")
    master = str(tmp_path / "small" / "o_master.h5")
    for name, seed in (("drawn", 5), ("again", 5), ("other", 6)):
        summary = expand.expand(master, out_file=str(tmp_path / name / "o"), background="poisson", seed=seed)
        assert summary is not None
        assert any("noise is made" in text for text in summary.warnings)
    plain, small, drawn, again, other = (
        read_images(tmp_path / n / "o_master.h5").astype(int) for n in ("plain", "small", "drawn", "again", "other")
    )
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).any()
    kept, valid = kept_of(made, tmp_path), plain != 65535
    np.testing.assert_array_equal(drawn == 65535, ~valid)
    rest = ~kept & valid & (plain < 30) & (small < 30)
    assert abs(drawn[rest].mean() - plain[rest].mean()) < 0.05
    # As noisy as it was, where the smooth one wasn't.
    noise = [np.diff(a, axis=2)[rest[:, :, 1:] & rest[:, :, :-1]].var() for a in (plain, small, drawn)]
    assert abs(noise[2] / noise[0] - 1) < 0.1
    assert noise[1] < 0.2 * noise[0]
    # What is kept is where it was before it was moved, but for a rounding.
    difference = (drawn - plain)[kept & valid]
    assert np.abs(difference).max() <= 2
    assert abs(difference.mean()) < 0.1
    # Dithered twice, it would be .73.
    assert (difference**2).mean() < 0.5
    with h5py.File(tmp_path / "drawn" / "o_master.h5") as file:
        assert "this noise is made" in json.loads(file["/entry/process_bnl_mpi/expanded"][()])["background"]
        assert json.loads(file["/entry/process_bnl_mpi/options"][()])["seed"] == 5


def test_a_set_of_any_filter_is_drawn_anew_alike(made: Path, tmp_path: Path) -> None:
    """XDS takes bslz4 alone, and a smooth background badly; so whatever is smallest must lead there."""
    drawn = {}
    for name in ("htj2k", "zstd"):
        (tmp_path / name).mkdir()
        summary = run(made, tmp_path / name, compression=name)
        assert any("-c bslz4 --background poisson -o" in line for line in summary.xds_obstacles)
        for background_, out in ((None, "full"), ("poisson", "drawn")):
            (tmp_path / f"{name}_{out}").mkdir()
            source, stem = str(tmp_path / name / "o_master.h5"), str(tmp_path / f"{name}_{out}" / "o")
            expand.expand(source, out_file=stem, **({"background": background_, "seed": 5} if background_ else {}))
        drawn[name] = read_images(tmp_path / f"{name}_drawn" / "o_master.h5")
        full = read_images(tmp_path / f"{name}_full" / "o_master.h5")
        assert (full != drawn[name]).any()
        if name == "zstd":
            np.testing.assert_array_equal(full, read_images(tmp_path / name / "o_master.h5"))
    np.testing.assert_array_equal(drawn["zstd"], drawn["htj2k"])


@pytest.mark.parametrize("compression", ["zstd", "bszstd", "bshuf"])
def test_a_new_process_expands_a_set_of_any_filter(made: Path, tmp_path: Path, compression: str) -> None:
    """As a user does; the one that made it knows the filter already."""
    run(made, tmp_path, compression=compression)
    bnl("expand", "o_master.h5", "-c", "bslz4", "-o", "full", cwd=tmp_path)
    bnl("expand", "o_master.h5", "-c", "bslz4", "--background", "poisson", "-o", "drawn", cwd=tmp_path)
    np.testing.assert_array_equal(read_images(tmp_path / "full_master.h5"), read_images(tmp_path / "o_master.h5"))
    assert (read_images(tmp_path / "full_master.h5") != read_images(tmp_path / "drawn_master.h5")).any()
    bnl("verify", "o_master.h5", "--paranoid", cwd=tmp_path)
    bnl("verify", "full_master.h5", cwd=tmp_path)


def test_plain_sets_of_other_filters_are_nothing_to_expand(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path, keep=(), compression="zstd")
    with pytest.raises(BnlError, match="nor was it made with --keep"):
        expand.expand(str(tmp_path / "o_master.h5"), out_file=str(tmp_path / "x"))


def test_a_codec_that_blurs_kept_spots_is_told(made: Path, tmp_path: Path) -> None:
    told = {}
    for level in (6, 30):
        summary = run(made, tmp_path, compression="htj2k", codec="htj2k", codec_level=level, force=True)
        told[level] = summary.kept["rms_in_sigmas"]
        assert any("blurs weak spots" in line for line in summary.lines()) == (level == 30)
    assert told[6] < told[30]


def test_poisson_needs_a_set_of_regions(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path, keep=(), compression="htj2k")
    with pytest.raises(BnlError, match="not made with --keep"):
        expand.expand(str(tmp_path / "o_master.h5"), out_file=str(tmp_path / "x"), background="poisson")
    with pytest.raises(UsageError, match="give poisson"):
        expand.expand(str(tmp_path / "o_master.h5"), out_file=str(tmp_path / "x"), background="gauss")


# ---- check ----


def test_check_knows_such_sets_and_sees_damage(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path, compression="bslz4")
    master = tmp_path / "o_master.h5"
    bnl("check", master)
    with h5py.File(master, "r+") as file:
        packed = file["/entry/bnl_mpi/kept_regions"][()]
        packed[-1] ^= 1
        file["/entry/bnl_mpi/kept_regions"][()] = packed
    done = bnl("check", master, ok=False)
    assert done.returncode != 0
    assert "kept_regions" in done.stdout


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four frames of 0.1 degrees of a crystal whose rocking curves are ten frames wide."""
    folder = tmp_path_factory.mktemp("wide")
    simulate(
        folder / "in", detector="500k", frames=24, osc=0.1, mosaicity=0.4, resolution=3.5, brightness=150, bad_pixels=0
    )
    return folder


def test_wide_rocking_is_kept_over_all_its_images(wide: Path, tmp_path: Path) -> None:
    """A table of single frames with `--keep_frames`, of reflections that last longer than an image."""
    with h5py.File(wide / "in_truth.h5") as file:
        spots = file["predictions"]
        x, y, frame = (spots[name][()] for name in ("fast", "slow", "frame"))
    inside = (frame >= 0) & (frame < 24)
    rows = np.stack([x, y, np.floor(frame) + 1], 1)[inside]
    np.savetxt(wide / "spots.txt", rows, "%.2f %.2f %d")
    (tmp_path / "plain").mkdir()
    run(wide, tmp_path / "plain", keep=(), data_block_size=100)
    images = {}
    for more in (0, 10):
        (tmp_path / f"kept{more}").mkdir()
        run(wide, tmp_path / f"kept{more}", keep_frames=more, keep_exact=True, data_block_size=100)
        images[more] = read_images(tmp_path / f"kept{more}" / "o_master.h5").astype(int)
    plain = read_images(tmp_path / "plain" / "o_master.h5").astype(int)
    whole = (frame > 6) & (frame < 18)
    assert np.count_nonzero(whole) > 50
    n_changed = dict.fromkeys(images, 0)
    for at_x, at_y, middle in zip(x[whole] / 2, y[whole] / 2, frame[whole], strict=True):
        first, last = int(middle - 6) // 2, int(middle + 6) // 2
        around = (
            slice(first, last + 1),
            slice(max(0, int(at_y) - 1), int(at_y) + 2),
            slice(max(0, int(at_x) - 1), int(at_x) + 2),
        )
        for more, kept in images.items():
            n_changed[more] += int(np.count_nonzero(kept[around] != plain[around]))
    assert n_changed[10] == 0
    assert n_changed[0] > 1000


# ---- verifying ------------------------------------------------------------------------------------------


def verified(master: Path, *words: object) -> tuple[int, dict[str, Any]]:
    """Status of `verify MASTER WORDS`, and what it told as JSON."""
    told = master.with_name("told.json")
    status = main(["verify", str(master), "--json", str(told), *map(str, words)])
    return status, json.loads(told.read_text())


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "bslz4"},
        {"compression": "bslz4", "keep_exact": True, "keep_also": ((10, 30, 20, 40),)},
        {"compression": "htj2k", "codec": "htj2k", "codec_level": 8, "keep_radius": 5, "keep_frames": 1},
        {"compression": "htj2k", "keep": ("spots.txt", "auto")},
        {"compression": "bslz4", "keep": ("auto",)},
    ],
    ids=["plain", "exact and also", "T8", "auto too", "auto"],
)
def test_a_set_of_kept_reflections_verifies_by_itself(made: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Where no file of reflections lies, where it lies beside the set, and where it is given."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(made, raw)
    out.mkdir()
    keep = tuple(name if name == "auto" else str(raw / name) for name in options.pop("keep", ("spots.txt",)))
    run(raw, out, keep=keep, **options)
    whole = tmp_path / "whole"
    whole.mkdir()
    run(raw, whole, keep=(), compression="bslz4")
    images = read_images(whole / "o_master.h5")
    counts = int(images[images != 65535].sum(dtype=np.int64))
    spots = (raw / "spots.txt").rename(tmp_path / "spots.txt")
    against, has_file = ("--against", raw / "in_master.h5", "--paranoid"), len(keep) == 2 or keep != ("auto",)
    for words in ((), against, (*against, "--certify")):
        status, told = verified(out / "o_master.h5", *words)
        assert (status, told["findings"]) == (0, [])
        absent = ["--keep spots.txt: isn't at hand; its regions are those that the set holds"]
        assert told["kept"] == (absent if has_file else [])
        if words:
            assert told["counts_before"] == counts
            assert (told["rms_error"] is not None) == ("codec" in options)
    assert ("keptReflections" in (out / "o.crate.json").read_text()) == has_file
    if not has_file:
        assert main(["verify", str(out / "o_master.h5"), "--keep", str(spots)]) == 2
        return
    status, told = verified(out / "o_master.h5", *against, "--keep", spots)
    assert (status, told["findings"], told["kept"]) == (0, [], [f"--keep {spots}: SHA-256 as noted"])
    # Under another name it is the same file.
    renamed = shutil.copy(spots, tmp_path / "kept-2026.dat")
    status, told = verified(out / "o_master.h5", *against, "--keep", renamed)
    assert (status, told["findings"], told["kept"]) == (0, [], [f"--keep {renamed}: SHA-256 as noted"])
    shutil.copy(spots, out)
    status, told = verified(out / "o_master.h5", *against)
    assert (status, told["kept"]) == (0, [f"--keep {out / 'spots.txt'}: SHA-256 as noted"])


def test_an_expanded_set_of_kept_reflections_verifies(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the raw data where they tell all of it; alone where its background was drawn."""
    run(made, tmp_path, compression="zstd")
    small, full, drawn = (str(tmp_path / f"{name}_master.h5") for name in ("o", "full", "drawn"))
    raw = str(made / "in_master.h5")
    assert main(["expand", small, "-c", "bslz4", "-o", str(tmp_path / "full")]) == 0
    assert main(["expand", small, "-c", "bslz4", "-o", str(tmp_path / "drawn"), "--background", "poisson"]) == 0
    for master, words in ((full, ()), (full, ("--against", raw)), (drawn, ())):
        status, told = verified(Path(master), *words)
        assert (status, told["findings"]) == (0, [])
    assert main(["report", drawn, "--against", raw, "-o", str(tmp_path / "report.html")]) == 0
    assert ", expanded with --background poisson --seed 0" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    for command in (["verify", drawn, "--against", raw], ["replay", drawn]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"bnl-mpi: {drawn}: was expanded with --background poisson --seed 0")
        assert error.count("\n") == 1
    with h5py.File(full, "r+") as file:
        file["/entry/process_bnl_mpi_2x"] = 1
    assert verified(Path(full), "--against", raw)[0] == 1


def test_a_seed_without_a_background_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["expand", str(tmp_path / "o_master.h5"), "--seed", "3", "-o", str(tmp_path / "full")]) == 2
    assert "--seed goes with --background" in capsys.readouterr().err


def test_other_reflections_than_those_kept_are_found(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path, compression="bslz4")
    master, against = tmp_path / "o_master.h5", ("--against", made / "in_master.h5")
    lines = (made / "spots.txt").read_text().splitlines(keepends=True)
    other = tmp_path / "spots.txt"
    other.write_text("".join(lines[1:]))
    # One that lies there by chance is told of; one that is given has to be it.
    status, told = verified(master)
    note = "--keep spots.txt: another file of that name is at hand; its regions are those that the set holds"
    assert (status, told["kept"]) == (0, [note])
    for path in (other, tmp_path / "absent" / "spots.txt"):
        status, told = verified(master, *against, "--keep", path)
        assert status == 1
        assert {f["file"] for f in told["findings"]} == {str(path)}
    status, told = verified(master, *against, "--keep", other, "--keep", made / "spots.txt")
    assert (status, [f["file"] for f in told["findings"]]) == (1, [str(other)])
    assert told["kept"] == [f"--keep {made / 'spots.txt'}: SHA-256 as noted"]
    for unknown in (made / "in_master.h5", tmp_path / "absent.txt"):
        assert main(["verify", str(master), "--keep", str(unknown)]) == 2
    other.unlink()
    # Regions changed in the master: by the blocks' word, and by the images.
    with h5py.File(master, "r+") as h5:
        regions = unpacked(h5["/entry/bnl_mpi/kept_regions"][()].tobytes())
        del h5["/entry/bnl_mpi/kept_regions"]
        fewer = Regions(regions.discs[5:], regions.first[5:], regions.last[5:])
        h5["/entry/bnl_mpi/kept_regions"] = np.frombuffer(fewer.packed(), np.uint8)
    status, told = verified(master, *against)
    assert status == 1
    assert {f["where"] for f in told["findings"]} >= {"regions of --keep"}
    assert any(f["where"].startswith("image ") for f in told["findings"])
