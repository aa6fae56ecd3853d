"""The page that leads through a choice is what its script makes, but for times."""

from __future__ import annotations

from pathlib import Path

from benchmarks import choosing


def test_the_page_is_what_its_script_makes(tmp_path: Path) -> None:
    choosing.write(tmp_path)
    made, kept = ((folder / "choosing.md").read_text() for folder in (tmp_path, choosing.DOCS))
    assert len(made.splitlines()) == len(kept.splitlines())
    prose = [line for line in kept.splitlines() if not line.startswith(("    ", "Verdict"))]
    assert [line for line in made.splitlines() if not line.startswith(("    ", "Verdict"))] == prose
    commands = [line for line in kept.splitlines() if line.startswith("    bnl-mpi")]
    assert commands == [line for line in made.splitlines() if line.startswith("    bnl-mpi")]
    names = {path.name for path in (tmp_path / choosing.FOLDER).iterdir()}
    assert names == {path.name for path in (choosing.DOCS / choosing.FOLDER).iterdir()}
    size = sum(path.stat().st_size for path in (choosing.DOCS / choosing.FOLDER).iterdir())
    assert size < 300_000
