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

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cab import ROOT
from cab.report import html, markdown
from cab.report.analyses import answers
from cab.report.analyses.base import Answer, Material
from cab.report.composite import composites
from cab.report.contents import document
from cab.report.csv_table import columns, composite_rows, leaderboard_rows, scale_rows, write_csv
from cab.report.efficiency import analyse, efficiency_rows
from cab.report.efficiency_table import EfficiencyTable
from cab.report.groups import make_groups
from cab.report.load import Loaded, load, quality_row
from cab.store.record import write_atomically

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
    try:
        build(loaded, results, plots=not options.no_plots)
    except OSError as error:
        print(f"{results / 'leaderboard'}: cannot be written ({error})", file=sys.stderr)
        return 2
    return 0


def build(loaded: Loaded, results: Path, plots: bool = True) -> None:
    """Writes everything and prints the short table."""
    from cab.report.figures.files import write_figures

    folder = results / "leaderboard"
    analyses = [analyse(record) for record in loaded.efficiency]
    groups = make_groups(loaded.quality, EfficiencyTable(analyses))
    indices = composites(groups)
    answered = answers(Material(groups, indices, loaded.efficiency))
    page = document(groups, indices, answered, loaded, results, plots)

    write_csv([row for group in groups for row in leaderboard_rows(group)], folder / "leaderboard.csv")
    write_csv([row for made in indices for row in composite_rows(made)], folder / "composite.csv")
    write_csv([row for made in indices for row in scale_rows(made)], folder / "composite_scale.csv")
    write_csv([quality_row(record) for record in loaded.quality], folder / "quality.csv")
    write_csv([row for analysis in analyses for row in efficiency_rows(analysis)], folder / "efficiency.csv")
    _write_answers(answered, folder / "analyses")
    write_atomically(folder / "leaderboard.md", markdown.render(page).encode())
    left_out = f"; {len(loaded.problems)} files left out, see leaderboard.md" if loaded.problems else ""
    print(markdown.short(page))
    print(f"\n{len(loaded.quality)} quality and {len(loaded.efficiency)} efficiency records{left_out}")
    print(f"tables   {folder}/leaderboard.md, five *.csv and analyses/*.csv", flush=True)

    if plots:
        write_figures(page.figures, folder / "plots")  # the slow part
        print(f"figures  {folder}/plots, {len(page.figures)} as PNG and SVG")
    write_atomically(folder / "index.html", html.render(page, folder / "plots").encode())
    print(f"page     {folder}/index.html")


def _write_answers(answered: Sequence[Answer], folder: Path) -> None:
    """A file for each that has lines; removes the others."""
    for answer in answered:
        path = folder / f"{answer.question.name}.csv"
        if answer.lines:
            write_csv([columns(line) for line in answer.lines], path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
