"""Whether a table can tell attentions apart: does vanilla beat the strongest control beyond the noise over seeds?

    gain = mean of vanilla - mean of the strongest of its controls (`cab.report.controls`), more is better
    yes  if the 95% interval of the gain is above 0: Welch's over the seeds of both; of vanilla's mean, if the strongest
         control is a predictor, which has no seeds
    no   if it is not: what a table then says of attentions can be had without attention. Its ranks are grey, and its
         numbers count neither in the Compositional Index nor in correlations.

With one seed of vanilla or of the strongest control there is no interval, and no verdict; nor without a score of
vanilla or of `none`. Perplexities count by their logarithm.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cab.report.controls import controls
from cab.report.oriented import oriented
from cab.report.stats import Estimate, Interval
from cab.report.text import estimate, scale_words

if TYPE_CHECKING:
    from cab.report.groups import Group


@dataclass(frozen=True)
class Verdict:
    sentence: str = ""
    tells_apart: bool | None = None
    """None: not known."""
    strongest_control: str | None = None
    gain_over_control: Estimate | None = None
    """Of vanilla; positive is better."""

    @property
    def word(self) -> str:
        return {True: "yes", False: "no", None: "not known"}[self.tells_apart]


def verdict(group: "Group") -> Verdict:
    for name in ("vanilla", "none"):
        rows = [variant for variant in group.variants if variant.attention == name]
        if not rows:
            return Verdict(f"No verdict: run `attention={name}` too.")
        if len(rows) > 1:
            return Verdict(f"No verdict: {name} has {len(rows)} rows.")
        if oriented(group, rows[0]) is None:
            return Verdict(f"No verdict: {name} has no score ({rows[0].status}).")
    vanilla = next(variant for variant in group.variants if variant.attention == "vanilla")
    strongest = controls(group)[0]
    gain = strongest.beaten_by(oriented(group, vanilla) or [])
    found = f"in {scale_words(group.headline)}, {_words(gain, strongest.name)}"
    if gain.interval is None:
        sentence, tells = f"One seed cannot show whether this table tells attentions apart: {found}.", None
    elif gain.interval.low > 0:
        sentence, tells = f"I{found[1:]}: this table tells attentions apart.", True
    else:
        sentence, tells = f"At this size this task does not tell attentions apart: {found}.", False
    return Verdict(sentence, tells, strongest.name, gain)


def _words(gain: Estimate, control: str) -> str:
    """`vanilla is 0.1 (0.09 to 0.11) better than the strongest control, none`."""
    if gain.interval and not gain.excludes_zero:
        return f"vanilla and the strongest control, {control}, are a tie, gain {estimate(gain, '.3g')}"
    word, away = "better", gain
    if gain.value < 0:
        interval = Interval(-gain.interval.high, -gain.interval.low) if gain.interval else None
        word, away = "worse", Estimate(-gain.value, interval)
    return f"vanilla is {estimate(away, '.3g')} {word} than the strongest control, {control}"
