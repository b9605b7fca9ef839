"""Tables and figures from the records alone: `python -m cab.leaderboard [--results DIR]`.

Writes below DIR/leaderboard
    leaderboard.csv, .md   one row per task, pattern, size, data, settings, family and options
    quality.csv            one row per quality record, whatever its status
    efficiency.csv         one row per measurement, with its ratios to vanilla and eager
    composite.csv          one row per pattern, size and family: the Compositional Index (cab.report.composite)
    composite_scale.csv    mean and deviation of every metric in it
    analyses/*.csv         the analyses for which there are records (cab.report.analyses)
    index.html             all of it as one page that opens anywhere (cab.report.html)
    plots/*.png, *.svg     training curves, quality against efficiency, time and memory against length, the analyses
and prints a short table. It trains and measures nothing, and changes no record.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cab import ROOT
from cab.report.load import load

RESULTS = ROOT / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder with the records, default {RESULTS}")
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    options = parser.parse_args(arguments)
    results: Path = options.results
    loaded = load(results)
    for problem in loaded.problems:
        print(f"warning: {problem.path}: {problem.reason}; left out", file=sys.stderr)
    if not loaded.quality and not loaded.efficiency:
        found = f"{len(loaded.problems)} files, none of them usable" if loaded.problems else "no records"
        print(f"{results}: {found}. Make some with `make run`, or name their folder with --results.", file=sys.stderr)
        return 2
    from cab.report.build import build  # imports pandas and matplotlib

    try:
        build(loaded, results, plots=not options.no_plots)
    except OSError as error:
        print(f"{results / 'leaderboard'}: cannot be written ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
