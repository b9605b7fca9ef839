"""Writes the files of the leaderboard: tables, figures and the page."""

from collections.abc import Sequence
from pathlib import Path

from cab.report import html, markdown
from cab.report.analyses import answers
from cab.report.analyses.base import Answer, Material
from cab.report.composite import composites
from cab.report.contents import document
from cab.report.csv_table import columns, composite_rows, leaderboard_rows, scale_rows, write_csv
from cab.report.efficiency import analyse, efficiency_rows
from cab.report.efficiency_table import EfficiencyTable
from cab.report.figures.files import write_figures
from cab.report.groups import make_groups
from cab.report.load import Loaded, quality_row
from cab.store.record import write_atomically
from tasks.data.set_aside import make_way


def build(loaded: Loaded, results: Path, plots: bool = True) -> None:
    """Writes everything and prints the short table."""
    folder = results / "leaderboard"
    for expected in (folder, folder / "analyses", folder / "plots"):
        make_way(expected, "folder")
    analyses = [analyse(record) for record in loaded.efficiency]
    groups = make_groups(loaded.quality, EfficiencyTable(analyses))
    indices = composites(groups)
    answered = answers(Material(groups, indices))
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
            make_way(path, "file")
            path.unlink(missing_ok=True)
