"""`python -m benchmarks`: simulate data, measure the program's speed, write results and docs/performance.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """0 on success, 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    from benchmarks import performance, performance_page, scaling

    add = parser.add_argument
    add("--quick", action="store_true", help="small sets and few repeats, to see that all of it runs")
    add("--sections", nargs="+", choices=list(performance.SECTIONS), help="measure these only (default: all)")
    add("--work", type=Path, default=HERE / "data", help="folder of input and output")
    add("--results", type=Path, help="folder of the JSON files (default: benchmarks/results, with --quick WORK/quick)")
    add("--page", type=Path, help="the page to write (default: docs/performance.md, with --quick WORK/quick/page.md)")
    add("--page_only", action="store_true", help="write the page from the results that are there")
    namespace = parser.parse_args(arguments)
    from bnl_mpi.pixels import kernels

    results = namespace.results or (namespace.work / "quick" if namespace.quick else HERE / "results")
    page = namespace.page or (results / "page.md" if namespace.quick else HERE.parent / "docs" / "performance.md")
    if not namespace.page_only:
        if not kernels.COMPILED:
            print(
                "benchmarks: the kernels aren't compiled in the package that Python finds here: pip install -e .",
                file=sys.stderr,
            )
            return 1
        sizes = performance.QUICK if namespace.quick else performance.FULL
        wanted = namespace.sections or list(performance.SECTIONS)
        try:
            performance.measure(sizes, namespace.work, results, wanted)
        except scaling.LaunchError as error:
            print(f"benchmarks: {error}", file=sys.stderr)
            return 1
    performance_page.write_page(page, performance.read_results(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
