"""docs/performance.md and its plots, written from what `benchmarks.performance` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import archive_page, node_page, original_page, performance, starting_page
from bnl_mpi.tasks.images import STAGES

Found = Mapping[str, Any]

_INTRODUCTION = """# Performance

This page is made by `python -m benchmarks` (or `make bench`), which simulates its data, measures, and writes
`benchmarks/results/*.json`, this page and its plots; don't edit it by hand. `--sections settings` measures one
section anew, `--quick` shows in less than a minute that all of it runs.

What is compared is measured in turn (A B A B ...), and a ratio is that of two neighbours in time: so other work
on the machine spoils ratios less than seconds. Figures are *median (minimum; spread)*, the spread being the
interquartile range. All input lies in the system's cache. Raw data are the decoded pixels in the stored type.
"""

_STAGES_TEXT = """`-b 2 -s 2 -H 16 -c bslz4`, one worker. *decode* includes the sum and the image made of it
(saturation, scale): the chunks of all its frames are decoded and added up a few rows at a time, in the processor's
cache, so that neither frames nor sums are ever in memory. *reduce* is the marks on what a codec gave back, *code*
HCompress and its inverse, *encode* bitshuffle and LZ4, *write* HDF5, checksums, and the wait for a file's flush to the
disk, as far as it takes longer than the next file's images.
"""

_FLOOR_TEXT = """The floor reads and decodes the same frames and encodes the same images, with the program's own
kernels, and does nothing else: no sum, no codec, no checksum, no file. Rates are of one worker at work; the
whole job adds the plan, the masters and the NeXus file, once, however long the data set. Data files are of
100 images, as by default: what a file costs besides its images, some 12 ms here, counts as it does in long runs.
"""

_KEEPING_TEXT = """The same set with `--keep` and without, in turn; the reflections that were simulated are kept.
"""

_MEMORY_TEXT = """Resident, at its peak, of a worker that makes two blocks; rank 0 is another process.
"""

_TRIED = """## What was tried

Each against the code before it, in turn, on one machine (9M frames, least of 70 calls unless said otherwise).

