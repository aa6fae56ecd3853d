"""Runs with `-T` and `-c htj2k`: chunks that every reader opens, targets that are met, marks that aren't lost."""

from __future__ import annotations

import builtins
import json
import os
import shlex
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from codec_sets import write_input
from pictures import changing, diffraction
from running import bnl, needs_mpi, outputs
from small_sets import read_images, write_set

import bnl_mpi
from bnl_mpi.codecs import openjpeg
from bnl_mpi.errors import BnlError
from bnl_mpi.output.record import image_checksums
from bnl_mpi.simulate import simulate

imagecodecs = pytest.importorskip("imagecodecs")

DIALS = next((found for name in ("dials.python", "dxtbx.python") if (found := shutil.which(name))), None)
JOB = ["-s", "2", "-d", "2"]
SHAPE = (150, 130)
MARK = 65535


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("in"))


def run(frames: Path, folder: Path, *words: object) -> dict[str, Any]:
    """Make a set `set` in `folder`, of JOB but for options that `words` have too; its summary."""
    pairs = [(JOB[k], JOB[k + 1]) for k in range(0, len(JOB), 2)]
    job = [word for pair in pairs if pair[0] not in words for word in pair]
    bnl("-i", frames, *job, *words, "-o", "set", "--json", "run.json", cwd=folder)
    summary: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return summary


