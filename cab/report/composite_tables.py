"""The Compositional Index as people read it: the lines of composite.csv and composite_scale.csv, and its section of
leaderboard.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from cab.report.composite import FEWEST, Composite, Entry, is_logarithmic
from cab.report.load import options_text, settings_name
from cab.report.markdown import MISSING, escaped, number
from cab.report.words import counted

LEGEND = f"""\
CAB's index: z-scores of all metrics, positive is better, averaged over a task's metrics, then over tasks; Delta is the
distance to vanilla. Mean and deviation are those of the families of this table, and stand below it: an index says
how a family stands among these, and cannot be compared with that of another table. `eager` and `none` are judged by
them and do not enter them. Perplexities count by their logarithm. A family that lacks a task has no index; a task with
fewer than {FEWEST} families is left out. The interval is 95% (t) over the indices of the seeds, for families with the
same seeds in all tasks, the scale held fixed; intervals that overlap, directly or through a third, share a rank.
"""


def section(indices: Sequence[Composite]) -> str:
    """The part of leaderboard.md; empty without records."""
    return "\n\n".join(["## Compositional Index", LEGEND.strip(), *map(_table, indices)]) if indices else ""


def _table(made: Composite) -> str:
    """The families of one pattern and size over its tasks, and the scale of every metric."""
    title = f"### {made.pattern.replace('_', ' ')}, {made.size}"
    notes = "\n".join(f"* {note}" for note in made.notes)
    if not made.entries:
        return f"{title}\n\nNo index:\n\n{notes}"
    tables = [
        tabulate(escaped(body), headers=head, tablefmt="github", disable_numparse=True) for head, body in grids(made)
    ]
    return "\n\n".join([title, *tables, *([f"Not in it:\n\n{notes}"] if notes else [])])


def grids(made: Composite) -> list[tuple[list[str], list[list[str]]]]:
    """Head and body of the two tables: the families, and what each metric was measured by."""
    head = ["rank", "attention", "n", "index", "Delta", *made.standards, "tasks", "missing"]
    body = [
        [
            *_standing(entry, " (tie)"),
            *map(_z, entry.tasks.values()),
            f"{len(entry.tasks) - len(entry.missing)} of {len(entry.tasks)}",
            ", ".join(entry.missing) or MISSING,
        ]
        for entry in made.entries
    ]
    scale = [
        [
            line["task"],
            f"{counted(line['metric'])} ({line['better']} is better)",
            number(line["mean"]),
            number(line["deviation"]),
            line["families"],
            f"{(line['data_hash'] or 'unknown')[:12]}, {line['settings']}",
        ]
        for line in scale_lines(made)
    ]
    names = ["task", "metric", "mean", "deviation", "over", "data, settings"]
    return [(head, body), (names, scale)]


def brief(indices: Iterable[Composite]) -> str:
    """What the terminal shows."""
    shown = []
    for made in indices:
        if made.entries:
            body = [[*_standing(entry, "="), ", ".join(entry.missing) or MISSING] for entry in made.entries]
            head = ["rank", "attention", "n", "index", "Delta", "missing"]
            table = tabulate(body, headers=head, tablefmt="simple", disable_numparse=True)
            shown.append(f"Compositional Index, {made.pattern}, {made.size}: {', '.join(made.standards)}\n{table}")
    return "\n\n".join(shown)


def _standing(entry: Entry, tie: str) -> list[str]:
    rank = MISSING if entry.rank is None else f"{entry.rank}{tie if entry.tie else ''}"
    interval = f" ({_z(entry.interval[0])} to {_z(entry.interval[1])})" if entry.interval else ""
    seeds = MISSING if entry.n is None else str(entry.n)
    return [rank, entry.label, seeds, _z(entry.index) + interval, _z(entry.delta)]


def _z(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.3f}"


def entry_lines(made: Composite) -> list[dict[str, Any]]:
    """The lines of composite.csv, in their order."""
    lines = []
    for entry in made.entries:
        low, high = entry.interval or (None, None)
        row = next(iter(entry.rows.values()))
        lines.append(
            {
                "pattern": made.pattern,
                "size": made.size,
                "attention": entry.attention,
                "label": entry.label,
                "options": options_text(row.first.identity),
                "rank": entry.rank,
                "tie": entry.tie,
                "n": entry.n,
                "index": entry.index,
                "low": low,
                "high": high,
                "delta": entry.delta,
                "tasks": len(entry.tasks) - len(entry.missing),
                "of": len(entry.tasks),
                "missing": ", ".join(entry.missing),
                "science_version": row.first.science_version,
                **{f"task.{task}": score for task, score in entry.tasks.items()},
            }
        )
    return lines


def scale_lines(made: Composite) -> list[dict[str, Any]]:
    """The lines of composite_scale.csv: what every metric was measured by, and on which records."""
    return [
        {
            "pattern": made.pattern,
            "size": made.size,
            "task": task,
            "metric": metric,
            "scale": "log" if is_logarithmic(metric) else "linear",
            "better": standard.better,
            "mean": standard.mean,
            "deviation": standard.deviation,
            "n": len(made.judges[task]),
            "families": ", ".join(sorted(row.label for row in made.judges[task])),
            "data_hash": made.groups[task].data_hash,
            "settings": settings_name(made.groups[task].first),
        }
        for task, metrics in made.standards.items()
        for metric, standard in metrics.items()
    ]
