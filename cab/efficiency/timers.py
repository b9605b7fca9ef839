"""How time, memory and FLOPs are measured.

Time. Several callables are measured together, in rounds: each is called once per round, in the same order, the device
synchronised before and after, garbage collection off. A machine that is busy for a while is then busy for all of them,
and the ratio of two callables *within* a round survives noise that ruins either time alone. Whoever calls warms up
every shape first: the first call pays for page faults, kernel selection and caches.

Memory. The peak above what was allocated at the start of one call. On CUDA the allocator's own peak, reset before. On
CPU the running sum of the profiler's memory events: unlike the size of the process it sees every block that torch
allocates, scratch space of kernels included, and nothing that was there before (nor that it is given back).

FLOPs. Matmul FLOPs (a multiply and an add are two) counted on meta tensors, where nothing is computed. Element-wise
work and softmax are not counted. Fused attention is opaque on a real device (it counts as 0 on CPU); on meta it is
decomposed, so it counts as the *dense* product: causal attention counts all N x N scores although a fused kernel skips
about half of them, and its backward pass counts 2x forward although a fused kernel recomputes the scores (2.5x).
"""

import gc
import os
import time
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from cab.machine import synchronize

Call = Callable[[], object]


def interleave(
    calls: Mapping[str, Call],
    rounds: int,
    device: torch.device,
    prepare: Mapping[str, Call] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every callable, one per round; `prepare` runs before a call of that name and is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                if prepare and name in prepare:
                    prepare[name]()
                synchronize(device)
                start = time.perf_counter()
                result = call()
                synchronize(device)
                seconds[name].append(time.perf_counter() - start)
                del result  # giving its memory back is not part of the call, nor of the next one
    finally:
        if enabled:
            gc.enable()
    return seconds


def peak_memory(call: Call, device: torch.device) -> int:
    """Bytes that one call needs at its worst moment above what is allocated before it."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's notes about itself are not for the terminal
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()  # kept until the profile ends, so that its release is not an event
    del result
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def matmul_flops(call: Call) -> int:
    """Matmul FLOPs of one call, which must work on meta tensors only."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
