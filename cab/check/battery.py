"""The battery: what a family has to satisfy in a pattern before its numbers count, measured by changing inputs.

    leak         causal: no output reacts to a later input, in eval and in train mode with a frozen sample
    truncation   causal: the outputs of a prefix are the prefix of the outputs (eval)
    dependence   outputs react to every region that the pattern allows: a layer that ignores its past leaks nothing
    padding      neither content nor amount of padding has an effect, and outputs at padding are 0 (both modes)
    batch        no row depends on other rows (both modes)
    decode       causal: a prompt followed by single tokens gives the outputs of the full pass (eval)
    gradients    finite in float32 and float64, also for large inputs; equal to finite differences

The checks run on whole stacks and, for families that are layers, on the layer alone. Small models have short inputs
that cross several blocks, windows or groups; one model has the real options and a real length (see cab.check.models).
CAB's own test (Zhang et al. 2023, scripts/attention_pattern) truncates the second half of the input in eval mode. It
passes a layer that ignores its past, and sees neither padding nor other rows.

Errors are in float64, relative to the largest output. Differences of 1e-9 are rounding, as sorting may reorder sums.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from attentions.base import Pattern
from attentions.slots import Family
from cab.check import influence, invariance
from cab.check.influence import Observation
from cab.check.models import MODES, REAL, SMALL, ModelUnderTest, Setting, models_under_test, preserved_random_state

TOLERANCE = {
    "leak": 1e-9,
    "truncation": 1e-9,
    "dependence": 1e-6,
    "padding": 1e-9,
    "batch": 1e-9,
    "decode": 1e-9,
    "gradients": 1e-6,
}
"""The largest error that passes. For dependence: a reaction has to be larger."""
RESAMPLES = 6
"""How often a region without a reaction is checked again after a further step: a sample may have missed it."""
CAUSAL_ONLY = ("leak", "truncation", "decode")
MODES_OF = dict.fromkeys(TOLERANCE, MODES) | {"truncation": ("eval",), "decode": ("eval",), "gradients": ("train",)}
MEASURES: dict[str, Callable[[ModelUnderTest], Observation]] = {
    "truncation": influence.truncation,
    "padding": invariance.padding,
    "batch": invariance.batch,
    "decode": invariance.decode,
    "gradients": invariance.gradients,
}


@dataclass(frozen=True)
class Finding:
    """The result of a check. `worst` is the largest error, for `dependence` the smallest reaction."""

    check: str
    worst: float
    detail: str
    """Where the worst value was found."""

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.check]

    @property
    def passed(self) -> bool:
        if self.check == "dependence":
            return self.worst > self.tolerance
        return self.worst <= self.tolerance


def checks(pattern: Pattern) -> list[str]:
    """The names of the checks for a pattern."""
    return [name for name in TOLERANCE if pattern.causal or name not in CAUSAL_ONLY]


class Battery:
    """The checks of one family in one pattern.

    `small` is the family with options so small that inputs of two dozen tokens cross several blocks. Raises
    Unsupported, or ValueError for options that do not fit.
    """

    def __init__(
        self,
        family: Family,
        pattern: Pattern,
        small: Family | None = None,
        settings: Sequence[Setting] = (SMALL, REAL),
    ) -> None:
        self.models = [models_under_test(small or family if s is SMALL else family, pattern, s) for s in settings]
        """One list per setting."""
        self.influence = cache(influence.influence)  # leak and dependence use the same measurements

    def run(self, check: str) -> Finding:
        """Runs one check. Exceptions of the family are not caught."""
        with preserved_random_state():
            observations = list(self._observe(check))
        worst = min(observations) if check == "dependence" else max(observations)
        return Finding(check, worst.value, worst.where)

    def _observe(self, check: str) -> Iterator[Observation]:
        for models in self.models:
            for mode in MODES_OF[check]:
                if check == "dependence":
                    yield from self._dependence(models, mode)
                    continue
                for model in models:
                    with model.mode(mode):
                        if check == "leak":
                            found = influence.leak(model, self.influence(model, mode))
                        else:
                            found = MEASURES[check](model)
                    yield Observation(found.value, f"{found.where} ({model.name}, {mode})")

    def _dependence(self, models: Sequence[ModelUnderTest], mode: str) -> Iterator[Observation]:
        """All models of a level count together, as a hard choice in one may hide a dependence."""
        if mode == "train" and not models[0].setting.exhaustive:
            return  # a family that samples may skip all of a few positions
        for level in dict.fromkeys(model.level for model in models):
            of_level = [model for model in models if model.level == level]
            influences = [self.influence(model, mode) for model in of_level]
            worst = influence.dependence(of_level[0], influences, mode)
            latest = of_level[-1]
            for _ in range(RESAMPLES):
                if worst.value > TOLERANCE["dependence"]:
                    break
                later = _after_one_step(latest)
                if not _differ(latest, later, mode):
                    break
                latest = later
                influences.append(self.influence(latest, mode))
                worst = influence.dependence(of_level[0], influences, mode)
            yield Observation(worst.value, f"{worst.where} ({of_level[0].name}, {mode})")


def _after_one_step(model: ModelUnderTest) -> ModelUnderTest:
    """A copy of the model after another training step."""
    later = replace(model, module=copy.deepcopy(model.module))
    later.advance_statistics(steps=1)
    return later


def _differ(model: ModelUnderTest, other: ModelUnderTest, mode: str) -> bool:
    """Whether any output differs."""
    inputs = model.inputs(1)
    with model.mode(mode), other.mode(mode):
        return not torch.equal(model(*inputs), other(*inputs))
