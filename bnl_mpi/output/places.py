"""Every path that a run may write, looked at before any is opened; and what is swept away.

One rule: nothing is overwritten, appended to or removed unless it carries this program's record for this stem; or,
for `--json` and `--log_json`, unless it is new, empty, or was written by this program.  All paths of a run differ from
one another and from its input's, links resolved.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from ..errors import BnlError, OutputError
from ..hdf5 import access
from ..hdf5.names import PROCESS
from ..job import Job, share_blocks
from ..options import Options
from ..plan import BLOCK_ENDING, block_path
from . import blockfile
from . import record as records
from .text import STANDARD_OUTPUT

SUMMARY_KEYS = frozenset({"seconds", "warnings"})
"""By these a JSON object is known for a summary of this program."""
EVENT_KEYS = frozenset({"time", "event"})
"""By these a line of JSON is known for one of `--log_json`."""
VERIFIER = "#bnl_mpi_verify"
"""By this a certificate is known for one of this program."""
LARGEST_SUMMARY = 1 << 28
"""Bytes."""

LONGEST_ENDING = ".share-999-of-999.lock.-4194304.dead"
"""Of the temporary names that are made of an output's, less the host's name."""


def _output_stems(options: Options) -> list[str]:
    return [options.out_file] + ([options.out_squash] if options.out_squash else [])


def check_places(job: Job) -> None:
    """Refuse paths that lie where nothing can be written, that meet one another, or that are the input's."""
    options = job.options
    written = [options.master_path, options.nxs_path]
    written += [block_path(stem, k) for stem in _output_stems(options) for k in (1, job.plan.n_blocks)]
    for path in written:
        _check_name(path)
        _check_folder(path)
    _check_links(job)
    _check_apart(options)
    _check_not_input(job, written)
    check_texts(options, [job.source.master, options.infile])


def _check_folder(path: str, lead: str = "") -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"{lead}{folder}: no such folder for the output; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{lead}{folder}: the output's folder is not writable")


def _check_name(path: str) -> None:
    """Refuse what the system takes no file of that name, or no temporary one, for."""
    folder, name = os.path.split(os.path.abspath(path))
    needed = len(os.fsencode(f"{name}{LONGEST_ENDING}{os.uname().nodename[:64]}"))
    try:
        longest, longest_path = os.pathconf(folder, "PC_NAME_MAX"), os.pathconf(folder, "PC_PATH_MAX")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror}; choose a shorter name") from error
    if needed > longest or len(os.fsencode(folder)) + 1 + needed >= longest_path:
        raise OutputError(
            f"{path}: the name is too long: with the ending of a temporary file it has {needed} bytes, {longest} are "
            f"possible, and {longest_path - 1} with the folder's; choose a shorter one"
        )


def _check_links(job: Job) -> None:
    """Refuse names of data files that HDF5 would take for a pattern in a virtual dataset."""
    folder = os.path.dirname(os.path.abspath(job.options.master_path))
    for stem in _output_stems(job.options):
        name = os.path.relpath(os.path.abspath(stem), folder)
        if "%" in name:
            raise OutputError(
                f"{name}: HDF5 takes the % in a name for a pattern, so no master could link such files; choose another"
            )


# ---- paths that meet ------------------------------------------------------------------------------------


