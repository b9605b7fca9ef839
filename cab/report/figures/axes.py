"""Points, bands, ticks and legends that several figures share."""

from collections.abc import Sequence
from math import ceil, floor, log2, log10

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from cab.report.figures.style import Style
from cab.report.stats import Estimate

FEWEST_TICKS = 3
FAR = 2.0
STEPS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0))
"""Of ticks within a decade: the first with enough of them."""


def point(axes: Axes, x: Estimate, y: Estimate, look: Style, label: str = "", filled: bool = True) -> None:
    """A marker with the intervals of both values as bars, and its label in the legend."""
    axes.errorbar(
        x.value,
        y.value,
        xerr=_bar(x),
        yerr=_bar(y),
        fmt=look.marker,
        color=look.color,
        label=label or None,
        markersize=11,
        markerfacecolor=look.color if filled else "white",
        markeredgewidth=2,
        elinewidth=1.5,
        capsize=4,
    )


def _bar(estimate: Estimate) -> list[list[float]] | None:
    if estimate.interval is None:
        return None
    low, high = estimate.interval
    return [[max(0.0, estimate.value - low)], [max(0.0, high - estimate.value)]]


def line_and_band(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    look: Style,
    label: str,
) -> None:
    axes.plot(x, y, color=look.color, marker=look.marker, linestyle=look.line, label=label)
    axes.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)


def length_ticks(axes: Axes, lengths: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each of some lengths."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,.0f}" for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: at round numbers, and at least two between any limits."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps in STEPS:
        ticks = [tick for power in decades for step in steps if low <= (tick := step * 10.0**power) <= high]
        if len(ticks) >= FEWEST_TICKS:
            return ticks
    return [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]


def binary_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """The powers of two between limits, or every second of them, third, ..."""
    powers = range(ceil(log2(low)), floor(log2(high)) + 1)
    return [2.0**power for power in powers[:: max(1, ceil(len(powers) / most))]]


def main_range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest, without those at either end that would press the others together: farther from
    the next than `FAR` times the range of the others."""
    inner = sorted(values)
    while len(inner) > 3:
        if inner[-1] - inner[-2] > FAR * (inner[-2] - inner[0]) > 0:
            inner.pop()
        elif inner[1] - inner[0] > FAR * (inner[-1] - inner[1]) > 0:
            inner.pop(0)
        else:
            break
    return inner[0], inner[-1]


def value_ticks(axes: Axes) -> None:
    """A logarithmic axis with ticks at 0.5, 1, 2, written without exponents."""
    data = axes.dataLim
    if data.x1 < data.x0 * 1.01:  # all points at one place
        axes.update_datalim([(data.x0 / 2, data.y0), (data.x1 * 2, data.y0)])
    ticks = log_ticks(*axes.get_xlim())
    axes.set_xticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def legend(figure: Figure, *panels: Axes) -> None:
    """Below the figure, each label once."""
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    longest = max(map(len, handles), default=1)
    columns = max(1, min(6, len(handles), int(figure.get_figwidth() * 9 / (longest + 6))))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
