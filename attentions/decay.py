"""Linear attention with a fixed exponential decay per head, in block form, with its own backward.

    y_t = sum_{s <= t} lam^(t-s) (q_t . k_s) v_s    and, in both directions,    y_t = sum_s lam^|t-s| (q_t . k_s) v_s

with lam = exp(-slope). The sequence is cut into blocks of C tokens. Inside a block the scores are written out:
(Q K^T . M) V with M_ij = lam^(i-j). Between blocks everything goes through a d x d state: every block is summed up as
X_j = sum_i lam^(C-1-i) k_i v_i^T, a scan gives the state before each block, S_j = sum_{m<j} lam^(C (j-1-m)) X_m, and
token i of block j receives lam^(i+1) q_i^T S_j. The other direction is the same, mirrored.

The backward is the same operator with its roles exchanged (the transpose of a decay to the right is one to the left):
dq = op(dy, v, k), dk = op'(v, dy, q), dv = op'(k, q, dy). The three share the scores and the states; states are kept
from the forward, scores are made again.

Every factor is exp of something <= 0, relative to a block or to a group of the scan: nothing overflows, and what
underflows is far away. All sums are in float32 or wider. Time O(N d (C + d)), memory O(N d (1 + d / C)).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

GROUP = 16
"""Blocks in a group of the scan: one small matrix within each group, one sum of each group for the next level."""
NEGLIGIBLE = 1e-35
"""Decays below are taken as 0: products with subnormal numbers are slow."""


def decayed_attention(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, block: int, both: bool = False
) -> tuple[Tensor, Tensor]:
    """q, k (B, H, N, d), v (B, H, N, e), slope (H,) to y (B, H, N, e) and the state (B, H, d, e) after the last token.

    Both are float32 or wider. With `both`, later tokens count as earlier ones do; the state is of the left-to-right
    direction either way, and no gradient flows through it.
    """
    return _DecayedAttention.apply(q, k, v, slope, min(block, q.shape[2]), both)


class _DecayedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, block: int, both: bool
    ) -> tuple[Tensor, Tensor]:
        with no_autocast(q):
            qb, kb, vb = (_blocks(x, block) for x in (q, k, v))  # (B, H, n, C, d) each
            slopes = slope.to(qb.dtype).view(-1, 1, 1, 1)  # (H, 1, 1, 1)
            y = torch.bmm(_scores(qb, kb, _within(slopes, block, both)), _flat(vb))  # (BHn, C, e)
            states = []
            for backwards, key_decay, query_decay in _directions(slopes, block, both):
                sums = torch.bmm(_flat(kb * key_decay).mT, _flat(vb))  # (BHn, d, e)
                states.append(_scan(sums.view(*kb.shape[:3], -1), slopes * block, backwards))  # (B, H, n, de)
                before = states[-1].reshape(sums.shape)
                torch.baddbmm(y, _flat(qb * query_decay), before, out=y)
            last = _last_state(k, v, states[0], slopes, block)
        ctx.save_for_backward(q, k, v, slope, *states)
        ctx.block, ctx.both = block, both
        ctx.mark_non_differentiable(last)
        return _tokens(y, vb, q.shape[2]), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, slope, *states = ctx.saved_tensors
        block, both = ctx.block, ctx.both
        with no_autocast(q):
            qb, kb, vb, gb = (_blocks(x, block) for x in (q, k, v, dy))
            slopes = slope.to(qb.dtype).view(-1, 1, 1, 1)
            dq = dk = dv = None
            for state, (backwards, key_decay, query_decay) in zip(
                states, _directions(slopes, block, both), strict=True
            ):
                scaled = _flat(gb * query_decay)  # (BHn, C, e)
                sums = torch.bmm(_flat(qb).mT, scaled)  # (BHn, d, e)
                after = _scan(sums.view(state.shape), slopes * block, not backwards).reshape(sums.shape)
                before = state.reshape(sums.shape)
                del sums
                dq = _add_product(dq, scaled, before.mT)
                del scaled
                dk = _add_product(dk, _flat(vb * key_decay), after.mT)
                dv = _add_product(dv, _flat(kb * key_decay), after)
                del after
            decay = _within(slopes, block, both)
            scores = _scores(qb, kb, decay)  # (BHn, C, C)
            dv = _add_product(dv, scores.mT, _flat(gb))
            scores = _scores(gb, vb, decay, out=scores)
            dq = _add_product(dq, scores, _flat(kb))
            dk = _add_product(dk, scores.mT, _flat(qb))
        n = q.shape[2]
        return (
            _tokens(dq, qb, n).to(q.dtype),
            _tokens(dk, kb, n).to(k.dtype),
            _tokens(dv, vb, n).to(v.dtype),
            *[None] * 3,
        )


def _scores(q: Tensor, k: Tensor, decay: Tensor, out: Tensor | None = None) -> Tensor:
    """Decayed scores within blocks: q, k (B, H, n, C, d) and decay (H, 1, C, C) to (BHn, C, C)."""
    scores = torch.bmm(_flat(q), _flat(k).mT, out=out)
    scores.view(*q.shape[:3], *decay.shape[-2:]).mul_(decay)
    return scores


def _within(slopes: Tensor, block: int, both: bool) -> Tensor:
    """The decay from each key (column) to each query (row) of a block, (H, 1, C, C)."""
    i = torch.arange(block, device=slopes.device, dtype=slopes.dtype)
    decay = _decay(slopes, (i.unsqueeze(-1) - i).abs())
    return decay if both else decay.tril()


def _directions(slopes: Tensor, block: int, both: bool) -> Iterator[tuple[bool, Tensor, Tensor]]:
    """Whether it runs backwards; the decay from each key to the end of its block, and from the end of the block before
    to each query, (H, 1, C, 1) both. Backwards, ends are beginnings."""
    i = torch.arange(block, device=slopes.device, dtype=slopes.dtype).unsqueeze(-1)
    key_decay, query_decay = _decay(slopes, block - 1 - i), _decay(slopes, i + 1)
    yield False, key_decay, query_decay
    if both:
        yield True, key_decay.flip(-2), query_decay.flip(-2)


def _scan(x: Tensor, slopes: Tensor, backwards: bool) -> Tensor:
    """What arrives from all blocks before: y_j = sum_{m<j} exp(-slope (j-1-m)) x_m, or m>j backwards. Uses x up.

    x (B, H, n, f), slopes (H, 1, 1, 1) per block. Linear in n: the sums of groups of at most GROUP blocks go through
    the same function, which gives what arrives from groups before, and a triangular matrix in each group does the rest.
    Nobody in a group is after its last block, so the arrivals take that block's place.
    """
    n = x.shape[2]
    groups = -(-n // GROUP)
    size = -(-n // groups)
    if groups * size > n:
        x = F.pad(x, (0, 0, 0, groups * size - n))
    x = x.view(*x.shape[:2], groups, size, x.shape[-1])
    i = torch.arange(size, device=x.device, dtype=x.dtype)
    weights = _decay(slopes, (i.unsqueeze(-1) - 1 - i).abs()).tril(-1)  # (H, 1, size, size)
    leaving, arriving = _decay(slopes, size - 1 - i), _decay(slopes, i)  # (H, 1, 1, size)
    last = -1
    if backwards:
        weights, leaving, arriving, last = weights.flip(-1, -2), leaving.flip(-1), arriving.flip(-1), 0
    if groups > 1:
        sums = (leaving @ x).squeeze(-2)  # (B, H, groups, f)
        x[..., last, :] = _scan(sums, slopes * size, backwards)
        weights[..., last] = arriving.squeeze(-2)
    return (weights @ x).flatten(2, 3)[:, :, :n]


def _last_state(k: Tensor, v: Tensor, states: Tensor, slopes: Tensor, block: int) -> Tensor:
    """The state after the last token (B, H, d, e), from that before the last block, which may be short."""
    count = (k.shape[2] - 1) % block + 1
    i = torch.arange(count, device=k.device, dtype=states.dtype)
    k, v = (x[:, :, -count:].to(states.dtype) for x in (k, v))
    new = (k * _decay(slopes, count - 1 - i).view(-1, count, 1)).mT @ v
    return new.add_(states[:, :, -1].view(new.shape) * torch.exp(-slopes.view(-1, 1, 1) * count))


def _decay(slopes: Tensor, distance: Tensor) -> Tensor:
    return F.threshold(torch.exp(distance * -slopes), NEGLIGIBLE, 0.0)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if total is None else torch.baddbmm(total, a, b, out=total)


def _blocks(x: Tensor, block: int) -> Tensor:
    """(B, H, N, d) to (B, H, n, C, d), float32 or wider, with zeros after the end."""
    x = widened(x)
    if x.shape[2] % block:
        x = F.pad(x, (0, 0, 0, -x.shape[2] % block))
    return x.contiguous().unflatten(2, (-1, block))


def _flat(x: Tensor) -> Tensor:
    """(B, H, n, C, d) to (BHn, C, d)."""
    return x.flatten(0, 2)


def _tokens(y: Tensor, blocks: Tensor, length: int) -> Tensor:
    """(BHn, C, d) to (B, H, N, d), in blocks like `blocks`."""
    return y.view(*blocks.shape[:2], -1, y.shape[-1])[:, :, :length]


def widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> AbstractContextManager[Any]:
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
