"""Blocks, images and frames, against a list of frames taken apart by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bnl_mpi.plan import Plan, auto_block_size, better_block_size


def plan_of(n_frames: int, first: int, total: int, block: int) -> Plan:
    return Plan(
        n_frames_in=first + n_frames,
        first_frame=first,
        n_frames=n_frames,
        sum=total,
        binning=1,
        scale=1.0,
        shape_in=(5, 7),
        dtype_in="uint16",
        dtype_out="uint16",
        block_size=block,
        satval=1,
        limit=1,
    )


@given(st.integers(1, 300), st.integers(0, 20), st.integers(1, 12), st.integers(1, 40), st.integers(1, 9))
def test_every_frame_is_in_one_image_of_one_block_of_one_share(
    n_frames: int, first: int, total: int, block: int, workers: int
) -> None:
    plan = plan_of(n_frames, first, total, block)
    frames = list(range(first, first + n_frames))
    images = [frames[i : i + total] for i in range(0, n_frames, total)]
    assert [list(plan.frames_of(i)) for i in range(plan.n_images)] == images
    blocks = list(plan.blocks())
    assert [b.number for b in blocks] == list(range(1, plan.n_blocks + 1))
    assert [i for b in blocks for i in range(b.first_image, b.first_image + b.n_images)] == list(range(len(images)))
    assert all(b.n_images == block for b in blocks[:-1])
    assert 1 <= blocks[-1].n_images <= block
    shares = [plan.owned(w, workers) for w in range(1, workers + 1)]
    assert sorted(k for share in shares for k in share) == [b.number for b in blocks]


@given(st.integers(1, 64), st.integers(1, 5000), st.integers(1, 5000))
def test_shape_is_rounded_up(binning: int, ny: int, nx: int) -> None:
    plan = Plan(
        n_frames_in=1,
        first_frame=0,
        n_frames=1,
        sum=1,
        binning=binning,
        scale=1.0,
        shape_in=(ny, nx),
        dtype_in="uint16",
        dtype_out="uint16",
        block_size=1,
        satval=1,
        limit=1,
    )
    assert plan.shape_out == (len(range(0, ny, binning)), len(range(0, nx, binning)))


@given(st.integers(1, 200_000), st.integers(1, 40_000_000), st.integers(1, 205))
def test_auto_block_size_leaves_no_worker_idle(n_images: int, image_bytes: int, workers: int) -> None:
    size = auto_block_size(n_images, image_bytes)
    blocks = -(-n_images // size)
    assert blocks >= min(workers, n_images)
    assert blocks <= 512 or size * image_bytes > 1 << 29


def test_auto_block_size_keeps_files_few() -> None:
    assert auto_block_size(1800, 5_000_000) == 5
    assert auto_block_size(100_000, 5_000_000) == 200
    assert auto_block_size(9, 5_000_000) == 1
    assert auto_block_size(100, 2 << 30) == 1


@given(st.integers(1, 1000), st.integers(1, 300))
def test_better_block_size_gives_all_a_block(n_images: int, workers: int) -> None:
    size = better_block_size(n_images, workers)
    if n_images >= workers:
        assert -(-n_images // size) >= workers
        assert size == n_images // workers
