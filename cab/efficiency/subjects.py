"""Subjects: one family at one level, with its inputs, ready to run a phase.

Levels
    mixer      the operation alone, on q, k, v after projection and head split
    attention  one attention layer with its projections (the level of the original CAB)
    stack      a whole stack with as many core parameters as vanilla's: the level at which all families compare
Phases
    forward    a full pass in eval mode, without gradients
    train      a full pass in train mode, the backward pass from the output and the auxiliary loss to parameters and
               inputs, and the update of the family's statistics; no optimizer, gradients are cleared before
    prefill    a prompt, in eval mode: outputs and the decoding state (causal patterns)
    decode     steps of one token after a prompt (causal patterns). Every call starts from a copy of the same state, so
               that none has a longer past than another; making the copy is not timed.

The design lengths are always the measured length: clusters, windows and solved widths are those of a family built for
it.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from attentions.base import (
    Attention,
    Mixer,
    Pattern,
    Shape,
    State,
    Unsupported,
    after_step,
    core_parameters,
)
from attentions.slots import Family, Slots

LEVELS = ("mixer", "attention", "stack")
PHASES = ("forward", "train", "prefill", "decode")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Decoding = Literal["state", "recomputation"]
DECODE_STEPS = 8
WARMUP_STEPS = 2
"""Decoding steps before the timed ones: a cache that grows by doubling grows at the first."""


@dataclass(frozen=True)
class TimedCall:
    """A call to be timed. `prepare` has to run before each call and is not timed."""

    call: Callable[[], object]
    prepare: Callable[[], object]
    steps: int = 1
    """Tokens per call in decode, else 1."""
    state_numbers: int | None = None
    """Numbers kept per sequence after the prompt, as the family reports them."""
    state_bytes: int | None = None
    """Bytes of the state after the prompt, for the whole batch."""
    decoding: Decoding | None = None


class Subject:
    """A family at a level and a length, with its inputs. Equal arguments give equal weights and inputs."""

    def __init__(
        self,
        family: Family,
        pattern: Pattern,
        level: str,
        shape: Shape,
        *,
        batch: int,
        precision: str = "float32",
        device: torch.device,
        seed: int = 0,
    ) -> None:
        """Inputs, and in cross patterns the memory, have length `shape.length`.

        Raises Unsupported if the family does not have the pattern or the level.
        """
        self.pattern, self.device = pattern, device
        self.shape = replace(shape, memory=shape.length if pattern.cross else 0)
        self.autocast_dtype = PRECISIONS[precision]
        with torch.random.fork_rng(devices=[]), torch.device("meta" if device.type == "meta" else "cpu"):
            torch.manual_seed(seed)
            self.owner, self.module = _build(family, pattern, level, self.shape)
            self.inputs, self.tokens = self._make_inputs(level, batch)
            self.gradient = torch.randn_like(self.inputs[0])
        self.owner.to(device)
        self.inputs = [x.to(device) for x in self.inputs]
        self.tokens = [x if x is None else x.to(device) for x in self.tokens]
        self.gradient = self.gradient.to(device)
        self.parameters = core_parameters(self.module)

    def _make_inputs(self, level: str, batch: int) -> tuple[list[Tensor], list[Tensor | None]]:
        """Inputs of a full pass, (B, N, D) or (B, H, N, d), and those of all decoding steps."""
        size = (batch, self.shape.length, self.shape.dim)
        token_size = (batch, WARMUP_STEPS + DECODE_STEPS, self.shape.dim)
        if level != "mixer":
            return [torch.randn(size) for _ in range(2 if self.pattern.cross else 1)], [torch.randn(token_size)]

        def split_heads(x: Tensor) -> Tensor:
            """As projections leave it: a transposed view, in the precision of autocast."""
            return x.to(self.autocast_dtype).unflatten(-1, (self.shape.heads, -1)).transpose(1, 2)

        q, k, v = (split_heads(torch.randn(size)) for _ in range(3))
        q_t, k_t, v_t = (split_heads(torch.randn(token_size)) for _ in range(3))
        return [q, k, v], [q_t, None, None] if self.pattern.cross else [q_t, k_t, v_t]

    def timed_call(self, phase: str) -> TimedCall:
        """The phase as a call. For decode this runs the prompt.

        Raises Unsupported for prefill and decode in patterns that are not causal.
        """
        if phase in ("prefill", "decode") and not self.pattern.causal:
            raise Unsupported(f"{phase}: {self.pattern} is not decoded token by token, only causal patterns are")
        self.owner.train(phase == "train")
        for x in self.inputs:
            x.requires_grad_(phase == "train")  # as between the layers of a model
        if phase == "forward":
            return TimedCall(lambda: self._without_gradients(self.module), _nothing)
        if phase == "train":
            return TimedCall(self._train, self._clear_gradients)
        _, state = self._without_gradients(self.module.prefill)
        numbers, size = self.module.state_size(self.shape.length, self.shape.memory), state_bytes(state)
        decoding: Decoding = "recomputation" if self.module.decodes_by_recomputation else "state"
        if phase == "prefill":
            return TimedCall(lambda: self._without_gradients(self.module.prefill), _nothing, 1, numbers, size, decoding)
        start = self._decode(state, range(WARMUP_STEPS))
        copies: list[State] = []  # at most one: a call takes it

        def prepare() -> None:
            copies[:] = [copy.deepcopy(start)]

        def call() -> State:
            return self._decode(copies.pop(), range(WARMUP_STEPS, WARMUP_STEPS + DECODE_STEPS))

        return TimedCall(call, prepare, DECODE_STEPS, numbers, size, decoding)

    def _autocast(self) -> torch.autocast:
        device = "cpu" if self.device.type == "meta" else self.device.type  # there is no autocast for meta
        return torch.autocast(device, self.autocast_dtype, enabled=self.autocast_dtype is not torch.float32)

    @torch.no_grad()
    def _without_gradients(self, run: Callable[..., Any]) -> Any:
        with self._autocast():
            return run(*self.inputs)

    def _train(self) -> None:
        with self._autocast():
            y, auxiliary = self.module(*self.inputs)
        outputs: list[Tensor] = []
        gradients: list[Tensor | None] = []
        if y.requires_grad:  # false for an operation that does nothing
            outputs.append(y)
            gradients.append(self.gradient.to(y.dtype))
        if auxiliary.requires_grad:
            outputs.append(auxiliary)
            gradients.append(None)
        if outputs:
            torch.autograd.backward(outputs, gradients)
        if self.device.type != "meta":  # statistics depend on values, which meta tensors do not have
            after_step(self.owner)

    def _clear_gradients(self) -> None:
        self.owner.zero_grad(set_to_none=True)
        for x in self.inputs:
            x.grad = None

    @torch.no_grad()
    def _decode(self, state: State, positions: Iterable[int]) -> State:
        """The state after the tokens at these positions."""
        with self._autocast():
            for t in positions:
                # The sequence is the second-to-last dimension, whether heads are split or not.
                token = [x if x is None else x[..., t : t + 1, :] for x in self.tokens]
                _, state = self.module.step(*token, state)
        return state


def _build(family: Family, pattern: Pattern, level: str, shape: Shape) -> tuple[nn.Module, Any]:
    """The module that has all parameters, and the part of it that is timed."""
    slots = Slots(family, pattern)
    if level == "stack":
        self_pattern = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
        stack = slots.stack("stack", shape, self_pattern, pattern if pattern.cross else None)
        return stack, stack
    shape = replace(shape, hidden=0, conv=0)
    if level == "mixer":
        shape = replace(shape, rotary=False, qk_norm=False)  # its inputs have them
    layer: Attention = slots.layer("layer", pattern, shape, 0, shape.depth)
    if level == "attention":
        return layer, layer
    mixer = cast(Mixer | None, getattr(layer, "mixer", None))
    if mixer is None:
        raise Unsupported(f"mixer: {type(layer).__name__} has no operation on q, k, v apart from its layer")
    return layer, mixer


def _nothing() -> None:
    pass


def state_bytes(state: State) -> int:
    """Bytes of all tensors that a state refers to. Shared storage counts once, parameters do not count."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    remaining: list[Any] = [state]
    while remaining:
        item = remaining.pop()
        if id(item) in seen or isinstance(item, nn.Module):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        elif isinstance(item, dict):
            remaining.extend(item.values())
        elif isinstance(item, list | tuple | set):
            remaining.extend(item)
        else:
            remaining.extend(vars(item).values() if hasattr(item, "__dict__") else ())
            slots = getattr(type(item), "__slots__", ())
            remaining.extend(getattr(item, name, None) for name in ([slots] if isinstance(slots, str) else slots))
    return sum(storages.values())
