"""GPT: a causal decoder over tokens, pre-norm, the head tied to the embedding.

GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners"); CAB's language model is fairseq's
transformer_lm_gpt. Embeddings have standard deviation D^-1/2 and are scaled by D^1/2 on the way in (Vaswani et al.
2017, arXiv 1706.03762, section 3.4), so that inputs and logits both start at size 1. One slot: decoder.self, causal.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Pattern, Shape, State
from attentions.slots import Slots
from tasks.backbones.positions import PositionKind, Positions


class GPT(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, vocabulary: int, positions: PositionKind) -> None:
        super().__init__()
        self.scale = math.sqrt(shape.dim)
        self.embedding = nn.Embedding(vocabulary, shape.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = Positions(positions, shape.length, shape.dim)
        self.stack = slots.stack("decoder", shape, Pattern.CAUSAL_SELF)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, N) to logits (B, N, V) for the token after each, and the auxiliary loss."""
        y, auxiliary = self.stack(self._embed(tokens, 0))
        return self._head(y), auxiliary

    def prefill(self, tokens: Tensor) -> tuple[Tensor, State]:
        """The logits of `forward` on a prompt (B, N), and the state to go on from."""
        y, state = self.stack.prefill(self._embed(tokens, 0))
        return self._head(y), (state, tokens.shape[1])

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits (B, 1, V) after one further token (B, 1)."""
        inner, position = state
        y, inner = self.stack.step(self._embed(token, position), inner)
        return self._head(y), (inner, position + 1)

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        return self.positions(self.embedding(tokens) * self.scale, start)  # (B, N, D)

    def _head(self, y: Tensor) -> Tensor:
        return F.linear(y, self.embedding.weight)  # (B, N, V)
