"""A user's mistakes, and a machine's: one clear line, a status, and nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from running import MAIN, PATIENCE, bnl, needs_mpi, outputs
from small_sets import random_frames, random_mask, write_set

SHAPE = (40, 44)


@pytest.fixture
def master(tmp_path: Path) -> Path:
    return write_set(tmp_path, random_frames(12, SHAPE), mask=random_mask(SHAPE), per_file=4)


def refused(*words: object, cwd: Path, message: str, status: int = 1, ranks: int | None = None) -> str:
    """The run fails with one line that holds `message`, and leaves no output."""
    before = {p.name: p.lstat().st_mtime_ns for p in cwd.rglob("*")}
    done = bnl(*words, cwd=cwd, ranks=ranks, ok=False)
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("bnl-mpi:") and "warning" not in line]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "Traceback" not in done.stderr
    assert {p.name: p.lstat().st_mtime_ns for p in cwd.rglob("*")} == before
    return lines[0]


def test_no_such_file(tmp_path: Path, master: Path) -> None:
    line = refused("-i", "nowhere_master.h5", cwd=tmp_path, message="nowhere_master.h5: no such file")
    assert "in_master.h5" in line


def test_a_folder(tmp_path: Path) -> None:
    refused("-i", ".", cwd=tmp_path, message="is a folder")


def test_not_hdf5(tmp_path: Path) -> None:
    (tmp_path / "text_master.h5").write_text("this is no HDF5 file" * 100)
    refused("-i", "text_master.h5", cwd=tmp_path, message="not an HDF5 file")


def test_no_entry_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "empty_master.h5", "w") as h5:
        h5["entry/other"] = 1
    refused("-i", "empty_master.h5", cwd=tmp_path, message="no group /entry/data")


def test_all_missing_data_files_are_named(tmp_path: Path, master: Path) -> None:
    for k in (1, 3):
        (tmp_path / f"in_data_{k:06d}.h5").unlink()
    line = refused("-i", master, cwd=tmp_path, message="2 linked data files are missing")
    assert "in_data_000001.h5" in line
    assert "in_data_000003.h5" in line


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
def test_a_data_file_of_another_shape_or_length(tmp_path: Path, master: Path, ranks: int | None) -> None:
    path = tmp_path / "in_data_000002.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("/entry/data/data", data=np.zeros((4, 40, 45), np.uint16), chunks=(1, 40, 45))
    line = refused("-i", master, cwd=tmp_path, message="frames of 40 x 45 pixels", ranks=ranks)
    assert "in_data_000002.h5" in line
    path.write_text("no longer HDF5" * 50)
    refused("-i", master, cwd=tmp_path, message="in_data_000002.h5: not an HDF5 file", ranks=ranks)
    with h5py.File(path, "w") as h5:
        h5["elsewhere"] = 1
    refused("-i", master, cwd=tmp_path, message="no dataset /entry/data/data", ranks=ranks)


@pytest.mark.mpi
@needs_mpi
def test_files_that_are_not_as_long_as_the_first_suggests(tmp_path: Path) -> None:
    frames = random_frames(12, SHAPE)
    master = write_set(tmp_path, frames, per_file=(4, 5, 3))
    one, three = tmp_path / "one", tmp_path / "three"
    for folder, ranks in ((one, None), (three, 3)):
        folder.mkdir()
        bnl("-i", master, "-s", "3", "-d", "2", "-o", "set", cwd=folder, ranks=ranks)
    assert outputs(one, "set") == outputs(three, "set")
    with h5py.File(one / "set_000002.h5") as h5:
        np.testing.assert_array_equal(h5["/entry/bnl_mpi/frames"], [[7, 9], [10, 12]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-N", "13"], "frames 1 to 12"),
        (["-1", "13"], "frames 1 to 12"),
        (["-b", "41"], "larger than a frame"),
        (["--drop_partial", "-s", "13"], "no whole image"),
    ],
)
def test_ranges_outside_the_data(tmp_path: Path, master: Path, words: list[str], message: str) -> None:
    status = 2 if words[0] in ("-b", "--drop_partial") else 1
    refused("-i", master, *words, cwd=tmp_path, message=message, status=status)


def test_mistakes_in_the_options(tmp_path: Path, master: Path) -> None:
    refused("-i", master, "-s", "0", cwd=tmp_path, message="--sum 0", status=2)
    refused("-i", master, "-H", "16", "-J", "3", cwd=tmp_path, message="exclude each other", status=2)
    refused("-i", master, "-t", "3", "-p", "2", cwd=tmp_path, message="-t 3", status=2)
    refused("-i", master, "-H", "16", "-b", "14", cwd=tmp_path, message="HCompress", status=2)


@pytest.mark.parametrize("option", ["-b", "-s", "-d"])
def test_minus_one_is_no_value_of_a_count(master: Path, tmp_path: Path, option: str) -> None:
    refused("-i", master, option, "-1", cwd=tmp_path, message="must be", status=2)


def test_a_summary_has_somewhere_to_go(master: Path, tmp_path: Path) -> None:
    refused("-i", master, "--json", "nowhere/x.json", cwd=tmp_path, message="nowhere: no such folder")


@pytest.mark.mpi
@needs_mpi
def test_several_ranks_tell_of_a_wrong_option_once(master: Path, tmp_path: Path) -> None:
    done = bnl("-i", master, "-b", "0", cwd=tmp_path, ranks=3, ok=False)
    assert done.returncode == 2
    assert done.stderr.count("--bin 0") == 1


def test_output_equal_to_input(tmp_path: Path, master: Path) -> None:
    refused("-i", master, "-o", "in_data", cwd=tmp_path, message="is a file of the input")
    refused("-i", master, "-o", "x", "-m", "in_master", "--force", cwd=tmp_path, message="is a file of the input")


def test_output_folder(tmp_path: Path, master: Path) -> None:
    refused("-i", master, "-o", "absent/too/set", cwd=tmp_path, message="no such folder")
    done = bnl("-i", master, "-o", "absent/set", cwd=tmp_path)
    assert done.stderr.splitlines()[0] == f"bnl-mpi: {tmp_path / 'absent'}: made for the output"
    assert (tmp_path / "absent" / "set_master.h5").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_without_permission(tmp_path: Path, master: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused("-i", master, "-o", "locked/set", cwd=tmp_path, message="not writable")


def test_existing_output_and_force(tmp_path: Path, master: Path) -> None:
    bnl("-i", master, "-o", "set", "-d", "3", cwd=tmp_path)
    refused("-i", master, "-o", "set", "-s", "2", cwd=tmp_path, message="--force")
    bnl("-i", master, "-o", "set", "-s", "2", "-d", "3", "--force", cwd=tmp_path)
    names = {p.name for p in tmp_path.iterdir() if p.name.startswith("set")}
    assert names == {"set_master.h5", "set.nxs", "set_000001.h5", "set_000002.h5"}
    # Another stem that starts alike is nobody's business.
    (tmp_path / "set_more_000001.h5").write_bytes(b"x")
    bnl("-i", master, "-o", "set", "-s", "3", "--force", cwd=tmp_path)
    assert (tmp_path / "set_more_000001.h5").exists()


def test_a_share_refuses_blocks_of_another_plan(tmp_path: Path, master: Path) -> None:
    bnl("-i", master, "-o", "set", "-d", "3", "-b", "2", "-p", "2", "-t", "1", cwd=tmp_path)
    refused(
        "-i",
        master,
        "-o",
        "set",
        "-d",
        "3",
        "-b",
        "3",
        "-p",
        "2",
        "-t",
        "2",
        cwd=tmp_path,
        message="another run",
    )
    bnl("-i", master, "-o", "set", "-d", "3", "-b", "2", "-p", "2", "-t", "2", cwd=tmp_path)
    refused("-i", master, "-o", "set", "-d", "3", "-b", "2", "-p", "2", "-t", "1", cwd=tmp_path, message="--force")


def corrupt(path: Path, frame: int) -> None:
    """Overwrite the middle of the chunk of `frame`, counted from 0 in the file."""
    with h5py.File(path, "r") as h5:
        info = h5["/entry/data/data"].id.get_chunk_info_by_coord((frame, 0, 0))
    with open(path, "rb+") as file:
        file.seek(info.byte_offset + 12)
        file.write(b"\xff" * (info.size - 12))


@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
def test_a_corrupt_frame(tmp_path: Path, master: Path, ranks: int | None) -> None:
    corrupt(tmp_path / "in_data_000003.h5", 1)
    done = bnl("-i", master, "-d", "4", "-o", "set", cwd=tmp_path, ranks=ranks, ok=False)
    assert done.returncode != 0
    line = next(line for line in done.stderr.splitlines() if "frame 10" in line)
    assert "in_data_000003.h5" in line
    assert "block 3" in line
    if ranks:
        assert "rank 1 on " in line
    assert "Traceback" not in done.stderr
    names = {p.name for p in tmp_path.iterdir() if p.name.startswith("set")}
    # Blocks that were complete may stay; half a block, or a master, may not.
    assert names <= {"set_000001.h5", "set_000002.h5"}


def test_a_truncated_file(tmp_path: Path, master: Path) -> None:
    path = tmp_path / "in_data_000003.h5"
    os.truncate(path, path.stat().st_size // 2)
    done = bnl("-i", master, "-d", "4", "-o", "set", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "in_data_000003.h5" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("set*"))


def test_a_frame_that_was_never_written(tmp_path: Path, master: Path) -> None:
    with h5py.File(tmp_path / "in_data_000002.h5", "w") as h5:
        d = h5.create_dataset("/entry/data/data", shape=(4, *SHAPE), dtype="u2", chunks=(1, *SHAPE))
        d[:2] = 1
    done = bnl("-i", master, "-o", "set", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert "frame 7" in done.stderr
    assert "never written" in done.stderr


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of so many KiB, mounted below the folder."""
    full = folder / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield full
    finally:
        # Of a rank that was killed something may be left for a moment.
        subprocess.run(["umount", "--lazy", str(full)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root to mount")
@pytest.mark.parametrize("ranks", [None, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
@pytest.mark.parametrize("kib", [16, 48, 60, 80])
def test_a_full_disk(tmp_path: Path, master: Path, ranks: int | None, kib: int) -> None:
    with small_disk(tmp_path, kib) as full:
        done = bnl("-i", master, "-d", "2", "-c", "none", "-o", full / "set", cwd=tmp_path, ranks=ranks, ok=False)
        left = [p.name for p in full.iterdir()]
    assert done.returncode != 0
    assert "can't be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [n for n in left if n.endswith((".partial", "_master.h5", ".nxs"))]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root to mount")
@pytest.mark.parametrize("kib", [64, 300])
def test_a_simulation_on_a_full_disk(tmp_path: Path, kib: int) -> None:
    """It fails of the truth, then of a data file, which HDF5 alone would die of."""
    with small_disk(tmp_path, kib) as full:
        done = bnl("simulate", full / "lyso", "--frames", "4", "--detector", "500k", cwd=tmp_path, ok=False)
        left = [p.name for p in full.iterdir()]
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"bnl-mpi: {full}/lyso_{'truth' if kib < 100 else 'data_000001'}.h5: can't be written"
    )
    assert done.stderr.endswith("No space left on device; make room and start again\n")
    assert left == ([] if kib < 100 else ["lyso_truth.h5"])


def test_a_link_to_itself(tmp_path: Path, master: Path) -> None:
    link = tmp_path / "loop_master.h5"
    link.symlink_to("loop_master.h5")
    refused("-i", "loop_master.h5", cwd=tmp_path, message="loop_master.h5")


def test_symlinks_spaces_unicode_and_read_only_folders(tmp_path: Path, master: Path) -> None:
    there, here = tmp_path / "räw dåta", tmp_path / "häre"
    there.mkdir()
    here.mkdir()
    for path in [master, *tmp_path.glob("in_data_*.h5")]:
        shutil.move(path, there / path.name)
    there.chmod(0o500)
    (here / "link_master.h5").symlink_to(there / master.name)
    try:
        bnl("-i", here / "link_master.h5", "-o", "my set", cwd=here)
        bnl("-i", f"../{there.name}/in_master.h5", "-o", "other", cwd=here)
    finally:
        there.chmod(0o700)
    first, second = outputs(here, "my set"), outputs(here, "other")
    assert [first[f"my set_{k:06d}.h5"]["/entry/data/data"] for k in (1,)] == [
        second["other_000001.h5"]["/entry/data/data"]
    ]


def test_jumps_and_stills(tmp_path: Path) -> None:
    frames = random_frames(12, SHAPE)
    omega = np.arange(12) * 0.1
    omega[5:] += 3
    jumping = write_set(tmp_path, frames, omega=omega, name="jump")
    refused("-i", jumping, "-s", "2", cwd=tmp_path, message="--allow_jumps")
    bnl("-i", jumping, "-s", "2", "--allow_jumps", "-o", "a", cwd=tmp_path)
    bnl("-i", jumping, "-s", "5", "-N", "5", "-o", "b", cwd=tmp_path)
    triggers = write_set(tmp_path, frames, ntrigger=3, name="trig")
    refused("-i", triggers, "-s", "3", cwd=tmp_path, message="trigger")
    bnl("-i", triggers, "-s", "4", "-o", "c", cwd=tmp_path)
    stills = write_set(tmp_path, frames, omega=np.zeros(12), osc=0.0, name="still")
    done = bnl("-i", stills, "-s", "2", "-o", "d", cwd=tmp_path)
    assert "without rotation" in done.stderr


def test_warnings(tmp_path: Path) -> None:
    frames = random_frames(5, SHAPE)
    master = write_set(tmp_path, frames, cutoff=70000)
    done = bnl("-i", master, "-s", "2", "-m", "odd", "-o", "set", cwd=tmp_path)
    for text in (
        "no pixel_mask",
        "doesn't end in _master",
        "sum of 1 frames only",
        "-u 4",
    ):
        assert text in done.stderr, text
    # Here --drop_partial would leave out all.
    few = bnl("-i", master, "-s", "9", "-o", "few", cwd=tmp_path).stderr
    assert "the only image is the sum of 5 frames, not of 9: there are no more" in few
    assert "--drop_partial" not in few
    assert "NAME_TEMPLATE_OF_DATA_FRAMES=" not in done.stdout
    assert "XDS's usual plugin reads no zstd: give -c bslz4; and no master but NAME_master.h5" in done.stdout


# ---- what would be silent nonsense ----------------------------------------------------------------------


def test_a_data_file_is_no_master(tmp_path: Path, master: Path) -> None:
    message = f"in_data_000002.h5: this is a data file, its master is {tmp_path / 'in_master.h5'}"
    refused("-i", tmp_path / "in_data_000002.h5", cwd=tmp_path, message=message)
    bnl("-i", master, "-o", "set", cwd=tmp_path)
    refused("-i", "set_000001.h5", "-o", "x", cwd=tmp_path, message="this is a data file, its master is set_master.h5")
    refused("check", "set_000001.h5", cwd=tmp_path, message="this is a data file, its master is set_master.h5")
    master.unlink()
    refused("-i", "in_data_000001.h5", cwd=tmp_path, message="give the master file that links it")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-C", "44,50"], "pattern '44,50' lies beyond the image of 44 x 40 pixels"),
        (["-C", "0,44"], "lies beyond"),
        (["-R", "40:50"], "lies beyond"),
        (["-R", "rows_50::2"], "lies beyond"),
        (["-C", "0,3,0,40"], "lies beyond"),
        (["-b", "2", "-C", "22,22"], "lies beyond the image of 22 x 20 pixels"),
        (["-C", "0,3", "-0", "5,13-14"], "--omit 13-14 is outside the data, which has frames 1 to 12"),
        (["--channel", "2"], "--channel 2, but frames have one channel"),
        (["--channel", "1"], "--channel 1, but frames have one channel"),
    ],
)
def test_what_lies_outside_is_refused(tmp_path: Path, master: Path, words: list[str], message: str) -> None:
    refused("-i", master, *words, cwd=tmp_path, message=message, status=1 if words[0] == "--channel" else 2)


