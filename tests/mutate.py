"""A seeded attack on all that reads sets: `python -m tests.mutate --cases 2000 --seed 1`.

Each case damages files of a small set (through h5py, as bytes, in the file system) and has one command read it, in a
child with limits of memory and time.  The command may refuse, in a line; it may not crash, hang, show a traceback,
take more memory than the images explain, or say that all is well over wrong pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import children
import h5py
import make_inputs
import numpy as np
from children import Outcome
from mutations import MUTATIONS
from running import tree
from small_sets import random_frames, random_mask, write_set

ADDRESS_SPACE = 3 << 29
"""Bytes that a child may map beyond its parent: what libraries map isn't what they use."""
MEMORY = 400 << 20
"""Bytes that it may hold beyond its parent; an image has 4 kB."""
SHAPE = (40, 44)


@dataclass(frozen=True)
class Target:
    """A set, and a command that reads it."""

    corpus: str
    words: tuple[str, ...]
    judge: Callable[[Path, Path], str | None] | None = None
    """What is wrong after status 0, given the case's folder and the sound one."""


def _images(folder: Path, stem: str) -> np.ndarray[Any, Any]:
    with h5py.File(folder / f"{stem}_master.h5", "r") as h5:
        data = h5["/entry/data"]
        return np.concatenate([data[key][()] for key in sorted(data) if key.startswith("data_")])


def judge_reduced(folder: Path, _good: Path) -> str | None:
    """Each pixel of an unsummed, unbinned set is invalid, saturated, or what HDF5 reads from the input."""
    raw = np.concatenate(list(_raw_frames(folder)))
    made = _images(folder, "out")
    if made.shape != raw.shape:
        # A link may be gone, and its frames in the virtual dataset still.
        raw = _virtual_frames(folder, raw)
    if made.shape != raw.shape:
        return f"{made.shape} images of {raw.shape} frames"
    mark, cut = np.iinfo(made.dtype).max, _saturation_value(folder / "out_master.h5")
    plain = (made != mark) & (made < cut)
    wrong = plain & (made.astype(np.int64) != raw.astype(np.int64))
    return f"{int(wrong.sum())} pixels differ from the input's" if wrong.any() else None


def _saturation_value(master: Path) -> float:
    with h5py.File(master, "r") as h5:
        detector = h5["/entry/instrument/detector"]
        for name in ("saturation_value", "detectorSpecific/countrate_correction_count_cutoff"):
            if name in detector and detector[name].shape == ():
                return float(detector[name][()])
    # What a run supposes where nothing tells.
    return 32765.0