@pytest.fixture(scope="module")
def exact(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray[Any, Any]:
    """The images without a codec; invalid pixels are MARK."""
    folder = tmp_path_factory.mktemp("exact")
    run(frames, folder, "-c", "bslz4")
    return read_images(folder / "set_master.h5")


@pytest.fixture(scope="module")
def chunks(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a set whose chunks are codestreams of 12:1."""
    folder = tmp_path_factory.mktemp("chunks")
    run(frames, folder, "-T", "12", "-c", "htj2k")
    return folder


def stored_chunks(folder: Path) -> list[bytes]:
    found = []
    with h5py.File(folder / "set_master.h5") as h5:
        for name in sorted(h5["/entry/data"]):
            dataset = h5["/entry/data"][name]
            assert dataset.chunks == (1, *dataset.shape[1:])
            found += [bytes(dataset.id.read_direct_chunk((k, 0, 0))[1]) for k in range(len(dataset))]
    return found


# Chunks


def test_h5py_reads_what_imagecodecs_decodes(chunks: Path) -> None:
    images = read_images(chunks / "set_master.h5")
    assert images.shape == (6, *SHAPE)
    for chunk, image in zip(stored_chunks(chunks), images, strict=True):
        np.testing.assert_array_equal(imagecodecs.htj2k_decode(chunk), image)


def test_openjpeg_agrees_within_rounding(chunks: Path) -> None:
    images = read_images(chunks / "set_master.h5").astype(np.int64)
    for chunk, image in zip(stored_chunks(chunks), images, strict=True):
        assert np.abs(openjpeg.decode(chunk).astype(np.int64) - image).max() <= 1


def test_every_chunk_has_the_ratio(chunks: Path) -> None:
    sizes = np.array([len(chunk) for chunk in stored_chunks(chunks)])
    wanted = 2 * SHAPE[0] * SHAPE[1] / 12
    assert (sizes <= wanted).all()
    assert (sizes >= 0.97 * wanted).all()
    summary = json.loads((chunks / "run.json").read_text())
    assert summary["codestream_ratio"] == pytest.approx(2 * SHAPE[0] * SHAPE[1] * 6 / sizes.sum())


def test_a_file_is_little_more_than_its_chunks(tmp_path: Path) -> None:
    """Gaps and dead pixels, which the chunks can't hold, cost a few kB a file, however many images it has."""
    master = simulate(tmp_path / "in", detector="1M", frames=40, images_per_file=40)
    summary = run(master, tmp_path, "-b", "2", "-T", "40", "-c", "htj2k", "-d", "20")
    chunks = sum(len(chunk) for chunk in stored_chunks(tmp_path))
    assert summary["bytes_out"] == (tmp_path / "set_000001.h5").stat().st_size
    # What was read of each frame is noted too.
    assert chunks < summary["bytes_out"] < chunks + 20000
    # The mask alone has 4 bytes a pixel, but in the NeXus file it is packed.
    assert (tmp_path / "set.nxs").stat().st_size < 515 * 533 * 4 / 5


def test_invalid_pixels_are_those_that_other_filters_mark(chunks: Path, exact: np.ndarray[Any, Any]) -> None:
    k = 0
    for number in (1, 2, 3):
        with h5py.File(chunks / f"set_{number:06d}.h5") as h5:
            record = h5["/entry/bnl_mpi"]
            blank = record["blank"][()] != 0
            lists = np.split(record["invalid_pixels"][()], record["invalid_ends"][:-1].astype(int))
        for pixels in lists:
            invalid = blank.copy()
            invalid.reshape(-1)[pixels] = True
            np.testing.assert_array_equal(invalid, exact[k] == MARK)
            k += 1
    assert k == len(exact)
    assert (exact == MARK).any(axis=0).sum() > (exact == MARK).all(axis=0).sum() > 0


def test_gaps_are_filled_before_coding(chunks: Path, exact: np.ndarray[Any, Any]) -> None:
    """A gap of marks, or of zeros, would be seen in the decoded pixels."""
    images = read_images(chunks / "set_master.h5")
    gap = (exact == MARK).all(axis=0)
    around = images[:, ~gap].mean()
    assert 0.5 * around < images[:, gap].mean() < 2 * around


def test_without_a_codec_nothing_is_lost(frames: Path, exact: np.ndarray[Any, Any], tmp_path: Path) -> None:
    summary = run(frames, tmp_path, "-c", "htj2k")
    np.testing.assert_array_equal(read_images(tmp_path / "set_master.h5"), exact)
    np.testing.assert_array_equal([imagecodecs.htj2k_decode(c) for c in stored_chunks(tmp_path)], exact)
    assert summary["rms_error"] is None


def test_lossy_chunks_as_an_input_are_told_of(chunks: Path, frames: Path, tmp_path: Path) -> None:
    """They hold no marks: an overload that was filled would count as what it was filled with."""
    told = "its lossy HTJ2K images hold no marks"
    assert told in " ".join(run(chunks / "set_master.h5", tmp_path, "-c", "bslz4")["warnings"])
    for source, more in ((frames, ["-c", "htj2k"]), (tmp_path / "set_master.h5", ["-c", "bslz4"])):
        (folder := tmp_path / more[1]).mkdir()
        assert told not in " ".join(run(source, folder, *more)["warnings"])


def test_signed_images_without_a_codec(tmp_path: Path) -> None:
    counts = np.stack([diffraction(SHAPE, seed=k) for k in range(4)])
    counts[1, 3, 5] = 65535
    for name, words in {"a": ["-c", "htj2k"], "b": ["-c", "bslz4"]}.items():
        (tmp_path / name).mkdir()
        master = write_set(tmp_path / name, counts)
        bnl("-i", master, "-u", "-2", *words, "-o", "set", cwd=tmp_path / name)
    images = read_images(tmp_path / "a/set_master.h5")
    np.testing.assert_array_equal(images, read_images(tmp_path / "b/set_master.h5"))
    assert images.dtype == np.int16
    assert images[1, 3, 5] == -1


# Targets


def errors_of_set(folder: Path, exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Errors of the valid pixels; invalid ones 0."""
    images = read_images(folder / "set_master.h5").astype(np.int64)
    return np.where(exact == MARK, 0, images - exact)


@pytest.mark.parametrize("bound", [2, 9])
def test_the_greatest_error_is_bounded(bound: int, frames: Path, exact: np.ndarray[Any, Any], tmp_path: Path) -> None:
    summary = run(frames, tmp_path, "--max_error", bound, "-c", "bslz4", "--fill_gaps")
    greatest = int(np.abs(errors_of_set(tmp_path, exact)).max())
    assert 0 < greatest <= summary["greatest_error"] <= bound


@pytest.mark.parametrize(
    ("words", "bound"), [(("--rms", "2.5"), 2.5), (("-T", "--psnr", "85"), 65535 / 10 ** (85 / 20))]
)
def test_the_rms_error_is_bounded_and_near_its_target(
    words: tuple[str, ...], bound: float, frames: Path, exact: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    summary = run(frames, tmp_path, *words, "-c", "bslz4")
    # The codec's bound is over all pixels, masked ones, which cost it less, included.
    valid = exact != MARK
    rms = [np.sqrt((e[v] ** 2).mean()) for e, v in zip(errors_of_set(tmp_path, exact), valid, strict=True)]
    assert max(rms) <= bound / np.sqrt(valid.mean())
    assert min(rms) >= 0.8 * bound
    assert 0.9 * bound <= summary["rms_error"] <= bound
    assert summary["codestream_ratio"] > 1


def test_the_summary_tells_what_was_achieved(frames: Path, tmp_path: Path) -> None:
    done = bnl("-i", frames, *JOB, "--max_error", "4", "-c", "htj2k", "-o", "set", cwd=tmp_path)
    assert "codec's greatest error 4 counts, rms error" in done.stdout
    assert ":1 to 2 bytes a pixel" in done.stdout
    assert "htj2k max_error 4, htj2k; 1 worker" in done.stderr


def test_an_image_that_cannot_reach_the_ratio_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).choice([0, 65000], (2, 256, 256)).astype(np.uint16)
    master = write_set(tmp_path, noise, cutoff=65500)
    done = bnl("-i", master, "-T", "300", "-c", "htj2k", "-o", "set", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "block 1: image of frames 1 to 1: HTJ2K can't reach a ratio of 300" in done.stderr
    assert not list(tmp_path.glob("set*"))


@pytest.fixture(scope="module")
def beam_loss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The master of twelve frames over which the beam goes and comes again."""
    folder = tmp_path_factory.mktemp("loss")
    return write_set(folder, np.stack(changing("beam loss")), cutoff=65500, mask=np.zeros((300, 257), np.uint32))


@pytest.fixture(scope="module")
def lost(beam_loss: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of their set of codestreams, in two blocks; and what the run said."""
    folder = tmp_path_factory.mktemp("lost")
    words = ["-T", "6.5", "-c", "htj2k", "-d", "6", "-o", "set", "--json", "run.json"]
    done = bnl("-i", beam_loss, *words, cwd=folder)
    return folder, done.stdout + done.stderr


def test_what_misses_the_target_is_told(lost: tuple[Path, str]) -> None:
    folder, said = lost
    wanted = int(2 * 300 * 257 / 6.5)
    sizes = [len(chunk) for chunk in stored_chunks(folder)]
    images = read_images(folder / "set_master.h5")
    exact = [k for k, image in enumerate(changing("beam loss")) if np.array_equal(image, images[k])]
    missed = [k for k, size in enumerate(sizes) if size < 0.97 * wanted and k not in exact]
    assert max(sizes) <= wanted
    assert 0 < len(missed) < len(exact) < 8
    summary = json.loads((folder / "run.json").read_text())
    assert sum(summary["missed_targets"].values()) == summary["missed_targets"]["end"] == len(missed)
    assert summary["exact_images"] == len(exact)
    assert f"{len(missed)} image{'s' * (len(missed) > 1)} of 12 not within tolerance of the target" in said
    assert "the codec can come no nearer" in said
    assert f"{len(exact)} images coded without loss" in said
    counted = []
    for number in (1, 2):
        with h5py.File(folder / f"set_{number:06d}.h5") as h5:
            attributes = h5["/entry/bnl_mpi"].attrs
            counted.append((int(attributes["missed_end"]), int(attributes["n_exact"])))
    halves = range(6), range(6, 12)
    assert counted == [(sum(k in half for k in missed), sum(k in half for k in exact)) for half in halves]


def test_only_a_sample_is_decoded_and_the_record_says_which(lost: tuple[Path, str]) -> None:
    folder, said = lost
    images = read_images(folder / "set_master.h5")
    exact = [k for k, image in enumerate(changing("beam loss")) if np.array_equal(image, images[k])]
    n_taken = 0
    for number in (1, 2):
        with h5py.File(folder / f"set_{number:06d}.h5") as h5:
            found = image_checksums(h5)
        for k, (crc, image) in enumerate(zip(found, images[6 * number - 6 :], strict=False)):
            # Of an image without loss the pixels are known anyway.
            assert (crc is not None) == (k == 0 or 6 * number - 6 + k in exact)
            assert crc is None or crc == zlib.crc32(image.data)
            n_taken += crc is not None
    assert json.loads((folder / "run.json").read_text())["measured_images"] == n_taken
    assert f"of {n_taken} images decoded" in said


def test_expand_compares_what_was_taken_and_marks_the_rest(lost: tuple[Path, str], tmp_path: Path) -> None:
    done = bnl("expand", lost[0] / "set_master.h5", "-o", "full", cwd=tmp_path)
    assert "decoded to other pixels" not in done.stderr
    np.testing.assert_array_equal(read_images(tmp_path / "full_master.h5"), read_images(lost[0] / "set_master.h5"))
    assert bnl("check", "--data", tmp_path / "full_master.h5").returncode == 0


@needs_mpi
@pytest.mark.mpi
def test_ranks_don_t_matter_where_images_change(beam_loss: Path, lost: tuple[Path, str], tmp_path: Path) -> None:
    bnl("-i", beam_loss, "-T", "6.5", "-c", "htj2k", "-d", "6", "-o", "set", ranks=3, cwd=tmp_path)
    assert outputs(tmp_path, "set") == outputs(lost[0], "set")


# Ranks


@needs_mpi
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("words", [["-T", "12", "-c", "htj2k"], ["--rms", "2", "-c", "bslz4", "-q"]])
def test_any_number_of_ranks(ranks: int, words: list[str], frames: Path, tmp_path: Path) -> None:
    """The search for a step starts anew in each block, whoever made the block before."""
    for name, n in {"one": None, "many": ranks}.items():
        (tmp_path / name).mkdir()
        bnl("-i", frames, *JOB, *words, "-o", "set", ranks=n, cwd=tmp_path / name)
    assert outputs(tmp_path / "one", "set") == outputs(tmp_path / "many", "set")


def test_a_resumed_run_tells_the_same_errors(frames: Path, tmp_path: Path) -> None:
    first = run(frames, tmp_path, "-T", "12", "-c", "htj2k")
    before = outputs(tmp_path, "set")
    (tmp_path / "set_000002.h5").unlink()
    (tmp_path / "set_master.h5").unlink()
    second = run(frames, tmp_path, "-T", "12", "-c", "htj2k", "--resume")
    assert second["kept_blocks"] == 2
    for name in ("greatest_error", "rms_error", "codestream_ratio", "invalid_pixels"):
        assert second[name] == first[name]
    assert outputs(tmp_path, "set") == before


# Readers


def test_the_summary_says_who_reads_it_and_the_way_to_xds(frames: Path, tmp_path: Path) -> None:
    done = bnl("-i", frames, *JOB, "-T", "12", "-c", "htj2k", "-o", "set", cwd=tmp_path)
    assert "NAME_TEMPLATE_OF_DATA_FRAMES" not in done.stdout
    for words in ("LIB= /path/durin-plugin.so", "HDF5_PLUGIN_PATH", "hdf5plugin's folder of plugins"):
        assert words in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("XDS's usual plugin reads no htj2k: "))
    *command, _, name = shlex.split(line.partition("expand it, ")[2])
    assert name == "NAME"
    assert command[0] == "bnl-mpi"
    again = bnl(*command[1:], "-o", "set_x", cwd=tmp_path)
    assert again.stdout.splitlines()[-1] == f"NAME_TEMPLATE_OF_DATA_FRAMES= {tmp_path}/set_x_??????.h5"


def test_check_judges_it(chunks: Path) -> None:
    # The set is sound, and isn't meant for XDS's usual plugin.
    done = bnl("check", chunks / "set_master.h5")
    assert bnl("check", "--for", "xds", chunks / "set_master.h5", ok=False).returncode == 1
    broken = [line for line in done.stdout.splitlines() if line.startswith("fails")]
    assert any(line.startswith("fails XDS: ") and "htj2k (32033)" in line for line in broken), done.stdout
    assert not any("DIALS" in line for line in broken)
    assert any(line.startswith("DIALS: all") for line in done.stdout.splitlines()), done.stdout
    assert any(line.startswith("bnl_mpi: all") for line in done.stdout.splitlines()), done.stdout


@pytest.mark.dials
@pytest.mark.skipif(DIALS is None, reason="neither dials.python nor dxtbx.python is on PATH")
def test_dials_masks_the_same_pixels(tmp_path: Path) -> None:
    """As in the set with marks; and sees the same counts elsewhere."""
    master = simulate(tmp_path / "in", detector="1M", frames=4, images_per_file=4)
    seen = {}
    for name, words in {"small": ["-c", "htj2k"], "full": ["-c", "bslz4", "--fill_gaps"]}.items():
        bnl("-i", master, "-b", "2", "-T", "40", *words, "-o", name, cwd=tmp_path)
        assert DIALS is not None
        done = subprocess.run(
            [DIALS, str(Path(__file__).with_name("dials_masks.py")), f"{name}.nxs", f"{name}.npz"],
            env={**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen[name] = np.load(tmp_path / f"{name}.npz")
    masks = seen["full"]["masks"]
    assert 0 < masks.sum() < masks.size
    np.testing.assert_array_equal(seen["small"]["masks"], masks)
    np.testing.assert_array_equal(seen["small"]["images"][masks], seen["full"]["images"][masks])


# What may be missing


def test_an_old_hdf5plugin_is_said(frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hdf5plugin, "Htj2k")
    with pytest.raises(BnlError, match=r"needs hdf5plugin 7\.1 or later, .* is there: pip install"):
        bnl_mpi.reduce(str(frames), compression="htj2k", out_file=str(tmp_path / "set"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"compression": "htj2k"}, {"codec": "htj2k"}, {"rms": 2}])
def test_absent_imagecodecs_is_said(
    options: dict[str, Any], frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnl_mpi.codecs import openjph

    real = builtins.__import__

    def no_imagecodecs(name: str, *rest: Any) -> Any:
        if name == "imagecodecs":
            raise ImportError("No module named imagecodecs")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_imagecodecs)
    openjph.library.cache_clear()
    with pytest.raises(BnlError, match=r"HTJ2K needs imagecodecs: pip install 'bnl-mpi\[htj2k\]'"):
        bnl_mpi.reduce(str(frames), **options, out_file=str(tmp_path / "set"))
    assert not list(tmp_path.iterdir())
