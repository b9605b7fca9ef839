"""Progress of a training: a bar on a terminal, otherwise a few lines."""

import sys
from typing import Any

from tqdm import tqdm

LOG_LINES = 10
"""Lines per training where the output is not a terminal."""


class Progress:
    def __init__(self, step: int, steps: int, headline: str) -> None:
        """`step` is the first step, `headline` the validation metric to show."""
        self.steps, self.headline, self.last_logged = steps, headline, step
        self.line = ""
        """The last point, as long as no line about it was printed."""
        self.bar = tqdm(total=steps, initial=step, unit="step", leave=False) if sys.stderr.isatty() else None

    def update(self, point: dict[str, Any]) -> None:
        """Shows a point of the training curve."""
        step, text = point["step"], f"loss {point['loss']:.3f}"
        if "validation" in point:
            text += f", validation {self.headline} {point['validation'][self.headline]:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(step - self.bar.n)
            return
        self.line = f"  step {step:,} of {self.steps:,}, {point['seconds']:.0f} s, {text}"
        if step - self.last_logged >= self.steps / LOG_LINES or step == self.steps:
            self._print()
            self.last_logged = step

    def close(self, reached: bool) -> None:
        """`reached`: whether the training ends because its validation is as good as was asked for."""
        if self.bar is not None:
            self.bar.close()
        elif reached and self.line:
            self._print()

    def _print(self) -> None:
        print(self.line, flush=True)
        self.line = ""
