"""Routing attention equals its definition in every pattern, keeps the contract, and moves its centroids as it says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.common import PLACES, some_valid
from reference.routing import grouped, nearest, norm, routing_layer, windowed
from torch.utils.flop_counter import FlopCounterMode

from attentions.base import Pattern, Shape, Unsupported, after_step
from attentions.ops.clustered import assigned_attention, grouped_attention, top_tokens, windowed_attention
from attentions.routing import Centroids, Routing

NS, CS, NC, CC = Pattern
DIM, N, M = 12, 23, 17
TIGHT = {"atol": 1e-11, "rtol": 1e-10}
WAYS = [(pattern, 0) for pattern in Pattern] + [(NS, 1), (CS, 1)]  # with the number of local heads
BOTH = pytest.mark.parametrize(("pattern", "local"), WAYS)


def build(pattern, local_heads=0, heads=3, clusters=4, window=5, places=PLACES[0], **options):
    torch.manual_seed(0)
    shape = Shape(DIM, heads, 2, 24, length=N, memory=M if pattern.cross else 0, **places)
    options = {"local_window": 4} | options
    layer = Routing(shape, pattern, 0, 2, clusters=clusters, window=window, local_heads=local_heads, **options)
    return layer.double()


def tensors(pattern, batch=3, n=N, m=M):
    torch.manual_seed(1)
    x = torch.randn(batch, n, DIM, dtype=torch.float64)
    return x, (torch.randn(batch, m, DIM, dtype=torch.float64) if pattern.cross else None)


def some_masks(pattern):
    return some_valid([N, 9, 1], N), some_valid([3, M, 0], M) if pattern.cross else None


def qkv(n, heads=2, dim=3, batch=2, device="cpu"):
    torch.manual_seed(2)
    return [torch.randn(batch, heads, n, dim, dtype=torch.float64, device=device, requires_grad=True) for _ in "qkv"]


# The strictly causal operator


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 50),
    window=st.integers(1, 60),
    count=st.integers(1, 6),
    block=st.integers(1, 8),
    tile=st.sampled_from([1, 60, 1 << 18]),
    kept=st.sampled_from([0, 1, 100]),
    seed=st.integers(0, 9),
)
def test_op_and_its_gradients_equal_the_definition(n, window, count, block, tile, kept, seed):
    """Whatever the blocks and tiles, and whichever scores are kept for the backward."""
    inputs = qkv(n)
    cluster = torch.randint(count, (2, 2, n), generator=torch.Generator().manual_seed(seed))
    expected = torch.stack(
        [
            torch.stack([windowed(*(x[b, h] for x in inputs), cluster[b, h].tolist(), window) for h in range(2)])
            for b in range(2)
        ]
    )
    weight = torch.cos(torch.arange(expected.numel(), dtype=expected.dtype)).view_as(expected)
    wanted = torch.autograd.grad(expected, inputs, weight)
    y = windowed_attention(*inputs, cluster, window, block, tile, kept)
    gradients = torch.autograd.grad(y, inputs, weight)
    torch.testing.assert_close(y, expected, **TIGHT)
    torch.testing.assert_close(gradients, wanted, **TIGHT)


def test_gradcheck():
    inputs = qkv(9)
    cluster = torch.tensor([0, 1, 0, 0, 1, 2, 0, 0, 1]).expand(2, 2, 9)
    assert torch.autograd.gradcheck(lambda *x: windowed_attention(*x, cluster, 3), inputs)
    scores, valid = torch.randn(2, 2, 3, 9, dtype=torch.float64), some_valid([9, 2], 9)
    group = top_tokens(scores, valid, 3)
    assert torch.autograd.gradcheck(lambda *x: grouped_attention(*x, group, group), inputs)
    assert torch.autograd.gradcheck(lambda *x: assigned_attention(*x, cluster, group), inputs)


def test_slots_without_a_token_count_nowhere():
    """Whatever they point at: neither as keys, nor in the mean over the groups of a query."""
    inputs = qkv(7)
    index = torch.rand(2, 2, 2, 3, 7).argsort(-1)[..., :4]  # of queries and keys, in 3 groups of 4 slots
    real = torch.rand(2, 2, 2, 3, 4) < 0.6
    y = grouped_attention(*inputs, *zip(index, real, strict=True))
    for b, h in ((b, h) for b in range(2) for h in range(2)):
        members = [
            [slots[held].tolist() for slots, held in zip(index[i, b, h], real[i, b, h], strict=True)] for i in range(2)
        ]
        torch.testing.assert_close(y[b, h], grouped(*(x[b, h] for x in inputs), *members), **TIGHT)


def test_work_grows_as_length_to_the_power_of_one_and_a_half():
    def flops(n):
        shape = Shape(64, 2, 1, 0, length=n)
        with torch.device("meta"):
            mixer = Routing(shape, CS, 0, 1).mixer
        inputs = qkv(n, dim=32, batch=1, device="meta")
        with FlopCounterMode(display=False) as counter:
            mixer(*inputs)[0].sum().backward()
        return counter.get_total_flops()

    assert flops(1 << 14) == pytest.approx(8 * flops(1 << 12), rel=0.1)


# The layer


@BOTH
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_equals_the_definition(pattern, local, data):
    n, m = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 20))
    layer = build(
        pattern,
        local,
        heads=data.draw(st.sampled_from([2, 3, 4])),  # from a head_dim of 3, where a norm leaves more than a sign
        clusters=data.draw(st.integers(1, 6)),
        window=data.draw(st.integers(1, M)),
        local_window=data.draw(st.integers(1, 9)),
        membership=data.draw(st.sampled_from(["strict", "balanced"])) if pattern is not CC else "strict",
        places=data.draw(st.sampled_from(PLACES)),
    )
    for scale in (layer.query_norm, layer.key_norm):
        if scale is not None:
            scale.weight.data.add_(torch.randn_like(scale.weight), alpha=0.3)
    table = layer.mixer.centroids.centroids
    table.mul_(torch.linspace(0.4, 1.6, table.shape[1]).unsqueeze(-1))  # only directions count
    x, memory = tensors(pattern, 2, n, m)
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(st.sampled_from([(None, None), (valid, None), (valid, memory_valid if pattern.cross else None)]))
    y, auxiliary = layer.eval()(x, memory, *masks)
    torch.testing.assert_close(y, routing_layer(layer, x, memory, *masks), **TIGHT)
    assert auxiliary == 0
    torch.testing.assert_close(layer.train()(x, memory, *masks)[0], y, **TIGHT)


def changed_by(layer, pattern, queries=True):
    """(changed token, output): which outputs move when one token of x, or of the memory, becomes another."""
    x, memory = tensors(pattern, 1)
    count = N if queries else M
    moved = torch.zeros(count, N, dtype=torch.bool)
    for seed in range(6):
        torch.manual_seed(seed)
        other = torch.randn(count, 1, DIM, dtype=x.dtype) * torch.eye(count, dtype=x.dtype).unsqueeze(-1) * 3
        batch, shared = x.expand(count, -1, -1), None if memory is None else memory.expand(count, -1, -1)
        y = layer(batch, shared)[0]
        changed = layer(batch + other, shared)[0] if queries else layer(batch, shared + other)[0]
        moved |= (changed - y).abs().amax(-1) > 1e-9
    return moved


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("pattern", "local"), [way for way in WAYS if way[0].causal])
def test_no_future_token_shows(pattern, local, training):
    assert not changed_by(build(pattern, local).train(training), pattern).tril(-1).any()


@pytest.mark.parametrize("training", [False, True])
def test_balanced_membership_is_seen_to_leak(training):
    """The paper's form: a later token pushes an earlier one out of its group."""
    layer = build(CS, membership="balanced").train(training)
    assert changed_by(layer, CS).tril(-1).any()
    x, _ = tensors(CS)
    assert (layer(x[:, :12])[0] - layer(x)[0][:, :12]).abs().max() > 1e-3
    with pytest.raises(Unsupported, match="cannot be decoded"):
        layer.prefill(x)


