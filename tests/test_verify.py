"""`bnl-mpi verify`: whatever is changed in a set is found; a certificate stands for raw data only if all holds."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_inputs import InputSpec, make_input
from running import MAIN, bnl, needs_mpi
from small_sets import random_frames, random_mask, read_images, write_set

from bnl_mpi.cli import main
from bnl_mpi.errors import InputError
from bnl_mpi.estimate.resolution import read_geometry
from bnl_mpi.pixels import kernels
from bnl_mpi.verify import certified

Array = np.ndarray[Any, Any]
SHAPE = (60, 70)
SETTINGS = {
    "bslz4": ["-c", "bslz4"],
    "zstd, signed": ["-c", "zstd", "-u", "-4"],
    "float": ["-c", "none", "-f", "4", "-L", "2"],
    "H16 and squash": ["-c", "bslz4", "-H", "16", "-q"],
    "J5": ["-c", "bslz4", "-J", "5"],
    "T5 codestreams": ["-c", "htj2k", "-T", "5"],
    "htj2k lossless": ["-c", "htj2k"],
    "T5 decoded": ["-c", "bslz4", "-T", "5", "--fill_gaps"],
    "scaled": ["-c", "bslz4", "--saturation", "scaled"],
}


def write_raw(folder: Path) -> Path:
    return write_set(folder, random_frames(11, SHAPE, seed=3), mask=random_mask(SHAPE), per_file=4, name="raw")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def sound(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of six images in three blocks, with codestreams beside it."""
    folder = tmp_path_factory.mktemp("sound")
    make(raw, folder, SETTINGS["H16 and squash"])
    return folder


def make(raw: Path, folder: Path, words: list[str]) -> None:
    assert main(["-i", str(raw), "-b", "2", "-s", "2", "-d", "2", *words, "-o", str(folder / "set")]) == 0


def verify(folder: Path, *words: object) -> tuple[int, dict[str, Any]]:
    """The status, and what was told as JSON."""
    told = folder / "told.json"
    status = main(["verify", str(folder / "set_master.h5"), "--json", str(told), *map(str, words)])
    return status, json.loads(told.read_text())


