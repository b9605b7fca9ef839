"""Time, memory and FLOPs of calls.

Time. Several callables are timed together in rounds: each is called once per round, in the same order, with the device
synchronized before and after and garbage collection off. Other load on the machine then affects all of them, and the
ratio of two callables within a round is robust to noise that would spoil either time alone. The caller has to warm up
every shape: a first call pays for page faults, kernel selection and caches.

Memory. The peak above what was allocated at the start of one call. On CUDA it is the allocator's peak, reset before the
call. On a CPU it is the peak of the running sum of the profiler's memory events. Unlike the size of the process, that
includes every block that torch allocates, also temporary space of kernels, and nothing that was allocated before.

FLOPs. Matmul FLOPs (a multiply and an add are two) counted on meta tensors, on which nothing is computed. Element-wise
operations and softmax are not counted. On a real device fused attention may count as 0; on meta it is decomposed and
counts as the dense product. So causal attention counts all N x N scores although a fused kernel skips about half of
them, and its backward pass counts 2x forward although a fused kernel recomputes the scores (2.5x).
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
    """Seconds of every callable, one per round. `prepare[name]` runs before each call of that name and is not timed."""
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
                del result  # so that freeing its memory is not part of the next call
    finally:
        if enabled:
            gc.enable()
    return seconds


def peak_memory(call: Call, device: torch.device) -> int:
    """Peak bytes of one call above what is allocated before it."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # hides the profiler's messages
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()  # alive until the profile ends, so that freeing it is not an event
    del result
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def matmul_flops(call: Call) -> int:
    """Matmul FLOPs of one call, all of whose tensors have to be on the meta device."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
