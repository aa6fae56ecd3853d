"""The command line: which command, and errors to one line.

Nothing heavy is imported here, so that `--help` needs neither MPI nor HDF5.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence

from .arguments import COMMANDS, Parser, build_parser, options_from
from .errors import BnlError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write to standard output may end with, which no file's name comes with."""


def _run_main(words: Sequence[str]) -> int:
    options = options_from(words)
    from .run import driver
    from .tasks.reduction import REDUCTION

    return driver.main(REDUCTION, options, words)


def _run_command(name: str, words: Sequence[str]) -> int:
    import importlib

    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    if hasattr(module, "main"):
        # A command that takes the main job's options too parses its words itself.
        status: int = module.main(words)
        return status
    parser = Parser(prog=f"bnl-mpi {name}", description=text)
    module.add_arguments(parser)
    # A command that starts ranks has to repeat itself.
    parser.set_defaults(words=[name, *words])
    run: Callable[[argparse.Namespace], int] = module.run
    return run(parser.parse_args(words))


def _tell(error: BnlError) -> None:
    """One line; of several ranks that can't read the same words, one says so."""
    from .run import launch

    if isinstance(error, UsageError) and launch.launched() and not launch.is_spokesman():
        # Long enough for the one line to come out before a launcher ends all.
        time.sleep(1)
    else:
        print(f"bnl-mpi: {error}", file=sys.stderr)


def _drop_output() -> None:
    """Keep Python from saying at exit what standard output couldn't take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bnl-mpi`; returns the exit status and never shows a traceback for a user's mistake."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in COMMANDS:
            status = _run_command(words[0], words[1:])
            # While an error can still be told.
            sys.stdout.flush()
            return status
        if not words:
            build_parser().print_help()
            return UsageError.exit_status
        return _run_main(words)
    except BnlError as error:
        _tell(error)
        return error.exit_status
    except BrokenPipeError:
        # `bnl-mpi ... | head`: nobody reads on; say nothing.
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        print(f"bnl-mpi: the output can't be written: {error.strerror}; make room and start again", file=sys.stderr)
        _drop_output()
        return 1
    except KeyboardInterrupt:
        print("bnl-mpi: interrupted", file=sys.stderr)
        return 130
