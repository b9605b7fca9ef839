"""What a family remembers against how much it keeps: accuracy on `recall` against the bytes of its decoding state.

The frontier of Arora et al. 2023 (Zoology, arXiv 2312.04927). State bytes per sequence are measured, not computed:
those that hold what the family decodes from after a prompt, from the efficiency record that gave the row its costs, at
the shortest measured length that is not below the task's, else at the longest. Only causal patterns decode and have a
state. A family without such a record stands in the file with the reason, and is named in the figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question, place, span
from cab.report.costs import one_batch
from cab.report.figures.plots import plain_ticks
from cab.report.figures.style import Label, looks, place_labels, set_title, style
from cab.report.rows import Group, Row
from cab.report.words import words
from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TASK = "recall"
KIB = 1024.0


def lines(material: Material) -> list[Line]:
    records = {record.hash: record for record in material.efficiency}
    found = []
    for _, group, costs in material.named:
        if group.task == TASK:
            rows = zip(group.rows, costs, strict=True)
            own = [_line(group, row, records.get(cost["cost_record"] or "")) for row, cost in rows]
            found += own if any(not line["reason"] for line in own) else []
    return found


def _line(group: Group, row: Row, record: Record | None) -> Line:
    length = (row.first.config.get("model") or {}).get("length") or 0
    at, state = state_at(record, row.attention, length) if record else (None, None)
    return place(group) | {
        "attention": row.attention,
        "label": row.label,
        "n": len(row.scores),
        "mean": row.mean,
        **span(row.interval, "mean"),
        "task_length": length,
        "state_bytes": state,
        "state_length": at,
        "cost_record": record and record.hash,
        "reason": _lacks(row, record, state),
        "figure": group.size,
    }


def state_at(record: Record, attention: str, length: int) -> tuple[int | None, float | None]:
    """The measured length that speaks for `length`, and the bytes of the family's state for one sequence there. The
    family is the record's own or a baseline, which was measured along."""
    found: dict[int, float] = {}
    measurements = record.result.get("measurements") or []
    for row in (row for phase in ("decode", "prefill") for row in one_batch(measurements, phase)):
        own = row["subject"] == attention and row["status"] == "ok"
        if own and row.get("state_bytes") is not None:
            found.setdefault(row["length"], row["state_bytes"] / row["batch"])
    if not found:
        return None, None
    at = min((known for known in found if known >= length), default=max(found))
    return at, found[at]


def _lacks(row: Row, record: Record | None, state: float | None) -> str:
    if row.mean is None:
        return row.status
    if record is None:
        return "no efficiency record"
    return "no state was measured" if state is None else ""


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    tables = list(dict.fromkeys(_table(line) for line in found))
    with looks() as figure_class:
        figure = figure_class(figsize=(max(8.0, 6.6 * len(tables)), 6.4), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        placed = []
        for axes, table in zip(panels, tables, strict=True):
            own = [line for line in found if _table(line) == table]
            placed.append((axes, _panel(axes, own)))
        set_title(figure, f"Recall against decoding state, {found[0]['size']}; bars: 95% intervals over seeds")
        figure.draw_without_rendering()
        for axes, labels in placed:
            place_labels(axes, labels)
        return figure


def _table(line: Mapping[str, Any]) -> tuple[str, ...]:
    return line["pattern"], line["settings"], line["data_hash"] or ""


def _panel(axes: Axes, own: Sequence[Mapping[str, Any]]) -> list[Label]:
    shown = [line for line in own if not line["reason"]]
    least = min((line["state_bytes"] for line in shown if line["state_bytes"]), default=KIB) / KIB
    labels = []
    axes.set_xscale("log", base=2)
    axes.margins(0.18, 0.12)
    for line in shown:
        look, y = style(line["attention"]), line["mean"]
        x = line["state_bytes"] / KIB or least / 4  # no state at all has no place on a logarithmic axis
        low, high = (y, y) if line["mean_low"] is None else (line["mean_low"], line["mean_high"])
        bar = [[y - low], [high - y]]
        axes.errorbar(x, y, yerr=bar, fmt=look.marker, color=look.color, markersize=11, elinewidth=1.5, capsize=4)
        nothing = "" if line["state_bytes"] else ", no state"
        labels.append(Label(x, y, f"{line['label']}{nothing}", look.text, up=(low, high)))
    missing = [f"{line['label']} ({line['reason']})" for line in own if line["reason"]]
    at = sorted({line["state_length"] for line in shown})
    lengths = " and ".join(f"{length:,}" for length in at)
    below = [f"state after {lengths} tokens, KiB per sequence"]
    below += textwrap.wrap(f"not shown: {', '.join(missing)}", 62) if missing else []
    axes.set(
        title="\n".join([own[0]["pattern"].replace("_", " "), *textwrap.wrap(own[0]["difference"], 50)]),
        xlabel="\n".join(below),
        ylabel=f"{words(own[0]['headline'])} ({own[0]['better']} is better)",
    )
    plain_ticks(axes)
    return labels


QUESTION = Question(
    "state",
    "Recall against state",
    "Accuracy on `recall` against the bytes that a family keeps of a sequence while decoding: upper left is best, and a"
    " family to the right of another that scores as well keeps more than it needs for this.",
    f"scores of {TASK} in a causal pattern with the decoding state of their stack measured",
    lines,
    draw,
)
