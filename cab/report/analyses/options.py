"""What one option of a family changes, all else equal, seed by seed.

Compared are rows of one table and one family whose options differ in a single one: each against the row with most
seeds (of several, the one with the first value). The difference is taken within each seed that both have, and its
interval is Student's t over those differences.

Where the two were trained alike, with the same loss at every recorded step in every seed, the option acts in
evaluation only and the difference is one between two ways to evaluate the same weights. That is SSA's self-ensemble:
`attention.samples=T` (0: dense) in two records of a seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question, gains, place, span, title
from cab.report.figures.style import INK, looks, set_title, style
from cab.report.load import canonical, flatten
from cab.report.rows import Group, Row
from cab.report.stats import t_interval
from cab.report.words import counted
from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 24
"""Comparisons in one figure; the file has all."""


def lines(material: Material) -> list[Line]:
    return [line for name, group, _ in material.named for line in _of_group(name, group)]


def _of_group(name: str, group: Group) -> list[Line]:
    found = []
    for (attention, option), rows in _alike(group).items():
        for family in rows:
            base, *others = sorted(family, key=lambda row: (-len(row.scores), _order(_options(row).get(option))))
            found += [line for other in others if (line := _line(name, group, attention, option, base, other))]
    return found


def _alike(group: Group) -> dict[tuple[str, str], list[list[Row]]]:
    """By family and option: the rows that are equal but for that option, two at least."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    scored = [row for row in group.rows if row.complete]
    several = [row for row in scored if sum(other.attention == row.attention for other in scored) > 1]
    for row in several:
        options = _options(row)
        for option in options:
            rest = canonical({key: value for key, value in options.items() if key != option})
            found.setdefault((row.attention, option), {}).setdefault(rest, []).append(row)
    kept = {key: [rows for rows in sets.values() if len(rows) > 1] for key, sets in found.items()}
    return {key: rows for key, rows in sorted(kept.items()) if rows}


def _options(row: Row) -> dict[str, Any]:
    options = row.first.identity.get("attention")
    return flatten(options) if isinstance(options, Mapping) else {}


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, before all else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, canonical(value)


def _line(name: str, group: Group, attention: str, option: str, base: Row, other: Row) -> Line | None:
    one, two = _by_seed(group, base), _by_seed(group, other)
    seeds = sorted(one.keys() & two.keys())
    if not seeds:
        return None
    gain = [two[seed][0] - one[seed][0] for seed in seeds]
    return place(group) | {
        "attention": attention,
        "option": option,
        "from": canonical(_options(base).get(option)),
        "to": canonical(_options(other).get(option)),
        "label": other.label,
        "against": base.label,
        "n": len(seeds),
        "seeds": " ".join(map(str, seeds)),
        "gain": statistics.fmean(gain),
        **span(t_interval(gain), "gain"),
        "trained_alike": all(_trained(one[seed][1]) == _trained(two[seed][1]) for seed in seeds),
        "figure": name,
    }


def _by_seed(group: Group, row: Row) -> dict[int, tuple[float, Record]]:
    values = gains(group, row) or []
    return {r.cell["seed"]: (value, r) for value, r in zip(values, row.records, strict=len(values) > 0)}


def _trained(record: Record) -> list[tuple[int, float]] | int:
    """The losses that training went through; a record without any is like no other."""
    return [(point["step"], point["loss"]) for point in record.result.get("curve") or []] or id(record)


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    shown = found[:MOST]
    with looks() as figure_class:
        figure = figure_class(figsize=(12, 2.6 + 0.62 * len(shown)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1.2)
        for y, line in enumerate(shown):
            look, x = style(line["attention"]), line["gain"]
            low, high = (x, x) if line["gain_low"] is None else (line["gain_low"], line["gain_high"])
            axes.errorbar(
                x,
                y,
                xerr=[[x - low], [high - x]],
                fmt=look.marker,
                color=look.color,
                markersize=11,
                markerfacecolor=look.color if line["trained_alike"] else "white",
                markeredgewidth=2,
                elinewidth=1.8,
                capsize=4,
            )
        axes.set_yticks(range(len(shown)), [_name(line) for line in shown])
        axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel=f"gain in {counted(found[0]['headline'])}, positive is better")
        note = "filled: the same training, evaluated otherwise; bars: 95% intervals over seeds"
        more = f"; the first {MOST} of {len(found)}" if len(found) > MOST else ""
        set_title(figure, f"{title(found[0])}; {note}{more}")
        return figure


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['attention']}, n={line['n']}\n{line['option']} {line['from']} → {line['to']}"


QUESTION = Question(
    "options",
    "What an option changes",
    "The gain from changing one option of a family and nothing else, seed by seed, with its 95% interval (t). Filled:"
    " both went through the same training and are two ways to evaluate the same weights, as SSA's self-ensemble"
    " (`attention.samples`) and its dense evaluation are.",
    "two rows of one family in one table that differ in a single option and share a seed",
    lines,
    draw,
)
