"""What all tests share: the folder of helpers on the path, and a clean environment for child processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

if TYPE_CHECKING:
    from running import Hold

# The same cases on every machine: a rare one must not fail a run that changed nothing. No test asserts a time.
settings.register_profile("seeded", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("seeded")
# Nor may they depend on which modules are loaded by then, whose constants Hypothesis would try.
if hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants

sys.path.insert(0, str(Path(__file__).parent))

# A test run under a scheduler or a launcher must not hand its place there to the ranks that tests start.
for _name in list(os.environ):
    if _name.startswith(("PMI_", "PMIX_", "OMPI_COMM_WORLD", "SLURM_STEP")):
        del os.environ[_name]


def pytest_sessionstart() -> None:
    """A build of the kernels that failed must not pass for one without a compiler, whose tests skip."""
    from bnl_mpi.pixels import kernels

    if not kernels.COMPILED and os.environ.get("BNL_MPI_KERNELS", "").lower() != "numpy":
        pytest.exit("compiled kernels are mandatory here: they weren't built; see what pip install -v . says", 1)
    if kernels.COMPILED and (newer := _newer_sources(kernels)):
        pytest.exit(f"{newer[0]} is newer than the compiled kernels: pip install -e . makes them anew", 1)


def _newer_sources(kernels: ModuleType) -> list[Path]:
    """Of the kernels, where they lie beside them, as in a checkout."""
    made = Path(kernels._kernels.__file__)
    sources = [*made.parent.glob("*.c"), *made.parent.glob("csrc/*.h")]
    return [source for source in sources if source.stat().st_mtime > made.stat().st_mtime]


@pytest.fixture
def hold(tmp_path_factory: pytest.TempPathFactory) -> Hold:
    """Runs of this test wait where it says."""
    from running import Hold

    return Hold(tmp_path_factory.mktemp("hold"))


LONGEST = (
    "test_attacks",
    "test_mutations",
    "test_kills",
    "test_dials_chain",
    "test_slurm",
    "test_archive",
    "test_real_data",
    "test_resume",
)
"""Files that are begun first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several workers share the files (`-n N --dist loadfile`), the longest come first."""
    order = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Under CI, what needs MPI, DIALS or SLURM may not skip: the machine is to have them."""
    report = yield
    needed = {mark.name for mark in item.iter_markers()} & {"mpi", "dials", "slurm"}
    if report.skipped and needed and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI may not: {report.longrepr}"
    return report


CAPABLE = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
"""Before a command of root's: it may then do no more than the owner of a file."""


@pytest.fixture
def obedient(tmp_path: Path) -> list[str]:
    """Words before a command that make it heed permissions."""
    before = CAPABLE if os.geteuid() == 0 else []
    if before and not shutil.which(before[0]):
        pytest.skip("root heeds no permissions, and there is no setpriv")
    probe = tmp_path / "probe"
    probe.mkdir(mode=0o555)
    done = subprocess.run([*before, "touch", str(probe / "x")], capture_output=True, check=False)
    probe.chmod(0o755)
    shutil.rmtree(probe)
    if done.returncode == 0:
        pytest.skip("permissions aren't heeded here")
    return before
