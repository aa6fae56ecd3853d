"""HDF5's quirks, handled once: scalars of shape () or (1,), bytes or str, links that lead nowhere, locks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from re import compile as regex
from typing import Any

import h5py
import numpy as np

from ..errors import InputError, OutputError
from . import plugins, steady
from .items import Item

LIBVER = ("earliest", "v110")
"""Every object gets the oldest form that can hold it; v110 is needed for virtual datasets alone.

XDS's reader has its own HDF5 parser: it takes superblocks 0 to 3 and layout messages 3 and 4, no later ones.
"""

DATA_NAME = regex(r"data_\d+")
"""What the links to data files are called in /entry/data."""

ABSENT = regex("doesn't exist|not found|can't open file|too many links|empty string|not registered")
"""What HDF5 says of a path that leads nowhere, other than of one that leads to something damaged."""

UNWRITTEN_BYTES, MOST_PACKED = 1 << 28, 2000
"""A larger dataset is taken for a lie where no filter can have packed it as it is stored."""

MOST_LEVELS = 8
"""Links of files to files to files."""

MAX_DEPTH = 64
"""Groups deeper than this are taken for a cycle of links."""


def open_read(path: str | Path) -> h5py.File:
    """Open `path` for reading, without a file lock; raises InputError, in one line, where that can't be."""
    name = str(path)
    _check_kind(name)
    try:
        return steady.File(name)
    except PermissionError:
        raise InputError(f"{name}: permission to read it is denied") from None
    except OSError as error:
        if not _has_signature(name):
            raise InputError(f"{name}: not an HDF5 file") from None
        raise InputError(f"{name}: damaged or still being written ({first_line(error)})") from None


def _check_kind(name: str) -> None:
    """InputError where there is no file of that name, or something else."""
    try:
        mode = os.stat(name).st_mode
    except ValueError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise InputError(f"{name}: no such file") from None
        return  # who opens it learns why
    if stat.S_ISDIR(mode):
        raise InputError(f"{name}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{name}: is a pipe or a device, not a regular file")


def open_write(path: str | Path, *, libver: tuple[str, str] = LIBVER) -> h5py.File:
    """Create `path`, replacing what is there, in the form that every reader of diffraction data parses."""
    try:
        return h5py.File(str(path), "w", libver=libver, locking=False)
    except OSError as error:
        raise OutputError(f"{path}: can't be created ({first_line(error)})") from None


class UnknownFilter(InputError):
    """Values are stored in a way that no library here can read; nothing is wrong with them."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """What HDF5 or the system finds wrong with an input within is an InputError, in one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) or type(error) is RuntimeError:
            raise InputError(f"{path}: can't be read: {first_line(error)}; restore the file") from error
        raise


def _has_signature(name: str) -> bool:
    try:
        return bool(h5py.is_hdf5(name))
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that HDF5 adds."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def text(value: Any) -> str:
    """A string from what HDF5 gave: str, bytes, NumPy's kinds, or an array of one of them."""
    if isinstance(value, np.ndarray):
        return text(value.reshape(-1)[0]) if value.size else ""
    if isinstance(value, bytes):
        return value.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "" if value is None or isinstance(value, h5py.Empty) else str(value)


def scalar(dataset: h5py.Dataset) -> Any:
    """The one value of a dataset of any shape that holds one, as a Python value; strings as str.

    Raises InputError where the dataset holds none or more than one.
    """
    if dataset.size != 1:
        where = f"{dataset.file.filename}: {dataset.name}"
        raise InputError(f"{where} has {dataset.size or 0} values, where one is wanted")
    value = np.asarray(dataset[()]).reshape(-1)[0]
    if isinstance(value, (bytes, str)):
        return text(value)
    return value.item() if isinstance(value, np.generic) else value


def number(group: h5py.Group, path: str) -> float | None:
    """The finite number at `path` below `group`, or None where there is no such thing."""
    value = any_number(group, path)
    return value if value is not None and np.isfinite(value) else None


