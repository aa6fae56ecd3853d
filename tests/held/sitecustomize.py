"""Loaded by every Python that has this folder on its PYTHONPATH: runs wait within blocks, as `running.Hold` says."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "bnl_mpi.tasks.images"
LONGEST = 1200.0
"""Seconds: then the test that started it has come to an end long ago."""


class Held:
    """An overseer that lets a block go on only when it may."""

    def __init__(self, overseer: Any, folder: Path, until: str) -> None:
        self._overseer, self._folder, self._until = overseer, folder, until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._overseer, name)

    def after_image(self, n_frames: int) -> None:
        self._overseer.after_image(n_frames)
        mark = self._folder / str(os.getpid())
        mark.touch()
        end = time.monotonic() + LONGEST
        while not (self._folder / "go").exists():
            if time.monotonic() > end:
                os._exit(1)
            if self._overseer.stopping:
                mark.with_suffix(".told").touch()
                if self._until == "stop":
                    return
            time.sleep(0.005)
            self._overseer.after_image(0)


def hold(images: ModuleType, first: int, folder: Path, until: str) -> None:
    """Make blocks from number `first` on wait after each image."""
    make = images.ImageMaker.make

    def held(self: Any, block: Any, overseer: Any) -> Any:
        return make(self, block, Held(overseer, folder, until) if block.number >= first else overseer)

    images.ImageMaker.make = held


class Finder(MetaPathFinder):
    """Comes before others, for one module and once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        loader, load = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            first, until, folder = os.environ["BNL_TEST_HOLD"].split(":", 2)
            hold(module, int(first), Path(folder), until)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "BNL_TEST_HOLD" in os.environ:
    sys.meta_path.insert(0, Finder())
