"""The digest of a file's content: the same for every layout of it, another for every change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_inputs import InputSpec, make_input

from bnl_mpi.hdf5 import digest
from bnl_mpi.hdf5.digest import content_sha256

LINES = h5py.string_dtype()
PAIR = np.dtype([("x", "<i2"), ("label", LINES)])


def make(path: Path, *, backwards: bool = False, libver: str = "earliest", **storage: Any) -> h5py.File:
    """A file with an item of every kind, its names made in order or backwards; `storage` is of the big one."""
    file = h5py.File(path, "w", libver=libver)

    def big() -> None:
        file.create_dataset("big", data=np.arange(600.0).reshape(20, 30), **storage)

    def words() -> None:
        file.create_dataset("words", data=["one", "twö"], dtype=LINES)

    def pairs() -> None:
        file["pairs"] = np.array([(1, "a"), (2, "b")], PAIR)

    def group() -> None:
        for name in sorted(("k", "a", "z"), reverse=backwards):
            file.require_group("group").attrs[name] = np.float32(2.5)
        file["group/empty"] = h5py.Empty("f4")

    def links() -> None:
        file["soft"] = h5py.SoftLink("/group/empty")
        file["out"] = h5py.ExternalLink("other.h5", "/x")

    def virtual() -> None:
        layout = h5py.VirtualLayout((4, 3), dtype="u2")
        for k in range(2):
            layout[2 * k : 2 * k + 2] = h5py.VirtualSource(f"file_{k}.h5", "/d", shape=(2, 3))
        file.create_virtual_dataset("virtual", layout, fillvalue=9)

    def flag() -> None:
        file.create_dataset("flag", data=1, dtype=h5py.enum_dtype({"off": 0, "on": 1}))

    def kind() -> None:
        file["kind"] = np.dtype("S5")

    makers: list[Callable[[], None]] = [big, words, pairs, group, links, virtual, flag, kind]
    for one in reversed(makers) if backwards else makers:
        one()
    file["again"] = file["big"]
    file["group/up"] = file["/"]
    file["reference"] = file["words"].ref
    return file


@pytest.mark.parametrize(
    "how",
    [
        {"chunks": (7, 9)},
        {"chunks": (20, 30), "compression": "gzip", "shuffle": True},
        {"maxshape": (None, None), "fletcher32": True},
        {"backwards": True},
        {"libver": "latest"},
    ],
    ids=str,
)
def test_the_layout_does_not_count(tmp_path: Path, how: dict[str, Any]) -> None:
    with make(tmp_path / "a.h5") as plain, make(tmp_path / "b.h5", **how) as other:
        assert content_sha256(plain) == content_sha256(other)


def test_it_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make(tmp_path / "a.h5") as file:
        whole = content_sha256(file)
        monkeypatch.setattr("bnl_mpi.hdf5.digest.AT_ONCE", 500)
        assert content_sha256(file) == whole


def replace(path: str, value: Any, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[path]
        if options:
            file.create_dataset(path, data=value, **options)
        else:
            file[path] = value

    return change


def flip(path: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[path][()]
        values.reshape(-1).view(np.uint8)[-1] ^= 1
        file[path][...] = values

    return change


CHANGES: dict[str, Callable[[h5py.File], None]] = {
    "one bit": flip("big"),
    "shape": replace("big", np.arange(600.0).reshape(30, 20)),
    "type": replace("big", np.arange(600, dtype="f4").reshape(20, 30)),
    "byte order": replace("big", np.arange(600, dtype=">f8").reshape(20, 30)),
    "a word": replace("words", ["one", "two"], dtype=LINES),
    "where words end": replace("words", ["onet", "wö"], dtype=LINES),
    "character set": replace("words", ["one", "two"], dtype=h5py.string_dtype("ascii")),
    "a compound's number": replace("pairs", np.array([(1, "a"), (3, "b")], PAIR)),
    "a compound's word": replace("pairs", np.array([(1, "a"), (2, "c")], PAIR)),
    "an attribute": lambda file: file["group"].attrs.modify("k", np.float32(2.25)),
    "an attribute's type": lambda file: file["group"].attrs.create("k", np.float64(2.5)),
    "an attribute more": lambda file: file["group"].attrs.create("m", 1),
    "an attribute less": lambda file: file["group"].attrs.__delitem__("k"),
    "an attribute of the root": lambda file: file.attrs.create("m", 1),
    "a soft link": replace("soft", h5py.SoftLink("/group")),
    "a link's file": replace("out", h5py.ExternalLink("others.h5", "/x")),
    "a link's object": replace("out", h5py.ExternalLink("other.h5", "/y")),
    "an enumeration": replace("flag", 0, dtype=h5py.enum_dtype({"off": 0, "on": 1})),
    "an enumeration's names": replace("flag", 1, dtype=h5py.enum_dtype({"of": 0, "on": 1})),
    "a named type": replace("kind", np.dtype("S6")),
    "a group less": lambda file: file.__delitem__("group"),
    "a name more": lambda file: file.__setitem__("big2", file["big"]),
    "a name": lambda file: file.move("big", "bigger"),
    "a reference": replace("reference", 0),
    "an empty one's type": replace("group/empty", h5py.Empty("f8")),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_every_change_counts(tmp_path: Path, name: str) -> None:
    with make(tmp_path / "a.h5") as file:
        before = content_sha256(file)
        assert content_sha256(file) == before
        CHANGES[name](file)
        assert content_sha256(file) != before


@pytest.mark.parametrize(("first", "second", "fill"), [("file_1.h5", "file_0.h5", 9), ("file_0.h5", "file_1.h5", 8)])
def test_a_virtual_datasets_sources_count(tmp_path: Path, first: str, second: str, fill: int) -> None:
    with make(tmp_path / "a.h5") as file:
        before = content_sha256(file)
        del file["virtual"]
        layout = h5py.VirtualLayout((4, 3), dtype="u2")
        layout[:2] = h5py.VirtualSource(first, "/d", shape=(2, 3))
        layout[2:] = h5py.VirtualSource(second, "/d", shape=(2, 3))
        file.create_virtual_dataset("virtual", layout, fillvalue=fill)
        assert content_sha256(file) != before


def test_what_is_left_out(tmp_path: Path) -> None:
    with make(tmp_path / "a.h5") as file:
        before = content_sha256(file, leave_out={"/words", "/group@k"})
        file["words"][...] = ["x", "y"]
        file["group"].attrs.modify("k", np.float32(7))
        assert content_sha256(file, leave_out={"/words", "/group@k"}) == before
        replace("words", ["x", "y", "z"])(file)
        assert content_sha256(file, leave_out={"/words", "/group@k"}) != before


def test_of_what_is_checked_elsewhere_the_filters_count(tmp_path: Path) -> None:
    def digest(file: h5py.File) -> str:
        return content_sha256(file, checked_elsewhere=lambda path: path in ("/again", "/big"))

    with make(tmp_path / "a.h5", chunks=(20, 30), compression="gzip", compression_opts=4) as file:
        before = digest(file)
        flip("big")(file)
        assert digest(file) == before
        values = file["big"][()]
        replace("big", values, chunks=(20, 30), compression="gzip", compression_opts=5)(file)
        assert digest(file) != before


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
@pytest.mark.parametrize("strings", ["fixed", "vlen"])
def test_masters(tmp_path: Path, flavour: str, strings: str) -> None:
    """Two masters of the same experiment, with and without a compressed mask, have one digest."""
    digests = set()
    for filtered in (False, True):
        spec = InputSpec(flavour=flavour, string_kind=strings, filtered_mask=filtered)
        made = make_input(tmp_path, spec)
        with h5py.File(made.master) as file:
            digests.add(content_sha256(file))
    assert len(digests) == 1


def test_whole_chunks_and_a_few_rows_make_one_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).integers(0, 9, (50, 40), "u4")
    found = set()
    for k, chunks in enumerate((None, (50, 40), (7, 40), (1, 10))):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file.create_dataset("values", data=values, chunks=chunks)
            for at_once, whole in ((1 << 20, 1 << 26), (300, 1 << 26), (300, 100)):
                monkeypatch.setattr(digest, "AT_ONCE", at_once)
                monkeypatch.setattr(digest, "WHOLE_CHUNK", whole)
                found.add(digest.content_sha256(file))
    assert len(found) == 1


def test_values_at_hand_are_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with make(path, chunks=(7, 9)) as file:
        whole, address = content_sha256(file), h5py.h5o.get_info(file["big"].id).addr
        values = file["big"][()]
        assert content_sha256(file, at_hand={address: values}) == whole
        assert content_sha256(file, at_hand={address: values + 1}) != whole
