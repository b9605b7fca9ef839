"""Token embeddings that are tied to the output head.

Standard deviation D^-1/2, scaled by D^1/2 on the way in (Vaswani et al. 2017, arXiv 1706.03762, section 3.4), so that
inputs and logits both start at size 1, at any width (except the logit of the input token, which starts larger).
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F


class TiedEmbedding(nn.Embedding):
    def __init__(self, vocabulary: int, dim: int) -> None:
        super().__init__(vocabulary, dim)
        self.scale = math.sqrt(dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N) to (B, N, D)."""
        return super().forward(tokens) * self.scale

    def logits(self, y: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, N, D) to (B, N, V)."""
        return F.linear(y, self.weight, bias)
