"""Slots: how a backbone asks for attention without knowing the family.

A backbone names its slots ("encoder.self", "decoder.cross"), each with its pattern. The cell's pattern selects the
slots that get the family under test; all others stay vanilla, as in CAB. A slot is a *layer* (the backbone owns norm,
residual and feed-forward) or a *stack* (the whole thing). A family that is a whole stack cannot fill a layer slot and
says so.

Equal budgets: where a slot has a feed-forward, its width is solved so that the slot's core parameters equal vanilla's
within 1%. Where it has none, the excess over vanilla is counted for the cell to judge.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from attentions.base import Attention, Pattern, Shape, Stack, Unsupported, core_parameters
from attentions.residual import MLP, MakeFeedForward, ResidualStack
from attentions.vanilla import Vanilla

Family = partial[Any]
"""An Attention or Stack class with its options filled in: everything but shape, pattern and place."""

HIDDEN_UNITS = (8, 4, 2, 1)
"""Widths are multiples of 8 where that is fine enough; wide convolutions in small models need a finer grain."""
BUDGET_TOLERANCE = 0.01


def whole_stack(family: Family) -> bool:
    """Whether the family is a Stack (and not an attention sublayer)."""
    return isinstance(family.func, type) and issubclass(family.func, Stack)


class Slots:
    """Builds what a backbone asks for, and keeps account of what was built.

    took     names of the slots that got the family under test
    hidden   feed-forward width solved for each of them
    excess   core parameters above vanilla's in slots without feed-forward
    """

    def __init__(self, family: Family, pattern: Pattern) -> None:
        self.family, self.pattern = family, pattern
        self.took: list[str] = []
        self.hidden: dict[str, int] = {}
        self.excess = 0

    def layer(
        self, name: str, pattern: Pattern, shape: Shape, index: int, count: int, feedforward: MakeFeedForward = MLP
    ) -> Attention:
        """A single attention layer, number `index` of `count`.

        With `shape.hidden`, the backbone builds a `feedforward` of width `layer.shape.hidden` beside it.
        """
        if pattern is not self.pattern:
            return Vanilla(shape, pattern, index, count)
        if whole_stack(self.family):
            raise Unsupported(f"{name}: the slot is a single layer, the family is a whole stack")

        def build(family: Callable[..., Any], hidden: int) -> nn.Module:
            sized = replace(shape, hidden=hidden)
            modules = [family(sized, pattern, index, count)]
            return nn.ModuleList(modules + ([feedforward(shape.dim, hidden)] if hidden else []))

        if shape.hidden:
            shape = replace(shape, hidden=self._solve(name, shape, build))
        else:
            self.excess += _core(lambda: build(self.family, 0)) - _core(lambda: build(Vanilla, 0))
        self._take(name, shape)
        return self.family(shape, pattern, index, count)

    def stack(
        self,
        name: str,
        shape: Shape,
        self_pattern: Pattern,
        cross_pattern: Pattern | None = None,
        feedforward: MakeFeedForward = MLP,
    ) -> Stack:
        """A whole stack with the slots `name`.self and, with a cross pattern, `name`.cross."""
        slots = {self_pattern: f"{name}.self"} | ({cross_pattern: f"{name}.cross"} if cross_pattern else {})

        def build(family: Callable[..., Any], hidden: int) -> Stack:
            sized = replace(shape, hidden=hidden)
            if isinstance(family, partial) and whole_stack(family):
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
        if whole_stack(self.family):
            if cross_pattern and self.pattern is self_pattern:
                raise Unsupported(f"a whole stack in {name}.self also takes {name}.cross")
            least = self.family.func.min_depth  # type: ignore[attr-defined]
            if shape.depth < least:
                raise Unsupported(f"{name}: depth {shape.depth} is below {least}")
            taken = list(slots.values())
        if shape.hidden:
            shape = replace(shape, hidden=self._solve(name, shape, build))
        else:
            self.excess += _core(lambda: build(self.family, 0)) - _core(lambda: build(Vanilla, 0))
        for slot in taken:
            self._take(slot, shape)
        return build(self.family, shape.hidden)

    def _take(self, name: str, shape: Shape) -> None:
        if name not in self.took:
            self.took.append(name)
        self.hidden[name] = shape.hidden

    def _solve(self, name: str, shape: Shape, build: Callable[[Any, int], nn.Module]) -> int:
        """The roundest width at which the family's core parameters equal vanilla's at `shape.hidden` within 1%."""
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
