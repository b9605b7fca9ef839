"""Quality against the time that training took, and the Pareto front: whom no other family beats in both.

Time is the wall clock of the training loop, mean over seeds, as the records have it: work beside it on the machine is
in it, and a family that was trained while others ran looks slower than it is. The paired measurement of one step,
which survives that, is the figure of quality against cost. Only times of one device model with one number of threads
and one precision stand side by side; a family that was trained on several stands in the table of each. The front is
that of the means: with one seed, or intervals that overlap, it is no claim.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cab.report.analyses.base import Line, Material, Question, place, span, title
from cab.report.figures.plots import plain_ticks
from cab.report.figures.style import INK, Label, looks, place_labels, set_title, style
from cab.report.rows import Group
from cab.report.stats import t_interval
from cab.report.words import words
from cab.store.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def lines(material: Material) -> list[Line]:
    found = []
    for name, group, _ in material.named:
        by_device: dict[str, list[Line]] = {}
        for line in _of_group(name, group):
            by_device.setdefault(line["device"], []).append(line)
        for _, alike in sorted(by_device.items()):
            if len(alike) > 1:  # alone on a device a family has no one to be compared with
                found += _judged(alike)
    return found


def _of_group(name: str, group: Group) -> list[Line]:
    found = []
    for row in group.rows:
        if row.mean is None:
            continue
        by_device: dict[str, list[Record]] = {}
        for record in row.records:
            by_device.setdefault(device(record), []).append(record)
        for where, records in by_device.items():
            times = [(record.result.get("training") or {}).get("seconds") for record in records]
            whole = [seconds for seconds in times if seconds]
            if len(whole) == len(records):
                found.append(
                    place(group)
                    | {
                        "device": where,
                        "attention": row.attention,
                        "label": row.label,
                        "n": len(row.scores),
                        "mean": row.mean,
                        **span(row.interval, "mean"),
                        "n_times": len(whole),
                        "seconds": statistics.fmean(whole),
                        "seconds_least": min(whole),
                        "seconds_greatest": max(whole),
                        **span(t_interval(whole), "seconds"),
                        "figure": name,
                    }
                )
    return found


def device(record: Record) -> str:
    """What must be equal for times to stand side by side: the machine, and how a batch was cut."""
    about = record.provenance.get("device") or {}
    count = about.get("threads")
    parts = [about.get("name") or "unknown", f"{count} thread{'' if count == 1 else 's'}" if count else ""]
    parts += [record.identity.get("precision") or "unknown"]
    if (processes := (record.result.get("training") or {}).get("processes") or 1) > 1:
        parts += [f"{processes} processes"]
    if micro := (record.config.get("train") or {}).get("micro_batch"):
        parts += [f"micro-batch {micro}"]
    return ", ".join(filter(None, parts))


def _judged(alike: Sequence[Line]) -> list[Line]:
    """With who is as good and as fast, and better in one of the two."""
    sign = 1 if alike[0]["better"] == "higher" else -1
    for line in alike:
        own = sign * line["mean"], -line["seconds"]
        others = [(other["label"], (sign * other["mean"], -other["seconds"])) for other in alike]
        beaten = [label for label, values in others if values != own and values[0] >= own[0] and values[1] >= own[1]]
        line |= {"front": not beaten, "beaten_by": ", ".join(beaten)}
    return sorted(alike, key=lambda line: line["seconds"])


def draw(found: Sequence[Mapping[str, Any]]) -> Figure:
    devices = list(dict.fromkeys(line["device"] for line in found))
    with looks() as figure_class:
        figure = figure_class(figsize=(10 * len(devices), 6.8), layout="constrained")
        panels = figure.subplots(1, len(devices), squeeze=False)[0]
        placed = []
        for axes, name in zip(panels, devices, strict=True):
            own = [line for line in found if line["device"] == name]
            placed.append((axes, _panel(axes, own)))
            axes.set_title(name, fontsize=12)
        note = "filled: on the front; bars: 95% intervals up, least to greatest time across"
        set_title(figure, f"{title(found[0])}; {note}")
        figure.draw_without_rendering()
        for axes, labels in placed:
            place_labels(axes, labels)
        return figure


def _panel(axes: Axes, own: Sequence[Mapping[str, Any]]) -> list[Label]:
    axes.set_xscale("log")
    axes.margins(0.16, 0.14)
    front = sorted((line["seconds"], line["mean"]) for line in own if line["front"])
    front.append((max(line["seconds_greatest"] for line in own), front[-1][1]))  # the best stays so
    axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1.6, linestyle=":", zorder=0)
    labels = []
    for line in own:
        look, x, y = style(line["attention"]), line["seconds"], line["mean"]
        across = line["seconds_least"], line["seconds_greatest"]
        up = (y, y) if line["mean_low"] is None else (line["mean_low"], line["mean_high"])
        axes.errorbar(
            x,
            y,
            xerr=[[x - across[0]], [across[1] - x]],
            yerr=[[y - up[0]], [up[1] - y]],
            fmt=look.marker,
            color=look.color,
            markersize=11,
            markerfacecolor=look.color if line["front"] else "white",
            markeredgewidth=2,
            elinewidth=1.5,
            capsize=4,
        )
        labels.append(Label(x, y, line["label"], look.text, across, up))
    axes.set(
        xlabel="seconds of training, as it ran", ylabel=f"{words(own[0]['headline'])} ({own[0]['better']} is better)"
    )
    plain_ticks(axes)
    return labels


QUESTION = Question(
    "time",
    "Quality against training time",
    "Score against the seconds that training took on one device model: no other family is both as good and as fast as"
    " one on the dotted front. The seconds are the wall clock of the run, with whatever else the machine did then; the"
    " measured cost of a step is in `Quality against cost`.",
    "two scored families of one table with training times from one device model",
    lines,
    draw,
)
