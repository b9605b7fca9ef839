"""No attention: the sublayer adds nothing, and tokens do not see each other. A control, not a method.

It shows what a task scores without token mixing at equal parameters (the feed-forward is wider). It fails the
dependence check by construction and is benchmarked nevertheless.
"""

import torch
from torch import Tensor

from attentions.base import Attention, Pattern, State, check_causal, check_memory, no_loss


class NoAttention(Attention):
    support = dict.fromkeys(Pattern, "extension")
    control = True

    def forward(
        self, x: Tensor, memory: Tensor | None = None, valid: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        check_memory(self.pattern, memory)
        return torch.zeros_like(x), no_loss(x)

    def prefill(
        self, x: Tensor, memory: Tensor | None = None, memory_valid: Tensor | None = None
    ) -> tuple[Tensor, State]:
        check_causal(self.pattern)
        check_memory(self.pattern, memory)
        return torch.zeros_like(x), None

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.zeros_like(x_t), None

    def state_size(self, n: int, m: int = 0) -> int:
        return 0
