"""Tables and figures from the records alone: `python -m cab.leaderboard [--results DIR]`.

Writes below DIR/leaderboard
    leaderboard.csv, .md   one row per task, pattern, size, data, settings and family (cab.report.rows, .costs)
    quality.csv            one row per quality record, whatever its status
    efficiency.csv         one row per measurement, with its ratios to vanilla and eager
    composite.csv          one row per pattern, size and family: the Compositional Index (see cab.report.composite)
    composite_scale.csv    the mean and deviation of every metric in it
    analyses/*.csv         what the analyses found, those that had what they need (see cab.report.analyses)
    index.html             all of it as one page that opens anywhere (see cab.report.html)
    plots/*.png, *.svg     training curves, quality against cost, time and memory against length, the analyses
and prints a short table. Nothing is ever trained or measured here, and no record is changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cab import ROOT
from cab.report.analyses import QUESTIONS, answers
from cab.report.analyses.base import Answer, Material, figure_names, place, title
from cab.report.composite import Composite, composites, parts
from cab.report.costs import Analysis, Costs, analyse, machine
from cab.report.load import Loaded, canonical, load, quality_table
from cab.report.rows import Group, Row, groups, rows_of
from cab.store.record import Record, write_atomically

if TYPE_CHECKING:
    import pandas as pd

RESULTS = ROOT / "results"
FEW = 8
"""Fewer pieces of work than this are not worth starting processes for."""
A = TypeVar("A")
B = TypeVar("B")
Line = dict[str, Any]
Ranked = list[tuple[Group, list[Line]]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cab.leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder with the records, default {RESULTS}")
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    chosen = parser.parse_args(arguments)
    results: Path = chosen.results
    loaded = load(results)
    for problem in loaded.problems:
        print(f"warning: {problem.path}: {problem.reason}; left out", file=sys.stderr)
    if not loaded.quality and not loaded.efficiency:
        found = f"{len(loaded.problems)} files, none of them usable" if loaded.problems else "no records"
        print(f"{results}: {found}. Make some with `make run`, or name their folder with --results.", file=sys.stderr)
        return 2
    return build(loaded, results, plots=not chosen.no_plots)


def build(loaded: Loaded, results: Path, plots: bool = True) -> int:
    """Writes everything and prints the short table."""
    from cab.report import composite_tables
    from cab.report.analyses import view
    from cab.report.html import render
    from cab.report.markdown import brief, page

    folder = results / "leaderboard"
    analyses = in_parallel(analyse, loaded.efficiency)
    ranked = standings(loaded.quality, analyses)
    indices = composites(group for group, _ in ranked)
    found = answers(Material(ranked, indices, loaded.efficiency))
    sections = [composite_tables.section(indices), view.section(found, plots)]
    text = page(ranked, loaded.problems, results, "\n\n".join(filter(None, sections)))
    try:
        _write_csv(leaderboard_table(ranked, indices), folder / "leaderboard.csv")
        for name, lines in (
            ("composite", composite_tables.entry_lines),
            ("composite_scale", composite_tables.scale_lines),
        ):
            _write_csv(_table(line for made in indices for line in lines(made)), folder / f"{name}.csv")
        _write_csv(quality_table(loaded.quality), folder / "quality.csv")
        _write_csv(efficiency_table(analyses), folder / "efficiency.csv")
        _write_answers(found, folder / "analyses")
        write_atomically(folder / "leaderboard.md", text.encode())
        print(brief(ranked) or "no quality records: nothing to rank")
        if compared := composite_tables.brief(indices):
            print(f"\n{compared}")
        left_out = f"; {len(loaded.problems)} files left out, see leaderboard.md" if loaded.problems else ""
        print(f"\n{len(loaded.quality)} quality and {len(loaded.efficiency)} efficiency records{left_out}")
        print(f"tables   {folder}/leaderboard.md, five *.csv and analyses/*.csv", flush=True)
        drawn: list[str] = []
        if plots:  # last: on a large folder they take longer than all else
            drawn = draw(ranked, loaded.efficiency, folder / "plots", found)
            print(f"figures  {folder}/plots, {len(drawn)} as PNG and SVG")
        write_atomically(folder / "index.html", render(ranked, indices, loaded, results, drawn, found).encode())
        print(f"page     {folder}/index.html")
    except OSError as error:
        print(f"{folder}: cannot be written ({error})", file=sys.stderr)
        return 2
    return 0


def standings(quality: Iterable[Record], analyses: Iterable[Analysis]) -> Ranked:
    """Every group with its ranked lines, costs joined."""
    costs = Costs(analyses)
    return [(group, rows_of(group, costs)) for group in groups(quality)]


def leaderboard_table(ranked: Ranked, indices: Iterable[Composite]) -> pd.DataFrame:
    """The lines of all groups; `index_part` is the row's task score where it is part of an index."""
    found = parts(indices)
    return _table(
        line | {"index_part": found.get(id(row))}
        for group, lines in ranked
        for row, line in zip(group.rows, lines, strict=True)
    )


