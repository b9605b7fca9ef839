"""What is timed: one family at one level, ready to run a phase.

Levels
    mixer      the operation alone, on q, k, v after projection and head split
    attention  one attention layer with its projections (the level of the original CAB)
    stack      a whole stack whose core parameters equal vanilla's: the level on which all families meet
Phases
    forward    a full pass in eval mode, without gradients
    train      a full pass in train mode, the backward pass from the output and the auxiliary loss to parameters and
               inputs, and the update of the family's statistics; no optimiser, gradients cleared before
    prefill    a prompt, in eval mode: outputs and the state to decode from (causal patterns)
    decode     steps of one token after a prompt (causal patterns). The steps start from a fresh copy of the same state
               every time, so that no call sees a longer past than another; the copy is not timed.

At every length the design lengths are that length: clusters, windows and solved widths are those that the family would
have if it were built for it.
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
    Stack,
    State,
    Unsupported,
    after_step,
    core_parameters,
)
from attentions.slots import Family, Slots

LEVELS = ("mixer", "attention", "stack")
PHASES = ("forward", "train", "prefill", "decode")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DECODE_STEPS = 8
SETTLING_STEPS = 2
"""Steps before the timed ones: a cache that grows by doubling grows at the first."""


@dataclass(frozen=True)
class Work:
    """One timed call: `steps` tokens in decode, else 1. `prepare` comes before each call and is not part of it."""

    call: Callable[[], object]
    prepare: Callable[[], object]
    steps: int = 1
    state_numbers: int | None = None
    """Numbers kept per sequence after the prompt, by the family's own account."""
    state_bytes: int | None = None
    """Bytes that the state after the prompt holds on to, for the whole batch."""
    decoding: Literal["state", "recomputation"] | None = None


class Subject:
    """A family at a level and a length, with its inputs."""

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
        """`shape.length` is the length; inputs have it, and so has the memory in cross patterns."""
        shape = replace(shape, memory=shape.length if pattern.cross else 0)
        self.pattern, self.shape, self.device = pattern, shape, device
        self.autocast_dtype = PRECISIONS[precision]
        meta = device.type == "meta"
        with torch.random.fork_rng(devices=[]), torch.device("meta" if meta else "cpu"):
            torch.manual_seed(seed)
            self.owner, self.module = _build(family, pattern, level, shape)
            make = torch.empty if meta else torch.randn
            tokens = (batch, DECODE_STEPS + SETTLING_STEPS, shape.dim)
            if level == "mixer":
                # As projections leave them: (B, N, D) split into heads, a transposed view, in autocast's precision.
                def heads(x: Tensor) -> Tensor:
                    return x.to(self.autocast_dtype).unflatten(-1, (shape.heads, -1)).transpose(1, 2)

                kept = ("q", "k", "v")
                self.inputs = [heads(make(batch, shape.length, shape.dim)) for _ in kept]
                self.tokens: list[Tensor | None] = [heads(make(tokens)) for _ in kept]
                if pattern.cross:
                    self.tokens[1:] = [None, None]
            else:
                self.inputs = [make(batch, shape.length, shape.dim) for _ in range(2 if pattern.cross else 1)]
                self.tokens = [make(tokens)]
            self.gradient = torch.empty_like(self.inputs[0]) if meta else torch.randn_like(self.inputs[0])
        self.owner.to(device)
        self.inputs = [x.to(device) for x in self.inputs]
        self.tokens = [x if x is None else x.to(device) for x in self.tokens]
        self.gradient = self.gradient.to(device)
        self.parameters = core_parameters(self.module)

    def work(self, phase: str) -> Work:
        """The phase as a call. For decode this runs the prompt."""
        if phase in ("prefill", "decode") and not self.pattern.causal:
            raise Unsupported(f"{phase}: {self.pattern} is not decoded token by token, only causal patterns are")
        self.owner.train(phase == "train")
        for x in self.inputs:
            x.requires_grad_(phase == "train")  # as between the layers of a model
        if phase == "forward":
            return Work(lambda: self._without_gradients(self.module), _nothing)
        if phase == "train":
            return Work(self._train, self._clear)
        state = self._without_gradients(self.module.prefill)[1]
        numbers, size = self.module.state_size(self.shape.length, self.shape.memory), held_bytes(state)
        decoding: Literal["state", "recomputation"]
        decoding = "recomputation" if self.module.decodes_by_recomputation else "state"
        if phase == "prefill":
            return Work(lambda: self._without_gradients(self.module.prefill), _nothing, 1, numbers, size, decoding)
        settled = self._steps(state, range(SETTLING_STEPS))
        fresh: list[State] = []  # at most one state, used up by the next call

        def prepare() -> None:
            fresh[:] = [copy.deepcopy(settled)]

        def call() -> State:
            return self._steps(fresh.pop(), range(SETTLING_STEPS, SETTLING_STEPS + DECODE_STEPS))

        return Work(call, prepare, DECODE_STEPS, numbers, size, decoding)

    def _autocast(self) -> torch.autocast:
        device = "cpu" if self.device.type == "meta" else self.device.type  # meta knows no autocast
        return torch.autocast(device, self.autocast_dtype, enabled=self.autocast_dtype is not torch.float32)

    @torch.no_grad()
    def _without_gradients(self, run: Callable[..., Any]) -> Any:
        with self._autocast():
            return run(*self.inputs)

    def _train(self) -> None:
        with self._autocast():
            y, auxiliary = self.module(*self.inputs)
        ends = [(end, seed) for end, seed in ((y, self.gradient.to(y.dtype)), (auxiliary, None)) if end.requires_grad]
        if ends:  # an operation that does nothing has nothing to differentiate
            torch.autograd.backward([end for end, _ in ends], [seed for _, seed in ends])
        if self.device.type != "meta":  # statistics hold values, and meta tensors have none
            after_step(self.owner)

    def _clear(self) -> None:
        self.owner.zero_grad(set_to_none=True)
        for x in self.inputs:
            x.grad = None

    @torch.no_grad()
    def _steps(self, state: State, places: Iterable[int]) -> State:
        with self._autocast():
            for place in places:
                # The next token lies along the last dimension but one, whether heads are split or not.
                token = [x if x is None else x[..., place : place + 1, :] for x in self.tokens]
                _, state = self.module.step(*token, state)
        return state


def _build(family: Family, pattern: Pattern, level: str, shape: Shape) -> tuple[nn.Module, Any]:
    """The module that holds everything, and the part of it that is timed."""
    slots = Slots(family, pattern)
    if level == "stack":
        own = Pattern.CAUSAL_SELF if pattern.causal else Pattern.NONCAUSAL_SELF
        stack: Stack = slots.stack("stack", shape, own, pattern if pattern.cross else None)
        return stack, stack
    layer: Attention = slots.layer("layer", pattern, replace(shape, hidden=0), 0, shape.depth)
    if level == "attention":
        return layer, layer
    mixer = cast(Mixer | None, getattr(layer, "mixer", None))
    if mixer is None:
        raise Unsupported(f"mixer: {type(layer).__name__} has no operation on q, k, v apart from its layer")
    return layer, mixer


def _nothing() -> None:
    pass


def held_bytes(state: State) -> int:
    """Bytes of all tensors that a state refers to; storage that is shared counts once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [state]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, nn.Module):  # parameters are not state
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)
        else:
            waiting.extend(vars(item).values() if hasattr(item, "__dict__") else ())
            slots = getattr(type(item), "__slots__", ())
            waiting.extend(getattr(item, name, None) for name in ([slots] if isinstance(slots, str) else slots))
    return sum(storages.values())
