"""The command's words: the parser of the main job, the parts that commands share, and the list of commands.

Nothing heavy is imported here, so that `--help` needs neither MPI nor HDF5.
"""

from __future__ import annotations

import argparse
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from . import options as opt
from ._version import VERSION_DATE, __version__
from .codecs import guarding, registry
from .errors import UsageError
from .pixels.patterns import ZERO_AXES, parse_frame_list, parse_rectangle, parse_zero_pattern

COMMANDS = {
    "simulate": ("bnl_mpi.commands.simulate", "make a data set to try and test with"),
    "replay": ("bnl_mpi.commands.replay", "print the command that makes a set again"),
    "expand": ("bnl_mpi.commands.expand", "make a full data set of a small one (-q, htj2k, --keep)"),
    "estimate": ("bnl_mpi.commands.estimate", "what settings give, cost and lose, on a sample of frames"),
    "quality": ("bnl_mpi.commands.quality", "what settings leave of merged intensities, through DIALS"),
    "export": ("bnl_mpi.commands.export", "write a set as CBF images, for programs that read no HDF5"),
    "report": ("bnl_mpi.commands.report", "a page with pictures: a set beside what it was made from"),
    "check": ("bnl_mpi.commands.check", "which demands of XDS, DIALS and others a set meets"),
    "verify": ("bnl_mpi.commands.verify", "whether a set is as written, and what its raw data give"),
    "archive": ("bnl_mpi.commands.archive", "reduce many data sets, and remember what is done"),
}
"""Sub-command: (module with add_arguments(parser) and run(namespace) -> exit status, one line of help)."""

DESCRIPTION = (
    "Reduce an Eiger data set or a CBF series: sum frames, bin pixels, apply a lossy\n"
    "codec (decoded at once), and write a new master and data files that XDS and\n"
    "DIALS read. Start it alone, with -p N, or under mpiexec or srun: rank 0 writes\n"
    "the masters, the others the data files."
)


class _Once(argparse.Action):
    """Keeps an option's value; another value of the same option is an error, for one of the two would be lost."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = getattr(parser, "given", {})
        # As texts: nan is nan, too.
        if str(given.setdefault(self.dest, values)) != str(values):
            raise argparse.ArgumentError(self, f"given twice, as {given[self.dest]} and {values}; give it once")
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """One line for a mistake, and no option's value lost behind a later one's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given: dict[str, Any] = {}
        for name in (None, "store"):
            self.register("action", name, _Once)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self.given = {}
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def _base(text: str) -> float:
    return math.e if text == "e" else float(text)


def _block_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _number(text: str) -> float:
    value = float(text)
    # What isn't finite is refused by the options.
    return int(value) if value.is_integer() else value


_base.__name__, _block_size.__name__, _number.__name__ = "base", "block size", "number"


def add_option(parser: Any, *names: str, **kwargs: Any) -> None:
    """Like `add_argument`; a long name with underscores is accepted with dashes too."""
    dashed = [n[:2] + n[2:].replace("_", "-") for n in names if n.startswith("--") and "_" in n[2:]]
    action = parser.add_argument(*names, *dashed, **kwargs)
    # The help shows the name with underscores alone.
    action.option_strings = [n for n in action.option_strings if n not in dashed]


def add(group: Any, *names: str, optional: bool = True, **kwargs: Any) -> None:
    """An option whose value may be left out, which then means its default."""
    if optional:
        field = opt.Options.__dataclass_fields__.get(kwargs.get("dest") or names[-1].lstrip("-"))
        kwargs.setdefault("const", None if field is None else field.default)
        kwargs["nargs"] = "?"
    add_option(group, *names, **kwargs)


def add_overwriting(out: Any) -> None:
    """What becomes of an older output, and the summary: the same for all that write a set."""
    add(out, "--force", optional=False, action="store_true", help="overwrite existing output of this stem")
    add(out, "--resume", optional=False, action="store_true",
        help="go on with an interrupted run of this very job: keep its blocks that are whole")  # fmt: skip
    add(out, "--json", optional=False, metavar="FILE", help="write the summary as JSON too")


def add_running(parser: Any, share_0: str = "writes the masters") -> Any:
    """The options of ranks and shares, in a group of their own, which is returned.

    `share_0` is what -t 0 does; empty where there are no shares, and then the help doesn't tell of them.
    """
    how = parser.add_argument_group("running")
    add(how, "-p", "--parallel", type=int, const=None, metavar="N",
        help="number of workers; without an MPI launcher, start them here")  # fmt: skip
    add(how, "-t", "--thread", type=int, const=None, metavar="K",
        help=f"do share K of -p alone, without MPI; 0 {share_0}" if share_0 else argparse.SUPPRESS)  # fmt: skip
    add(how, "--grace", optional=False, type=float, metavar="SECONDS",
        help="time for blocks in hand after SIGTERM, SIGINT or SIGUSR1 (default 20)")  # fmt: skip
    add(how, "--log_json", optional=False, metavar="FILE", help="append what happens, a JSON object a line")
    add(how, "-v", "--verbose", optional=False, action="store_true", help="a line for every block")
    return how


