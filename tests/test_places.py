"""No file is destroyed: what a run may write meets nothing of its input, of itself, or of anybody else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from running import bnl
from small_sets import random_frames, random_mask, write_set

import bnl_mpi
from bnl_mpi import job as jobs
from bnl_mpi.errors import OutputError
from bnl_mpi.options import Options
from bnl_mpi.output import places
from bnl_mpi.output.blockfile import is_leftover

SHAPE = (20, 24)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_set(folder, random_frames(4, SHAPE, seed=3), name="other")
    return write_set(folder, random_frames(12, SHAPE), mask=random_mask(SHAPE), per_file=4)


def contents(*folders: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for folder in folders for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(master: Path, **options: Any) -> None:
    """What a run looks at before it opens any output."""
    job = jobs.prepare(Options(str(master), **{"out_file": "set", "data_block_size": 4, **options})).job
    places.check_places(job)
    places.check_existing(job)


def reduce(master: Path, **options: Any) -> None:
    bnl_mpi.reduce(str(master), **{"out_file": "set", "data_block_size": 4, "compression": "none", **options})


def refused(master: Path, message: str, **options: Any) -> None:
    """The run is refused with `message` before anything happens, in the work's folder or the input's."""
    before = contents(Path.cwd(), master.parent)
    with pytest.raises(OutputError, match=message):
        check(master, **options)
    assert contents(Path.cwd(), master.parent) == before


# ---- against the input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_the_input_is_never_written_to(master: Path, here: Path, force: bool) -> None:
    raw = master.parent
    refused(master, "is a file of the input", out_file=f"{raw}/in_data", force=force)
    refused(master, "is a file of the input", out_master=f"{raw}/in_master", force=force)
    refused(master, "is a file of the input", json=str(master), force=force)
    refused(master, "is a file of the input", log_json=str(master), force=force)
    refused(master, "was not written by --json", json=f"{raw}/in_data_000002.h5", force=force)
    refused(master, "was not written by --log_json", log_json=f"{raw}/in_data_000002.h5", force=force)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_the_input(master: Path, here: Path, link: Any) -> None:
    for source, name in ((master, "set_master.h5"), (master.with_name("in_data_000003.h5"), "sq_000002.h5")):
        link(source, name)
        refused(master, f"{name}: is a file of the input", out_squash="sq", codec="hcompress", force=True)
        os.rename(name, "x.json")
        refused(master, "is a file of the input|was not written by", json="x.json")
        os.unlink("x.json")
    (here / "raw").symlink_to(master.parent)
    refused(master, "is a file of the input", out_file="raw/in_data", force=True)


@pytest.mark.parametrize("option", ["--json", "--log_json"])
def test_json_over_the_input_is_refused_by_the_command(master: Path, here: Path, option: str) -> None:
    before = contents(master.parent)
    for words in ([], ["-p", "2", "-t", "1"]):
        done = bnl("-i", master, "-o", "set", option, master, *words, ok=False)
        assert done.returncode == 1
        assert "is a file of the input" in done.stderr
        assert "Traceback" not in done.stderr
    assert contents(master.parent) == before
    assert not contents(here)


# ---- against one another --------------------------------------------------------------------------------

MEETINGS = [
    {"out_master": "set_000001"},
    {"out_master": "set_000009"},
    {"json": "set_000002.h5"},
    {"log_json": "set_000002.h5"},
    {"json": "set_master.h5"},
    {"json": "set.nxs"},
    {"json": "set.lock"},
    {"json": "a.json", "log_json": "a.json"},
    {"json": "here/a.json", "log_json": "a.json"},
    {"json": "here/set_000003.h5"},
    {"out_squash": "here/set", "codec": "hcompress"},
    {"out_squash": "sq", "codec": "hcompress", "out_master": "sq_000001"},
    {"out_squash": "sq", "codec": "hcompress", "json": "sq_000001.h5"},
    {"json": "dangling"},
]


@pytest.mark.parametrize("options", MEETINGS, ids=str)
def test_outputs_differ_from_one_another(master: Path, here: Path, options: dict[str, Any]) -> None:
    (here / "here").symlink_to(here)
    (here / "dangling").symlink_to("set_000001.h5")
    refused(master, "names a file that .* writes too|name the same files", **options)


def test_what_may_meet(master: Path, here: Path) -> None:
    """Names that only look alike, and devices."""
    check(master, json="set_000001.json", log_json="set_1.h5", out_squash="set_000001", codec="hcompress")
    check(master, json="/dev/null", log_json="/dev/null")


# ---- against what is there ------------------------------------------------------------------------------


def foreign_hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = np.arange(5)
    return path


STRANGERS = ["set_000001.h5", "set_000003.h5", "set_000009.h5", "set_master.h5", "set.nxs"]


@pytest.mark.parametrize("kind", ["text", "hdf5", "truncated", "folder"])
@pytest.mark.parametrize("name", STRANGERS)
def test_force_leaves_strangers_alone(master: Path, here: Path, name: str, kind: str) -> None:
    path = here / name
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("notes")
    else:
        foreign_hdf5(path)
        if kind == "truncated":
            os.truncate(path, path.stat().st_size // 2)
    refused(master, f"{name}: is no file of a set set that this program made", force=True)


@pytest.mark.parametrize("name", ["set_000002.h5", "set_000009.h5"])
def test_force_by_the_command_leaves_a_stranger_alone(master: Path, here: Path, name: str) -> None:
    reduce(master)
    foreign_hdf5(here / name)
    before = contents(here)
    for words in ([], ["-p", "2", "-t", "2" if name.endswith("2.h5") else "0"]):
        done = bnl("-i", master, "-o", "set", "-d", "4", "--force", *words, ok=False)
        assert done.returncode == 1
        assert f"{name}: is no file of a set" in done.stderr
        assert contents(here) == before


def test_force_over_a_raw_set_of_that_name(here: Path, master: Path) -> None:
    raw = here / "raw"
    shutil.copytree(master.parent, raw)
    refused(master, "is no file of a set", out_file=str(raw / "other_data"), force=True)
    refused(master, "is no file of a set", out_file=str(raw / "other"), force=True)


def test_resume_leaves_a_truncated_stranger_alone(here: Path, master: Path) -> None:
    path = foreign_hdf5(here / "set_000002.h5")
    os.truncate(path, path.stat().st_size // 2)
    assert not is_leftover(str(path))
    before = contents(here)
    done = bnl("-i", master, "-o", "set", "-d", "4", "--resume", ok=False)
    assert "set_000002.h5: is no block of this job" in done.stderr
    assert contents(here) == before


def test_force_over_ones_own(here: Path, master: Path) -> None:
    """Of other options, of more blocks, cut off at any length, or empty."""
    reduce(master, data_block_size=2, codec="hcompress", out_squash="sq")
    whole = (here / "set_000004.h5").stat().st_size
    for share in (0.9, 0.6):
        os.truncate(here / "set_000004.h5", int(whole * share))
        check(master, data_block_size=2, codec="hcompress", out_squash="sq", force=True)
    os.truncate(here / "set_000004.h5", 0)
    (here / "set.nxs").write_bytes(b"")
    reduce(master, codec="hcompress", out_squash="sq", force=True)
    assert sorted(p.name for p in here.iterdir()) == sorted(
        [*(f"{stem}_{k:06d}.h5" for stem in ("set", "sq") for k in (1, 2, 3)), "set_master.h5", "set.nxs"]
    )


def test_another_set_of_ours_is_not_this_one(here: Path, master: Path) -> None:
    reduce(master, out_file="a", codec="hcompress", out_squash="a_sq")
    reduce(master, out_file="b")
    refused(master, "a_master.h5: is no file of a set b", out_file="b", out_master="a_master", force=True)
    refused(master, "a_sq_000001.h5: is no file of a set a_sq", out_file="a_sq", force=True)
    refused(master, "a_000001.h5: is no file", out_file="b", out_squash="a", codec="hcompress", force=True)
    os.rename("a_000001.h5", "b_000002.h5")
    refused(master, "b_000002.h5: is no file", out_file="b", force=True)


# ---- --json and --log_json ------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["json", "log_json"])
@pytest.mark.parametrize(
    "text", ["notes", "[1, 2]", '{"a": 1}', '"time"', "\n", b"\x89HDF\r\n\x1a\n\0\0"], ids=lambda text: repr(text)
)
def test_a_strangers_text_is_left_alone(here: Path, master: Path, option: str, text: Any) -> None:
    (here / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(master, f"--{option} x.json: is there, and was not written by --{option}", **{option: "x.json"})
    (here / "x.json").unlink()
    (here / "x.json").mkdir()
    refused(master, "is a folder", **{option: "x.json"})


def test_ones_own_texts_are_written_again(here: Path, master: Path) -> None:
    (here / "s.json").write_bytes(b"")
    (here / "log").write_bytes(b"")
    words = ["-i", master, "-o", "set", "--json", "s.json", "--log_json", "log"]
    bnl(*words)
    n = len((here / "log").read_text().splitlines())
    bnl(*words, "--force", "-s", "2")
    assert json.loads((here / "s.json").read_text())["images"] == 6
    assert len((here / "log").read_text().splitlines()) > n
    done = bnl(*words[:4], "--force", "--log_json", "s.json", "--json", "other", ok=False)
    assert "s.json: is there, and was not written by --log_json" in done.stderr


# ---- names ----------------------------------------------------------------------------------------------


def test_a_percent_sign_is_refused_before_the_work(here: Path, master: Path) -> None:
    refused(master, "50%_set: HDF5 takes the %", out_file="50%_set")
    refused(master, "50%_sq: HDF5 takes the %", out_squash="50%_sq", codec="hcompress")
    folder = here / "50%"
    folder.mkdir()
    refused(master, "HDF5 takes the %", out_file="50%/set", out_master=str(here / "set_master"))
    reduce(master, out_file="50%/set")
    assert len(list(folder.glob("set_0*.h5"))) == 3


@pytest.mark.parametrize("length", [250, 300, 5000])
@pytest.mark.parametrize("option", ["-o", "-m", "--json", "--log_json", "-q"])
def test_a_name_that_is_too_long_is_one_line(here: Path, master: Path, option: str, length: int) -> None:
    words = ["-H", "16", "-o", "set"] if option != "-o" else []
    done = bnl("-i", master, *words, option, "x" * length, ok=False)
    assert done.returncode == 1
    assert "too long" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 3
    assert not contents(here)


def test_an_input_name_that_is_too_long_is_one_line(here: Path) -> None:
    done = bnl("-i", "x" * 5000, "-o", "set", ok=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_the_longest_name_that_is_possible(here: Path, master: Path) -> None:
    name = "x" * 150
    reduce(master, out_file=name)
    assert (here / f"{name}_master.h5").exists()


def test_the_parent_of_a_link_is_the_parent_of_what_it_leads_to(here: Path, master: Path) -> None:
    (here / "deep" / "in").mkdir(parents=True)
    Path("link").symlink_to("deep/in")
    Path("deep/set_000002.h5").write_bytes(b"somebody's")
    for name, message in (("link/../set", "is there already"), ("link/../../deep/set", "is there already")):
        refused(master, message, out_file=name)
    refused(master, "is not overwritten", out_file="link/../set", force=True)
    Path("deep/set_000002.h5").unlink()
    shutil.copytree(master.parent, "deep/raw")
    options = Options(f"link/../raw/{master.name}", out_file="link/../set")
    bnl_mpi.reduce(options.infile, out_file=options.out_file)
    assert sorted(os.listdir("deep")) == ["in", "raw", "set.nxs", "set_000001.h5", "set_master.h5"]
    assert sorted(os.listdir()) == ["deep", "link"]
    # What leads nowhere else is told as it was given.
    assert Options("deep/../in_master.h5", out_file="../there/set").out_file == "../there/set"


def test_a_folder_of_thousands_of_sets_is_not_listed_for_each_question(
    here: Path, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def listed(real: Any) -> Any:
        def list_it(folder: str = ".") -> Any:
            looked.append(os.path.realpath(folder))
            return real(folder)

        return list_it

    monkeypatch.setattr(os, "listdir", listed(os.listdir))
    monkeypatch.setattr(os, "scandir", listed(os.scandir))
    # For other runs' locks, older blocks, and temporary files.
    reduce(master)
    assert looked.count(str(here)) <= 3
    # For the size of the blocks that are there, and those beyond the job's, too.
    looked.clear()
    reduce(master, resume=True)
    assert looked.count(str(here)) <= 4
