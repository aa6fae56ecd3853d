"""The tables of a CIF text: as much of the syntax as imgCIF headers have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

Row = Mapping[str, str]
Tables = Mapping[str, Sequence[Row]]
"""Rows by category; of `_axis.vector[1]` the category is `axis` and the item `vector[1]`, both in lower case."""

TOKEN = re.compile(
    r"""^;(?P<field>.*?)^;
      | \#[^\n]*
      | '(?P<single>(?:[^'\n]|'(?=\S))*)'(?=\s|\Z)
      | "(?P<double>(?:[^"\n]|"(?=\S))*)"(?=\s|\Z)
      | (?P<word>\S+)""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
"""A text field between lines that begin with a semicolon, a comment, a quoted string, or a word."""

RESERVED = ("data_", "save_", "loop_", "global_", "stop_")


def _tokens(text: str) -> Iterator[tuple[bool, str]]:
    """(whether it stands there without quotes, the token)."""
    for match in TOKEN.finditer(text):
        if match.lastgroup is not None:
            yield match.lastgroup == "word", match[match.lastgroup]


def _is_name(token: tuple[bool, str]) -> bool:
    return token[0] and token[1].startswith("_")


def _is_reserved(token: tuple[bool, str]) -> bool:
    return token[0] and token[1].lower().startswith(RESERVED)


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """All categories of the first data block.  What makes no sense is passed over: a header is no program."""
    tokens = list(_tokens(text))
    found: dict[str, list[dict[str, str]]] = {}
    at = 0
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token[0] and token[1].lower() == "loop_":
            at = _loop(tokens, at, found)
        elif _is_name(token) and at < len(tokens) and not (_is_name(tokens[at]) or _is_reserved(tokens[at])):
            category, item = _split(token[1])
            rows = found.setdefault(category, [{}])
            rows[0][item] = tokens[at][1]
            at += 1
    return found


def _split(name: str) -> tuple[str, str]:
    category, _, item = name[1:].lower().partition(".")
    return category, item


def _loop(tokens: list[tuple[bool, str]], at: int, found: dict[str, list[dict[str, str]]]) -> int:
    """Take the loop whose first name is at `at`; returns where it ends."""
    names = []
    while at < len(tokens) and _is_name(tokens[at]):
        names.append(_split(tokens[at][1]))
        at += 1
    values = []
    while at < len(tokens) and not (_is_name(tokens[at]) or _is_reserved(tokens[at])):
        values.append(tokens[at][1])
        at += 1
    if names:
        items = [item for _, item in names]
        rows = [dict(zip(items, values[k : k + len(items)], strict=False)) for k in range(0, len(values), len(items))]
        found.setdefault(names[0][0], []).extend(rows)
    return at
