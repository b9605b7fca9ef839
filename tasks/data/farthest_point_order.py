"""Farthest point order: every next point is the one farthest from all before it, so that any prefix is spread out.

Eldar et al. 1997, "The farthest point strategy for progressive image sampling"; PointNet++ (Qi et al. 2017, arXiv
1706.02413) samples point clouds by it. A prefix of a cloud in this order is what sampling that many points gives, also
when it is sampled again: a network that wants fewer and fewer points takes slices. Time O(N^2), memory O(N) per cloud.
"""

import numpy as np


def farthest_order(points: np.ndarray) -> np.ndarray:
    """Indices (B, N) of points (B, N, 3), each cloud from its first point on."""
    clouds, count, _ = points.shape
    axes = np.ascontiguousarray(points.transpose(0, 2, 1))  # (B, 3, N)
    rows = np.arange(clouds)
    distance = np.full((clouds, count), np.inf, points.dtype)
    order = np.empty((clouds, count), np.int64)
    last = np.zeros(clouds, np.int64)
    for place in range(count):
        order[:, place] = last
        difference = axes - axes[rows, :, last][:, :, None]
        np.minimum(distance, np.einsum("bcn,bcn->bn", difference, difference), out=distance)
        distance[rows, last] = -1  # below that of a copy of it: no point comes twice
        last = distance.argmax(1)
    return order
