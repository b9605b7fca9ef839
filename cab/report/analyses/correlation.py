"""Do families that are good in one pattern, or on one task, do well in another? Pearson's r over families.

    patterns   the Compositional Index of one pattern against that of another
    tasks      the task score (mean z over a task's metrics) of one task and pattern against that of another

Both of one size and from the tables of `cab.report.composite`, where a score is the mean over seeds, so that nothing is
mixed and a family that lacks either score is left out of that pair, never imputed. Under FEWEST families there is no
coefficient: CAB printed -1.0 for two. `eager` and `none` do not count: the first is vanilla once more, and the second,
far off on every task, would make everything correlate. A family with several sets of options counts once, with the set
that is in most tables. The interval is Fisher's, tanh(atanh r +- 1.96 / sqrt(n - 3)): it takes normal scores for
granted, and is wide as it should be at such n. Spearman's rho, the same of the ranks, stands beside r in the file.

A family in one slot leaves the other slots of a network to vanilla, so vanilla's own score is the same network in
every pattern of such a task: one of the n points is shared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question
from cab.report.analyses.grid import Cell, grid
from cab.report.composite import CONTROLS, Composite, Entry, name_of
from cab.report.load import canonical

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 5
"""Families: with fewer, r says nothing."""
Scores = Mapping[str, float]
"""Family -> score."""


def lines(material: Material) -> list[Line]:
    found = []
    for size in dict.fromkeys(made.size for made in material.indices):
        tables = [made for made in material.indices if made.size == size and made.entries]
        chosen = _chosen(tables)
        found += list(_pairs("patterns", size, _patterns(tables, chosen)))
        found += list(_pairs("tasks", size, _tasks(tables, chosen)))
    return found


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """None where either does not vary."""
    try:
        return statistics.correlation(x, y)
    except statistics.StatisticsError:
        return None


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    return pearson(_ranks(x), _ranks(y))


def fisher(r: float, n: int) -> tuple[float, float]:
    """The 95% interval of a correlation over n > 3 pairs."""
    if abs(r) >= 1:
        return r, r
    half = 1.959964 / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def _pairs(level: str, size: str, columns: Mapping[str, tuple[str, Scores]]) -> Iterator[Line]:
    for (first, (first_source, one)), (second, (second_source, two)) in combinations(columns.items(), 2):
        both = sorted(one.keys() & two.keys())
        x, y = [one[name] for name in both], [two[name] for name in both]
        enough = len(both) >= FEWEST
        r = pearson(x, y) if enough else None
        low, high = (None, None) if r is None else fisher(r, len(both))
        yield {
            "level": level,
            "size": size,
            "first": first,
            "second": second,
            "n": len(both),
            "pearson": r,
            "low": low,
            "high": high,
            "spearman": spearman(x, y) if enough else None,
            "attentions": " ".join(both),
            "first_source": first_source,
            "second_source": second_source,
            "figure": f"{level}_{size}",
        }


def _patterns(tables: Sequence[Composite], chosen: Mapping[str, str]) -> dict[str, tuple[str, Scores]]:
    return {
        made.pattern: (
            f"index over {', '.join(made.standards)}",
            {entry.attention: entry.index for entry in _counted(made, chosen) if entry.index is not None},
        )
        for made in tables
    }


def _tasks(tables: Sequence[Composite], chosen: Mapping[str, str]) -> dict[str, tuple[str, Scores]]:
    found: dict[str, tuple[str, Scores]] = {}
    for made in tables:
        for task in made.standards:
            scores = {entry.attention: entry.tasks.get(task) for entry in _counted(made, chosen)}
            whole = {name: score for name, score in scores.items() if score is not None}
            found[f"{task}, {made.pattern}"] = name_of(made.groups[task]), whole
    return found


def _counted(made: Composite, chosen: Mapping[str, str]) -> list[Entry]:
    return [entry for entry in made.entries if chosen.get(entry.attention) == canonical(entry.options)]


def _chosen(tables: Sequence[Composite]) -> dict[str, str]:
    """The set of options with which each family counts: that with a score in most tasks, then the first by text."""
    found: dict[str, dict[str, int]] = {}
    for made in tables:
        for entry in made.entries:
            if entry.attention not in CONTROLS:
                sets, options = found.setdefault(entry.attention, {}), canonical(entry.options)
                sets[options] = sets.get(options, 0) + sum(score is not None for score in entry.tasks.values())
    return {name: min(sets, key=lambda options: (-sets[options], options)) for name, sets in found.items()}


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    """The lower triangle, an n in every cell."""
    names = list(dict.fromkeys(name for line in found for name in (line["first"], line["second"])))
    labels = dict(zip(names, map(_label, names), strict=True))
    many = found[0]["level"] == "tasks"
    cells = {(labels[line["second"]], labels[line["first"]]): _cell(line, interval=not many) for line in found}
    note = f"bold: the 95% interval excludes 0; under n = {FEWEST} no coefficient"
    if many:
        title = f"Correlation of tasks (their z-scores) over families, {found[0]['size']}"
        note += "\nNS, CS, NC, CC: noncausal and causal self and cross"
    else:
        title = f"Correlation of patterns (their indices) over families, {found[0]['size']}"
    shown = list(labels.values())
    return grid(shown[1:], shown[:-1], cells, title, reach=1.0, note=note, wide=1.32 if many else 2.2)


def _label(name: str) -> str:
    """Of a pattern in full; of a task with its pattern's two letters."""
    task, _, pattern = name.rpartition(", ")
    letters = "".join(part[0].upper() for part in pattern.split("_"))
    return f"{task}\n{letters}" if task else pattern.replace("_", " ")


def _cell(line: Mapping[str, Any], interval: bool) -> Cell:
    r, n = line["pearson"], f"n={line['n']}"
    if r is None:
        return Cell(n, sure=False)
    low, high = line["low"], line["high"]
    return Cell(f"{r:+.2f}", f"{low:+.2f} to {high:+.2f}, {n}" if interval else n, r, low > 0 or high < 0)


QUESTION = Question(
    "correlation",
    "Correlation of patterns and of tasks",
    "Pearson's r over the families that have both scores (without `eager` and `none`), n of them, with Fisher's 95%"
    f" interval: near 1, one of the two tells what the other would; with fewer than {FEWEST} nothing is claimed.",
    "two patterns or tasks with an index at one size",
    lines,
    draw,
)
