"""Neighbours in space, and the graph convolutions that turn points into proxies.

An edge convolution (DGCNN, Wang et al. 2019, arXiv 1801.07829) of a point i with the features x of its k nearest

    y_i = max_j act(W [x_j - x_i ; x_i] + b) = act(max_j U x_j + V x_i + b)

because the rectifier is monotone: two maps of points and a maximum, instead of a map of k times as many edges. PoinTr
has a group norm before the rectifier, over each cloud and a quarter of the features; here it is after the maximum.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.ops.decayed_linear import no_autocast

SLOPE = 0.2
"""Of the leaky rectifiers, as published."""
NEIGHBOURS = 16
"""Of an edge convolution."""
NORM_GROUPS = 4
ENTRIES = {"cpu": 2**21, "other": 2**26}
"""Entries of a table of distances that are computed at once."""
WIDTHS = (8, 32, 64, 64, 128)
"""Features of a point, then after each edge convolution."""


def comparison_factors(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Factors (B, N, 4) and (B, 4, M) whose product is |p - o|^2 - |p|^2, which orders the others o by distance."""
    left = torch.cat([-2 * points, torch.ones_like(points[..., :1])], -1)
    return left, torch.cat([others, others.square().sum(-1, keepdim=True)], -1).mT.contiguous()


def rows_at_once(points: Tensor, others: Tensor) -> int:
    """How many points (B, N, 3) are compared with the others (B, M, 3) at once, to bound the table of distances."""
    entries = ENTRIES["cpu" if points.device.type == "cpu" else "other"]
    return max(1, entries // (len(points) * others.shape[1]))


@torch.no_grad()
def neighbours(centres: Tensor, points: Tensor, count: int) -> Tensor:
    """The indices of the nearest of points (B, M, 3) to centres (B, N, 3): (B, N, count), unordered."""
    with no_autocast(points):
        left, right = comparison_factors(centres, points)
        parts = left.split(rows_at_once(centres, points), 1)
        return torch.cat([(part @ right).topk(count, largest=False, sorted=False).indices for part in parts], 1)


def neighbour_maximum(x: Tensor, near: Tensor) -> Tensor:
    """The maximum of x (B, M, C) over the indices `near` (B, N, k): (B, N, C).

    The maximum is found without gradients and then gathered, so that the backward pass is k times smaller.
    """
    with torch.no_grad():
        rows = near + x.shape[1] * torch.arange(len(x), device=x.device).view(-1, 1, 1)
        winner = F.embedding(rows, x.flatten(0, 1)).max(2).indices
        places = near.gather(2, winner)  # (B, N, C)
    return x.gather(1, places)


class EdgeConvolution(nn.Module):
    """x (B, M, C), of which the first N points are kept, to (B, N, E)."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.other = nn.Linear(features, out, bias=False)
        self.own = nn.Linear(features, out)
        self.norm = nn.GroupNorm(NORM_GROUPS, out)

    def forward(self, x: Tensor, near: Tensor) -> Tensor:
        y = neighbour_maximum(self.other(x), near) + self.own(x[:, : near.shape[1]])
        return F.leaky_relu(self.norm(y.mT).mT, SLOPE)


class Grouping(nn.Module):
    """Points (B, N, 3) in farthest point order to features (B, proxies, 128) of the first of them.

    Four edge convolutions: on all points, down to four per proxy, on those, down to the proxies.
    """

    def __init__(self, proxies: int) -> None:
        super().__init__()
        self.proxies = proxies
        self.start = nn.Linear(3, WIDTHS[0])
        self.layers: Sequence[EdgeConvolution] = nn.ModuleList(  # type: ignore[assignment]
            EdgeConvolution(before, after) for before, after in pairwise(WIDTHS)
        )

    def forward(self, points: Tensor) -> Tensor:
        first, second, third, fourth = self.layers
        some = points[:, : 4 * self.proxies]
        with no_autocast(points):  # in bfloat16 neighbours could not be told apart
            x = self.start(points)
        near = neighbours(points, points, NEIGHBOURS)
        x = second(first(x, near), near[:, : some.shape[1]])
        near = neighbours(some, some, NEIGHBOURS)
        return fourth(third(x, near), near[:, : self.proxies])
