"""Sets made to do harm to who verifies them: one line or findings, soon, and never the word that all is well."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
import h5py
import numpy as np
import pytest
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.cli import main
from bnl_mpi.errors import BnlError
from bnl_mpi.verify import certified

SHAPE = (40, 44)
PROCESS = "/entry/process_bnl_mpi"
Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw data and a set of them, certified."""
    folder = tmp_path_factory.mktemp("sound")
    children.warm_up()
    raw = write_set(folder, random_frames(6, SHAPE), mask=random_mask(SHAPE), per_file=3, name="raw")
    assert main(["-i", str(raw), "-s", "2", "-d", "2", "-c", "bslz4", "-o", str(folder / "set")]) == 0
    assert main(["verify", str(folder / "set_master.h5"), "--against", str(raw), "--certify"]) == 0
    return folder


def in_file(name: str, change: Callable[[h5py.File], Any]) -> Harm:
    def harm(folder: Path) -> None:
        with h5py.File(folder / name, "r+") as h5:
            change(h5)

    return harm


def replaced(path: str, **how: Any) -> Callable[[h5py.File], Any]:
    def change(h5: h5py.File) -> None:
        del h5[path]
        h5.create_dataset(path, **how)

    return change


def pipe_behind_a_pipe_of_links(folder: Path) -> None:
    """The master's link leads to a regular file, and there another to a pipe."""
    os.mkfifo(folder / "pipe")
    with h5py.File(folder / "set_000001.h5", "r+") as h5:
        del h5["/entry/data/data"]
        h5["/entry/data/data"] = h5py.ExternalLink("pipe", "/x")


def diamonds(h5: h5py.File) -> None:
    """2 ^ 40 ways to one group."""
    group = h5["/entry"].create_group("diamonds")
    for _ in range(40):
        below = group.create_group("left")
        group["right"] = below
        group = below


def circle(h5: h5py.File) -> None:
    h5["/entry/sample/again"] = h5["/entry"]


def virtual_of_itself(path: str) -> Callable[[h5py.File], Any]:
    def change(h5: h5py.File) -> None:
        shape, dtype = h5[path].shape, h5[path].dtype
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(".", path, shape)
        del h5[path]
        h5.create_virtual_dataset(path, layout)

    return change


