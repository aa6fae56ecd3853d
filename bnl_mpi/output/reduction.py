"""What the rules for a new master know of the run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..hdf5.treecopy import Decision
from ..input.experiment import Experiment
from ..plan import Plan

Known = dict[Hashable, tuple[Decision, list[str]]]
"""What was decided of an item, and the warnings with it."""


@dataclass
class Reduction:
    """What the rules know of the run; the warnings are theirs to add to."""

    plan: Plan
    experiment: Experiment
    data_dtype: np.dtype[Any]
    warnings: list[str] = field(default_factory=list)
    signal: str | None = None
    """The virtual dataset that the output offers, where it does."""
    known: Known = field(default_factory=dict)
    """What rules have decided, by item: one master after another may be made of one open input."""

    @property
    def first_frames(self) -> npt.NDArray[np.intp]:
        """(n_images,): the first frame of each image, counted from 0."""
        plan = self.plan
        return plan.first_frame + np.arange(plan.n_images, dtype=np.intp) * plan.sum

    @property
    def last_frames(self) -> npt.NDArray[np.intp]:
        """(n_images,): the last frame of each image; a partial last image's is the range's."""
        return np.minimum(self.first_frames + self.plan.sum, self.end_frame) - 1

    @property
    def end_frame(self) -> int:
        """The frame after the last selected one."""
        return self.plan.first_frame + self.plan.n_frames
