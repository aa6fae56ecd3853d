"""Sets one after the other in one process: whatever came before, each is what a single run makes of it."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from make_inputs import InputSpec, make_input
from small_sets import FILTERS, random_frames, random_mask, shared_data, write_set

from bnl_mpi.arguments import options_from
from bnl_mpi.errors import BnlError
from bnl_mpi.hdf5 import access, alike, digest, form
from bnl_mpi.hdf5.image import checksum
from bnl_mpi.hdf5.known import Known
from bnl_mpi.hdf5.memory import LARGE, Memory
from bnl_mpi.output import master, provenance
from bnl_mpi.run import driver
from bnl_mpi.run.signals import StopRequest
from bnl_mpi.run.world import World
from bnl_mpi.tasks import masters
from bnl_mpi.tasks.reduction import ReductionTask

Change = Callable[[h5py.File], None]


@pytest.fixture(autouse=True)
def _at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates would differ."""
    told = provenance.describe
    monkeypatch.setattr(provenance, "describe", lambda job: told(job) | {"date": "2020-01-01T00:00:00+00:00"})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Masters that HDF5 has written."""
    found: list[str] = []

    def write_master(path: str, *arguments: Any, **options: Any) -> list[str]:
        found.append(path)
        return write(path, *arguments, **options)

    write = master.write_master
    monkeypatch.setattr(master, "write_master", write_master)
    return found


def reduce(task: ReductionTask, infile: Path, to: Path, words: str) -> str | None:
    """Reduce a set to `to`/NAME...; the error's line where it fails."""
    to.mkdir(parents=True, exist_ok=True)
    stem = infile.name.removesuffix(".h5").removesuffix("_master")
    options = options_from(["-i", str(infile), "-o", str(to / stem), *words.split()])
    try:
        driver.perform(task, options, World(None), StopRequest(), quiet=True)
    except BnlError as error:
        return str(error)
    except Exception as error:
        # driver's `Told`, which carries it.
        return str(getattr(error, "error", error))
    return None


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder, without the times at which objects in them were made."""
    return {path.name: timeless(path) for path in sorted(folder.iterdir())}


def timeless(path: Path) -> bytes:
    image = bytearray(path.read_bytes())
    recorder = form.Recorder()
    with access.open_read(path) as file:
        digest.walk(file, recorder, checked_elsewhere=lambda path: path.startswith("/entry/data/"))
    told = alike.form_of(recorder, bytes(image))
    assert told is not None, path
    for at in told.times:
        image[at : at + 4] = bytes(4)
    return bytes(image)


@dataclass(frozen=True)
class Wanted:
    """A set as a test wants it."""

    maker: str
    name: str
    change: str
    words: str


class Bench:
    """Sets, each made once, and what single runs make of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, str, str], Path] = {}
        self._alone: dict[Wanted, tuple[str | None, dict[str, bytes]]] = {}

    def made(self, one: Wanted) -> Path:
        key = one.maker, one.name, one.change
        if key not in self._made:
            self._made[key] = make(self._folder / f"in{len(self._made)}", *key)
        return self._made[key]

    def alone(self, one: Wanted) -> tuple[str | None, dict[str, bytes]]:
        if one not in self._alone:
            self._alone[one] = self.run(ReductionTask(), one)
        return self._alone[one]

    def run(self, task: ReductionTask, one: Wanted) -> tuple[str | None, dict[str, bytes]]:
        to, infile = self._folder / "to", self.made(one)
        error = reduce(task, infile, to, one.words)
        found = None if error is None else error.replace(str(infile.parent), "").replace(str(to), "")
        told = content(to)
        shutil.rmtree(to)
        return found, told

    def compare(self, sets: Iterable[Wanted], memory: Memory | None = None) -> None:
        """Reduce sets one after the other in one process; of each all must be as a single run makes it."""
        task = ReductionTask(memory or Memory())
        for one in sets:
            wanted, found = self.alone(one), self.run(task, one)
            assert found[0] == wanted[0], one
            assert found[1].keys() == wanted[1].keys(), one
            for name in found[1]:
                assert found[1][name] == wanted[1][name], (one, name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# ---- what differs from set to set --------------------------------------------------------------------------

DETECTOR = "/entry/instrument/detector"
TEXT = "2020-01-02T03:04:05"


def put(path: str, value: Any) -> Change:
    """Other values, in place."""

    def change(h5: h5py.File) -> None:
        if path in h5:
            h5[path][...] = value

    return change


def exchange(path: str, value: Any) -> Change:
    """Another dataset."""

    def change(h5: h5py.File) -> None:
        if path in h5:
            del h5[path]
        h5[path] = value

    return change


def attribute(path: str, name: str, value: Any) -> Change:
    def change(h5: h5py.File) -> None:
        if path in h5:
            h5[path].attrs[name] = value

    return change


def add_to(path: str, value: float) -> Change:
    def change(h5: h5py.File) -> None:
        if path in h5:
            h5[path][...] = h5[path][...] + value

    return change


def flip_a_pixel(h5: h5py.File) -> None:
    for path in (f"{DETECTOR}/detectorSpecific/pixel_mask", f"{DETECTOR}/pixel_mask"):
        if path in h5:
            values = h5[path][...]
            values[3, 4] ^= 1
            h5[path][...] = values


def remove(path: str) -> Change:
    def change(h5: h5py.File) -> None:
        if path in h5:
            del h5[path]

    return change


CHANGES: dict[str, Change] = {
    "nothing": lambda h5: None,
    "another date": put(f"{DETECTOR}/detectorSpecific/data_collection_date", np.bytes_("2021-11-12T13:14:15")),
    "a shorter date": put(f"{DETECTOR}/detectorSpecific/data_collection_date", np.bytes_("2021-11-12")),
    "no date": put(f"{DETECTOR}/detectorSpecific/data_collection_date", np.bytes_("")),
    "a date with a space": put(f"{DETECTOR}/detectorSpecific/data_collection_date", np.bytes_("2021-11-12 13:14:1 ")),
    "another temperature": put("/entry/sample/temperature", 99.5),
    "a longer name": exchange("/entry/sample/name", np.bytes_("lysozyme")),
    "a name of another length": exchange("/entry/sample/name", np.bytes_("lyso")),
    "a name of any length": exchange("/entry/sample/name", "thaumatin"),
    "omega": add_to("/entry/sample/goniometer/omega", 30.0),
    "omega of NXmx": add_to("/entry/sample/transformations/omega", 30.0),
    "one angle alone": put("/entry/sample/goniometer/phi", 17.0),
    "the beam": put(f"{DETECTOR}/beam_center_x", 3.5),
    "the exposure": put(f"{DETECTOR}/count_time", 0.25),
    "the saturation": put(f"{DETECTOR}/detectorSpecific/countrate_correction_count_cutoff", 1000),
    "a pixel of the mask": flip_a_pixel,
    "no mask": remove(f"{DETECTOR}/detectorSpecific/pixel_mask"),
    "an attribute": attribute(f"{DETECTOR}/count_time", "units", np.bytes_("ms")),
    "another type": exchange("/entry/sample/temperature", np.float64(99.5)),
    "another shape": exchange("/entry/sample/temperature", np.array([99.5], np.float32)),
    "underload": exchange(f"{DETECTOR}/underload_value", np.int32(-1)),
    "underload above": exchange(f"{DETECTOR}/underload_value", np.int32(3)),
    "too few angles": exchange("/entry/sample/goniometer/omega", np.zeros(2, np.float32)),
    "not a number": put(f"{DETECTOR}/beam_center_x", np.nan),
}


def changed(made: Path, name: str) -> Path:
    """A set's master with a change."""
    with h5py.File(made, "r+", locking=False) as h5:
        CHANGES[name](h5)
    return made


EXTRA = {
    f"{DETECTOR}/detectorSpecific/data_collection_date": np.bytes_(TEXT),
    "/entry/sample/temperature": np.float32(100.0),
    "/entry/sample/name": np.bytes_("insulin"),
    "/entry/sample/goniometer/phi": np.float32(0.0),
}
"""Items as masters have them, of which nothing is made."""

Maker = Callable[[Path, str], Path]


def older(folder: Path, name: str) -> Path:
    frames = random_frames(6, (24, 30))
    return write_set(folder, frames, mask=random_mask((24, 30)), name=name, per_file=6)


def of_two_files(folder: Path, name: str) -> Path:
    frames = random_frames(6, (24, 30))
    return write_set(folder, frames, mask=random_mask((24, 30)), name=name, per_file=3)


def stills(folder: Path, name: str) -> Path:
    frames = random_frames(3, (24, 30), "uint32")
    return write_set(folder, frames, mask=random_mask((24, 30)), name=name, osc=0.0, ntrigger=3)


def nxmx(folder: Path, name: str) -> Path:
    spec = InputSpec(flavour="nxmx", n_frames=6, frames_per_file=6, virtual=False)
    return make_input(folder, spec, name).master


def nxmx_virtual(folder: Path, name: str) -> Path:
    """What can't be remembered."""
    spec = InputSpec(flavour="nxmx", libver="v110", n_frames=6, frames_per_file=6, string_kind="vlen")
    return make_input(folder, spec, name).master


def backwards(folder: Path, name: str) -> Path:
    spec = InputSpec(flavour="nxmx", n_frames=6, frames_per_file=6, virtual=False, omega_step=-0.5, string_kind="vlen")
    return make_input(folder, replace(spec, axis_dtype="f4"), name).master


MAKERS: dict[str, Maker] = {one.__name__: one for one in (older, of_two_files, stills, nxmx, nxmx_virtual, backwards)}


def make(folder: Path, maker: str, name: str, change: str = "nothing") -> Path:
    folder.mkdir()
    made = MAKERS[maker](folder, name)
    with h5py.File(made, "r+", locking=False) as h5:
        for path, value in EXTRA.items():
            if path not in h5 and h5.get(posixpath.dirname(path)) is not None:
                h5[path] = value
    return changed(made, change)


WORDS = ("-c bslz4 -b 2 -s 2", "-c bslz4", "-c zstd -b 2 -s 3 -u 4", "-c bslz4 -b 2 -s 2 -q -H 4")


@pytest.mark.parametrize("maker", list(MAKERS))
def test_every_change_is_noticed(bench: Bench, maker: str, written: list[str]) -> None:
    """Each change between two sets without one, and twice."""
    changes = CHANGES if maker in ("older", "nxmx") else list(CHANGES)[1::4]
    order = [name for change in changes for name in ("nothing", change, change)]
    sets = [Wanted(maker, "abc", change, WORDS[0]) for change in order]
    for one in sets:
        bench.alone(one)
    written.clear()
    bench.compare(sets)
    if maker != "nxmx_virtual":
        assert len(written) < 0.6 * len(sets)


@pytest.mark.parametrize("seed", range(3))
def test_sets_in_any_order(bench: Bench, seed: int) -> None:
    """Detectors, names, options and changes mixed; with little memory too."""
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(25):
        maker, change, words = (str(rng.choice(list(one))) for one in (MAKERS, CHANGES, WORDS))
        if rng.random() < 0.6:
            maker, change = "older", str(rng.choice(["nothing", "another date", "another temperature", "omega"]))
        sets.append(Wanted(maker, str(rng.choice(["abc", "xyz", "longer_name"])), change, words))
    bench.compare(sets, Memory(int(rng.choice([1 << 27, 200_000]))))


def test_neighbours_are_written_without_hdf5(bench: Bench, tmp_path: Path, written: list[str]) -> None:
    """Dates, temperatures and names of one length differ: nothing that rules look at."""
    changes = ["nothing", "another date", "another temperature", "nothing"]
    sets = [Wanted("older", f"set{k}", change, WORDS[0]) for k, change in enumerate(changes)]
    task = ReductionTask(Memory())
    for k, one in enumerate(sets):
        assert reduce(task, bench.made(one), tmp_path / f"out{k}", one.words) is None
    assert len(written) == 1
    bench.compare(sets)
    told = []
    for k in range(len(sets)):
        with h5py.File(tmp_path / f"out{k}" / f"set{k}.nxs") as h5:
            told.append((bytes(h5["/entry/start_time"][()]), float(h5["/entry/sample/temperature"][()])))
            assert h5["/entry/data/images"].shape == (3, 12, 15)
            assert h5["/entry/data/images"][...].max() > 0
    assert told == [
        (TEXT.encode(), 100.0),
        (b"2021-11-12T13:14:15", 100.0),
        (TEXT.encode(), 99.5),
        (TEXT.encode(), 100.0),
    ]


def test_a_master_that_is_what_another_was(tmp_path: Path) -> None:
    """The same path, another content; then the same content in a file that HDF5 has laid out otherwise."""
    made = make(tmp_path / "in", "older", "abc", "nothing")
    first = made.read_bytes()
    task = ReductionTask(Memory())
    assert reduce(task, made, tmp_path / "a", WORDS[0]) is None
    changed(made, "omega")
    assert reduce(task, made, tmp_path / "b", WORDS[0]) is None
    with h5py.File(tmp_path / "a" / "abc_master.h5") as a, h5py.File(tmp_path / "b" / "abc_master.h5") as b:
        assert b["/entry/sample/goniometer/omega"][0] == a["/entry/sample/goniometer/omega"][0] + 30
    made.write_bytes(first)
    with h5py.File(tmp_path / "new.h5", "w") as new, h5py.File(made) as old:
        for name in old:
            old.copy(name, new)
    shutil.copy(tmp_path / "new.h5", made)
    assert made.read_bytes() != first
    folders = []
    for k, one in enumerate((task, task, ReductionTask())):
        assert reduce(one, made, tmp_path / f"c{k}", WORDS[0]) is None
        folders.append(content(tmp_path / f"c{k}"))
    assert folders[0] == folders[1] == folders[2]


def test_what_takes_the_place_of_a_copy(bench: Bench, written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied, taken out again and written anew may lie in the same place, and be the same by chance."""
    path = f"{DETECTOR}/depends_on"
    told = b"/entry/instrument/detector/transformations/det_z"
    for text in (told, told[:-1] + b"q"):
        monkeypatch.setitem(CHANGES, text.decode(), exchange(path, np.bytes_(text)))
    sets = [Wanted("older", "abc", text, WORDS[0]) for text in list(CHANGES)[-2:]]
    bench.compare(sets)
    written.clear()
    bench.compare(sets[:1] * 3)
    assert len(written) == 1


@pytest.mark.parametrize("when", ["planning", "masters"])
def test_a_master_that_changes_under_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The run is refused, and nothing that it found is taken for what the first content tells."""
    made = make(tmp_path / "in", "older", "abc")
    first = made.read_bytes()
    other = changed(made, "the beam").read_bytes()

    def write(content: bytes, second: int) -> None:
        made.write_bytes(content)
        # File systems tell times in steps, which a run may be shorter than.
        os.utime(made, (second, second))

    write(first, 1)
    room, name = (Known, "once") if when == "planning" else (masters, "make_masters")
    asked = getattr(room, name)

    def rewrite(*arguments: Any, **options: Any) -> Any:
        write(other, 2)
        return asked(*arguments, **options)

    task = ReductionTask(Memory())
    with monkeypatch.context() as patch:
        patch.setattr(room, name, rewrite)
        assert "was changed or replaced" in (reduce(task, made, tmp_path / "a", WORDS[0]) or "")
    write(first, 3)
    for one, to in ((task, "b"), (ReductionTask(), "c")):
        assert reduce(one, made, tmp_path / to, WORDS[0]) is None
    assert content(tmp_path / "b") == content(tmp_path / "c")


@pytest.mark.skipif(shared_data() is None, reason="no folder shared/data with real masters")
def test_a_real_master(tmp_path: Path, written: list[str]) -> None:
    folder = shared_data()
    assert folder is not None
    shape, sets = (3262, 3108), []
    for k, date in enumerate(["2024-09-11 03:33:13.", "2024-09-11 03:34:14.", "2024-09-12 03:33:14."]):
        there = tmp_path / f"in{k}"
        there.mkdir()
        shutil.copy(folder / "eiger2_nxmx_mx3_master.h5", there)
        with h5py.File(there / "eiger2_nxmx_mx3_master.h5", "r+", locking=False) as h5:
            h5["/entry/start_time"][...] = np.bytes_(date)
        with h5py.File(there / "example_1_data_000001.h5", "w") as h5:
            made = h5.create_dataset("entry/data/data", (1, *shape), "u4", chunks=(1, *shape), **FILTERS["bslz4"])
            made[0] = k
        sets.append((there / "eiger2_nxmx_mx3_master.h5", "-b 4 -c bslz4"))
    task = ReductionTask(Memory())
    for k, (infile, words) in enumerate(sets):
        assert reduce(task, infile, tmp_path / f"a{k}", words) is None
    assert len(written) == 1
    for k, (infile, words) in enumerate(sets):
        assert reduce(ReductionTask(), infile, tmp_path / f"b{k}", words) is None
        assert content(tmp_path / f"a{k}") == content(tmp_path / f"b{k}")


# ---- the parts ---------------------------------------------------------------------------------------------


def test_the_checksum_is_lookup3() -> None:
    """By its author's own example, and by what HDF5 writes after a superblock of version 2 at every length."""
    assert checksum(b"Four score and seven years ago") == (0x17770551).to_bytes(4, "little")
    assert checksum(b"") == (0xDEADBEEF).to_bytes(4, "little")


def test_the_checksum_is_that_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver="latest"):
        pass
    raw = (tmp_path / "a.h5").read_bytes()
    assert checksum(raw[:44]) == raw[44:48]


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w", libver="earliest") as h5:
        h5["a"] = np.arange(5)
        h5["b"] = np.float32(3)
        h5["text"] = np.bytes_("abc")
        h5["any"] = "any length"
        h5["data_000001"] = h5py.ExternalLink("there.h5", "/x")
    return tmp_path / "a.h5"


def test_a_form_digests_as_the_walk_does(a_file: Path) -> None:
    recorder = form.Recorder()
    with access.open_read(a_file) as h5:
        digest.walk(h5, recorder)
        told = digest.content_sha256(h5)
    made = alike.form_of(recorder, a_file.read_bytes())
    assert made is not None
    assert made.sha256 == told == made.digest_of(a_file.read_bytes())
    with h5py.File(a_file, "r+", locking=False) as h5:
        h5["a"][2] = 17
        h5["text"][...] = np.bytes_("xyz")
    with access.open_read(a_file) as h5:
        other = digest.content_sha256(h5)
    assert other != told
    assert made.digest_of(a_file.read_bytes()) == other
    image = a_file.read_bytes()
    assert image.count(b"there.h5") == 1
    a_file.write_bytes(image.replace(b"there.h5", b"where.h5"))
    with access.open_read(a_file) as h5:
        assert digest.content_sha256(h5) == made.digest_of(a_file.read_bytes()) != other


def test_what_was_looked_at_counts(a_file: Path, tmp_path: Path) -> None:
    """An answer holds as long as nothing differs that it was made of; then another is found, and kept too."""
    memory, asked = Memory(), []

    def ask(value: int, other: int) -> float:
        path = tmp_path / f"b{value}_{other}.h5"
        shutil.copy(a_file, path)
        with h5py.File(path, "r+", locking=False) as h5:
            h5["a"][0], h5["b"][...] = value, other
        with access.open_read(path) as h5:
            known = memory.know(h5)

            def look() -> float:
                asked.append(value)
                return float(h5["a"][0])

            return known.once("a", h5, look)

    assert [ask(0, 1), ask(0, 2), ask(0, 3)] == [0, 0, 0]
    assert len(asked) == 1
    assert [ask(5, 1), ask(5, 2), ask(0, 4), ask(5, 4)] == [5, 5, 0, 5]
    assert len(asked) == 2


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_read_does_not_count(a_file: Path, tmp_path: Path, seed: int) -> None:
    """Large values needn't be read to answer what they are no part of, and answers of them aren't found then."""
    with h5py.File(a_file, "r+", locking=False) as h5:
        h5["large"] = np.zeros(LARGE, "u1")
        h5["last"] = np.int64(0)
    memory, rng, asked = Memory(), np.random.default_rng(seed), []
    for k in range(60):
        path = tmp_path / f"d{k}.h5"
        shutil.copy(a_file, path)
        with h5py.File(path, "r+", locking=False) as h5:
            h5["a"][0], h5["large"][LARGE // 2], h5["last"][...] = values = rng.integers(3, size=3).tolist()
        wanted = {"a": values[0], "large": values[1], "last": values[2], "all": sum(values)}
        with access.open_read(path) as h5:
            known = memory.know(h5, large=bool(rng.random() < 0.3))
            for key in rng.permutation(list(wanted)).tolist():

                def look(key: str = key, h5: h5py.File = h5) -> int:
                    asked.append(key)
                    found = {"a": (h5["a"], 0), "large": (h5["large"], LARGE // 2), "last": (h5["last"], ())}
                    return sum(int(one[at]) for name, (one, at) in found.items() if key in (name, "all"))

                assert known.once(key, h5, look) == wanted[key]
    assert asked.count("a") == asked.count("last") == 3


def test_a_file_that_changed_since_is_not_remembered(a_file: Path, tmp_path: Path) -> None:
    with h5py.File(a_file, "r+", locking=False) as h5:
        h5["large"] = np.zeros(LARGE, "u1")
    memory = Memory()
    with access.open_read(a_file) as h5:
        memory.know(h5)
    path = tmp_path / "e.h5"
    shutil.copy(a_file, path)
    with access.open_read(path) as h5:
        known = memory.know(h5, large=False)
        path.write_bytes(path.read_bytes().replace(np.arange(5).tobytes(), np.arange(5, 10).tobytes()))
        known.once("a", h5, lambda: int(h5["a"][0]))
    with access.open_read(a_file) as h5:
        assert memory.know(h5, large=False).once("a", h5, lambda: -1) == -1


@pytest.mark.parametrize("outside", [True, False])
def test_what_lies_in_other_files_is_asked_anew(a_file: Path, tmp_path: Path, outside: bool) -> None:
    with h5py.File(a_file, "r+", locking=False) as h5:
        if outside:
            h5["far"] = h5py.ExternalLink("far.h5", "/value")
        else:
            layout = h5py.VirtualLayout((2,), "i8")
            layout[0:1] = h5py.VirtualSource("far.h5", "value", (2,))[0:1]
            h5.create_virtual_dataset("far", layout)
    memory, found = Memory(), []
    for value in (1, 2):
        with h5py.File(tmp_path / "far.h5", "w") as h5:
            h5["value"] = np.array([value, value])
        with access.open_read(a_file) as h5:
            found.append(memory.know(h5).once("far", h5, lambda h5=h5: int(h5["far"][0])))  # type: ignore[misc]
    assert found == [1, 2]


def test_where_a_link_leads_is_asked_anew(a_file: Path, tmp_path: Path) -> None:
    """Even where nothing can be opened there."""
    memory, found = Memory(), []
    os.mkfifo(tmp_path / "there.h5")
    for _ in range(2):
        with access.open_read(a_file) as h5:
            there = memory.know(h5).once("there", h5, lambda h5=h5: access.get_dataset(h5, "data_000001") is not None)  # type: ignore[misc]
            found.append(there)
        (tmp_path / "there.h5").unlink(missing_ok=True)
        with h5py.File(tmp_path / "there.h5", "w") as h5:
            h5["x"] = 1
    assert found == [False, True]


def test_memory_has_an_end(a_file: Path, tmp_path: Path) -> None:
    memory = Memory(most_bytes=6 * a_file.stat().st_size)
    for k in range(10):
        path = tmp_path / f"c{k}.h5"
        shutil.copy(a_file, path)
        with h5py.File(path, "r+", locking=False) as h5:
            h5.attrs["k"] = np.bytes_("x" * (k + 1))
        with access.open_read(path) as h5:
            memory.know(h5)
    assert 1 <= len(memory._kept) <= 3
