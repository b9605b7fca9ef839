"""The machine: which device, what it is called, how fast and how full it is, and one allocator setting for everyone.

Why the allocator is set: glibc maps every block of 32 MB and more afresh and gives it back when it is freed, and the
kernel zeroes the pages again at each allocation. A CPU timing above that size then measures page faults (up to ten
times the arithmetic), which bends crossings and growth exponents. Raised thresholds keep freed blocks in the process.
"""

import ctypes
import os
import platform
import time
from pathlib import Path

import torch

from cab.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
MMAP_BYTES, TRIM_BYTES = 1 << 30, 2**31 - 1


def set_allocator() -> str:
    """Makes glibc keep large freed blocks; returns what was set, for the record. Calling it again changes nothing."""
    if platform.libc_ver()[0] != "glibc":
        return "default"
    libc = ctypes.CDLL(None)
    done = [libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES), libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)]
    return "glibc mmap_threshold=1GiB trim_threshold=2GiB" if all(done) else "default (mallopt refused)"


def resolve_device(name: str) -> torch.device:
    """ "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1" to a device that is there, or a UserError."""
    there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device("cuda:0" if len(there) > 1 else "cpu")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in there:
        raise UserError(f"device={name}: not on this machine (there is {', '.join(there)}); use one of these or auto")
    return torch.device(wanted)


def device_name(device: torch.device) -> str:
    """The model of the processor or of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all that was asked of it. A CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_gflops(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """The best of a few large matrix products, in GFLOP/s: the yardstick for a run, as machines differ and drift."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.rand(n, n, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up, and is never the best
        synchronize(device)
        start = time.perf_counter()
        a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated: what is free or held by torch for reuse, within the limit of the job."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    limits = [left for left in (_cgroup_left(),) if left is not None]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min([1024 * int(line.split()[1]), *limits])
    except OSError:
        pass
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def _cgroup_left(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container or a batch job may still take (cgroup version 2), or None where nothing limits it."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
    except OSError:
        own = ""
    left: list[int] = []
    folder = root / own
    while True:  # a limit may be set at any level above the process
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                left.append(max(0, int(limit) - int((folder / "memory.current").read_text())))
        except (OSError, ValueError):
            pass
        if folder == root or root not in folder.parents:
            return min(left, default=None)
        folder = folder.parent


def set_threads(threads: int | None) -> None:
    """CPU threads for torch; None leaves torch's own choice."""
    if threads is not None:
        torch.set_num_threads(threads)


def chosen_precision(wanted: str, device: torch.device) -> str:
    """ "float32" or "bfloat16" (autocast); "auto" takes bfloat16 on a CUDA device that has it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
