"""What verifying finds: one sign a file, and a line for each thing that isn't as it should be."""

from __future__ import annotations

from dataclasses import dataclass, field

EQUAL, DIFFERS, EXTRA, MISSING, UNREADABLE = "=", "*", "+", "-", "!"
MEANING = {
    EQUAL: "as it should be",
    DIFFERS: "differs",
    EXTRA: "not in the plan",
    MISSING: "missing",
    UNREADABLE: "unreadable",
}
WEIGHT = (EQUAL, DIFFERS, EXTRA, MISSING, UNREADABLE)
"""The worst of a file's findings gives its sign."""


@dataclass(frozen=True)
class Finding:
    """One thing that isn't as it should be."""

    sign: str
    file: str
    where: str
    """Image (counted from 1 in the set) or object."""
    wanted: str
    found: str

    def line(self) -> str:
        return f"{self.sign} {self.file}: {self.where}: {self.found}; wanted: {self.wanted}"

    def as_json(self) -> dict[str, str]:
        return {
            "sign": self.sign,
            "file": self.file,
            "where": self.where,
            "wanted": self.wanted,
            "found": self.found,
        }


@dataclass
class Judged:
    """A file's sign, and its findings."""

    file: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def sign(self) -> str:
        return max((f.sign for f in self.findings), key=WEIGHT.index, default=EQUAL)
