"""What this machine has: Python, PyTorch, a GPU, cores, memory, disk. Looks, and changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Literal

import msgspec
import torch

from sparring.engine.errors import ConfigError

GB = 1 << 30


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU as PyTorch sees it."""

    name: str
    capability: str
    """Such as "8.6" for an A6000, "9.0" for an H100."""
    memory_gb: float
    free_gb: float


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would find here. A gigabyte is 2**30 bytes."""

    python: str
    torch: str
    torch_cuda: str
    """The CUDA that PyTorch was built for; empty for a CPU build."""
    device: Literal["cpu", "cuda"]
    gpu: Gpu | None
    cores: int
    """Those that this process may use."""
    ram_gb: float
    free_ram_gb: float
    disk_gb: float
    """Free where the process stands, which is where `runs/` goes."""


def look() -> Machine:
    """This machine, now."""
    gpu = _gpu()
    return Machine(
        python=platform.python_version(),
        torch=str(torch.__version__),
        torch_cuda=torch.version.cuda or "",
        device="cpu" if gpu is None else "cuda",
        gpu=gpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_gb=_round(_ram("MemTotal", "SC_PHYS_PAGES")),
        free_ram_gb=_round(_ram("MemAvailable", "SC_AVPHYS_PAGES")),
        disk_gb=_round(shutil.disk_usage(Path.cwd()).free),
    )


def memory_gb(device: Literal["cpu", "cuda"]) -> float:
    """All the memory that a run may plan with: the GPU's, or the machine's. Raises `ConfigError` where there is no GPU."""
    if device == "cpu":
        return _round(_ram("MemTotal", "SC_PHYS_PAGES"))
    gpu = _gpu()
    if gpu is None:
        raise ConfigError(
            "no GPU is here to plan for: set memory.device_gb to the memory of the one you mean (47.5 for an A6000, 79.1 for an "
            'H100), or device = "cpu"'
        )
    return gpu.memory_gb


def _gpu() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return Gpu(
        name=torch.cuda.get_device_name(),
        capability="{}.{}".format(*torch.cuda.get_device_capability()),
        memory_gb=_round(total),
        free_gb=_round(free),
    )


def _ram(field: str, pages: str) -> int:
    """Bytes, from Linux's own account where there is one: free pages alone leave out what the kernel would give back."""
    account = Path("/proc/meminfo")
    if account.is_file():
        for line in account.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _round(size: float) -> float:
    return round(size / GB, 2)
