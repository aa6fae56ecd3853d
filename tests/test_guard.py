"""`--guard`: what it judges, what it does about it, and that it is the same on any number of ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_sets import read_images

from bnl_mpi import expand, reduce
from bnl_mpi.codecs import registry
from bnl_mpi.errors import BnlError, UsageError
from bnl_mpi.options import Options
from bnl_mpi.simulate import simulate
from bnl_mpi.spots.single import added_noise
from bnl_mpi.tasks.guard import gentler

CODECS = {"hcompress": 64, "j2k": 400, "j2k2": 400, "htj2k": 300}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("raw")
    return str(simulate(folder / "in", frames=20, osc=0.2, resolution=2.2, brightness=1500.0, bad_pixels=0))


@pytest.fixture(scope="module")
def exact(raw: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exact")
    reduce(raw, out_file=str(folder / "out"), bin=2, compression="bslz4")
    return read_images(folder / "out_master.h5")


def guarded(raw: str, folder: Path, codec: str, bound: float, **more: Any) -> Any:
    summary = reduce(
        raw, out_file=str(folder / "out"), bin=2, codec=codec, codec_level=CODECS[codec], guard=bound,
        data_block_size=10, **{"compression": "bslz4", **more},
    )  # fmt: skip
    assert summary is not None
    return summary


def noise_of(images: Any, exact: Any, k: int) -> float:
    bad = (exact[k] == np.iinfo(exact.dtype).max).astype(np.uint8)
    return added_noise(exact[k], images[k], bad) or 0.0


@pytest.mark.parametrize("codec", CODECS)
def test_images_above_the_bound_are_stored_gentler_and_meet_it(
    codec: str, raw: str, exact: Any, tmp_path: Path
) -> None:
    summary = guarded(raw, tmp_path, codec, 0.3)
    images = read_images(tmp_path / "out_master.h5")
    judged = [0, 10]
    assert summary.judged_images == len(judged)
    assert summary.images_over_guard == 2
    assert summary.gentler_images == 20
    found = [noise_of(images, exact, k) for k in judged]
    assert max(found) <= 0.3
    assert summary.added_noise == pytest.approx(max(found), abs=0.1)
    assert "guard: 2 images judged, 2 above the bound, 20 stored with a gentler" in "\n".join(summary.lines())


@pytest.mark.parametrize("codec", CODECS)
def test_lossless_is_without_loss(codec: str, raw: str, exact: Any, tmp_path: Path) -> None:
    guarded(raw, tmp_path, codec, 0.01, on_guard="lossless")
    assert np.array_equal(read_images(tmp_path / "out_master.h5"), exact)


def test_what_is_good_enough_is_left_as_it_is(raw: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    summary = guarded(raw, tmp_path, "hcompress", 1000.0)
    assert (summary.images_over_guard, summary.gentler_images) == (0, 0)
    reduce(raw, out_file=str(tmp_path / "plain/out"), bin=2, codec="hcompress", codec_level=64, compression="bslz4")
    plain = read_images(tmp_path / "plain/out_master.h5")
    assert np.array_equal(read_images(tmp_path / "out_master.h5"), plain)


def test_warn_counts_and_changes_nothing(raw: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    summary = guarded(raw, tmp_path, "hcompress", 0.3, on_guard="warn")
    assert (summary.images_over_guard, summary.gentler_images) == (2, 0)
    assert summary.added_noise > 0.3
    reduce(raw, out_file=str(tmp_path / "plain/out"), bin=2, codec="hcompress", codec_level=64, compression="bslz4")
    assert np.array_equal(read_images(tmp_path / "out_master.h5"), read_images(tmp_path / "plain/out_master.h5"))


def test_stop_ends_the_run_and_names_the_image(raw: str, tmp_path: Path) -> None:
    with pytest.raises(BnlError, match=r"frames? 1 .*added noise .* is above --guard 0.3"):
        guarded(raw, tmp_path, "hcompress", 0.3, on_guard="stop")
    assert not (tmp_path / "out_master.h5").exists()


@pytest.mark.parametrize("how", ["squash", "stored"])
@pytest.mark.parametrize("act", ["gentler", "lossless"])
def test_guarded_codestreams_expand_to_what_was_stored(how: str, act: str, raw: str, tmp_path: Path) -> None:
    codec = "j2k2" if how == "squash" else "htj2k"
    more = {"out_squash": str(tmp_path / "sq")} if how == "squash" else {"compression": "htj2k"}
    guarded(raw, tmp_path, codec, 0.3, on_guard=act, **more)
    expand.expand(str(tmp_path / "out_master.h5"), out_file=str(tmp_path / "full"), compression="bslz4")
    full, images = read_images(tmp_path / "full_master.h5"), read_images(tmp_path / "out_master.h5")
    good = full != np.iinfo(full.dtype).max
    assert good.mean() > 0.8
    assert np.array_equal(full[good], images[good]) or int(np.abs(full[good].astype(int) - images[good]).max()) <= 2
    if how == "squash":
        with h5py.File(tmp_path / "sq_000001.h5") as h5:
            levels = {float(d.attrs["compression_level"]) for d in h5["entry/data"].values()}
        assert max(levels) < CODECS[codec]


def test_ranks_and_resume_make_the_same_pixels(raw: str, tmp_path: Path) -> None:
    words = ["-i", raw, "-b", "2", "-H", "64", "-c", "bslz4", "--guard", "0.5", "-d", "5"]
    told = []
    for name, more in (("one", []), ("three", ["-p", "3"])):
        (tmp_path / name).mkdir()
        place = ["-o", str(tmp_path / name / "out"), "--json", str(tmp_path / f"{name}.json")]
        subprocess.run([sys.executable, "-m", "bnl_mpi", *words, *more, *place], check=True, capture_output=True)
        told.append(json.loads((tmp_path / f"{name}.json").read_text()))
    one, three = (read_images(tmp_path / name / "out_master.h5") for name in ("one", "three"))
    assert np.array_equal(one, three)
    figures = ("judged_images", "images_over_guard", "gentler_images", "added_noise")
    assert [told[0][name] for name in figures] == [told[1][name] for name in figures]
    (tmp_path / "three/out_000002.h5").unlink()
    again = [*words, "--resume", "-o", str(tmp_path / "three/out"), "--json", str(tmp_path / "again.json")]
    subprocess.run([sys.executable, "-m", "bnl_mpi", *again], check=True, capture_output=True)
    resumed = json.loads((tmp_path / "again.json").read_text())
    assert [resumed[name] for name in figures] == [told[0][name] for name in figures]


@pytest.mark.parametrize("codec", CODECS)
def test_gentler_settings_get_gentler_and_end_without_loss(codec: str) -> None:
    steps = gentler(Options("x_master.h5", codec=codec, codec_level=CODECS[codec], guard=0.5))
    assert len(steps) > 4
    image = np.random.default_rng(1).poisson(5, (64, 70)).astype(np.uint16)
    made = registry.make(steps[-1])
    assert made is not None
    assert np.array_equal(made.roundtrip(image.astype(made.image_dtype)), image)


def test_bounds_get_gentler_too() -> None:
    for name, value in (("max_error", 9), ("rms", 5.0), ("psnr", 70)):
        steps = gentler(Options("x_master.h5", codec="htj2k", guard=0.5, **{name: value}))  # type: ignore[arg-type]
        found = [getattr(step, name) for step in steps[:-1]]
        assert found == sorted(found, reverse=name != "psnr")
        assert len(found) > 1


def test_added_noise_of_an_image_is_what_was_added() -> None:
    rng = np.random.default_rng(3)
    expected = np.full((300, 300), 2.0)
    for _ in range(120):
        y, x = rng.integers(8, 290, 2)
        expected[y - 1 : y + 2, x - 1 : x + 2] += rng.uniform(10, 200)
    image = rng.poisson(expected).astype(np.int32)
    bad = np.zeros(image.shape, np.uint8)
    assert added_noise(image, image, bad) == 0
    noisy = image + np.rint(np.sqrt(expected) * rng.standard_normal(image.shape)).astype(np.int32)
    assert added_noise(image, noisy, bad) == pytest.approx(1, rel=0.25)
    assert added_noise(np.zeros_like(image), image, bad) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guard": 0.5}, "lossy codec"),
        ({"guard": 0.0, "codec": "hcompress"}, "above 0"),
        ({"guard": float("nan"), "codec": "hcompress"}, "above 0"),
        ({"on_guard": "stop", "codec": "hcompress"}, "give --guard"),
        ({"guard": 1.0, "on_guard": "perhaps", "codec": "hcompress"}, "--on_guard perhaps"),
    ],
)
def test_wrong_words_are_usage_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options("x_master.h5", **given)
