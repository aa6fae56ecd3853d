"""The command `bnl-mpi archive`: many data sets, with a memory; and what became of them."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..arguments import Parser, add_option, build_parser, join_negative_values, options_from
from ..errors import UsageError

if TYPE_CHECKING:
    from ..archive.rules import Rule
    from ..archive.session import Wish
    from ..archive.state import Entry

NOT_HERE = {
    "infile": "-i: name the sets themselves, or a folder or list of them",
    "out_file": "-o: --to names the folder, and each set keeps its own name",
    "out_master": "-m: each set keeps its own name",
    "thread": "-t: --task and --tasks deal the sets to the tasks of a job array",
    "json": "--json: --status with --json tells of all sets",
    "log_json": "--log_json: --status with --json tells of all sets",
    "resume": "--resume: an archive always goes on where it was",
}
"""Options of the main job that have no place here, and what has."""
OUTPUTS = ("failed", "deletable", "json", "csv", "html")
"""Of --status, each alone."""
OF_THE_RUN = ("parallel", "force", "grace", "verbose")
"""Those that say how, not what."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The archive's own options; all others are the main job's."""
    parser.description = (
        "Reduce many data sets: those of masters, lists and folders, into --to, with the main job's options or by "
        "rules. Starts alone, with -p N (one process a set), or under mpiexec or srun (large sets on several ranks). "
        "What is done is remembered in --to: the same command goes on where it was."
    )
    parser.epilog = "all options of the main job are taken, but for " + ", ".join(
        text.split(":")[0] for text in NOT_HERE.values()
    )
    parser.add_argument("sources", nargs="*", metavar="LIST|FOLDER|MASTER", help="what to archive; -: a list on stdin")
    add_option(parser, "--to", metavar="FOLDER", help="where the archive is made")
    add_option(parser, "--root", metavar="FOLDER", help="the part of listed paths that isn't repeated below --to")
    add_option(parser, "--rules", metavar="FILE", help="options by path, frames, size, width and scan (TOML)")
    add_option(
        parser,
        "--find_reflections",
        metavar="PATTERN",
        help="a reflection file of each set, relative to its master's folder, as 'process/{name}/integrated.refl'",
    )
    add_option(parser, "--verify", action="store_true", help="hold each set against its raw data before it is done")
    add_option(parser, "--dry_run", action="store_true", help="say what would be done, and about what it takes")
    add_option(parser, "--task", type=int, metavar="K", help="do part K of --tasks, from 0, in a job array")
    add_option(parser, "--tasks", type=int, default=1, metavar="N", help="parts in all")
    _add_follow_and_status(parser)


def _add_follow_and_status(parser: argparse.ArgumentParser) -> None:
    follow = parser.add_argument_group("while data are collected")
    add_option(follow, "--follow", action="store_true", help="go on looking, and take sets up when they are complete")
    add_option(
        follow, "--idle", type=float, default=30.0, metavar="MINUTES", help="after which a set won't be completed (30)"
    )
    add_option(follow, "--stop_idle", type=float, metavar="MINUTES", help="end when nothing new has come for so long")
    status = parser.add_argument_group("what became of it")
    add_option(status, "--status", metavar="FOLDER", help="tell of the archive in FOLDER, and end")
    add_option(status, "--failed", action="store_true", help="with --status: the masters of failed sets alone")
    add_option(
        status,
        "--deletable",
        action="store_true",
        help="with --status: the raw files of sets that are verified against them, and haven't changed since",
    )
    add_option(status, "--json", action="store_true", help="with --status: everything as JSON, on standard output")
    add_option(status, "--csv", action="store_true", help="with --status: a row a set, on standard output")
    add_option(status, "--html", metavar="FILE", help="with --status: a page with pictures, to sort and filter")
    add_option(status, "-0", dest="null", action="store_true", help="with --failed, --deletable: end paths with NUL")
    add_option(status, "--all", action="store_true", help="with --status: every set")


