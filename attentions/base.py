"""The contract between attention families and everything that uses them.

A family is an `Attention` (one sublayer, such as projections, a `Mixer` and an output projection) or a `Stack` (a
network of layers, for methods that are not defined as a single layer). It declares its patterns in `support`. This
package imports torch and nothing else of the project.

Patterns, for queries x and memory m (CAB, Zhang et al., ICML 2023, arXiv 2210.07661, section 2):

    noncausal_self    y_t may depend on all of x
    causal_self       y_t may depend on x_<=t
    noncausal_cross   y_t may depend on all of x and all of m
    causal_cross      y_t may depend on x_<=t and on all of m: only future *queries* must not leak

Conventions that every family keeps:
  * `valid` and `memory_valid` are boolean, (B, N) and (B, M), True = a real token; padding is on the right; outputs at
    padding are 0, and neither the content nor the amount of padding changes any other output.
  * Causality is aligned: y_t may use x_t. A task shifts its labels.
  * Any input length is accepted. Clusters, windows and groups derive from the design lengths in `Shape`, never from
    the input, so that a prefix of an input gives a prefix of the outputs.
  * Rows of a batch are independent. Statistics (running means, sampling counters) change in `after_step` only.
  * Sums that run over the sequence are kept in float32 or wider.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

State = Any
"""What a family keeps while decoding. `step` may change the state that it gets: continue with the returned one."""


class Pattern(StrEnum):
    NONCAUSAL_SELF = "noncausal_self"
    CAUSAL_SELF = "causal_self"
    NONCAUSAL_CROSS = "noncausal_cross"
    CAUSAL_CROSS = "causal_cross"

    @property
    def causal(self) -> bool:
        return self in (Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)

    @property
    def cross(self) -> bool:
        return self in (Pattern.NONCAUSAL_CROSS, Pattern.CAUSAL_CROSS)


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer or a stack. Lengths are design lengths: inputs may be shorter or longer."""

    dim: int
    heads: int
    depth: int
    hidden: int
    """Feed-forward width; 0 = the slot has no feed-forward."""
    length: int
    memory: int = 0
    """Design length of the memory in cross attention; 0 where there is none."""
    conv: int = 0
    """Width of a causal or centred depthwise convolution before every layer of tokens in a stack; 0 = none."""
    qk_norm: bool = False
    """RMS norm on queries and keys of softmax attention in self patterns."""
    rotary: bool = False
    """Positions are left to self attention: they are not in the input. Softmax attention rotates queries and keys."""

    def __post_init__(self) -> None:
        least = {"dim": 1, "heads": 1, "depth": 1, "hidden": 0, "length": 1, "memory": 0, "conv": 0}
        for name, value in least.items():
            check_whole(name, getattr(self, name), value)
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is not a multiple of heads={self.heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


class Unsupported(ValueError):
    """A valid combination that cannot be built. The message is the reason; the cell is recorded with it."""


class Mixer(nn.Module):
    """The operation between the projections of an attention layer: q (B, H, N, d), k and v (B, H, M, d).

    `forward` is enough. Decoding then recomputes it over the q, k and v so far; a mixer with a state of its own
    overrides `prefill`, `step` and `state_size`.
    """

    def __init__(self, shape: Shape, pattern: Pattern) -> None:
        super().__init__()
        self.shape, self.pattern = shape, pattern

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, q_valid: Tensor | None = None, k_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns y (B, H, N, d) and an auxiliary loss (a scalar, 0 if the family has none). M = N in self patterns."""
        raise NotImplementedError

    def prefill(self, q: Tensor, k: Tensor, v: Tensor, k_valid: Tensor | None = None) -> tuple[Tensor, State]:
        """Causal patterns: outputs for a whole prompt, and the state after it. `k_valid` is for the memory only."""
        check_causal(self.pattern)
        y, _ = self(q, k, v, None, k_valid)
        return y, (q, k, v, k_valid)

    def step(self, q: Tensor, k: Tensor | None, v: Tensor | None, state: State) -> tuple[Tensor, State]:
        """One token: q (B, H, 1, d); k and v the same, or None in cross attention (the memory is in the state)."""
        past_q, all_k, all_v, k_valid = state
        all_q = torch.cat([past_q, q], 2)
        if k is not None and v is not None:
            all_k, all_v = torch.cat([all_k, k], 2), torch.cat([all_v, v], 2)
        y, _ = self(all_q, all_k, all_v, None, k_valid)
        return y[:, :, -1:], (all_q, all_k, all_v, k_valid)

    def state_size(self, n: int, m: int = 0) -> int:
        """Numbers kept per sequence after n tokens, over a memory of m."""
        return (n + 2 * (m if self.pattern.cross else n)) * self.shape.dim

    @property
    def decodes_by_recomputation(self) -> bool:
        """Whether a step of decoding computes all outputs so far again."""
        return type(self).step is Mixer.step


class SequenceModule(nn.Module):
    """What `Attention` and `Stack` have in common: x (B, N, D) and perhaps memory (B, M, D) to y (B, N, D).

    `forward` is enough. Decoding then recomputes it over the tokens so far; a family with a state of its own overrides
    `prefill`, `step` and `state_size`.
    """

    support: ClassVar[Mapping[Pattern, str]] = {}
    """Pattern to where it is defined: "paper", "reference code" or "extension". Absent patterns are unsupported."""
    control: ClassVar[bool] = False
    """A control that uses no context: benchmarked although it fails the dependence check."""
    positions: ClassVar[str] = "none"
    """What the family does in self patterns to tell positions apart, where the shape leaves that to it (`rotary`)."""

    def __init__(self, shape: Shape, pattern: Pattern) -> None:
        super().__init__()
        self.shape, self.pattern = shape, pattern

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns y (B, N, D), 0 at padding, and an auxiliary loss (a scalar)."""
        raise NotImplementedError

    def prefill(
        self, x: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Causal patterns: the outputs of `forward` on a prompt without padding, and the state after it."""
        check_causal(self.pattern)
        y, _ = self(x, memory, None, memory_valid)
        return y, (x, memory, memory_valid)

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """The output for one further token x_t (B, 1, D): equal to the last row of `forward` on everything so far."""
        past, memory, memory_valid = state
        x = torch.cat([past, x_t], 1)
        y, _ = self(x, memory, None, memory_valid)
        return y[:, -1:], (x, memory, memory_valid)

    def state_size(self, n: int, m: int = 0) -> int:
        """Numbers kept per sequence after n tokens, over a memory of m."""
        return (n + m) * self.shape.dim

    @property
    def decodes_by_recomputation(self) -> bool:
        """Whether a step of decoding computes all outputs so far again."""
        return type(self).step is SequenceModule.step

    def reach(self) -> tuple[int, int] | None:
        """How many tokens back and ahead in x an output depends on, where that is fixed; None = on all that the pattern
        allows. The dependence check requires a reaction to every input within it, and of a layer none to others."""
        return None

    def observed(self) -> Sequence[Tensor]:
        """Sums over the examples since the last step, for `after_step`. Where several processes share a batch, theirs
        are added up in place before it. Modules inside are called on their own, here and in `after_step`."""
        return ()

    def after_step(self) -> None:
        """Called once after every optimiser step. The only place where statistics may change."""


class Attention(SequenceModule):
    """An attention sublayer.

    `layer` counts from 0 among `layers` layers of its kind in the slot. A family adds its own options, keyword only.
    """

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int) -> None:
        super().__init__(shape, pattern)
        check_support(self, pattern)
        self.layer, self.layers = layer, layers


class Stack(SequenceModule):
    """A whole network of layers, final norm included; the auxiliary loss is the sum over layers.

    A family that is a Stack is built as `family(shape, pattern, feedforward, <own options>)`, for
    noncausal_self and causal_self without memory, for noncausal_cross and causal_cross with self attention of the same
    causality and with memory. It splits `shape.depth` as its paper does and says so.
    """

    min_depth: ClassVar[int] = 1

    def __init__(self, shape: Shape, pattern: Pattern) -> None:
        super().__init__(shape, pattern)
        check_support(self, pattern)
        if shape.depth < self.min_depth:
            raise ValueError(f"depth={shape.depth}: {type(self).__name__} needs at least {self.min_depth} layers")


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Raises ValueError unless an option is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number of at least {least} is needed")


def check_support(family: SequenceModule, pattern: Pattern) -> None:
    """Raises Unsupported unless the family declares the pattern."""
    if pattern not in family.support:
        known = ", ".join(family.support) or "none"
        raise Unsupported(f"{type(family).__name__} has no {pattern} (it has {known})")


def check_causal(pattern: Pattern) -> None:
    """Raises ValueError for patterns that are not decoded token by token."""
    if not pattern.causal:
        raise ValueError(f"{pattern} cannot be decoded token by token: only causal patterns can")


def check_memory(pattern: Pattern, memory: Tensor | None) -> None:
    """Raises ValueError if there is no memory in a cross pattern, or one in a self pattern."""
    if pattern.cross != (memory is not None):
        raise ValueError(f"{pattern} {'needs a' if pattern.cross else 'takes no'} memory")


def zero_padding(y: Tensor, valid: Tensor | None) -> Tensor:
    """y (B, N, D) with 0 where `valid` (B, N) is False."""
    return y if valid is None else y.masked_fill(~valid.unsqueeze(-1), 0)


def after_step(model: nn.Module, add_up: Callable[[Tensor], object] | None = None) -> None:
    """Calls `after_step` on every attention and stack in the model. With several processes, `add_up` first sums what
    they observed, in place (an all-reduce)."""
    for module in model.modules():
        if isinstance(module, SequenceModule):
            if add_up is not None:
                for total in module.observed():
                    add_up(total)
            module.after_step()


def mark_position(parameter: nn.Parameter) -> nn.Parameter:
    """Tags a parameter as a position table, so that equal budgets do not count it."""
    parameter.is_position = True  # type: ignore[attr-defined]
    return parameter


def core_parameters(module: nn.Module) -> int:
    """Number of parameters without position tables."""
    return sum(p.numel() for p in module.parameters() if not getattr(p, "is_position", False))


def no_loss(x: Tensor) -> Tensor:
    """The auxiliary loss of a family that has none."""
    return torch.zeros((), device=x.device)
