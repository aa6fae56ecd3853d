"""What the rules for a new master know of the run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..hdf5.treecopy import Decision
from ..input.experiment import Experiment
from ..pixels.maps import bin_mask
from ..plan import Plan


@dataclass
class Shared:
    """What one master after another of the same run, made of one open input, needs to find out but once."""

    decisions: dict[Hashable, tuple[Decision, list[str]]] = field(default_factory=dict)
    """What was decided of an item, and the warnings with it."""
    binned_mask: npt.NDArray[np.uint32] | None = None


@dataclass
class Reduction:
    """What the rules know of the run; the warnings are theirs to add to."""

    plan: Plan
    experiment: Experiment
    data_dtype: np.dtype[Any]
    warnings: list[str] = field(default_factory=list)
    signal: str | None = None
    """The virtual dataset that the output offers, where it does."""
    shared: Shared = field(default_factory=Shared)

    def binned_mask(self, mask: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """The experiment's `mask`, binned; not to be written to."""
        if self.shared.binned_mask is None:
            self.shared.binned_mask = bin_mask(mask, self.plan.binning)
        return self.shared.binned_mask

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
