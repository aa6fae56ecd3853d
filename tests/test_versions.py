"""Versions of installed packages, told without `importlib.metadata`."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from bnl_mpi.codecs.versions import version


@pytest.mark.parametrize("package", ["numpy", "h5py", "hdf5plugin", "numcodecs", "astropy", "glymur"])
def test_a_version_is_the_one_that_python_tells(package: str) -> None:
    assert version(package) == importlib.metadata.version(package)


def write_metadata(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "METADATA").write_text(text)


def test_versions_come_from_the_first_folder_that_has_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metadata(tmp_path / "no_such_thing_more-9.dist-info", "Version: 9\n")
    write_metadata(
        tmp_path / "no_such_thing-1.0.post1.dist-info", "Metadata-Version: 2.1\nVersion: 1.0.post1+x\n\nVersion: 3\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path), *sys.path])
    assert version("no_such_thing") == "1.0.post1+x"


def test_a_package_that_is_not_there_is_said_so() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version("no_such_package")
