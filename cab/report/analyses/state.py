"""Recall against memory: accuracy on `recall` against the size of the decoding state.

The figure of Arora et al. 2023 (Zoology, arXiv 2312.04927). The state is all that a model keeps of one sequence while
it decodes, at the design length, in numbers of 4 bytes (`result.model.state`); in noncausal patterns nothing decodes
and there is none. A figure has all tables of one pattern, size and data that differ only in the sizes of the model
(SIZES), with all sets of options: the points of a family at several widths, windows, clusters or latents are joined, at
the best of equal states, in the order of their states. A row without a score is in the file with the reason, and is
named in the figure.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question, in_order
from cab.report.controls import CONTROLS
from cab.report.figures.axes import binary_ticks, legend, point
from cab.report.figures.style import INK, Style, new_figure, style
from cab.report.groups import Group
from cab.report.settings import canonical
from cab.report.stats import Estimate
from cab.report.text import number
from cab.report.variant import Variant

TASK = "recall"
SIZES = ("dim", "heads", "depth", "hidden")
KIB = 1024 / 4
"""Numbers of 4 bytes."""


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    label: str
    options: str
    dim: int | None
    heads: int | None
    depth: int | None
    n: int
    mean: Estimate | None
    state_numbers: int | None
    state_bytes: int | None
    reason: str
    """Why it is not in the figure."""
    figure: str


def lines(material: Material) -> list[Line]:
    alike: dict[str, list[Group]] = {}
    for group in material.groups:
        if group.task == TASK:
            alike.setdefault(canonical(_common(group)), []).append(group)
    found = []
    for tables in alike.values():
        own = [_line(group, variant) for group in tables for variant in group.variants]
        if any(line.state_numbers and not line.reason for line in own):
            found.append(own)
    names = [f"{own[0].group.pattern}_{own[0].group.size}" for own in found]
    made = []
    for name, own in zip(names, found, strict=True):
        group = own[0].group
        several = f"_{group.settings_name}_{(group.data_hash or 'unknown')[:6]}" if names.count(name) > 1 else ""
        made += [replace(line, figure=name + several) for line in own]
    return made


def _common(group: Group) -> list[Any]:
    """What the tables of a figure have in common."""
    model = {key: value for key, value in (group.settings.get("model") or {}).items() if key not in SIZES}
    return [group.data_hash, group.settings | {"model": model}]  # the settings have the pattern and size


def _line(group: Group, variant: Variant) -> Line:
    shape = group.settings.get("model") or {}
    state = (variant.first.result.get("model") or {}).get("state")
    return Line(
        group=group,
        attention=variant.attention,
        label=variant.label,
        options=variant.options,
        dim=shape.get("dim"),
        heads=shape.get("heads"),
        depth=shape.get("depth"),
        n=len(variant.scores),
        mean=variant.mean,
        state_numbers=state,
        state_bytes=None if state is None else 4 * state,
        reason=variant.status if variant.mean is None else "no state is recorded" if state is None else "",
        figure="",
    )


def draw(found: Sequence[Line]) -> Figure:
    figure = new_figure(11, 7.6)
    axes = figure.subplots()
    shown = [line for line in found if not line.reason]
    axes.set_xscale("log", base=2)
    _state_ticks(axes, shown)
    for name in in_order(line.attention for line in shown):
        own = sorted((line for line in shown if line.attention == name), key=lambda line: line.state_numbers or 0)
        _family(axes, name, own, _place_of_none(shown))
    group = found[0].group
    if predictor := group.strongest_predictor:
        text = f"{predictor.name}: {number(predictor.score, '.2g')}"
        axes.axhline(predictor.score, color=INK, linewidth=1.5, linestyle=":", label=text, zorder=1)
    axes.set(xlabel="\n".join(_below(found)), ylabel=group.score_label)
    figure.suptitle(f"Recall against decoding state: {_title(found)}", wrap=True)
    legend(figure, axes)
    return figure


def _family(axes: Axes, name: str, own: Sequence[Line], none: float) -> None:
    """The points of a family, ascending in state, joined at the best of each state. Controls have white markers."""
    look, is_control = style(name), name in CONTROLS
    points = [(line.state_numbers / KIB if line.state_numbers else none, line.mean) for line in own]
    known = [(state, score) for state, score in points if score is not None]
    best: dict[float, float] = {}
    for state, score in known:
        best[state] = max(score.value, best.get(state, score.value))
    axes.plot(list(best), list(best.values()), color=look.color, linestyle=look.line, zorder=2)
    for place, (state, score) in enumerate(known):
        text = (f"{name} (control)" if is_control else name) if place == 0 else ""
        point(axes, Estimate(state), score, Style(look.color, look.marker), text, filled=not is_control)


def _state_ticks(axes: Axes, shown: Sequence[Line]) -> None:
    """Powers of two in KiB, and a place for no state at the left of a broken axis."""
    states = [line.state_numbers / KIB for line in shown if line.state_numbers]
    none = _place_of_none(shown)
    without_state = any(not line.state_numbers for line in shown)
    low, high = min(states) / (1.5 if without_state else 2.1), max(states) * 2.1
    ticks = binary_ticks(low, high, most=10)
    names = [f"{tick:,.10g}" if tick >= 1 else f"1/{1 / tick:g}" for tick in ticks]
    if without_state:
        axes.axvline(none * 2, color=INK, linewidth=1, linestyle=(0, (1, 3)))
        ticks, names, low = [none, *ticks], ["0", *names], none / 1.6
    axes.set_xticks(ticks, names)
    axes.minorticks_off()
    axes.set_xlim(low, high)
    axes.set_ylim(-0.03, 1.03)


def _place_of_none(shown: Sequence[Line]) -> float:
    """Where no state stands on the logarithmic axis, in KiB."""
    return min(line.state_numbers / KIB for line in shown if line.state_numbers) / 4


def _below(found: Sequence[Line]) -> list[str]:
    length = (found[0].group.settings.get("model") or {}).get("length")
    text = "decoding state of one sequence" + (f" at {length:,} tokens" if length else "") + ", KiB in float32"
    missing = [f"{line.label} ({line.reason})" for line in found if line.reason]
    return [text, *(textwrap.wrap(f"not shown: {', '.join(missing)}", 96) if missing else [])]


def _title(found: Sequence[Line]) -> str:
    """Pattern, size, and the sizes in which the models of a figure differ."""
    group, varied = found[0].group, ""
    for name in ("dim", "heads", "depth"):
        values = sorted({value for each in found if (value := getattr(each, name)) is not None})
        varied += f"; {name} {', '.join(map(str, values))}" if len(values) > 1 else ""
    bars = "; bars: 95% intervals over seeds" if any(each.mean and each.mean.interval for each in found) else ""
    return f"{group.pattern.replace('_', ' ')}, {group.size}{varied}{bars}"


QUESTION = Question(
    name="state",
    title="Recall against state",
    explanation="Accuracy on `recall` against what a model keeps of a sequence while decoding: upper left is best, and"
    " a family to the right of another that scores as well keeps more than it needs for this. The points of a family at"
    " several widths or options are joined.",
    needs=f"scores of {TASK} in a causal pattern",
    lines=lines,
    draw=draw,
)
