"""Short names of settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnl_mpi.arguments import options_from
from bnl_mpi.errors import UsageError
from bnl_mpi.estimate import names
from bnl_mpi.estimate.names import Setting


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("b2s2", "-b 2 -s 2 -c bslz4"),
        ("b2", "-b 2 -s 1 -c bslz4"),
        ("s4", "-b 1 -s 4 -c bslz4"),
        ("b2s2H16", "-b 2 -s 2 -H 16 -c bslz4"),
        ("b2s2h16", "-b 2 -s 2 -H 16 -c bslz4"),
        ("b2s2J120:bszstd", "-b 2 -s 2 -J 120 -c bszstd"),
        ("b1s1K62.5", "-b 1 -s 1 -K 62.5 -c bslz4"),
        ("b3s2T6.3", "-b 3 -s 2 -T 6.3 -c htj2k"),
        ("b3s2T6.3:bslz4", "-b 3 -s 2 -T 6.3 -c bslz4"),
        ("b2s2:zstd9", "-b 2 -s 2 -c zstd -l 9"),
        ("b2s2keep4:bszstd22", "-b 2 -s 2 --keep spots.refl --keep_radius 4 -c bszstd -l 22"),
        ("b2s2keep", "-b 2 -s 2 --keep spots.refl -c bslz4"),
        ("b2s2keep:htj2k", "-b 2 -s 2 --keep spots.refl -c htj2k"),
        ("b2s2T35keep5", "-b 2 -s 2 -T 35 --keep spots.refl --keep_radius 5 -c htj2k"),
        ("b2s2keep5EXACT:zstd9", "-b 2 -s 2 --keep spots.refl --keep_radius 5 --keep_exact -c zstd -l 9"),
        ("b2s2T35KEEPauto", "-b 2 -s 2 -T 35 --keep auto -c htj2k"),
    ],
)
def test_a_name_is_its_words(name: str, words: str) -> None:
    assert names.parse(name).words("spots.refl") == words.split()


@given(
    st.builds(
        Setting,
        bin=st.integers(1, 64),
        sum=st.integers(1, 999),
        compression=st.sampled_from(["bslz4", "zstd", "htj2k"]),
        keep=st.booleans(),
    ),
    st.sampled_from([None, *names.LETTERS.values()]),
    st.sampled_from([2, 6.3, 16, 120, 62.5]),
)
def test_a_settings_name_means_that_setting(setting: Setting, codec: str | None, level: float) -> None:
    whole = Setting(
        setting.bin, setting.sum, codec, None if codec is None else level, setting.compression, keep=setting.keep
    )
    assert names.parse(whole.name) == whole


def test_words_make_options_of_the_same_setting() -> None:
    options = options_from(["-i", "x_master.h5", *names.parse("b3s2T6.3").words()])
    assert (options.bin, options.sum, options.codec, options.codec_level) == (3, 2, "htj2k", 6.3)
    assert options.compression == "htj2k"


@pytest.mark.parametrize("name", ["", "b2s2Q16", "b2s2H", "H16b2", "b2s2T1.2.3", "b2s2:lzma", "b2s2:htj2k3", "b2s2 "])
def test_what_is_no_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="setting"):
        names.parse(name)


def test_lists_are_cut_at_spaces_and_commas_and_doubles_dropped() -> None:
    assert [s.name for s in names.parse_list(" b2s2,b2s2h16  b2s2 ")] == ["b2s2", "b2s2H16"]
    with pytest.raises(UsageError, match="--try"):
        names.parse_list(" , ")
