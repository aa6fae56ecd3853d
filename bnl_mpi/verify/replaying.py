"""The options that a set was made with, by its own word: `/entry/process_bnl_mpi` holds what determines the images, and
names without folders."""

from __future__ import annotations

import json
import math
from typing import Any

from .. import options as opt
from ..arguments import options_from
from ..codecs import registry
from ..errors import BnlError, InputError
from ..hdf5 import access, guard
from ..hdf5.names import PROCESS

NAMES = ("infile", "out_file", "out_master", "out_squash")
DRAWN = ("background", "seed")
"""Of an expansion that drew the background anew: no options of a reduction."""
SPECIAL = frozenset({"codec", "codec_level", "zero", "omit", "keep", "keep_also", "squash", "compression", *NAMES})
"""Keys whose words are not simply --key VALUE."""

Record = dict[str, Any]


def read_record(path: str) -> tuple[Record, str]:
    """(options and names, program version) that the file tells; raises InputError where it tells none."""
    with guard.opened(path) as h5:
        group = access.get_group(h5, PROCESS)
        found = None if group is None else access.get_dataset(group, "options")
        if group is None or found is None:
            raise InputError(f"{path}: {PROCESS}/options is absent; give a master that bnl-mpi wrote")
        text = access.text(found[()])
        told = access.get_dataset(group, "version")
        version = "unknown" if told is None else access.text(told[()])
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("infile"), str):
        raise InputError(f"{path}: {PROCESS}/options is no set of options: {text[:60]!r}")
    return record, version


def checked_words(record: Record, path: str, infile: str | None = None) -> list[str]:
    """The words after `bnl-mpi`, which give options of the same identity as the record's.

    Those of the reduction, where the background was drawn anew since: see `drawn`.
    Raises InputError where they can't: the record is of another version, or was changed.
    """
    record = {key: value for key, value in record.items() if key not in DRAWN}
    try:
        words = make_words(record, infile)
        identity = json.loads(json.dumps(options_from(words).identity()))
    except (BnlError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path}: {PROCESS}/options is not understood ({error}); was it changed?") from None
    # What an older version didn't know, it left as it is by default.
    fields = opt.Options.__dataclass_fields__
    unset = json.loads(json.dumps({name: fields[name].default for name in identity.keys() & fields.keys()}))
    wanted = {**unset, **{key: value for key, value in record.items() if key not in NAMES}}
    differ = sorted(key for key in identity.keys() | wanted.keys() if identity.get(key) != wanted.get(key))
    if differ:
        raise InputError(f"{path}: {PROCESS}/options: this version can't repeat {', '.join(differ)}")
    return words


def drawn(record: Record) -> str:
    """The options of `bnl-mpi expand` by which the background was drawn anew; "" where it wasn't."""
    if record.get("background") is None:
        return ""
    return f"--background {record['background']} --seed {record.get('seed', 0)}"


def make_words(record: Record, infile: str | None = None) -> list[str]:
    """Command line words of a record: what differs from the defaults, and the lossless filter always."""
    words = _option("infile", infile or record["infile"])
    defaults = {name: field.default for name, field in opt.Options.__dataclass_fields__.items()}
    for name in sorted(record.keys() & defaults.keys() - SPECIAL, key=list(defaults).index):
        value = record[name]
        if value is True:
            words.append(f"--{name}")
        elif value != defaults[name]:
            words += _option(name, "e" if value == math.e else value)
    if record.get("codec") is not None:
        flag, level = registry.entry_of(record["codec"]).flag, record.get("codec_level")
        if level is not None:
            words += [flag, str(level)]
    words += _zero_words(record.get("zero", []))
    words += [word for name in record.get("keep", []) for word in _option("keep", name)]
    for rectangle in record.get("keep_also", []):
        words += _option("keep_also", ",".join(map(str, rectangle)))
    if record.get("omit"):
        words += _option("omit", ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in record["omit"]))
    return words + _option("compression", record["compression"]) + _name_words(record)


def _option(name: str, value: object) -> list[str]:
    """A value that begins with a minus sign must not look like an option."""
    text = str(value)
    return [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]


def _zero_words(patterns: list[str]) -> list[str]:
    """-R and -C for patterns such as "R rows_1::2".

    The order is part of the identity, and all of -R are taken before those of -C.  So the patterns of -R end
    where the first of columns follows the last that needs -R; one that names its direction may be in either.
    """
    split = [pattern.split(" ", 1) for pattern in patterns]
    last = max((k for k, (axis, text) in enumerate(split) if axis == "R" and not _names_axis(text)), default=-1)
    first_c = next((k for k, (axis, _) in enumerate(split) if axis == "C" and k > last), len(split))
    words = []
    for k, (axis, text) in enumerate(split):
        flag = ("RO" if k < first_c else "CO") if _names_axis(text) else f"{axis}O"
        words += _option(flag, text)
    return words


def _names_axis(text: str) -> bool:
    return any(word in text for word in ("columns", "rows"))


def _name_words(record: Record) -> list[str]:
    stem = record["out_file"]
    words = _option("out_file", stem)
    if record.get("out_master") not in (None, f"{stem}_master"):
        words += _option("out_master", record["out_master"])
    if record.get("squash"):
        name = record.get("out_squash")
        words += _option("out_squash", "out_file" if name in (None, f"{stem}_squash") else name)
    return words