def add_kept(group: Any) -> None:
    """What `--keep` keeps, and how."""
    add(group, "--keep", optional=False, action="append", metavar="FILE",
        help="keep the pixels about a file's reflections: .refl, INTEGRATE.HKL, XDS_ASCII.HKL, SPOT.XDS, or a table of "
        "x y frame [radius] [frames]; auto: strong spots alone; may be repeated; smallest with -c zstd -l 9, and with "
        "more frames summed rather than with -T")  # fmt: skip
    add(group, "--keep_radius", optional=False, type=float, metavar="PIXELS",
        help="about each reflection, in raw pixels (default: the file's spot size, at least 4)")  # fmt: skip
    add(group, "--keep_frames", optional=False, type=int, metavar="N", help="N more frames on both sides of each")
    add(group, "--keep_also", optional=False, action="append", metavar="X0,X1,Y0,Y1",
        help="keep this rectangle of raw pixels too, in all images; may be repeated")  # fmt: skip
    add(group, "--keep_exact", optional=False, action="store_true",
        help="kept pixels stay as they are, though the level about them is rounded")  # fmt: skip


def add_codecs(group: Any) -> None:
    """Each codec's option, the bounds that it takes in place of a level, and what concerns all."""
    for entry in registry.CODECS:
        default = f"(below 1: {entry.default:g})" + (" or these targets:" if entry.bounds else "")
        add(group, entry.flag, entry.option, dest=entry.name, type=_number, const=None, metavar=entry.metavar,
            help=f"{entry.help} {default}")  # fmt: skip
        for bound in entry.bounds:
            add(group, f"--{bound.name}", optional=False, type=_number, metavar=bound.metavar,
                help=f"{entry.flag}: {bound.help}")  # fmt: skip
    add(group, "--guard", optional=False, type=float, metavar="ADDED_NOISE",
        help="judge some images of each block: the codec may add this much to its spots' noise (1: doubles the "
        "variance)")  # fmt: skip
    add(group, "--on_guard", optional=False, choices=guarding.ON_GUARD,
        help="what an image above it gets: a gentler setting (default), no loss, a stop, or a count")  # fmt: skip
    add(group, "--fill_gaps", optional=False, action="store_true",
        help="interpolate invalid areas before coding, so that wavelets don't ring")  # fmt: skip
    add(group, "--codec_threads", optional=False, type=int, metavar="N",
        help="threads of the JPEG 2000 library in each rank (default 1)")  # fmt: skip


def _add_input(parser: argparse.ArgumentParser) -> None:
    frames = parser.add_argument_group("input")
    add(
        frames,
        "-i",
        "--infile",
        optional=False,
        metavar="MASTER",
        help="input master file, or an image of a CBF series",
    )
    add(frames, "-1", "--first_image", type=int, metavar="N", help="first frame, from 1 (default 1)")
    add(frames, "-N", "--last_image", type=int, metavar="N", help="last frame, included (default: the last)")
    add(frames, "--channel", optional=False, type=int, metavar="N",
        help="which channel (energy threshold) of a data set with several, from 1")  # fmt: skip
    add(frames, "--skip_bad_frames", optional=False, action="store_true",
        help="frames that can't be read count as invalid, and so do the images that hold them")  # fmt: skip
    add(frames, "--salvage", optional=False, action="store_true",
        help="take a collection that broke off as far as its data files go")  # fmt: skip
    add(frames, "--ignore_frame_numbers", optional=False, action="store_true",
        help="go on where the data files' frame numbers or counts disagree with their order or the master")  # fmt: skip


def _add_reduction(parser: argparse.ArgumentParser) -> None:
    pixels = parser.add_argument_group("reduction")
    add(pixels, "-s", "--sum", type=int, metavar="N", help="frames summed into one image (default 1)")
    add(pixels, "-b", "--bin", type=int, metavar="N", help="pixels binned N x N (default 1)")
    add(
        pixels,
        "-S",
        "--scale",
        type=float,
        metavar="X",
        help="factor on counts and saturation value (default 1)",
    )
    add(pixels, "-u", "--uint", type=int, const=2, metavar="BYTES",
        help="2 or 4: unsigned output; -2 or -4: signed, not clipped at 0 (default 2)")  # fmt: skip
    add(pixels, "-f", "--float", type=int, const=4, metavar="BYTES",
        help="float output of 2 or 4 bytes; negative: not clipped at 0")  # fmt: skip
    add(
        pixels,
        "-L",
        "--logarithm",
        type=_base,
        const=math.e,
        metavar="BASE",
        help="log(v + 1); base e or >= 2",
    )
    add(pixels, "-X", "--exponential", type=_base, const=math.e, metavar="BASE", help="the inverse of -L")
    add(pixels, "-R", "--RO", optional=False, dest="RO", action="append", metavar="PATTERN",
        help="zero a pattern of rows: rows_1::2, zero_2_of_3_rows, or a rectangle x0,x1[,y0,y1]")  # fmt: skip
    add(pixels, "-C", "--CO", optional=False, dest="CO", action="append", metavar="PATTERN",
        help="zero a pattern of columns: columns_::2, zero_2_of_3_columns, x0,x1[,y0,y1]")  # fmt: skip
    add(pixels, "-0", "--omit", optional=False, action="append", metavar="FRAMES",
        help="apply -R and -C only to images that hold one of these frames, as 1,5,10-20")  # fmt: skip
    add(pixels, "--saturation", optional=False, choices=("clip", "scaled"),
        help="clip (default): min(sum, saturation value); scaled: exact sums, saturated where a frame is")  # fmt: skip
    add(pixels, "--drop_partial", optional=False, action="store_true",
        help="leave out a last image of fewer frames than -s")  # fmt: skip
    add(pixels, "--allow_jumps", optional=False, action="store_true",
        help="let sums cross the end of a trigger or a jump of a rotation axis")  # fmt: skip


