"""Routing attention written straight from the definitions: float64, loops over tokens, no thought of speed."""

import torch
from reference.common import heads, merged
from reference.positions import head_normed, rotated
from torch import Tensor


def norm(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 along the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def affinity(x: Tensor, centroids: Tensor) -> Tensor:
    """x (n, d), centroids (C, d) to (n, C): along the direction of each centroid."""
    return torch.stack([norm(x) @ (mu / mu.square().sum().sqrt()) for mu in centroids], dim=-1)


def attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query (d,) over keys and values (n, d)."""
    if not len(keys):
        return torch.zeros_like(q)
    return torch.softmax(keys @ q / q.shape[-1] ** 0.5, 0) @ values


def groups(x: Tensor, centroids: Tensor, window: int) -> list[list[int]]:
    """For every centroid the tokens that score highest with it."""
    scores = affinity(x, centroids)
    return [sorted(range(len(x)), key=lambda i: -scores[i, c].item())[:window] for c in range(len(centroids))]


def nearest(x: Tensor, centroids: Tensor) -> list[int]:
    return [max(range(len(centroids)), key=lambda c: row[c].item()) for row in affinity(x, centroids)]


def windowed(q: Tensor, k: Tensor, v: Tensor, cluster: list[int], window: int) -> Tensor:
    """Each token over the last `window` tokens of its own cluster, itself included: q, k, v (n, d)."""
    rows = []
    for t in range(len(q)):
        visible = [s for s in range(t + 1) if cluster[s] == cluster[t]][-window:]
        rows.append(attend(q[t], k[visible], v[visible]))
    return torch.stack(rows)


def grouped(q, k, v, q_groups, k_groups, causal=False) -> Tensor:
    rows = []
    for t in range(len(q)):
        found = [
            attend(q[t], k[seen], v[seen])
            for mine, theirs in zip(q_groups, k_groups, strict=True)
            if t in mine
            for seen in [[s for s in theirs if s <= t or not causal]]
        ]
        rows.append(sum(found) / len(found) if found else torch.zeros_like(q[t]))
    return torch.stack(rows)


def local(q: Tensor, k: Tensor, v: Tensor, block: int, causal: bool) -> Tensor:
    rows = []
    for t in range(len(q)):
        near = [s for s in range(len(k)) if s // block in (t // block - 1, t // block, t // block + 1)]
        seen = [s for s in near if s <= t or not causal]
        rows.append(attend(q[t], k[seen], v[seen]))
    return torch.stack(rows)


def route(
    pattern: str, q: Tensor, k: Tensor, v: Tensor, centroids: Tensor, window: int, balanced: bool, rotary: bool
) -> Tensor:
    """One routing head of one sequence: q (n, d), k, v (m, d), centroids (C, d). Clusters are of content, before any
    rotation."""

    def turn(x: Tensor) -> Tensor:
        return rotated(x) if rotary else x

    if pattern == "causal_self":
        if balanced:
            members = groups(q, centroids, window)
            return grouped(turn(q), turn(norm(q)), v, members, members, causal=True)
        return windowed(turn(q), turn(norm(q)), v, nearest(q, centroids), window)
    served = groups(k, centroids, window)
    if pattern == "causal_cross":
        return torch.stack(
            [
                attend(one, k[served[c]], v[served[c]])
                for one, c in zip(q, nearest(q, centroids) if len(q) else [], strict=True)
            ]
        )
    return grouped(turn(q), turn(k), v, groups(q, centroids, window), served)


def routing_layer(layer, x, memory=None, valid=None, memory_valid=None):
    """Every head of every sequence alone, cut to its real tokens."""
    source, k_valid = (x, valid) if memory is None else (memory, memory_valid)
    count, mixer = layer.shape.heads, layer.mixer
    few = mixer.local_heads
    q, v = heads(x, layer.query, count), heads(source, layer.value, count)
    own_keys = few if layer.pattern == "causal_self" else count
    k = head_normed(layer.key_norm, heads(source, layer.key, own_keys)) if own_keys else None
    q, rotary = head_normed(layer.query_norm, q), mixer.rotary is not None
    y = torch.zeros_like(q)
    for b in range(len(x)):
        n = x.shape[1] if valid is None else int(valid[b].sum())
        m = source.shape[1] if k_valid is None else int(k_valid[b].sum())
        for h in range(count):
            if not n:
                continue
            key = k[b, h, :m] if h < own_keys else None
            if h < few:
                query, key = (rotated(part) if rotary else part for part in (q[b, h, :n], key))
                out = local(query, key, v[b, h, :m], mixer.local_window, layer.pattern == "causal_self")
            else:
                mu = mixer.centroids.centroids[h - few]
                balanced = mixer.membership == "balanced"
                out = route(layer.pattern, q[b, h, :n], key, v[b, h, :m], mu, mixer.window, balanced, rotary)
            y[b, h, :n] = out
    return merged(y) @ layer.out.weight.T
