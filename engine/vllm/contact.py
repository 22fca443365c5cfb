"""Everything that touches vLLM, and every internal that Sparring relies on: environment, engine, requests, memory.

Owns the engine that runs in this process; what it does inside vLLM's worker is `worker.py`'s, which versions it may be
`support.py`'s, and `generator.py` makes a `Generator` of it. One test in
`tests/engine/vllm/test_vllm_contract.py` stands for each thing relied upon, so that a new release of vLLM says what it broke:

- `LLMEngine` built in-process from `EngineArgs`; its `engine_core` client takes an `EngineCoreRequest`, steps, and aborts.
- An `EngineCoreOutput` carries new ids, their log-probs, a finish reason, and how many prompt tokens were cached.
- The worker's LoRA manager keeps `lora_index_to_id`, `_registered_adapters` and `_active_adapters`, and wrapped layers with
  `lora_a_stacked` [slots, 1, rank, in] and `lora_b_stacked` [slots, 1, out, rank] for each packed part.
- On a CPU, layers apply adapters through `add_lora_linear` of the manager's punica wrappers.
- The prefix cache is keyed by the adapter's name and by `cache_salt`.
- On CUDA the KV cache is allocated under the tag "kv_cache" and can be discarded and mapped again at its old address.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from packaging.version import Version
from torch import Tensor

from sparring.engine.errors import GeneratorError
from sparring.engine.vllm.layout import Slots
from sparring.engine.vllm.process_state import kept
from sparring.engine.vllm.support import CPU_BLOCK_SIZE, CPU_SEEDS_SINCE, LORA_RANKS, installed, unusable
from sparring.rollout.sampler import FinishReason, SampleRequest

EXTENSION = "sparring.engine.vllm.worker.SparringWorker"
IN_MEMORY = "in memory"
"""Stands where vLLM wants an adapter's path: nothing is ever read from it."""
SALT = "sparring/"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What this way of running vLLM cannot do without."""
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Pinned threads starve beside a learner."""
LOADING = ("LD_PRELOAD", "TORCHDYNAMO_DISABLE", "VLLM_CPU_KVCACHE_SPACE", "VLLM_HOST_IP")
"""Set otherwise while vLLM loads only: it preloads libraries into later children; on a CPU it compiles one small function with a
C++ compiler, which takes seconds and gains nothing; the size would win over the one that is asked for; and before 0.28 it looks
for an address on the network, which one process does not need."""
RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
"""One runner on CPU and CUDA, so that what CI runs is what a GPU runs. On a GPU a user's environment may choose the other one."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What the generator asks of vLLM's engine, sizes in bytes."""

    model: str
    dtype: torch.dtype
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_slots: int
    max_lora_rank: int
    lora_modules: tuple[str, ...]
    """Last parts of the names of the layers that may be adapted; every other one is spared the work."""
    kv_cache_bytes: int
    cpu: bool
    quantization: Literal["bitsandbytes"] | None = None
    enforce_eager: bool = False
    memory_fraction: float = 0.9
    """Of the GPU's memory, what vLLM may find in use when it starts."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to a request."""

    request_id: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None
    cached_tokens: int
    """Prompt tokens whose KV was reused; counted once, when the prompt was computed."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter version as vLLM's requests name it."""

    lora_id: int
    name: str


_live: Contact | None = None
"""vLLM's process groups and its allocator are the process's: ending one engine would end another's."""


