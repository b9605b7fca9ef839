"""Attention inside clusters, given which token belongs to which cluster. The Routing Transformer uses it.

    windowed_attention   strictly causal: a token sees the last w tokens of its own cluster, itself included
    grouped_attention    every cluster has a group of queries and a group of keys, of fixed size; outputs are averaged
                         over the groups in which a query is, and 0 for a query in none
    assigned_attention   a query belongs to one cluster and sees the fixed group of keys of that cluster

windowed_attention. With the tokens of all sequences and heads sorted by (sequence, head, cluster, position), token p
of the sorted line sees those s with start(p) <= s <= p and p - s < w, where start is the first token of the cluster.
The line is cut into blocks, each of which sees itself and the blocks of one window before it. The cuts between
blocks depend on later tokens, but only the mask decides what a token sees; without p - s < w the cuts would matter, and
leak. Blocks are processed in tiles of bounded size. Scores are kept for the backward up to KEPT times the size of the
output; the others are recomputed. Time O(N log N + N w d), memory O(N d).

The others gather a group of w keys per cluster, or per block of queries: time O(N w d), memory O(N d) for C w ~ N.

Shapes do not depend on the clusters: there is no loop over tokens or clusters, and no synchronisation with the device.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attentions.ops.precision import no_autocast, widened

BLOCK, WIDE_BLOCK = 16, 64
"""Approximate length of blocks on a CPU, where fewer masked scores matter, and on a GPU, where large products do."""
TILE, WIDE_TILE = 1 << 18, 1 << 25
"""Scores computed at a time: what fits the caches of a CPU, and what occupies a GPU."""
KEPT = 2
"""Scores kept for the backward, as a multiple of the size of the output. The others are recomputed."""


def sorted_by_cluster(cluster: Tensor) -> tuple[Tensor, Tensor]:
    """cluster (B, H, N) to the order (B, H, N) that sorts it, positions ascending inside clusters, and, along the
    sorted line, the place at which the cluster of each token begins."""
    ordered, order = cluster.sort(dim=-1, stable=True)
    place = torch.arange(cluster.shape[-1], device=cluster.device)
    first = F.pad(ordered[..., 1:] != ordered[..., :-1], (1, 0), value=True)
    return order, torch.where(first, place, 0).cummax(-1).values


def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cluster: Tensor,
    window: int,
    block: int | None = None,
    tile: int | None = None,
    kept: float = KEPT,
) -> Tensor:
    """q, k, v (B, H, N, d), cluster (B, H, N) to y (B, H, N, d). Scores are scaled by d^-1/2.

    How the work is cut does not change the result: blocks of about `block` tokens, tiles of about `tile` scores (by
    default what suits the device), and `kept` scores for the backward, as a multiple of the size of the output.
    """
    sizes = (WIDE_BLOCK, WIDE_TILE) if q.is_cuda else (BLOCK, TILE)
    block, tile = block or sizes[0], tile or sizes[1]
    order, start = sorted_by_cluster(cluster)
    lines = torch.arange(order.shape[0] * order.shape[1], device=order.device).view(*order.shape[:2], 1)
    start = (lines * order.shape[-1] + start).flatten()
    return _Windowed.apply(q, k, v, flat_rows(order, q.shape[2]), start, min(window, q.shape[2]), block, tile, kept)


def flat_rows(index: Tensor, n: int) -> Tensor:
    """Positions (B, H, ...) in a (B, H, N, d) tensor to the rows of its `as_rows`."""
    batch, heads = index.shape[:2]
    b = torch.arange(batch, device=index.device).view(-1, 1, 1)
    h = torch.arange(heads, device=index.device).view(-1, 1)
    return ((b * n + index.flatten(2)) * heads + h).flatten()


def as_rows(x: Tensor) -> Tensor:
    """(B, H, N, d) to (BNH, d): the order in which projections leave them, so that nothing is copied."""
    return x.transpose(1, 2).reshape(-1, x.shape[-1])


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """(BNH, d) to (B, H, N, d)."""
    batch, heads, n, _ = like.shape
    return rows.view(batch, n, heads, -1).transpose(1, 2)


class _Windowed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Tensor,
        start: Tensor,
        window: int,
        block: int,
        tile_size: int,
        kept_scores: float,
    ) -> Tensor:
        with no_autocast(q):
            line = _Line(rows, start, window, block, tile_size)
            from_q, from_k, from_v = as_rows(q), as_rows(k), as_rows(v)
            ys = line.empty(from_v, 0)
            keep = int(kept_scores * ys.numel()) // (line.block * line.width) if any(ctx.needs_input_grad) else 0
            kept = ys.new_empty(min(keep, line.n), line.block, line.width)
            for tile in line.tiles():
                p = kept[tile] if tile.stop <= len(kept) else None
                p = line.probabilities(line.blocks(from_q, tile), line.windows(from_k, tile), tile, p)
                torch.bmm(p, line.windows(from_v, tile), out=ys[tile])
            y = from_rows(line.unsorted(ys, 0), v).to(v.dtype)
        ctx.save_for_backward(q, k, v, rows, start, y, kept)
        ctx.sizes = window, block, tile_size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rows, start, y, kept = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        with no_autocast(q):
            line = _Line(rows, start, *ctx.sizes)
            from_q, from_k, from_v, from_y, from_g = (as_rows(x) for x in (q, k, v, y, dy))
            dq, dk, dv = (
                line.empty(from_q, 0),
                line.empty(from_k, line.parts).zero_(),
                line.empty(from_v, line.parts).zero_(),
            )
            for tile in line.tiles():
                qs, gs, ks = line.blocks(from_q, tile), line.blocks(from_g, tile), line.windows(from_k, tile)
                p = kept[tile] if tile.stop <= len(kept) else line.probabilities(qs, ks, tile)
                line.add_windows(dv, p, gs, tile)
                delta = line.blocks(from_y, tile).mul_(gs).sum(-1, keepdim=True)  # (t, b, 1)
                ds = torch.baddbmm(delta, gs, line.windows(from_v, tile).mT, beta=-1).mul_(p)  # (t, b, W)
                line.add_windows(dk, ds, qs, tile, scale)
                torch.baddbmm(dq[tile], ds, ks, beta=0, alpha=scale, out=dq[tile])
            dq = line.unsorted(dq, 0).to(q.dtype)
            dk = line.unsorted(dk, line.parts).to(k.dtype)
            dv = line.unsorted(dv, line.parts).to(v.dtype)
        return from_rows(dq, q), from_rows(dk, k), from_rows(dv, v), None, None, None, None, None, None


class _Line:
    """All tokens in sorted order, in n blocks of b; the windows of keys, of W = (parts + 1) b, begin `parts` blocks
    before the first one. A tile is some blocks."""

    def __init__(self, rows: Tensor, start: Tensor, window: int, block: int, tile: int) -> None:
        self.tile = tile
        self.parts = max(1, round(window / block))
        self.block = -(-window // self.parts)
        self.width = (self.parts + 1) * self.block
        self.count = len(rows)
        self.n = -(-self.count // self.block)
        before, rest = self.parts * self.block, self.n * self.block - self.count
        self.index = F.pad(rows, (before, rest))  # in places without a token any row will do
        place = torch.arange(self.count, device=rows.device)
        self.inverse = torch.empty_like(rows).scatter_(0, rows, place)
        first = torch.maximum(start, place - window + 1)  # the first one that each token sees
        first = F.pad(first, (0, rest), value=self.count - 1).view(self.n, self.block)
        base = torch.arange(self.n, device=rows.device).unsqueeze(-1) * self.block - before
        self.first = (first - base).int().unsqueeze(-1)  # (n, b, 1), in its window
        key = torch.arange(self.width, device=rows.device, dtype=torch.int32)
        later = key > key[before:].unsqueeze(-1)
        self.key = key.masked_fill(later, -1)  # (b, W), before any `first` where a key comes later than the query

    def tiles(self) -> list[slice]:
        step = max(1, self.tile // (self.block * self.width))
        return [slice(i, min(i + step, self.n)) for i in range(0, self.n, step)]

    def empty(self, rows: Tensor, before: int) -> Tensor:
        """(n + before, b, d), float32 or wider."""
        dtype = torch.promote_types(rows.dtype, torch.float32)
        return rows.new_empty(self.n + before, self.block, rows.shape[-1], dtype=dtype)

    def blocks(self, rows: Tensor, tile: slice) -> Tensor:
        """Rows (BNH, d) to (t, b, d), 0 after the end."""
        stop = (tile.stop + self.parts) * self.block
        blocks = widened(rows.index_select(0, self.index[(tile.start + self.parts) * self.block : stop]))
        if tile.stop == self.n:
            blocks[self.count - tile.start * self.block :].zero_()
        return blocks.view(-1, self.block, rows.shape[-1])

    def windows(self, rows: Tensor, tile: slice) -> Tensor:
        """Rows (BNH, d) to (t, W, d), where windows overlap in memory."""
        stop = (tile.stop + self.parts) * self.block
        line = widened(rows.index_select(0, self.index[tile.start * self.block : stop]))
        dim = line.shape[-1]
        return line.as_strided((tile.stop - tile.start, self.width, dim), (self.block * dim, dim, 1))

    def probabilities(self, q: Tensor, k: Tensor, tile: slice, out: Tensor | None = None) -> Tensor:
        """Queries (t, b, d) and windows of keys (t, W, d) to (t, b, W)."""
        scores = q.new_empty(len(q), self.block, self.width)
        torch.baddbmm(scores, q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5, out=scores)
        return torch.softmax(scores.masked_fill_(self.key < self.first[tile], -torch.inf), -1, out=out)

    def add_windows(self, total: Tensor, weights: Tensor, x: Tensor, tile: slice, scale: float = 1) -> None:
        """Adds scale weights^T x, for weights (t, b, W), x (t, b, d), to total (n + parts, b, d), window by window."""
        for part in range(self.parts + 1):
            to = total[tile.start + part : tile.stop + part]
            each = weights[..., part * self.block : (part + 1) * self.block].mT
            torch.baddbmm(to, each, x, alpha=scale, out=to)

    def unsorted(self, line: Tensor, before: int) -> Tensor:
        """(n + before, b, d) to rows (BNH, d), without the first `before` blocks."""
        return line[before:].flatten(0, 1).index_select(0, self.inverse)


def top_tokens(scores: Tensor, valid: Tensor | None, window: int) -> tuple[Tensor, Tensor | None]:
    """The `window` best valid tokens of every cluster: scores (B, H, C, N), valid (B, N) to (B, H, C, w), and which of
    them are valid, None if all are: where there are too few, padding fills up the end."""
    if valid is not None:
        valid = valid[:, None, None].expand_as(scores)
        scores = scores.masked_fill(~valid, -torch.inf)
    index = scores.topk(min(window, scores.shape[-1]), dim=-1).indices
    return index, None if valid is None else valid.gather(-1, index)


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """x (B, H, N, d) at index (B, H, ...) to (B, H, ..., d)."""
    return as_rows(x).index_select(0, flat_rows(index, x.shape[2])).view(*index.shape, -1)


def read(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax attention in groups: q (B, H, G, n, d), k, v (B, H, G, w, d), visible (B, H, G, 1 or n, w), to
    (B, H, G, n, d), 0 where nothing is visible."""
    shape = q.shape
    q, k, v = q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)  # (B, HG, ., d)
    if visible is None:
        return F.scaled_dot_product_attention(q, k, v).view(shape)
    some = visible.any(-1, keepdim=True)
    mask = (visible | ~some).flatten(1, 2)  # softmax of nothing is not defined
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).view(shape) * some


