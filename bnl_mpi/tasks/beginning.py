"""Before the work: what a worker has ready, and what a user is told."""

from __future__ import annotations

from .. import codecs
from ..job import Job
from ..options import Options
from ..output.filters import Filter
from ..pixels import kernels
from ..plan import counted


def get_ready(options: Options) -> None:
    """Import the libraries of the codec and of the final filter."""
    final = Filter(options.compression, options.compression_level)
    final.dataset_options()
    final.encoder()
    codecs.make(options)


def notes(job: Job) -> list[str]:
    """What is to be said of readers and of speed before the work."""
    found = []
    if not kernels.COMPILED:
        found.append(
            "the compiled kernels are not in use: NumPy does their work, several times slower; "
            "install a C compiler (gcc and Python's headers) and pip install bnl_mpi anew; inside a clone of its "
            "sources Python takes these, so leave that folder, or pip install -e ."
        )
    return found


def start_line(job: Job) -> str:
    plan, options = job.plan, job.options
    oy, ox = plan.shape_out
    codec = f", {options.codec} {_target(options)}" if options.codec else ""
    return (
        f"{counted(plan.n_frames, 'frame')} of {plan.shape_in[1]} x {plan.shape_in[0]} {plan.dtype_in} -> "
        f"{counted(plan.n_images, 'image')} of {ox} x {oy} {plan.dtype_out} in "
        f"{counted(plan.n_blocks, 'block')}{codec}, "
        f"{options.compression}"
    )


def _target(options: Options) -> str:
    if options.error_target is None:
        return f"{options.codec_level:g}"
    name, value = options.error_target
    return f"{name} {value:g}"
