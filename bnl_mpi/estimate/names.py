"""Short names of settings: `b2s2H16` is `-b 2 -s 2 -H 16 -c bslz4`.

b and s may be left out where they are 1.  One letter names the codec, in either case, with its level: H16, J120,
K120, T6.3.  `-c` is htj2k after T, whose codestreams are what is stored, and else bslz4, which XDS reads; another
filter follows a colon, with its level where that isn't the usual one: `b2s2T6.3:bslz4`, `b2s2:zstd9`.  `keep` before
it is `--keep`, `keep5` that with `--keep_radius 5`, and `keepauto` is `--keep auto`, whatever file of reflections is
given; `exact` after it is `--keep_exact`.  `raw` is the input itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..codecs import registry
from ..errors import UsageError
from ..options import COMPRESSIONS, LEVELS

RAW = "raw"
LETTERS = {entry.flag.removeprefix("-"): entry.name for entry in registry.CODECS}
"""Codec by the letter of its option."""
_CODEC = rf"(?:([{''.join(LETTERS)}])([\d.]+))?"
_NAME = re.compile(rf"(?:b(\d+))?(?:s(\d+))?{_CODEC}(?:(keep(?:auto|\d+)?)(exact)?)?(?::(\w+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Setting:
    """What a short name says."""

    bin: int = 1
    sum: int = 1
    codec: str | None = None
    """A name of `codecs.registry`."""
    level: float | None = None
    compression: str = "bslz4"
    compression_level: int | None = None
    keep: bool = False
    radius: int | None = None
    """Of what is kept, pixels of a frame; None: as the reflections say."""
    auto: bool = False
    """Whether strong spots are kept in place of a file's reflections."""
    exact: bool = False
    """Whether kept pixels stay as they are: `--keep_exact`."""

    @property
    def name(self) -> str:
        """The short name, in its one spelling."""
        letter = next((k for k, codec in LETTERS.items() if codec == self.codec), "")
        level = f"{self.level:g}" if letter and self.level is not None else ""
        usual = _usual(self.codec)
        return (
            f"b{self.bin}s{self.sum}{letter}{level}"
            + self._keep_name()
            + (f":{self.compression}{_text(self.compression_level)}" if self._tells_filter(usual) else "")
        )

    def _tells_filter(self, usual: str) -> bool:
        return self.compression != usual or self.compression_level is not None

    def _keep_name(self) -> str:
        if not self.keep:
            return ""
        return "keep" + ("auto" if self.auto else _text(self.radius)) + ("exact" if self.exact else "")

    def words(self, keep: str | None = None) -> list[str]:
        """The command's words, without names; `keep` is the value of `--keep`."""
        words = ["-b", str(self.bin), "-s", str(self.sum)]
        if self.codec is not None:
            words += [registry.entry_of(self.codec).flag, f"{self.level:g}"]
        if self.keep:
            words += ["--keep", "auto" if self.auto or keep is None else keep]
            words += ["--keep_radius", str(self.radius)] if self.radius is not None else []
            words += ["--keep_exact"] if self.exact else []
        level = [] if self.compression_level is None else ["-l", str(self.compression_level)]
        return [*words, "-c", self.compression, *level]


def _usual(codec: str | None) -> str:
    """The filter that goes without saying: a codec's own codestreams, where they can be chunks."""
    return (registry.entry_of(codec).chunks if codec else None) or "bslz4"


def parse(name: str) -> Setting:
    """The setting of a short name; a UsageError where it is none."""
    match = _NAME.fullmatch(name)
    if not name or match is None:
        raise UsageError(
            f"setting '{name}' not understood; give names such as b2s2, b2s2H16, b3s2T6.3, b2s2J120:bszstd"
        )
    b, s, letter, level, keep, exact, compression = match.groups()
    codec = LETTERS[letter.upper()] if letter else None
    stored, stored_level = _filter_of(compression) if compression else (_usual(codec), None)
    if stored not in COMPRESSIONS:
        raise UsageError(f"setting '{name}': -c {stored} is not known; give one of {', '.join(COMPRESSIONS)}")
    kept = (keep or "").lower().removeprefix("keep")
    radius = int(kept) if kept.isdigit() else None
    return Setting(
        int(b or 1),
        int(s or 1),
        codec,
        _level(name, level),
        stored,
        stored_level,
        keep=keep is not None,
        radius=radius,
        auto=kept == "auto",
        exact=exact is not None,
    )


def _filter_of(text: str) -> tuple[str, int | None]:
    """A filter's name, and its level where digits follow it."""
    name = text.rstrip("0123456789")
    return (name, int(text[len(name) :])) if text not in COMPRESSIONS and name in LEVELS else (text, None)


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _level(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"setting '{name}': {text} is no number") from None
    return int(value) if value == int(value) else value


def parse_list(text: str) -> tuple[Setting, ...]:
    """The settings of names between spaces or commas, each once."""
    found = dict.fromkeys(parse(name) for name in re.split(r"[\s,]+", text.strip()) if name)
    if not found:
        raise UsageError("--try names no setting; give names such as 'b2s2 b2s2H16 b3s2T6.3'")
    return tuple(found)
