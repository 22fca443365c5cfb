"""What a library changes in the whole process while it loads is as it was before."""

from __future__ import annotations

import os
import random
import sys
import threading

import numpy as np
import pytest
import torch

from sparring.engine.vllm.process_state import kept


def change_everything() -> None:
    os.environ["SPARRING_NEW"] = "1"
    os.environ["SPARRING_OLD"] = "changed"
    os.environ["SPARRING_LEFT"] = "changed"
    os.environ.pop("SPARRING_GONE")
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    sys.excepthook = lambda *_: None
    torch.set_num_threads(3)
    torch.set_num_threads = lambda number: None  # as vLLM's CPU worker does
    torch.set_default_dtype(torch.float64)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_all_of_it_is_put_back_however_the_block_ended(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    for name in ("SPARRING_OLD", "SPARRING_GONE", "SPARRING_LEFT"):
        monkeypatch.setenv(name, "1")
    environment, hook, set_threads, threads = dict(os.environ), sys.excepthook, torch.set_num_threads, torch.get_num_threads()
    with kept():
        wanted = draws()
    try:
        with kept("SPARRING_NEW", "SPARRING_OLD", "SPARRING_GONE"):
            change_everything()
            if fails:
                raise KeyError("while loading")
    except KeyError:
        assert fails
    assert dict(os.environ) == environment | {"SPARRING_LEFT": "changed"}  # nobody asked for it
    assert sys.excepthook is hook
    assert torch.set_num_threads is set_threads
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() is torch.float32
    with kept():
        assert draws() == wanted


def test_it_puts_back_the_threads_of_the_thread_that_asks() -> None:
    """The engine is opened in a thread of its own, whose count of threads is its own too."""
    found: list[int] = []

    def other() -> None:
        torch.set_num_threads(1)
        with kept():
            torch.set_num_threads(2)
        found.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [1]
    torch.set_num_threads(before)