def test_every_allowed_token_is_reached():
    past = changed_by(build(CS, window=N, clusters=2), CS)
    assert past[torch.ones(N, N).triu().bool()].float().mean() > 0.95  # what joins the cluster of t, or leaves it
    both = changed_by(build(NS), NS)
    assert both[:3, -3:].any()  # from one end to the other
    assert both[-3:, :3].any()
    assert both.float().mean() > 0.7
    for pattern in (NC, CC):
        memory = changed_by(build(pattern), pattern, queries=False)
        assert memory.any(1).all()  # every memory token has an effect
        assert memory.any(0).all() or pattern is NC  # every query hears of memory, except, there, one in no group
        assert torch.equal(changed_by(build(CC), CC), torch.eye(N).bool())


@pytest.mark.parametrize(("pattern", "local"), [way for way in WAYS if way[0].causal])
def test_a_prefix_of_the_input_gives_a_prefix_of_the_output(pattern, local):
    """Also beyond the design length."""
    layer = build(pattern, local)
    x, memory = tensors(pattern, n=2 * N)
    y, _ = layer(x, memory)
    for n in range(1, 2 * N):
        torch.testing.assert_close(layer(x[:, :n], memory)[0], y[:, :n], **TIGHT)


@pytest.mark.parametrize(("pattern", "local", "membership"), [(*way, "strict") for way in WAYS] + [(CS, 1, "balanced")])
def test_padding_neither_shows_nor_counts(pattern, local, membership):
    layer = build(pattern, local, membership=membership)
    x, memory = tensors(pattern)
    valid, memory_valid = some_masks(pattern)
    y, auxiliary = layer(x, memory, valid, memory_valid)
    assert not y[~valid].any()
    garbage = x.masked_fill(~valid.unsqueeze(-1), 1e3)
    garbage[0] = x[0]
    spoilt = None if memory is None else memory.masked_fill(~memory_valid.unsqueeze(-1), -1e3)
    again, same = layer(garbage, spoilt, valid, memory_valid)
    torch.testing.assert_close(again, y, **TIGHT)
    torch.testing.assert_close(same, auxiliary, **TIGHT)
    for row, (n, m) in enumerate(zip((N, 9, 1), (3, M, 0), strict=True)):
        if m or not pattern.cross:
            alone, _ = layer(x[row : row + 1, :n], None if memory is None else memory[row : row + 1, :m])
            torch.testing.assert_close(alone, y[row : row + 1, :n], **TIGHT)
        else:
            assert not y[row].any()


