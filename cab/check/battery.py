"""The battery: what a family must do in a pattern before any of its numbers counts, measured by changing inputs.

    leak         causal: no output reacts to a later input, in eval and in train mode with a frozen sample
    truncation   causal: the outputs of a prefix are the prefix of the outputs (eval)
    dependence   outputs react to every region that the pattern allows: a layer that ignores its past leaks nothing
    padding      neither content nor amount of padding matters, outputs there are 0 (both modes)
    batch        no row depends on its neighbours (both modes)
    decode       causal: a prompt and then token by token gives what the full pass gives (eval)
    gradients    finite in float32 and float64, also for large inputs; equal to finite differences

On whole stacks and, for families that are layers, on the layer alone; on small models whose short inputs cross several
blocks, windows or groups, and on one at the real options and a real length (cab.check.specimen has both). CAB's own
test (Zhang et al. 2023, scripts/attention_pattern) truncates the second half in eval mode: it passes a layer that
ignores its past, and sees neither padding nor neighbours.

Errors are in float64 relative to the largest output; differences of 1e-9 are rounding, sorting may reorder sums.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from attentions.base import Pattern
from attentions.slots import Family
from cab.check import influence, invariance
from cab.check.influence import Worst
from cab.check.specimen import MODES, REAL, SMALL, Setting, Specimen, age, kept_random_state, specimens

TOLERANCE = {
    "leak": 1e-9,
    "truncation": 1e-9,
    "dependence": 1e-6,
    "padding": 1e-9,
    "batch": 1e-9,
    "decode": 1e-9,
    "gradients": 1e-6,
}
"""The greatest error that passes; for dependence the least reaction that does."""
CHANCES = 6
"""How often a region without a reaction is looked at again after a further step: a sample may have missed it."""
CAUSAL_ONLY = ("leak", "truncation", "decode")
MODES_OF = dict.fromkeys(TOLERANCE, MODES) | {"truncation": ("eval",), "decode": ("eval",), "gradients": ("train",)}
MEASURES: dict[str, Callable[[Specimen], Worst]] = {
    "truncation": influence.truncation,
    "padding": invariance.padding,
    "batch": invariance.batch,
    "decode": invariance.decode,
    "gradients": invariance.gradients,
}


@dataclass(frozen=True)
class Finding:
    """What a check found. `worst` is an error, or in `dependence` a reaction."""

    check: str
    worst: float
    detail: str
    """Where the worst was found."""

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.check]

    @property
    def passed(self) -> bool:
        if self.check == "dependence":
            return self.worst > self.tolerance
        return self.worst <= self.tolerance


def checks(pattern: Pattern) -> list[str]:
    """The names of the checks that a pattern has."""
    return [name for name in TOLERANCE if pattern.causal or name not in CAUSAL_ONLY]


class Battery:
    """The models of one family in one pattern. Building raises Unsupported, or ValueError for options that cannot be.

    `small` is the family with options so small that inputs of two dozen tokens cross several blocks.
    """

    def __init__(
        self,
        family: Family,
        pattern: Pattern,
        small: Family | None = None,
        settings: Sequence[Setting] = (SMALL, REAL),
    ) -> None:
        self.groups = [specimens(small or family if s is SMALL else family, pattern, s) for s in settings]
        self.influence = cache(influence.influence)  # the leak and the dependence check read the same measurements

    def run(self, check: str) -> Finding:
        """Whatever the family raises passes through."""
        with kept_random_state():
            worst, detail = (min if check == "dependence" else max)(self._measure(check))
        return Finding(check, worst, detail)

    def _measure(self, check: str) -> Iterator[Worst]:
        for group in self.groups:
            for mode in MODES_OF[check]:
                if check == "dependence":
                    yield from self._dependence(group, mode)
                    continue
                for specimen in group:
                    with specimen.mode(mode):
                        worst, detail = MEASURES[check](specimen) if check != "leak" else self._leak(specimen, mode)
                    yield worst, f"{detail} ({specimen.name}, {mode})"

    def _leak(self, specimen: Specimen, mode: str) -> Worst:
        return influence.leak(specimen, self.influence(specimen, mode))

    def _dependence(self, group: Sequence[Specimen], mode: str) -> Iterator[Worst]:
        """All draws of a level together, so that a hard choice hides nothing."""
        if mode == "train" and not group[0].setting.exhaustive:
            return  # of a few inputs a sample may take none
        for level in dict.fromkeys(specimen.level for specimen in group):
            draws = [specimen for specimen in group if specimen.level == level]
            found = [self.influence(specimen, mode) for specimen in draws]
            worst, detail = influence.dependence(draws[0], found, mode)
            last = draws[-1]
            for _ in range(CHANCES):
                if worst > TOLERANCE["dependence"] or (later := self._later(last, mode)) is None:
                    break
                last = later
                found.append(self.influence(last, mode))
                worst, detail = influence.dependence(draws[0], found, mode)
            yield worst, f"{detail} ({draws[0].name}, {mode})"

    def _later(self, specimen: Specimen, mode: str) -> Specimen | None:
        """The specimen with another step behind it; None if nothing it does has changed by that."""
        later = replace(specimen, module=copy.deepcopy(specimen.module))
        age(later, steps=1)
        inputs = specimen.inputs(1)
        with specimen.mode(mode), later.mode(mode):
            return None if torch.equal(specimen(*inputs), later(*inputs)) else later