def grouped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_group: tuple[Tensor, Tensor | None],
    k_group: tuple[Tensor, Tensor | None],
    causal: bool = False,
) -> Tensor:
    """q (B, H, N, d), k, v (B, H, M, d) and the groups of `top_tokens` to y (B, H, N, d): the mean over the groups of
    each query. `causal` compares positions inside groups."""
    (q_index, q_valid), (k_index, k_valid) = q_group, k_group
    visible = None if k_valid is None else k_valid.unsqueeze(-2)
    if causal:
        earlier = k_index.unsqueeze(-2) <= q_index.unsqueeze(-1)  # (B, H, C, w, w)
        visible = earlier if visible is None else earlier & visible
    y = read(rows_of(q, q_index), rows_of(k, k_index), rows_of(v, k_index), visible)  # (B, H, C, w, d)
    rows = flat_rows(q_index, q.shape[2])
    here = torch.ones_like(rows) if q_valid is None else q_valid.flatten().long()
    y = widened(y.reshape(-1, y.shape[-1])) * here.unsqueeze(-1)
    count = here.new_zeros(q.shape[:3].numel()).index_add(0, rows, here)  # (BNH,)
    total = y.new_zeros(len(count), y.shape[-1]).index_add(0, rows, y)
    return from_rows((total / count.clamp(min=1).unsqueeze(-1)).to(q.dtype), q)


