"""The errors a user can cause or meet; each is one line on stderr and a non-zero exit status."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write ends with where there is no more room."""


class BnlError(Exception):
    """What stops a run: the message names the file, dataset, frame and value, and what to do."""

    exit_status = 1

    def __str__(self) -> str:
        """One line, whatever the libraries' messages in it have."""
        return " ".join(super().__str__().splitlines())


class UsageError(BnlError):
    """The command line, or a combination of options, makes no sense (exit status 2)."""

    exit_status = 2


class InputError(BnlError):
    """The input is absent, unreadable, or not what the options suppose."""


class OutputError(BnlError):
    """The output can't be written, or something is in its place already."""

    @classmethod
    def unwritten(cls, path: object, error: OSError) -> OutputError:
        """Of a file that the system refuses, and what may help."""
        help_ = "make room" if error.errno in FULL else "give a place that you may write to"
        return cls(f"{path}: can't be written: {error.strerror}; {help_} and start again")


class Interrupted(BnlError):
    """A signal, or the end of a batch job's time, stopped a run that can be resumed (status 75, "try again")."""

    exit_status = 75
