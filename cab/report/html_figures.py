"""The leaderboard's figures inside its page: each as a data URI of its SVG, or of its PNG where that is smaller.

An image can run no script and shares no names with the page or with other figures; SVG elements in the page would.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from cab.report.analyses import QUESTIONS

KINDS = {"curves": "Training curves", "tradeoff": "Quality against cost", "costs": "Time and memory against length"}
KINDS |= {question.name: question.title for question in QUESTIONS}
"""What the first part of a figure's name says."""
FONTS = re.compile(r"font-family: [^;\"]+")
PLACES = re.compile(r' (?:x|y|transform)="[^"]*"')
READABLE = ' <>=:;/"(),+-.!$*@?\n'
"""May stand as they are in a data URI within single quotes."""


class Figures:
    """Those of the figures that fit; what does not is named instead."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self.names = folder, list(names)
        self.images: dict[str, str] = {}

    def choose(self, room: int) -> None:
        """Takes figures as long as there is room for them, in bytes; training curves last, they say the least."""
        for name in sorted(self.names, key=lambda name: name.startswith("curves")):
            image = inline(self.folder / name)
            if image and len(image) <= room:
                self.images[name] = image
                room -= len(image)

    def of(self, *subjects: str) -> list[str]:
        """The names of the figures about a subject: `curves_<subject>`, `tradeoff_<subject>`."""
        return [name for name in self.names if name.partition("_")[2] in subjects]

    def html(self, names: Iterable[str]) -> str:
        return "".join(self._one(name) for name in names)

    def _one(self, name: str) -> str:
        kind, _, subject = name.partition("_")
        title = escape(KINDS.get(kind, kind))
        file = f"<code>plots/{escape(name)}.svg</code>"
        if name not in self.images:
            return f"<p class=note>{title}: too large for this page, see {file}."
        image = f"<img loading=lazy alt=\"{title}, {escape(subject)}\" src='{self.images[name]}'>"
        box = f'<div class=scroll tabindex=0 role=region aria-label="{title}, {escape(subject)}">{image}</div>'
        return f"<figure>{box}<figcaption>{title}, {file}</figcaption></figure>"


def inline(path: Path) -> str:
    """A figure's files as the shorter data URI; nothing where neither can be read."""
    found = []
    try:
        text = quote(_shorter(path.with_name(f"{path.name}.svg").read_text()), safe=READABLE)
        found.append(f"data:image/svg+xml,{text}")
        found.append(f"data:image/png;base64,{b64encode(path.with_name(f'{path.name}.png').read_bytes()).decode()}")
    except OSError:
        pass
    return min(found, key=len, default="")


def _shorter(svg: str) -> str:
    """Half the size, the same picture: no metadata, spare fonts or space; outlines in hundredths of a point."""
    svg = re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = FONTS.sub("font-family: 'DejaVu Sans', Verdana, sans-serif", re.sub(r">\s+<", "><", svg))
    svg = re.sub(r' d="([MLQCz\d\s.-]*)"', lambda path: f' d="{_steps(path[1])}"', svg)
    return PLACES.sub(lambda place: re.sub(r"(?<=\.\d\d)\d+", "", place[0]), svg).strip()


def _steps(path: str) -> str:
    """An outline by its steps from point to point, which are shorter to write than places; errors do not add up."""
    made, here, start = [], (0.0, 0.0), (0.0, 0.0)
    for command, numbers in re.findall(r"([MLQCz])([^MLQCz]*)", path):
        places = [float(number) for number in numbers.split()]
        steps = [round(place - here[i % 2], 2) for i, place in enumerate(places)]
        made.append(command.lower() + " ".join(f"{step:.2f}".rstrip("0").rstrip(".") for step in steps))
        if command == "z":
            here = start
        elif steps:
            here = here[0] + steps[-2], here[1] + steps[-1]
        start = here if command == "M" else start
    return "".join(made).replace(" -", "-")
