"""Ways to damage a set's files: through h5py, as bytes, and as things of the file system.  All by a seeded generator.

Each takes (rng, path) and changes that file, or what is beside it; it may raise where the file has nothing of what
it would change.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Mutation = Callable[[np.random.Generator, Path], None]

BITSHUFFLE, LZ4, ZSTD, HTJ2K = 32008, 32004, 32015, 32033
NUMBERS = (0, -1, 1, 2, float("nan"), float("inf"), -float("inf"), 1e30, 1e-30, 2**31, 2**32 - 1, 2**63 - 1, -(2**31))
TEXTS = ("", "x" * 70000, "two\nlines", "%s{}", "\u00e9\u0000", "/entry/data", "NXentry", "b2s2H16", "{}", "[1")
PLACES = (
    "/dev/zero", "/dev/null", "/dev/stdin", "pipe", ".", "..", "../../../../etc/passwd", "/etc/hostname", "absent.h5",
    "", "/", "~/x.h5", "file:///etc/passwd", "link_to_itself", "a" * 300, "x/" * 2000, "/proc/self/mem",
    "/proc/self/fd/0",
)  # fmt: skip


def _pick(rng: np.random.Generator, of: Any) -> Any:
    items = list(of)
    return items[int(rng.integers(len(items)))]


def _items(h5: h5py.File) -> list[str]:
    """Paths of all links of the file, not through external ones."""
    found: list[str] = []

    def visit(group: h5py.Group, path: str, depth: int) -> None:
        for name in group:
            here = f"{path}/{name}"
            found.append(here)
            if depth < 12 and isinstance(group.get(name, getlink=True), h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Group):
                    visit(item, here, depth + 1)

    visit(h5["/"], "", 0)
    return found


def _is_local(h5: h5py.File, path: str) -> bool:
    folder, name = path.rsplit("/", 1)
    return isinstance(h5[folder or "/"].get(name, getlink=True), h5py.HardLink)


def _datasets(h5: h5py.File, *, chunked: bool = False) -> list[str]:
    found = [p for p in _items(h5) if _is_local(h5, p) and isinstance(h5[p], h5py.Dataset)]
    return [p for p in found if h5[p].chunks] if chunked else found


def _prepare_places(folder: Path) -> None:
    for name, make in (("pipe", os.mkfifo), ("link_to_itself", lambda p: os.symlink("link_to_itself", p))):
        if not os.path.lexists(folder / name):
            make(folder / name)


# ---- through h5py ---------------------------------------------------------------------------------------


def remove(rng: np.random.Generator, path: Path) -> None:
    """An item less."""
    with h5py.File(path, "r+") as h5:
        del h5[_pick(rng, _items(h5))]


def rename(rng: np.random.Generator, path: Path) -> None:
    """An item under another's name, or another's like it."""
    with h5py.File(path, "r+") as h5:
        a, b = (_pick(rng, _items(h5)) for _ in range(2))
        if a == b or b.startswith(a + "/"):
            h5.move(a, a + _pick(rng, ("_1", "0", " ", "\u00e9")))
        else:
            del h5[b]
            h5.move(a, b)


def soft_link(rng: np.random.Generator, path: Path) -> None:
    """A soft link for an item: to itself, in a circle, to a parent, to another item."""
    with h5py.File(path, "r+") as h5:
        items = _items(h5)
        victim = _pick(rng, items)
        target = _pick(rng, (victim, victim.rsplit("/", 1)[0] or "/", "/", ".", "..", "/entry", _pick(rng, items), ""))
        del h5[victim]
        h5[victim] = h5py.SoftLink(target or "/nowhere")


def hard_link(rng: np.random.Generator, path: Path) -> None:
    """A group within itself."""
    with h5py.File(path, "r+") as h5:
        groups = ["/"] + [p for p in _items(h5) if _is_local(h5, p) and isinstance(h5[p], h5py.Group)]
        h5[f"{_pick(rng, groups)}/again_{rng.integers(9)}"] = h5[_pick(rng, groups)]


def external_link(rng: np.random.Generator, path: Path) -> None:
    """A link to a device, a pipe, a folder, a path with parents, this very file, another of the set."""
    _prepare_places(path.parent)
    with h5py.File(path, "r+") as h5:
        items = _items(h5)
        data = [p for p in items if "/data/" in p or "/squash/" in p] or items
        victim = _pick(rng, data if rng.random() < 0.6 else items)
        name = _pick(rng, (*PLACES, path.name, *(p.name for p in path.parent.glob("*.h5"))))
        place = _pick(rng, ("/entry/data/data", victim, "/", "/entry", "/nowhere", "relative"))
        del h5[victim]
        h5[victim] = h5py.ExternalLink(name or ".", place)


def external_storage(rng: np.random.Generator, path: Path) -> None:
    """A dataset's values in a file of their own: a local one, a device, a pipe."""
    _prepare_places(path.parent)
    with h5py.File(path, "r+") as h5:
        victim = _pick(rng, _datasets(h5))
        shape, dtype = h5[victim].shape, h5[victim].dtype
        if dtype.kind == "O":
            dtype = np.dtype("S8")
        del h5[victim]
        n = int(np.prod(shape or (1,), dtype=np.int64)) * dtype.itemsize
        h5.create_dataset(victim, shape=shape or (1,), dtype=dtype, external=[(_pick(rng, PLACES) or "x", 0, n)])