@BOTH
def test_padding_gets_no_gradient_and_all_is_finite(pattern, local):
    layer = build(pattern, local, commitment=1.0)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    valid, memory_valid = some_masks(pattern)
    y, auxiliary = layer(x, memory, valid, memory_valid)
    (y.square().sum() + auxiliary).backward()
    for given_, mask in ((x, valid), (memory, memory_valid)):
        if given_ is not None:
            assert given_.grad.isfinite().all()
            assert not given_.grad[~mask].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@BOTH
def test_gradients_equal_those_of_the_definition(pattern, local):
    layer = build(pattern, local)
    x, memory = tensors(pattern)
    inputs = [t.requires_grad_() for t in (x, memory) if t is not None] + list(layer.parameters())
    masks = some_masks(pattern)
    outputs = layer(x, memory, *masks)[0], routing_layer(layer, x, memory, *masks)
    gradients, wanted = (torch.autograd.grad(y.square().sum(), inputs) for y in outputs)
    torch.testing.assert_close(gradients, wanted, **TIGHT)


@BOTH
def test_rows_of_a_batch_are_independent(pattern, local):
    layer = build(pattern, local)
    x, memory = tensors(pattern)
    y, _ = layer(x, memory)
    x[1:] = torch.randn_like(x[1:]) * 50
    torch.testing.assert_close(layer(x, memory)[0][0], y[0], **TIGHT)


@pytest.mark.parametrize(("pattern", "local"), [way for way in WAYS if way[0].causal])
@torch.no_grad()
def test_prefill_and_steps_equal_forward(pattern, local):
    layer = build(pattern, local)
    x, memory = tensors(pattern)
    memory_valid = some_masks(pattern)[1]
    expected, _ = layer(x, memory, None, memory_valid)
    for split in range(1, N):
        y, state = layer.prefill(x[:, :split], memory, memory_valid)
        _, (groups, ring, _) = state
        held = [*groups, *(() if ring is None else (ring.k, ring.v))]
        assert layer.state_size(split, M) == sum(t.numel() for t in held) / len(x)
        outputs = [y]
        for t in range(split, N):
            y, state = layer.step(x[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), expected, **TIGHT)