def any_number(group: h5py.Group, path: str) -> float | None:
    """The number at `path` below `group`, be it infinite or NaN, or None where there is none."""
    found = get_dataset(group, path)
    if found is None or found.size != 1 or found.dtype.kind not in "iufb":
        return None
    return float(scalar(found))


def attribute_text(item: h5py.HLObject, name: str) -> str:
    """An attribute as a string; "" where it is absent or of a type that can't be read."""
    try:
        return text(item.attrs.get(name))
    except (OSError, TypeError, KeyError):
        return ""


def attribute_integer(item: h5py.HLObject, name: str) -> int | None:
    """An attribute that is one integer; None where it is absent or something else."""
    try:
        value = np.asarray(item.attrs[name]).reshape(-1)
    except (OSError, TypeError, KeyError, ValueError):
        return None
    return int(value[0]) if value.size == 1 and value.dtype.kind in "iu" else None


def is_regular(path: str) -> bool:
    """Whether a path leads to a regular file: nothing that would make a reader wait, and no device."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def places(filename: str, name: str) -> list[str]:
    """Where HDF5 may look for a file that the file `name` links."""
    folders = [os.path.dirname(f(name)) for f in (os.path.abspath, os.path.realpath)] + [os.getcwd()]
    names = [filename, os.path.basename(filename)] if os.path.isabs(filename) else [filename]
    return list(dict.fromkeys(os.path.join(folder, one) for one in names for folder in folders))


def leads_to_no_file(group: h5py.Group, path: str, levels: int = MOST_LEVELS) -> bool:
    """Whether a link on the way, or in the files that it leads to, `levels` of them one after the other, names a pipe
    or a device, which HDF5 would wait for, or a folder."""
    return any(_is_no_file(group, part, levels) for part in _on_the_way(path))


def _on_the_way(path: str) -> list[str]:
    """The path, and before it each part that ends before a slash."""
    return [*(path[:end] for end in range(1, len(path)) if path[end] == "/"), path]


def _is_no_file(group: h5py.Group, path: str, levels: int) -> bool:
    found = link(group, path)
    if not isinstance(found, h5py.ExternalLink):
        return False
    there = [place for place in places(found.filename, group.file.filename) if os.path.exists(place)]
    if not all(map(is_regular, there)):
        return True
    if not levels:
        return bool(there)
    for place in there[:1]:
        with suppress(InputError, OSError, RuntimeError, ValueError), open_read(place) as file:
            return leads_to_no_file(file, found.path, levels - 1)
    return False


def _dangles(group: h5py.Group, path: str) -> bool:
    """Whether the last link leads to another file, or one on the way to none, of which HDF5 1.14 doesn't tell."""
    links = {part: found for part in _on_the_way(path) if isinstance(found := link(group, part), h5py.ExternalLink)}
    near = group.file.filename
    return path in links or not all(any(map(os.path.exists, places(one.filename, near))) for one in links.values())