def assigned_attention(
    q: Tensor, k: Tensor, v: Tensor, cluster: Tensor, k_group: tuple[Tensor, Tensor | None]
) -> Tensor:
    """q (B, H, N, d) of one cluster each, (B, H, N), k, v (B, H, M, d) and the groups of `top_tokens` to (B, H, N, d).

    The queries of every cluster are cut into blocks of w, the last one not full: never more than N / w + C blocks,
    whatever the clusters are, and each block gathers the keys of its cluster.
    """
    index, valid = k_group
    n, clusters, block = q.shape[2], index.shape[2], index.shape[3]
    blocks = min(n, n // block + clusters)
    sizes = torch.zeros_like(index[..., 0]).scatter_add(-1, cluster, torch.ones_like(cluster))  # (B, H, C)
    end = (sizes + block - 1).div(block, rounding_mode="floor").cumsum(-1)  # of the blocks of each cluster
    order, start = sorted_by_cluster(cluster)
    place = torch.arange(n, device=q.device)
    first = F.pad(end[..., :-1], (1, 0)).gather(-1, cluster.gather(-1, order))
    sorted_slot = first * block + place - start  # (B, H, N), along the sorted line
    slot = torch.zeros_like(sorted_slot).scatter(-1, order, sorted_slot)
    token = slot.new_zeros(*slot.shape[:2], blocks * block).scatter(-1, sorted_slot, order)  # token 0 in empty slots
    each = torch.arange(blocks, device=q.device).unsqueeze(-1)
    cluster_of = (end.unsqueeze(-2) <= each).sum(-1).clamp(max=clusters - 1)  # (B, H, blocks)
    chosen = cluster_of.unsqueeze(-1).expand(-1, -1, -1, block)
    index = index.gather(2, chosen)  # (B, H, blocks, w)
    visible = None if valid is None else valid.gather(2, chosen).unsqueeze(-2)
    y = read(rows_of(q, token.view(*index.shape)), rows_of(k, index), rows_of(v, index), visible)
    return rows_of(y.flatten(2, 3), slot)


def last_tokens(cluster: Tensor, clusters: int, window: int) -> tuple[Tensor, Tensor]:
    """cluster (B, H, N) to the last `window` tokens of each cluster, (B, H, C, w), as they lie in a ring: number r of a
    cluster at place r mod w, token 0 where there is none; and how many tokens each cluster has, (B, H, C)."""
    counts = cluster.new_zeros(*cluster.shape[:2], clusters)
    counts = counts.scatter_add(-1, cluster, torch.ones_like(cluster))
    order, start = sorted_by_cluster(cluster)
    ordered = cluster.gather(-1, order)
    rank = torch.arange(cluster.shape[-1], device=cluster.device) - start
    last = rank >= counts.gather(-1, ordered) - window
    slot = torch.where(last, ordered * window + rank % window, clusters * window)  # the others share the last slot
    index = cluster.new_zeros(*cluster.shape[:2], clusters * window + 1).scatter(-1, slot, order)
    return index[..., :-1].unflatten(-1, (clusters, window)), counts


class Groups(NamedTuple):
    """What routing heads keep while decoding: (B, H, C, w, d), the last w keys and values of every cluster, in a ring,
    and how many there have been, (B, H, C). In cross patterns the memory's groups, which stay as they are."""

    k: Tensor
    v: Tensor
    counts: Tensor

    def read(self, q: Tensor, cluster: Tensor) -> Tensor:
        """q (B, H, 1, d) of one cluster each, (B, H, 1), to (B, H, 1, d)."""
        window, dim = self.k.shape[-2:]
        chosen = cluster[..., None, None].expand(-1, -1, -1, window, dim)
        k, v = (x.gather(2, chosen) for x in (self.k, self.v))  # (B, H, 1, w, d)
        visible = torch.arange(window, device=q.device) < self.counts.gather(2, cluster)[..., None, None]
        return read(q.unsqueeze(2), k.to(q.dtype), v.to(q.dtype), visible).squeeze(2)

    def put(self, k: Tensor, v: Tensor, cluster: Tensor) -> None:
        """k, v (B, H, 1, d), cluster (B, H, 1)."""
        window, dim = self.k.shape[-2:]
        place = cluster * window + self.counts.gather(2, cluster) % window
        place = place.unsqueeze(-1).expand(-1, -1, -1, dim)
        for ring, x in ((self.k, k), (self.v, v)):
            ring.flatten(2, 3).scatter_(2, place, x.to(ring.dtype))
        self.counts.scatter_add_(2, cluster, torch.ones_like(cluster))
