"""Where in a text attention earns its keep: the gain of a language model over `none`, token by token.

    gain = bits per byte of none - bits per byte of the family, means over seeds, on the same test tokens

by the position of a token in the window (`loss_by_position`), and by how long a repetition of something earlier in the
window the token ends (`loss_by_repetition`; 0: its window did not have it before): copies are what attention can do and
counts of neighbours cannot. Bins are [start, end). The interval is Welch's over the seeds of both. One line a family
(see `one_per_family`); the file has all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question, in_order, one_per_family
from cab.report.figures.axes import legend
from cab.report.figures.style import INK, new_figure, style
from cab.report.groups import Group
from cab.report.stats import Estimate, difference
from cab.report.variant import Variant

TABLES = {
    "loss_by_position": "position in the window",
    "loss_by_repetition": "length of the repetition that a token ends",
}
BITS = "bits_per_byte"
Bins = Mapping[tuple[int, int], list[float]]
"""Bits per byte of all seeds by start and end."""


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    label: str
    table: str
    start: int
    end: int
    share: float
    """Of the bytes."""
    n: int
    n_none: int
    gain: Estimate
    figure: str


def lines(material: Material) -> list[Line]:
    return [line for group in material.groups for table in TABLES for line in _of_group(group, table)]


def _of_group(group: Group, table: str) -> Iterator[Line]:
    control = group.control
    base = _bins(control, table) if control else {}
    if control is None or not base:
        return
    shares = {(row["from"], row["to"]): row["share"] for row in control.first.result["tables"][table]}
    shown = one_per_family(group)
    for variant in group.variants:
        own = _bins(variant, table) if variant is not control else {}
        for key in sorted(own.keys() & base.keys()):
            yield Line(
                group=group,
                attention=variant.attention,
                label=variant.label,
                table=table,
                start=key[0],
                end=key[1],
                share=shares[key],
                n=len(own[key]),
                n_none=len(base[key]),
                gain=difference(base[key], own[key]),
                figure=group.figure_name if any(variant is each for each in shown) else "",
            )


def _bins(variant: Variant, table: str) -> Bins:
    """Those that all seeds have."""
    found: dict[tuple[int, int], list[float]] = {}
    for record in variant.records if variant.complete else []:
        for row in (record.result.get("tables") or {}).get(table) or []:
            if row["tokens"]:  # an empty bin has no loss
                found.setdefault((row["from"], row["to"]), []).append(row[BITS])
    return {key: values for key, values in found.items() if len(values) == len(variant.records)}


def draw(found: Sequence[Line]) -> Figure:
    tables = [table for table in TABLES if any(line.table == table for line in found)]
    figure = new_figure(max(9.0, 7.6 * len(tables)), 6.8)
    panels = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for axes, table in zip(panels, tables, strict=True):
        _panel(axes, [line for line in found if line.table == table], TABLES[table])
    panels[0].set_ylabel("gain over none (bits per byte), more is better")
    bars = "; bars: 95% intervals over seeds" if any(line.gain.interval for line in found) else "; one seed"
    figure.suptitle(f"{found[0].group.full_title}: where attention gains{bars}", wrap=True)
    legend(figure, *panels)
    return figure


def _panel(axes: Axes, own: Sequence[Line], title: str) -> None:
    bins = sorted({(line.start, line.end): line.share for line in own}.items())
    places = {key: place for place, (key, _) in enumerate(bins)}
    axes.axhline(0, color=INK, linewidth=1.2)
    families = in_order(line.attention for line in own)
    for number, name in enumerate(families):
        each = sorted((line for line in own if line.attention == name), key=lambda line: line.start)
        x = [places[line.start, line.end] + 0.3 * (number / max(1, len(families) - 1) - 0.5) for line in each]
        look, y = style(name), [line.gain.value for line in each]
        intervals = [line.gain.interval or (line.gain.value, line.gain.value) for line in each]
        bars = [[at - low for at, (low, _) in zip(y, intervals, strict=True)],
                [high - at for at, (_, high) in zip(y, intervals, strict=True)]]  # fmt: skip
        axes.errorbar(x, y, yerr=bars, color=look.color, marker=look.marker, linestyle=look.line, linewidth=1.8,
                      elinewidth=1.3, capsize=3, label=name)  # fmt: skip
    axes.set_xticks(range(len(bins)), [f"{_bin(*key)}\n{share:.0%}" for key, share in bins])
    axes.set_xlabel(f"{title}; below: its share of the bytes")
    axes.grid(False, axis="x")


def _bin(start: int, end: int) -> str:
    return f"{start}" if end == start + 1 else f"{start}-{end - 1}"


QUESTION = Question(
    name="copies",
    title="Where attention gains",
    explanation="How many bits per byte a language model saves over `none`, by the position of a token and by the"
    " length of the repetition that it ends. What grows to the right comes from the context: from far back, or from"
    " copies.",
    needs=f"records of `none` and of another family in one table with {' or '.join(TABLES)}",
    lines=lines,
    draw=draw,
)
