"""The command line: which command, and errors to one line.

Nothing heavy is imported here, so that `--help` needs neither MPI nor HDF5; and next to nothing before `main`, so that
Ctrl-C, however early, is told of in a line.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, cast

from .errors import FULL, BnlError, UsageError
from .output.text import drop, make_streams_good

if TYPE_CHECKING:
    import argparse
    from types import FrameType

ADVICE = {
    **dict.fromkeys(FULL, "; make room and start again"),
    errno.EIO: "",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "; ask for the permission, or give another place"),
}
"""After what a file may end with that is no mistake of this program's."""

WITHOUT_RANKS = ("quality",)
"""Commands that leave all cores to a library or to other programs."""


def _run_main(words: Sequence[str]) -> int:
    from .arguments import options_from

    options = options_from(words)
    from .run import launch, world

    if n_workers := launch.workers_to_start(options):
        # As the driver does, but without the imports, which the ranks need alone.
        return launch.run_mpiexec(n_workers + 1, words)
    with world.connected() if options.thread is None else contextlib.nullcontext():
        from .run import driver
        from .tasks.reduction import REDUCTION

    _keep_for_good()
    return driver.main(REDUCTION, options, words)


def _run_command(name: str, words: Sequence[str]) -> int:
    import importlib

    from .arguments import COMMANDS, Parser

    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    _keep_for_good()
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


def _keep_for_good() -> None:
    """In a process of our own, modules are there to stay: the collector, off meanwhile, needn't look at them again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _run(words: Sequence[str]) -> int:
    from .arguments import COMMANDS
    from .run import launch

    name = words[0] if words[0] in COMMANDS else None
    if name is None and not words[0].startswith("-"):
        raise _no_command(words[0])
    with contextlib.nullcontext() if name in WITHOUT_RANKS else launch.library_threads():
        return _run_main(words) if name is None else _run_command(name, words[1:])


def _no_command(word: str) -> UsageError:
    from .arguments import COMMANDS

    if os.path.exists(word) or os.path.splitext(word)[1]:
        return UsageError(f"{word}: give the input with -i: bnl-mpi -i {shlex.quote(word)} ...")
    return UsageError(f"{word}: no such command; give one of {', '.join(COMMANDS)}, or options: bnl-mpi --help")


def _tell(error: BnlError) -> None:
    """One line; of several ranks that can't read the same words, one says so."""
    from .run import launch

    if isinstance(error, UsageError) and launch.launched() and not launch.is_spokesman():
        # Long enough for the one line to come out before a launcher ends all.
        time.sleep(1)
    else:
        print(f"bnl-mpi: {error}", file=sys.stderr)


def _unwritten(error: OSError) -> str:
    """What a write failed of: the file's name if it is known."""
    try:
        # What standard output couldn't take, it still holds.
        sys.stdout.flush()
    except OSError:
        return "standard output"
    if error.filename is not None:
        return os.fsdecode(error.filename)
    return "a file, or standard output" if getattr(sys.stdout, "write_through", False) else "a file"


def _main(words: Sequence[str]) -> int:
    try:
        if not words:
            from .arguments import build_parser

            build_parser().print_help()
            return UsageError.exit_status
        status = _run(words)
        # While an error can still be told.
        sys.stdout.flush()
        return status
    except BnlError as error:
        _tell(error)
        return error.exit_status
    except BrokenPipeError:
        # `bnl-mpi ... | head`: nobody reads on; say nothing.
        drop(sys.stdout)
        return 1
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        what, advice = _unwritten(error), ADVICE[error.errno]
        print(f"bnl-mpi: {what}: {error.strerror}{advice}", file=sys.stderr)
        drop(sys.stdout)
        return 1
    except KeyboardInterrupt:
        print("bnl-mpi: interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `bnl-mpi`; returns the exit status and never shows a traceback for a user's mistake.

    Without `argv` the process is ours, and its garbage is left to the system.
    """
    if argv is not None:
        return _main(argv)
    gc.disable()
    make_streams_good()
    try:
        return _main(sys.argv[1:])
    finally:
        gc.freeze()


def program() -> NoReturn:
    """The command `bnl-mpi`: `main`, then the end of the process."""
    end(main())


def _is_run_by_another() -> bool:
    """Whether a profiler, a debugger or a notebook runs this program within its own, and goes on after it."""
    n_programs, frame = 0, cast("FrameType | None", sys._getframe())
    while frame is not None:
        n_programs += frame.f_code.co_name == "<module>"
        frame = frame.f_back
    return n_programs > 1


def end(status: int) -> NoReturn:
    """End this process, all of whose files are closed, and leave its memory to the system.

    Python's own end takes every module and library to pieces first, for as long as three frames take.  A rank needs
    that time: MPICH's mpiexec may lose the status of one that ends just when MPI does.
    """
    from .run import launch

    if launch.launched() or sys.gettrace() or sys.getprofile() or sys.flags.inspect or _is_run_by_another():
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)
