"""Causal attention of each query to its own key and to the earlier ones among chosen sources.

    o_t = sum_{s in S(t)} softmax_s(q_t . k_s / sqrt(d)) v_s,   S(t) = {t} + {s chosen: s < t}

Queries come in g windows, each with its own K sources in ascending order, so that a block of queries needs a prefix of
them: what lies in the future of the whole block is neither multiplied nor masked. Time O(N K d / 2), memory O(N + K)
beside the mask of a block.

On the CPU it has an own backward over torch's fused kernel. Attention over two sets of keys is the mean of both outputs
with weights that follow from their log-sum-exps; and given the log-sum-exp and the output over everything, the kernel's
backward over a part of the keys gives the gradients through that part. So a long block of queries takes all sources
before it without a mask, its short parts take the nearer ones with a mask, and the own key is elementwise.

Elsewhere it is left to `scaled_dot_product_attention` and autograd, with the own key as one more column for all
queries: they get a further dimension that holds q_t . k_t, where only this column's key is 1 and its value is 1, too.
What comes out there is the share of v_t.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LONG, SHORT = 1024, 256
"""Blocks of queries on the CPU: LONG with the sources before all of them, SHORT (a divisor) with the nearer ones."""
BLOCKS, LEAST_BLOCK = 16, 256
"""Elsewhere a window of queries goes in at most BLOCKS blocks of at least LEAST_BLOCK."""
OWN = 8
"""Head dimensions added for the own key; a multiple of 8 keeps fused kernels fast."""


Piece = tuple[int, slice, slice, bool]
"""A window, queries in it, sources for them, and whether a mask is needed."""


def attend_past(
    q: Tensor, k: Tensor, v: Tensor, chosen_k: Tensor, chosen_v: Tensor, sources: Tensor, targets: Tensor
) -> Tensor:
    """q, k, v (B, g, H, W, d), chosen (B, g, H, K, d) to (B, g, H, W, d).

    `sources` (b, g, K), ascending, and `targets` (b, g, W), ascending, are positions in the sequence, b = B or 1. A
    source beyond the end is seen by nobody; targets of -1 after the others get outputs without meaning. Both may be on
    the CPU whatever the device: a look at them costs no waiting there.
    """
    operation = attend_past_by_parts if q.device.type == "cpu" else attend_past_by_column
    return operation(q, k, v, chosen_k, chosen_v, sources, targets)


def attend_past_by_parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen_k: Tensor,
    chosen_v: Tensor,
    sources: Tensor,
    targets: Tensor,
    long: int = LONG,
    short: int = SHORT,
) -> Tensor:
    """The operation for the CPU. `short` divides `long`."""
    return _Past.apply(q, k, v, chosen_k, chosen_v, sources, targets, long, short)


def _before(sources: Tensor, positions: Tensor) -> Tensor:
    """How many sources (b, g, K) come before each position (b, g, n)."""
    return torch.searchsorted(sources, positions.expand(sources.shape[0], -1, -1).contiguous())


def _grouped(targets: Tensor, size: int) -> Tensor:
    """(b, g, W) to (b, g, blocks, size)."""
    return F.pad(targets, (0, -targets.shape[-1] % size), value=-1).unflatten(-1, (-1, size))


def _pieces(sources: Tensor, targets: Tensor, long_size: int, short_size: int) -> list[Piece]:
    """Long blocks of queries with the sources before the block, which need no mask; short ones with the rest."""
    firsts = _before(sources, _grouped(targets, long_size)[..., 0]).amin(0).tolist()
    ends = _before(sources, _grouped(targets, short_size).amax(-1)).amax(0).tolist()
    ratio = long_size // short_size
    pieces: list[Piece] = []
    for window, starts in enumerate(firsts):
        for long, start in enumerate(starts):
            if start:
                queries = slice(long * long_size, (long + 1) * long_size)
                pieces.append((window, queries, slice(0, start), False))
            for short in range(long * ratio, min((long + 1) * ratio, len(ends[window]))):
                if ends[window][short] > start:
                    queries = slice(short * short_size, (short + 1) * short_size)
                    pieces.append((window, queries, slice(start, ends[window][short]), True))
    return pieces


class _Past(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        chosen_k: Tensor,
        chosen_v: Tensor,
        sources: Tensor,
        targets: Tensor,
        long: int,
        short: int,
    ) -> Tensor:
        own = _own_scores(q, k)  # (B, g, H, W), as all log-sum-exps
        past = torch.full_like(own, -torch.inf)
        y = torch.zeros_like(q.transpose(2, 3), memory_format=torch.contiguous_format).transpose(2, 3)
        pieces = _pieces(sources, targets, long, short)
        for window, block, seen, masked in pieces:
            part, lse = _kernel(
                q[:, window, :, block],
                chosen_k[:, window, :, seen],
                chosen_v[:, window, :, seen],
                attn_mask=_mask(sources, targets, window, block, seen, q.dtype) if masked else None,
                scale=q.shape[-1] ** -0.5,
            )
            if masked:  # what the kernel says of queries that see nobody is undefined
                nobody = (sources[:, window, seen.start, None] >= targets[:, window, block]).unsqueeze(1)  # (b, 1, S)
                lse = lse.masked_fill(nobody, -torch.inf)
                part = part.masked_fill_(nobody.unsqueeze(-1), 0)
            before, so_far = past[:, window, :, block], y[:, window, :, block]
            if seen.start:
                both = torch.logaddexp(before, lse)
                so_far.mul_(_share(before, both, y)).addcmul_(part, _share(lse, both, y))
                before.copy_(both)
            else:
                so_far.copy_(part)
                before.copy_(lse)
        total = torch.logaddexp(past, own)
        y.mul_(_share(past, total, y)).addcmul_(v, _share(own, total, y))
        ctx.save_for_backward(q, k, v, chosen_k, chosen_v, sources, targets, y, total)
        ctx.pieces = pieces
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, chosen_k, chosen_v, sources, targets, y, total = ctx.saved_tensors
        dy, scale = dy.to(y.dtype), q.shape[-1] ** -0.5
        share = _share(_own_scores(q, k), total, total)  # (B, g, H, W, 1)
        score = share * ((v - y).to(total.dtype).mul_(dy)).sum(-1, keepdim=True).mul_(scale)
        dq, dk, dv = (a * b.to(a.dtype) for a, b in ((k, score), (q, score), (dy, share)))
        dck, dcv = (torch.zeros_like(x, dtype=total.dtype) for x in (chosen_k, chosen_v))
        for window, block, seen, masked in ctx.pieces:
            parts = _kernel_backward(
                dy[:, window, :, block],
                q[:, window, :, block],
                chosen_k[:, window, :, seen],
                chosen_v[:, window, :, seen],
                y[:, window, :, block],
                total[:, window, :, block],
                attn_mask=_mask(sources, targets, window, block, seen, q.dtype) if masked else None,
                scale=scale,
            )
            dq[:, window, :, block] += parts[0]
            dck[:, window, :, seen] += parts[1]
            dcv[:, window, :, seen] += parts[2]
        return dq, dk, dv, dck.to(q.dtype), dcv.to(q.dtype), None, None, None, None


def _kernel(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, **options)


def _kernel_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(dy, q, k, v, y, lse, 0.0, False, **options)


def _mask(sources: Tensor, targets: Tensor, window: int, block: slice, seen: slice, dtype: torch.dtype) -> Tensor:
    """(b, 1, S, seen), 0 for earlier sources and -inf for others."""
    late = sources[:, window, None, seen] >= targets[:, window, block, None]
    return torch.zeros(late.shape, dtype=dtype).masked_fill_(late, -torch.inf).unsqueeze(1)


def _own_scores(q: Tensor, k: Tensor) -> Tensor:
    """(..., d) to (...), in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q.to(wide) * k.to(wide)).sum(-1).mul_(q.shape[-1] ** -0.5)