# Centroids


@BOTH
def test_centroids_move_in_after_step_only(pattern, local):
    layer = build(pattern, local)
    x, memory = tensors(pattern)
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    first = layer(x, memory)[0]
    assert torch.equal(layer(x, memory)[0], first)
    assert all(torch.equal(t, before[name]) for name, t in layer.state_dict().items())
    after_step(layer)
    moved = {name for name, t in layer.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {f"mixer.centroids.{name}" for name in ("centroids", "sums", "counts")}
    after = {name: t.clone() for name, t in layer.state_dict().items()}
    layer.eval()
    layer(x, memory)
    after_step(layer)
    layer.train()
    after_step(layer)  # nothing new was seen
    assert all(torch.equal(t, after[name]) for name, t in layer.state_dict().items())


@pytest.mark.parametrize("pattern", Pattern)
def test_moving_average_by_hand(pattern):
    """Over two micro-batches, of real tokens only, whatever padding holds."""
    layer = build(pattern, decay=0.9, dead=0.0, commitment=0.5)
    x, memory = tensors(pattern)
    valid, memory_valid = some_masks(pattern)
    table = layer.mixer.centroids
    old, losses = table.centroids.clone(), []
    for half in (slice(0, 2), slice(2, 3)):
        masks = valid[half], None if memory is None else memory_valid[half]
        losses.append(layer(x[half], None if memory is None else memory[half], *masks)[1])
    after_step(layer)
    sums, counts, expected = torch.zeros_like(old), torch.zeros(3, 4).double(), []
    for half in (slice(0, 2), slice(2, 3)):
        means = []
        seen = [(layer.query, x, valid)] + ([] if pattern is CS else [(layer.key, memory, memory_valid)])
        for linear, source, mask in seen:
            source, mask = (x, valid) if source is None else (source, mask)
            vectors = (source @ linear.weight.T).unflatten(-1, (3, 4))[half][mask[half]]  # (tokens, H, d)
            distances = []
            for h in range(3):
                for vector, c in zip(
                    vectors[:, h], nearest(vectors[:, h], old[h]) if len(vectors) else [], strict=True
                ):
                    sums[h, c] += norm(vector).detach()
                    counts[h, c] += 1
                    distances.append((norm(vector) - old[h, c]).square().sum().detach())
            means.append(sum(distances) / len(distances) if distances else torch.zeros(()).double())
        expected.append(0.5 * sum(means) / len(means))
    torch.testing.assert_close(torch.stack(losses).detach(), torch.stack(expected), **TIGHT)
    counts = 0.9 + 0.1 * counts
    total = counts.sum(-1, keepdim=True)
    smoothed = (counts + 1e-5) / (total + 4e-5) * total
    torch.testing.assert_close(table.centroids, (0.9 * old + 0.1 * sums) / smoothed.unsqueeze(-1), **TIGHT)


def test_commitment_pulls_towards_the_nearest_centroid():
    table = Centroids(2, 3, 4, decay=0.9, commitment=0.7, dead=0.0).double()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    valid = some_valid([5, 2], 5)
    index = table.nearest(x)
    own = torch.stack([table.centroids[h][index[:, h]] for h in range(2)], 1)
    expected = 0.7 * (x - own).square().sum(-1)[valid[:, None].expand(-1, 2, -1)].mean()
    loss = table.observe(x, index, valid)
    torch.testing.assert_close(loss, expected, **TIGHT)
    (gradient,), (wanted,) = (torch.autograd.grad(out, x) for out in (loss, expected))
    torch.testing.assert_close(gradient, wanted, **TIGHT)


def test_dead_centroids_take_half_of_a_full_cluster():
    torch.manual_seed(3)
    table = Centroids(1, 4, 16, decay=0.5, commitment=0.0, dead=0.1).double()
    x = norm(torch.randn(1, 1, 16).double() + 0.3 * torch.randn(1, 400, 16).double()).unsqueeze(0)  # one heap
    assert table.nearest(x).flatten().bincount().max() > 0.9 * 400
    for _ in range(12):
        table.observe(x, table.nearest(x), None)
        table.update()
        assert table.centroids.isfinite().all()
    assert table.nearest(x).flatten().bincount(minlength=4).min() > 0.1 * 400
    other = Centroids(1, 4, 16, decay=0.5, commitment=0.0, dead=0.0).double()
    for _ in range(12):
        other.observe(x, other.nearest(x), None)
        other.update()
    assert not other.nearest(x).flatten().bincount(minlength=4).min()  # nothing else would help


def test_who_is_revived_and_where():
    """The emptiest beside the fullest, at right angles to it, with half of its count; who has enough stays."""
    table = Centroids(1, 6, 4, decay=0.9, commitment=0.0, dead=0.1).double()
    table.counts.copy_(torch.tensor([8, 0.01, 1.5, 6, 0.02, 4]))
    table.sums.mul_(table.counts.unsqueeze(-1))
    (sums,), (counts,) = table.sums.clone(), table.counts.clone()
    for dead, full in ((1, 0), (4, 3)):
        middle = sums[full] / counts[full]
        side = sums[dead] - (sums[dead] @ middle) / (middle @ middle) * middle
        side = 0.1 * side * middle.norm() / side.norm()
        counts[dead] = counts[full] = counts[full] / 2
        sums[dead], sums[full] = (middle + side) * counts[full], (middle - side) * counts[full]
    table.accumulated = table.sums.clone(), table.counts.clone()  # of which an average is the same again
    table.update()
    torch.testing.assert_close((table.sums[0], table.counts[0]), (sums, counts), **TIGHT)


def test_statistics_are_summed_over_processes():
    alone, one_of_two = build(CS), build(CS)
    x, _ = tensors(CS)
    alone(x)
    alone(x)
    one_of_two(x)
    after_step(alone)
    after_step(one_of_two, lambda total: total.mul_(2))
    torch.testing.assert_close(one_of_two.state_dict(), alone.state_dict())


def test_centroids_follow_the_seed_and_are_saved():
    layer, same = build(CS), build(CS)
    assert torch.equal(layer.mixer.centroids.centroids, same.mixer.centroids.centroids)
    x, _ = tensors(CS)
    layer(x)
    after_step(layer)
    same.load_state_dict(layer.state_dict())
    for each in (layer, same):
        each(2 * x)
        after_step(each)
    assert torch.equal(layer.mixer.centroids.centroids, same.mixer.centroids.centroids)


@BOTH
def test_statistics(pattern, local):
    layer = build(pattern, local, clusters=2, window=3)
    x, memory = tensors(pattern)
    valid, memory_valid = some_masks(pattern)
    y, _ = layer(x, memory, valid, memory_valid)
    found = layer.statistics()
    torch.testing.assert_close(found["occupancy"].sum(-1), torch.ones(3 - local).double())
    mixed = torch.linalg.solve(layer.out.weight, y.unsqueeze(-1)).squeeze(-1).unflatten(-1, (3, 4))[:, :, local:]
    if not pattern.cross:  # there, a row without memory is 0 for another reason
        silent = (mixed[valid].abs().amax(-1) < 1e-12).double().mean().item()
        assert found["uncovered"].item() == pytest.approx(silent)
    assert (found["uncovered"] > 0) == (not pattern.causal)
    assert ("unread" in found) == (pattern is not CS)
    layer(-x, memory)
    layer(x, memory, valid, memory_valid)
    torch.testing.assert_close(layer.statistics(), found)  # of the last forward alone


# Options and numerics


def test_sizes_follow_from_the_design_length():
    def sizes(length, memory=0, pattern=CS, **options):
        mixer = Routing(Shape(DIM, 3, 2, 24, length=length, memory=memory), pattern, 0, 2, **options).mixer
        return mixer.centroids.clusters, mixer.window

    assert sizes(1024) == (32, 32)
    assert sizes(1000) == (31, 33)
    assert sizes(1) == (1, 1)
    assert sizes(1024, clusters=8) == (8, 128)
    assert sizes(1024, window=128) == (8, 128)
    assert sizes(16, memory=1024, pattern=CC) == (32, 32)


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        (CS, {"clusters": 0}, r"clusters=0 .*use 1 <= attention\.clusters <= 23"),
        (CS, {"window": 24}, r"window=24 .*use 1 <= attention\.window <= 23"),
        (CS, {"local_heads": 3}, "local_heads=3"),
        (CC, {"local_heads": 1}, r"local_heads=1 .*<= 0"),
        (NS, {"decay": 1.0}, "decay=1.0"),
        (NS, {"membership": "leaky"}, "membership='leaky'"),
        (CC, {"membership": "balanced"}, "a form of causal_self"),
    ],
)
def test_impossible_options_are_refused(pattern, options, message):
    with pytest.raises(ValueError, match=message):
        build(pattern, **options)