def test_a_master_may_have_a_name_and_a_folder_of_its_own(raw: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["-o", "data/images", "-q", "streams/kept", "-m", "masters/other_master"]
    assert main(["-i", str(raw), "-s", "3", "-d", "2", "-H", "4", *names]) == 0
    assert main(["verify", "masters/other_master.h5", "--against", str(raw), "--certify"]) == 0
    assert sorted(os.listdir("masters")) == ["other.crate.json", "other.nxs", "other.sha256", "other_master.h5"]
    assert sorted(os.listdir("data") + os.listdir("streams")) == [
        f"{stem}_{k:06d}.h5" for stem in ("images", "kept") for k in (1, 2)
    ]
    subprocess.run(["sha256sum", "--quiet", "-c", "other.sha256"], cwd="masters", check=True)
    assert main(["verify", "--certificate", "masters/other.crate.json"]) == 0
    shutil.copy("data/images_000002.h5", "data/images_000003.h5")
    assert main(["verify", "masters/other_master.h5", "--json", "told.json"]) == 1
    assert json.loads(Path("told.json").read_text())["files"][str(tmp_path / "data/images_000003.h5")] == "+"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_set_is_what_its_raw_data_give(raw: Path, tmp_path: Path, setting: str) -> None:
    if "htj2k" in SETTINGS[setting] or "-T" in SETTINGS[setting]:
        pytest.importorskip("imagecodecs")
    make(raw, tmp_path, SETTINGS[setting])
    status, told = verify(tmp_path)
    assert (status, told["findings"]) == (0, [])
    status, told = verify(tmp_path, "--against", raw, "--paranoid")
    assert (status, told["findings"]) == (0, [])
    assert told["compared_images"] == told["independent_images"] == told["images"] == 6
    assert set(told["files"].values()) == {"="}


@pytest.mark.parametrize("setting", ["bslz4", "float", "H16 and squash", "J5", "T5 codestreams"])
def test_what_the_codec_lost_is_measured(raw: Path, tmp_path: Path, setting: str) -> None:
    """Of every image's valid pixels, as the images before and after tell it."""
    if setting.startswith("T"):
        pytest.importorskip("imagecodecs")
    for name in ("plain", "set"):
        (tmp_path / name).mkdir()
    make(raw, tmp_path / "set", SETTINGS[setting])
    make(raw, tmp_path / "plain", SETTINGS[setting] if setting == "float" else ["-c", "bslz4"])
    before, after = (read_images(tmp_path / name / "set_master.h5") for name in ("plain", "set"))
    is_float = before.dtype.kind == "f"
    sound = ~np.isnan(before) if is_float else before != 65535
    _, told = verify(tmp_path / "set", "--against", raw)
    # Of floats each image's sum is rounded.
    for name, images in (("counts_before", before), ("counts_stored", after)):
        assert told[name] == pytest.approx(images[sound].sum(dtype=np.float64), abs=3 * is_float, rel=0)
    lost = after[sound].astype(float) - before[sound]
    if is_float or setting == "bslz4":
        assert (told["greatest_error"], told["rms_error"]) == (None, None)
        assert not lost.any()
    else:
        assert told["greatest_error"] == np.abs(lost).max() > 0
        assert told["rms_error"] == pytest.approx(np.sqrt((lost**2).mean()))
    assert verify(tmp_path / "set")[1]["counts_before"] is None
    if lost.any():
        check_errors_certified(tmp_path / "set", raw, before.astype(float), after.astype(float), sound)


def check_errors_certified(folder: Path, raw: Path, before: Array, after: Array, sound: Array) -> None:
    """Image by image, and by resolution: shells hold all pixels, each as far from the beam as they say."""
    assert verify(folder, "--against", raw, "--certify", "--subset", "1/2")[0] == 75
    assert verify(folder, "--against", raw, "--certify", "--resume")[0] == 0
    graph = json.loads((folder / "set.crate.json").read_text())["@graph"]
    told = {one["name"]: one["value"] for one in graph if one["@type"] == "PropertyValue"}
    lost = np.where(sound, after - before, np.nan)
    assert json.loads(told["greatestCodecErrorOfImages"]) == list(np.nanmax(np.abs(lost), axis=(1, 2)))
    rms = np.sqrt(np.nanmean(lost**2, axis=(1, 2)))
    np.testing.assert_allclose(json.loads(told["rmsCodecErrorOfImages"]), rms, atol=1e-4)
    shells = json.loads(told["codecErrorOfShells"])
    assert sum(shell["pixels"] for shell in shells) == sound.sum()
    assert max(shell["greatest"] for shell in shells) == np.nanmax(np.abs(lost))
    assert shells[0]["dMax"] is None
    with h5py.File(folder / "set_master.h5") as file:
        geometry, _ = read_geometry(file)
    assert geometry is not None
    y, x = np.mgrid[: lost.shape[1], : lost.shape[2]] + 0.5
    d = np.array([geometry.resolution(*at) for at in zip(x.ravel(), y.ravel(), strict=True)]).reshape(y.shape)
    for shell in shells[1:-1]:
        # Limits are told to three digits after the point, so that a pixel on one may be on either side.
        inside, nearly = ((d <= shell["dMax"] + e) & (d >= shell["dMin"] - e) for e in (-1e-3, 1e-3))
        assert (sound & inside).sum() <= shell["pixels"] <= (sound & nearly).sum()
        if shell["pixels"] == (sound & nearly).sum():
            assert shell["rms"] == pytest.approx(np.sqrt(np.nanmean(lost[:, nearly] ** 2)), abs=1e-4)


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
def test_metadata_are_explained_item_by_item(tmp_path: Path, flavour: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_input(tmp_path, InputSpec(flavour=flavour, libver="v110" if flavour == "nxmx" else "earliest"))
    make(made.master, tmp_path, ["-c", "bslz4"])
    status, told = verify(tmp_path, "--against", made.master)
    assert (status, told["findings"]) == (0, [])
    assert " changed as the rules say, 0 unexplained" in capsys.readouterr().out


def test_an_expanded_set_whose_nexus_file_was_made_anew(tmp_path: Path) -> None:
    """Angles by an image's width round otherwise than by a frame's in the last digit; no more may differ."""
    made = make_input(tmp_path, InputSpec(flavour="filewriter", omega_start=0.0, omega_step=0.1, n_frames=26))
    words = ["-i", str(made.master), "-1", "2", "-b", "2", "-s", "3", "-H", "16", "-q", "--drop_partial"]
    assert main([*words, "-c", "bslz4", "-o", str(tmp_path / "small")]) == 0
    (tmp_path / "small.nxs").unlink()
    assert main(["expand", str(tmp_path / "small_master.h5"), "-c", "bslz4", "-o", str(tmp_path / "set")]) == 0
    status, told = verify(tmp_path, "--against", made.master)
    assert (status, told["findings"]) == (0, [])
    with h5py.File(tmp_path / "set.nxs", "r+") as file:
        ends = file["/entry/sample/transformations/omega_end"]
        ends[3] += 1e-9
    status, told = verify(tmp_path, "--against", made.master)
    assert status == 1
    items = {f["where"] for f in told["findings"]}
    assert any(item.endswith("/omega_end") for item in items), items


# ---- whatever is changed is found -----------------------------------------------------------------------


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def flip_chunk(path: Path, image: int = 0) -> None:
    with h5py.File(path) as file:
        info = file["/entry/data/data"].id.get_chunk_info(image)
    with path.open("r+b") as raw_file:
        raw_file.seek(info.byte_offset + info.size // 2)
        byte = raw_file.read(1)[0]
        raw_file.seek(-1, 1)
        raw_file.write(bytes([byte ^ 16]))


def swap(folder: Path) -> None:
    first, second = folder / "set_000001.h5", folder / "set_000002.h5"
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def store_other_pixels(folder: Path) -> None:
    """Pixels and their checksums changed alike: only the raw data tell."""
    path = folder / "set_000001.h5"
    with h5py.File(path, "r+") as file:
        pixels = file["/entry/data/data"][0]
        pixels[5, 5] = 3 if pixels[5, 5] != 3 else 4
        chunk = bytes(kernels.bslz4_encode(np.ascontiguousarray(pixels)))
        file["/entry/data/data"].id.write_direct_chunk((0, 0, 0), chunk)
        for name, data in (("chunk_crc32", chunk), ("image_crc32", pixels)):
            values = file["/entry/bnl_mpi"][name][()]
            values[0] = kernels.crc32(data)
            file["/entry/bnl_mpi"][name][...] = values
        from bnl_mpi.output import record

        record.seal(file)


CHANGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a bit of a chunk": (lambda f: flip_chunk(f / "set_000002.h5"), "*", "set_000002.h5"),
    "a bit of a squash file": (lambda f: flip_bytes(f / "set_squash_000002.h5"), "*", "set_squash_000002.h5"),
    "a file gone": (lambda f: (f / "set_000003.h5").unlink(), "-", "set_000003.h5"),
    "a squash file gone": (lambda f: (f / "set_squash_000003.h5").unlink(), "-", "set_squash_000003.h5"),
    "the .nxs gone": (lambda f: (f / "set.nxs").unlink(), "-", "set.nxs"),
    "one file more": (lambda f: shutil.copy(f / "set_000001.h5", f / "set_000009.h5"), "+", "set_000009.h5"),
    "files swapped": (swap, "*", "set_000001.h5"),
    "a file cut short": (lambda f: os.truncate(f / "set_000001.h5", 2000), "*!", "set_000001.h5"),
    "a bit of the master's mask": (
        lambda f: edit(f / "set_master.h5", lambda h: flip_mask(h)),
        "*",
        "set_master.h5",
    ),
    "a beam centre": (
        lambda f: edit(f / "set_master.h5", lambda h: move_beam(h)),
        "*",
        "set_master.h5",
    ),
    "an item more": (
        lambda f: edit(f / "set_master.h5", lambda h: h.create_dataset("/entry/sample/extra", data=3)),
        "*+",
        "set_master.h5",
    ),
}


def flip_bytes(path: Path) -> None:
    with h5py.File(path) as file:
        name = sorted(file["/entry/data"])[0]
        at = file["/entry/data"][name].id.get_offset() + 30
    with path.open("r+b") as raw_file:
        raw_file.seek(at)
        byte = raw_file.read(1)[0]
        raw_file.seek(at)
        raw_file.write(bytes([byte ^ 1]))


def flip_mask(file: h5py.File) -> None:
    mask = file["/entry/instrument/detector/detectorSpecific/pixel_mask"]
    value = mask[3, 4]
    mask[3, 4] = value ^ 4


def move_beam(file: h5py.File) -> None:
    centre = file["/entry/instrument/detector/beam_center_x"]
    centre[()] = centre[()] + 1


def test_a_changed_item_is_told_in_numbers(raw: Path, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / "set_master.h5", move_beam)
    told = verify(tmp_path, "--against", raw)[1]
    (finding,) = (f for f in told["findings"] if f["where"].endswith("/beam_center_x"))
    (kind, found), (same_kind, wanted) = finding["found"].split(), finding["wanted"].split()
    assert kind == same_kind
    assert float(found) == float(wanted) + 1
    edit(tmp_path / "set_master.h5", flip_mask)
    told = verify(tmp_path, "--against", raw)[1]
    # By each of its names.
    findings = [f for f in told["findings"] if f["where"].endswith("/pixel_mask")]
    assert findings
    for finding in findings:
        assert re.fullmatch(r"<u4 \(30, 35\) sha256 \w{16}", finding["found"])
        assert finding["found"] != finding["wanted"]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_is_found(raw: Path, sound: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    damage, signs, file = CHANGES[change]
    damage(tmp_path)
    for words in ([], ["--against", raw]):
        status, told = verify(tmp_path, *words)
        assert status == 1
        assert told["files"][str(tmp_path / file)] in signs
        assert told["findings"]


def test_other_pixels_with_fitting_checksums(raw: Path, tmp_path: Path) -> None:
    make(raw, tmp_path, SETTINGS["bslz4"])
    store_other_pixels(tmp_path)
    assert verify(tmp_path)[0] == 0
    status, told = verify(tmp_path, "--against", raw)
    assert status == 1
    assert {f["where"] for f in told["findings"]} == {"image 1"}
    assert "1 pixels differ, by up to" in told["findings"][0]["found"]


def test_other_raw_data_are_not_taken(raw: Path, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "out")
    other = write_set(tmp_path, random_frames(11, SHAPE, seed=4), mask=random_mask(SHAPE), per_file=4, name="raw")
    status, told = verify(tmp_path / "out", "--against", other)
    assert status == 1
    assert any("differ" in f["found"] for f in told["findings"])
    short = write_set(tmp_path, random_frames(10, SHAPE, seed=3), mask=random_mask(SHAPE), per_file=4, name="raw")
    assert main(["verify", str(tmp_path / "out" / "set_master.h5"), "--against", str(short)]) == 1


def test_a_raw_master_is_no_set(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(raw)]) == 1
    assert "isn't the master of a set that bnl-mpi made" in capsys.readouterr().err
    for words in (
        [],
        ["x", "--subset", "3/2"],
        ["x", "--certify"],
        ["x", "--certificate", "y"],
        ["x", "-0"],
        ["--certificate", "y", "-0"],
        ["--certificate", "y", "--resume"],
        ["--deletable", "y", "--certify"],
        ["--deletable", "y", "--subset", "1/2"],
    ):
        assert main(["verify", *words]) == 2


# ---- ranks, shares, subsets, resume ---------------------------------------------------------------------


@needs_mpi
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_find_the_same(raw: Path, sound: Path, tmp_path: Path, ranks: int) -> None:
    shutil.copytree(sound, tmp_path / "out")
    bnl("verify", tmp_path / "out" / "set_master.h5", "--against", raw, ranks=ranks)
    flip_chunk(tmp_path / "out" / "set_000002.h5")
    done = bnl("verify", tmp_path / "out" / "set_master.h5", "--against", raw, ranks=ranks, ok=False)
    assert done.returncode == 1, done.stderr
    assert f"* {tmp_path / 'out' / 'set_000002.h5'}" in done.stdout


def test_shares_and_subsets_add_up_to_a_certificate(raw: Path, sound: Path, tmp_path: Path) -> None:
    for how, parts in (
        ("shares", [["-p", "2", "-t", "0"], ["-p", "2", "-t", "1"], ["-p", "2", "-t", "2"]]),
        ("subsets", [["--subset", "1/2"], ["--subset", "2/2"]]),
    ):
        out = tmp_path / how
        shutil.copytree(sound, out)
        words = ["verify", str(out / "set_master.h5"), "--against", str(raw), "--certify"]
        for part in parts[:-1]:
            assert main([*words, *part]) == (0 if part[-2:] == ["-t", "1"] else 75)
            assert not (out / "set.sha256").exists()
        main([*words, *parts[-1]])
        by_parts = errors_certified(out)
        status, told = verify(out, "--against", raw, "--certify", "--resume")
        assert status == 0
        assert by_parts == (errors_certified(out) if how == "subsets" else [])
        assert len(errors_certified(out)) == 2
        assert (out / "set.crate.json").exists()
        assert not (out / "set.verify").exists()
        assert told["certificate"]


def errors_certified(folder: Path) -> list[float]:
    """The codec's errors, as the certificate has them; [] where there is none."""
    path = folder / "set.crate.json"
    graph = json.loads(path.read_text())["@graph"] if path.exists() else []
    return [one["value"] for one in graph if one["@id"] in ("#greatestCodecError", "#rmsCodecError")]


@pytest.mark.parametrize("name", ["set.sha256", "set.crate.json"])
@pytest.mark.parametrize("text", ["0  other.h5\n", '{"@graph": []}', b"\xff"])
def test_a_file_of_somebody_else_is_no_certificate(
    raw: Path, sound: Path, tmp_path: Path, name: str, text: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    theirs = tmp_path / name
    theirs.write_bytes(text.encode() if isinstance(text, str) else text)
    before = theirs.read_bytes()
    assert main(["verify", str(tmp_path / "set_master.h5"), "--against", str(raw), "--certify"]) == 1
    assert f"{theirs}: isn't a certificate of {tmp_path / 'set_master.h5'}; rename it" in capsys.readouterr().err
    assert theirs.read_bytes() == before


def test_what_a_killed_run_left_of_a_certificate_is_made_anew(raw: Path, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "set.crate.json", tmp_path / "nothing"):
        assert main(["verify", str(tmp_path / "set_master.h5"), "--against", str(raw), "--certify"]) == 0
        path.unlink(missing_ok=True)
    assert (tmp_path / "set.crate.json").exists()


def test_a_share_tells_what_it_finds(
    raw: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shares 1 and 2 have blocks 1, 3 and 2; share 0 has masters, and says whether all blocks were found sound."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    flip_chunk(tmp_path / "set_000002.h5")
    shares = [["-p", "2", "-t", str(k)] for k in range(3)]
    status, told = verify(tmp_path, "--against", raw, *shares[1])
    assert (status, told["findings"], told["verified_blocks"]) == (0, [], 2)
    assert not any(name.endswith("_master.h5") for name in told["files"]), "share 1 didn't look at it"
    assert "metadata" not in capsys.readouterr().out
    status, told = verify(tmp_path, "--against", raw, *shares[2])
    assert status == 1
    assert told["files"] == {str(tmp_path / "set_000002.h5"): "*", str(tmp_path / "set_squash_000002.h5"): "="}
    assert f"* {tmp_path / 'set_000002.h5'}: " in capsys.readouterr().out
    assert verify(tmp_path, "--against", raw, *shares[0])[0] == 75
    assert "not found sound yet: blocks 2;" in capsys.readouterr().out
    shutil.copy(sound / "set_000002.h5", tmp_path)
    for share in (*shares[1:], shares[0]):
        status, told = verify(tmp_path, "--against", raw, "--certify", *share)
        assert status == 0
    assert (told["verified_blocks"], len(told["certificate"])) == (3, 2)
    (tmp_path / "set.nxs").unlink()
    status, told = verify(tmp_path, *shares[0])
    assert (status, told["files"][str(tmp_path / "set.nxs")]) == (1, "-")


def test_a_subset_says_nothing_of_the_rest(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sound / "set_master.h5"), "--subset", "1/3"]) == 0
    assert "what was looked at is as it was written" in capsys.readouterr().out
    assert main(["verify", str(sound / "set_master.h5")]) == 0
    assert "the set is as it was written" in capsys.readouterr().out
    shutil.rmtree(sound / "set.verify")


def test_a_raw_file_that_changed_is_named(raw: Path, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "out")
    shutil.copytree(raw.parent, tmp_path / "raw")
    changed = tmp_path / "raw" / "raw_data_000002.h5"
    flip_chunk(changed)
    status, told = verify(tmp_path / "out", "--against", tmp_path / "raw" / raw.name)
    assert status == 1
    # Its first frame; the file before it has four.
    assert [f["where"] for f in told["findings"] if f["file"] == str(changed)] == ["frame 5 of the raw data"]


def test_resume_looks_again_at_what_changed(raw: Path, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    assert verify(tmp_path, "--against", raw)[0] == 0
    flip_chunk(tmp_path / "set_000002.h5")
    status, told = verify(tmp_path, "--against", raw, "--resume")
    assert status == 1
    assert told["files"][str(tmp_path / "set_000002.h5")] == "*"


@pytest.mark.parametrize("words", [[], ["--against"]])
def test_a_set_in_a_folder_that_is_only_read(
    raw: Path, sound: Path, tmp_path: Path, words: list[str], obedient: list[str]
) -> None:
    """It is verified; nothing is noted.  What can't be done without notes is refused before the work."""
    out = shutil.copytree(sound, tmp_path / "out")
    master, against = out / "set_master.h5", [*words, *([raw] if words else [])]
    out.chmod(0o555)
    try:
        done = subprocess.run(
            [*obedient, sys.executable, MAIN, "verify", str(master), *map(str, against)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("so --resume will find nothing of this run") == 1
        for more in (["--certify"], ["-p", "2", "-t", "1"]):
            done = subprocess.run(
                [*obedient, sys.executable, MAIN, "verify", str(master), "--against", str(raw), *more],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.endswith("leave them out, or verify a copy\n")
    finally:
        out.chmod(0o755)
    assert not (out / "set.verify").exists()


def test_the_nexus_file_is_no_master(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sound / "set.nxs")]) == 1
    assert capsys.readouterr().err.endswith(f"is no master; give {sound}/set_master.h5, of the same set\n")


# ---- the certificate ------------------------------------------------------------------------------------


@pytest.fixture
def certified_set(raw: Path, sound: Path, tmp_path: Path) -> Path:
    """A folder with `raw` and a certified set in `out`."""
    shutil.copytree(raw.parent, tmp_path / "raw")
    shutil.copytree(sound, tmp_path / "out")
    words = ["--against", str(tmp_path / "raw" / raw.name), "--certify"]
    assert main(["verify", str(tmp_path / "out" / "set_master.h5"), *words]) == 0
    return tmp_path


def deletable(folder: Path, capsysbinary: pytest.CaptureFixture[bytes], *words: str) -> list[bytes]:
    capsysbinary.readouterr()
    main(["verify", "--deletable", str(folder / "out" / "set.crate.json"), *words])
    return capsysbinary.readouterr().out.split(b"\0" if words else b"\n")[:-1]


def test_coreutils_take_the_checksums(certified_set: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "set.sha256"],
        cwd=certified_set / "out",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 8


def test_a_moved_set_without_raw_data_still_holds(
    certified_set: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (certified_set / "out").rename(certified_set / "moved")
    shutil.rmtree(certified_set / "raw")
    crate, told = str(certified_set / "moved" / "set.crate.json"), certified_set / "told.json"
    assert main(["verify", "--certificate", crate, "--json", str(told)]) == 0
    assert sorted(json.loads(told.read_text())["files"].values()) == [" "] * 4 + ["="] * 8
    changed = certified_set / "moved" / "set_000001.h5"
    flip_chunk(changed)
    assert main(["verify", "--certificate", crate, "--json", str(told)]) == 1
    found = json.loads(told.read_text())
    assert (found["files"][str(changed)], len(found["findings"]), found["status"]) == ("*", 1, 1)
    assert capsysbinary.readouterr().out.endswith(b"\n1 finding\n")


def test_what_may_be_deleted(certified_set: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    wanted = {os.fsencode(p) for p in (certified_set / "raw").glob("raw_*.h5")}
    told = deletable(certified_set, capsysbinary)
    assert set(told) == wanted
    assert told[-1].endswith(b"raw_master.h5")
    assert set(deletable(certified_set, capsysbinary, "-0")) == wanted
    # A time alone is no change.
    os.utime(certified_set / "raw" / "raw_data_000002.h5")
    assert set(deletable(certified_set, capsysbinary)) == wanted


@pytest.mark.parametrize("what", ["raw changed", "raw changed, its time set back", "output changed", "output gone"])
def test_nothing_may_be_deleted(certified_set: Path, capsysbinary: pytest.CaptureFixture[bytes], what: str) -> None:
    if what.startswith("raw changed"):
        path = certified_set / "raw" / "raw_data_000002.h5"
        before = path.stat()
        flip_chunk(path)
        if "set back" in what:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif what == "output changed":
        flip_chunk(certified_set / "out" / "set_000002.h5")
    else:
        (certified_set / "out" / "set.nxs").unlink()
    assert deletable(certified_set, capsysbinary) == []


def test_a_set_made_anew_has_no_certificate(certified_set: Path) -> None:
    out = certified_set / "out"
    again = ["-i", str(certified_set / "raw" / "raw_master.h5"), "-c", "bslz4", "-d", "2", "-o", str(out / "set")]
    assert main([*again, "-b", "2"]) == 1
    assert (out / "set.crate.json").exists(), "nothing was overwritten"
    (out / "other.crate.json").write_text("{}")
    (out / "other.sha256").write_text("")
    assert main([*again, "--force"]) == 0
    assert not (out / "set.crate.json").exists()
    assert not (out / "set.sha256").exists()
    # Somebody else's stay.
    assert main([*again[:-1], str(out / "other"), "--force"]) == 0
    assert (out / "other.crate.json").read_text() == "{}"
    assert (out / "other.sha256").exists()


def test_a_part_of_the_frames_stands_for_no_raw_file(raw: Path, tmp_path: Path) -> None:
    assert main(["-i", str(raw), "-N", "8", "-d", "2", "-c", "bslz4", "-o", str(tmp_path / "set")]) == 0
    assert verify(tmp_path, "--against", raw, "--certify")[0] == 0
    told = certified.read(str(tmp_path / "set.crate.json"))
    assert not told.all_frames
    paths, why = certified.deletable(told)
    assert paths == []
    assert "not all of its frames" in why


@pytest.mark.parametrize("what", ["a bad frame", "a file that never came"])
def test_what_the_set_lacks_is_in_the_certificate(raw: Path, tmp_path: Path, what: str) -> None:
    folder = shutil.copytree(raw.parent, tmp_path / "raw")
    option = "--skip_bad_frames" if what == "a bad frame" else "--salvage"
    if what == "a bad frame":
        with h5py.File(folder / "raw_data_000002.h5") as file:
            at = file["/entry/data/data"].id.get_chunk_info(1).byte_offset
        with (folder / "raw_data_000002.h5").open("r+b") as data:
            data.seek(at + 8)
            data.write(b"\xff" * 40)
    else:
        (folder / "raw_data_000003.h5").unlink()
    make(folder / raw.name, tmp_path, ["-c", "bslz4", option])
    for more in (["--subset", "1/2"], ["--subset", "2/2", "--certify"], ["--certify", "--resume"]):
        status, told = verify(tmp_path, "--against", folder / raw.name, *more)
        assert (status, told["findings"]) in ((0, []), (75, []))
    graph = {one["@id"]: one for one in json.loads((tmp_path / "set.crate.json").read_text())["@graph"]}
    verdict = json.loads(graph["#verdict"]["value"])
    assert verdict["badFrames"] == ([6] if what == "a bad frame" else [])
    missing = [] if what == "a bad frame" else ["raw_data_000003.h5"]
    assert [os.path.basename(path) for path in verdict["missingFiles"]] == missing
    assert not verdict["allFrames"]
    assert certified.deletable(certified.read(str(tmp_path / "set.crate.json")))[0] == []


def test_no_certificate_with_a_finding(raw: Path, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    flip_chunk(tmp_path / "set_000002.h5")
    status, told = verify(tmp_path, "--against", raw, "--certify")
    assert (status, told["certificate"]) == (1, [])
    assert not (tmp_path / "set.sha256").exists()


def test_the_crate_is_whole(certified_set: Path) -> None:
    """Every identifier that is referred to is described, as JSON-LD readers want it."""
    crate = json.loads((certified_set / "out" / "set.crate.json").read_text())
    ids = {entity["@id"] for entity in crate["@graph"]}
    assert len(ids) == len(crate["@graph"])
    referred: set[str] = set()

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            if set(value) == {"@id"}:
                referred.add(value["@id"])
            for one in value.values():
                visit(one)
        elif isinstance(value, list):
            for one in value:
                visit(one)

    visit(crate["@graph"])
    assert {one for one in referred if not one.startswith("http")} <= ids
    action = next(e for e in crate["@graph"] if e["@type"] == "CreateAction")
    assert "-H 16" in action["description"]
    raw = [e for e in crate["@graph"] if e["@id"].startswith("file://")]
    assert len(raw) == 4
    assert all(len(e["sha256"]) == 64 for e in raw)


def test_the_command_of_a_certificate_is_one_for_a_shell(raw: Path, tmp_path: Path) -> None:
    master, stem = shutil.copy(raw, tmp_path / "raw b_master.h5"), tmp_path / "it's one"
    for path in raw.parent.glob("raw_data_*.h5"):
        shutil.copy(path, tmp_path)
    assert main(["-i", str(master), "-c", "bslz4", "-o", str(stem)]) == 0
    assert main(["verify", f"{stem}_master.h5", "--against", str(master), "--certify"]) == 0
    graph = {one["@id"]: one for one in json.loads(Path(f"{stem}.crate.json").read_text())["@graph"]}
    words = shlex.split(graph["#reduction"]["description"])
    assert words[0] == "bnl-mpi"
    assert {"raw b_master.h5", "it's one"} <= set(words)


def test_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="is no certificate"):
        certified.read(str(tmp_path / "x.json"))
    with pytest.raises(InputError, match="can't be read"):
        certified.read(str(tmp_path / "absent.json"))


def test_the_kernels_come_back() -> None:
    with kernels.by_numpy():
        assert not kernels.HAVE_BSLZ4
    assert kernels.HAVE_BSLZ4 == kernels.COMPILED
