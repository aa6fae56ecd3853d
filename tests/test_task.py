"""A run serves any task: one whose blocks write nothing, and whose reports hold findings of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import MAIN, needs_mpi
from small_sets import random_frames, write_set

from bnl_mpi import job as jobs
from bnl_mpi.errors import BnlError
from bnl_mpi.input.frames import FrameReader
from bnl_mpi.job import Job, Prepared
from bnl_mpi.options import Options
from bnl_mpi.plan import Block
from bnl_mpi.run import driver
from bnl_mpi.run.files import NoFiles
from bnl_mpi.run.launch import mpiexec_command
from bnl_mpi.run.task import BlockReport, Made, Masters, Outcome, Overseer


@dataclass
class Findings(BlockReport):
    bright: list[int] = field(default_factory=list)
    """Frames, from 1, whose first pixel is over 5."""


class Looker:
    def __init__(self, job: Job, rank: int) -> None:
        self._plan, self._rank = job.plan, rank
        self._reader = FrameReader(job.source)

    def make(self, block: Block, overseer: Overseer | None = None) -> Made:
        overseer, frame = overseer or Overseer(), np.zeros(self._plan.shape_in, self._plan.dtype_in)
        report = Findings(block.number, block.n_images, 0, rank=self._rank)
        for image in range(block.first_image, block.first_image + block.n_images):
            for number in self._plan.frames_of(image):
                self._reader.decode(self._reader.fetch(number, frame), number, frame)
                report.bright += [number + 1] if frame[0, 0] > 5 else []
                report.n_frames += 1
            overseer.after_image(1)
        overseer.before_naming()
        return Made(report)

    def close(self) -> None:
        self._reader.close()


@dataclass
class Found:
    frames: list[int]

    @property
    def exit_status(self) -> int:
        return 1 if self.frames else 0

    def lines(self) -> list[str]:
        return [f"bright: {self.frames}"]

    def as_json(self) -> dict[str, Any]:
        return {"bright": self.frames}


class Look:
    """The task."""

    files = NoFiles()

    def prepare(self, options: Options, *, trust_counts: bool = True) -> Prepared:
        return jobs.prepare(options, trust_counts=trust_counts)

    def get_ready(self, options: Options) -> None:
        raise ImportError("what is missing, only prepare tells")

    def check_inputs(self, job: Job, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        return [], {}

    def maker(self, job: Job, rank: int) -> Looker:
        return Looker(job, rank)

    def write_masters(self, prepared: Prepared, files: ExitStack) -> Masters:
        return Masters()

    def start_line(self, job: Job) -> str:
        return f"looking at {job.plan.n_frames} frames"

    def notes(self, job: Job) -> list[str]:
        return []

    def afterthoughts(self, reports: Sequence[BlockReport]) -> list[str]:
        return []

    def summarise(self, job: Job, outcome: Outcome) -> Found:
        return Found(sorted(n for report in outcome.reports if isinstance(report, Findings) for n in report.bright))


BRIGHT = [2, 5, 11]

PROGRAM = """
import sys
sys.path[:0] = {folders!r}
from test_task import Look
from bnl_mpi.arguments import options_from
from bnl_mpi.run import driver
sys.exit(driver.main(Look(), options_from(sys.argv[1:]), sys.argv[1:]))
"""


@pytest.fixture
def master(tmp_path: Path) -> Path:
    frames = random_frames(12, (30, 31))
    frames[:, 0, 0] = 0
    frames[[n - 1 for n in BRIGHT], 0, 0] = 9
    folder = tmp_path / "in"
    folder.mkdir()
    return write_set(folder, frames, per_file=5)


def test_from_python(master: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = driver.call(Look(), Options(infile=str(master), out_file=str(tmp_path / "o"), data_block_size=2))
    assert found is not None
    assert found.frames == BRIGHT
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=[pytest.mark.mpi, needs_mpi])])
def test_the_findings_are_the_same_on_any_number_of_ranks(master: Path, tmp_path: Path, ranks: int) -> None:
    work = tmp_path / "work"
    work.mkdir()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folders=[str(Path(MAIN).parents[1]), str(Path(__file__).parent)]))
    words = ["-i", str(master), "-d", "2", "--json", str(tmp_path / "found.json")]
    command, environment = mpiexec_command(ranks, words)
    command[command.index(MAIN)] = str(program)
    if ranks == 1:
        command = [sys.executable, str(program), *words]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (1, f"bright: {BRIGHT}\n"), done.stderr
    assert str(BRIGHT[0]) in (tmp_path / "found.json").read_text()
    assert not list(work.iterdir())


def test_its_errors_stop_it(master: Path) -> None:
    class Refusing(Look):
        def check_inputs(self, job: Job, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
            return ["in_data_000001.h5: no good"], {}

    with pytest.raises(BnlError, match="no good"):
        driver.call(Refusing(), Options(infile=str(master)))
