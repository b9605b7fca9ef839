"""Language models at other contexts than in training: interpolation below its length, extrapolation above.

From the records' table `loss_by_context`: the trained model evaluated on the same number of tokens, cut into contexts
of another length. One line a family: the mean over seeds, and a band from the lowest seed to the highest. How far a
line extrapolates depends on the attention and on what the family does with positions (the column `positions`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question
from cab.report.figures.axes import legend, length_ticks, line_and_band
from cab.report.figures.style import new_figure, styles
from cab.report.groups import Group
from cab.report.stats import Estimate, mean
from cab.report.variant import Variant

TABLE = "loss_by_context"


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    label: str
    positions: str | None
    context: int
    trained_at: int | None
    n: int
    mean: Estimate | None
    lowest: float | None
    highest: float | None
    reason: str
    """Why there is no score."""
    figure: str


def lines(material: Material) -> list[Line]:
    found = []
    for group in material.groups:
        own = [line for variant in group.variants if variant.complete for line in _of_variant(group, variant)]
        several = len({line.context for line in own if line.mean}) > 1
        found += [replace(line, figure=group.figure_name if several else "") for line in own]
    return found


def _of_variant(group: Group, variant: Variant) -> Iterator[Line]:
    by_context: dict[int, list[dict[str | None, Any]]] = {}
    for record in variant.records:
        for entry in (record.result.get("tables") or {}).get(TABLE) or []:
            by_context.setdefault(entry["context"], []).append(entry)
    for context, entries in sorted(by_context.items()):
        known = [value for entry in entries if (value := entry.get(group.headline)) is not None]
        values = known if len(known) == len(variant.records) else []  # a mean needs all seeds
        yield Line(
            group=group,
            attention=variant.attention,
            label=variant.label,
            positions=variant.positions,
            context=context,
            trained_at=(variant.first.config.get("model") or {}).get("length"),
            n=len(known),
            mean=mean(values) if values else None,
            lowest=min(values, default=None),
            highest=max(values, default=None),
            reason="; ".join(dict.fromkeys(entry["reason"] for entry in entries if entry.get("reason"))),
            figure="",
        )


def draw(found: Sequence[Line]) -> Figure:
    scored = [line for line in found if line.mean is not None]
    group = scored[0].group
    figure = new_figure(10, 7)
    axes = figure.subplots()
    by_label: dict[str, list[Line]] = {}
    for line in scored:
        by_label.setdefault(line.label, []).append(line)
    looks = styles({line.label: line.attention for line in scored})
    for label, own in by_label.items():
        x, y = [line.context for line in own], [line.mean.value for line in own if line.mean]
        lowest, highest = [line.lowest or 0.0 for line in own], [line.highest or 0.0 for line in own]
        line_and_band(axes, x, y, lowest, highest, looks[label], label)
    length_ticks(axes, sorted({line.context for line in scored}))
    axes.set(xlabel="context in the test (tokens)", ylabel=group.score_label)
    if scored[0].trained_at is not None:  # left of it interpolation, right of it extrapolation
        axes.axvline(scored[0].trained_at, color="black", linewidth=1.2, linestyle=":", label="trained at")
    seeds = max(line.n for line in scored)
    note = f"mean of up to {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"{group.full_title}: {note}", wrap=True)
    legend(figure, axes)
    return figure


QUESTION = Question(
    name="context",
    title="Other contexts than in training",
    explanation="The loss of the trained model at shorter and longer contexts: left of the dotted line it interpolates,"
    " right of it it extrapolates. Where a line rises there, a longer context makes the model worse: by its attention,"
    " or by its positions, in which families differ as well.",
    needs=f"records with a table {TABLE}",
    lines=lines,
    draw=draw,
)
