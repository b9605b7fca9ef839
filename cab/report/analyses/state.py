"""Recall against memory: accuracy on `recall` against the bytes of the decoding state.

The figure of Arora et al. 2023 (Zoology, arXiv 2312.04927). State bytes per sequence are measured, not computed: what
the family decodes from after a prompt, from the efficiency record of the row, at the shortest measured length that is
not below the task's, else at the longest. Only causal patterns decode and have a state. A family without such a record
is in the file with the reason, and is named in the figure.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.analyses.base import Material, Question
from cab.report.efficiency import state_bytes
from cab.report.figures.axes import legend, point, value_ticks
from cab.report.figures.style import Style, new_figure, styles
from cab.report.groups import Group
from cab.report.stats import Estimate
from cab.report.variant import Variant
from cab.store.record import Record

TASK = "recall"
KIB = 1024.0


@dataclass(frozen=True)
class Line:
    group: Group
    attention: str
    label: str
    n: int
    mean: Estimate | None
    task_length: int
    state_bytes: float | None
    state_length: int | None
    efficiency_record: str | None
    reason: str
    """Why it is not in the figure."""
    figure: str


def lines(material: Material) -> list[Line]:
    records = {record.hash: record for record in material.efficiency}
    found = []
    for group in material.groups:
        if group.task == TASK:
            own = [_line(group, each, records.get(each.efficiency.efficiency_record or "")) for each in group.variants]
            found += own if any(not line.reason for line in own) else []
    return found


def _line(group: Group, variant: Variant, record: Record | None) -> Line:
    length = (variant.first.config.get("model") or {}).get("length") or 0
    at, state = state_at(record, variant.attention, length) if record else (None, None)
    return Line(
        group=group,
        attention=variant.attention,
        label=variant.label,
        n=len(variant.scores),
        mean=variant.mean,
        task_length=length,
        state_bytes=state,
        state_length=at,
        efficiency_record=record.hash if record else None,
        reason=_reason(variant, record, state),
        figure=group.size,
    )


def state_at(record: Record, attention: str, length: int) -> tuple[int | None, float | None]:
    """The measured length that stands for `length`, and the bytes of the state of one sequence there. `attention` is
    the record's family or a baseline."""
    states = state_bytes(record.result.get("measurements") or [], attention)
    if not states:
        return None, None
    at = min((known for known in states if known >= length), default=max(states))
    return at, states[at]


def _reason(variant: Variant, record: Record | None, state: float | None) -> str:
    if variant.mean is None:
        return variant.status
    if record is None:
        return "no efficiency record"
    return "no state was measured" if state is None else ""


def draw(found: Sequence[Line]) -> Figure:
    tables = list(dict.fromkeys(line.group for line in found))
    figure = new_figure(max(8.0, 6.6 * len(tables)), 6.4)
    looks = styles({line.label: line.attention for line in found})
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        _panel(axes, [line for line in found if line.group == table], looks)
    size = found[0].group.size
    figure.suptitle(f"Recall against decoding state, {size}; bars: 95% intervals over seeds", wrap=True)
    legend(figure, *panels)
    return figure


def _panel(axes: Axes, own: Sequence[Line], looks: Mapping[str, Style]) -> None:
    shown = [line for line in own if not line.reason]
    least = min((line.state_bytes for line in shown if line.state_bytes), default=KIB)
    axes.set_xscale("log", base=2)
    axes.margins(0.18, 0.12)
    for line in shown:
        if line.mean is not None:
            state = line.state_bytes or least / 4  # no state has no place on a logarithmic axis
            text = line.label if line.state_bytes else f"{line.label}, no state"
            point(axes, Estimate(state / KIB), line.mean, looks[line.label], text)
    lengths = " and ".join(f"{length:,}" for length in sorted({line.state_length or 0 for line in shown}))
    below = [f"state after {lengths} tokens, KiB per sequence"]
    missing = [f"{line.label} ({line.reason})" for line in own if line.reason]
    below += textwrap.wrap(f"not shown: {', '.join(missing)}", 62) if missing else []
    group = own[0].group
    axes.set(
        title="\n".join([group.pattern.replace("_", " "), *textwrap.wrap(group.difference, 50)]),
        xlabel="\n".join(below),
        ylabel=group.score_label,
    )
    value_ticks(axes)


QUESTION = Question(
    name="state",
    title="Recall against state",
    explanation="Accuracy on `recall` against the bytes that a family keeps of a sequence while decoding: upper left is"
    " best, and a family to the right of another that scores as well keeps more than it needs for this.",
    needs=f"scores of {TASK} in a causal pattern with the decoding state of their stack measured",
    lines=lines,
    draw=draw,
)
