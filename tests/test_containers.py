"""The image's recipe: its parts are known ones and fit the package, as far as that shows without building it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECTIONS = {"files", "post", "environment", "runscript", "test", "labels", "help"}


def recipe() -> tuple[dict[str, str], dict[str, list[str]]]:
    """(header, lines of each section) of the Apptainer definition."""
    header: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in (ROOT / "containers" / "apptainer.def").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if m := re.fullmatch(r"%(\w+)", line):
            current = sections.setdefault(m[1], [])
        elif current is not None:
            current.append(line.strip())
        else:
            key, _, value = line.partition(":")
            header[key] = value.strip()
    return header, sections


def test_the_recipe_fits_the_package() -> None:
    header, sections = recipe()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert header["Bootstrap"] == "docker"
    version = tuple(int(n) for n in re.findall(r"\d+", header["From"])[:2])
    wanted = tuple(int(n) for n in re.findall(r"\d+", setup["options"]["python_requires"]))
    assert version >= wanted
    assert set(sections) <= SECTIONS
    (source,) = (line.split() for line in sections["files"])
    (install,) = (line for line in sections["post"] if line.startswith("pip install"))
    m = re.search(r"'(\S+)\[(\S+)\]'", install)
    assert m is not None
    assert m[1] == source[1]
    assert set(m[2].split(",")) <= set(setup["options.extras_require"])
    command = setup["options.entry_points"]["console_scripts"].split("=")[0].strip()
    assert sections["runscript"] == [f'exec {command} "$@"']
    assert sections["test"][0].startswith(command)