def test_what_lies_inside_is_taken(tmp_path: Path, master: Path) -> None:
    bnl("-i", master, "-C", "0,43,0,39", "-R", "39:", "-R", "zero_2_of_3_rows", "-0", "12", "-o", "set", cwd=tmp_path)


def test_a_scale_of_nothing_is_told(tmp_path: Path, master: Path) -> None:
    done = bnl("-i", master, "-S", "0", "-o", "set", cwd=tmp_path)
    assert "--scale 0 makes every count 0" in done.stderr


# ---- names, words and streams as people and shells give them ----------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in_master.h5"], "in_master.h5: give the input with -i: bnl-mpi -i in_master.h5 ..."),
        (["elsewhere/my set_master.h5", "-b", "2"], "give the input with -i: bnl-mpi -i 'elsewhere/my set_master.h5'"),
        (["reduce", "-b", "2"], "reduce: no such command; give one of simulate, "),
        (["-i", "in_master.h5", "-o", "-"], "--out_file '-': needs a name, not a folder or a stream"),
        (["-i", "in_master.h5", "-m", "out/"], "--out_master 'out/': needs a name"),
        (["-i", "in_master.h5", "-R", "rows_1::2", "-0", "500"], "--omit 500 is outside the data"),
        (["estimate", "in_master.h5", "--spots", "nope.refl"], "--spots nope.refl: can't be opened: No such file"),
        (["quality", "in_master.h5", "--page", "nope/page.md"], "--page nope/page.md: no such folder; make it first"),
        (
            ["verify", "--deletable", "in_master.h5"],
            "in_master.h5: is no certificate of bnl-mpi, nor text at all; give",
        ),
    ],
)
def test_words_that_go_wrong_say_what_to_give(tmp_path: Path, master: Path, words: list[str], message: str) -> None:
    status = 1 if words[0] in ("verify", "estimate", "quality") else 2
    refused(*words, cwd=tmp_path, message=message, status=status)