def _virtual_frames(folder: Path, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with h5py.File(folder / "in_master.h5", "r") as h5:
        found = h5["/entry/data"].get("data")
        return found[()] if isinstance(found, h5py.Dataset) and found.is_virtual else raw


def _raw_frames(folder: Path) -> Any:
    with h5py.File(folder / "in_master.h5", "r") as h5:
        data = h5["/entry/data"]
        for key in sorted(data):
            if key.startswith("data_"):
                yield data[key][()]


def judge_checked(folder: Path, good: Path) -> str | None:
    """A set that `check --data` finds sound reads as it was written."""
    for path in sorted(good.glob("set*")):
        if not (folder / path.name).exists():
            # Which may be: data files beside squash files that are whole, and a .nxs.
            continue
        try:
            here = tree(folder / path.name)
        except Exception as error:
            return f"{path.name} is called sound, and can't be read: {error}"
        if here != tree(path):
            return f"{path.name} is called sound, and reads otherwise"
    return None


def judge_expanded(folder: Path, good: Path) -> str | None:
    """The images are those of the sound set, expanded."""
    made, wanted = _images(folder, "big"), _images(good, "big")
    return None if np.array_equal(made, wanted) else "the images aren't those that were coded"


REDUCE = ("-i", "in_master.h5", "-u", "4", "-c", "none", "-d", "3", "-o", "out")
SUMMED = ("-i", "in_master.h5", "-b", "2", "-s", "2", "-c", "bslz4", "-o", "out")
RAW = ("bslz4", "lz4", "gzip", "none", "nxmx", "multi")
KEPT = ("hcompress", "j2k", "htj2k")


def targets() -> list[tuple[Target, int]]:
    """With how often each is drawn."""
    found = [(Target(corpus, REDUCE, judge_reduced), 4) for corpus in RAW]
    found += [(Target(corpus, SUMMED), 2) for corpus in RAW]
    found += [(Target(corpus, ("check", "in_master.h5")), 1) for corpus in RAW]
    for corpus in KEPT:
        found += [
            (Target(corpus, ("check", "set_master.h5", "--data"), judge_checked), 6),
            (Target(corpus, ("expand", "set_master.h5", "-c", "none", "-o", "big"), judge_expanded), 6),
            (Target(corpus, ("check", "set_master.h5")), 2),
            (Target(corpus, ("replay", "set_master.h5")), 2),
            (Target(corpus, ("-i", "set_master.h5", "-s", "2", "-o", "out")), 2),
            (Target(corpus, ("verify", "set_master.h5"), judge_checked), 4),
            (Target(corpus, ("verify", "set_master.h5", "--against", "../raw/in_master.h5"), judge_checked), 4),
            (Target(corpus, ("export", "set_master.h5", "--cbf", "x_#####.cbf")), 1),
        ]
    return found


def make_corpora(folder: Path) -> dict[str, Path]:
    """Folders of sound sets, by name; `raw` beside them has what those of KEPT were made of."""
    import bnl_mpi

    frames, mask = random_frames(6, SHAPE), random_mask(SHAPE)
    found = {}
    for name in (*RAW, *KEPT):
        here = found[name] = folder / name
        here.mkdir()
        if name == "nxmx":
            make_inputs.make_input(here, make_inputs.InputSpec(flavour="nxmx", n_frames=6, shape=SHAPE, libver="v110"))
        elif name in RAW:
            kind = {"filter_name": "gzip", "chunk_frames": 2} if name == "multi" else {"filter_name": name}
            write_set(here, frames, mask=mask, per_file=3, **kind)
        else:
            master = str(write_set(here, frames, mask=mask, per_file=3))
            how: dict[str, Any] = {"codec": name, "codec_level": 8, "data_block_size": 3, "out_file": f"{here}/set"}
            if name == "htj2k":
                bnl_mpi.reduce(master, **how, compression="htj2k")
            else:
                bnl_mpi.reduce(master, **how, compression="bslz4", out_squash="out_file")
            words = ["expand", "set_master.h5", "-c", "none", "-o", "big"]
            assert children.run(children.command(words), here).status == 0
            (folder / "raw").mkdir(exist_ok=True)
            for path in here.glob("in_*"):
                path.replace(folder / "raw" / path.name)
    return found


@dataclass(frozen=True)
class Finding:
    """A case that ended as none may."""

    case: int
    target: Target
    mutations: str
    complaint: str
    outcome: Outcome | None


class Attack:
    """Cases by number, each the same for a seed, whatever was run before."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.corpora = make_corpora(folder)
        self._folder, self._seed = folder, seed
        self._targets = targets()
        self.ends: Counter[str] = Counter()

    def attack(self, case: int) -> Finding | None:
        rng = np.random.default_rng([self._seed, case])
        target = _draw(rng, self._targets)
        good, here = self.corpora[target.corpus], self._folder / "case"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        for path in sorted(good.iterdir()):
            if not path.name.startswith("big"):
                shutil.copyfile(path, here / path.name)
        names = self._damage(rng, here)
        outcome = self._run(target, here)
        complaint = outcome.complaint or self._memory(outcome)
        if complaint is None and outcome.status == 0 and target.judge is not None:
            complaint = self._judge(target, here, good)
        self.ends["refused" if outcome.status else "went through"] += 1
        return Finding(case, target, names, complaint, outcome) if complaint else None

    def _damage(self, rng: np.random.Generator, here: Path) -> str:
        """Damages one or two files; in a child, for what is damaged already may crash HDF5.  Returns what was done."""
        names = []
        for _ in range(int(rng.choice((1, 1, 1, 2)))):
            paths = sorted(p for p in here.iterdir() if p.suffix in (".h5", ".nxs") and p.is_file())
            masters = [p for p in paths if "master" in p.name or p.suffix == ".nxs"]
            path = _one(rng, masters if masters and rng.random() < 0.5 else paths)
            seed = int(rng.integers(2**31))

            def damage(path: Path = path, seed: int = seed) -> int:
                return _damage_one(np.random.default_rng(seed), path)

            names.append(children.run(damage, here).out.strip())
        return "; ".join(names)

    def _run(self, target: Target, here: Path) -> Outcome:
        return children.run(children.command(target.words), here, address_space=ADDRESS_SPACE)

    def _memory(self, outcome: Outcome) -> str | None:
        more = outcome.rss - children.memory_now()[1]
        return f"held {more >> 20} MiB" if more > MEMORY else None

    def _judge(self, target: Target, here: Path, good: Path) -> str | None:
        judge = target.judge
        assert judge is not None

        def call() -> int:
            print(judge(here, good) or "")
            return 0

        found = children.run(call, here, address_space=ADDRESS_SPACE)
        if found.status:
            # HDF5 itself can't read it; what the command made of it nobody can judge.
            self.ends["not judged"] += 1
            return None
        return found.out.strip() or None


def _one(rng: np.random.Generator, of: Sequence[Any]) -> Any:
    return of[int(rng.integers(len(of)))]


def _draw(rng: np.random.Generator, weighted: Sequence[tuple[Any, int]]) -> Any:
    weights = np.array([w for _, w in weighted], float)
    return weighted[int(rng.choice(len(weighted), p=weights / weights.sum()))][0]


def _damage_one(rng: np.random.Generator, path: Path) -> int:
    for _ in range(20):
        mutation = _draw(rng, MUTATIONS)
        with contextlib.suppress(Exception):
            mutation(rng, path)
            print(f"{path.name} {mutation.__name__}")
            return 0
    return 0


def tell(finding: Finding, seed: int) -> None:
    print(
        f"mutate: --seed {seed} --case {finding.case}: bnl-mpi {' '.join(finding.target.words)} "
        f"({finding.target.corpus}; {finding.mutations}): {finding.complaint}",
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the attack; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="the first case's number (default 0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, nargs="+", help="these cases alone, with all that they said")
    parser.add_argument("--keep", metavar="FOLDER", help="with --case: where its files are left")
    given = parser.parse_args(words)
    children.warm_up()
    with children.scratch("mutate-") as folder:
        attack = Attack(folder, given.seed)
        numbers = given.case or range(given.first, given.first + given.cases)
        findings = [f for f in (_told(attack, n, given.seed) for n in numbers) if f]
        if given.case is not None:
            for finding in findings:
                print(finding.outcome and finding.outcome.err)
            if given.keep:
                shutil.copytree(folder / "case", given.keep, symlinks=True, ignore=_no_files)
    ends = ", ".join(f"{n} {what}" for what, n in sorted(attack.ends.items()))
    print(f"mutate: {len(numbers)} cases, {ends}; {len(findings)} ended as none may")
    return int(bool(findings))


def _told(attack: Attack, number: int, seed: int) -> Finding | None:
    finding = attack.attack(number)
    if finding:
        tell(finding, seed)
    return finding


def _no_files(folder: str, names: list[str]) -> list[str]:
    return [
        n for n in names if not os.path.isfile(os.path.join(folder, n)) and not os.path.isdir(os.path.join(folder, n))
    ]


if __name__ == "__main__":
    sys.exit(main())