| change | before | after | kept |
| --- | --- | --- | --- |
| elements straight from bit planes, 16 bit: `bslz4_decode` | 4.9 ms | 4.2 ms | yes |
| the same, 32 bit, 4M | 4.1 ms | 3.3 ms | yes |
| checksum by carry-less multiplication, 5 MB (least of 10) | 1.34 ms | 0.39 ms | yes |
| masters made while the workers work, in memory | 0.7 s after the work | during it | yes |
| chunks decoded, added up and finished a few rows at a time: a frame of b1s1 (median) | 40.3 ms | 32.7 ms | yes |
| the same, b2s2 | 13.6 ms | 12.2 ms | yes |
| errors of a decoded image in a kernel, 5 MB | 10.6 ms | 1.1 ms | yes |
| looks of rank 0 at each input file that it doesn't open | 6 | 3 | yes |
| images become chunks on the way, never whole in memory: a frame of b1s1 | 21.4 ms | 15.1 ms | yes |
| the same, b2s2 H16 | 10.5 ms | 8.3 ms | yes |
| gaps filled in a kernel, image of 2.5 megapixels | 3.6 ms | 0.8 ms | yes |
| means and levels of `--keep` made anew only where a spot was found, 2.5 megapixels | 15.5 ms | 8.1 ms | yes |
| its rounding with a short way for background, 2.5 megapixels | 7.8 ms | 4.2 ms | yes |
| what scattered masked pixels need of the mask asked for a row ahead: a frame of b2s2 | 6.7 ms | 6.5 ms | yes |
| one thread for OpenBLAS from the start, modules not collected: CPU of 24 frames, 1M | 0.48 s | 0.37 s | yes |
| the same of 500k, `-H 16 -c bslz4` | 0.43 s | 0.28 s | yes |
| workers import while rank 0 plans, guards are forks: mpiexec to the first frame, 1M | 0.42 s | 0.25 s | yes |
| `-p 2` starts mpiexec before it imports what ranks need: CPU of 24 frames, 1M | 1.27 s | 1.01 s | yes |
| crc32 without carry-less multiplication, eight bytes at a time, 5 MB | 41.9 ms | 1.9 ms | yes |
| what is plain in all frames added at once, as pixels, another processor: image of b1 | 13.4 ms | 11.7 ms | yes |
| the same, image of b2 s2 | 11.0 ms | 9.9 ms | yes |
| the same, image of b3 s2 | 11.8 ms | 8.9 ms | yes |
| bits transposed by the instruction for 8 x 8 bits: `bslz4_decode` | 3.1 ms | 2.8 ms | yes |
| the same, image of b2 s2 | 9.9 ms | 9.0 ms | yes |
| `--keep`: memory held, weights of 0 left out, shorter stretches, 2.5 megapixels | 12.8 ms | 8.9 ms | yes |
| gaps by distances, not sources and weights: a worker of T14, 9M | 124 MB | 115 MB | yes |
| free memory given back before decoding and at a file's end: a worker of T14, 16M, 32 bit | 147 MB | 132 MB | yes |
| the same at each step of a file's end, chunks let go of while a codestream is decoded | 136 MB | 120 MB | yes |
| `--keep`: levels a row at a time, outliers by cells, chunks on the way: a frame of b2 s2 | 11.9 ms | 10.3 ms | yes |
| fewer imports, one filter of hdf5plugin, no `uname` for h5py, `_exit`: CPU of 24 frames, 1M | 307 ms | 267 ms | yes |
| these but the last, MPI started before the imports: the same under mpiexec | 637 ms | 555 ms | yes |
| LZ4 repeats of all distances by the same instructions, 64 bytes at a time: image of b2 s2 | 8.8 ms | 7.6 ms | yes |
| that decoder built for AVX2 too, a byte shuffle a repeat, 32 bytes at a time: the same | 7.5 ms | 7.2 ms | yes |
| bit planes of 16-bit elements 64 bytes of a row at a time (AVX-512, GFNI): the same | 8.0 ms | 7.5 ms | yes |
| HCompress, a power of two as step: a mask, no 64-bit division: the same with H16 | 13.1 ms | 10.7 ms | yes |
| its first level in 16 bits where counts allow: the same with H16 | 10.3 ms | 9.2 ms | yes |
| masks binned in strips that a cache holds: 9M, b2 | 18 ms | 7 ms | yes |
| sums of 64 bytes at a time (AVX-512), image of b2 s2 | 9.5 ms | 11.9 ms | no |
| more blocks decoded ahead, lest rows are moved to the buffer's front | 9.9 ms | 9.9 ms | no |
| LZ4 matches copied 32 bytes at a time, by the older decoder | 4.2 ms | 4.7 ms | no |
| masks binned without transposing, 9M, b2 | 14.7 ms | 14.6 ms | no |
| the older LZ4 decoder compiled for AVX2 as well | 4.1 ms | 4.4 ms | no |
| allocations of up to 4 MB kept, not mapped (glibc's thresholds): CPU of 24 frames, 9M | 638 ms | 667 ms | no |
| huge pages for the heap (glibc's tunable), the same | 638 ms | 631 ms | no |

The LZ4 decoder meets about 87 sequences in each block of 8 KiB of such frames, half of their matches of 5 bytes or
fewer. That came to roughly 30 cycles for each, which is what one or two branches that can't be foreseen cost; this was
reckoned, not counted, but without these branches it takes a third less. MPI isn't started in a thread beside the
imports: of the 60 ms that it takes, 15 are waiting, the rest is the core's work under Python's lock. A rank isn't
ended by `_exit`, as a process alone is: where one of three had failed, MPICH's mpiexec told so after 6 of 15 runs. No
thread reads ahead, which would share the rank's one core: the system is told which frames come next (`posix_fadvise`),
and reads them meanwhile. Where each read was made to take 5 ms, and one that was told of 5 ms before none, a frame of
b2s2 took 15.1 ms without that and 8.1 with it, b2s2 H16 17.3 and 9.5; where nothing is slow it costs nothing that can
be measured.
"""


_JPEG2000 = """## JPEG 2000

`-J` and `-K` wait for OpenJPEG, which codes every bit of an image and then drops what the ratio leaves no room for.
Measured once, on images of 2.5 megapixels (9M, `-b 2 -s 2`) at 120:1 with OpenJPEG 2.5.4: milliseconds an image, coded
and decoded, on two cores, in turn, least of 30.

| | J120 | K120 |
| --- | --- | --- |
| one worker, one thread | 156 | 116 |
| one worker, `--codec_threads 2` | 102 | 75 |
| one worker, `--codec_threads 4` | 97 | 72 |
| two workers, one thread each | 80 | 60 |
| two workers, `--codec_threads 2` | 83 | 65 |

So a core is better given to a worker (1.95 times as fast) than to a thread (1.54 times); threads are for cores that no
worker has, where blocks are few. What two workers on the two threads of one core give wasn't measured: this machine
tells of one thread a core. No other setting makes it faster with the same pixels: the order of progression changes
nothing. With other pixels, code-blocks of 32 x 32 take 1.2 (K) to 1.5 times as long (J), five resolutions as long as
six; the lazy mode, which leaves the lowest bits to no coder, takes 0.80 (J) and 0.86 (K) of the time at errors 2 %
larger, but files would change, so it isn't used.
"""


def write_page(path: Path, found: Found) -> None:
    """Write the page for the sections in `found`, and plots in the folder of the page's name beside it."""
    here = {name: machine for name, machine in found["machine"].items() if name not in performance.ALONE}
    parts = [_INTRODUCTION, _machine(here)]
    plots = Plots(path.with_suffix(""))
    sections: dict[str, Callable[[Any, Plots], str]] = {
        "stages": _stages,
        "settings": _settings,
        "keeping": lambda rows, _: _keeping(rows),
        "memory": lambda rows, _: _memory(rows),
        "scaling": _scaling,
        "node": lambda rows, _: node_page.section(rows, found["machine"]["node"], table, figure, _laws),
        "starting": lambda rows, _: starting_page.section(rows, table, figure),
        "original": lambda rows, _: original_page.section(rows, found["machine"]["original"], table, figure),
        "archive": lambda rows, _: archive_page.section(rows, found["machine"]["archive"], table, figure),
        "kernels": _kernels,
        "waiting": _waiting,
        "verifying": lambda rows, _: _verifying(rows),
        "calls": _calls,
        "many_ranks": _many_ranks,
    }
    parts.append(_bounds(found))
    parts += [make(found[name], plots) for name, make in sections.items() if found.get(name)]
    parts += [_JPEG2000, _TRIED]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"


def figure(spread: Mapping[str, float], unit: float = 1.0, digits: int = 2) -> str:
    """*median (minimum; spread)* in units of `unit`."""
    median, least, width = (spread[k] / unit for k in ("median", "minimum", "spread"))
    return f"{median:.{digits}f} ({least:.{digits}f}; {width:.{digits}f})"


def _machine(machines: Mapping[str, Found]) -> str:
    if not machines:
        return ""
    one = next(iter(machines.values()))
    packages = ", ".join(f"{name} {number}" for name, number in one["packages"].items())
    loads = ", ".join(f"{name} {m['load_before']:.1f}" for name, m in machines.items())
    kernels = "compiled kernels" if one["compiled_kernels"] else "NumPy in place of compiled kernels"
    elsewhere = "; ".join(
        f"{name} {m['processor']}, {m['cores']} cores, {m['date']} UTC"
        for name, m in machines.items()
        if (m["processor"], m["cores"]) != (one["processor"], one["cores"])
    )
    return (
        f"{one['processor']}, {one['cores']} cores; {one['system']}; Python {one['python']}, {packages}, "
        f"HDF5 {one['hdf5']}, OpenJPEG {one['openjpeg']}; {kernels}; {one['date']} UTC.\n\n"
        + (f"Sections measured on another machine: {elsewhere}.\n\n" if elsewhere else "")
        + f"Load (runnable processes, averaged over a minute) before each section: {loads}. What was running "
        "besides, on as many cores, is in the figures.\n"
    )


# ---- what was promised --------------------------------------------------------------------------------


FLOOR_BOUNDS = (
    ("b1s1", 1.3),
    ("b2s2", 1.2),
    ("b2s2 H16", 1.5),
    ("b2s2 T14 htj2k", 2.0),
    ("b3s2 T6.3 htj2k", 2.0),
)
KEEP_BOUND = 1.4
MEMORY_BOUND = 120
VERIFY_BOUND = 1.0


def _bounds(found: Found) -> str:
    """A line for each bound that the results can be held against."""
    rows: list[tuple[str, str, str, bool]] = []
    by_name = {row["setting"]: row for row in found.get("settings") or []}
    for name, most in FLOOR_BOUNDS:
        if name in by_name:
            ratio = by_name[name]["over_floor"]
            rows.append((f"{name} over the floor", f"at most {most}", figure(ratio), ratio["median"] <= most))
    for row in found.get("keeping") or []:
        ratio = row["over_without"]
        text = f"{row['setting']} with `--keep`, over the same run without"
        rows.append((text, f"at most {KEEP_BOUND}", figure(ratio), ratio["median"] <= KEEP_BOUND))
    for row in found.get("memory") or []:
        peak = row["peak_bytes"] / 1e6
        text = f"peak memory of a worker, {_set_name(row)}, `{row['words']}`"
        rows.append((text, f"at most {MEMORY_BOUND} MB", f"{peak:.0f} MB", peak <= MEMORY_BOUND))
    for row in (found.get("verifying") or {}).get("sets", []):
        rate = row["rate"]
        text = f"`verify --against`, {_set_name(row)}, {row['frames']} frames: raw GB a second of a core"
        rows.append((text, f"at least {VERIFY_BOUND}", figure(rate, 1e9), rate["median"] >= VERIFY_BOUND * 1e9))
    scaling = found.get("scaling") or {}
    two = [row for row in scaling.get("strong", []) if row["workers"] == 2 and "speed" in row]
    for row in two:
        for key, words in (("speed_at_work", "at work"), ("speed", "whole job")):
            text = f"two workers over one, {words}"
            rows.append((text, "at least 1.9", figure(row[key]), row[key]["median"] >= 1.9))
    for row in scaling.get("strong", [])[:1]:
        first = row["first_frame"]
        text = "from mpiexec to the first frame read"
        rows.append((text, "under 1.5 s", figure(first), first["median"] < 1.5))
    if found.get("starting"):
        rows += starting_page.bounds(found["starting"], figure)
    if found.get("original"):
        rows += original_page.bounds(found["original"], figure)
    if not rows:
        return ""
    cells = [[text, bound, value, "yes" if met else "**no**"] for text, bound, value, met in rows]
    text = "## Bounds\n\n" + table(["figure", "bound", "measured", "met"], cells)
    busy = [name for name, machine in found["machine"].items() if machine["load_before"] > 1]
    if busy:
        sections = ", ".join(f"`{name}`" for name in busy)
        text += f"\nThe bounds are meant for an idle machine; this one was busy when these began: {sections}.\n"
    if two and "cpu_a_frame" in two[0]:
        text += (
            f"\nA frame took {figure(scaling['strong'][0]['cpu_a_frame'], 1e-3)} ms of a core with one worker and "
            f"{figure(two[0]['cpu_a_frame'], 1e-3)} ms with two: where two cores are free, two workers are faster by "
            f"{2 * _ratio(scaling['strong'][0], two[0], 'cpu_a_frame'):.2f}, going by the least of each. Rank 0 took "
            f"{figure(two[0]['cpu_rank_0'])} s of a core: start, plan, masters.\n"
        )
        text += _of_the_machine(scaling.get("independent") or [])
    return text


def _of_the_machine(rows: Sequence[Found]) -> str:
    if not rows:
        return ""
    cells = [[row["work"], figure(row["speed"])] for row in rows]
    header = ["work", f"{rows[0]['processes']} processes over one"]
    return (
        "\nWhat the machine itself gives to processes that share nothing, neither files nor messages, each with a "
        "kernel in a loop (taken after the scaling runs):\n\n" + table(header, cells)
    )


def _ratio(row: Found, other: Found, name: str) -> float:
    return float(row[name]["minimum"] / other[name]["minimum"])


# ---- sections -------------------------------------------------------------------------------------------


def _stages(rows: Sequence[Found], plots: Plots) -> str:
    milliseconds, speeds = [], []
    for row in rows:
        stages = row["stages"]
        milliseconds.append(
            [
                _set_name(row),
                f"{row['frame_bytes'] / 1e6:.0f}",
                *(figure(stages[s], 1e-3) for s in STAGES),
                figure(row["seconds_a_frame"], 1e-3),
            ]
        )
        moved = {s: row["image_bytes"] / 2 if s in ("encode", "write", "code") else row["frame_bytes"] for s in STAGES}
        moved["reduce"] = row["image_bytes"] / 2
        speeds.append([_set_name(row), *(_speed(moved[s], stages[s]["median"]) for s in STAGES)])
    plot = plots.save("stages", lambda axes: _draw_stages(axes, rows), height=0.4 * len(rows) + 1.6)
    return "\n".join(
        [
            "## Stages\n",
            _STAGES_TEXT,
            "Milliseconds a frame:\n",
            table(["set", "MB a frame", *STAGES, "all"], milliseconds),
            "GB/s: of raw frames for read and decode, of 16-bit images for the others:\n",
            table(["set", *STAGES], speeds),
            plot,
        ]
    )


def _speed(n_bytes: float, seconds: float) -> str:
    return f"{n_bytes / seconds / 1e9:.1f}" if seconds > 0 else "-"


def _set_name(row: Found) -> str:
    _, detector, bits, *_ = row["set"].split("_")
    return f"{detector}, {bits} bit"


def _settings(rows: Sequence[Found], plots: Plots) -> str:
    cells = [
        [
            row["setting"],
            figure(row["run_seconds"], row["frames"] * 1e-3),
            figure(row["floor_seconds"], row["frames"] * 1e-3),
            figure(row["over_floor"]),
            figure(row["raw_mb_per_s"], digits=0),
            figure(row["whole_job_seconds"]),
            f"{row['ratio_to_raw16']:.0f}",
        ]
        for row in rows
    ]
    share = [
        [row["setting"], *(f"{1e3 * row['stages'][s]['median'] / row['frames']:.2f}" for s in STAGES)] for row in rows
    ]
    header = ["setting", "ms a frame", "floor", "over the floor", "raw MB/s a worker", "whole job, s", "ratio"]
    plot = plots.save("settings", lambda axes: _draw_settings(axes, rows), height=0.4 * len(rows) + 1.4)
    return "\n".join(
        [
            "## Settings against the floor\n",
            _FLOOR_TEXT,
            table(header, cells),
            "Where the time goes, milliseconds a frame (medians):\n",
            table(["setting", *STAGES], share),
            plot,
        ]
    )


def _keeping(rows: Sequence[Found]) -> str:
    cells = [
        [
            row["setting"],
            figure(row["seconds"], row["frames"] * 1e-3),
            figure(row["seconds_without"], row["frames"] * 1e-3),
            figure(row["over_without"]),
            f"{row['ratio_to_raw16']:.0f}",
            f"{row['ratio_without']:.0f}",
        ]
        for row in rows
    ]
    header = ["setting", "ms a frame with --keep", "without", "over", "ratio with --keep", "without"]
    return "## Keeping reflections\n\n" + _KEEPING_TEXT + "\n" + table(header, cells)


def _memory(rows: Sequence[Found]) -> str:
    cells = [[_set_name(row), f"`{row['words']}`", f"{row['peak_bytes'] / 1e6:.0f}"] for row in rows]
    return "## Memory\n\n" + _MEMORY_TEXT + "\n" + table(["set", "options", "peak MB of a worker"], cells)


def _scaling(found: Found, plots: Plots) -> str:
    cells = []
    for kind in ("strong", "weak"):
        for row in found[kind]:
            speeds = [figure(row[k]) if k in row else "-" for k in ("speed", "speed_at_work")]
            peak = f"{row['peak_bytes_rank_0'] / 1e6:.0f}, {row['peak_bytes_worker'] / 1e6:.0f}"
            cells.append(
                [
                    kind,
                    str(row["workers"]),
                    str(row["frames"]),
                    figure(row["seconds"]),
                    *speeds,
                    figure(row["cpu_a_frame"], 1e-3),
                    peak,
                    figure(row["first_frame"]),
                ]
            )
    header = ["scaling", "workers", "frames", "s", "x one worker", "the same at work", "core ms a frame"]
    header += ["peak MB: rank 0, worker", "first frame, s"]
    ranks = [
        [str(row["workers"]), f"{rank['rank']:.0f}", *(f"{rank[name]:.2f}" for name in (*STAGES, "busy", "idle"))]
        for row in found["strong"]
        for rank in row["ranks"]
    ]
    text = (
        f"`{found['words']}`, {found['block']} images a data file, one more rank for the masters. "
        "Strong: the same frames for all; weak: as many a worker. *At work* leaves out start, plan and end, "
        "which don't grow with the frames. *Core ms* is the time for which the workers had a core: waiting for cores "
        "that other work holds isn't in it, so it tells of the scaling without such work.\n"
    )
    plot = plots.save("scaling", lambda axes: _draw_scaling(axes, found), height=3.6)
    return "\n".join(
        [
            "## Scaling\n",
            text,
            table(header, cells),
            _laws(found),
            "Seconds of each worker, strong runs (means); *idle* is before the first block and after the last:\n",
            table(["workers", "rank", *STAGES, "busy", "idle"], ranks),
            plot,
            "On a cluster: `sbatch slurm/scaling.sbatch`.\n",
        ]
    )


def _laws(found: Found) -> str:
    if not found["amdahl"]:
        return ""
    law, more = found["amdahl"], found["scalability"]
    coherency = (
        "coherency can't be told from fewer than three numbers of workers"
        if more["coherency"] is None
        else f"coherency {more['coherency']:.2g}"
    )
    return (
        f"Amdahl's law, T(n) = T(1) (s + (1 - s) / n): serial fraction s = {law['serial']:.3f}. Universal scalability "
        f"law, X(n) = X(1) n / (1 + a (n - 1) + k n (n - 1)): contention a = {more['contention']:.3f}; {coherency}.\n"
    )


def _kernels(rows: Sequence[Found], plots: Plots) -> str:
    copy = next(row for row in rows if row["kernel"] == "copy of a frame")
    bandwidth = copy["bytes"] / copy["seconds"]["minimum"]
    cells = []
    for row in rows:
        rate = row["bytes"] / row["seconds"]["minimum"]
        cells.append(
            [
                row["kernel"],
                f"{row['bytes'] / 1e6:.1f}",
                figure(row["seconds"], 1e-3),
                f"{rate / 1e9:.1f}",
                f"{100 * rate / bandwidth:.0f} %",
            ]
        )
    text = (
        "One call each on a frame, or on the image that two frames make. *MB* is what a call must move through memory "
        "at least. Near the rate of a copy, memory bounds a kernel; far below it, computing does: LZ4 goes a "
        "sequence at a time, each length known when the one before it is read, HCompress and the checksum compute "
        "on every pixel.\n"
    )
    header = ["kernel", "MB", "ms", "GB/s (best)", "of a copy's rate"]
    return "\n".join(["## Kernels\n", text, table(header, cells)])


def _waiting(found: Found, plots: Plots) -> str:
    cells = [
        [name, figure(row["seconds_a_frame"], 1e-3), f"{1e3 * row['read_a_frame']:.2f}"] for name, row in found.items()
    ]
    warm, cold = found["warm"]["seconds_a_frame"]["median"], found["cold"]["seconds_a_frame"]["median"]
    warm_read, all_read = found["warm"]["read_a_frame"], 100 * found["warm"]["read_a_frame"] / warm
    text = (
        "The same run with the input's files in the system's cache, and with the system made to forget them. "
        f"Reading takes {1e3 * warm_read:.2f} ms a frame from the cache, {all_read:.0f} % of the time: that much a "
        f"thread that reads ahead could hide at most; a cold disk costs {100 * (cold / warm - 1):.0f} % here.\n"
    )
    header = ["cache", "ms a frame", "of it reading"]
    return "\n".join(["## Waiting for the disk\n", text, table(header, cells)])


def _verifying(found: Found) -> str:
    cells = []
    for row in found["sets"]:
        frame, alone = (row["frame"][name]["median"] for name in ("against", "alone"))
        cells.append(
            [
                _set_name(row),
                str(row["frames"]),
                *(figure(row["seconds"][name]) for name in ("alone", "against", "certify")),
                figure(row["rate"], 1e9),
                f"{1e3 * frame:.1f} ms, {row['frame_bytes'] / frame / 1e9:.2f} GB/s" if frame > 0 else "-",
                f"{row['stored_bytes'] / row['frames'] / alone / 1e6:.0f}" if alone > 0 else "-",
            ]
        )
    sha = found["sha256"]
    has = "with" if sha["has_instructions"] else "without"
    text = (
        "`bnl-mpi verify` of `-b 2 -s 2 -c bslz4`, whole jobs in processes of their own, from Python's start to the "
        "last word; *s* are seconds of a core, of all threads. What a set costs once (start, plan, both masters made "
        "anew and compared item by item) weighs less in a longer one: *one frame more* is the difference to half the "
        "frames. The first image of each block is made a second time by NumPy and HDF5's filters, which is in it. "
        "*MB/s alone*, of one frame more, are the set's own bytes, decoded and held against their checksums. "
        f"SHA-256, {has} the processor's "
        f"instructions for it: {figure(sha['rate'], 1e9)} GB a second of a core, in a thread beside the reading.\n"
    )
    header = ["set", "frames", "alone, s", "against raw, s", "and certify, s", "raw GB/s of a core", "one frame more"]
    return "\n".join(["## Verifying\n", text, table([*header, "MB/s alone"], cells)])


def _calls(found: Found, plots: Plots) -> str:
    kinds = [k for k in found["block"] if found["rank_0"].get(k) or found["worker"].get(k) or found["block"][k]]
    cells = [
        [
            kind,
            str(found["rank_0"].get(kind, 0)),
            str(found["rank_0_of_twice_the_blocks"].get(kind, 0)),
            str(found["worker"].get(kind, 0)),
            f"{found['block'][kind]:g}",
        ]
        for kind in kinds
    ]
    text = (
        "System calls on paths of input and output (strace), two workers; a block reads 10 frames of input files of 4 "
        "frames each, so it opens two or three of them beside its own.\n"
    )
    header = ["call", "rank 0", "rank 0, twice the blocks", "a worker of two blocks", "each further block"]
    return "\n".join(["## Calls to the file system\n", text, table(header, cells)])


def _many_ranks(rows: Sequence[Found], plots: Plots) -> str:
    cells = [
        [
            str(row["workers"]),
            f"{row['broadcast_bytes'] / 1e3:.1f}",
            f"{row['peak_bytes_rank_0'] / 1e6:.0f}",
            f"{row['peak_bytes_worker'] / 1e6:.0f}",
            str(row.get("metadata_calls_rank_0", "-")),
            str(row.get("metadata_calls_worker", "-")),
        ]
        for row in rows
    ]
    text = (
        "One block and four frames a worker, all ranks on this machine, so times say nothing. Calls are to look at, "
        "open, list, rename or remove files. What grows with the ranks is what MPI itself needs for each.\n"
    )
    header = ["workers", "broadcast, kB", "peak MB, rank 0", "peak MB, worker", "metadata calls, rank 0", "a worker"]
    return "\n".join(["## Many ranks\n", text, table(header, cells)])


# ---- plots ----------------------------------------------------------------------------------------------

COLOURS = ("#4c78a8", "#72b7b2", "#54a24b", "#eeca3b", "#f58518", "#b279a2")


class Plots:
    """Draws plots into a folder; without matplotlib the page goes without them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, draw: Callable[[Any], None], height: float) -> str:
        """The Markdown that shows the plot, empty without matplotlib.  `height` in inches."""
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return ""
        self._folder.mkdir(parents=True, exist_ok=True)
        drawing = Figure(figsize=(7.5, height), layout="constrained")
        FigureCanvasAgg(drawing)
        axes = drawing.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        drawing.savefig(self._folder / f"{name}.png", dpi=110, metadata={"Software": None})
        return f"![{name}]({self._folder.name}/{name}.png)\n"


def _draw_stages(axes: Any, rows: Sequence[Found]) -> None:
    names = [_set_name(row) for row in rows][::-1]
    left = [0.0] * len(rows)
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        values = [1e3 * row["stages"][stage]["median"] for row in rows][::-1]
        axes.barh(names, values, left=left, color=colour, label=stage)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_xlabel("ms a frame, one worker, -b 2 -s 2 -H 16 -c bslz4")
    axes.legend(frameon=False, ncols=len(STAGES), loc="lower right", bbox_to_anchor=(1, 1))


def _draw_settings(axes: Any, rows: Sequence[Found]) -> None:
    for at, row in enumerate(rows[::-1]):
        floor, run = (1e3 * row[k]["median"] / row["frames"] for k in ("floor_seconds", "run_seconds"))
        axes.plot([floor, run], [at, at], color="#bbbbbb", zorder=1)
        axes.scatter([floor], [at], color=COLOURS[0], label="floor" if at == 0 else None, zorder=2)
        axes.scatter([run], [at], color=COLOURS[4], label="run" if at == 0 else None, zorder=2)
        axes.annotate(f"{row['over_floor']['median']:.2f} x", (run, at), (8, -3), textcoords="offset points")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.15)
    axes.set_yticks(range(len(rows)), [row["setting"] for row in rows[::-1]])
    axes.set_xlabel("ms a frame, one worker")
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _draw_scaling(axes: Any, found: Found) -> None:
    workers = [row["workers"] for row in found["strong"]]
    axes.plot(workers, workers, color="#bbbbbb", label="ideal")
    for kind, colour in (("strong", COLOURS[0]), ("weak", COLOURS[4])):
        rows = [row for row in found[kind] if "speed" in row]
        for key, style, words in (("speed", "o-", "whole job"), ("speed_at_work", "s--", "at work")):
            values = [row[key]["median"] for row in rows]
            axes.plot([r["workers"] for r in rows], values, style, color=colour, label=f"{kind}, {words}")
    axes.set_xticks(workers)
    axes.set_xlabel("workers")
    axes.set_ylabel("frames a second, in units of one worker's")
    axes.legend(frameon=False)
