"""Causal attention of each query to its own key and to the earlier ones among chosen sources.

    o_t = sum_{s in S(t)} softmax_s(q_t . k_s / sqrt(d)) v_s,   S(t) = {t} + {s chosen: s < t}

Queries come in g windows, each with its own K sources in ascending order, so that a block of queries needs a prefix of
them: what lies in the future of the whole block is neither multiplied nor masked. Time O(N K d / 2), memory O(N + K)
beside the mask of one block.

On the CPU there is an own backward over torch's fused kernel. Attention over two sets of keys is the mean of both
outputs with weights that follow from their log-sum-exps; and given the log-sum-exp and the output over everything, the
kernel's backward over a part of the keys gives that part's gradients. What is left, the own key, is elementwise.

Elsewhere it is all left to `scaled_dot_product_attention`, with the own key as one more column for all queries: they
get a further dimension that holds q_t . k_t, where only this column's key is 1 and its value is 1, too. What comes out
there is the share of v_t.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCKS, LEAST_BLOCK = 16, 256
"""A window of queries goes in at most BLOCKS blocks of at least LEAST_BLOCK."""
OWN = 8
"""Head dimensions added for the own key; a multiple of 8 keeps fused kernels fast."""


def attend_past(
    q: Tensor, k: Tensor, v: Tensor, chosen_k: Tensor, chosen_v: Tensor, sources: Tensor, targets: Tensor
) -> Tensor:
    """q, k, v (B, g, H, W, d), chosen (B, g, H, K, d) to (B, g, H, W, d).

    `sources` (b, g, K), ascending, and `targets` (b, g, W) are positions in the sequence, b = B or 1. A source beyond
    the end is seen by nobody, a target at -1 sees nobody but itself. Both may be on the CPU, where a look at them costs
    no waiting.
    """
    size = max(LEAST_BLOCK, -(-targets.shape[2] // BLOCKS))
    counts = _counts(sources, targets, size)
    sources, targets = sources.to(q.device), targets.to(q.device)
    operator = _Past.apply if q.device.type == "cpu" else _by_column
    return operator(q, k, v, chosen_k, chosen_v, sources, targets, size, counts)


def _counts(sources: Tensor, targets: Tensor, size: int) -> list[list[int]]:
    """How many sources come before the end of each block of each window. Where that means waiting, a bound."""
    width, k = targets.shape[2], sources.shape[2]
    if sources.device.type != "cpu":
        bounds = [min(end, k) if targets.shape[1] == 1 else k for end in range(size, width + size, size)]
        return [bounds] * targets.shape[1]
    ends = F.pad(targets, (0, -width % size), value=-1).unflatten(-1, (-1, size)).amax(-1)  # (b, g, blocks)
    return torch.searchsorted(sources, ends.expand(sources.shape[0], -1, -1).contiguous()).amax(0).tolist()


def _blocks(counts: list[list[int]], size: int) -> Iterator[tuple[int, slice, int]]:
    """Window, block of queries in it, and number of sources that the block needs."""
    for window, in_window in enumerate(counts):
        for index, count in enumerate(in_window):
            yield window, slice(index * size, (index + 1) * size), count


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
        size: int,
        counts: list[list[int]],
    ) -> Tensor:
        own = _own_scores(q, k)  # (B, g, H, W), as all log-sum-exps
        past = torch.full_like(own, -torch.inf)
        y = torch.zeros_like(q.transpose(2, 3), memory_format=torch.contiguous_format).transpose(2, 3)
        for window, block, count in _blocks(counts, size):
            if count:
                y[:, window, :, block], past[:, window, :, block] = _kernel(
                    q[:, window, :, block],
                    chosen_k[:, window, :, :count],
                    chosen_v[:, window, :, :count],
                    attn_mask=_mask(sources, targets, window, block, count, q.dtype),
                    scale=q.shape[-1] ** -0.5,
                )
        nobody = (sources[..., :1] >= targets).unsqueeze(2)  # (b, g, 1, W): what the kernel says of these is undefined
        past.masked_fill_(nobody, -torch.inf)
        y.masked_fill_(nobody.unsqueeze(-1), 0)
        total = torch.logaddexp(past, own)
        y.mul_(_share(past, total, y)).addcmul_(v, _share(own, total, y))
        ctx.save_for_backward(q, k, v, chosen_k, chosen_v, sources, targets, y, total)
        ctx.size, ctx.counts = size, counts
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
        for window, block, count in _blocks(ctx.counts, ctx.size):
            if count:
                parts = _kernel_backward(
                    dy[:, window, :, block],
                    q[:, window, :, block],
                    chosen_k[:, window, :, :count],
                    chosen_v[:, window, :, :count],
                    y[:, window, :, block],
                    total[:, window, :, block],
                    attn_mask=_mask(sources, targets, window, block, count, q.dtype),
                    scale=scale,
                )
                dq[:, window, :, block] += parts[0]
                dck[:, window, :, :count] += parts[1]
                dcv[:, window, :, :count] += parts[2]
        return dq, dk, dv, dck.to(q.dtype), dcv.to(q.dtype), None, None, None, None


def _kernel(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, **options)


def _kernel_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(dy, q, k, v, y, lse, 0.0, False, **options)


def _mask(sources: Tensor, targets: Tensor, window: int, block: slice, count: int, dtype: torch.dtype) -> Tensor:
    """(b, 1, S, count), 0 for earlier sources and -inf for others."""
    late = sources[:, window, None, :count] >= targets[:, window, block, None]
    return torch.zeros(late.shape, dtype=dtype).masked_fill_(late, -torch.inf).unsqueeze(1)


def _own_scores(q: Tensor, k: Tensor) -> Tensor:
    """(..., d) to (...), in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    return (q.to(wide) * k.to(wide)).sum(-1).mul_(q.shape[-1] ** -0.5)


def _share(part: Tensor, total: Tensor, like: Tensor) -> Tensor:
    return torch.exp(part - total).unsqueeze(-1).to(like.dtype)


def _by_column(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen_k: Tensor,
    chosen_v: Tensor,
    sources: Tensor,
    targets: Tensor,
    size: int,
    counts: list[list[int]],
) -> Tensor:
    dim = q.shape[-1]
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
    for window, block, count in _blocks(counts, size):
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
