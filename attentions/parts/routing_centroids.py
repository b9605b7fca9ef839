"""Centroids of the Routing Transformer (see attentions/routing.py): scores, statistics that move them, their loss."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attentions.base import no_loss
from attentions.ops.clustered import as_rows, from_rows
from attentions.ops.precision import no_autocast, widened

SMOOTHING = 1e-5
APART = 0.1
"""Half the distance between a dead centroid that was moved and the full one beside it, in units of their norm."""


def normed(x: Tensor) -> Tensor:
    """LN without scale and bias, (B, H, N, d), float32 or wider."""
    with no_autocast(x):
        return F.layer_norm(widened(x).transpose(1, 2), x.shape[-1:]).transpose(1, 2)


class Centroids(nn.Module):
    """C centroids per head, and the statistics that move them."""

    centroids: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, heads: int, clusters: int, dim: int, decay: float, commitment: float, dead: float) -> None:
        super().__init__()
        self.clusters, self.decay, self.commitment, self.dead = clusters, decay, commitment, dead
        start = F.layer_norm(torch.randn(heads, clusters, dim), (dim,))
        self.register_buffer("centroids", start)  # (H, C, d)
        self.register_buffer("sums", start.clone())  # (H, C, d), moving sums of normed vectors
        self.register_buffer("counts", torch.ones(heads, clusters))  # (H, C), moving counts
        self.accumulated: tuple[Tensor, Tensor] | None = None  # sums and counts since the last step
        self.last_counts: Tensor | None = None  # counts of the last training forward

    @torch.no_grad()
    def scores(self, x: Tensor) -> Tensor:
        """Normed x (B, H, N, d) to (B, H, C, N)."""
        with no_autocast(x):
            directions = F.normalize(self.centroids.to(x.dtype), dim=-1)
            return (directions @ _by_head(x).mT).unflatten(-1, (x.shape[0], -1)).permute(2, 0, 1, 3)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """Normed x (B, H, N, d) to (B, H, N)."""
        with no_autocast(x):
            directions = F.normalize(self.centroids.to(x.dtype), dim=-1)
            best = (_by_head(x) @ directions.mT).max(-1).indices  # (H, BN)
            return best.unflatten(-1, (x.shape[0], -1)).transpose(0, 1)

    def observe(self, x: Tensor, nearest: Tensor, valid: Tensor | None) -> Tensor:
        """In training: adds to the statistics of the next step, and returns the commitment loss, a scalar."""
        with no_autocast(x), torch.no_grad():
            points, index = _by_head(x), nearest.transpose(0, 1).flatten(1)  # (H, BN, d), (H, BN)
            weight = points.new_ones(1) if valid is None else valid.flatten().to(points.dtype)
            member = points.new_zeros(*index.shape, self.clusters)
            member.scatter_(-1, index.unsqueeze(-1), weight.expand_as(index).unsqueeze(-1))  # (H, BN, C)
            sums, counts = member.mT @ points, member.sum(1)
        self.last_counts = counts if self.last_counts is None else self.last_counts + counts
        if self.accumulated is None:
            self.accumulated = sums, counts
        else:
            self.accumulated = self.accumulated[0] + sums, self.accumulated[1] + counts
        if not self.commitment:
            return no_loss(x)
        return self.commitment * _Commitment.apply(x, self.centroids.to(x.dtype), nearest, valid, sums, counts)

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages and the centroids by what was accumulated."""
        if self.accumulated is None:
            return
        sums, counts = self.accumulated
        self.accumulated = None
        self.sums.lerp_(sums.to(self.sums.dtype), 1 - self.decay)
        self.counts.lerp_(counts.to(self.counts.dtype), 1 - self.decay)
        self._revive()
        total = self.counts.sum(-1, keepdim=True)
        smoothed = (self.counts + SMOOTHING) / (total + self.clusters * SMOOTHING) * total
        self.centroids.copy_(self.sums / smoothed.unsqueeze(-1))

    def _revive(self) -> None:
        """Splits the fullest clusters. The emptiest clusters are paired with the fullest; if one is dead, it and its
        partner m become m + a and m - a, with half of the partner's count each. The offset a is orthogonal to m, so
        that the border runs through the middle of the full cluster, and has the direction of the dead centroid."""
        half = self.clusters // 2
        counts, order = self.counts.sort(dim=-1, stable=True)
        low, high = order[:, :half], order.flip(-1)[:, :half]
        dead = counts[:, :half] < self.dead * counts.mean(-1, keepdim=True)  # (H, half)
        pick = torch.arange(len(order), device=order.device).unsqueeze(-1)
        mass = self.counts[pick, high].unsqueeze(-1) / 2  # (H, half, 1)
        full = self.sums[pick, high] / (2 * mass)  # (H, half, d)
        along = F.normalize(full, dim=-1)
        side = self.sums[pick, low]
        side = F.normalize(side - (side * along).sum(-1, keepdim=True) * along, dim=-1)
        side = side * full.norm(dim=-1, keepdim=True) * APART
        moved = dead.unsqueeze(-1)
        for index, place in ((low, full + side), (high, full - side)):
            self.sums[pick, index] = torch.where(moved, place * mass, self.sums[pick, index])
            self.counts[pick, index] = torch.where(dead, mass.squeeze(-1), self.counts[pick, index])


class _Commitment(torch.autograd.Function):
    """mean |x_i - mu_c(i)|^2 over real tokens, from the sums and counts of each cluster. Gradient to x only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centroids: Tensor, nearest: Tensor, valid: Tensor | None, sums: Tensor, counts: Tensor
    ) -> Tensor:
        total = counts.sum().clamp(min=1)
        ctx.save_for_backward(x, centroids, nearest, valid, total)
        own = torch.linalg.vector_norm(x if valid is None else x * valid[:, None, :, None]).square()
        return (own + (centroids * (counts.unsqueeze(-1) * centroids - 2 * sums)).sum()) / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, centroids, nearest, valid, total = ctx.saved_tensors
        heads = torch.arange(len(centroids), device=x.device) * centroids.shape[1]
        rows = (nearest.transpose(1, 2) + heads).flatten()
        dx = centroids.flatten(0, 1).index_select(0, rows).sub_(as_rows(x)).mul_(-2 * grad / total)
        dx = from_rows(dx, x)
        return dx if valid is None else dx.masked_fill(~valid[:, None, :, None], 0), None, None, None, None, None


def _by_head(x: Tensor) -> Tensor:
    """(B, H, N, d) to (H, BN, d)."""
    return x.detach().transpose(0, 1).flatten(1, 2)
