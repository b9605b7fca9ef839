"""Linear attention with a fixed exponential decay per head, in block form, with its own backward.

    y_t = sum_{s <= t} lam^(t-s) (q_t . k_s) v_s    and, in both directions,    y_t = sum_s lam^|t-s| (q_t . k_s) v_s

with lam = exp(-slope). The sequence is cut into blocks of C tokens. Inside a block the scores are written out:
(Q K^T . M) V with M_ij = lam^(i-j). Between blocks everything goes through a d x d state: every block is summed up as
X_j = sum_i lam^(C-1-i) k_i v_i^T, a scan gives the state before each block, S_j = sum_{m<j} lam^(C (j-1-m)) X_m, and
token i of block j receives lam^(i+1) q_i^T S_j. The other direction is the same, mirrored.

The backward is the same operator with its roles exchanged (the transpose of a decay to the right is one to the left):
dq = op(dy, v, k), dk = op'(v, dy, q), dv = op'(k, q, dy). The three share the scores and the states, which
are kept from the forward.

Every factor is exp of something <= 0, relative to a block or to a group of the scan: nothing overflows, and what
underflows is far away. All sums are in float32 or wider. Time O(N d (C + d)), memory O(N d (1 + d / C)).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attentions.ops.precision import no_autocast, widened

GROUP = 16
"""Blocks in a group of the scan: one small matrix within each group, one sum of each group for the next level."""
PIECE = 1 << 19
"""Elements of q in the heads that the CPU processes together (2 MB in float32)."""
NEGLIGIBLE = 1e-35
"""Smaller decays are set to 0, because products with subnormal numbers are slow."""


def decayed_attention(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, block: int, both: bool = False) -> Tensor:
    """q, k (B, H, N, d), v (B, H, N, e), slope (H,) to y (B, H, N, e), float32 or wider.

    With `both`, in both directions.
    """
    y, _ = _DecayedAttention.apply(q, k, v, slope, min(block, q.shape[2]), both)
    return y


def decayed_prefill(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """As `decayed_attention` in one direction, and the state (B, H, d, e) after the last token, without gradient."""
    block = min(block, q.shape[2])
    y, before = _DecayedAttention.apply(q, k, v, slope, block, False)
    rest = (q.shape[2] - 1) % block + 1  # tokens in the last block
    with torch.no_grad(), no_autocast(q):
        k, v = (x[:, :, -rest:].to(before.dtype) for x in (k, v))
        slopes = slope.to(before.dtype).view(-1, 1, 1)
        distance = torch.arange(rest - 1, -1, -1, device=k.device, dtype=k.dtype).unsqueeze(-1)  # (rest, 1)
        return y, before * torch.exp(slopes * -rest) + (k * _decay(slopes, distance)).mT @ v


class _DecayedAttention(torch.autograd.Function):
    """Returns y and, without gradient, the state before the last block."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, block: int, both: bool
    ) -> tuple[Tensor, Tensor]:
        slopes = slope.to(torch.promote_types(q.dtype, torch.float32)).view(-1, 1, 1, 1)  # (H, 1, 1, 1)
        pieces, y, kept, last = _pieces(q), v[:, :0], [], []
        if len(pieces) == 1:  # the backward needs this layout too; for several pieces copies would take too much memory
            q, k, v = (x.contiguous() for x in (q, k, v))
        with no_autocast(q):
            decays = _decays(slopes, block, both)
            for heads in pieces:
                own = [x[heads] for x in decays]
                part, states = _forward(q[:, heads], k[:, heads], v[:, heads], slopes[heads], own, both)
                y = _placed(part, y, v, heads)
                kept += states
                last.append(_unflat(states[0], q[:, heads])[:, :, -1])
        ctx.save_for_backward(q, k, v, slopes, *decays, *kept)
        ctx.both = both
        state = torch.cat(last, 1)  # (B, H, d, e)
        ctx.mark_non_differentiable(state)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, slopes, *decays = ctx.saved_tensors[:7]
        states = iter(ctx.saved_tensors[7:])
        gradients = [x[:, :0] for x in (q, k, v)]
        with no_autocast(q):
            for heads in _pieces(q):
                own = [x[heads] for x in decays]
                kept = [next(states) for _ in range(3 if ctx.both else 2)]
                parts = _backward(q[:, heads], k[:, heads], v[:, heads], dy[:, heads], slopes[heads], own, kept)
                gradients = [_placed(*each, heads) for each in zip(parts, gradients, (q, k, v), strict=True)]
        return *gradients, None, None, None


