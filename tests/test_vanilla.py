"""Vanilla, eager and none do what the contract says and what the formulas say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.common import PLACES, some_valid
from reference.vanilla import softmax_layer

from attentions.base import Pattern, Shape
from attentions.eager import Eager
from attentions.none import NoAttention
from attentions.ops.kv_cache import KVCache
from attentions.vanilla import Vanilla

NS, CS, NC, CC = Pattern
SOFTMAX = [Vanilla, Eager]
FAMILIES = [*SOFTMAX, NoAttention]
DIM, N, M = 12, 9, 7


def build(family, pattern, heads=3, **places):
    torch.manual_seed(0)
    shape = Shape(DIM, heads, 2, 24, length=N, memory=M if pattern.cross else 0, **places)
    layer = family(shape, pattern, 0, 2).double()
    for parameter in layer.parameters():
        if parameter.ndim == 1:  # weights of norms, which start at 1
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    return layer


def tensors(pattern, batch=3, n=N, m=M):
    torch.manual_seed(1)
    x = torch.randn(batch, n, DIM, dtype=torch.float64)
    return x, (torch.randn(batch, m, DIM, dtype=torch.float64) if pattern.cross else None)


@pytest.mark.parametrize("family", SOFTMAX)
@pytest.mark.parametrize("pattern", Pattern)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equals_the_formula(family, pattern, data):
    n, m = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    layer = build(family, pattern, heads=data.draw(st.sampled_from([1, 2, 3, 4])), **data.draw(st.sampled_from(PLACES)))
    x, memory = tensors(pattern, 2, n, m)
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(st.sampled_from([(None, None), (valid, None), (valid, memory_valid if pattern.cross else None)]))
    y, auxiliary = layer(x, memory, *masks)
    torch.testing.assert_close(y, softmax_layer(layer, x, memory, *masks), atol=1e-12, rtol=1e-10)
    assert auxiliary == 0


@pytest.mark.parametrize("family", SOFTMAX)
@pytest.mark.parametrize("pattern", Pattern)
def test_who_sees_whom(family, pattern):
    """Row s of a batch has token s changed: exactly the outputs that may depend on it move, the others not by a bit."""
    layer = build(family, pattern)
    x, memory = tensors(pattern, 1)
    x = x.expand(N, -1, -1)
    memory = None if memory is None else memory.expand(N, -1, -1)
    changed = x + torch.eye(N, dtype=x.dtype).unsqueeze(-1)
    moved = (layer(changed, memory)[0] != layer(x, memory)[0]).any(-1)  # (changed token, output)
    may = {NS: torch.ones(N, N), CS: torch.ones(N, N).triu(), NC: torch.eye(N), CC: torch.eye(N)}[pattern]
    assert torch.equal(moved, may.bool())


@pytest.mark.parametrize("family", SOFTMAX)
@pytest.mark.parametrize("pattern", [NC, CC])
def test_every_query_sees_all_memory(family, pattern):
    layer = build(family, pattern)
    x, memory = tensors(pattern, 1)
    x, memory = x.expand(M, -1, -1), memory.expand(M, -1, -1)
    changed = memory + torch.eye(M, dtype=x.dtype).unsqueeze(-1)
    assert (layer(x, changed)[0] != layer(x, memory)[0]).any(-1).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", Pattern)
def test_padding_neither_shows_nor_counts(family, pattern):
    layer = build(family, pattern)
    x, memory = tensors(pattern)
    valid, memory_valid = some_valid([N, 4, 1], N), some_valid([3, M, 0], M) if pattern.cross else None
    y, _ = layer(x, memory, valid, memory_valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    spoilt = None if memory is None else memory.masked_fill(~memory_valid.unsqueeze(-1), -1e3)
    torch.testing.assert_close(layer(garbage, spoilt, valid, memory_valid)[0], y, atol=1e-12, rtol=1e-10)
    for row, (n, m) in enumerate(((N, 3), (4, M), (1, 0))):
        if m:
            alone, _ = layer(x[row : row + 1, :n], None if memory is None else memory[row : row + 1, :m])
            torch.testing.assert_close(alone, y[row : row + 1, :n], atol=1e-12, rtol=1e-10)
        elif pattern.cross:
            assert not y[row].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", Pattern)
def test_rows_of_a_batch_are_independent(family, pattern):
    layer = build(family, pattern)
    x, memory = tensors(pattern)
    y, _ = layer(x, memory)
    x[1:] = 7.0
    torch.testing.assert_close(layer(x, memory)[0][0], y[0], atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", [CS, CC])
@pytest.mark.parametrize("split", range(1, N))
@pytest.mark.parametrize("places", PLACES)
@torch.no_grad()
def test_prefill_and_steps_equal_forward(family, pattern, split, places):
    layer = build(family, pattern, **places)
    x, memory = tensors(pattern)
    memory_valid = some_valid([M, 2, 0], M) if pattern.cross else None
    expected, _ = layer(x, memory, None, memory_valid)
    y, state = layer.prefill(x[:, :split], memory, memory_valid)
    outputs = [y]
    for t in range(split, N):
        y, state = layer.step(x[:, t : t + 1], state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_needs_a_causal_pattern_and_memory_needs_cross(family):
    x, memory = tensors(NC)
    with pytest.raises(ValueError, match="cannot be decoded"):
        build(family, NS).prefill(x)
    with pytest.raises(ValueError, match="needs a memory"):
        build(family, CC)(x)
    with pytest.raises(ValueError, match="takes no memory"):
        build(family, CS)(x, memory)


def test_state_size_is_what_the_cache_holds():
    layer = build(Vanilla, CS)
    _, (seen, (cache, _)) = layer.prefill(tensors(CS)[0])
    assert seen == N
    assert layer.state_size(N) == (cache.k.numel() + cache.v.numel()) / 3
    assert build(Vanilla, CC).state_size(N, M) == 2 * M * DIM
    assert build(NoAttention, CS).state_size(N) == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_cache_keeps_everything_in_order(pieces):
    k = torch.randn(2, 3, sum(pieces), 4)
    parts = k.split(pieces, dim=2)
    cache = KVCache(parts[0], -parts[0])
    for part in parts[1:]:
        cache = cache.append(part, -part)
    assert torch.equal(cache.k, k)
    assert torch.equal(cache.v, -k)


@pytest.mark.parametrize("pattern", Pattern)
def test_none_adds_nothing(pattern):
    y, auxiliary = build(NoAttention, pattern)(*tensors(pattern))
    assert y.shape == (3, N, DIM)
    assert not y.any()
    assert auxiliary == 0


@pytest.mark.parametrize("family", SOFTMAX)
@pytest.mark.parametrize("pattern", Pattern)
def test_bfloat16_stays_near(family, pattern):
    layer = build(family, pattern).float()
    x, memory = (None if t is None else t.float().requires_grad_() for t in tensors(pattern))
    expected, _ = layer(x, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x, memory)
    torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.05)
    y.float().square().sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", SOFTMAX)
@pytest.mark.parametrize("pattern", Pattern)
def test_cuda_equals_cpu(family, pattern):
    layer = build(family, pattern)
    x, memory = tensors(pattern)
    expected, _ = layer(x, memory)
    y, _ = layer.cuda()(x.cuda(), None if memory is None else memory.cuda())
    torch.testing.assert_close(y.cpu(), expected, atol=1e-10, rtol=1e-10)
