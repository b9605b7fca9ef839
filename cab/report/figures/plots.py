"""Figures of one group of the leaderboard.

curves    training: loss against step, validation against seconds
tradeoff  the headline metric against the time of a training step and against the decoding state
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cab.report.figures.axes import legend, point, value_ticks
from cab.report.figures.style import Style, new_figure, styles
from cab.report.groups import Group
from cab.report.stats import Estimate
from cab.report.text import words
from cab.report.variant import Variant

SLOW = 4.0
"""A family that takes so many times as long as another would press that one's curve against the axis."""


def curves(variants: Sequence[Variant], title: str = "") -> Figure:
    """Training loss against step, and the headline metric on the validation split against seconds."""
    figure = new_figure(13, 6.4)
    left, right = figure.subplots(1, 2)
    headline = next((name for variant in variants if (name := variant.first.result.get("headline"))), None)
    looks = styles({variant.label: variant.attention for variant in variants})
    for variant in variants:
        look = looks[variant.label]
        runs = [record.result["curve"] for record in variant.records if record.result.get("curve")]
        losses = [[(point["step"], point["loss"]) for point in run] for run in runs]
        _mean_and_band(left, losses, look, variant.label, marker=False)
        _mean_and_band(right, [_validation(run, headline) for run in runs], look, variant.label, marker=True)
    left.set(xlabel="step", ylabel="training loss per target")
    right.set(xlabel="seconds of training", ylabel=f"validation: {words(headline)}")
    for axes in (left, right):
        _leave_out_start(axes)
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # a marker at 0 is whole
    _make_room_for_slow(right)
    seeds = max((len(variant.records) for variant in variants), default=1)
    note = f"mean of up to {seeds} seeds, band from lowest to highest" if seeds > 1 else "one seed"
    figure.suptitle(f"{title}: {note}" if title else note, wrap=True)
    legend(figure, left)
    return figure


def _validation(run: Sequence[Mapping[str, Any]], name: str | None) -> list[tuple[float, float | None]]:
    return [(point["seconds"], point["validation"].get(name)) for point in run if point.get("validation")]


def _mean_and_band(
    axes: Axes, runs: Sequence[Sequence[tuple[float, float | None]]], look: Style, label: str, marker: bool
) -> None:
    """The mean over runs, and the range from lowest to highest, at the points that all runs have."""
    shortest = min(map(len, runs), default=0)
    points = np.array([run[:shortest] for run in runs], float).reshape(len(runs), shortest, 2)
    points = points[:, ~np.isnan(points).any((0, 2))]
    x, y = np.moveaxis(points, 2, 0)
    marked = look.marker if marker else None
    axes.plot(x.mean(0), y.mean(0), label=label, color=look.color, linestyle=look.line, marker=marked)
    if len(runs) > 1:
        axes.fill_between(x.mean(0), y.min(0), y.max(0), color=look.color, alpha=0.18, linewidth=0)


def _leave_out_start(axes: Axes) -> None:
    """Cuts off the first tenth of the curves at the top: the fall from the start would flatten the rest."""
    curves = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    later = np.concatenate([curve[max(1, len(curve) // 10) :] for curve in curves])
    if len(later) >= 8:
        low, high = min(curve.min() for curve in curves if len(curve)), later.max()
        axes.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))


def _make_room_for_slow(axes: Axes) -> None:
    """Time on a logarithmic axis, from the first point that is to be seen, if one family takes much longer."""
    curves = [np.array([line.get_xdata(), line.get_ydata()], float) for line in axes.get_lines()]
    ends = [curve[0, -1] for curve in curves if curve.size]
    low, high = axes.get_ylim()
    seen = [x for curve in curves for x, y in curve.T if x > 0 and low <= y <= high]
    if seen and max(ends) > SLOW * min(ends) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(seen) / 1.2, max(ends) * 1.2)
        value_ticks(axes)


Measured = tuple[Estimate, int | None]
"""What a panel of `tradeoff` shows of a variant, and the length of the measurement; None for vanilla against itself."""


def _train_time(variant: Variant) -> Measured | None:
    found = variant.efficiency
    length = None if variant.attention == "vanilla" else found.train_length
    return (found.train_ratio, length) if found.train_ratio else None


def _state(variant: Variant) -> Measured | None:
    found = variant.efficiency  # a state of 0 bytes has no place on a logarithmic axis
    return (Estimate(found.state_bytes / 1024), found.state_length) if found.state_bytes else None


PANELS = {"time of a training step, vanilla = 1": _train_time, "decoding state (KiB per sequence)": _state}


def has_tradeoff(variant: Variant) -> bool:
    return variant.mean is not None and any(measure(variant) for measure in PANELS.values())


def tradeoff(group: Group, variants: Sequence[Variant]) -> Figure:
    """Quality against efficiency, for variants of which some have both."""
    scored = [variant for variant in variants if variant.mean is not None]
    measures = {text: measure for text, measure in PANELS.items() if any(map(measure, scored))}
    figure = new_figure(7 * len(measures), 6.6)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (text, measure) in zip(panels, measures.items(), strict=True):
        _tradeoff_panel(axes, scored, text, measure)
        axes.set_ylabel(group.score_label)
        value_ticks(axes)
    figure.suptitle(f"{group.full_title}; bars: 95% intervals, up over seeds, across over rounds", wrap=True)
    legend(figure, *panels)
    return figure


def _tradeoff_panel(
    axes: Axes, scored: Sequence[Variant], text: str, measure: Callable[[Variant], Measured | None]
) -> None:
    axes.set_xscale("log")
    axes.margins(0.16, 0.14)
    outlier = _outlier(scored)
    looks = styles({variant.label: variant.attention for variant in scored})
    shown = [(variant, *found) for variant in scored if (found := measure(variant))]
    longest = max((length or 0 for _, _, length in shown), default=0)
    axes.set_xlabel(f"{text}\nat length {longest:,} unless stated" if longest else text)
    for variant, value, length in shown:
        look = looks[variant.label]
        if variant is outlier and variant.mean:
            label = f"{variant.label}, outside: {variant.mean.value:.4g}"
            axes.plot([], [], look.marker, color=look.color, label=label)
        elif variant.mean:
            same = length in (None, longest)
            point(axes, value, variant.mean, look, variant.label if same else f"{variant.label} at {length:,}")


def _outlier(variants: Sequence[Variant]) -> Variant | None:
    """The control, if it is so far off that it would press all others together."""
    others = [variant.mean.value for variant in variants if variant.mean and variant.attention != "none"]
    for variant in variants:
        if variant.attention == "none" and variant.mean and len(others) > 1:
            spread = max(others) - min(others)
            if not min(others) - spread <= variant.mean.value <= max(others) + spread:
                return variant
    return None
