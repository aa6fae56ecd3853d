"""The plan: which frames make which image, and which images make which output block.

Integers and strings alone; nothing here opens a file, so that a plan can be printed, tested, hashed and
broadcast.  Frames and images are counted from 0 inside, from 1 wherever a user sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

AUTO_BLOCKS = 512
"""`-d auto` aims at no more blocks than this: enough for hundreds of workers, few enough for a folder."""

AUTO_LARGEST_BYTES = 1 << 30

BLOCK_ENDING = r"_(\d{6})\.h5"
"""What a block's file has after its stem, as a regular expression."""


def block_path(stem: str, number: int) -> str:
    """Of the file of block `number`, counted from 1."""
    return f"{stem}_{number:06d}.h5"


@dataclass(frozen=True)
class Block:
    """One output data file: images `first_image` .. `first_image + n_images - 1`, counted from 0."""

    number: int
    """Counted from 1, as in the file's name."""
    first_image: int
    n_images: int

    @property
    def images(self) -> range:
        return range(self.first_image, self.first_image + self.n_images)


@dataclass(frozen=True)
class Plan:
    """What a reduction does to frames, pixels and counts.  Shapes are (slow, fast) = (ny, nx)."""

    n_frames_in: int
    """Frames in the input, selected or not."""
    first_frame: int
    """The first selected frame, counted from 0."""
    n_frames: int
    """Selected frames, after a partial last image was dropped if that was asked for."""
    sum: int
    binning: int
    scale: float
    shape_in: tuple[int, int]
    dtype_in: str
    """NumPy's name of the stored type, as 'uint16'."""
    dtype_out: str
    block_size: int
    satval: float
    """The input's saturation value, in counts; an integer unless the input is float."""
    limit: float
    """satval': the output's saturation value; an integer unless the output is float."""
    saturation: str = "clip"
    """'clip' (min(sum, satval)) or 'scaled'."""

    @property
    def n_images(self) -> int:
        return -(-self.n_frames // self.sum)

    @property
    def n_blocks(self) -> int:
        return -(-self.n_images // self.block_size)

    @property
    def shape_out(self) -> tuple[int, int]:
        """(ny, nx) of an image: the frame's, over the binning, rounded up."""
        ny, nx = self.shape_in
        return -(-ny // self.binning), -(-nx // self.binning)

    def block(self, number: int) -> Block:
        """Block `number`, counted from 1."""
        first = (number - 1) * self.block_size
        return Block(number, first, min(self.block_size, self.n_images - first))

    def blocks(self) -> Iterator[Block]:
        return (self.block(k) for k in range(1, self.n_blocks + 1))

    def frames_of(self, image: int) -> range:
        """The input frames (counted from 0) that make image `image` (counted from 0)."""
        start = self.first_frame + image * self.sum
        return range(start, min(start + self.sum, self.first_frame + self.n_frames))

    def frames_of_block(self, block: Block) -> range:
        """The input frames (counted from 0) that a block is made of."""
        return range(self.frames_of(block.images[0]).start, self.frames_of(block.images[-1]).stop)

    def owned(self, worker: int, n_workers: int) -> list[int]:
        """Numbers of the blocks that worker `worker` of 1..`n_workers` owns: k, k + p, k + 2p, ..."""
        return list(range(worker, self.n_blocks + 1, n_workers))


def auto_block_size(n_images: int, image_bytes: int) -> int:
    """Images a block under `-d auto`, from image count and size alone.

    The smallest round number (1, 2 or 5 times a power of ten) that makes no more than 512 blocks, of at most 1 GiB of
    pixels each.  So the blocks are at least 205, or as many as the images: that many workers have something to do.
    """
    rounds = (m * int(10**e) for e in range(20) for m in (1, 2, 5))
    size = next(size for size in rounds if size * AUTO_BLOCKS >= n_images)
    return max(1, min(size, AUTO_LARGEST_BYTES // max(1, image_bytes)))


def better_block_size(n_images: int, n_workers: int) -> int:
    """The largest `-d` that gives every one of `n_workers` workers a block, or 1 if none does."""
    return max(1, n_images // n_workers) if n_images >= n_workers else 1


def counted(n: int, noun: str) -> str:
    """A number of things, in words for a user."""
    return f"{n} {noun}{'s' * (n != 1)}"


def counted_are(n: int, noun: str) -> str:
    """The same with its verb."""
    return f"{counted(n, noun)} {'is' if n == 1 else 'are'}"
