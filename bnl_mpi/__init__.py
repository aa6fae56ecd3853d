"""Reduce Eiger diffraction data sets over MPI.

`bnl_mpi.reduce(infile, out_file=..., sum=2, bin=2, codec="hcompress", codec_level=16, compression="bslz4")`
does from Python what the command `bnl-mpi` does; see its docstring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from os import PathLike

    from .tasks.report import SetSummary

__all__ = ["__version__", "reduce"]


def reduce(infile: str | PathLike[str], *, comm: Any = None, **options: Any) -> SetSummary | None:
    """Reduce the data set of the master file `infile`.

    `options` are the fields of `bnl_mpi.options.Options`, named as the command's long options (`sum`, `bin`,
    `out_file`, `compression`, ...); None means the default.  Paths may be texts or `pathlib`'s; `keep`, `keep_also`,
    `omit`, and `RO` and `CO` are one or several, in the command's words or numbers: `omit=[1, (10, 20)]`,
    `keep_also=(0, 9, 0, 9)`.  The codec is `codec` ("hcompress", "j2k", "j2k2", "htj2k") with `codec_level`, or one of
    HTJ2K's targets `max_error`, `psnr`, `rms`.
    `comm` is an mpi4py communicator: every rank of it calls this function with the same arguments.  Without
    it this process does all the work.

    Returns the summary on rank 0 and None elsewhere.  Raises `bnl_mpi.errors.BnlError` for a mistake in the
    arguments or the input, with a message that says what to do; under a communicator of several ranks, a
    failure after the work began aborts the communicator, since the other ranks could not go on.
    """
    from .options import Options
    from .run import driver
    from .tasks.keywords import values_of
    from .tasks.reduction import REDUCTION

    return driver.call(REDUCTION, Options(**values_of({"infile": infile, **options})), comm)
