"""How much memory a call needs at its worst moment, by PyTorch's own account of every CPU allocation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors allocated during `work` held at once, temporaries inside operators included.

    What lived before does not count. Memory that libraries take without asking PyTorch's allocator (a BLAS's own buffers) does
    not either.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
        del result
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events), default=0)
