"""Progress and summary, as a user sees them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import MAIN, bnl
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.run import report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_is_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    line = report.ProgressLine(100, stream)
    for _ in range(100):
        now[0] += 0.1
        line.advance(1)
    line.finish()
    lines = stream.getvalue().splitlines()
    assert len(lines) in (1, 2)
    assert lines[0].startswith("bnl-mpi: ")
    assert "/100 frames, 10.0 a second" in lines[0]


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = Terminal()
    line = report.ProgressLine(10, stream)
    for _ in range(10):
        now[0] += 1
        line.advance(1)
    line.finish()
    assert "\r[###" in stream.getvalue()
    assert stream.getvalue().endswith("\r\033[K")
    assert "\n" not in stream.getvalue()


EACH_IMAGE = f"""
import sys; sys.path.insert(0, {str(Path(MAIN).parents[1])!r})
from bnl_mpi.run import report
report.BAR_SECONDS = 0.0
from bnl_mpi.cli import main
sys.exit(main())
"""
"""However fast the machine is."""


def seen_on_a_terminal(cwd: Path, *words: str) -> str:
    """What `bnl-mpi WORDS` writes to standard error where that is a terminal."""
    command = [sys.executable, "-c", EACH_IMAGE, *words]
    ours, its = os.openpty()
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=its) as run:
        os.close(its)
        seen = b""
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:
                # Linux says so of a terminal that nobody has open any more.
                break
            if not more:
                break
            seen += more
    os.close(ours)
    assert run.returncode == 0, seen
    return seen.decode()


def test_a_user_at_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    """Of a reduction, of verifying it, and of what is left of that; no bar stays when it is done."""
    shape = (600, 640)
    write_set(tmp_path, random_frames(12, shape), mask=random_mask(shape))
    reduce = ("-i", "in_master.h5", "-J", "20", "-d", "3", "-o", "set")
    verify = ("verify", "set_master.h5", "--against", "in_master.h5")
    for words in (reduce, verify, (*verify, "--subset", "2/2"), (*verify, "--resume")):
        if "--resume" in words:
            # Half of the blocks are noted: what is left is half of the frames.
            journal = next((tmp_path / "set.verify").glob("*.jsonl"))
            journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
        n = 6 if "--resume" in words else 12
        seen = seen_on_a_terminal(tmp_path, *words)
        bars = re.findall(r"\r\[(#*)(\.*)\] (\d+)/(\d+) frames, [\d.]+ a second, \d+ s left\033\[K", seen)
        assert bars, seen
        assert {(len(full + rest), int(of)) for full, rest, _, of in bars} == {(report.BAR_WIDTH, n)}
        done = [int(bar[2]) for bar in bars]
        assert done == sorted(done)
        assert 1 <= done[0] <= done[-1] <= n
        assert seen.endswith("\r\033[K")


def test_summary_and_json_tell_the_same(tmp_path: Path) -> None:
    shape = (64, 64)
    frames = random_frames(9, shape)
    master = write_set(tmp_path, frames, mask=random_mask(shape))
    words = ["-i", master, "-s", "2", "-J", "4", "-c", "bslz4", "-d", "2", "-o", "set", "-v", "--json", "run.json"]
    done = bnl(*words, cwd=tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    assert (told["frames"], told["images"], told["blocks"], told["workers"]) == (9, 5, 3, 1)
    on_disk = sum(p.stat().st_size for p in tmp_path.glob("set_0*.h5"))
    assert told["bytes_out"] == on_disk
    assert told["ratio_to_raw16"] == pytest.approx(9 * 64 * 64 * 2 / on_disk)
    assert told["ratio_to_input"] == pytest.approx(told["bytes_in"] / on_disk)
    stored = sum(p.stat().st_size for p in tmp_path.glob("in_data_*.h5"))
    assert 0.5 * stored < told["bytes_in"] < stored
    assert 0 < told["mean_codestream"] < 1.2 * 64 * 64 * 2 / 4
    assert told["invalid_pixels"] > 0
    for text in (
        "9 frames -> 5 images in 3 data files",
        f"invalid {told['invalid_pixels']}",
        f"out {on_disk}",
        "mean codestream",
        f"NAME_TEMPLATE_OF_DATA_FRAMES= {tmp_path / 'set'}_??????.h5",
        str(tmp_path / "set_master.h5"),
        str(tmp_path / "set.nxs"),
    ):
        assert text in done.stdout, text
    assert done.stderr.count("bnl-mpi: block ") == 3
    rank = told["ranks"][0]
    assert {"read", "decode", "reduce", "code", "encode", "write", "busy", "idle"} <= rank.keys()


XDS_LINES = {
    "-c bslz4": "",
    "-c none": "",
    "-c zstd": "no zstd: give -c bslz4",
    "-c bszstd": "no bszstd: give -c bslz4",
    "-c htj2k": "no htj2k: expand it, bnl-mpi expand ",
    "-c bslz4 -u -2": "no int16 images: give -u 2 or -u 4",
    "-c bslz4 -f 4": "no float32 images: give -u 2 or -u 4, not -f",
    "-c bslz4 -m foo": "no master but NAME_master.h5: leave out -m, or give -m NAME_master",
    "-c zstd -m foo": "no zstd: give -c bslz4; and no master but",
}


@pytest.mark.parametrize("words", XDS_LINES)
def test_the_line_for_xds_is_told_where_xds_reads_the_set(words: str, tmp_path: Path) -> None:
    shape = (66, 70)
    master = write_set(tmp_path, random_frames(4, shape, marks=False), mask=random_mask(shape))
    done = bnl("-i", master, "-s", "2", "-o", "set", *words.split(), "--json", "run.json", cwd=tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    why = XDS_LINES[words]
    assert (told["xds_template"] is None) == bool(why) == bool(told["xds_obstacles"])
    assert ("NAME_TEMPLATE_OF_DATA_FRAMES=" in done.stdout) == (not why)
    assert not why or f"XDS's usual plugin reads {why}" in done.stdout
    # An odd name or type is in durin's way, too.
    assert ("LIB= /path/durin-plugin.so" in done.stdout) == (words in ("-c zstd", "-c htj2k"))


def test_a_set_without_a_mask_has_no_line_for_xds(tmp_path: Path) -> None:
    master = write_set(tmp_path, random_frames(4, (66, 70)))
    done = bnl("-i", master, "-c", "bslz4", "-o", "set", cwd=tmp_path)
    assert "NAME_TEMPLATE" not in done.stdout
    assert "no set without /entry/instrument/detector/detectorSpecific/pixel_mask in its master" in done.stdout
