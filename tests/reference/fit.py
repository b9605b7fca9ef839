"""FIT written from its formulas: one row at a time, group by group, head by head, without padding or masks.

A row is cut to its real tokens and to its real memory first, so that padding cannot matter here.
"""

import math
import re

import torch
from reference.positions import convolved, rotated
from torch import Tensor


def normed(norm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    return centred / scale * norm.weight + norm.bias


def attended(attention, x: Tensor, sources: list[Tensor]) -> Tensor:
    """Row i of x (a, D) attends to all of sources[i] (s, D); 0 where that is empty."""
    heads, outputs, rotary = attention.shape.heads, [], attention.place is not None
    for place, (query, source) in enumerate(zip(x, sources, strict=True)):
        if not len(source):
            outputs.append(torch.zeros_like(query))
            continue
        mixed = []
        linears = attention.query, attention.key, attention.value
        for h, (wq, wk, wv) in enumerate(zip(*(linear.weight.chunk(heads) for linear in linears), strict=True)):
            q = scaled(attention.query_norm, h, heads, wq @ query)
            k = scaled(attention.key_norm, h, heads, source @ wk.T)
            if rotary:
                q, k = rotated(q.unsqueeze(0), start=place)[0], rotated(k)
            weight = torch.exp(k @ q / math.sqrt(len(wq)))
            mixed.append(weight @ (source @ wv.T) / weight.sum())
        outputs.append(attention.out.weight @ torch.cat(mixed))
    return torch.stack(outputs)


def scaled(norm, head: int, heads: int, x: Tensor) -> Tensor:
    """The norm on q and k for one head: x (..., d)."""
    if norm is None:
        return x
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.chunk(heads)[head]


def read(sublayer, x: Tensor, source: Tensor) -> Tensor:
    own = normed(sublayer.norm, x)
    given = source if isinstance(sublayer.source_norm, torch.nn.Identity) else normed(sublayer.source_norm, source)
    return x + attended(sublayer.attention, own, [given] * len(x))


def transformed(layer, x: Tensor, sees: list[int]) -> Tensor:
    """A pre-norm transformer layer in which row i of x sees the first sees[i] rows."""
    own = normed(layer.self_norm, x)
    x = x + attended(layer.self_attention, own, [own[:count] for count in sees])
    wide, _, narrow = layer.feedforward.net
    hidden = normed(layer.norm, x) @ wide.weight.T + wide.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return x + hidden @ narrow.weight.T + narrow.bias


def start(vectors: Tensor, group: int) -> Tensor:
    """Latents of a group before they have read anything: vectors (m, D) and sinusoids of place g m + j."""
    m, dim = vectors.shape
    waves = [
        [
            (math.cos if i % 2 else math.sin)((group * m + j) * math.exp(-math.log(10_000) * (i - i % 2) / dim))
            for i in range(dim)
        ]
        for j in range(m)
    ]
    return vectors + torch.tensor(waves, dtype=vectors.dtype)


def fit_row(stack, x: Tensor, memory: Tensor | None) -> Tensor:
    """x (N, D), N > 0, and memory (M, D) to (N, D)."""
    causal, cross, n, m = stack.pattern.causal, stack.pattern.cross, stack.group, stack.latents
    tokens = [part + stack.position[: len(part)] for part in x.split(n)]
    latents = {g: start(stack.latent, g) for g in range(len(tokens))}
    if causal and cross:
        latents = {-1: start(stack.first, -1)} | latents
    for segment in stack.segments:
        tokens = locally(segment.local, tokens, causal)
        for g, part in enumerate(tokens):
            latents[g] = read(segment.gather, latents[g], part)
        if cross:
            latents = {g: read(segment.recall, z, memory) for g, z in latents.items()}
        flat = torch.cat(list(latents.values()))
        for layer in segment.latent:
            flat = transformed(layer, flat, [i // m * m + m if causal else len(flat) for i in range(len(flat))])
        latents = dict(zip(latents, flat.split(m), strict=True))
        for g, part in enumerate(tokens):
            given = latents.get(g - 1, torch.zeros(m, x.shape[1], dtype=x.dtype)) if causal else latents[g]
            tokens[g] = read(segment.spread, part, given)
    return normed(stack.norm, torch.cat(locally(stack.last, tokens, causal)))


def locally(local, tokens: list[Tensor], causal: bool) -> list[Tensor]:
    """Local layers on every group; a convolution before a layer runs over the tokens of all groups."""
    for index, layer in enumerate(local.layers):
        if len(local.convs):
            sizes = [len(part) for part in tokens]
            tokens = list(convolved(local.convs[index], torch.cat(tokens), causal).split(sizes))
        tokens = [
            transformed(layer, part, [i + 1 if causal else len(part) for i in range(len(part))]) for part in tokens
        ]
    return tokens


def fit(stack, x, memory=None, valid=None, memory_valid=None):
    y = torch.zeros_like(x)
    for b in range(len(x)):
        n = x.shape[1] if valid is None else int(valid[b].sum())
        row = None if memory is None else memory[b] if memory_valid is None else memory[b][memory_valid[b]]
        if n:
            y[b, :n] = fit_row(stack, x[b, :n], row)
    return y


def layers_of(layout: str) -> tuple[list[int], list[int]]:
    """Local and latent layers per stage of a layout."""
    return [int(a) for a in re.findall(r"\((\d+)\)", layout)], [int(b) for b in re.findall(r"\)(\d+)", layout)]