def efficiency_table(analyses: Iterable[Analysis]) -> pd.DataFrame:
    return _table(row for analysis in analyses for row in analysis.rows)


def _table(lines: Iterable[Line]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(lines), dtype=object)


def draw(ranked: Ranked, efficiency: Iterable[Record], folder: Path, found: Iterable[Answer] = ()) -> list[str]:
    """All figures; what an earlier call drew and this one did not is removed. Returns their names."""
    work = [*_group_figures(ranked), *_cost_figures(efficiency), *_answer_figures(found)]
    made = [name for name in in_parallel(partial(_draw, folder), work, few=2) if name]
    kept = {f"{name}.{ending}" for name in made for ending in ("png", "svg")}
    for path in folder.glob("*.*"):
        if path.suffix in (".png", ".svg") and path.name not in kept:
            path.unlink()
    return made


Work = tuple[str, str, str, Any]
"""Kind of figure, file name, title, and what it shows."""


def _group_figures(ranked: Ranked) -> list[Work]:
    work: list[Work] = []
    for (group, lines), name in zip(ranked, figure_names([group for group, _ in ranked]), strict=True):
        head = title(place(group))
        rows = [row for row in group.rows if any(record.result.get("curve") for record in row.records)]
        if rows:
            work.append(("curves", f"curves_{name}", head, rows))
        if any(line["train_ratio"] or line["state_bytes"] for line in lines):
            work.append(("tradeoff", f"tradeoff_{name}", head, lines))
    return work


def _cost_figures(efficiency: Iterable[Record]) -> list[Work]:
    """One per pattern, level, shape and machine, from the newest record of each family and options."""
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for record in sorted(efficiency, key=lambda record: record.provenance.get("started") or ""):
        cell = record.cell
        sizes = f"d{cell['dim']}_h{cell['heads']}_l{cell['depth']}_f{cell['hidden']}"
        name = f"costs_{cell['pattern']}_{cell['level']}_{sizes}"
        family = canonical([cell["attention"], record.config.get("attention")])
        found.setdefault((name, machine(record)), {})[family] = record
    names = [name for name, _ in found]
    work: list[Work] = []
    for (name, _), records in found.items():
        first = next(iter(records.values()))
        cell = first.cell
        if names.count(name) > 1:
            name = f"{name}_{first.hash[:6]}"
        head = f"{cell['pattern'].replace('_', ' ')}, {cell['level']}: {cell['depth']} x D={cell['dim']}, "
        head += f"{cell['heads']} heads, {cell['device']}, {cell['precision']}"
        work.append(("costs", name, head, [records[key] for key in sorted(records)]))
    return work


def _answer_figures(found: Iterable[Answer]) -> list[Work]:
    return [(answer.question.name, name, "", lines) for answer in found for name, lines in answer.figures.items()]


def _draw(folder: Path, work: Work) -> str | None:
    """Draws one figure unless it is there already; its name, or None where there was nothing to show."""
    from cab.report.figures import costplot, plots
    from cab.report.figures.style import is_drawn, save, source

    kind, name, head, content = work
    shown = [_stamped(item) for item in content]
    stamp = hashlib.sha256(canonical([source(), head, shown]).encode()).hexdigest()
    if is_drawn(folder / name, stamp):
        return name
    make: dict[str, Callable[..., Any]] = {"curves": plots.curves, "tradeoff": plots.tradeoff, "costs": costplot.costs}
    asked = {question.name: question.draw for question in QUESTIONS}
    figure = asked[kind](content) if kind in asked else make[kind](content, head)
    if figure is None:
        return None
    save(figure, folder / name, stamp)
    return name


def _stamped(item: Any) -> Any:
    """What decides how something is drawn: a record by its hash and when it was made, a line by its values."""
    if isinstance(item, Row):
        return [item.label, *map(_stamped, item.records)]
    return [item.hash, item.provenance] if isinstance(item, Record) else item


def in_parallel(function: Callable[[A], B], items: Sequence[A], few: int = FEW) -> list[B]:
    """`function` of every item, in order, on all cores."""
    workers = min(len(items), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 8)
    if len(items) < few or workers < 2:
        return [function(item) for item in items]
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        return list(pool.map(function, items, chunksize=max(1, len(items) // (4 * workers)) if few == FEW else 1))


def _write_answers(found: Iterable[Answer], folder: Path) -> None:
    """A file for each that has lines; what an earlier call wrote and this one did not is removed."""
    kept = {f"{answer.question.name}.csv": answer.lines for answer in found if answer.lines}
    for path in folder.glob("*.csv"):
        if path.name not in kept:
            path.unlink()
    for name, lines in kept.items():
        _write_csv(_table(lines), folder / name)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_atomically(path, table.to_csv(index=False).encode())


if __name__ == "__main__":
    sys.exit(main())
