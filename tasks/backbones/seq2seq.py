"""The Transformer encoder-decoder over tokens, pre-norm, one embedding for source, target and head.

Vaswani et al. 2017, arXiv 1706.03762; CAB's summarization network is one of 6 + 6 layers. The published one is
post-norm, has dropout and ReLU; here it is pre-norm with GELU and without dropout, as everywhere.

Slots: encoder.self, noncausal; decoder.self, causal, and decoder.cross, causal, in one stack. The design length of the
encoder is `shape.memory`, that of the decoder `shape.length`.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from attentions.base import Pattern, Shape, State
from attentions.slots import Slots
from tasks.backbones.embedding import TiedEmbedding
from tasks.backbones.positions import PositionKind, Positions


class Seq2Seq(nn.Module):
    def __init__(self, slots: Slots, shape: Shape, vocabulary: int, positions: PositionKind) -> None:
        super().__init__()
        self.embedding = TiedEmbedding(vocabulary, shape.dim)
        self.source_positions = Positions(positions, shape.memory, shape.dim)
        self.target_positions = Positions(positions, shape.length, shape.dim)
        source = replace(shape, length=shape.memory, memory=0)
        self.encoder = slots.stack("encoder", source, Pattern.NONCAUSAL_SELF)
        self.decoder = slots.stack("decoder", shape, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS)

    def forward(
        self, source: Tensor, source_valid: Tensor, target: Tensor, target_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """source (B, M) and target (B, N), to logits (B, N, V) for the token after each, and the auxiliary loss."""
        memory, auxiliary = self._encode(source, source_valid)
        y, more = self.decoder(self._embed_target(target, 0), memory, target_valid, source_valid)
        return self.embedding.logits(y), auxiliary + more

    def prefill(self, source: Tensor, source_valid: Tensor, target: Tensor) -> tuple[Tensor, State]:
        """The logits of `forward` on prompts (B, N) without padding, and the decoding state."""
        memory, _ = self._encode(source, source_valid)
        y, state = self.decoder.prefill(self._embed_target(target, 0), memory, source_valid)
        return self.embedding.logits(y), (state, target.shape[1])

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """The logits (B, 1, V) after one further token (B, 1)."""
        inner, position = state
        y, inner = self.decoder.step(self._embed_target(token, position), inner)
        return self.embedding.logits(y), (inner, position + 1)

    def _encode(self, source: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(self.source_positions(self.embedding(source)), None, valid)

    def _embed_target(self, tokens: Tensor, start: int) -> Tensor:
        return self.target_positions(self.embedding(tokens), start)  # (B, N, D)


def greedy(
    model: Seq2Seq, source: Tensor, source_valid: Tensor, separator: int, longest: int, least: int = 0
) -> Tensor:
    """Greedy decoding from a separator to the next one: (B, n), n <= `longest`.

    No row ends before `least` tokens; after its end a row has separators.
    """
    token = source.new_full((len(source), 1), separator)
    logits, state = model.prefill(source, source_valid, token)
    ended = torch.zeros_like(token, dtype=torch.bool)
    tokens: list[Tensor] = []
    while True:
        if len(tokens) < least:
            logits[..., separator] = -torch.inf
        token = logits[:, -1].argmax(-1, keepdim=True).masked_fill(ended, separator)
        tokens.append(token)
        ended |= token == separator
        if len(tokens) == longest or ended.all():
            return torch.cat(tokens, 1)
        logits, state = model.step(token, state)