def _lying(rng: np.random.Generator, old: Any) -> dict[str, Any]:
    """Arguments of `create_dataset` for a dataset that isn't like the old one."""
    shape = tuple(old.shape or ())
    kinds: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: {"data": np.float64(_pick(rng, NUMBERS))},
        lambda: {"data": np.full(shape or (3,), _pick(rng, NUMBERS), "f4")},
        lambda: {"data": _pick(rng, TEXTS).replace("\0", "")},
        lambda: {"data": np.bytes_(_pick(rng, TEXTS).encode()[:60000] + b"\xff")},
        lambda: {"data": np.zeros(3, [("a", "i4"), ("b", "f8", (2,))])},
        lambda: {"data": h5py.Empty("f4")},
        lambda: {"shape": (0,), "dtype": "u2"},
        lambda: {"shape": (0, *shape[1:]), "dtype": "u2", "maxshape": (None, *shape[1:])},
        lambda: {"shape": (10**6, 10**5, 10**5), "dtype": "u4", "chunks": (1, 64, 64)},
        lambda: {"shape": (2**31, 8), "dtype": "u2", "chunks": (1, 8)},
        lambda: {"shape": (2**40,), "dtype": "f8", "chunks": (1024,)},
        lambda: {"shape": (30000, 30000), "dtype": "f8"},
        lambda: {"shape": (*shape[:-1], shape[-1] + 1) if shape else (2,), "dtype": old.dtype},
        lambda: {"shape": (1, *shape), "dtype": old.dtype},
        lambda: {"shape": shape[1:], "dtype": old.dtype},
        lambda: {"shape": (1,) * 20, "dtype": "u2"},
        lambda: {"data": np.arange(6, dtype=">u4").reshape(2, 3)},
        lambda: {"data": np.array([b"a", b"b"], dtype="S4")},
        lambda: {"data": [b"a", "b" * 5000], "dtype": h5py.string_dtype()},
        lambda: {"shape": (4,), "dtype": h5py.vlen_dtype("i4")},
        lambda: {"shape": (2,), "dtype": h5py.ref_dtype},
        lambda: {"data": np.zeros(shape or (2,), bool)},
        lambda: {"data": np.zeros(shape[:2] or (2,), "c8")},
        lambda: {"data": np.full((2, 3), 2**64 - 1, "u8")},
        lambda: {"data": np.zeros((3,), np.dtype("V12"))},
    )
    made: dict[str, Any] = _pick(rng, kinds)()
    return made


