"""The command `bnl-mpi simulate PREFIX`."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from ..simulate.settings import Settings

_TYPES = {"int": int, "float": float, "str": str, "tuple[float, ...]": float}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the prefix and an option for each field of Settings, with underscores or dashes."""
    parser.add_argument("prefix", type=Path, help="where to write: PREFIX_master.h5 and its data files")
    parser.add_argument("--force", action="store_true", help="replace files that exist already")
    for setting in fields(Settings):
        _add_option(parser, setting)


def _add_option(parser: argparse.ArgumentParser, setting: Field[Any]) -> None:
    names = list(dict.fromkeys((f"--{setting.name}", f"--{setting.name.replace('_', '-')}")))
    action = parser.add_argument(*names, dest=setting.name, **_description(setting))
    action.option_strings = names[:1]  # the help shows one spelling


def _description(setting: Field[Any]) -> dict[str, Any]:
    """What argparse is to be told of a setting."""
    help_text = setting.metadata["help"]
    if setting.type == "bool":
        return {"action": "store_true", "help": help_text}
    if setting.default is not None:
        help_text += f" (default {setting.default})"
    extra = {key: setting.metadata[key] for key in ("choices", "nargs") if key in setting.metadata}
    kind = _TYPES[str(setting.type).removesuffix(" | None")]
    return {"type": kind, "default": setting.default, "help": help_text, **extra}


def run(namespace: argparse.Namespace) -> int:
    """Write the data set that the parsed command line asks for and print its master's path; 0 on success."""
    # Before a filter is asked for: those of another Python's hdf5plugin, in HDF5_PLUGIN_PATH, don't do.
    from ..hdf5 import plugins  # noqa: F401
    from ..simulate import simulate

    chosen = {setting.name: getattr(namespace, setting.name) for setting in fields(Settings)}
    if chosen["cell"] is not None:
        chosen["cell"] = tuple(chosen["cell"])
    print(simulate(namespace.prefix, force=namespace.force, **chosen))
    return 0
