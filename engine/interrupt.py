"""Ending a run from outside: SIGTERM, with which schedulers and containers end a job, is heard as Ctrl-C is."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def until_told_to_end(work: Coroutine[Any, Any, T]) -> T:
    """The work's result. At SIGTERM it is cancelled, ends what it has open, and `KeyboardInterrupt` is raised.

    Only the main thread hears signals; in any other this is the work alone.
    """
    events, running, told = asyncio.get_running_loop(), asyncio.current_task(), False

    def end() -> None:
        nonlocal told
        told = True
        assert running is not None
        running.cancel()

    heard = threading.current_thread() is threading.main_thread()
    if heard:
        events.add_signal_handler(signal.SIGTERM, end)
    try:
        return await work
    except asyncio.CancelledError:
        if told:
            raise KeyboardInterrupt from None
        raise
    finally:
        if heard:
            events.remove_signal_handler(signal.SIGTERM)