def _add_output(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("output")
    add(out, "-o", "--out_file", metavar="STEM", help="data files STEM_000001.h5, ... (default out_data)")
    add(out, "-m", "--out_master", metavar="NAME", help="master's name (default STEM_master)")
    add(out, "-q", "--out_squash", const="out_file", metavar="STEM",
        help="keep the codestreams too, in STEM_000001.h5, ...; out_file: OUT_squash")  # fmt: skip
    add(out, "-c", "--compression", metavar="FILTER",
        help="bslz4 (the one that XDS reads), bszstd, bshuf, zstd, none, or htj2k: the codestreams of -T "
        "themselves, lossless ones without -T (default zstd)")  # fmt: skip
    add(out, "-l", "--compression_level", type=int, metavar="N", help="zstd 0..9, bszstd 1..22 (default 3)")
    add(
        out,
        "-d",
        "--data_block_size",
        type=_block_size,
        metavar="N",
        help="images a data file, or auto (default 100)",
    )
    add_overwriting(out)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the main job; every `dest` is a field of `Options`, but for the codecs."""
    lines = "\n".join(f"  bnl-mpi {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    parser = Parser(
        prog="bnl-mpi",
        description=DESCRIPTION,
        epilog=f"other commands (each has its own --help):\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_input(parser)
    _add_reduction(parser)
    add_kept(parser.add_argument_group("reflections kept (all else becomes its smooth local mean)"))
    add_codecs(parser.add_argument_group("lossy codecs (one at most; decompressed at once)"))
    _add_output(parser)
    how = add_running(parser)
    how.add_argument("-V", "--version", action="version", version=f"bnl-mpi {__version__} ({VERSION_DATE})")
    return parser


@functools.cache
def _parser(codecs: tuple[registry.Entry, ...]) -> argparse.ArgumentParser:
    """Made once for the codecs that there are: an archive asks for the options of every set."""
    return build_parser()


VALUE_AFTER = {
    "-u", "--uint", "-f", "--float", "-S", "--scale", "-b", "--bin", "-s", "--sum", "-d", "--data_block_size",
    "-l", "--compression_level", "-N", "--last_image", "--keep_frames", "--keep_radius",
}  # fmt: skip
"""Options of a number, which users may write with a minus sign, be it by mistake; those of codecs are too."""


def join_negative_values(words: Sequence[str]) -> list[str]:
    """`-u -2` as `-u=-2` is meant: once `-1` and `-0` are options, argparse takes `-2` for one too.

    `-u -1 5` is an option without its value and then `-1 5`; a bare `-u -1` could only be a wrong value that
    argparse would silently take for `--first_image`, so it is an error.
    """
    of_numbers = VALUE_AFTER.union(*((entry.flag, entry.option) for entry in registry.CODECS))
    joined: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in of_numbers and rest and re.fullmatch(r"-\d+(\.\d*)?", rest[0]):
            is_option = rest[0] in ("-1", "-0") and len(rest) > 1 and not rest[1].startswith("-")
            if not is_option:
                word += ("=" if word.startswith("--") else "") + rest.pop(0)
        joined.append(word)
    return joined


def options_from(words: Sequence[str]) -> opt.Options:
    """Parse the main job's words; a mistake is a `UsageError`."""
    values = vars(_parser(tuple(registry.CODECS)).parse_args(join_negative_values(words)))
    if "infile" not in values:
        raise UsageError("-i MASTER is missing; see bnl-mpi --help")
    given = [entry for entry in registry.CODECS if entry.name in values]
    if len(given) > 1:
        flags = " and ".join(entry.flag for entry in given)
        raise UsageError(f"{flags} exclude each other: an image passes through one lossy codec")
    for entry in given:
        values["codec"], values["codec_level"] = entry.name, values.pop(entry.name)
    values["zero"] = tuple(
        parse_zero_pattern(text, axis) for key, axis in ZERO_AXES.items() for text in values.pop(key, [])
    )
    values["omit"] = parse_frame_list(",".join(values["omit"])) if "omit" in values else ()
    values["keep"] = tuple(values.get("keep", ()))
    values["keep_also"] = tuple(parse_rectangle(text) for text in values.get("keep_also", ()))
    return opt.Options(**values)