@BOTH
def test_bfloat16_stays_near(pattern, local):
    """Routing is in float32: only inputs are rounded, and no token of this draw lies on a border."""
    layer = build(pattern, local).float()
    x, memory = (None if t is None else t.float() for t in tensors(pattern))
    q, (k, v) = layer.queries(x), layer.keys_values(x if memory is None else memory)
    narrow = [t.detach().bfloat16().requires_grad_() for t in (q, k, v)]
    wide = [t.detach().float().requires_grad_() for t in narrow]
    expected, _ = layer.mixer(*wide)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, auxiliary = layer.mixer(*narrow)
        assert layer(x, memory)[0].isfinite().all()
    assert y.dtype == torch.bfloat16
    assert auxiliary.dtype == torch.float32
    assert (y - expected).norm() < 0.01 * expected.norm()
    gradients, wanted = (
        torch.autograd.grad(o.square().sum(), i, allow_unused=True) for o, i in ((y, narrow), (expected, wide))
    )
    for got, want in zip(gradients, wanted, strict=True):
        assert (got is None) == (want is None)
        assert got is None or (got - want).norm() <= 0.03 * want.norm()


@pytest.mark.parametrize("pattern", Pattern)
def test_meta_tensors(pattern):
    layer = build(pattern).to("meta")
    x, memory = (None if t is None else t.to("meta").requires_grad_() for t in tensors(pattern))
    y, auxiliary = layer(x, memory, torch.ones(3, N, dtype=torch.bool, device="meta"))
    (y.sum() + auxiliary).backward()
    after_step(layer)
    assert y.shape == x.grad.shape == x.shape