def _where(path: str) -> str:
    """The path with its folder's links resolved, the file's own not."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _single_files(options: Options) -> Iterator[tuple[str, str]]:
    """(option, path) of all files but the blocks."""
    yield "-m", options.master_path
    yield "-m", options.nxs_path
    yield from _text_files(options)
    for stem in _output_stems(options):
        yield "-o" if stem == options.out_file else "-q", f"{stem}.lock"


def _text_files(options: Options) -> Iterator[tuple[str, str]]:
    """(option, path) of the files of text that are asked for."""
    for option, path in (("--json", options.json), ("--log_json", options.log_json)):
        if path and path != STANDARD_OUTPUT:
            yield option, path


def _check_apart(options: Options) -> None:
    """Refuse two options that name one file."""
    taken: dict[str, str] = {}
    blocks = {}
    for option, stem in zip(("-o", "-q"), _output_stems(options), strict=False):
        place = _where(stem)
        if place in blocks:
            raise OutputError(f"{stem}: -o and -q name the same files; choose another -q")
        blocks[place] = option
    for option, path in _single_files(options):
        if not _is_file_or_none(path):
            continue
        for place in {_where(path), os.path.realpath(path)}:
            stem = re.sub(BLOCK_ENDING + r"(\..*)?$", "", place)
            other = taken.get(place) or (blocks.get(stem) if stem != place else None)
            if other is not None:
                raise OutputError(f"{path}: {option} names a file that {other} writes too; choose another name")
        taken.update(dict.fromkeys((_where(path), os.path.realpath(path)), option))


def _is_file_or_none(path: str) -> bool:
    """False for devices and pipes, which many may write to."""
    return not os.path.exists(path) or os.path.isfile(path)


def _check_not_input(job: Job, written: Iterable[str]) -> None:
    old: list[str] = []
    for stem in _output_stems(job.options):
        if job.options.force:
            old += blockfile.existing_blocks(stem).values()
        elif job.options.resume:
            old += [block_path(stem, k) for k in range(1, job.plan.n_blocks + 1)]
        # Else `check_existing` refuses them, whatever they are.
    # As a rule nothing is there, and no input needs to be looked at.
    there = [p for p in [*written, *old] if os.path.exists(p)]
    if not there:
        return
    data_files = {segment.path for segment in job.source.segments}
    inputs = {_file_number(path) for path in (job.source.master, job.options.infile, *data_files)}
    for path in there:
        if _file_number(path) in inputs:
            raise OutputError(f"{path}: is a file of the input; choose another name with -o or -m")


def _file_number(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# ---- whose file it is -----------------------------------------------------------------------------------


def check_texts(options: Options, inputs: Iterable[str] = ()) -> None:
    """Refuse a `--json` or `--log_json` that can't be written, or would destroy what isn't of our making."""
    numbers = {_file_number(path) for path in inputs} - {None}
    is_ours = {"--json": _is_summary, "--log_json": _is_log}
    for option, path in _text_files(options):
        _check_name(path)
        _check_folder(path, f"{option} {path}: ")
        if not os.path.exists(path):
            continue
        if os.path.isdir(path):
            raise OutputError(f"{option} {path}: is a folder; name a file in it")
        if _file_number(path) in numbers:
            raise OutputError(f"{path}: is a file of the input; choose another name with {option}")
        if os.path.isfile(path) and os.path.getsize(path) and not is_ours[option](path):
            raise OutputError(
                f"{option} {path}: is there, and was not written by {option}; move it away, or choose another name"
            )


def _is_summary(path: str) -> bool:
    if os.path.getsize(path) > LARGEST_SUMMARY:
        return False
    return _has_keys(_read(path, LARGEST_SUMMARY), SUMMARY_KEYS)


def _is_log(path: str) -> bool:
    return _has_keys(_read(path, 1 << 20).split(b"\n", 1)[0], EVENT_KEYS)


def _read(path: str, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise OutputError(f"{path}: can't be read: {error.strerror}; choose another name") from error


def _has_keys(text: bytes, keys: frozenset[str]) -> bool:
    try:
        found: Any = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and keys <= found.keys()


def is_ours(path: str, options: Options) -> bool:
    """Whether the file at an output's path carries the record of this stem, or nothing at all."""
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return True
    if path in (options.master_path, options.nxs_path):
        return _names_stem(path, options.out_file)
    for stem in _output_stems(options):
        m = re.fullmatch(re.escape(os.path.abspath(stem)) + BLOCK_ENDING, os.path.abspath(path))
        if m is not None:
            return blockfile.is_block(path, options.out_file, int(m[1]), is_squash=stem == options.out_squash)
    return False


def _names_stem(path: str, stem: str) -> bool:
    """Whether a master tells that it is one of this program, with data files of that stem."""
    try:
        with access.open_read(path) as file:
            group = file[PROCESS]
            told = json.loads(access.text(group["options"][()]))
            return access.text(group["program"][()]) == "bnl_mpi" and told["out_file"] == os.path.basename(stem)
    except (BnlError, KeyError, OSError, RuntimeError, TypeError, ValueError):
        return False


