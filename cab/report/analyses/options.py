"""What one option of a family changes, all else equal, seed by seed.

Compared are variants of one family in one table whose options differ in a single one: each against the variant with
most seeds (of several, the one with the first value). The difference is taken within each seed that both have, and its
interval is Student's t over those differences.

If both had the same loss at every recorded step in every seed, the option acts in evaluation only, and the difference
is one between two ways to evaluate the same weights. An example is SSA's self-ensemble: `attention.samples=T` (0:
dense) in two records of a seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question
from cab.report.figures.axes import point
from cab.report.figures.style import INK, new_figure, style
from cab.report.groups import Group
from cab.report.oriented import oriented
from cab.report.settings import canonical, flatten, options
from cab.report.stats import Estimate, mean
from cab.report.text import scale_words
from cab.report.variant import Variant
from cab.store.record import Record

MOST = 24
"""Comparisons in one figure; the file has all."""


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    option: str
    from_value: str
    to_value: str
    label: str
    against: str
    n: int
    seeds: str
    gain: Estimate
    same_training: bool
    figure: str


def lines(material: Material) -> list[Line]:
    found = []
    for group in material.groups:
        for option, variants in _differing_in_one(group):
            values = {variant.label: flatten(options(variant.first)).get(option) for variant in variants}
            base, *others = sorted(variants, key=lambda each: (-len(each.scores), _order(values[each.label])))
            found += [line for other in others if (line := _line(group, option, values, base, other))]
    return found


def _differing_in_one(group: Group) -> list[tuple[str, list[Variant]]]:
    """Option, and at least two variants of one family that are equal except for that option."""
    found: dict[tuple[str, str, str], list[Variant]] = {}
    for variant in group.variants:
        if variant.complete:
            flat = flatten(options(variant.first))
            for option in flat:
                rest = canonical({key: value for key, value in flat.items() if key != option})
                found.setdefault((variant.attention, option, rest), []).append(variant)
    several = {key: variants for key, variants in found.items() if len(variants) > 1}
    return [
        (option, several[family, option, rest]) for family, option, rest in sorted(several, key=lambda key: key[:2])
    ]


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, before all other values."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number, float(value) if is_number else 0.0, canonical(value)


def _line(group: Group, option: str, values: Mapping[str, Any], base: Variant, other: Variant) -> Line | None:
    first, second = _by_seed(group, base), _by_seed(group, other)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    return Line(
        group=group,
        attention=base.attention,
        option=option,
        from_value=canonical(values[base.label]),
        to_value=canonical(values[other.label]),
        label=other.label,
        against=base.label,
        n=len(seeds),
        seeds=" ".join(map(str, seeds)),
        gain=mean([second[seed][0] - first[seed][0] for seed in seeds]),
        same_training=all(_same_training(first[seed][1], second[seed][1]) for seed in seeds),
        figure=group.figure_name,
    )


def _by_seed(group: Group, variant: Variant) -> dict[int, tuple[float, Record]]:
    values = oriented(group, variant) or []
    return {record.cell["seed"]: (value, record) for value, record in zip(values, variant.records, strict=False)}


def _same_training(first: Record, second: Record) -> bool:
    """Whether both recorded the same losses; False if they recorded none."""
    losses = [[(point["step"], point["loss"]) for point in each.result.get("curve") or []] for each in (first, second)]
    return bool(losses[0]) and losses[0] == losses[1]


def draw(found: Sequence[Line]) -> Figure:
    shown = found[:MOST]
    figure = new_figure(12, 2.6 + 0.62 * len(shown))
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1.2)
    for y, line in enumerate(shown):
        point(axes, line.gain, Estimate(y), style(line.attention), filled=line.same_training)
    axes.set_yticks(range(len(shown)), [_name(line) for line in shown])
    group = found[0].group
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlabel=f"gain in {scale_words(group.headline)}, positive is better")
    note = "filled: the same training, evaluated differently; bars: 95% intervals over seeds"
    more = f"; the first {MOST} of {len(found)}" if len(found) > MOST else ""
    figure.suptitle(f"{group.full_title}; {note}{more}", wrap=True)
    return figure


def _name(line: Line) -> str:
    return f"{line.attention}, n={line.n}\n{line.option} {line.from_value} → {line.to_value}"


QUESTION = Question(
    name="options",
    title="What an option changes",
    explanation="The gain from changing one option of a family and nothing else, seed by seed, with its 95% interval"
    " (t). Filled: both had the same training and are two ways to evaluate the same weights, as SSA's self-ensemble"
    " (`attention.samples`) and its dense evaluation are.",
    needs="two rows of one family in one table that differ in a single option and share a seed",
    lines=lines,
    draw=draw,
)
