"""Figures of one group of the leaderboard.

curves    training: loss against step, validation against seconds
tradeoff  the headline metric against the time of a training step and against the decoding state
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cab.report.figures.axes import legend, point, value_ticks
from cab.report.figures.labels import Label, place_labels
from cab.report.figures.style import Style, new_figure, set_title, style, styled, styles
from cab.report.groups import GroupKey
from cab.report.stats import Estimate
from cab.report.text import words
from cab.report.variant import Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def curves(variants: Sequence[Variant], title: str = "") -> Figure:
    """Training loss against step, and the headline metric on the validation split against seconds."""
    figure = new_figure(13, 6.4)
    left, right = figure.subplots(1, 2)
    headline = next((name for variant in variants if (name := variant.first.result.get("headline"))), None)
    looks = styles([variant.attention for variant in variants])
    for variant, look in zip(variants, looks, strict=True):
        runs = [record.result["curve"] for record in variant.records if record.result.get("curve")]
        losses = [[(point["step"], point["loss"]) for point in run] for run in runs]
        _mean_and_band(left, losses, look, variant.label, marker=False)
        _mean_and_band(right, [_validation(run, headline) for run in runs], look, variant.label, marker=True)
    left.set(xlabel="step", ylabel="training loss per target")
    right.set(xlabel="seconds of training", ylabel=f"validation: {words(headline)}")
    for axes in (left, right):
        axes.set_xlim(left=0)
        _leave_out_start(axes)
    seeds = max((len(variant.records) for variant in variants), default=1)
    note = f"mean of up to {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    set_title(figure, f"{title}: {note}" if title else note)
    legend(figure, left)
    return figure


def _validation(run: Sequence[Mapping[str, Any]], name: str | None) -> list[tuple[float, float | None]]:
    return [(point["seconds"], point["validation"].get(name)) for point in run if point.get("validation")]


def _mean_and_band(
    axes: Axes, runs: Sequence[Sequence[tuple[float, float | None]]], look: Style, label: str, marker: bool
) -> None:
    """The mean over runs, and the range from lowest to highest, at the points that all runs have."""
    x, mean, lowest, highest = [], [], [], []
    for points in zip(*runs, strict=False):  # as long as the shortest run
        values = [y for _, y in points if y is not None]
        if len(values) == len(points):
            x.append(statistics.fmean(at for at, _ in points))
            mean.append(statistics.fmean(values))
            lowest.append(min(values))
            highest.append(max(values))
    axes.plot(x, mean, label=label, color=look.color, linestyle=look.line, marker=look.marker if marker else None)
    if len(runs) > 1:
        axes.fill_between(x, lowest, highest, color=look.color, alpha=0.18, linewidth=0)


def _leave_out_start(axes: Axes) -> None:
    """Cuts off the first tenth of the curves at the top: the fall from the start would flatten the rest."""
    curves = [[float(y) for y in line.get_ydata()] for line in axes.get_lines()]  # type: ignore[union-attr, arg-type]
    values = [y for curve in curves for y in curve]
    later = [y for curve in curves for y in curve[max(1, len(curve) // 10) :]]
    if len(later) >= 8:
        low, high = min(values), max(later)
        axes.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))


@dataclass(frozen=True)
class Measured:
    """What a panel of `tradeoff` shows of a variant."""

    value: Estimate
    length: int | None
    """At which it was measured; None for vanilla against itself."""


def _train_time(variant: Variant) -> Measured | None:
    found = variant.efficiency
    length = None if variant.attention == "vanilla" else found.train_length
    return Measured(found.train_ratio, length) if found.train_ratio else None


def _state(variant: Variant) -> Measured | None:
    found = variant.efficiency  # a state of 0 bytes has no place on a logarithmic axis
    return Measured(Estimate(found.state_bytes / 1024), found.state_length) if found.state_bytes else None


PANELS = {"time of a training step, vanilla = 1": _train_time, "decoding state (KiB per sequence)": _state}


def has_tradeoff(variant: Variant) -> bool:
    return variant.mean is not None and any(measure(variant) for measure in PANELS.values())


@styled
def tradeoff(group: GroupKey, variants: Sequence[Variant]) -> Figure:
    """Quality against efficiency, for variants of which some have both."""
    scored = [variant for variant in variants if variant.mean is not None]
    panels = {
        text: [(variant, found) for variant in scored if (found := measure(variant))]
        for text, measure in PANELS.items()
    }
    panels = {text: shown for text, shown in panels.items() if shown}
    figure = new_figure(7 * len(panels), 6.2)
    placed = []
    for axes, (text, shown) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        lengths = Counter(found.length for _, found in shown if found.length)
        usual = max(lengths, key=lambda length: (lengths[length], length), default=None)
        axes.set_xscale("log")
        axes.margins(0.16, 0.14)
        placed.append((axes, _points(axes, shown, usual, _outlier(scored))))
        other = " unless stated" if len(lengths) > 1 else ""
        axes.set(
            xlabel=f"{text} at length {usual:,}{other}" if usual else text,
            ylabel=f"{words(group.headline)} ({group.better} is better)",
        )
        value_ticks(axes)
        if text.endswith("vanilla = 1"):
            axes.axvline(1, color="black", linewidth=1, linestyle=":")
    set_title(figure, f"{group.title}; bars: 95% intervals, up over seeds, across over rounds")
    place_labels(figure, placed)
    return figure


def _points(
    axes: Axes, shown: Sequence[tuple[Variant, Measured]], usual: int | None, outlier: Variant | None
) -> list[Label]:
    labels = []
    for variant, found in shown:
        if variant is not outlier and variant.mean is not None:
            text = variant.label if found.length in (None, usual) else f"{variant.label} at {found.length:,}"
            filled = variant.label == variant.attention
            labels.append(point(axes, found.value, variant.mean, style(variant.attention), text, filled))
    for variant, found in shown:
        if variant is outlier and variant.mean is not None:
            labels.append(_outside(axes, variant, variant.mean.value, found.value.value))
    return labels


def _outlier(variants: Sequence[Variant]) -> Variant | None:
    """The control, if it is so far off that it would press all others together."""
    others = [variant.mean.value for variant in variants if variant.mean and variant.attention != "none"]
    for variant in variants:
        if variant.attention == "none" and variant.mean and len(others) > 1:
            spread = max(others) - min(others)
            if not min(others) - spread <= variant.mean.value <= max(others) + spread:
                return variant
    return None


def _outside(axes: Axes, variant: Variant, y: float, x: float) -> Label:
    """An arrow at the frame towards a point outside of it, with the point's value."""
    low, high = axes.get_ylim()
    above, look = y > high, style(variant.attention)
    at = low + (0.97 if above else 0.03) * (high - low)
    axes.set_ylim(low, high)
    axes.plot(x, at, marker="^" if above else "v", color=look.color, markersize=12)
    return Label(x, at, f"{variant.label}, outside: {y:.4g}", look.text)
