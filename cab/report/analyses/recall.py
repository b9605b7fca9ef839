"""Recall by difficulty: accuracy against the number of pairs at the design length, and against the length.

From the records' table `accuracy_by_setting`: the test at every length with every number of pairs. The panel of lengths
is at the number of pairs that was tested at most lengths, of several the greatest. One line a family (see
`one_per_family`): the mean over seeds, and a band from the lowest seed to the highest. The file has every setting and
says which of them were trained on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question, one_per_family
from cab.report.figures.axes import legend, length_ticks, line_and_band
from cab.report.figures.style import new_figure, styles
from cab.report.groups import Group
from cab.report.stats import Estimate, mean
from cab.report.variant import Variant

TABLE = "accuracy_by_setting"


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    label: str
    length: int
    pairs: int
    memory: int
    trained: bool
    n: int
    mean: Estimate
    lowest: float
    highest: float
    figure: str


def lines(material: Material) -> list[Line]:
    found: list[Line] = []
    for group in material.groups:
        shown = one_per_family(group)
        for variant in group.variants:
            if variant.complete:
                found += _of_variant(group, variant, any(variant is each for each in shown))
    return found


def _of_variant(group: Group, variant: Variant, shown: bool) -> Iterator[Line]:
    found: dict[tuple[int, int, int, bool], list[float]] = {}
    for record in variant.records:
        for row in (record.result.get("tables") or {}).get(TABLE) or []:
            found.setdefault((row["length"], row["pairs"], row["memory"], row["trained"]), []).append(row["accuracy"])
    for (length, pairs, memory, trained), values in sorted(found.items()):
        if len(values) == len(variant.records):  # a mean needs all seeds
            yield Line(
                group=group,
                attention=variant.attention,
                label=variant.label,
                length=length,
                pairs=pairs,
                memory=memory,
                trained=trained,
                n=len(values),
                mean=mean(values),
                lowest=min(values),
                highest=max(values),
                figure=group.figure_name if shown else "",
            )


def draw(found: Sequence[Line]) -> Figure:
    group = found[0].group
    design = (group.settings.get("model") or {}).get("length") or max(line.length for line in found)
    pairs = _pairs(found)
    by_pairs = {"pairs": [line for line in found if line.length == design]}
    by_length = {"length": [line for line in found if line.pairs == pairs]}
    panels = [(f"by pairs, at {design:,} tokens", by_pairs), (f"by length, with {pairs:,} pairs", by_length)]
    figure = new_figure(14, 6.6)
    drawn = figure.subplots(1, 2, sharey=True)
    for axes, (title, chosen) in zip(drawn, panels, strict=True):
        for name, own in chosen.items():
            _panel(axes, own, name)
        axes.set_title(title)
    drawn[1].axvline(design, color="black", linewidth=1.2, linestyle=":", label="design length")
    drawn[0].set(ylim=(-0.03, 1.03), ylabel="accuracy")
    seeds = max(line.n for line in found)
    note = f"mean of up to {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"{group.full_title}: {note}", wrap=True)
    legend(figure, *drawn)
    return figure


def _pairs(found: Sequence[Line]) -> int:
    """With the most lengths; of several the greatest."""
    lengths: dict[int, set[int]] = {}
    for line in found:
        lengths.setdefault(line.pairs, set()).add(line.length)
    return max(lengths, key=lambda pairs: (len(lengths[pairs]), pairs))


def _panel(axes: Axes, own: Sequence[Line], name: str) -> None:
    by_label: dict[str, list[Line]] = {}
    for line in own:
        by_label.setdefault(line.label, []).append(line)
    looks = styles({line.label: line.attention for line in own})
    for label, each in by_label.items():
        each.sort(key=lambda line: getattr(line, name))
        x, y = [getattr(line, name) for line in each], [line.mean.value for line in each]
        line_and_band(axes, x, y, [line.lowest for line in each], [line.highest for line in each], looks[label], label)
    length_ticks(axes, sorted({getattr(line, name) for line in own}))
    axes.set_xlabel({"pairs": "pairs to remember", "length": "length (tokens)"}[name])


QUESTION = Question(
    name="recall",
    title="Recall by pairs and by length",
    explanation="Accuracy against how much there is to remember, and against how long: a family whose line falls to the"
    " right runs out of memory; beyond the dotted line a model reads more than it was trained on.",
    needs=f"records with a table {TABLE}",
    lines=lines,
    draw=draw,
)