def test_commands_look_at_names_before_the_work(tmp_path: Path, master: Path) -> None:
    bnl("-i", master, "-o", "out", cwd=tmp_path)
    words = ("report", "out_master.h5", "--against", "./out_master.h5", "-o", "r.html")
    refused(*words, cwd=tmp_path, message="is the set itself; give the raw data's master", status=2)
    refused(
        "verify", "out_master.h5", "--json", "nope/x.json", cwd=tmp_path, message="nope: no such folder for the output"
    )


def test_a_folder_says_which_master_is_in_it(tmp_path: Path, master: Path) -> None:
    (tmp_path / "raw").mkdir()
    refused("-i", "raw", cwd=tmp_path, message="raw: is a folder; give the master file, NAME_master.h5")
    refused("-i", tmp_path, cwd=tmp_path, message=f"give the master file, {tmp_path}/in_master.h5")
    refused("-i", "", cwd=tmp_path, message="--infile '': no such file; there is in_master.h5")


def test_rows_of_reflections_with_more_and_fewer_numbers(tmp_path: Path, master: Path) -> None:
    (tmp_path / "spots.txt").write_text("1 2 3 4\n5 6 7\n")
    line = refused(
        "-i", master, "--keep", "spots.txt", cwd=tmp_path, message="(the number of columns changed from 4 to 3"
    )
    assert "usecols" not in line


