"""The headline metric on validation against the learning rate, for every family of a group whose rates are tuned."""

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cab.report.figures.axes import legend
from cab.report.figures.style import new_figure, styles
from cab.report.groups import Group
from cab.report.text import words


def draw(group: Group) -> Figure:
    """A line per family over the rates that gave a result; a ring around the chosen one."""
    figure = new_figure(9, 6.4)
    axes = figure.subplots()
    axes.set_xscale("log")
    looks = styles({variant.label: variant.attention for variant in group.variants})
    tried: set[float] = set()
    for variant in group.variants:
        if (tuning := variant.tuning) is None:
            continue
        tried |= tuning.validations.keys()
        points = [(rate, value) for rate, value in sorted(tuning.validations.items()) if value is not None]
        look, label = looks[variant.label], variant.label
        if lost := len(tuning.validations) - len(points):
            label += f" ({lost} without a result)"
        rates, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(rates, values, color=look.color, marker=look.marker, linestyle=look.line, label=label)
        chosen = [(rate, value) for rate, value in points if rate == tuning.rate]
        if chosen:
            axes.plot(*chosen[0], "o", color=look.color, markersize=17,
                      markerfacecolor="none", markeredgewidth=2)  # fmt: skip
    ticks = sorted(tried)
    if len(ticks) == 1:
        axes.set_xlim(ticks[0] / 3, ticks[0] * 3)
        ticks = [ticks[0] / 2, ticks[0], ticks[0] * 2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="learning rate", ylabel=f"validation: {words(group.headline)} ({group.better} is better)")
    figure.suptitle(f"{group.full_title}; ring: the chosen rate; one seed", wrap=True)
    legend(figure, axes)
    return figure
