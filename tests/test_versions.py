"""Versions of installed packages, told without `importlib.metadata`."""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
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


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("No_Such_Thing-2.0.dist-info", "METADATA"),
        ("no_such_thing-2.0-py3.11.egg-info", "PKG-INFO"),
        ("no_such_thing.egg-info", "PKG-INFO"),
        ("No_Such_Thing-2.0-py3.11.egg-info", ""),
    ],
)
def test_an_older_form_that_comes_first_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inner: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    text = "Metadata-Version: 1.0\nName: no_such_thing\nVersion: 2.0\n"
    if inner:
        (first / name).mkdir()
    (first / name / inner).write_text(text)
    write_metadata(second / "no_such_thing-3.0.dist-info", "Version: 3.0\n")
    monkeypatch.setattr(sys, "path", [str(first), str(second), *sys.path])
    version.cache_clear()
    assert version("no_such_thing") == importlib.metadata.version("no_such_thing") == "2.0"
    version.cache_clear()


def test_an_archive_that_comes_first_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("no_such_thing-2.0.dist-info/METADATA", "Name: no_such_thing\nVersion: 2.0\n")
    write_metadata(tmp_path / "no_such_thing-3.0.dist-info", "Version: 3.0\n")
    monkeypatch.setattr(sys, "path", [str(archive), str(tmp_path), *sys.path])
    version.cache_clear()
    assert version("no_such_thing") == "2.0"
    version.cache_clear()
