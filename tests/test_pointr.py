"""PoinTr: neighbours by brute force, edge convolutions as published, slots, what a completed cloud depends on."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attentions.base import Attention, Pattern, Shape, Unsupported, core_parameters
from attentions.fit import FIT
from attentions.lightning import Lightning
from attentions.none import NoAttention
from attentions.slots import Slots
from attentions.vanilla import Vanilla
from tasks.backbones import pointops
from tasks.backbones.pointops import SLOPE, EdgeConvolution, Grouping, neighbour_maximum, neighbours
from tasks.backbones.pointr import Fold, Geometry, PoinTr, Sublayer

NS, CS, NC, CC = Pattern
SHAPE = Shape(dim=16, heads=2, depth=2, hidden=32, length=24, memory=16)


def make(pattern: Pattern = NS, family: object = Vanilla, shape: Shape = SHAPE, geometric: int = 1) -> PoinTr:
    torch.manual_seed(0)
    return PoinTr(
        Slots(partial(family), pattern), shape, decoder_layers=2, geometric_layers=geometric, width=32, fold=2
    )


def cloud(batch: int = 3, points: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(seed)) / 4


@pytest.mark.parametrize("entries", [1, 500, 2**21])
def test_neighbours_by_brute_force(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pointops.ENTRIES, "cpu", entries)
    centres, points = cloud(points=20), cloud(points=33, seed=1)
    found = neighbours(centres, points, 5).sort(2).values
    distance = (centres[:, :, None] - points[:, None]).double().norm(dim=-1)
    assert torch.equal(found, distance.argsort(2)[:, :, :5].sort(2).values)


def test_largest_by_brute_force() -> None:
    x, near = torch.randn(2, 9, 4).requires_grad_(), torch.randint(9, (2, 7, 3))
    expected = torch.stack([row[places].amax(1) for row, places in zip(x, near, strict=True)])
    found = neighbour_maximum(x, near)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(2, 7, 4)
    (gradient,) = torch.autograd.grad((found * weights).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weights).sum(), x)[0])


def test_edge_convolution_is_a_map_of_edges() -> None:
    """As it is written: of [x_j - x_i ; x_i], rectified, then the maximum. Without the norm, which stands elsewhere."""
    torch.manual_seed(0)
    x, near = torch.randn(2, 11, 8), torch.randint(11, (2, 6, 4))
    layer = EdgeConvolution(8, 12)
    layer.norm = nn.Identity()
    u, v = layer.other.weight, layer.own.weight
    edges = torch.stack([row[places] for row, places in zip(x, near, strict=True)])  # (B, N, k, C)
    own = x[:, :6].unsqueeze(2).expand_as(edges)
    mapped = torch.cat([edges - own, own], -1) @ torch.cat([u, u + v], 1).T + layer.own.bias
    torch.testing.assert_close(layer(x, near), F.leaky_relu(mapped, SLOPE).amax(2))
    geometry = Geometry(8)
    attended = torch.randn(2, 11, 8)
    near = torch.randint(11, (2, 11, 4))
    u, v = geometry.other.weight, geometry.own.weight
    edges = torch.stack([row[places] for row, places in zip(x, near, strict=True)])
    own = x.unsqueeze(2).expand_as(edges)
    mapped = torch.cat([edges - own, own], -1) @ torch.cat([u, u + v], 1).T + geometry.own.bias
    expected = geometry.merge(torch.cat([attended, F.leaky_relu(mapped, SLOPE).amax(2)], -1))
    torch.testing.assert_close(geometry(attended, x, x, near), expected)


def test_folding_is_one_network_for_all_places() -> None:
    torch.manual_seed(0)
    fold, x = Fold(8, 16, 3), torch.randn(2, 5, 8)
    assert fold(x).shape == (2, 5, 9, 3)
    assert fold.grid.tolist() == [[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)]
    torch.testing.assert_close(fold(x)[:, 3], fold(x[:, 3:4])[:, 0])


@pytest.mark.parametrize(("points", "coarse"), [(40, 48), (18, 42)])
def test_what_is_given_is_kept(points: int, coarse: int) -> None:
    """In the dense cloud all of it, in the coarse one as many points as there are queries."""
    given = cloud(points=points)
    few, dense, auxiliary = make()(given)
    assert few.shape == (3, coarse, 3)
    assert dense.shape == (3, 24 * 4 + points, 3)
    assert torch.equal(few[:, 24:], given[:, :24])
    assert torch.equal(dense[:, 96:], given)
    assert auxiliary == 0


@pytest.mark.parametrize("pattern", [NS, NC])
def test_rows_are_independent_and_all_points_matter(pattern: Pattern) -> None:
    model, given = make(pattern).double(), cloud().double()
    few, dense, _ = model(given)
    for place in (0, 15, 20, 39):
        moved = given.clone()
        moved[1, place] += 0.05
        coarse, after, _ = model(moved)
        for one, other in ((few, coarse), (dense, after)):
            torch.testing.assert_close(one[[0, 2]], other[[0, 2]])
        assert (after[1, :96] - dense[1, :96]).abs().amax() > 1e-6
        assert (coarse[1, :24] - few[1, :24]).abs().amax() > 1e-6


def test_order_beyond_the_proxies_does_not_matter() -> None:
    """Those before are samples of the cloud; the others are only looked at as neighbours."""
    model, given = make().double(), cloud(points=80).double()
    order = torch.cat([torch.arange(64), 64 + torch.randperm(16)])
    torch.testing.assert_close(model(given)[1][:, :96], model(given[:, order])[1][:, :96])
    assert not torch.allclose(model(given)[1][:, :96], model(given.flip(1))[1][:, :96])


def test_grouping_counts() -> None:
    for points, proxies in ((40, 16), (200, 16), (64, 64)):
        assert Grouping(proxies)(cloud(points=points)).shape == (3, proxies, 128)


@pytest.mark.parametrize(("pattern", "taken"), [(NS, ["encoder.self", "decoder.self"]), (NC, ["decoder.cross"])])
def test_slots_have_the_lengths_that_they_see(pattern: Pattern, taken: list[str]) -> None:
    slots = Slots(partial(NoAttention), pattern)
    model = PoinTr(slots, SHAPE, decoder_layers=3, geometric_layers=1, width=32, fold=2)
    assert slots.took == taken
    assert slots.excess == 0
    seen: dict[Attention, tuple[int, int]] = {}

    def note(module: nn.Module, given: tuple) -> None:
        assert isinstance(module, Attention)
        seen[module] = (given[0].shape[1], 0 if given[1] is None else given[1].shape[1])

    for module in model.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(note)
            assert type(module) is (NoAttention if module.pattern is pattern else Vanilla)
    model(cloud())
    sizes = [(m.pattern, m.shape.length, m.shape.memory) for m in seen]
    assert sizes == [(NS, 16, 0)] * 2 + [(NS, 24, 0), (NC, 24, 16)] * 3
    assert list(seen.values()) == [(length, memory) for _, length, memory in sizes]
    assert [(m.layer, m.layers) for m in seen] == [(0, 2), (1, 2)] + [(i, 3) for i in range(3) for _ in "sc"]


@pytest.mark.parametrize("family", [NoAttention, partial(Lightning, block=4)])
@pytest.mark.parametrize("pattern", [NS, NC])
def test_budgets_are_equal(pattern: Pattern, family: object) -> None:
    shape = replace(SHAPE, dim=32, hidden=128)
    own, vanilla = make(pattern, family, shape), make(pattern, Vanilla, shape)
    assert core_parameters(own) == pytest.approx(core_parameters(vanilla), rel=0.01)
    for layer in own.decoder:
        assert layer.feedforward.net[0].out_features == layer.cross.attention.shape.hidden != 128


def test_geometric_layers_come_first() -> None:
    for geometric in range(3):
        model = make(geometric=geometric)
        sublayers = [(s.own,) for s in model.encoder], [(s.own, s.cross) for s in model.decoder]
        for layers in sublayers:
            for index, layer in enumerate(layers):
                assert all((part.geometry is not None) == (index < geometric) for part in layer)


def test_geometry_looks_at_the_nearest_of_the_memory() -> None:
    """Under cross attention that ignores the memory, a memory token reaches the queries that it is near to."""
    torch.manual_seed(0)
    layer = Sublayer(NoAttention(SHAPE, NC, 0, 1), geometric=True)
    x, memory, near = torch.randn(1, 24, 16), torch.randn(1, 16, 16), torch.randint(15, (1, 24, 3))
    before = layer(x, memory, near)[0]
    for place in (0, 7, 15):
        moved = memory.clone()
        moved[0, place] = torch.randn(16) * 3
        changed = (layer(x, moved, near)[0] - before).abs().amax(-1)[0] > 1e-5
        assert torch.equal(changed, (near[0] == place).any(-1))


def test_a_whole_stack_is_refused() -> None:
    with pytest.raises(Unsupported, match="the slot is a single layer, the family is a whole stack"):
        make(NS, FIT)


def test_all_parameters_get_gradients() -> None:
    model = make()
    coarse, dense, _ = model(cloud())
    (coarse.square().sum() + dense.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().amax() > 0, name


def test_half_precision_keeps_coordinates() -> None:
    model, given = make(), cloud()
    with torch.autocast("cpu", torch.bfloat16):
        coarse, dense, _ = model(given)
    assert coarse.dtype == dense.dtype == torch.float32
    assert torch.equal(dense[:, 96:], given)
    exact = model(given)[1]
    assert (dense - exact).abs().amax() < 0.05
