"""The certificate in the eyes of RO-Crate's own tools, where these are installed: pip install rocrate roc-validator."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_sets import random_frames, random_mask, write_set

from bnl_mpi.cli import main

SHAPE = (40, 44)
UNKNOWN = ("an agent", "`author`", "`publisher`", "a url", "an absolute URI")
"""Who did it, for whom, and where on the web the program is."""


@pytest.fixture(scope="module")
def crate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certified set's files in a folder, where the certificate has the name that RO-Crate looks for."""
    folder = tmp_path_factory.mktemp("crate")
    raw = tmp_path_factory.mktemp("raw")
    master = write_set(raw, random_frames(6, SHAPE), mask=random_mask(SHAPE), per_file=3)
    assert main(["-i", str(master), "-s", "2", "-H", "8", "-q", "-c", "bslz4", "-o", str(folder / "set")]) == 0
    assert main(["verify", str(folder / "set_master.h5"), "--against", str(master), "--certify"]) == 0
    shutil.copy(folder / "set.crate.json", folder / "ro-crate-metadata.json")
    return folder


def test_rocrate_reads_it(crate: Path) -> None:
    rocrate = pytest.importorskip("rocrate.rocrate")
    read = rocrate.ROCrate(str(crate))
    action = next(one for one in read.contextual_entities if one.type == "CreateAction")
    assert {one.id for one in action["result"]} >= {"set_master.h5", "set.nxs", "set_000001.h5", "set_squash_000001.h5"}
    assert all((crate / one.id).exists() for one in action["result"])
    assert all(one.id.startswith("file:///") for one in action["object"])


def _contexts() -> dict[str, Any]:
    """JSON-LD contexts without a network: RO-Crate's as its package has it, and the profile's word for a checksum."""
    found = importlib.resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_text()
    return {
        "https://w3id.org/ro/crate/1.1/context": json.loads(found),
        "https://w3id.org/ro/terms/workflow-run/context": {
            "@context": {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
        },
    }


def test_the_validator_finds_nothing(crate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Process Run Crate, with what is only recommended too, but for what the program can't know."""
    pytest.importorskip("rocrate")
    services = pytest.importorskip("rocrate_validator.services")
    context = pytest.importorskip("rdflib.plugins.shared.jsonld.context")
    severity = pytest.importorskip("rocrate_validator.models").Severity
    requester = pytest.importorskip("rocrate_validator.utils.http").HttpRequester

    class Answer:
        status_code, headers = 200, {"Content-Type": "application/ld+json"}

        def __init__(self, url: str) -> None:
            self._url = url

        def json(self) -> Any:
            return _contexts()[self._url]

    monkeypatch.setattr(context, "source_to_json", lambda url: (_contexts()[str(url)], None))
    monkeypatch.setattr(requester, "get", lambda _self, url, **_how: Answer(url), raising=False)
    settings = {
        "rocrate_uri": str(crate),
        "profile_identifier": "process-run-crate",
        "requirement_severity": severity.RECOMMENDED,
    }
    result = services.validate(settings)
    told = [
        f"{one.severity.name} {one.check.identifier}: {one.message}"
        for one in result.get_issues()
        if not (one.severity == severity.RECOMMENDED and any(word in one.message for word in UNKNOWN))
    ]
    assert not told, "\n".join(told)
