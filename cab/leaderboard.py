"""Tables and figures from the records alone.

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

import sys
from collections.abc import Sequence

from cab.arguments import EXIT_CODES, Parser, results_folder
from cab.command import command_line
from cab.errors import UserError

EXAMPLES = ("", "results=/tmp/try", "--no-plots")


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line(lambda: leaderboard(arguments))


def leaderboard(arguments: Sequence[str] | None) -> int:
    """Returns an exit code. Raises UserError."""
    parser = Parser("cab.leaderboard", __doc__, "[results=DIR] [--no-plots]", EXAMPLES, EXIT_CODES)
    parser.add_argument("--results", metavar="DIR", help="the same as results=DIR: the folder with the records")
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    options, rest = parser.parse(arguments)
    results = results_folder(parser, options.results, rest)
    if not results.is_dir():
        found = "a file" if results.exists() else "no such folder"
        raise UserError(f"results={results}: {found}: make records with `make run`, or name their folder with results=")
    from cab.report.load import load

    loaded = load(results)
    for problem in loaded.problems:
        print(f"warning: {problem.path}: {problem.reason}; left out", file=sys.stderr)
    if not loaded.quality and not loaded.efficiency:
        found = f"{len(loaded.problems)} files, none of them usable" if loaded.problems else "no records"
        raise UserError(f"results={results}: {found}: make records with `make run`, or name their folder with results=")
    from cab.report.build import build  # imports pandas and matplotlib

    try:
        build(loaded, results, plots=not options.no_plots)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{results / 'leaderboard'}: cannot be written ({error})") from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