def test_a_place_that_refuses_files_is_no_full_one(tmp_path: Path, master: Path) -> None:
    # Root may write to any folder that takes files at all; this one takes none.
    line = refused("-i", master, "-o", "/proc/bnl_mpi_test", cwd=tmp_path, message="/proc/bnl_mpi_test.lock: can't be")
    assert line.endswith("give a place that you may write to and start again")


def by_shell(redirections: str, *words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, MAIN, *map(str, words)]
    return subprocess.run(command, capture_output=True, cwd=cwd, timeout=PATIENCE, env={**os.environ, **env})


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_take_nothing_and_do_no_harm(tmp_path: Path, master: Path, closed: str) -> None:
    done = by_shell(closed, "-i", master, "-s", "3", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    # Nothing that was printed went into a file.
    bnl("verify", "out_master.h5", cwd=tmp_path)


def test_names_that_the_terminal_has_no_letters_for(tmp_path: Path, master: Path) -> None:
    done = by_shell("", "-i", master, "-o", "Größe", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"Gr\\xf6\\xdfe_master.h5" in done.stdout


def test_names_that_are_no_text_are_told_byte_for_byte(tmp_path: Path, master: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    done = by_shell("", "-i", master, "-o", f"{folder}/out", cwd=tmp_path, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert b"/caf\xe9/out_master.h5" in done.stdout