def _pieces(x: Tensor) -> list[slice]:
    """Heads that are processed together: on the CPU few enough for intermediate results to stay in its caches."""
    batch, heads, n, dim = x.shape
    size = heads if x.device.type != "cpu" else max(1, PIECE // (batch * n * dim))
    return [slice(start, min(start + size, heads)) for start in range(0, heads, size)]


def _placed(part: Tensor, whole: Tensor, like: Tensor, heads: slice) -> Tensor:
    """Writes some heads (B, h, N, d) into `whole` (without heads at first), which has the layout of `like`."""
    if part.shape[1] == like.shape[1]:
        return part
    whole = whole if whole.shape[1] else torch.empty_like(like, dtype=part.dtype)
    whole[:, heads] = part
    return whole


def _forward(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, decays: list[Tensor], both: bool
) -> tuple[Tensor, list[Tensor]]:
    """y and the states (BHn, d, e) before each block and, with `both`, after it."""
    within, to_end, from_end = decays
    qb, kb, vb = (_blocks(x, within.shape[-1]) for x in (q, k, v))  # (B, H, n, C, d) each
    y, states = None, []
    directions = [False, True] if both else [False]
    for backwards in directions:
        if backwards:
            to_end, from_end = to_end.flip(-2), from_end.flip(-2)
        sums = torch.bmm(_flat(kb * to_end).mT, _flat(vb))  # (BHn, d, e)
        states.append(_before(sums, kb, slopes, backwards))
        del sums
        y = _add_decayed(y, torch.bmm(_flat(qb), states[-1]), qb, from_end)  # (BHn, C, e)
    states.append(_scores(qb, kb, within))
    y = _add_product(y, states[-1], _flat(vb))
    return _tokens(y, qb, q), states


def _backward(
    q: Tensor, k: Tensor, v: Tensor, dy: Tensor, slopes: Tensor, decays: list[Tensor], states: list[Tensor]
) -> tuple[Tensor, ...]:
    """The gradients of q, k and v."""
    within, to_end, from_end = decays
    qb, kb, vb, gb = (_blocks(x, within.shape[-1]) for x in (q, k, v, dy))
    dq = dk = dv = None  # (BHn, C, d) each
    *states, scores = states
    for backwards, state in enumerate(states):
        if backwards:
            to_end, from_end = to_end.flip(-2), from_end.flip(-2)
        decayed = _flat(gb * from_end)
        sums = torch.bmm(_flat(qb).mT, decayed)  # (BHn, d, e)
        after = _before(sums, qb, slopes, not backwards)
        del sums
        dq = _add_product(dq, decayed, state.mT)
        del decayed
        dk = _add_decayed(dk, torch.bmm(_flat(vb), after.mT), kb, to_end)
        dv = _add_decayed(dv, torch.bmm(_flat(kb), after), kb, to_end)
        del after
    dv = _add_product(dv, scores.mT, _flat(gb))
    scores = _scores(gb, vb, within)
    dq = _add_product(dq, scores, _flat(kb))
    dk = _add_product(dk, scores.mT, _flat(qb))
    return tuple(_tokens(dx, qb, x).to(x.dtype) for dx, x in ((dq, q), (dk, k), (dv, v)))


def _decays(slopes: Tensor, block: int, both: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The decay inside a block from each key (column) to each query (row), (H, 1, C, C), from each key to the end of
    its block, and from the end of the block before to each query, (H, 1, C, 1). Backwards, the last two are flipped."""
    i = torch.arange(block, device=slopes.device, dtype=slopes.dtype)
    within = _decay(slopes, (i.unsqueeze(-1) - i).abs())
    from_end = _decay(slopes, (i + 1).unsqueeze(-1))
    return within if both else within.tril(), within[..., -1:].contiguous(), from_end


def _decay(slopes: Tensor, distance: Tensor) -> Tensor:
    return F.threshold(torch.exp(distance * -slopes), NEGLIGIBLE, 0.0)


def _scores(q: Tensor, k: Tensor, within: Tensor, out: Tensor | None = None) -> Tensor:
    """Decayed scores inside blocks: q, k (B, H, n, C, d) to (BHn, C, C)."""
    scores = torch.bmm(_flat(q), _flat(k).mT, out=out)
    _unflat(scores, q).mul_(within)
    return scores


def _before(sums: Tensor, blocks: Tensor, slopes: Tensor, backwards: bool) -> Tensor:
    """Sums over each block to the states before it, (BHn, d, e) both. Overwrites the sums."""
    return _scan(_unflat(sums, blocks).flatten(-2), slopes * blocks.shape[3], backwards).reshape(sums.shape)


def _scan(x: Tensor, slopes: Tensor, backwards: bool) -> Tensor:
    """What arrives from all before: y_j = sum_{m<j} exp(-slope (j-1-m)) x_m, or m>j backwards. Overwrites x.

    x (B, H, n, f), slopes (H, 1, 1, 1) per step. Linear in n: the sums of groups of at most GROUP go through the same
    function, which gives what arrives from groups before, and a triangular matrix handles each group. Nothing in a
    group comes after its last element, so what arrives from groups before takes that place.
    """
    n = x.shape[2]
    groups = -(-n // GROUP)
    size = -(-n // groups)
    if groups * size > n:
        x = F.pad(x, (0, 0, 0, groups * size - n))
    x = x.unflatten(2, (groups, size))  # (B, H, groups, size, f)
    i = torch.arange(size, device=x.device, dtype=x.dtype)
    weights = _decay(slopes, (i.unsqueeze(-1) - 1 - i).abs()).tril(-1)  # (H, 1, size, size)
    arriving = _decay(slopes, i)  # (H, 1, 1, size)
    leaving, last = arriving.flip(-1), -1
    if backwards:
        weights, arriving, leaving, last = weights.flip(-1, -2), leaving, arriving, 0
    if groups > 1:
        sums = (leaving @ x).squeeze(-2)  # (B, H, groups, f)
        x[..., last, :] = _scan(sums, slopes * size, backwards)
        weights[..., last] = arriving.squeeze(-2)
    return (weights @ x).flatten(2, 3)[:, :, :n]


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if total is None else torch.baddbmm(total, a, b, out=total)


def _add_decayed(total: Tensor | None, y: Tensor, blocks: Tensor, decay: Tensor) -> Tensor:
    """total + decay y, for y (BHn, C, d) and decay (H, 1, C, 1). Overwrites y."""
    _unflat(y, blocks).mul_(decay)
    return y if total is None else total.add_(y)


def _blocks(x: Tensor, block: int) -> Tensor:
    """(B, H, N, d) to (B, H, n, C, d), float32 or wider, with zeros after the end."""
    x = widened(x)
    if x.shape[2] % block:
        x = F.pad(x, (0, 0, 0, -x.shape[2] % block))
    return x.contiguous().unflatten(2, (-1, block))


def _flat(x: Tensor) -> Tensor:
    """(B, H, n, C, d) to (BHn, C, d)."""
    return x.flatten(0, 2)


def _unflat(x: Tensor, blocks: Tensor) -> Tensor:
    """(BHn, ...) to (B, H, n, ...), as in `blocks`."""
    return x.view(*blocks.shape[:2], -1, *x.shape[1:])


def _tokens(y: Tensor, blocks: Tensor, x: Tensor) -> Tensor:
    """(BHn, C, d) to (B, H, N, d), N as in x."""
    return _unflat(y, blocks).flatten(2, 3)[:, :, : x.shape[2]]