class Contact:
    """vLLM's engine in this process. Every method belongs to one thread.

    Raises `GeneratorError` where vLLM cannot be used or refuses the model.
    """

    def __init__(self, settings: EngineSettings) -> None:
        if (reason := unusable()) is not None:
            raise GeneratorError(f'generator = "vllm": {reason}; or set generator = "torch"')
        global _live
        if _live is not None:
            raise GeneratorError(
                "a process holds one vLLM engine, and on a GPU one in its whole life, since the learner's weights are the "
                "engine's: close the other generator first, or start another process"
            )
        self.settings = settings
        with kept(*LOADING):
            os.environ.update(RUNNER | dict(os.environ) | ENVIRONMENT | (RUNNER | CPU_ENVIRONMENT if settings.cpu else {}))
            if settings.cpu:
                os.environ["TORCHDYNAMO_DISABLE"] = "1"
            os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
            os.environ["VLLM_HOST_IP"] = "127.0.0.1"
            logging.getLogger("vllm").setLevel(logging.CRITICAL)  # an error comes as an exception; its log dumps every request
            gc.freeze()  # vLLM collects garbage five times while it loads: over its own objects, not over ours
            self._engine = _open_engine(settings)
        _live = self
        self._core: Any = self._engine.engine_core
        self._scheduler: Any = self._core.engine_core.scheduler
        if settings.cpu:
            self._worker("sparring_group_lora")
            if Version(installed() or "") < CPU_SEEDS_SINCE:
                self._worker("sparring_heed_seeds")

    @property
    def vocab_size(self) -> int:
        """Of the model, padding left out."""
        return int(self._engine.model_config.get_vocab_size())

    # Requests

    def add(self, request_id: str, request: SampleRequest, served: Served | None) -> None:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine import EngineCoreRequest

        try:
            params = SamplingParams(
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed & (1 << 62) - 1,
                max_tokens=request.max_tokens,
                stop_token_ids=list(request.stop_ids),
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
        except VLLMValidationError as error:  # not a ValueError in every version
            raise GeneratorError(str(error)) from error
        self._core.add_request(
            EngineCoreRequest(
                request_id=request_id,
                prompt_token_ids=list(request.prompt_ids),
                mm_features=None,
                sampling_params=params,
                pooling_params=None,
                arrival_time=time.time(),
                lora_request=None
                if served is None
                else LoRARequest(lora_name=served.name, lora_int_id=served.lora_id, lora_path=IN_MEMORY),
                cache_salt=None if served is None else SALT + served.name,
                data_parallel_rank=None,
            )
        )

    def abort(self, request_ids: Sequence[str]) -> None:
        self._core.abort_requests(list(request_ids))

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do, be it only to forget finished requests or to collect a batch that is computed."""
        return bool(self._scheduler.has_requests() or self._core.engine_core.batch_queue)

    @property
    def num_requests(self) -> int:
        """Requests that the scheduler holds, waiting or running."""
        return int(self._scheduler.get_num_unfinished_requests())

    def step(self) -> list[Delta]:
        """Computes one step for all requests, and says what it brought to each."""
        return [_delta(output) for output in self._core.get_output().outputs]

    def reset_prefix_cache(self) -> None:
        """Forgets all keys and values. Raises `GeneratorError` while a request uses some."""
        if not self._core.reset_prefix_cache():
            raise GeneratorError("vLLM still uses its KV cache, which cannot be released: wait for its requests, or cancel them")

    # Weights and memory, through the worker extension

    def slots(self) -> Mapping[str, Slots]:
        """The buffers of every layer that may be adapted, by its name in the Hugging Face model."""
        return self._worker("sparring_slots")  # type: ignore[no-any-return]

    def bind(self, slot: int, served: Served) -> None:
        """Requests for `served` use what is in the slot from now on."""
        self._worker("sparring_bind", slot, served.lora_id, self.settings.max_lora_rank)

    def unbind(self, served: Served) -> None:
        self._worker("sparring_unbind", served.lora_id)

    def bound(self) -> dict[int, int]:
        """Adapter ids by slot."""
        return self._worker("sparring_bound")  # type: ignore[no-any-return]

    def parameters(self) -> dict[str, Tensor]:
        """vLLM's own parameters by name, LoRA wrappers left out of the names. They are the weights, not copies."""
        return self._worker("sparring_parameters")  # type: ignore[no-any-return]

    def release_kv(self) -> None:
        """Gives the KV cache's memory back and nothing else."""
        self.reset_prefix_cache()
        self._worker("sparring_release_kv")

    def resume_kv(self) -> None:
        """Takes the KV cache back at its old address, empty."""
        self._worker("sparring_resume_kv")

    def kv_cache_bytes(self) -> int:
        """Memory of the KV cache: 0 while it is released."""
        return self._worker("sparring_kv_cache_bytes")  # type: ignore[no-any-return]

    def close(self) -> None:
        """Ends the engine and gives its memory back."""
        global _live
        if not self.settings.cpu and not self.kv_cache_bytes():
            self.resume_kv()  # vLLM's allocator fails on what is freed while it is unmapped
        with kept():
            self._core.shutdown()
        self._engine = self._core = self._scheduler = None  # whoever still holds this holds no memory by it
        if self.settings.cpu:
            _live = None

    def _worker(self, method: str, *args: Any) -> Any:
        return self._core.collective_rpc(method, None, args)[0]


def _open_engine(settings: EngineSettings) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    device: dict[str, Any] = {
        "enforce_eager": True,
        # A seeded request whose prompt is computed in parts ends vLLM's CPU engine: its generators cannot step back.
        "enable_chunked_prefill": False,
        "block_size": CPU_BLOCK_SIZE,
        "max_num_batched_tokens": max(settings.max_num_batched_tokens, settings.max_model_len),
    }
    if not settings.cpu:
        device = {
            "enforce_eager": settings.enforce_eager,
            "max_num_batched_tokens": settings.max_num_batched_tokens,
            "enable_sleep_mode": True,
            "gpu_memory_utilization": settings.memory_fraction,
        }
    args = EngineArgs(
        model=settings.model,
        skip_tokenizer_init=True,
        quantization=settings.quantization,
        dtype=str(settings.dtype).removeprefix("torch."),  # type: ignore[arg-type]
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_memory_bytes=settings.kv_cache_bytes,
        enable_prefix_caching=True,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        enable_lora=True,
        max_loras=settings.num_slots,
        max_cpu_loras=settings.num_slots,
        max_lora_rank=_lora_rank(settings.max_lora_rank),
        lora_target_modules=list(settings.lora_modules),
        worker_extension_cls=EXTENSION,
        use_tqdm_on_load=False,
        disable_log_stats=True,
        seed=0,
        **device,
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)
            return LLMEngine.from_engine_args(args)
    except Exception as error:  # vLLM, Transformers and safetensors raise of every kind over a model that they cannot read
        raise GeneratorError(f'vLLM cannot serve {settings.model!r}: {_reason(error)} (or set generator = "torch")') from error


def _reason(error: Exception) -> str:
    """One line of it. The first that pydantic writes only counts what follows."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    counted = len(lines) > 1 and re.match(r"\d+ validation errors? for ", lines[0])
    return lines[1].partition(" [type=")[0].removeprefix("Value error, ") if counted else lines[0]


def _lora_rank(wanted: int) -> Any:
    """The next of the ranks that vLLM has kernels for."""
    for rank in LORA_RANKS:
        if rank >= wanted:
            return rank
    raise GeneratorError(f"vLLM serves adapters of rank {LORA_RANKS[-1]} at most, not {wanted}: set learner.lora.rank lower")


def _delta(output: Any) -> Delta:
    logprobs = output.new_logprobs
    reason = None if output.finish_reason is None else str(output.finish_reason)
    ended = reason in ("stop", "length")
    return Delta(
        request_id=output.request_id,
        token_ids=output.new_token_ids,
        logprobs=[] if logprobs is None else logprobs.logprobs[:, 0].tolist(),
        finish_reason=reason if ended else None,  # type: ignore[arg-type]
        cached_tokens=0 if output.prefill_stats is None else output.prefill_stats.num_cached_tokens,
        error=None if ended or reason in (None, "abort") else f"vLLM ended the request with {reason!r}",
    )