@pytest.mark.slow
@BOTH
def test_compiled_equals_eager_mode(pattern, local):
    layer = build(pattern, local)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    masks = some_masks(pattern)
    expected, loss = layer(x, memory, *masks)
    compiled = torch.compile(layer)
    y, auxiliary = compiled(x, memory, *masks)
    torch.testing.assert_close((y, auxiliary), (expected, loss), **TIGHT)
    (gradient,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
    torch.testing.assert_close(gradient, wanted, **TIGHT)
    sums, counts = layer.mixer.centroids.accumulated
    layer.mixer.centroids.accumulated = None
    layer(x, memory, *masks)
    torch.testing.assert_close([sums, counts], [2 * t for t in layer.mixer.centroids.accumulated], **TIGHT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BOTH
def test_cuda_equals_cpu(pattern, local):
    layer = build(pattern, local)
    x, memory = (None if t is None else t.requires_grad_() for t in tensors(pattern))
    expected, loss = layer(x, memory)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    layer.mixer.centroids.accumulated = None
    y, auxiliary = layer.cuda()(x.cuda(), None if memory is None else memory.cuda())
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close((y.cpu(), auxiliary.cpu()), (expected, loss), atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-8)
    after_step(layer)
    assert layer.mixer.centroids.centroids.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pattern", Pattern)
def test_cuda_bfloat16_autocast_stays_finite_at_length(pattern):
    shape = Shape(256, 4, 1, 0, length=4096, memory=4096 if pattern.cross else 0)
    layer = Routing(shape, pattern, 0, 1).cuda()
    x, memory = (torch.randn(2, 4096, 256, device="cuda", requires_grad=True) for _ in range(2))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y, auxiliary = layer(x, memory if pattern.cross else None)
        (y.float().square().sum() + auxiliary).backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
