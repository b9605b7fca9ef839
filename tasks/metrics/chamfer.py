"""Chamfer distances and F-score of point cloud completion.

With d(p, Y) the distance of p from the nearest point of Y, for a completed cloud X and a true one Y, as PCN (Yuan et
al. 2018, arXiv 1808.00671) and PoinTr (arXiv 2108.08839) report them:

    CD-L1 = (mean_x d(x, Y) + mean_y d(y, X)) / 2        CD-L2 = mean_x d(x, Y)^2 + mean_y d(y, X)^2
    F = 2 P R / (P + R),  P = share of x with d(x, Y) < t,  R = share of y with d(y, X) < t

F-score: Tatarchenko et al. 2019, arXiv 1905.03678. t = 0.01, an absolute distance: 1% of the unit, which is the
diagonal of the bounding box of a shape in the data here and in PCN's.

The nearest points are found in chunks, without the complete (N, M) table; gradients go through the distances only. Time
O(N M), memory O(N + M).
"""

import torch
from torch import Tensor

from attentions.ops.decayed_linear import no_autocast
from tasks.backbones.pointops import comparison_factors, rows_at_once

THRESHOLD = 0.01


@torch.no_grad()
def nearest(points: Tensor, others: Tensor) -> Tensor:
    """The index of the nearest of others (B, M, 3) to each of the points (B, N, 3): (B, N)."""
    with no_autocast(points):
        left, right = comparison_factors(points, others)
        parts = left.split(rows_at_once(points, others), 1)
        return torch.cat([(part @ right).min(2).indices for part in parts], 1)


def distances(points: Tensor, others: Tensor) -> Tensor:
    """The distance of each of the points (B, N, 3) to the nearest of the others (B, M, 3): (B, N)."""
    index = nearest(points, others).unsqueeze(-1).expand(-1, -1, 3)
    return torch.linalg.vector_norm(points - others.gather(1, index), dim=-1)


def chamfer_l1(points: Tensor, truth: Tensor) -> Tensor:
    """CD-L1 of each pair of clouds, (B,), in the unit of the data."""
    return (distances(points, truth).mean(1) + distances(truth, points).mean(1)) / 2


def scores(points: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The three scores of each pair of clouds, (B,) float64; Chamfer distances times 1000, the F-score in [0, 1]."""
    points, truth = points.double(), truth.double()
    there, back = distances(points, truth), distances(truth, points)
    precision, recall = ((d < THRESHOLD).double().mean(1) for d in (there, back))
    return {
        "cd_l1": 1000 * (there.mean(1) + back.mean(1)) / 2,
        "cd_l2": 1000 * (there.square().mean(1) + back.square().mean(1)),
        "f_score": 2 * precision * recall / (precision + recall).clamp(min=1e-12),
    }