def main(words: Sequence[str]) -> int:
    """Do what the words after `archive` say; the exit status."""
    parser = Parser(prog="bnl-mpi archive", allow_abbrev=False)
    add_arguments(parser)
    if "--status" in words or any(word.startswith("--status=") for word in words) or {"-h", "--help"} & set(words):
        return _status(parser.parse_args(words))
    mine, job = split_words(words)
    namespace = parser.parse_args(mine)
    if not namespace.sources or namespace.to is None:
        raise UsageError("give what to archive and --to FOLDER; see bnl-mpi archive --help")
    for name, flag in {"null": "-0", **{name: f"--{name}" for name in (*OUTPUTS, "all")}}.items():
        if getattr(namespace, name):
            raise UsageError(f"{flag} goes with --status FOLDER, without sets and --to; nothing was done")
    return _archive(namespace, job)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the archive's own words, the main job's)."""
    joined = join_negative_values(words)
    # Its own --json takes a file, here it is a switch of --status, which isn't parsed by this way.
    _, mine = build_parser().parse_known_args(joined)
    job, rest = [], list(mine)
    for word in joined:
        if rest and word == rest[0]:
            rest.pop(0)
        else:
            job.append(word)
    return mine, job


def _wish(namespace: argparse.Namespace, job: Sequence[str]) -> tuple[Wish, int | None]:
    """What is asked for, and the number of processes."""
    from ..archive.rules import read_rules
    from ..archive.session import Wish

    values = _checked(job)
    rules = read_rules(namespace.rules) if namespace.rules else ()
    for rule in rules:
        _check_rule(rule)
    for source in namespace.sources:
        if os.path.realpath(source) == os.path.realpath(namespace.to):
            raise UsageError(f"--to {namespace.to}: is what to archive; give a folder apart from the raw data")
    if namespace.task is None and namespace.tasks != 1:
        raise UsageError(f"--tasks {namespace.tasks}: give --task K too, whose part is done here")
    if namespace.tasks < 1 or not (namespace.task is None or 0 <= namespace.task < namespace.tasks):
        raise UsageError(f"--task {namespace.task} of --tasks {namespace.tasks}: tasks count from 0")
    running = ["--grace", f"{values['grace']:g}"] if "grace" in values else []
    wish = Wish(
        tuple(namespace.sources),
        os.path.abspath(namespace.to),
        tuple(_of_sets(job)),
        tuple(running),
        namespace.root,
        rules,
        namespace.find_reflections,
        namespace.verify,
        "force" in values,
        namespace.task,
        namespace.tasks,
    )
    return wish, values.get("parallel")


def _checked(job: Sequence[str]) -> dict[str, Any]:
    """Options of the main job that are given, by name; wrong ones are told of before the first set, not with each."""
    values: dict[str, Any] = vars(build_parser().parse_args(list(job)))
    for name, text in NOT_HERE.items():
        if name in values:
            raise UsageError(f"archive doesn't take {text}")
    if (values.get("out_squash") or "out_file") != "out_file":
        raise UsageError("archive takes -q without a stem: each set keeps its own name")
    options_from(["-i", "x", *job])
    return values


def _check_rule(rule: Rule) -> None:
    try:
        values = _checked(shlex.split(rule.options or ""))
    except (UsageError, ValueError) as error:
        raise UsageError(f"{rule.place}: {error}") from error
    for name in OF_THE_RUN:
        if name in values:
            raise UsageError(f"{rule.place}: --{name} isn't a set's affair; give it on the command line")


def _of_sets(job: Sequence[str]) -> list[str]:
    """The words that say what becomes of a set: without those on how to run."""
    parser = build_parser()
    flags = {flag: action for flag, action in parser._option_string_actions.items() if action.dest in OF_THE_RUN}
    kept, rest = [], list(job)
    while rest:
        word = rest.pop(0)
        flag = word.split("=")[0] if word.startswith("--") else word
        if flag in flags:
            if flags[flag].nargs != 0 and "=" not in word and rest and not rest[0].startswith("-"):
                rest.pop(0)
        elif word.startswith("-p") and word[2:].isdigit():
            continue
        else:
            kept.append(word)
    return kept


def _archive(namespace: argparse.Namespace, job: Sequence[str]) -> int:
    from ..archive import session
    from ..run import launch, world
    from ..run.signals import StopRequest

    wish, processes = _wish(namespace, job)
    if namespace.dry_run:
        from ..archive import projection

        plan = session.make_plan(wish, session.known_entries(wish), session.say)
        print("\n".join(projection.table(plan, wish.to)))
        return session.status_of(plan, stopped=False)
    comm = world.connect() if launch.launched() else None
    if comm is not None and comm.Get_size() > 1:
        from ..archive.crews import Crews, serve

        if comm.Get_rank():
            serve(comm, wish.words)
            return 0
        hands: session.Hands = Crews(comm)
    else:
        from ..archive.pool import Pool

        hands = Pool(processes or 1, wish.words)
    request = StopRequest()
    request.install()
    try:
        if namespace.follow:
            from ..archive.follow import follow

            status = follow(wish, hands, request, idle_minutes=namespace.idle, stop_minutes=namespace.stop_idle)
        else:
            status = session.run(wish, hands, request)
    finally:
        hands.end()
    for line in _closing(wish.to):
        print(line)
    return status


def _closing(folder: str) -> list[str]:
    from ..archive import state, status

    return status.lines(state.read(folder))


def _status(namespace: argparse.Namespace) -> int:
    from ..archive import state, status
    from ..output.text import write_asked

    if namespace.sources:
        raise UsageError(
            f"{namespace.sources[0]}: --status FOLDER takes nothing else; "
            "--json and --csv write to standard output, --html to a file"
        )
    told = [name for name in OUTPUTS if getattr(namespace, name)]
    if len(told) > 1:
        raise UsageError(f"give one of --{told[0]} and --{told[1]}: each is an output of its own")
    entries = state.read(namespace.status)
    if namespace.failed or namespace.deletable:
        paths, refused = status.failed_paths(entries), list[str]()
        if namespace.deletable:
            paths, refused = status.deletable(entries, namespace.status)
        for line in refused:
            print(f"bnl-mpi: {line}", file=sys.stderr)
        _print_paths(paths, "\0" if namespace.null else "\n")
    elif namespace.html:
        write_asked("--html", namespace.html, _page(namespace.status, entries))
    elif namespace.json or namespace.csv:
        sys.stdout.write(status.as_csv(entries) if namespace.csv else status.as_json(entries) + "\n")
    else:
        print("\n".join(status.lines(entries, every=namespace.all)))
    return 0


def _page(folder: str, entries: Mapping[str, Entry]) -> str:
    from ..archive import status, thumbnails

    beyond = thumbnails.left_out(entries)
    note = f"The first {thumbnails.MOST} sets are pictured; {beyond} more are not." if beyond else ""
    title = f"Archive {os.path.abspath(folder)}"
    return status.as_html(entries, title, thumbnails.pictures(entries, folder), note)


def _print_paths(paths: Sequence[str], end: str) -> None:
    """Names as the file system has them, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(os.fsencode(path + end) for path in paths))
    sys.stdout.buffer.flush()
