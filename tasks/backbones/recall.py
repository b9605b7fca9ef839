"""A small network for associative recall: embedding, one stack, a head at the places that are asked for.

Recall in one sequence needs at least two layers with token mixing (one moves a key to its value, one looks it up); see
Arora et al. 2023, arXiv 2312.04927. Slots: encoder.self in noncausal_self, decoder.self in causal_self;
decoder.self and decoder.cross in the cross patterns, where the memory is a set and has no positions.
"""

import math

from torch import Tensor, nn

from attentions.base import Pattern, Shape
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind, Positions


class RecallNet(nn.Module):
    def __init__(self, slots: Slots, pattern: Pattern, shape: Shape, vocabulary: int, positions: PositionKind) -> None:
        super().__init__()
        self.scale = math.sqrt(shape.dim)
        self.embedding = nn.Embedding(vocabulary, shape.dim)
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        self.positions = Positions(positions, shape.length, shape.dim)
        if pattern.cross:
            own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
            self.stack = slots.stack("decoder", shape, own, pattern)
        else:
            self.stack = slots.stack("decoder" if pattern.causal else "encoder", shape, pattern)
        self.head = nn.Linear(shape.dim, vocabulary, bias=False)

    def forward(
        self,
        tokens: Tensor,
        asked: Tensor,
        memory: Tensor | None = None,
        carried: Tensor | None = None,
        valid: Tensor | None = None,
        memory_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens, carried and valid (B, N), memory (B, M, 2), memory_valid (B, M), to logits (K, V) at the K places
        where `asked` (B, N) is True, in order, and the auxiliary loss."""
        x = self.embedding(tokens)
        if carried is not None:
            x = x + self.embedding(carried)
        items = None if memory is None else self.embedding(memory).sum(2) * self.scale  # (B, M, D)
        y, auxiliary = self.stack(self.positions(x * self.scale), items, valid, memory_valid)
        return self.head(y[asked]), auxiliary
