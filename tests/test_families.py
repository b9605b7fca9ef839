"""What every family of conf/attention keeps beyond cab.check: declared state, half precision, memory, compilation.

A family with `layer(layer, x, memory, valid, memory_valid)` in tests/reference/<family>.py is compared with it here, at
random lengths and masks.
"""

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from helpers.largest_tensor import LargestTensor
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from reference.common import some_valid

from attentions.base import Shape
from attentions.slots import is_stack
from cab import ROOT
from cab.compose import built_in_families
from cab.efficiency.subjects import state_bytes

DIM, HEADS, N, M = 24, 3, 45, 21
DESIGN = {"length": 32, "memory": 20}


def family(name, small=True):
    """The class of a YAML with its options, those of `check:` if small."""
    options = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "attention" / f"{name}.yaml"))
    check = options.pop("check", {})
    options = {key: value for key, value in options.items() if not (isinstance(value, str) and "${" in value)}
    return instantiate({**options, **(check if small else {})})


FAMILIES = [name for name in built_in_families() if not is_stack(family(name))]
CELLS = [(name, pattern) for name in FAMILIES for pattern in family(name).func.support]
CAUSAL = [(name, pattern) for name, pattern in CELLS if pattern.causal]


def with_layer_reference(name):
    found = find_spec(f"reference.{name}")
    return found is not None and hasattr(import_module(f"reference.{name}"), "layer")


def build(name, pattern, length=DESIGN["length"], small=True, dim=DIM, heads=HEADS, **shape):
    memory = DESIGN["memory"] if pattern.cross else 0
    torch.manual_seed(0)
    return family(name, small)(Shape(dim, heads, 2, 4 * dim, length, memory, **shape), pattern, 0, 2).double()


def inputs(pattern, batch=2, n=N, m=M, dim=DIM):
    torch.manual_seed(1)
    x = torch.randn(batch, n, dim, dtype=torch.float64)
    return x, (torch.randn(batch, m, dim, dtype=torch.float64) if pattern.cross else None)


@pytest.mark.parametrize(
    ("name", "pattern"), [(name, pattern) for name, pattern in CELLS if with_layer_reference(name)]
)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_layer_equals_its_reference(name, pattern, data):
    n, m = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 40))
    places = data.draw(st.sampled_from([{}, {"rotary": True}, {"rotary": True, "qk_norm": True}]))
    layer = build(name, pattern, heads=data.draw(st.sampled_from([1, 2, 3])), **places)
    layer.train(data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(0, 2))):
        layer.after_step()
    x, memory = inputs(pattern, 2, n, m)
    valid = some_valid(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)), n)
    memory_valid = some_valid(data.draw(st.lists(st.integers(0, m), min_size=2, max_size=2)), m)
    masks = data.draw(st.sampled_from([(None, None), (valid, None), (valid, memory_valid if pattern.cross else None)]))
    y, auxiliary = layer(x, memory, *masks)
    expected = import_module(f"reference.{name}").layer(layer, x, memory, *masks)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-9)
    assert auxiliary == 0


@pytest.mark.parametrize(("name", "pattern"), CAUSAL)
@torch.no_grad()
def test_the_state_has_the_declared_size(name, pattern):
    """Up to a few whole numbers, such as the count of tokens."""
    layer = build(name, pattern).eval()
    x, memory = inputs(pattern, batch=1)
    _, state = layer.prefill(x, memory)
    numbers = state_bytes(state) / x.element_size()
    assert layer.state_size(N, M) <= numbers <= layer.state_size(N, M) + 4


@pytest.mark.parametrize(("name", "pattern"), CELLS)
def test_autocast_stays_near(name, pattern):
    """The median token: where a choice is hard, rounding can turn it for a few. Rounding alone gives at most 0.0053;
    Lightning's sum over a memory of so many tokens, if it is kept in bfloat16, 0.0093."""
    layer = build(name, pattern).float().eval()
    parts = inputs(pattern, n=1024, m=1024)
    x, memory = (None if part is None else part.float().requires_grad_() for part in parts)
    expected, _ = layer(x, memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x, memory)
    assert (y - expected).norm(dim=-1).median() <= 0.0075 * expected.norm(dim=-1).median()
    if y.requires_grad:
        y.float().square().sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize(("name", "pattern"), CELLS)
def test_meta_tensors(name, pattern):
    layer = build(name, pattern).to("meta")
    x, memory = (None if part is None else part.to("meta").requires_grad_() for part in inputs(pattern))
    y, _ = layer(x, memory)
    assert y.shape == x.shape


@pytest.mark.parametrize(("name", "pattern"), [cell for cell in CELLS if cell[0] != "eager"])
def test_memory_does_not_grow_with_the_square(name, pattern):
    """No tensor of a pass has a quarter of the N x M scores of all heads."""
    n = 4096
    layer = build(name, pattern, length=n, small=False, dim=16, heads=4).float()
    x, memory = (None if part is None else part.float() for part in inputs(pattern, 1, n, n, dim=16))
    with LargestTensor() as largest:
        y, auxiliary = layer(x.requires_grad_(), memory)
        if y.requires_grad:
            (y.square().sum() + auxiliary).backward()
    assert largest.numbers <= 4 * n * n // 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pattern"), CELLS)
def test_compiled_equals_eager_mode(name, pattern):
    layer = build(name, pattern).eval()
    x, memory = (None if part is None else part.requires_grad_() for part in inputs(pattern))
    expected, _ = layer(x, memory)
    y, _ = torch.compile(layer)(x, memory)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=1e-9)
    if expected.requires_grad:
        (gradient,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
        torch.testing.assert_close(gradient, wanted, atol=1e-9, rtol=1e-8)
