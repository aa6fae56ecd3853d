"""`bnl-mpi expand`: the full set from codestreams is, to the bit, the one that a run from the frames stores."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from codec_sets import CODECS, write_input
from make_inputs import InputSpec, make_input
from running import bnl, needs_mpi, outputs
from small_sets import read_images

from bnl_mpi import expand
from bnl_mpi.codecs import registry
from bnl_mpi.errors import BnlError, UsageError
from bnl_mpi.output import contents, provenance, record
from bnl_mpi.output.record import CONTENT, COUNTS

pytest.importorskip("imagecodecs")

PROCESS = "/entry/process_bnl_mpi"
OWN = tuple(f"{PROCESS}/{name}" for name in ("expanded", "libraries", "date", "content_sha256", "sibling_sha256"))

KEPT = {name: [*words, "-c", "zstd", "-q"] for name, words in CODECS.items()}
KEPT |= {f"{name}, filled": [*words, "--fill_gaps"] for name, words in list(KEPT.items())[:5]}
KEPT["chunks"] = ["-T", "12", "-c", "htj2k"]
KEPT["chunks, rms"] = ["--rms", "2", "-c", "htj2k"]
KEPT["chunks, scaled"] = ["-T", "12", "-c", "htj2k", "--saturation", "scaled", "-S", "0.5"]
KEPT["chunks, lossless"] = ["-c", "htj2k"]
KEPT["chunks, lossless, signed"] = ["-c", "htj2k", "-u", "-2"]
JOB = ["-s", "2", "-b", "2", "-d", "2", "-1", "2"]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("in"))


def direct_words(words: list[str]) -> list[str]:
    """The words that store the full set at once."""
    full = [w for w in words if w not in ("-q", "-c", "zstd", "htj2k")]
    stores_lossy = "htj2k" in words and len(full) > 0 and full[0] in ("-T", "--rms")
    return [*full, "-c", "bslz4", *(["--fill_gaps"] if stores_lossy else [])]


def comparable(trees: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the figures of the making, and the history."""
    kept: dict[str, dict[str, Any]] = {}
    for name, tree in trees.items():
        kept[name] = {k: v for k, v in tree.items() if not k.startswith((*OWN, f"{PROCESS}_1"))}
        record = kept[name].get("/entry/bnl_mpi@")
        if record is not None:
            kept[name]["/entry/bnl_mpi@"] = {k: v for k, v in record.items() if k not in (*COUNTS, CONTENT)}
    return kept


@pytest.mark.parametrize("name", list(KEPT))
def test_the_full_set_is_what_the_frames_make(name: str, frames: Path, tmp_path: Path) -> None:
    """All files of the two sets are equal: pixels, chunks, plan, masters and the NXmx file."""
    small, direct, full = tmp_path / "small", tmp_path / "direct", tmp_path / "full"
    for folder in (small, direct, full):
        folder.mkdir()
    bnl("-i", frames, *JOB, *KEPT[name], "-o", "set", cwd=small)
    if "-q" in KEPT[name]:
        for path in small.glob("set_0*.h5"):
            path.unlink()
    bnl("-i", frames, *JOB, *direct_words(KEPT[name]), "-o", "set", cwd=direct)
    done = bnl("expand", small / "set_master.h5", "-c", "bslz4", "-o", "set", "--json", "s.json", cwd=full)
    assert "warning" not in done.stderr
    assert comparable(outputs(full, "set")) == comparable(outputs(direct, "set"))
    summary = json.loads((full / "s.json").read_text())
    assert (summary["images"], summary["blocks"]) == (5, 3)
    assert summary["invalid_pixels"] > 0


