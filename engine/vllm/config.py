"""`VllmConfig` and `MemoryConfig`: the settings of the vLLM generator and of the memory that it shares with the learner.

Plain records that import nothing heavy: `memory/plan.py` reads them without vLLM, `generator.py` with it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
NonNegative = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Gigabytes = Annotated[float, Meta(ge=0)]


class VllmConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the vLLM generator. A gigabyte is 2**30 bytes throughout."""

    max_num_seqs: NonNegative = 0
    """Requests computed at a time; 0 takes the run's `concurrency`."""
    max_num_batched_tokens: Count = 8192
    """Most tokens of one forward pass; longer prompts take several."""
    max_adapters: Count = 1
    """Adapters served at a time beside the base model (the policy, league members). Each takes two slots: one serves while the
    other is written."""
    max_lora_rank: NonNegative = 0
    """Highest rank of an adapter; 0 takes `learner.lora.rank`. Every slot takes memory for this rank."""
    kv_cache_gb: Gigabytes = 0.0
    """Memory of the KV cache; 0 takes what the memory plan leaves on a GPU, and on a CPU what `concurrency` games of
    `sampling.context` tokens take."""
    enforce_eager: bool = False
    """Run without CUDA graphs: slower decoding, less memory, a faster start. A CPU always does."""
    share_weights: bool = True
    """On a GPU, train on views of vLLM's own weights instead of a second copy of the base model."""


class MemoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The memory that generator and learner share. A gigabyte is 2**30 bytes."""

    device_gb: Gigabytes = 0.0
    """What the run may use of the GPU's memory; 0 takes all that the GPU has. A number lets the run be planned on any machine."""
    reserve_gb: Gigabytes = 1.5
    """Left alone: the CUDA context, cuBLAS workspaces, fragmentation."""
