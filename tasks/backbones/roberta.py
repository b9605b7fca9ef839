"""RoBERTa: a bidirectional encoder that fills in masked tokens.

Liu et al. 2019, arXiv 1907.11692; CAB's is fairseq's roberta_base. The head is theirs: a dense layer with GELU and a
norm, then the embedding transposed, with a bias. It runs at the masked places only. Deviations: pre-norm instead of
post-norm, and positions are the task's choice. One slot: encoder.self, noncausal.
"""

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape
from attentions.slots import Slots
from tasks.backbones.embedding import TiedEmbedding
from tasks.backbones.positions import PositionKind, Positions


class RoBERTa(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, vocabulary: int, positions: PositionKind) -> None:
        super().__init__()
        self.embedding = TiedEmbedding(vocabulary, shape.dim)
        self.positions = Positions(positions, shape.length, shape.dim)
        self.stack = slots.stack("encoder", shape, Pattern.NONCAUSAL_SELF)
        self.head = nn.Sequential(nn.Linear(shape.dim, shape.dim), nn.GELU(), nn.LayerNorm(shape.dim))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, N), places (B, K) in it, to logits (B, K, V) for the original tokens, and the auxiliary loss."""
        y, auxiliary = self.stack(self.positions(self.embedding(tokens)))  # (B, N, D)
        chosen = y.gather(1, places.unsqueeze(-1).expand(-1, -1, y.shape[-1]))  # (B, K, D)
        return self.embedding.logits(self.head(chosen), self.bias), auxiliary
