"""Block Transformer written vector by vector from its definition: float64, one row, one block, one head at a time.

A row of a batch is cut to its real tokens first, so padding does not exist here.
"""

import math

import torch
from reference.positions import convolved, head_normed, rotated
from torch import Tensor


def block_transformer(stack, x, memory=None, valid=None, memory_valid=None):
    """(B, N, D) to (B, N, D), 0 at padding."""
    y = torch.zeros_like(x)
    for row in range(len(x)):
        own = x[row] if valid is None else x[row][valid[row]]
        seen = None if memory is None else memory[row] if memory_valid is None else memory[row][memory_valid[row]]
        for t, output in enumerate(_row(stack, list(own), None if seen is None else list(seen))):
            y[row, t] = output
    return y


def _row(stack, tokens: list[Tensor], memory: list[Tensor] | None) -> list[Tensor]:
    size, count = stack.block, stack.prefixes
    causal = stack.pattern in ("causal_self", "causal_cross")
    blocks = [tokens[begin : begin + size] for begin in range(0, len(tokens), size)]
    if not blocks:
        return []
    contexts = transformer(stack.blocks, [embedded(stack, block) for block in blocks], memory, causal=False)
    if causal:  # block b reads what comes out at unit b - 1; unit -1 is the start vector
        shifted = [stack.start] + [embedded(stack, block) for block in blocks[:-1]]
        contexts = transformer(stack.blocks, shifted, memory, causal=True)
    windows = []
    for context, block in zip(contexts, blocks, strict=True):
        wide = stack.prefix.weight @ context + stack.prefix.bias
        window = [*wide.chunk(count), *block]
        if stack.places is not None:
            window = [vector + stack.places[place] for place, vector in enumerate(window)]
        windows.append(window)
    for index, layer in enumerate(stack.tokens.layers):
        if len(stack.tokens.convs):  # over the tokens of all blocks
            tokens = torch.stack([token for window in windows for token in window[count:]])
            flat = convolved(stack.tokens.convs[index], tokens, causal)
            ends = [sum(len(w) - count for w in windows[: b + 1]) for b in range(len(windows))]
            windows = [
                w[:count] + list(flat[end - (len(w) - count) : end]) for w, end in zip(windows, ends, strict=True)
            ]
        windows = [layered(layer, window, None, causal) for window in windows]
    return [normalised(stack.tokens.norm, vector) for window in windows for vector in window[count:]]


def embedded(stack, block: list[Tensor]) -> Tensor:
    """D/L numbers for each token of the block; a missing token leaves zeros."""
    parts = [stack.embed.weight @ token for token in block]
    missing = stack.block - len(block)
    return torch.cat(parts + [torch.zeros_like(parts[0])] * missing)


def transformer(stack, vectors: list[Tensor], memory: list[Tensor] | None, causal: bool) -> list[Tensor]:
    for layer in stack.layers:
        vectors = layered(layer, vectors, memory, causal)
    return [normalised(stack.norm, vector) for vector in vectors]


def layered(layer, vectors: list[Tensor], memory: list[Tensor] | None, causal: bool) -> list[Tensor]:
    normed = [normalised(layer.self_norm, vector) for vector in vectors]
    vectors = [
        vector + attention(layer.self_attention, normed[t], normed[: t + 1] if causal else normed, t)
        for t, vector in enumerate(vectors)
    ]
    if memory is not None:
        vectors = [
            vector + attention(layer.cross_attention, normalised(layer.cross_norm, vector), memory, 0)
            for vector in vectors
        ]
    return [vector + mlp(layer.feedforward.net, normalised(layer.norm, vector)) for vector in vectors]


def attention(layer, asking: Tensor, sources: list[Tensor], place: int) -> Tensor:
    """`place` is that of the query among the sources."""
    heads = layer.shape.heads
    width = layer.shape.dim // heads
    query = layer.query.weight @ asking
    keys = [layer.key.weight @ source for source in sources]
    values = [layer.value.weight @ source for source in sources]
    if layer.query_norm is not None:
        query, *keys = (
            head_normed(norm, vector.view(1, heads, 1, width)).flatten()
            for norm, vector in [(layer.query_norm, query), *((layer.key_norm, key) for key in keys)]
        )
    if layer.place is not None:
        query = rotated(query.view(heads, 1, width), start=place).flatten()
        keys = [rotated(key.view(heads, 1, width), start=s).flatten() for s, key in enumerate(keys)]
    mixed = torch.zeros_like(asking)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = [torch.dot(query[part], key[part]) / math.sqrt(width) for key in keys]
        total = sum(torch.exp(score) for score in scores)
        for score, value in zip(scores, values, strict=True):
            mixed[part] += torch.exp(score) / total * value[part]
    return layer.out.weight @ mixed


def normalised(norm, vector: Tensor) -> Tensor:
    centred = vector - vector.sum() / len(vector)
    return centred / torch.sqrt((centred * centred).sum() / len(vector) + 1e-5) * norm.weight + norm.bias


def mlp(net, vector: Tensor) -> Tensor:
    wide = net[0].weight @ vector + net[0].bias
    wide = wide * (1 + torch.erf(wide / math.sqrt(2))) / 2
    return net[2].weight @ wide + net[2].bias
