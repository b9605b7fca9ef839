"""Attention layers with projections around a mixer: q, k, v, positions on q and k, the mixer, an output projection.

    y = (mixer(place(norm(Wq x)), place(norm(Wk s)), Wv s)) Wo,   s = x or the memory

In self patterns, `place` is the rotary embedding if the shape leaves positions to the attention, and `norm` is an RMS
norm per head if the shape asks for it. Cross patterns have neither: queries and memory have no common axis.
"""

from typing import ClassVar

from torch import Tensor, nn

from attentions.base import (
    Attention,
    Mixer,
    Pattern,
    Shape,
    State,
    check_causal,
    check_memory,
    zero_padding,
)
from attentions.ops.positions import HeadNorm, Rotary


class ProjectedAttention(Attention):
    """A family can override `queries`, `keys_values`, `make_positions` and `output`."""

    positions = "rotary"
    softmax: ClassVar[bool] = True
    """Whether scores go through a softmax: only then the norm on q and k applies."""

    def __init__(self, shape: Shape, pattern: Pattern, layer: int, layers: int, mixer: Mixer) -> None:
        super().__init__(shape, pattern, layer, layers)
        self.mixer = mixer
        self.query = nn.Linear(shape.dim, shape.dim, bias=False)
        self.key = nn.Linear(shape.dim, shape.dim, bias=False)
        self.value = nn.Linear(shape.dim, shape.dim, bias=False)
        self.out = nn.Linear(shape.dim, shape.dim, bias=False)
        has_norm = shape.qk_norm and self.softmax and not pattern.cross
        self.query_norm = HeadNorm(shape.heads, shape.head_dim) if has_norm else None
        self.key_norm = HeadNorm(shape.heads, shape.head_dim) if has_norm else None
        self.place = self.make_positions() if shape.rotary and not pattern.cross else None

    def make_positions(self) -> nn.Module | None:
        """A module that gives q or k (B, H, N, d) positions, called with the position of its first token."""
        return Rotary(self.shape.head_dim)

    def split(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, H, N, d)."""
        return x.unflatten(-1, (self.shape.heads, -1)).transpose(1, 2)

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.query(x))  # (B, H, N, d)

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.key(source)), self.split(self.value(source))  # (B, H, M, d) each

    def output(self, mixed: Tensor, x: Tensor) -> Tensor:
        """`mixed` (B, H, N, d) and the layer's input x (B, N, D) to y (B, N, D)."""
        return self.out(mixed.transpose(1, 2).flatten(-2))

    def placed_queries(self, x: Tensor, start: int = 0) -> Tensor:
        """Queries as the mixer gets them; `start` is the position of the first token of x."""
        q = self.queries(x)
        if self.query_norm is not None:
            q = self.query_norm(q)
        return q if self.place is None else self.place(q, start)

    def placed_keys_values(self, source: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        k, v = self.keys_values(source)
        if self.key_norm is not None:
            k = self.key_norm(k)
        return k if self.place is None else self.place(k, start), v

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        k, v = self.placed_keys_values(self._source(x, memory))
        k_valid = memory_valid if self.pattern.cross else valid
        mixed, auxiliary = self.mixer(self.placed_queries(x), k, v, valid, k_valid)
        return zero_padding(self.output(mixed, x), valid), auxiliary

    def prefill(
        self, x: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, State]:
        check_causal(self.pattern)
        k, v = self.placed_keys_values(self._source(x, memory))
        mixed, state = self.mixer.prefill(self.placed_queries(x), k, v, memory_valid)
        return self.output(mixed, x), (x.shape[1], state)

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        seen, inner = state  # the number of tokens so far
        k, v = (None, None) if self.pattern.cross else self.placed_keys_values(x_t, seen)
        mixed, inner = self.mixer.step(self.placed_queries(x_t, seen), k, v, inner)
        return self.output(mixed, x_t), (seen + x_t.shape[1], inner)

    def state_size(self, n: int, m: int = 0) -> int:
        return self.mixer.state_size(n, m)

    @property
    def decodes_by_recomputation(self) -> bool:
        return type(self).step is ProjectedAttention.step and self.mixer.decodes_by_recomputation

    def _source(self, x: Tensor, memory: Tensor | None) -> Tensor:
        check_memory(self.pattern, memory)
        return x if memory is None else memory