def resolve(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """What `path` leads to, through links of any kind; None where it is dangling, or leads to no file or a named type.

    Raises InputError where something is there and can't be opened: it must not pass for what isn't there.
    """
    try:
        found = group.find(path) if isinstance(group, steady.Group) and path else None
        if found is None:
            if leads_to_no_file(group, path):
                return None
            found = group[path]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        if ABSENT.search(str(error)) or _dangles(group, path):
            return None
        raise InputError(f"{group.file.filename}: {path} can't be read ({first_line(error)})") from error
    return found if isinstance(found, (h5py.Group, h5py.Dataset)) else None


def get_dataset(group: h5py.Group, path: str) -> h5py.Dataset | None:
    """The dataset at `path`, or None."""
    found = resolve(group, path)
    return found if isinstance(found, h5py.Dataset) else None


def get_group(group: h5py.Group, path: str) -> h5py.Group | None:
    """The group at `path`, or None."""
    found = resolve(group, path)
    return found if isinstance(found, h5py.Group) else None


def identity(item: h5py.HLObject) -> tuple[int, int]:
    """File number and address: equal for two names of one object."""
    if isinstance(item, Item):
        return item.identity
    info = h5py.h5o.get_info(item.id)
    return int(info.fileno), int(info.addr)


def link(group: h5py.Group, name: str) -> h5py.HardLink | h5py.SoftLink | h5py.ExternalLink | None:
    """The link itself; None for kinds that h5py doesn't know (user-defined ones)."""
    try:
        if isinstance(group, steady.Group) or "/" in name or not group.id.links.exists(name.encode()):
            return group.get(name, getlink=True)
        if group.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD:
            return h5py.HardLink()
        return group.get(name, getlink=True)
    except (TypeError, OSError, KeyError):
        return None


def is_data_link(group: h5py.Group, name: str) -> bool:
    """Whether `name` is an external link to images: opening thousands of data files takes long."""
    return DATA_NAME.fullmatch(name) is not None and isinstance(link(group, name), h5py.ExternalLink)


def walk(group: h5py.Group, path: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """(path, dataset) of every dataset below `group`, through links too; each group once.

    External links named as data files' are passed over.
    """
    yield from _walk(group, path.rstrip("/"), {identity(group): group}, 0)


def _walk(
    group: h5py.Group, path: str, seen: dict[tuple[int, int], h5py.Group], depth: int
) -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        if is_data_link(group, name):
            continue
        item = resolve(group, name)
        here = f"{path}/{name}"
        if isinstance(item, h5py.Dataset):
            yield here, item
        elif isinstance(item, h5py.Group) and identity(item) not in seen and depth < MAX_DEPTH:
            # Kept open: a file that is closed and opened again has another identity.
            seen[identity(item)] = item
            yield from _walk(item, here, seen, depth + 1)


def make_group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """The group `name` below `parent`, made where it isn't there, with a fixed-length NX_class.

    Readers of older masters compare that attribute with bytes, which a variable-length one isn't.
    """
    group = parent.require_group(name)
    if "NX_class" not in group.attrs:
        group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def check_storage(dataset: h5py.Dataset) -> None:
    """InputError where a dataset has far more values than anything stored could hold: nobody ever wrote them."""
    n_bytes = dataset.size * dataset.id.get_type().get_size()
    if n_bytes > UNWRITTEN_BYTES and n_bytes > MOST_PACKED * dataset.id.get_storage_size():
        where = f"{dataset.file.filename}: {dataset.name}"
        raise InputError(f"{where} is of {n_bytes} bytes, of which {dataset.id.get_storage_size()} are stored")


def enable_filters(dataset: h5py.Dataset) -> None:
    """Load the plugins for filters that HDF5 doesn't bring along, where the dataset has a filter at all."""
    if n_filters := steady.told(dataset)[2]:
        pipeline = dataset.id.get_create_plist()
        for k in range(n_filters):
            plugins.enable(pipeline.get_filter(k)[0])


def read(dataset: h5py.Dataset, part: Any = ()) -> Any:
    """A dataset's values, or a part of them, whatever filter they are stored with.

    Raises InputError where they can't be decoded; UnknownFilter where that is for want of a library.
    """
    try:
        enable_filters(dataset)
        return dataset[part]
    except (OSError, ImportError) as error:
        raise unreadable(dataset, error) from None


def unreadable(dataset: h5py.Dataset, error: Exception) -> InputError:
    """The error to raise where a dataset's values can't be read."""
    plist = dataset.id.get_create_plist()
    codes = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
    kind = InputError if all(h5py.h5z.filter_avail(code) for code in codes) else UnknownFilter
    return kind(f"{dataset.file.filename}: {dataset.name} can't be read ({first_line(error)})")
