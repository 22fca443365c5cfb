"""Keeping what a library changes in the whole process while it loads: random states, threads, hooks, some of the environment.

vLLM seeds every global generator, replaces `torch.set_num_threads` on a CPU, takes the exception hook and puts LD_PRELOAD into
the environment of every later child. Whoever loads it inside `kept` gets all of that back.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept(*variables: str) -> Iterator[None]:
    """Afterwards all of it, and these environment variables, are as before, however the block ended."""
    environment = {name: os.environ.get(name) for name in variables}
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    hook, set_threads, threads, dtype = sys.excepthook, torch.set_num_threads, torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        sys.excepthook = hook
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
