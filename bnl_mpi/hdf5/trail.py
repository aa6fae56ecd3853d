"""What a result was made of: the values of an open file that somebody has looked at."""

from __future__ import annotations

from typing import Any, NamedTuple


class Copied(NamedTuple):
    """Values that went into a new dataset as they are."""

    dataset: Any
    offset: int | None
    """In the new file; None where they don't lie in one piece."""
    n: int
    """Bytes there."""
    is_text: bool
    """Only what is before the first NUL went there."""


class Trail:
    """What is made of an open file's values while it is laid (`memory.laid`)."""

    def __init__(self, path: str) -> None:
        self.path = path
        """The file's."""
        self.read: dict[int, Any] = {}
        """Datasets whose values somebody may have looked at, by their `id()`: all that weren't merely copied."""
        self.copied: list[Copied] = []
        self.read_again: set[int] = set()
        """Where values lie in the new file that somebody has looked at there, or has taken out."""
        self.left = False
        """Whether a link was followed out of the file."""

    def look_again(self, dataset: Any) -> None:
        """Note that the values of a dataset of the new file count as looked at."""
        if (offset := dataset.id.get_offset()) is not None:
            self.read_again.add(offset)
