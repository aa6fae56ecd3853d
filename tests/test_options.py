"""The command line's rules and traps."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnl_mpi.arguments import COMMANDS, build_parser, join_negative_values, options_from
from bnl_mpi.cli import main
from bnl_mpi.errors import UsageError
from bnl_mpi.options import Options
from bnl_mpi.pixels.patterns import parse_frame_list, parse_zero_pattern


def parse(text: str) -> Options:
    return options_from(["-i", "in_master.h5", *text.split()])


def test_the_readme_has_every_option_and_no_other() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    table = readme[readme.index("\n## Options\n") : readme.index("\n## Which setting\n")]
    told = re.findall(r"`(--?\w+)", "\n".join(re.findall(r"^\| ([^|]*(?:\\\|[^|]*)*) \|", table, re.MULTILINE)))
    names = {name for action in build_parser()._actions for name in action.option_strings}
    assert sorted(told) == sorted(names)


def test_next_to_nothing_is_imported_before_an_interrupt_can_be_told_of() -> None:
    code = "import sys, bnl_mpi.cli; print([n for n in ('argparse', 'numpy', 'bnl_mpi.options') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bnl_mpi", *name.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_defaults() -> None:
    o = parse("")
    assert (o.first_image, o.last_image, o.sum, o.bin, o.scale) == (1, None, 1, 1, 1.0)
    assert (o.codec, o.compression, o.compression_level, o.data_block_size) == (None, "zstd", 3, 100)
    assert (o.out_file, o.master_path, o.nxs_path) == ("out_data", "out_data_master.h5", "out_data.nxs")
    assert (o.dtype, o.saturation, o.parallel, o.thread) == ("uint16", "clip", None, None)


@pytest.mark.parametrize("option", ["-1", "-N", "-s", "-b", "-S", "-c", "-d", "-o", "-m", "-l"])
def test_an_option_without_its_value_takes_its_default(option: str) -> None:
    assert parse(option) == parse("")


@pytest.mark.parametrize(
    ("text", "codec", "level"),
    [
        ("-H", "hcompress", 16),
        ("-H 0", "hcompress", 16),
        ("-H 12", "hcompress", 12),
        ("-J 0.5", "j2k", 125),
        ("-J", "j2k", 125),
        ("-K 360", "j2k2", 360),
        ("--J2K2 7.5", "j2k2", 7.5),
        ("--Hcompress 4", "hcompress", 4),
    ],
)
def test_codecs(text: str, codec: str, level: float) -> None:
    assert (parse(text).codec, parse(text).codec_level) == (codec, level)


@pytest.mark.parametrize(
    ("text", "dtype", "first"),
    [
        ("-u", "uint16", 1),
        ("-u 4", "uint32", 1),
        ("-u -2", "int16", 1),
        ("-u -4", "int32", 1),
        ("-u-4", "int32", 1),
        ("--uint -4", "int32", 1),
        ("--uint=-2", "int16", 1),
        ("-u -1 5", "uint16", 5),
        ("-u -4 -1 7", "int32", 7),
        ("-f", "float32", 1),
        ("-f -2", "float16", 1),
        ("-f 4 -1 3", "float32", 3),
        ("-f -1 3", "float32", 3),
    ],
)
def test_values_that_look_like_options(text: str, dtype: str, first: int) -> None:
    assert (parse(text).dtype, parse(text).first_image) == (dtype, first)


def test_minus_one_is_no_silent_first_image() -> None:
    with pytest.raises(UsageError, match=r"--uint -1: give 2 or 4"):
        parse("-u -1")
    assert join_negative_values(["-u", "-1", "-v"]) == ["-u-1", "-v"]


@pytest.mark.parametrize("text", ["--first-image 3", "--first_image 3", "-1 3", "-13"])
def test_dashes_and_underscores(text: str) -> None:
    assert parse(text).first_image == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-s 0", "--sum 0: must be 1 or more"),
        ("-b 0", "--bin 0"),
        ("-b 65", "64 or less"),
        ("-1 0", "--first_image 0"),
        ("-1 9 -N 8", "no frames selected"),
        ("-S -1", "--scale"),
        ("-H 16 -J 120", "-H and -J exclude each other"),
        ("-J 16 -K 120", "-J and -K exclude each other"),
        ("-T 16 -H 4", "-H and -T exclude each other"),
        ("--rms 2 -J 60", "--rms is a target of -T; drop -J"),
        ("--rms 2 -T 60", "--rms and -T's ratio exclude each other"),
        ("--rms 2 --psnr 80", "--psnr and --rms exclude each other"),
        ("--max_error=-1", "--max_error -1: must be"),
        ("-T 60 -u 4", "16-bit unsigned images only"),
        ("--rms 2 -u -2", "unsigned integers"),
        ("-c htj2k -H 4", "-c htj2k stores the codestreams of -T, -H makes others: give -T for -H"),
        ("-c htj2k -J", "-J makes others"),
        ("-c htj2k -K", "-K makes others"),
        ("-c htj2k -u 4", "8- and 16-bit integers, not uint32; give -u 2"),
        ("-c htj2k -f 2", "8- and 16-bit integers, not float16"),
        ("-c htj2k -l 3", "htj2k has no levels"),
        ("-T 60 -c htj2k -q", "drop -q"),
        ("-c gzip", "give one of bslz4"),
        ("-c bslz4 -l 3", "bslz4 has no levels"),
        ("-c none -l 3", "none has no levels"),
        ("-c zstd -l 10", "levels 0 to 9"),
        ("-c bszstd -l 0", "levels 1 to 22"),
        ("-q out_file", "codestreams"),
        ("--fill_gaps", "codec"),
        ("-d 0", "--data_block_size 0"),
        ("-d ten", "block size"),
        ("-u 3", "--uint 3"),
        ("-u 3 -H 16", "--uint 3"),
        ("-f 8", "--float 8"),
        ("-u 2 -f 4", "exclude each other"),
        ("-L -X", "exclude each other"),
        ("-L 1.5", "base is e or"),
        ("-J 10 -u 4", "16-bit unsigned images only"),
        ("-H 10 -u -4", "unsigned integers"),
        ("-H 10 -f 4", "unsigned integers"),
        ("-H 10 -L -u 4", "2-byte output only"),
        ("-t 1", "needs -p"),
        ("-p 2 -t 3", "-t 3"),
        ("-p 0", "--parallel 0"),
        ("-o folder/", "needs a name"),
        ("-o a -m a", "different files"),
        ("-0 3", "-R and -C"),
        ("-C columns_::0", "step of 0"),
        ("-C nonsense", "not understood"),
        ("-R rows_-::2", "not understood"),
        ("-R rows_1:-", "not understood"),
        ("-S nan", "--scale nan: must be a number of 0 or more"),
        ("-H inf", "-H inf: must be a finite number"),
        ("-J nan", "-J nan: must be a finite number"),
        ("--psnr inf", "--psnr inf: must be a number of 0 or more"),
        ("--rms nan", "--rms nan: must be a number of 0 or more"),
        ("-L inf", "base is e or"),
        ("-X 1e400", "base is e or"),
        ("-K 9 --codec_threads 0", "--codec_threads 0: must be 1 or more"),
        ("-s 99999999999999999999", "--sum 99999999999999999999: is too large"),
        ("-o .", "--out_file '.': needs a name, not a folder"),
        ("-o ../there/..", "needs a name, not a folder"),
        ("-R rows_1::2 -0 5-3", "no frame number"),
        ("--unknown", "unrecognized arguments"),
        ("-s two", "invalid int value"),
    ],
)
def test_mistakes_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_infile_is_required() -> None:
    with pytest.raises(UsageError, match="-i MASTER is missing"):
        options_from(["-b", "2"])


@pytest.mark.parametrize(
    ("text", "master", "data", "nxs", "squash"),
    [
        ("-o a", "a_master.h5", "a_000007.h5", "a.nxs", None),
        ("-o a.h5 -m b.h5", "b.h5", "a_000007.h5", "b.nxs", None),
        ("-o x/a -m out_file", "x/a_master.h5", "x/a_000007.h5", "x/a.nxs", None),
        ("-o x/a -m b_master", "x/b_master.h5", "x/a_000007.h5", "x/b.nxs", None),
        ("-o a -H 4 -q", "a_master.h5", "a_000007.h5", "a.nxs", "a_squash_000007.h5"),
        ("-o a -H 4 -q out_file", "a_master.h5", "a_000007.h5", "a.nxs", "a_squash_000007.h5"),
        ("-o a -H 4 -q z.h5", "a_master.h5", "a_000007.h5", "a.nxs", "z_000007.h5"),
    ],
)
def test_names(text: str, master: str, data: str, nxs: str, squash: str | None) -> None:
    o = parse(text)
    assert (o.master_path, o.data_path(7), o.nxs_path) == (master, data, nxs)
    assert (o.squash_path(7) if o.out_squash else None) == squash


def test_logarithm_bases() -> None:
    assert parse("-L").logarithm == math.e
    assert parse("-L e").logarithm == math.e
    assert parse("-X 10").exponential == 10


def test_zero_patterns() -> None:
    assert parse_zero_pattern("columns_::2", 0).columns == (None, None, 2)
    assert parse_zero_pattern("rows_1::2", 1).rows == (1, None, 2)
    assert parse_zero_pattern("zero_2_of_3_columns", 0).group == (2, 3)
    box = parse_zero_pattern("3,5,1,2", 0)
    assert (box.rows, box.columns) == ((1, 3, None), (3, 6, None))
    assert parse_frame_list("1,5,10-20") == ((1, 1), (5, 5), (10, 20))


def test_identity_leaves_out_how_a_job_is_run() -> None:
    here = parse("-b 2 -H 16 -o here -p 3 -v --json x --force").identity()
    there = parse("-b 2 -H 16 -o there").identity()
    assert here == there
    assert here != parse("-b 2 -H 17").identity()


def test_equal_settings_have_one_identity() -> None:
    here = Options("in", codec="j2k", codec_level=125.0, scale=1)
    assert here.identity() == parse("-J 125 -S 1").identity()
    assert str(here.identity()) == str(parse("-J 125").identity())


def test_help_and_version_need_no_mpi_and_no_hdf5() -> None:
    code = (
        "import sys; from bnl_mpi.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'mpi4py', 'h5py', 'numpy', 'astropy', 'glymur'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("--Hcompress", "--data_block_size", "simulate"):
        assert name in done.stdout
    done = subprocess.run([sys.executable, "-m", "bnl_mpi", "-V"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("bnl-mpi 0.3.0 (20")


@pytest.mark.parametrize(
    ("text", "level", "target"),
    [
        ("-T", 125, None),
        ("-T 0.5", 125, None),
        ("--HTJ2K 60", 60, None),
        ("-T --rms 2", None, ("rms", 2)),
        ("--max-error 7.5", None, ("max_error", 7.5)),
        ("--psnr 80 -c htj2k", None, ("psnr", 80)),
    ],
)
def test_htj2k_has_one_target(text: str, level: float | None, target: tuple[str, float] | None) -> None:
    o = parse(text)
    assert (o.codec, o.codec_level, o.error_target) == ("htj2k", level, target)


def test_gaps_are_always_filled_where_the_codestream_is_stored() -> None:
    assert parse("-T 60 -c htj2k").fill_gaps
    assert not parse("-c htj2k").fill_gaps
    assert not parse("-T 60 -c bslz4").fill_gaps


def test_lists_of_frames_add_up() -> None:
    assert parse("-R rows_1::2 -0 1 -0 5,7-9").omit == ((1, 1), (5, 5), (7, 9))
    assert parse("-R rows_1::2 --omit 1 -C columns_::2 -0 5").omit == ((1, 1), (5, 5))


ONE_VALUE = [
    *("-1 2 -1 3", "-N 5 -N 6", "--channel 1 --channel 2", "-s 2 --sum 4", "-b 2 -b 4", "-S 2 -S 3", "-u 2 -u 4"),
    *("-f 4 -f 2", "-L -L 2", "-X 2 -X 3", "--saturation clip --saturation scaled", "-H 4 -H 16", "-J 60 -J 120"),
    *("-K 60 --J2K2 120", "-T 60 -T 120", "--max_error 1 --max-error 2", "--psnr 60 --psnr 70", "--rms 1 --rms 2"),
    *("--codec_threads 1 --codec_threads 2", "-o a -o b", "-m a -m b", "-H -q a -q b", "-c zstd -c bslz4"),
    *("-l 1 -l 2", "-d 5 -d auto", "--json a --json b", "-p 2 -p 3", "-p 9 -t 1 -t 2", "--grace 1 --grace 2"),
    *("--log_json a --log_json b", "-i other_master.h5"),
]


@pytest.mark.parametrize("text", ONE_VALUE)
def test_no_value_is_lost_behind_a_later_one(text: str) -> None:
    with pytest.raises(UsageError, match=r"given twice, as .* and .*; give it once"):
        parse(text)


@pytest.mark.parametrize("text", ["-s 2 -s 2", "-c bslz4 --compression bslz4", "-v -v"])
def test_the_same_twice_is_once(text: str) -> None:
    assert parse(text) == parse(" ".join(text.split()[: len(text.split()) // 2]))


def test_one_parse_knows_nothing_of_another() -> None:
    assert parse("-s 2").sum == 2
    assert parse("-s 3").sum == 3


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*([command] if command else []), "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert [line for line in lines if len(line) > 80] == []