LIE = {"shape": (10**6, 10**5, 10**5), "dtype": "u4", "chunks": (1, 64, 64)}
HARMS: dict[str, Harm] = {
    "a pipe at the end of two links": pipe_behind_a_pipe_of_links,
    "a master of diamonds": in_file("set_master.h5", diamonds),
    "a .nxs in a circle": in_file("set.nxs", circle),
    "a master whose digest lies about its size": in_file("set_master.h5", replaced(f"{PROCESS}/sibling_sha256", **LIE)),
    "a .nxs whose digest lies about its size": in_file("set.nxs", replaced(f"{PROCESS}/sibling_sha256", **LIE)),
    "a plan that lies about its size": in_file("set_000001.h5", replaced("/entry/bnl_mpi/plan", **LIE)),
    "images of themselves": in_file("set_000002.h5", virtual_of_itself("/entry/data/data")),
    "a mask of itself": in_file(
        "set_master.h5", virtual_of_itself("/entry/instrument/detector/detectorSpecific/pixel_mask")
    ),
    "images that lie about their size": in_file("set_000001.h5", replaced("/entry/data/data", **LIE)),
    "checksums that lie about their size": in_file("set_000001.h5", replaced("/entry/bnl_mpi/chunk_crc32", **LIE)),
    "checksums in a device": in_file(
        "set_000001.h5",
        replaced("/entry/bnl_mpi/image_crc32", shape=(2,), dtype="u4", external=[("/dev/zero", 0, 8)]),
    ),
    "options that are a number": in_file("set_master.h5", replaced(f"{PROCESS}/options", data=np.bytes_(b"3"))),
    "a plan that is a list": in_file("set_000001.h5", replaced("/entry/bnl_mpi/plan", data=np.bytes_(b"[1, 2]"))),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("against", [False, True])
def test_harm_is_told_of(sound: Path, tmp_path: Path, harm: str, against: bool) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    HARMS[harm](tmp_path)
    words = ["verify", "set_master.h5", *(["--against", "raw_master.h5", "--certify"] if against else [])]
    before = (tmp_path / "set.crate.json").read_bytes()
    done = children.run(children.command(words), tmp_path, address_space=3 << 29)
    assert done.complaint is None, done
    assert done.status == 1, done
    assert (tmp_path / "set.crate.json").read_bytes() == before


def test_check_does_not_wait_for_a_pipe_at_the_end_of_two_links(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    pipe_behind_a_pipe_of_links(tmp_path)
    for words in (["check", "set_master.h5", "--data"], ["check", "set_master.h5"], ["-i", "set_master.h5", "-o", "x"]):
        done = children.run(children.command(words), tmp_path)
        assert done.complaint is None, done
        assert done.status == 1, done


def test_check_does_not_wait_for_a_pipe_behind_a_record(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "set_000001.h5", "r+") as h5:
        layout = h5py.VirtualLayout(h5["/entry/bnl_mpi/frames"].shape, "u4")
        layout[...] = h5py.VirtualSource("pipe", "/x", layout.shape)
        del h5["/entry/bnl_mpi/frames"]
        h5.create_virtual_dataset("/entry/bnl_mpi/frames", layout)
    for words in (["check", "set_master.h5", "--data"], ["check", "set_master.h5"], ["verify", "set_master.h5"]):
        done = children.run(children.command(words), tmp_path)
        assert done.complaint is None, done
        assert done.status == 1, done


def test_a_link_to_a_squash_file_is_gone(tmp_path: Path) -> None:
    raw = write_set(tmp_path, random_frames(6, SHAPE), mask=random_mask(SHAPE), per_file=3, name="raw")
    assert main(["-i", str(raw), "-d", "3", "-H", "8", "-q", "-o", str(tmp_path / "set")]) == 0
    in_file("set_master.h5", lambda h5: h5["/entry/squash"].pop("squash_000002"))(tmp_path)
    done = children.run(children.command(["verify", "set_master.h5"]), tmp_path)
    assert (done.complaint, done.status) == (None, 1)
    assert "links 1 squash files, its plan has 2 blocks" in done.err


# ---- certificates ---------------------------------------------------------------------------------------


def spoilt(rng: np.random.Generator, value: Any) -> Any:
    """JSON with something in it gone, or of another kind."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        kinds: tuple[Any, ...] = (
            None,
            3,
            -1.5,
            "",
            "x/../y",
            "file:///etc/passwd",
            [],
            {},
            [[]],
            {"@id": "./"},
            "9" * 400,
            True,
        )
        return kinds[int(rng.integers(len(kinds)))]
    keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[int(rng.integers(len(keys)))]
    made = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.2:
        del made[key]
    elif key == "value" and isinstance(value[key], str) and value[key].startswith("{"):
        made[key] = json.dumps(spoilt(rng, json.loads(value[key])))
    else:
        made[key] = spoilt(rng, value[key])
    return made


def test_a_spoilt_certificate_lets_nothing_be_deleted_that_it_should_not(sound: Path, tmp_path: Path) -> None:
    """Whatever is in the file: an error in one line, a reason, or raw files that hold as the certificate says."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "set.crate.json"
    whole = json.loads(path.read_text())
    raw = {str(p) for p in sound.glob("raw_*.h5")}
    n_refused = 0
    for seed in range(300):
        path.write_text(json.dumps(spoilt(np.random.default_rng(seed), whole)))
        try:
            told = certified.read(str(path))
            certified.check(told)
            paths, why_not = certified.deletable(told)
        except BnlError:
            n_refused += 1
            continue
        assert bool(paths) != bool(why_not)
        assert set(paths) <= raw
    assert n_refused
