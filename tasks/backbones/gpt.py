"""GPT: a causal decoder over tokens, pre-norm, the head tied to the embedding.

GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners"); CAB's language model is fairseq's
transformer_lm_gpt. One slot: decoder.self, causal.
"""

from torch import Tensor, nn

from attentions.base import Pattern, Shape, State
from attentions.slots import Slots
from tasks.backbones.embedding import TiedEmbedding
from tasks.backbones.positions import PositionKind, Positions


class GPT(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, vocabulary: int, positions: PositionKind) -> None:
        super().__init__()
        self.embedding = TiedEmbedding(vocabulary, shape.dim)
        self.positions = Positions(positions, shape.length, shape.dim)
        self.stack = slots.stack("decoder", shape, Pattern.CAUSAL_SELF)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, N) to logits (B, N, V) for the token after each, and the auxiliary loss."""
        y, auxiliary = self.stack(self._embed(tokens, 0))
        return self.embedding.logits(y), auxiliary

    def prefill(self, tokens: Tensor) -> tuple[Tensor, State]:
        """The logits of `forward` on a prompt (B, N), and the decoding state."""
        y, state = self.stack.prefill(self._embed(tokens, 0))
        return self.embedding.logits(y), (state, tokens.shape[1])

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits (B, 1, V) after one further token (B, 1)."""
        inner, position = state
        y, inner = self.stack.step(self._embed(token, position), inner)
        return self.embedding.logits(y), (inner, position + 1)

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        return self.positions(self.embedding(tokens), start)  # (B, N, D)