def check_existing(job: Job, *, share: int | None = None) -> None:
    """Refuse to overwrite an older output, and with `--force` what isn't one.

    `share`: the share of `-t`, which has neighbours.
    """
    options = job.options
    if options.resume:
        return
    stems = _output_stems(options)
    masters = [p for p in (options.master_path, options.nxs_path) if os.path.lexists(p)]
    blocks = [p for stem in stems for p in blockfile.existing_blocks(stem).values()]
    if share is not None:
        if not options.force:
            _check_neighbours(job, blocks)
        own = {os.path.abspath(block_path(stem, k)) for stem in stems for k in share_blocks(job, share)}
        # With --force, share 0 removes what lies beyond the last block.
        blocks = [p for p in blocks if p in own or (share == 0 and options.force)]
        masters = masters if share == 0 else []
    if options.force:
        for path in masters + blocks:
            _refuse_stranger(path, options)
    elif masters or blocks:
        first = (masters + blocks)[0]
        more = f" and {len(masters) + len(blocks) - 1} more" if len(masters) + len(blocks) > 1 else ""
        raise OutputError(
            f"{first}{more}: output of that name is there already; --resume completes an interrupted run of this "
            "job, --force overwrites it, or choose another -o"
        )


def _refuse_stranger(path: str, options: Options) -> None:
    if not is_ours(path, options):
        raise OutputError(
            f"{path}: is no file of a set {options.out_file} that this program made, so it is not overwritten; move "
            "it away, or choose another name"
        )


def _check_neighbours(job: Job, blocks: list[str]) -> None:
    for path in blocks:
        if records.read_plan_sha256(path) != job.sha256:
            raise OutputError(
                f"{path}: belongs to another run (other options, input or version); remove it, choose another -o, "
                "or give --force to every share"
            )


def listed(job: Job, path_of: Callable[[int], str]) -> list[tuple[str, int]]:
    """(file relative to the master's folder, images in it) of every block; `path_of` gives a number's path."""
    folder = os.path.dirname(os.path.abspath(job.options.master_path))
    return [(os.path.relpath(os.path.abspath(path_of(b.number)), folder), b.n_images) for b in job.plan.blocks()]


# ---- what is swept away ---------------------------------------------------------------------------------


def remove_old_masters(job: Job) -> None:
    """`--force`'s first act: from here on no master tells of a finished run."""
    there = [path for path in (job.options.master_path, job.options.nxs_path) if os.path.lexists(path)]
    for path in there:
        _refuse_stranger(path, job.options)
        os.unlink(path)
    if there:
        _remove_certificate(job.options.nxs_path.removesuffix(".nxs"))


def certificate_paths(stem: str) -> tuple[str, str]:
    """(the checksums, the crate) of the set of STEM_master.h5."""
    return f"{stem}.sha256", f"{stem}.crate.json"


def is_certificate(crate: str) -> bool:
    """Whether a crate is there that this program wrote."""
    try:
        with open(crate, encoding="utf-8") as file:
            return f'"{VERIFIER}"' in file.read(LARGEST_SUMMARY)
    except (OSError, UnicodeDecodeError):
        return False


def _remove_certificate(stem: str) -> None:
    """It is of the set that was there; only where it is one of ours."""
    paths = certificate_paths(stem)
    if is_certificate(paths[1]):
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)


def remove_partial_files(job: Job, share: int | None = None) -> None:
    """Temporary files that a run left which was killed; with the lock held, nobody else writes any."""
    options = job.options
    masters = [options.master_path, options.nxs_path]
    if share is None:
        blockfile.remove_partial_files(_output_stems(options), masters)
        return
    own = share_blocks(job, share)
    paths = [options.data_path(k) for k in own] + [options.squash_path(k) for k in own if options.out_squash]
    blockfile.remove_partial_files((), paths if share else masters)


def remove_surplus_blocks(job: Job) -> None:
    """`--force`'s last act: blocks of an older run beyond those of this one."""
    for stem in _output_stems(job.options):
        for number, path in blockfile.existing_blocks(stem).items():
            if not 1 <= number <= job.plan.n_blocks and is_ours(path, job.options):
                os.unlink(path)
