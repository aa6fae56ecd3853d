"""What the user asked for, checked and frozen.

`Options` is made once, from the command line (`bnl_mpi.cli`) or from keywords (`bnl_mpi.reduce`), and every
rule that needs no file is checked here, so that the rest of the program meets valid options only.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

from .codecs import guarding, registry
from .errors import UsageError
from .pixels.limits import LARGEST_RADIUS, MAX_BINNING
from .pixels.patterns import ZeroPattern
from .plan import block_path

COMPRESSIONS = ("bslz4", "bszstd", "bshuf", "zstd", "none", "htj2k")
LEVELS = {"zstd": (0, 9), "bszstd": (1, 22)}
DEFAULT_LEVEL = 3
XDS_COMPRESSIONS = ("bslz4", "none")
"""What XDS's plugin reads."""

MARKED_DTYPES = {2: "uint16", 4: "uint32", -2: "int16", -4: "int32"}
FLOAT_DTYPES = {2: "float16", 4: "float32"}

NOT_IN_IDENTITY = frozenset({
    "infile", "out_file", "out_master", "out_squash", "parallel", "thread", "force", "resume", "verbose", "json",
    "log_json", "grace", "progress", "codec_threads", "background", "seed",
})  # fmt: skip
"""Options that change how or where a run works, never what it computes."""

Real = float
"""Within `Options` the name `float` is the option's."""
Bytes = int | None


def _straight(path: str) -> str:
    """A path that means the same when `link/..` in it is struck out, as all that follows takes it."""
    folder, name = os.path.split(path)
    real = os.path.realpath(folder) if os.pardir in folder else ""
    return path if real in ("", os.path.realpath(os.path.abspath(folder))) else os.path.join(real, name)


