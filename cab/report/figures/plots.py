"""The figures of the leaderboard. Each function takes records or rows and gives a figure; `style.save` writes it.

curves    what training looks like: loss against step, validation against seconds
tradeoff  what quality costs: the headline metric against the time of a training step and against the decoding state
costs     (cab.report.figures.costplot) time and memory against length, and where the baselines are passed
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cab.report.figures.style import Label, looks, place_labels, set_title, style
from cab.report.rows import Row
from cab.report.words import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def variants(rows: Sequence[Row]) -> list[int]:
    """For each row, which of its family's option sets it is."""
    seen: dict[str, int] = {}
    numbers = []
    for row in rows:
        numbers.append(seen.get(row.attention, 0))
        seen[row.attention] = numbers[-1] + 1
    return numbers


def curves(rows: Sequence[Row], title: str = "") -> Figure:
    """Training loss against step and the headline metric on the validation split against seconds, one line a row."""
    with looks() as figure_class:
        figure = figure_class(figsize=(13, 6.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        most = max((len(row.records) for row in rows), default=1)
        for row, variant in zip(rows, variants(rows), strict=True):
            look = style(row.attention, variant)
            runs = [record.result["curve"] for record in row.records if record.result.get("curve")]
            label = row.label or row.attention
            _band(left, [[(p["step"], p["loss"]) for p in run] for run in runs], look, label, "")
            name = row.first.result.get("headline")
            marks = [_validation(run, name) for run in runs]
            _band(right, marks, look, label, look.marker)
        headline = next((row.first.result["headline"] for row in rows if row.first.result.get("headline")), None)
        left.set(xlabel="step", ylabel="training loss per target")
        right.set(xlabel="seconds of training", ylabel=f"validation: {words(headline)}")
        for axes in (left, right):
            axes.set_xlim(left=0)
            _trim_start(axes)
        note = f"mean of up to {most} seeds, band from least to greatest" if most > 1 else "one seed"
        set_title(figure, f"{title}: {note}" if title else note)
        legend(figure, left)
        return figure


def tradeoff(lines: Sequence[Mapping[str, Any]], title: str = "") -> Figure | None:
    """Quality against cost for the lines of one group; None where no line has both."""
    panels = [
        ("train_ratio", "train_ratio_low", "train_ratio_high", "time of a training step, vanilla = 1", "train_length"),
        ("state_bytes", None, None, "decoding state (KiB per sequence)", "state_length"),
    ]
    scored = [line for line in lines if line.get("mean") is not None]
    panels = [panel for panel in panels if any(line.get(panel[0]) for line in scored)]
    if not panels:
        return None
    with looks() as figure_class:
        figure = figure_class(figsize=(7 * len(panels), 6.2), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        headline, better = scored[0].get("headline"), scored[0].get("better")
        labels = []
        for axes, (cost, low, high, text, length) in zip(grid, panels, strict=True):
            shown = [line for line in scored if line.get(cost)]  # no state at all has no place on a logarithmic axis
            measured = Counter(place for line in shown if (place := _length(line, cost, length)))
            usual = max(measured, key=lambda value: (measured[value], value), default=None)
            axes.set_xscale("log")
            axes.margins(0.16, 0.14)
            inside = [line for line in shown if not _outlier(line, scored)]
            placed = [_point(axes, line, cost, low, high, length, usual) for line in inside]
            placed += [_beyond(axes, line, cost) for line in shown if _outlier(line, scored)]
            labels.append((axes, placed))
            at = f" at length {usual:,}{' unless said' if len(measured) > 1 else ''}" if usual else ""
            axes.set(xlabel=f"{text}{at}", ylabel=f"{words(headline)} ({better} is better)")
            plain_ticks(axes)
            if cost == "train_ratio":
                axes.axvline(1, color="black", linewidth=1, linestyle=":")
        note = "bars: 95% intervals, up over seeds, across over rounds"
        set_title(figure, f"{title}; {note}" if title else note)
        figure.draw_without_rendering()
        for axes, points in labels:
            place_labels(axes, points)
        return figure


def _point(
    axes: Axes, line: Mapping[str, Any], cost: str, low: str | None, high: str | None, length: str, usual: int | None
) -> Label:
    """Draws a line's point and its intervals; gives its label, with the length where it is not the usual one."""
    look, x, y = style(line["attention"]), line[cost] / _unit(cost), line["mean"]
    left, right = (line.get(name) if name else None for name in (low, high))
    left, right = (x, x) if left is None or right is None else (min(x, left), max(x, right))
    down, up = (y, y) if line.get("low") is None else (line["low"], line["high"])
    face = look.color if line["label"] == line["attention"] else "white"
    axes.errorbar(
        x,
        y,
        xerr=[[x - left], [right - x]],
        yerr=[[y - down], [up - y]],
        fmt=look.marker,
        color=look.color,
        markersize=11,
        markerfacecolor=face,
        markeredgewidth=2,
        elinewidth=1.5,
        capsize=4,
    )
    own = _length(line, cost, length)
    text = line["label"] if own in (None, usual) else f"{line['label']} at {own:,}"
    return Label(x, y, text, look.text, (left, right), (down, up))


def _outlier(line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the control lies so far off that it would press all others together."""
    others = [other["mean"] for other in lines if other["attention"] != "none"]
    if line["attention"] != "none" or len(others) < 2:
        return False
    spread = max(others) - min(others)
    return line["mean"] - max(others) > spread or min(others) - line["mean"] > spread


def _beyond(axes: Axes, line: Mapping[str, Any], cost: str) -> Label:
    """An arrow at the frame towards a point outside of it, with the point's value."""
    low, high = axes.get_ylim()
    y = low + (0.97 if line["mean"] > high else 0.03) * (high - low)
    axes.set_ylim(low, high)
    x, look = line[cost] / _unit(cost), style(line["attention"])
    axes.plot(x, y, marker="^" if line["mean"] > high else "v", color=look.color, markersize=12)
    return Label(x, y, f"{line['label']}, outside: {line['mean']:.4g}", look.text)


def _length(line: Mapping[str, Any], cost: str, length: str) -> int | None:
    """Where the cost was measured; vanilla is 1 times itself everywhere."""
    return None if cost == "train_ratio" and line["attention"] == "vanilla" else line.get(length)


def _unit(cost: str) -> float:
    return 1.0 if cost == "train_ratio" else 1024.0


def _validation(run: Sequence[Mapping[str, Any]], name: str | None) -> list[tuple[float, float | None]]:
    return [(point["seconds"], point["validation"].get(name)) for point in run if point.get("validation")]


def _band(axes: Axes, runs: Sequence[Sequence[tuple[float, float | None]]], look: Any, label: str, marker: str) -> None:
    """The mean over runs of equal places, and from least to greatest. Only places that every run has are drawn."""
    length = min((len(run) for run in runs), default=0)
    places = [[run[i] for run in runs] for i in range(length)]
    places = [points for points in places if all(y is not None for _, y in points)]
    x = [statistics.fmean(x for x, _ in points) for points in places]
    mean = [statistics.fmean(y for _, y in points if y is not None) for points in places]
    axes.plot(x, mean, label=label, color=look.color, linestyle=look.line, marker=marker or None)
    if len(runs) > 1:
        least = [min(y for _, y in points if y is not None) for points in places]
        most = [max(y for _, y in points if y is not None) for points in places]
        axes.fill_between(x, least, most, color=look.color, alpha=0.18, linewidth=0)


def _trim_start(axes: Axes) -> None:
    """Lets the first tenth of the curves leave the frame, where the fall from the start would flatten all the rest."""
    data = [[float(y) for y in line.get_ydata()] for line in axes.get_lines()]  # type: ignore[union-attr, arg-type]
    values = [y for line in data for y in line]
    later = [y for line in data for y in line[max(1, len(line) // 10) :]]
    if len(later) < 8:
        return
    low, high = min(values), max(later)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))


def plain_ticks(axes: Axes) -> None:
    """Numbers as people write them on a logarithmic axis: 0.5, 1, 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    data = axes.dataLim
    if data.x1 < data.x0 * 1.01:  # all points at one place
        axes.update_datalim([(data.x0 / 2, data.y0), (data.x1 * 2, data.y0)])
    low, high = axes.get_xlim()
    marks = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=marks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, max(1, len(labels))))
