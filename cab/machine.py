"""The machine: devices, their names, speed and free memory, and the memory allocator.

Why the allocator is set: glibc maps every block of 32 MB or more and returns it when it is freed, and the kernel
clears the pages again at each allocation. CPU timings of larger operations then measure page faults, up to ten times
the arithmetic, which distorts crossings and growth exponents. With raised thresholds freed blocks stay in the process.
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
    """Makes glibc keep large freed blocks; returns the setting for the record. Further calls have no effect."""
    if platform.libc_ver()[0] != "glibc":
        return "default"
    libc = ctypes.CDLL(None)
    accepted = libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES) and libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
    return "glibc mmap_threshold=1GiB trim_threshold=2GiB" if accepted else "default (mallopt refused)"


def resolve_device(name: str) -> torch.device:
    """The device for "auto" (CUDA if available), "cpu", "cuda" or "cuda:1". Raises UserError if there is no such."""
    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device("cuda:0" if len(available) > 1 else "cpu")
    full_name = "cuda:0" if name == "cuda" else name
    if full_name not in available:
        raise UserError(
            f"device={name}: not on this machine (there is {', '.join(available)}); use one of these or auto"
        )
    return torch.device(full_name)


def device_name(device: torch.device) -> str:
    """The model name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _proc_value("cpuinfo", "model name") or platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Waits for all work queued on a CUDA device. Does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_gflops(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Speed of large matrix products in GFLOP/s, the best of a few: a reference, as machines differ and drift."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.rand(n, n, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # one more to warm up
        synchronize(device)
        start = time.perf_counter()
        a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best / 1e9


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: free or cached by torch, within the memory limit of the job."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _proc_value("meminfo", "MemAvailable")  # "123 kB"
    free = 1024 * int(available.split()[0]) if available else total
    limit = free_cgroup_memory()
    return free if limit is None else min(free, limit)


def free_cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a container or batch job may still allocate (cgroup version 2); None if nothing limits it."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
    except OSError:
        own = ""
    folder = root / own
    free: list[int] = []
    for level in (folder, *folder.parents):  # a limit may be set at any level above the process
        if level != root and root not in level.parents:
            break
        try:
            limit = (level / "memory.max").read_text().strip()
            if limit != "max":
                free.append(max(0, int(limit) - int((level / "memory.current").read_text())))
        except (OSError, ValueError):
            continue
    return min(free, default=None)


def _proc_value(file: str, key: str) -> str:
    """The first value of a key in a file of /proc, "" if there is none."""
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return ""
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return values[0] if values else ""


def set_threads(threads: int | None) -> None:
    """Sets torch's number of CPU threads; None keeps torch's default."""
    if threads is not None:
        torch.set_num_threads(threads)


def chosen_precision(wanted: str, device: torch.device) -> str:
    """ "float32" or "bfloat16" (autocast). "auto" is bfloat16 on CUDA devices that support it, else float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
