"""What the references share: masks, and projections to and from heads."""

import torch
from torch import Tensor, nn


def some_valid(lengths: list[int], n: int) -> Tensor:
    """(B, n): the first `length` tokens of each row are real."""
    return torch.arange(n) < torch.tensor(lengths).unsqueeze(1)


def heads(x: Tensor, linear: nn.Linear, count: int) -> Tensor:
    """(B, N, D) through a weight to (B, H, N, d)."""
    y = torch.einsum("bnd,ed->bne", x, linear.weight)
    return torch.stack(y.chunk(count, dim=-1), dim=1)


def merged(o: Tensor) -> Tensor:
    """(B, H, N, d) to (B, N, D)."""
    return torch.cat(o.unbind(1), dim=-1)


PLACES = ({}, {"rotary": True}, {"rotary": True, "qk_norm": True, "conv": 4})
"""Parts of a Shape: positions in the input; left to the attention; with a norm on q and k and a convolution too."""
