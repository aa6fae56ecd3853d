"""Files asked once answer as h5py's own do, whatever is asked, and in whatever order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bnl_mpi.errors import InputError
from bnl_mpi.hdf5 import access, steady


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with items and links of every kind."""
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["inner/far"] = np.arange(3)
    made = tmp_path / "a.h5"
    values = {"text": "t", "many": np.arange(4), "fixed": np.bytes_("f"), "none": h5py.Empty("i2")}
    with h5py.File(made, "w", track_order=True) as file:
        file["z/number"] = np.float32(2.5)
        file["z/one"] = np.array([7], "<i8")
        file["a/words"] = np.array(["one", "twö"], h5py.string_dtype())
        file["a/fixed"] = np.bytes_("fixed")
        file["a/empty"] = h5py.Empty("f4")
        file["a/none"] = np.zeros((0, 3))
        file.create_dataset("a/big", data=np.arange(40000.0).reshape(200, 200), chunks=(10, 200), compression="gzip")
        file["a/ümlaut"] = 1
        file["kind"] = np.dtype("S5")
        file["again"] = file["z/number"]
        file["z/up"] = file["a"]
        file["soft"] = h5py.SoftLink("/z/up/words")
        file["z/beside"] = h5py.SoftLink("one")
        file["chain"] = h5py.SoftLink("soft")
        file["circle"] = h5py.SoftLink("circle")
        file["dangling"] = h5py.SoftLink("/nowhere/at/all")
        file["out"] = h5py.ExternalLink("other.h5", "/inner")
        file["gone"] = h5py.ExternalLink("absent.h5", "/x")
        for name, value in values.items():
            file["z/number"].attrs[name] = value
            file.attrs[name] = value
    return made


@pytest.fixture
def both(path: Path) -> Iterator[tuple[h5py.File, h5py.File]]:
    with h5py.File(path, "r", locking=False) as plain, access.open_read(path) as file:
        assert isinstance(file, steady.File)
        yield plain, file


PATHS = (
    "/", "z", "/z/", "z/number", "z//number", "z/up/words", "a/words", "a/fixed", "a/empty", "a/none",
    "a/big", "a/ümlaut", "kind", "again", "soft", "z/beside", "chain", "circle", "dangling", "out", "out/far",
    "gone", "gone/x", "nothing", "z/nothing", "nothing/z", "z/number/x", "..", "soft/x",
)  # fmt: skip


def told(ask: Callable[[], Any]) -> Any:
    """What comes of a question: an error's kind, or the thing in words that can be compared."""
    try:
        found = ask()
    except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        return type(error)
    if isinstance(found, h5py.Dataset):
        facts = found.shape, found.size, found.ndim, found.dtype, found.chunks
        return "dataset", str(found.name), facts, attributes(found)
    if isinstance(found, h5py.Group):
        return "group", str(found.name), list(found), len(found), attributes(found)
    if isinstance(found, (h5py.SoftLink, h5py.ExternalLink)):
        return type(found), found.path, getattr(found, "filename", None)
    return found if isinstance(found, (bool, type(None))) else type(found)


def attributes(item: Any) -> list[Any]:
    return [(name, repr(item.attrs[name]), name in item.attrs) for name in item.attrs] + [len(item.attrs)]


@pytest.mark.parametrize("where", PATHS)
def test_every_question_has_the_same_answer(path: Path, where: str) -> None:
    """Whichever is asked first."""
    asks: list[Callable[[Any], Any]] = [
        lambda one: one[where],
        lambda one: one.get(where),
        lambda one: one.get(where, getlink=True),
        lambda one: where in one,
        lambda one: one["z"].get(f"/{where}"),
        lambda one: one["z"].get(f"/{where}", getlink=True),
        lambda one: f"/{where}" in one["z"],
        lambda one: where == "/" or access.resolve(one, where),
        lambda one: access.link(one, where),
    ]
    for first in range(len(asks)):
        with h5py.File(path, "r", locking=False) as plain, access.open_read(path) as file:
            for ask in 2 * (asks[first:] + asks[:first]):
                assert told(lambda ask=ask: ask(file)) == told(lambda ask=ask: ask(plain))  # type: ignore[misc]


def test_values_are_the_askers_own(both: tuple[h5py.File, h5py.File]) -> None:
    plain, file = both
    for where in ("z/number", "z/one", "a/words", "a/fixed", "a/none", "a/big", "a/ümlaut"):
        first = file[where][()]
        np.testing.assert_array_equal(first, plain[where][()])
        assert type(first) is type(plain[where][()])
        if isinstance(first, np.ndarray) and first.size:
            first[...] = first.reshape(-1)[-1]
        np.testing.assert_array_equal(file[where][()], plain[where][()])
    assert isinstance(file["a/empty"][()], h5py.Empty)
    np.testing.assert_array_equal(file["a/big"][3:5, ::2], plain["a/big"][3:5, ::2])
    file.attrs["many"][0] = 9
    assert file.attrs["many"][0] == 0
    with pytest.raises(KeyError, match="can't locate attribute"):
        file.attrs["nothing"]
    assert file.attrs.get("nothing") is None


def test_an_item_is_opened_once_and_knows_its_file(both: tuple[h5py.File, h5py.File]) -> None:
    _, file = both
    assert file["z/number"] is file["/z"]["number"]
    assert file["z/number"].file is file
    assert file["z/number"].parent is file["z"]
    assert file["soft"].file is file
    assert file["out/far"].file.filename != file.filename


def test_a_closed_file_lets_go_of_everything(path: Path) -> None:
    file = access.open_read(path)
    number = file["z/number"]
    file.close()
    assert not file
    assert not number
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        access.open_read(path)


def test_threads_may_ask_at_once(path: Path) -> None:
    for _ in range(20):
        with access.open_read(path) as file, ThreadPoolExecutor(4) as threads:
            big = file["a/big"]
            rows = list(threads.map(lambda k, big=big: big[k].sum(), range(16)))
            assert rows == [float(np.arange(200 * k, 200 * (k + 1)).sum()) for k in range(16)]
        with pytest.raises(AttributeError, match="no attribute 'shapes'"):
            _ = big.shapes


HOLDING = """
import sys, threading, time
from h5py._objects import phil
from bnl_mpi.hdf5 import access
file = access.open_read(sys.argv[1])
one, other = file["z/number"], file["z/one"]
with phil:
    waiting = threading.Thread(target=lambda: one.shape)
    waiting.start()
    time.sleep(0.3)
    print(other.shape)
waiting.join()
print(one.shape)
"""


def test_whoever_holds_the_librarys_lock_waits_for_no_thread(path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", HOLDING, str(path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert run.stdout.split("\n") == ["(1,)", "()", ""]