@dataclass(frozen=True)
class Options:
    """A reduction as asked for.  Names and defaults are those of the README's table."""

    infile: str
    first_image: int = 1
    last_image: int | None = None
    channel: int | None = None  # of several (energy thresholds), from 1
    sum: int = 1
    bin: int = 1
    scale: Real = 1.0
    codec: str | None = None
    """The name of an entry of `codecs.registry`, or None."""
    codec_level: Real | None = None
    """The scale or target ratio; None where one of the following is the codec's target."""
    max_error: Real | None = None
    """Largest absolute error of a pixel, in counts."""
    psnr: Real | None = None
    """Least peak signal-to-noise ratio in dB, of 65535."""
    rms: Real | None = None
    """Largest root-mean-square error of an image, in counts."""
    compression: str = "zstd"
    compression_level: int | None = None
    data_block_size: int | str = 100
    out_file: str = "out_data"
    out_master: str | None = None
    out_squash: str | None = None
    parallel: int | None = None
    thread: int | None = None
    uint: int | None = None
    float: Bytes = None
    logarithm: Real | None = None  # the base; e is math.e
    exponential: Real | None = None
    zero: tuple[ZeroPattern, ...] = ()
    omit: tuple[tuple[int, int], ...] = ()
    saturation: str = "clip"
    drop_partial: bool = False
    allow_jumps: bool = False
    skip_bad_frames: bool = False
    salvage: bool = False
    ignore_frame_numbers: bool = False
    fill_gaps: bool = False
    keep: tuple[str, ...] = ()
    """Files of reflections whose pixels are kept, and "auto"."""
    keep_radius: Real | None = None
    """Pixels of a frame, in place of the files' own."""
    keep_frames: int = 0
    """More frames on both sides of each reflection."""
    keep_also: tuple[tuple[int, int, int, int], ...] = ()
    """Rectangles x0, x1, y0, y1 of a frame's pixels, from 0, both ends included."""
    keep_exact: bool = False
    background: str | None = None
    """Of an expansion: "poisson" draws the background of a set made with `--keep` anew."""
    seed: int = 0
    """Of these draws."""
    guard: Real | None = None  # see codecs.guarding
    on_guard: str = "gentler"
    force: bool = False
    resume: bool = False
    grace: Real = 20.0
    """Seconds that blocks in hand have to be finished in after a signal."""
    log_json: str | None = None
    verbose: bool = False
    json: str | None = None
    codec_threads: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        def fix(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        self._check_frames()
        self._check_pixels(fix)
        self._check_codec(fix)
        self._check_compression(fix)
        self._check_names(fix)
        self._check_running()

    def _check_frames(self) -> None:
        for name in ("first_image", "sum", "bin", "channel", "codec_threads"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1 << 63:
                raise UsageError(f"--{name} {value}: {'must be 1 or more' if value < 1 else 'is too large'}")
        if self.bin > MAX_BINNING:
            raise UsageError(f"--bin {self.bin}: must be {MAX_BINNING} or less")
        if self.last_image is not None and self.last_image < self.first_image:
            raise UsageError(
                f"--last_image {self.last_image} is before --first_image {self.first_image}: no frames selected"
            )
        if isinstance(self.data_block_size, str):
            if self.data_block_size != "auto":
                raise UsageError(f"--data_block_size {self.data_block_size}: give a number of images, or auto")
        elif self.data_block_size < 1:
            raise UsageError(f"--data_block_size {self.data_block_size}: must be 1 or more, or auto")

    def _check_pixels(self, fix: Any) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise UsageError(f"--scale {self.scale}: must be a number of 0 or more")
        fix("scale", float(self.scale))
        if self.uint is not None and self.float is not None:
            raise UsageError("-u and -f exclude each other: the output is of integers or of floats")
        if self.uint is not None and self.uint not in MARKED_DTYPES:
            raise UsageError(f"--uint {self.uint}: give 2 or 4 (unsigned bytes), or -2 or -4 (signed)")
        if self.float is not None and abs(self.float) not in FLOAT_DTYPES:
            raise UsageError(f"--float {self.float}: give 2 or 4 (bytes), or -2 or -4 (not clipped at 0)")
        if self.logarithm is not None and self.exponential is not None:
            raise UsageError("-L and -X exclude each other: one is the inverse of the other")
        for name in ("logarithm", "exponential"):
            base = getattr(self, name)
            if base is not None and base != math.e and not 2 <= base < math.inf:
                raise UsageError(f"--{name} {base}: the base is e or a number of 2 or more")
        if self.omit and not self.zero:
            raise UsageError("--omit names frames for -R and -C: give one of these too")
        if self.saturation not in ("clip", "scaled"):
            raise UsageError(f"--saturation {self.saturation}: give clip or scaled")

    def _check_running(self) -> None:
        if self.parallel is not None and self.parallel < 1:
            raise UsageError(f"--parallel {self.parallel}: must be 1 or more workers")
        if self.force and self.resume:
            raise UsageError("--force and --resume exclude each other: one makes all anew, the other goes on")
        if not (math.isfinite(self.grace) and self.grace >= 0):
            raise UsageError(f"--grace {self.grace}: must be a number of seconds, 0 or more")
        if self.thread is not None:
            if self.parallel is None:
                raise UsageError(f"-t {self.thread} needs -p, the number of shares that the work is cut into")
            if not 0 <= self.thread <= self.parallel:
                raise UsageError(f"-t {self.thread}: give 0 (the masters) or a share from 1 to -p {self.parallel}")

    @property
    def error_target(self) -> tuple[str, Real] | None:
        """(name, value) of the bound that takes a target ratio's place, if one was given."""
        return next(((name, value) for name in registry.bounds() if (value := getattr(self, name)) is not None), None)

    @property
    def stores_codestreams(self) -> bool:
        """Whether the codec's codestreams are the data files' chunks."""
        entry = registry.find(self.codec or "")
        return entry is not None and entry.chunks == self.compression

    def _check_codec(self, fix: Any) -> None:
        self._check_error_target(fix)
        guarding.check(self.guard, self.on_guard, self.codec)
        self._check_keep(fix)
        if self.codec is None:
            if self.out_squash is not None:
                raise UsageError(f"-q keeps a lossy codec's codestreams: give one of {registry.flags()} too")
            if self.fill_gaps:
                raise UsageError(f"--fill_gaps prepares images for a lossy codec: give one of {registry.flags()} too")
            return
        entry = registry.entry_of(self.codec)
        if self.error_target is None:
            if self.codec_level is not None and not math.isfinite(self.codec_level):
                raise UsageError(f"{entry.flag} {self.codec_level}: must be a finite number")
            fix("codec_level", entry.level(self.codec_level))
        self._check_coded_type(entry)

    def _check_coded_type(self, entry: registry.Entry) -> None:
        flag = entry.flag
        if self.dtype.startswith("float"):
            raise UsageError(f"{flag} codes unsigned integers; drop -f, or the codec")
        if self.dtype.startswith("int"):
            raise UsageError(f"{flag} codes unsigned integers; give -u 2 or -u 4, not -u {self.uint}")
        if self.logarithm is not None and self.dtype != "uint16":
            raise UsageError(f"{flag} after -L works on 2-byte output only; give -u 2")
        if self.dtype not in entry.dtypes:
            able = registry.flags(e for e in registry.CODECS if self.dtype in e.dtypes)
            raise UsageError(f"{flag} codes 16-bit unsigned images only; give -u 2, or use {able} for 4-byte output")

    def _check_error_target(self, fix: Any) -> None:
        given = [name for name in registry.bounds() if getattr(self, name) is not None]
        if not given:
            return
        name, value = given[0], getattr(self, given[0])
        takers = registry.bounds()[name]
        taker = next((entry for entry in takers if self.codec in (None, entry.name)), None)
        if taker is None:
            wrong = registry.entry_of(self.codec or "").flag
            raise UsageError(f"--{name} is a target of {registry.flags(takers)}; drop {wrong}, or --{name}")
        others = [f"--{other}" for other in given[1:]]
        others += [f"{taker.flag}'s {taker.metavar.lower()}"] if self.codec_level is not None else []
        if others:
            raise UsageError(f"--{name} and {' and '.join(others)} exclude each other: {taker.flag} has one target")
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"--{name} {value}: must be a number of 0 or more")
        fix(name, int(value) if value == int(value) else value)
        fix("codec", taker.name)

    def _check_stored_codestreams(self, fix: Any, storing: registry.Entry) -> None:
        """What is stored is a codestream: lossy with the codec, lossless without one."""
        name = self.compression
        if self.codec not in (None, storing.name):
            flag = registry.entry_of(self.codec).flag
            raise UsageError(
                f"-c {name} stores the codestreams of {storing.flag}, {flag} makes others: give {storing.flag} for "
                f"{flag}, or -c bslz4 (and -q to keep {flag}'s codestreams)"
            )
        if self.dtype not in ("uint16", "int16"):
            raise UsageError(f"-c {name} stores 8- and 16-bit integers, not {self.dtype}; give -u 2 or another -c")
        if self.codec is None:
            return
        if self.out_squash is not None:
            raise UsageError(f"-c {name} keeps the codestreams in the data files already: drop -q")
        # A lossy stream can't hold marks, and gaps of 0 would ring into valid pixels.
        fix("fill_gaps", True)

    def _check_compression(self, fix: Any) -> None:
        if self.compression not in COMPRESSIONS:
            raise UsageError(f"--compression {self.compression}: not known; give one of {', '.join(COMPRESSIONS)}")
        if (storing := registry.storing(self.compression)) is not None:
            self._check_stored_codestreams(fix, storing)
        level = self.compression_level
        if self.compression not in LEVELS:
            if level is not None:
                raise UsageError(f"--compression_level {level}: {self.compression} has no levels; drop it")
            return
        low, high = LEVELS[self.compression]
        level = DEFAULT_LEVEL if level is None else level
        if not low <= level <= high:
            raise UsageError(f"--compression_level {level}: {self.compression} has levels {low} to {high}")
        fix("compression_level", level)

    def _check_keep(self, fix: Any) -> None:
        if self.background not in (None, "poisson"):
            raise UsageError(f"--background {self.background}: give poisson, or leave it out")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: must be 0 or more")
        if not self.keep:
            for name in ("keep_radius", "keep_frames", "keep_also", "keep_exact"):
                if getattr(self, name):
                    raise UsageError(f"--{name} goes with --keep FILE, whose reflections are kept: give it too")
            return
        if self.keep_radius is not None and not 0 < self.keep_radius <= LARGEST_RADIUS:
            raise UsageError(f"--keep_radius {self.keep_radius:g}: give pixels of a frame, up to {LARGEST_RADIUS}")
        if self.keep_frames < 0:
            raise UsageError(f"--keep_frames {self.keep_frames}: must be 0 or more")
        if self.dtype != "uint16":
            raise UsageError(f"--keep works on 2-byte unsigned images, not {self.dtype}; give -u 2")
        if self.logarithm is not None or self.exponential is not None:
            raise UsageError("--keep works on counts: drop -L or -X")
        if self.codec is not None:
            # The level goes on below the gaps.
            fix("fill_gaps", True)

    def _check_names(self, fix: Any) -> None:
        for name in ("out_file", "out_master", "out_squash"):
            value = getattr(self, name)
            if value is not None:
                stem = value.removesuffix(".h5")
                if os.path.basename(stem) in ("", "-", ".", ".."):
                    raise UsageError(f"--{name} '{value}': needs a name, not a folder or a stream")
                fix(name, _straight(stem))
        fix("infile", _straight(self.infile))
        if self.out_master in (None, "out_file"):
            fix("out_master", f"{self.out_file}_master")
        if self.out_squash == "out_file":
            fix("out_squash", f"{self.out_file}_squash")
        # A name without a folder belongs beside the data files, or the master's links would not reach them.
        folder = os.path.dirname(self.out_file)
        for name in ("out_master", "out_squash"):
            value = getattr(self, name)
            if value and folder and not os.path.dirname(value):
                fix(name, os.path.join(folder, value))
        named = [os.path.abspath(s) for s in (self.out_file, self.out_master, self.out_squash) if s is not None]
        if len(set(named)) != len(named):
            raise UsageError("-o, -m and -q must name different files")

    @property
    def dtype(self) -> str:
        """NumPy's name of the output's type."""
        if self.float is not None:
            return FLOAT_DTYPES[abs(self.float)]
        return MARKED_DTYPES[self.uint or 2]

    @property
    def unclipped(self) -> bool:
        """Whether values below 0 are kept: a negative -u or -f."""
        return (self.float or self.uint or 1) < 0

    @property
    def master_path(self) -> str:
        return f"{self.out_master}.h5"

    @property
    def nxs_path(self) -> str:
        return f"{(self.out_master or '').removesuffix('_master')}.nxs"

    def data_path(self, block: int) -> str:
        return block_path(self.out_file, block)

    def squash_path(self, block: int) -> str:
        return block_path(str(self.out_squash), block)

    def identity(self) -> dict[str, Any]:
        """The options that determine what is computed, as JSON can hold them; for hashes and provenance."""
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in NOT_IN_IDENTITY}
        kept["zero"] = [f"{'RC'[p.axis]} {p.text}" for p in self.zero]
        kept["omit"] = [list(r) for r in self.omit]
        kept["keep"] = [os.path.basename(path) for path in self.keep]
        kept["keep_also"] = [list(r) for r in self.keep_also]
        kept["squash"] = self.out_squash is not None
        return kept