@pytest.fixture(scope="module")
def small(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The master of a set that keeps its codestreams as chunks."""
    folder = tmp_path_factory.mktemp("small")
    bnl("-i", frames, *JOB, "-T", "12", "-c", "htj2k", "-o", "set", cwd=folder)
    return folder / "set_master.h5"


@pytest.fixture(scope="module")
def full(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Its full set, by one process."""
    folder = tmp_path_factory.mktemp("full")
    bnl("expand", small, "-o", "set", cwd=folder)
    return outputs(folder, "set")


@needs_mpi
@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks(ranks: int, small: Path, full: dict[str, Any], tmp_path: Path) -> None:
    bnl("expand", small, "-o", "set", ranks=ranks, cwd=tmp_path)
    assert outputs(tmp_path, "set") == full


@needs_mpi
@pytest.mark.mpi
def test_minus_p_starts_workers(small: Path, full: dict[str, Any], tmp_path: Path) -> None:
    done = bnl("expand", small, "-o", "set", "-p", "2", cwd=tmp_path)
    assert "2 workers" in done.stderr
    assert outputs(tmp_path, "set") == full


def test_shares(small: Path, full: dict[str, Any], tmp_path: Path) -> None:
    for share in (2, 1, 0):
        bnl("expand", small, "-o", "set", "-p", "2", "-t", share, cwd=tmp_path)
    assert outputs(tmp_path, "set") == full


def test_resume_makes_what_is_missing(small: Path, full: dict[str, Any], tmp_path: Path) -> None:
    bnl("expand", small, "-o", "set", cwd=tmp_path)
    (tmp_path / "set_000002.h5").unlink()
    (tmp_path / "set_master.h5").unlink()
    before = (tmp_path / "set_000001.h5").stat().st_mtime_ns
    bnl("expand", small, "-o", "set", "--resume", cwd=tmp_path)
    assert (tmp_path / "set_000001.h5").stat().st_mtime_ns == before
    assert outputs(tmp_path, "set") == full


def test_from_python(small: Path, tmp_path: Path) -> None:
    summary = expand.expand(str(small), out_file=str(tmp_path / "set"), compression="none")
    assert summary is not None
    assert summary.images == len(read_images(tmp_path / "set_master.h5")) == 5
    assert summary.xds_template == str(tmp_path / "set_??????.h5")


def test_a_moved_set_of_nxmx_flavour(tmp_path: Path) -> None:
    """The master's virtual dataset, and its attributes, are those of a direct run."""
    source = make_input(tmp_path, InputSpec(flavour="nxmx", libver="v110", shape=(34, 40))).master
    words = ["-i", source, "-s", "2", "-d", "4"]
    made = {}
    for name, more in {"old": ["-T", "3", "-c", "htj2k"], "direct": ["-T", "3", "--fill_gaps", "-c", "bslz4"]}.items():
        (tmp_path / name).mkdir()
        bnl(*words, *more, "-o", "set", cwd=tmp_path / name)
    (tmp_path / "old").rename(tmp_path / "moved")
    (tmp_path / "full").mkdir()
    bnl("expand", tmp_path / "moved/set_master.h5", "-o", "set", cwd=tmp_path / "full")
    for name in ("direct", "full"):
        made[name] = comparable(outputs(tmp_path / name, "set"))
    assert made["full"] == made["direct"]
    with h5py.File(tmp_path / "full/set_master.h5") as h5:
        assert h5["/entry/data/data"].is_virtual


def test_the_history_tells_both_steps(small: Path, tmp_path: Path) -> None:
    bnl("expand", small, "-c", "bszstd", "-o", "again", cwd=tmp_path)
    with h5py.File(tmp_path / "again_master.h5") as h5, h5py.File(small) as old:
        now, before = h5[PROCESS], h5[f"{PROCESS}_1"]
        assert {k: before[k][()] for k in before} == {k: old[PROCESS][k][()] for k in old[PROCESS]}
        assert json.loads(now["options"][()])["compression"] == "bszstd"
        assert "set_master.h5" in json.loads(now["expanded"][()])["from"]
    done = bnl("replay", "again_master.h5", cwd=tmp_path)
    words = shlex.split(done.stdout)
    assert [words[words.index(flag) + 1] for flag in ("-T", "--compression")] == ["12", "bszstd"]


# What the small set may lack


@pytest.mark.parametrize("flavour", ["filewriter", "nxmx"])
@pytest.mark.parametrize("words", [["-H", "7", "-q"], ["-T", "4", "-c", "htj2k"]], ids=" ".join)
def test_the_master_and_the_codestreams_are_enough(flavour: str, words: list[str], tmp_path: Path) -> None:
    """Without the old .nxs, and the images where codestreams lie apart, the new .nxs is the one of a direct run."""
    made = make_input(tmp_path, InputSpec(flavour=flavour, shape=(40, 52), n_frames=12))
    folders = small, full, direct = [tmp_path / name for name in ("small", "full", "direct")]
    for folder in folders:
        folder.mkdir()
    job = ["-i", made.master, "-s", "2", "-b", "2", "-d", "2", "-1", "2", "--drop_partial", "-o", "set"]
    bnl(*job, *words, cwd=small)
    (small / "set.nxs").unlink()
    if "-q" in words:
        for path in small.glob("set_0*.h5"):
            path.unlink()
    bnl(*job, *direct_words(words), cwd=direct)
    done = bnl("expand", small / "set_master.h5", "-o", "set", cwd=full)
    assert "warning" not in done.stderr
    assert comparable(outputs(full, "set")) == comparable(outputs(direct, "set"))
    assert all(found.ok for found in contents.whole_set(str(full / "set_master.h5")))


def test_what_a_master_lacks_for_nxmx_is_said(tmp_path: Path) -> None:
    made = make_input(tmp_path, InputSpec(wavelength=None, shape=(40, 52)))
    bnl("-i", made.master, "-H", "7", "-q", "-o", "small", cwd=tmp_path)
    done = bnl("expand", "small_master.h5", "-o", "full", cwd=tmp_path)
    assert "warning: full.nxs: not written" in done.stderr
    assert "incident_wavelength" in done.stderr
    assert not (tmp_path / "full.nxs").exists()


# What can be wrong


def refused(*words: object, cwd: Path) -> str:
    done = bnl("expand", *words, cwd=cwd, ok=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not any(w in line for w in ("warning", "->", "s left"))]
    assert len(lines) == 1, done.stderr
    assert not list(cwd.glob("full*_master.h5"))
    return lines[0]


def copy_of(small: Path, folder: Path) -> Path:
    for path in small.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / small.name


def test_a_set_without_codestreams(frames: Path, tmp_path: Path) -> None:
    bnl("-i", frames, *JOB, "-c", "bslz4", "-o", "set", cwd=tmp_path)
    assert "nothing to expand" in refused("set_master.h5", "-o", "full", cwd=tmp_path)


def test_a_set_of_another_program(frames: Path, tmp_path: Path) -> None:
    assert "nothing to expand" in refused(frames, "-o", "full", cwd=tmp_path)


def test_a_set_that_is_cut_short(frames: Path, tmp_path: Path) -> None:
    bnl("-i", frames, *JOB, "-q", "-c", "bslz4", "-H", "16", "-o", "set", cwd=tmp_path)
    squash = tmp_path / "set_squash_000001.h5"
    os.truncate(squash, squash.stat().st_size // 2)
    done = bnl("expand", "set_master.h5", "-o", "full", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "set_squash_000001.h5: damaged or still being written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file(small: Path, tmp_path: Path) -> None:
    master = copy_of(small, tmp_path)
    (tmp_path / "set_000002.h5").unlink()
    message = refused(master, "-o", "full", cwd=tmp_path)
    assert "1 linked data file is missing" in message
    assert "set_000002.h5" in message


def test_a_damaged_codestream_is_named(small: Path, tmp_path: Path) -> None:
    master = copy_of(small, tmp_path)
    with h5py.File(tmp_path / "set_000002.h5", "r+") as h5:
        dataset = h5["/entry/data/data"]
        _, chunk = dataset.id.read_direct_chunk((1, 0, 0))
        middle = len(chunk) // 2
        dataset.id.write_direct_chunk((1, 0, 0), chunk[:middle] + bytes([chunk[middle] ^ 1]) + chunk[middle + 1 :])
    done = bnl("expand", master, "-o", "full", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "set_000002.h5: image 4: the codestream differs from its checksum; restore the file" in done.stderr
    assert sorted(p.name for p in tmp_path.glob("full*")) == ["full_000001.h5"]


def test_a_block_of_another_run(small: Path, frames: Path, tmp_path: Path) -> None:
    master = copy_of(small, tmp_path)
    bnl("-i", frames, *JOB, "-T", "11", "-c", "htj2k", "-o", "other", cwd=tmp_path)
    os.replace(tmp_path / "other_000002.h5", tmp_path / "set_000002.h5")
    assert "set_000002.h5: is of another run than" in refused(master, "-o", "full", cwd=tmp_path)


def test_all_blocks_of_another_ratio(small: Path, frames: Path, tmp_path: Path) -> None:
    """The files agree with one another, but not with the master."""
    master = copy_of(small, tmp_path)
    bnl("-i", frames, *JOB, "-T", "11", "-c", "htj2k", "-o", "set", "--force", "-m", "away_master", cwd=tmp_path)
    assert "is of another run than" in refused(master, "-o", "full", cwd=tmp_path)


@pytest.mark.parametrize("name", ["blank", "invalid_pixels", "invalid_ends"])
def test_the_list_of_invalid_pixels_has_a_checksum(small: Path, tmp_path: Path, name: str) -> None:
    master = copy_of(small, tmp_path)
    with h5py.File(tmp_path / "set_000002.h5", "r+") as h5:
        values = h5["/entry/bnl_mpi"][name][()]
        values.reshape(-1)[0] ^= 1
        h5["/entry/bnl_mpi"][name][...] = values
    assert "set_000002.h5: can't be read: its content differs" in refused(master, "-o", "full", cwd=tmp_path)


def test_a_changed_plan_is_noticed(small: Path, tmp_path: Path) -> None:
    master = copy_of(small, tmp_path)
    with h5py.File(tmp_path / "set_000003.h5", "r+") as h5:
        plan = bytes(h5["/entry/bnl_mpi/plan"][()])
        del h5["/entry/bnl_mpi/plan"]
        h5["/entry/bnl_mpi/plan"] = np.bytes_(plan.replace(b'"limit": ', b'"limit": 1'))
        record.seal(h5)
    assert "plan isn't the plan that its hash is of" in refused(master, "-o", "full", cwd=tmp_path)


def test_blocks_exchanged(small: Path, tmp_path: Path) -> None:
    master = copy_of(small, tmp_path)
    (tmp_path / "set_000002.h5").write_bytes((small.parent / "set_000001.h5").read_bytes())
    assert "set_000002.h5: is block 1 of 2 images, linked as block 2" in refused(master, "-o", "full", cwd=tmp_path)


def test_another_decode_is_said(small: Path, tmp_path: Path) -> None:
    """As where another build of the library rounds otherwise: here the noted checksum is changed."""
    master = copy_of(small, tmp_path)
    with h5py.File(tmp_path / "set_000001.h5", "r+") as h5:
        noted = h5["/entry/bnl_mpi/image_crc32"]
        noted[0] = noted[0] ^ np.uint32(1)
        record.seal(h5)
    with h5py.File(small) as h5:
        libraries = json.loads(h5[f"{PROCESS}/libraries"][()])
    done = bnl("expand", master, "-o", "full", cwd=tmp_path)
    assert "warning: 1 image decoded to other pixels than in the run that coded them" in done.stderr
    build = f"imagecodecs {libraries['imagecodecs']}, {libraries['openjph']}"
    assert build.count("openjph") == 1
    assert f"({build.join(['coded with ', ', decoded with ', ''])})" in done.stderr


def test_builds_of_a_set_by_other_libraries(tmp_path: Path) -> None:
    path = str(tmp_path / "x_master.h5")
    entry = registry.entry_of("j2k")
    here = entry.load().libraries()
    with h5py.File(path, "w") as h5:
        h5[f"{PROCESS}/libraries"] = json.dumps({"glymur": "0.13.0", "openjpeg": "2.5.0", "numpy": "1.0"})
    now = f"decoded with glymur {here['glymur']}, openjpeg {here['openjpeg']}"
    assert provenance.builds(path, entry) == f"coded with glymur 0.13.0, openjpeg 2.5.0, {now}"
    with h5py.File(path, "w") as h5:
        h5.create_group(PROCESS)
    assert provenance.builds(path, entry) == f"coded with glymur unknown, openjpeg unknown, {now}"


def test_the_input_is_not_overwritten(small: Path, tmp_path: Path) -> None:
    master = copy_of(small, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    done = bnl("expand", master, "-o", "set", "--force", cwd=tmp_path, ok=False)
    assert "is a file of the input" in done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_output_that_is_there(small: Path, tmp_path: Path) -> None:
    bnl("expand", small, "-o", "full", cwd=tmp_path)
    done = bnl("expand", small, "-o", "full", cwd=tmp_path, ok=False)
    assert "output of that name is there already" in done.stderr
    bnl("expand", small, "-o", "full", "--force", cwd=tmp_path)


def test_htj2k_is_no_full_set(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a form to expand from"):
        expand.expand(str(small), out_file=str(tmp_path / "x"), compression="htj2k")
    with pytest.raises(BnlError, match="no such file"):
        expand.expand(str(tmp_path / "y_master.h5"), out_file=str(tmp_path / "x"))
