"""A new codec is a class and an entry: its option, its provenance, its squash and its expansion follow."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_sets import random_mask, read_images, write_set

from bnl_mpi import cli
from bnl_mpi.arguments import build_parser, options_from
from bnl_mpi.codecs import registry
from bnl_mpi.codecs.contract import LossyCodec
from bnl_mpi.errors import UsageError


class Steps(LossyCodec):
    """Counts cut to multiples of a step, deflated."""

    codec_id, image_dtype, label = "toy_steps", "uint16", "steps"

    def __init__(self, step: float) -> None:
        self.step = int(step)

    @property
    def level(self) -> float:
        return self.step

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "step": self.step}

    @classmethod
    def libraries(cls) -> dict[str, str]:
        return {"zlib": zlib.ZLIB_RUNTIME_VERSION}

    def check(self, shape: tuple[int, int], limit: float) -> None:
        if self.step > limit:
            raise UsageError(f"a step of {self.step} leaves nothing of counts up to {limit:g}; give less")

    def encode(self, buf: Any) -> bytes:
        shape = np.array(buf.shape, "<u4").tobytes()
        return shape + zlib.compress((buf // self.step * self.step).astype("<u2").tobytes())

    def decode(self, buf: Any, out: Any = None) -> Any:
        data = bytes(buf)
        return np.frombuffer(zlib.decompress(data[8:]), "<u2").reshape(np.frombuffer(data[:8], "<u4")).copy()


STEPS = registry.Entry(
    "steps", "-Z", "--steps", "COUNTS", 10, "multiples of this number", f"{__name__}:Steps", whole=True
)


@pytest.fixture(autouse=True)
def with_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "CODECS", [*registry.CODECS, STEPS])


def test_its_option() -> None:
    # Python 3.13 tells the value once.
    assert re.search(r"-Z( \[COUNTS\])?, --steps \[COUNTS\]", build_parser().format_help())
    assert "multiples of this number (below 1: 10)" in build_parser().format_help()
    assert options_from(["-i", "x", "-Z"]).codec_level == 10
    assert options_from(["-i", "x", "--steps", "7.5"]).codec_level == 7
    for words, message in {
        ("-Z", "-H"): "-H and -Z exclude each other",
        ("-Z", "-u", "4"): "-Z codes 16-bit unsigned images only; give -u 2, or use -H for 4-byte output",
        ("-Z", "--rms", "2"): "--rms is a target of -T; drop -Z, or --rms",
        ("-Z", "-c", "htj2k"): "-c htj2k stores the codestreams of -T, -Z makes others",
        ("-q",): "give one of -H, -J, -K, -T, -Z too",
    }.items():
        with pytest.raises(UsageError) as error:
            options_from(["-i", "x", *words])
        assert message in str(error.value)


def test_it_reduces_tells_and_expands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = np.random.default_rng(5).poisson(20, (6, 40, 50)).astype(np.uint16)
    master = write_set(tmp_path, frames, mask=random_mask((40, 50)))
    monkeypatch.chdir(tmp_path)
    words = ["-i", master.name, "-s", "2", "-c", "bslz4", "-d", "2"]
    assert cli.main([*words, "-o", "exact"]) == 0
    assert cli.main([*words, "-Z", "4", "-o", "set", "-q", "--json", "run.json"]) == 0
    assert "steps 4" in capsys.readouterr().err
    exact, images = read_images("exact_master.h5"), read_images("set_master.h5")
    np.testing.assert_array_equal(images, np.where(exact == 65535, 65535, exact // 4 * 4))
    told = json.loads(Path("run.json").read_text())
    assert told["mean_codestream"] > 0
    assert told["rms_error"] is None
    with h5py.File("set_master.h5") as h5:
        assert json.loads(h5["/entry/process_bnl_mpi/libraries"][()])["zlib"] == zlib.ZLIB_RUNTIME_VERSION
        first = next(iter(h5["/entry/squash"]))
        attributes = dict(h5["/entry/squash"][first]["data_000001"].attrs)
    assert (attributes["compression"], attributes["compression_level"]) == ("steps", 4)
    assert cli.main(["replay", "set_master.h5"]) == 0
    assert "-Z 4" in capsys.readouterr().out
    for path in tmp_path.glob("set_0*.h5"):
        path.unlink()
    assert cli.main(["expand", "set_master.h5", "-o", "full"]) == 0
    np.testing.assert_array_equal(read_images("full_master.h5"), images)


def test_what_it_cannot_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    master = write_set(tmp_path, np.ones((2, 16, 16), np.uint16), mask=random_mask((16, 16)))
    assert cli.main(["-i", str(master), "-Z", "9999", "-o", str(tmp_path / "set")]) == 2
    assert "a step of 9999 leaves nothing" in capsys.readouterr().err


def test_entries_need_nothing_heavy() -> None:
    code = (
        "import sys, bnl_mpi.codecs.registry, bnl_mpi.options\n"
        "heavy = {'numpy', 'numcodecs', 'h5py', 'imagecodecs', 'glymur'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_class_has_what_its_entry_promises() -> None:
    for entry in registry.CODECS:
        made = registry.make(options_from(["-i", "x", entry.flag]))
        assert made is not None
        assert type(made) is entry.load()
        assert made.level == entry.default
        assert registry.from_config(made.get_config()) == made
        assert all(entry.load().libraries().values())


def test_codecs_are_those_of_numcodecs_where_that_is_in_use() -> None:
    """Whichever is imported first; and nothing of ours imports it."""
    code = (
        "import sys, bnl_mpi.codecs.hcompress, bnl_mpi.tasks.reduction\n"
        "assert 'numcodecs' not in sys.modules\n"
        "import numcodecs, numcodecs.abc\n"
        "from bnl_mpi.codecs import from_config\n"
        "from bnl_mpi.codecs.hcompress import HCompress\n"
        "ours = from_config({'id': 'bnl_hcompress', 'scale': 12})\n"
        "theirs = numcodecs.get_codec(ours.get_config())\n"
        "assert type(theirs) is HCompress and theirs == ours and isinstance(theirs, numcodecs.abc.Codec)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    named = setup["options.entry_points"]["numcodecs.codecs"].split("\n")
    loaded = (entry.load() for entry in registry.CODECS)
    classes = [c for c in loaded if c.__module__.startswith("bnl_mpi.")]
    assert sorted(filter(None, named)) == sorted(f"{c.codec_id} = {c.__module__}:{c.__name__}" for c in classes)
