"""How much memory each phase of a run takes on the device, at its worst moment.

On a GPU: what the driver says is in use at the end of the phase, which counts vLLM's pool and whatever PyTorch's allocator took
at its peak and keeps until the phase ends; and PyTorch's own counters, which go on counting a KV cache that is unmapped. On a
CPU: the resident set of the process, and its peak where the kernel lets it be reset (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from pathlib import Path

import msgspec
import torch

GB = 1 << 30


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a phase took, in GB of 2**30 bytes; what the device does not have is `None`."""

    in_use_gb: float
    """GPU: all memory in use at the end of the phase, as the driver sees it. CPU: the process's peak resident set."""
    torch_allocated_gb: float | None = None
    torch_reserved_gb: float | None = None

    def or_more(self, other: Peak | None) -> Peak:
        """The larger of each figure."""
        if other is None:
            return self
        return Peak(
            in_use_gb=max(self.in_use_gb, other.in_use_gb),
            torch_allocated_gb=_larger(self.torch_allocated_gb, other.torch_allocated_gb),
            torch_reserved_gb=_larger(self.torch_reserved_gb, other.torch_reserved_gb),
        )


class PhaseMemory:
    """Peaks by phase over all cycles.

    Example:
        >>> memory.begin()
        >>> learner.step(trajectories)
        >>> memory.end("learn")
        >>> memory.peaks["learn"].in_use_gb
        21.4
    """

    def __init__(self, device: torch.device, ballast: int = 0) -> None:
        self.cuda = device.type == "cuda"
        self.peaks: dict[str, Peak] = {}
        self._ballast = ballast
        """Bytes that something else holds of the GPU, left out of every figure."""

    def begin(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):  # no Linux, or not allowed: then the peak is that of the whole process
                Path("/proc/self/clear_refs").write_text("5")

    def end(self, phase: str) -> None:
        self.peaks[phase] = self._peak().or_more(self.peaks.get(phase))

    def held(self) -> int:
        """Bytes between two cycles, without garbage and without what an allocator only keeps for later."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
        elif hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
            libc.malloc_trim(0)
        return self._in_use()

    def _in_use(self) -> int:
        if self.cuda:
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            return total - free - self._ballast
        return _resident("VmRSS")

    def _peak(self) -> Peak:
        if not self.cuda:
            return Peak(in_use_gb=_resident("VmHWM") / GB)
        return Peak(
            in_use_gb=self._in_use() / GB,
            torch_allocated_gb=(torch.cuda.max_memory_allocated() - self._ballast) / GB,
            torch_reserved_gb=(torch.cuda.max_memory_reserved() - self._ballast) / GB,
        )


def hold_ballast(cap_gb: float) -> torch.Tensor:
    """Takes what a smaller GPU of `cap_gb` x 2**30 bytes would not have, as uint8, for as long as it is kept.

    A limit on PyTorch's allocator would not do: it counts vLLM's KV cache also while that is unmapped.
    """
    total = torch.cuda.mem_get_info()[1]
    return torch.empty(max(0, total - int(cap_gb * GB)), dtype=torch.uint8, device="cuda")


def _larger(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def _resident(field: str) -> int:
    """Bytes of the process: "VmRSS" now, "VmHWM" at the most since `begin`; the most of all time where there is no /proc."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