def lying_dataset(rng: np.random.Generator, path: Path) -> None:
    """A dataset of another type or shape, never written, or monstrous."""
    with h5py.File(path, "r+") as h5:
        victim = _pick(rng, _datasets(h5))
        how, attributes = _lying(rng, h5[victim]), dict(h5[victim].attrs)
        del h5[victim]
        h5.create_dataset(victim, **how).attrs.update(attributes)


def other_value(rng: np.random.Generator, path: Path) -> None:
    """The same type and shape, one number or all of them or the text absurd."""
    with h5py.File(path, "r+") as h5:
        victim = h5[_pick(rng, [p for p in _datasets(h5) if h5[p].size and h5[p].size < 1e6])]
        values = np.asarray(victim[()])
        if values.dtype.kind in "OSU":
            victim[()] = _pick(rng, TEXTS).replace("\0", "")
            return
        flat = values.reshape(-1).copy()
        with np.errstate(all="ignore"):
            new = np.asarray(np.array(_pick(rng, NUMBERS)).astype(flat.dtype))
        flat[slice(None) if rng.random() < 0.5 else int(rng.integers(len(flat)))] = new
        victim[()] = flat.reshape(values.shape)


def other_attribute(rng: np.random.Generator, path: Path) -> None:
    """An attribute less, more, or of another kind."""
    values: tuple[Callable[[], Any], ...] = (
        lambda: np.int32(_pick(rng, (0, -1, 1, 5, 2**31 - 1))),
        lambda: _pick(rng, NUMBERS[:8]),
        lambda: np.bytes_(b"NXdata\xff"),
        lambda: "x" * 60000,
        lambda: np.zeros((20, 20)),
        lambda: h5py.Empty("S1"),
        lambda: np.array(["a", "b"], dtype=h5py.string_dtype()),
    )
    with h5py.File(path, "r+") as h5:
        owners = [h5[p] for p in _items(h5) if _is_local(h5, p)]
        owner = _pick(rng, [o for o in owners if len(o.attrs)] or owners)
        names = list(owner.attrs) or ["NX_class"]
        name = _pick(rng, (*names, "NX_class", "image_nr_low", "image_nr_high", "units", "depends_on", "vector"))
        if name in owner.attrs and rng.random() < 0.3:
            del owner.attrs[name]
        else:
            owner.attrs[name] = _pick(rng, values)()


def group_for_dataset(rng: np.random.Generator, path: Path) -> None:
    """A group where a dataset was, or the other way round; some of great depth."""
    with h5py.File(path, "r+") as h5:
        victim = _pick(rng, [p for p in _items(h5) if _is_local(h5, p)])
        is_group = isinstance(h5[victim], h5py.Group)
        del h5[victim]
        if is_group:
            h5[victim] = _pick(rng, (1.0, "text", [1, 2, 3]))
        else:
            group = h5.create_group(victim)
            for _ in range(int(_pick(rng, (0, 1, 40, 1200)))):
                group = group.create_group("g")


def diamonds(rng: np.random.Generator, path: Path) -> None:
    """2 ^ 26 ways to one group."""
    with h5py.File(path, "r+") as h5:
        group = h5[_pick(rng, ["/"] + [p for p in _items(h5) if _is_local(h5, p) and isinstance(h5[p], h5py.Group)])]
        for _ in range(26):
            below = group.create_group("left")
            group["right"] = below
            group = below


def virtual(rng: np.random.Generator, path: Path) -> None:
    """A virtual dataset: of itself, of what is absent, of a pipe, with a hole, of a data file."""
    _prepare_places(path.parent)
    with h5py.File(path, "r+") as h5:
        victim = _pick(rng, [p for p in _datasets(h5) if len(h5[p].shape) in (1, 2, 3)])
        shape, dtype = h5[victim].shape, h5[victim].dtype
        if dtype.kind not in "iuf":
            dtype = np.dtype("u2")
        files = (".", path.name, "absent.h5", "pipe", *(p.name for p in path.parent.glob("*.h5")))
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
        source = h5py.VirtualSource(_pick(rng, files), _pick(rng, (victim, "/entry/data/data", "/x")), shape, dtype)
        n = shape[0] if rng.random() < 0.5 else max(0, shape[0] - 1)
        layout[:n] = source[:n]
        del h5[victim]
        h5.create_virtual_dataset(victim, layout, fillvalue=0)


