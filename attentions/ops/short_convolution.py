"""A short depthwise convolution as a residual of its own: x <- x + conv(norm(x)).

The Canon layers of Allen-Zhu 2025 ("Physics of Language Models: Part 4.1", arXiv 2512.17351) in their simplest form:
linear, without bias. Token t sees t - w + 1 .. t in causal patterns and t - w / 2 .. t + (w - 1) / 2 in others.
Time and memory O(N D w); decoding keeps the last w - 1 inputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import State


class ShortConvolution(nn.Module):
    def __init__(self, dim: int, width: int, causal: bool) -> None:
        super().__init__()
        self.width = width
        self.before = width - 1 if causal else width // 2
        """Tokens to the left that are seen."""
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.empty(dim, width).uniform_(-(width**-0.5), width**-0.5))  # as Conv1d

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, N, D) to the same shape; padding is seen as 0."""
        inner = self.norm(x)
        if valid is not None:
            inner = inner.masked_fill(~valid.unsqueeze(-1), 0)
        return x + self._convolved(F.pad(inner, (0, 0, self.before, self.width - 1 - self.before)))

    def prefill(self, x: Tensor) -> tuple[Tensor, State]:
        """The outputs for a prompt, and the state after it: the last w - 1 normed inputs (B, w - 1, D)."""
        inner = F.pad(self.norm(x), (0, 0, self.before, 0))
        return x + self._convolved(inner), inner[:, inner.shape[1] - self.before :].clone()

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Further tokens x (B, n, D)."""
        inner = torch.cat([state, self.norm(x)], 1)
        state.copy_(inner[:, inner.shape[1] - self.before :])
        return x + self._convolved(inner), state

    def state_size(self) -> int:
        return self.before * self.weight.shape[0]

    def _convolved(self, inner: Tensor) -> Tensor:
        """(B, N + w - 1, D) to (B, N, D)."""
        image = inner.unsqueeze(1).permute(0, 3, 1, 2)  # (B, D, 1, N): conv2d is several times faster than conv1d here
        return F.conv2d(image, self.weight[:, None, None], groups=len(self.weight)).squeeze(2).mT
