"""How every figure looks: one colour per family everywhere, and type of one size that is legible at half of it.

Baselines have fixed colours. The others have theirs from a palette for the colour-blind (Okabe and Ito), in the order
of the names in conf/attention, so that a new family needs no line here; a name without a file gets one by its hash.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cab import ROOT

CONF = ROOT / "conf" / "attention"
INK, FAINT = "#222222", "#d9d9d9"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "^", "v", "P", "X", "<", ">")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
RC: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 130,
    "font.size": 14,
    "axes.titlesize": 14,
    "axes.labelsize": 14,
    "figure.titlesize": 14,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.4,
    "lines.markersize": 7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cab",
}


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    line: Any = "-"


FIXED = {
    "vanilla": Style("#000000", "s"),
    "eager": Style("#8a8a8a", "D"),
    "none": Style("#b8b8b8", "o", LINES[1]),
    "local": Style("#7a6a53", "d", LINES[1]),
}


@cache
def families(conf: Path = CONF) -> tuple[str, ...]:
    """The families with a configuration, sorted; each has its colour by its place."""
    return tuple(sorted(path.stem for path in conf.glob("*.yaml") if path.stem not in FIXED))


def style(attention: str, variant: int = 0) -> Style:
    """Of a family; its sets of options, numbered by `variant`, differ in line and marker."""
    known = families()
    if attention in FIXED:
        place, base = 0, FIXED[attention]
    else:
        number = hashlib.sha256(attention.encode()).digest()[0]
        place = known.index(attention) if attention in known else len(known) + number
        base = Style(PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
    if variant == 0:
        return base
    return Style(base.color, MARKERS[(place + variant) % len(MARKERS)], LINES[variant % len(LINES)])


def styles(family_of: Mapping[str, str]) -> dict[str, Style]:
    """By label, from the family of each label. Of one figure: the same label looks the same in all of its panels."""
    names = list(family_of.values())
    return {label: style(name, names[:place].count(name)) for place, (label, name) in enumerate(family_of.items())}


def new_figure(width: float, height: float) -> Figure:
    """With the look of RC, which holds until it is saved. In inches; without pyplot and a screen."""
    matplotlib.rcParams.update(RC)
    return Figure(figsize=(width, height), layout="constrained")