def _chunks_of(dataset: Any) -> list[tuple[tuple[int, ...], bytes, int]]:
    infos = [dataset.id.get_chunk_info(k) for k in range(min(64, dataset.id.get_num_chunks()))]
    found = [(i.chunk_offset, *dataset.id.read_direct_chunk(i.chunk_offset)) for i in infos]
    return [(offset, data, mask) for offset, mask, data in found]


def pipeline(rng: np.random.Generator, path: Path) -> None:
    """Stored chunks as they are, under another filter, other parameters of it, or another shape of chunks."""
    with h5py.File(path, "r+") as h5:
        victim = _pick(rng, _datasets(h5, chunked=True))
        old = h5[victim]
        chunks, attributes = _chunks_of(old), dict(old.attrs)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        shape = list(old.chunks)
        if rng.random() < 0.3:
            k = int(rng.integers(len(shape)))
            shape[k] = int(_pick(rng, (1, shape[k] + 1, max(1, shape[k] // 2), 2 * shape[k], 100000)))
        plist.set_chunk(tuple(shape))
        for _ in range(int(rng.integers(0, 4))):
            code = int(_pick(rng, (BITSHUFFLE, LZ4, ZSTD, HTJ2K, 1, 2, 3, 305, 65000)))
            values = tuple(int(_pick(rng, (0, 1, 2, 3, 5, 8, 4096, 2**31, 2**32 - 1))) for _ in range(rng.integers(9)))
            plist.set_filter(code, int(_pick(rng, (0, h5py.h5z.FLAG_OPTIONAL))), values)
        maximum = tuple(h5py.h5s.UNLIMITED if m is None else m for m in old.maxshape)
        space, kind = h5py.h5s.create_simple(old.shape, maximum), old.id.get_type()
        del h5[victim]
        folder, name = victim.rsplit("/", 1)
        made = h5py.Dataset(h5py.h5d.create(h5[folder or "/"].id, name.encode(), kind, space, plist))
        made.attrs.update(attributes)
        for offset, data, mask in chunks:
            if all(o % c == 0 for o, c in zip(offset, shape, strict=True)):
                made.id.write_direct_chunk(offset, data, mask)


def _damage(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Bytes with some flipped, cut, put in, or a field of a length; mostly near the beginning, where headers are."""
    bad = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not bad:
            break
        top = min(len(bad), int(_pick(rng, (24, 140, len(bad)))))
        at = int(rng.integers(top))
        match int(rng.integers(7)):
            case 0 | 1:
                bad[at] ^= 1 << int(rng.integers(8))
            case 2:
                bad[at] = int(rng.integers(256))
            case 3:
                size, value = _pick(rng, ((2, 65535), (4, 2**32 - 1), (4, 2**31), (8, 2**63), (4, 0), (2, 0), (4, 1)))
                bad[at : at + size] = struct.pack({2: ">H", 4: ">I", 8: ">Q"}[size], value)
            case 4:
                del bad[at:]
            case 5:
                del bad[at : at + int(rng.integers(1, 30))]
            case _:
                bad[at:at] = other[: int(rng.integers(1, 200))]
    return bytes(bad)


def damaged_chunk(rng: np.random.Generator, path: Path) -> None:
    """A chunk's stored bytes damaged, exchanged for another's, or with another filter mask."""
    with h5py.File(path, "r+") as h5:
        victim = h5[_pick(rng, _datasets(h5, chunked=True))]
        chunks = _chunks_of(victim)
        offset, data, mask = _pick(rng, chunks)
        other = _pick(rng, chunks)[1]
        match int(rng.integers(4)):
            case 0:
                data = other
            case 1:
                mask = int(_pick(rng, (1, 2, 3, 2**32 - 1)))
            case _:
                data = _damage(rng, data, other)
        victim.id.write_direct_chunk(offset, data, mask)


def damaged_codestream(rng: np.random.Generator, path: Path) -> None:
    """A codestream of a squash file damaged; its length too."""
    with h5py.File(path, "r+") as h5:
        names = [p for p in _datasets(h5) if p.startswith("/entry/data/data_")]
        victim = _pick(rng, names)
        data, attributes = h5[victim][()], dict(h5[victim].attrs)
        bad = _damage(rng, data.tobytes(), h5[_pick(rng, names)][()].tobytes())
        del h5[victim]
        h5.create_dataset(victim, data=np.frombuffer(bad, np.uint8)).attrs.update(attributes)


# ---- as bytes and in the file system --------------------------------------------------------------------


def flipped(rng: np.random.Generator, path: Path) -> None:
    """Bits of the file, anywhere or where HDF5's structure is."""
    data = bytearray(path.read_bytes())
    top = int(_pick(rng, (96, 2048, len(data))))
    for at in rng.integers(0, min(top, len(data)), int(_pick(rng, (1, 1, 4, 40)))):
        data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def numbers_changed(rng: np.random.Generator, path: Path) -> None:
    """Lengths and addresses as HDF5 has them, little-endian."""
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(data) - 8)))
        code, value = _pick(
            rng, (("<H", 65535), ("<I", 2**32 - 1), ("<Q", 2**63), ("<Q", len(data)), ("<Q", 0), ("<I", 1))
        )
        data[at : at + struct.calcsize(code)] = struct.pack(code, value)
    path.write_bytes(data)


def cut_or_grown(rng: np.random.Generator, path: Path) -> None:
    """Cut, emptied, zeroes in the middle, or something behind the end."""
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    match int(rng.integers(5)):
        case 0:
            del data[at:]
        case 1:
            data.clear()
        case 2:
            data[at : at + 4096] = bytes(min(4096, len(data) - at))
        case 3:
            data += bytes(rng.integers(0, 256, 5000, dtype=np.uint8))
        case _:
            data[:0] = bytes(512)
    path.write_bytes(data)


def spliced(rng: np.random.Generator, path: Path) -> None:
    """A part of another file of the set in the middle, or the whole other file."""
    others = sorted(path.parent.glob("*.h5"))
    other, data = _pick(rng, others).read_bytes(), bytearray(path.read_bytes())
    if rng.random() < 0.3:
        data = bytearray(other)
    else:
        at, start = int(rng.integers(len(data))), int(rng.integers(len(other)))
        piece = other[start : start + int(rng.integers(1, 2000))]
        data[at : at + len(piece)] = piece
    path.write_bytes(data)


def no_file(rng: np.random.Generator, path: Path) -> None:
    """A pipe, a folder, a circle of links, a device or nothing in the file's place."""
    path.unlink()
    match int(rng.integers(6)):
        case 0:
            os.mkfifo(path)
        case 1:
            path.mkdir()
        case 2:
            path.symlink_to(path.name)
        case 3:
            path.symlink_to("/dev/zero")
        case 4:
            path.symlink_to("/proc/self/mem")
        case _:
            pass


MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (remove, 2), (rename, 1), (soft_link, 2), (hard_link, 1), (external_link, 4), (external_storage, 2),
    (lying_dataset, 6), (other_value, 5), (other_attribute, 2), (group_for_dataset, 2), (diamonds, 1), (virtual, 3),
    (pipeline, 3), (damaged_chunk, 4), (damaged_codestream, 3), (flipped, 3), (numbers_changed, 3), (cut_or_grown, 2),
    (spliced, 2), (no_file, 1),
)  # fmt: skip
"""With how often each is drawn, relatively."""
