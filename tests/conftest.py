"""What every test stands on: one thread, no network, and examples that are the same on every run."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Set before anything imports torch: on two cores, tiny models are fastest on one thread that does not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"

# No deadline: the machine may be busy. For fresh examples: pytest --hypothesis-profile=default.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

LOCAL = {"localhost", "127.0.0.1", "::1"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sparring needs no network unless a partner is on it: a connection that leaves this machine fails the test."""
    refused: list[str] = []
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOCAL:
            refused.append(str(address))
            raise ConnectionRefusedError(f"tests stay on this machine: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    yield
    assert not refused, f"the test tried to reach {refused}"
