"""Slots: how a backbone asks for attention without knowing the family.

A backbone names its slots ("encoder.self", "decoder.cross"), each with its pattern. Slots of the cell's pattern get the
family under test; all others are vanilla, as in CAB. A slot is a *layer* (the backbone has the norm, the residual and
the feed-forward) or a *stack* (with all of them). A family that is a `Stack` cannot fill a layer slot: Unsupported.

Equal budgets: where a slot has a feed-forward, its width is solved so that the slot's core parameters equal vanilla's
within 1%. Where it has none, the excess over vanilla is counted; cab.quality.cell limits it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from attentions.base import Attention, Pattern, SequenceModule, Shape, Stack, Unsupported, core_parameters
from attentions.residual import MLP, MakeFeedForward, ResidualStack
from attentions.vanilla import Vanilla

Family = partial[Any]
"""An Attention or Stack class with its options."""

HIDDEN_UNITS = (8, 4, 2, 1)
"""Widths are multiples of 8 where that meets the budget, else of 4, 2 or 1 (wide convolutions in small models)."""
BUDGET_TOLERANCE = 0.01


def is_stack(family: Family) -> bool:
    """Whether the family is a Stack, not an Attention."""
    return isinstance(family.func, type) and issubclass(family.func, Stack)


class Slots:
    """Builds the attention of a backbone.

    took     names of the slots that got the family under test
    hidden   feed-forward width solved for each of them
    excess   core parameters above vanilla's in slots without feed-forward
    state    numbers that these slots keep per sequence while decoding, at the design lengths; 0 in noncausal patterns
    """

    def __init__(self, family: Family, pattern: Pattern) -> None:
        self.family, self.pattern = family, pattern
        self.took: list[str] = []
        self.hidden: dict[str, int] = {}
        self.excess = 0
        self.state = 0

    def layer(
        self, name: str, pattern: Pattern, shape: Shape, index: int, count: int, feedforward: MakeFeedForward = MLP
    ) -> Attention:
        """A single attention layer, number `index` of `count`.

        With `shape.hidden`, the backbone builds a `feedforward` of width `layer.shape.hidden` beside it.
        """
        if pattern is not self.pattern:
            return Vanilla(shape, pattern, index, count)
        if is_stack(self.family):
            raise Unsupported(f"{name}: the slot is a single layer, the family is a whole stack")

        def build(family: Callable[..., Any], hidden: int) -> nn.Module:
            modules = nn.ModuleList([family(replace(shape, hidden=hidden), pattern, index, count)])
            if hidden:
                modules.append(feedforward(shape.dim, hidden))
            return modules

        shape = self._sized(name, shape, build)
        self._take(name, shape)
        return self._counted(self.family(shape, pattern, index, count))

    def stack(
        self,
        name: str,
        shape: Shape,
        self_pattern: Pattern,
        cross_pattern: Pattern | None = None,
        feedforward: MakeFeedForward = MLP,
    ) -> SequenceModule:
        """A whole stack with the slots `name`.self and, with a cross pattern, `name`.cross."""
        slots = {self_pattern: f"{name}.self"}
        if cross_pattern:
            slots[cross_pattern] = f"{name}.cross"

        def build(family: Callable[..., Any], hidden: int) -> SequenceModule:
            sized = replace(shape, hidden=hidden)
            if isinstance(family, partial) and is_stack(family):
                return family(sized, self.pattern, feedforward)
            layers = {
                pattern: [
                    (family if pattern is self.pattern else Vanilla)(sized, pattern, index, shape.depth)
                    for index in range(shape.depth)
                ]
                for pattern in slots
            }
            crosses = layers[cross_pattern] if cross_pattern else ()
            return ResidualStack(sized, layers[self_pattern], crosses, feedforward)

        if self.pattern not in slots:
            return build(Vanilla, shape.hidden)
        taken = [slots[self.pattern]]
        if is_stack(self.family):
            if cross_pattern and self.pattern is self_pattern:
                raise Unsupported(f"a whole stack in {name}.self also takes {name}.cross")
            least = self.family.func.min_depth  # type: ignore[attr-defined]
            if shape.depth < least:
                raise Unsupported(f"{name}: depth {shape.depth} is below {least}")
            taken = list(slots.values())
        shape = self._sized(name, shape, build)
        for slot in taken:
            self._take(slot, shape)
        return self._counted(build(self.family, shape.hidden))

    def _sized(self, name: str, shape: Shape, build: Callable[[Any, int], nn.Module]) -> Shape:
        """The shape with the feed-forward width that meets the budget; without feed-forward, adds to `excess`."""
        if shape.hidden:
            return replace(shape, hidden=self._solve(name, shape, build))
        self.excess += _core(lambda: build(self.family, 0)) - _core(lambda: build(Vanilla, 0))
        return shape

    def _counted(self, module: Any) -> Any:
        if self.pattern.causal:
            self.state += module.state_size(module.shape.length, module.shape.memory)
        return module

    def _take(self, name: str, shape: Shape) -> None:
        if name not in self.took:
            self.took.append(name)
        self.hidden[name] = shape.hidden

    def _solve(self, name: str, shape: Shape, build: Callable[[Any, int], nn.Module]) -> int:
        """The width at which the family's core parameters equal vanilla's at `shape.hidden` within 1%, a multiple of
        the first of HIDDEN_UNITS that allows it."""
        target = _core(lambda: build(Vanilla, shape.hidden))
        one, two = _core(lambda: build(self.family, 1)), _core(lambda: build(self.family, 2))
        per_unit = two - one  # parameters are linear in the width
        if target < one:
            raise Unsupported(f"{name}: has {one:,} parameters without a feed-forward, vanilla {target:,} with it")
        exact = 1 + (target - one) / per_unit
        for unit in HIDDEN_UNITS:
            hidden = max(unit, unit * round(exact / unit))
            if abs(one + (hidden - 1) * per_unit - target) <= BUDGET_TOLERANCE * target:
                return hidden
        raise Unsupported(f"{name}: no feed-forward width gives vanilla's {target:,} parameters within 1%")


def _core(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return core_parameters(build())