def _share(part: Tensor, total: Tensor, like: Tensor) -> Tensor:
    return torch.exp(part - total).unsqueeze(-1).to(like.dtype)


def attend_past_by_column(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen_k: Tensor,
    chosen_v: Tensor,
    sources: Tensor,
    targets: Tensor,
    blocks: int = BLOCKS,
    least_block: int = LEAST_BLOCK,
) -> Tensor:
    """The operation for other devices; it runs on the CPU, too."""
    dim, width = q.shape[-1], targets.shape[2]
    size = max(least_block, -(-width // blocks))
    if sources.device.type == "cpu":
        counts = _before(sources, _grouped(targets, size).amax(-1)).amax(0).tolist()
    else:  # to look would be to wait
        k_max = sources.shape[2]
        bounds = [min(end, k_max) if targets.shape[1] == 1 else k_max for end in range(size, width + size, size)]
        counts = [bounds] * targets.shape[1]
    sources, targets = sources.to(q.device), targets.to(q.device)
    own = _own_scores(q, k).unsqueeze(-1) * dim**0.5
    most = own.to(q.dtype)
    rest = (own - most.to(own.dtype)).to(q.dtype)  # handed over in two parts, as a narrow dtype would round it
    q = torch.cat([q, F.pad(torch.cat([most, rest], -1), (0, OWN - 2))], -1)
    column = torch.zeros_like(chosen_k[..., :1, :])
    ones = torch.ones_like(column[..., :1])
    key = torch.cat([column, F.pad(torch.cat([ones, ones], -1), (0, OWN - 2))], -1)
    value = torch.cat([column, F.pad(ones, (0, OWN - 1))], -1)
    chosen_k = torch.cat([key, F.pad(chosen_k, (0, OWN))], -2)  # (B, g, H, 1 + K, d + OWN)
    chosen_v = torch.cat([value, F.pad(chosen_v, (0, OWN))], -2)
    parts = []
    for window, in_window in enumerate(counts):
        for index, count in enumerate(in_window):
            block = slice(index * size, (index + 1) * size)
            mask = sources[:, window, None, :count] < targets[:, window, block, None]  # (b, S, count)
            parts.append(
                F.scaled_dot_product_attention(
                    q[:, window, :, block],
                    chosen_k[:, window, :, : 1 + count],
                    chosen_v[:, window, :, : 1 + count],
                    attn_mask=F.pad(mask, (1, 0), value=True).unsqueeze(1),
                    scale=dim**-0.5,
                )
            )
    y = torch.cat(parts, 2).unflatten(2, (len(counts), -1)).transpose(1, 2)
    return y[..., :dim] + y[..., dim : dim + 1] * v
