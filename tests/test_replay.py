"""`bnl-mpi replay`: the printed command has the identity of the options that made the set."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_inputs import make_input

from bnl_mpi.arguments import options_from
from bnl_mpi.cli import main
from bnl_mpi.errors import InputError, UsageError
from bnl_mpi.options import NOT_IN_IDENTITY, Options
from bnl_mpi.run import driver
from bnl_mpi.tasks.reduction import REDUCTION
from bnl_mpi.verify.replaying import NAMES, Record, checked_words, make_words


def record_of(options: Options) -> Record:
    """What the program writes into /entry/process_bnl_mpi/options, for output beside the input."""
    names = {name: getattr(options, name) for name in NAMES}
    record: Record = json.loads(json.dumps({**options.identity(), **names}))
    return record


def round_trip(text: str) -> Options:
    made = options_from(["-i", "in_master.h5", *shlex.split(text)])
    words = shlex.split(shlex.join(checked_words(record_of(made), "x_master.h5")))
    again = options_from(words)
    assert again.identity() == made.identity()
    assert json.dumps(again.identity()) == json.dumps(made.identity())
    for name in NAMES:
        assert getattr(again, name) == getattr(made, name)
    return again


SETS = [
    "",
    "-1 5 -N 60",
    "-1 5",
    "-s 10 -b 2",
    "-S 0.125",
    "-S 1e-3",
    "-S 0",
    "-u",
    "-u 2",
    "-u 4",
    "-u -2",
    "-u -4",
    "-f",
    "-f 2",
    "-f -2",
    "-f -4",
    "-f 4",
    "-L",
    "-L e",
    "-L 10",
    "-X 2.5",
    "-X",
    "-u 4 -L 2",
    "-H",
    "-H 12",
    "-J 500",
    "-K 7.5",
    "-J",
    "-H 16 -q",
    "-J 125 -q sq",
    "-H -q out_file -o o",
    "-H -q out_data_squash.h5",
    "-R rows_1::2",
    "-C columns_::2",
    "-R columns_::2 -C rows_::3",
    "-R 0,5 -C 0,5 -C 1,2,3,4",
    "-R zero_2_of_3_columns -R ::2 -C rows_::2 -C 1::4 -C zero_1_of_2",
    "--RO=-3::",
    "--CO=-2:-1",
    "-R rows_1::2 -0 1,5,10-20",
    "-C ::2 --omit 3-3",
    "-R 3,4 -R columns_::2 -C 3,4",
    "--saturation scaled",
    "--saturation clip",
    "--drop_partial",
    "--allow_jumps",
    "--skip_bad_frames",
    "--keep a.refl --keep b.HKL --keep_radius 5 --keep_frames 1 --keep_also 1,2,3,4 --keep_exact",
    "--salvage",
    "--ignore_frame_numbers",
    "-H --fill_gaps",
    "-J 60 --fill_gaps --drop_partial",
    "-c bslz4",
    "-c none",
    "-c bshuf",
    "-c zstd -l 0",
    "-c zstd -l 9",
    "-c bszstd",
    "-c bszstd -l 22",
    "-d 7",
    "--channel 2",
    "-T 60",
    "-T",
    "-T 7.5 -c htj2k",
    "-c htj2k",
    "-T --rms 2",
    "--rms 0.5 -c htj2k",
    "--max_error 4 -q",
    "--psnr 81",
    "-d auto",
    "-d",
    "-o a -m b",
    "-o a -m a_master",
    "-o 'a b' -m 'c d_master'",
    "-o a.h5 -m b_master.h5",
    "-T 20 --guard 0.3",
    "-H --guard 1 --on_guard warn",
    "-p 3",
    "-p 2 -t 1 -c bslz4",
    "--force -v --json x.json",
    "-N 10 -s 2 -S 2 -u -2 -R 0,1 -o=-x",
]


@pytest.mark.parametrize("text", SETS)
def test_identity_survives(text: str) -> None:
    round_trip(text)


PATTERN = st.sampled_from(
    ["rows_1::2", "columns_::3", "::2", "-4:", "zero_1_of_2", "zero_2_of_3_rows", "zero_1_of_3_columns", "0,4"]
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "-1": st.integers(1, 9),
            "-N": st.integers(10, 99),
            "-s": st.integers(1, 30),
            "-b": st.integers(1, 64),
            "-d": st.integers(1, 2000) | st.just("auto"),
            "-H": st.integers(0, 400),
            "-J": st.floats(1, 1e6),
            "-L": st.floats(2, 1e9) | st.just("e"),
            "-S": st.floats(0, 1e9),
            "-u": st.sampled_from([2, 4, -2, -4]),
        },
    ),
    flags=st.sets(st.sampled_from(["--drop_partial", "--allow_jumps", "--fill_gaps", "-q"])),
    rows=st.lists(PATTERN, max_size=4),
    columns=st.lists(PATTERN, max_size=4),
)
def test_identity_survives_any_options(
    values: dict[str, int | float | str], flags: set[str], rows: list[str], columns: list[str]
) -> None:
    words = [word for name, value in values.items() for word in (name, str(value))]
    words += [*sorted(flags), *(f"--RO={p}" for p in rows), *(f"--CO={p}" for p in columns)]
    try:
        options_from(["-i", "in_master.h5", *words])
    except UsageError:
        return
    round_trip(shlex.join(words))


def test_every_option_of_the_identity_is_told() -> None:
    """An option that is added must come back from its record; these sets change each that there is."""
    plain = options_from(["-i", "in_master.h5"]).identity()
    changed: set[str] = set()
    for text in SETS:
        identity = round_trip(text).identity()
        changed |= {key for key in plain if identity[key] != plain[key]}
    assert changed == set(plain)
    assert not changed & NOT_IN_IDENTITY


def test_words_are_short_where_nothing_was_asked_for() -> None:
    words = make_words(record_of(options_from(["-i", "in_master.h5"])))
    assert words == shlex.split("--infile in_master.h5 --compression_level 3 --compression zstd --out_file out_data")


def test_base_e_is_printed_as_such() -> None:
    record = record_of(options_from(["-i", "in_master.h5", "-L"]))
    assert record["logarithm"] == math.e
    words = make_words(record)
    assert words[words.index("--logarithm") + 1] == "e"


def test_a_record_of_other_options_is_refused() -> None:
    record = record_of(options_from(["-i", "in_master.h5"]))
    with pytest.raises(InputError, match=r"x_master\.h5: .*this version can't repeat whirl$"):
        checked_words({**record, "whirl": 3}, "x_master.h5")
    with pytest.raises(InputError, match=r"is not understood .*--bin 0: must be 1 or more"):
        checked_words({**record, "bin": 0}, "x_master.h5")
    with pytest.raises(InputError, match="is not understood"):
        checked_words({**record, "codec": "wavelet"}, "x_master.h5")


# The command, on a set


@pytest.fixture
def made(tmp_path: Path) -> Path:
    source = make_input(tmp_path).master
    words = f"-i {source} -s 2 -b 2 -u -4 -c bslz4 -d 2 -R rows_1::4 -o {tmp_path / 'my out'}".split(" -o ")
    driver.call(REDUCTION, options_from([*words[0].split(), "-o", words[1]]))
    return tmp_path / "my out_master.h5"


def test_the_printed_command_makes_the_set_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.with_name("in_master.h5")
    assert main(["replay", str(made), "--infile", str(source)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    program, *words = shlex.split(line)
    assert program == "bnl-mpi"
    words[words.index("--out_file") + 1] = str(made.with_name("again"))
    assert main(words) == 0
    for name in ("_000001.h5", "_000003.h5"):
        with h5py.File(made.with_name(f"my out{name}")) as one, h5py.File(made.with_name(f"again{name}")) as two:
            assert one["/entry/bnl_mpi"].attrs["plan_sha256"] == two["/entry/bnl_mpi"].attrs["plan_sha256"]
            assert (one["/entry/bnl_mpi/chunk_crc32"][()] == two["/entry/bnl_mpi/chunk_crc32"][()]).all()


def test_names_are_as_they_were_but_for_the_input_s_folder(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (made, made.with_name("my out.nxs")):
        assert main(["replay", str(path)]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        assert told.out == (
            f"bnl-mpi --infile {made.with_name('in_master.h5')} --sum 2 --bin 2 --data_block_size 2 --uint=-4 "
            "--RO rows_1::4 --compression bslz4 --out_file 'my out'\n"
        )


def test_another_version_is_told(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(made, "r+") as h5:
        del h5["/entry/process_bnl_mpi/version"]
        h5["/entry/process_bnl_mpi/version"] = np.bytes_("0.0.1")
    assert main(["replay", str(made)]) == 0
    assert "was made by version 0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "3", '{"sum": 2}', '{"infile": "x"}'])
def test_a_damaged_record_is_one_line(text: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(made, "r+") as h5:
        del h5["/entry/process_bnl_mpi/options"]
        h5["/entry/process_bnl_mpi/options"] = np.bytes_(text)
    assert main(["replay", str(made)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1


def test_a_foreign_master_is_one_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(made.with_name("in_master.h5"))]) == 1
    assert "in_master.h5: /entry/process_bnl_mpi/options is absent" in capsys.readouterr().err


def test_the_input_is_named_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    source = make_input(made).master
    driver.call(REDUCTION, options_from(["-i", str(source), "-c", "bslz4", "-o", str(made / "out")]))
    capsys.readouterr()

    def infile(*words: str) -> tuple[str, str]:
        assert main(["replay", *words]) == 0
        told = capsys.readouterr()
        return options_from(shlex.split(told.out)[1:]).infile, told.err

    monkeypatch.chdir(made)
    assert infile("out_master.h5") == (source.name, "")
    monkeypatch.chdir(tmp_path)
    assert infile("made/out_master.h5") == (f"made/{source.name}", "")
    source.rename(tmp_path / "moved_master.h5")
    assert infile("made/out_master.h5", "--infile", "moved_master.h5") == ("moved_master.h5", "")
    name, warned = infile("made/out_master.h5")
    assert name == source.name
    assert "neither here nor beside made/out_master.h5; give --infile PATH" in warned
