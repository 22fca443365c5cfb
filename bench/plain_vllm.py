"""vLLM as its users know it, on the engine that a `VllmGenerator` has open: `LLM.generate`, and adapters loaded from disk.

What Sparring is compared to. The `LLM` is vLLM's own, made around the very same engine, so that both sides have the same weights,
KV cache, adapter slots and kernels, in one process and one run: what differs is who feeds it. The only file of the benchmarks
that touches vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import MethodType
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

from sparring.engine.vllm.contact import IN_MEMORY, SALT
from sparring.engine.vllm.generator import VllmGenerator
from sparring.rollout.sampler import SampleRequest

T = TypeVar("T")

FIRST_ID = 1 << 30
"""Adapter ids of publications count from 1; those from disk keep clear of them."""


class Replayed(NamedTuple):
    """A request, and how many tokens were sampled for it."""

    request: SampleRequest
    num_tokens: int


class Generated(NamedTuple):
    """What `LLM.generate` sampled for each request, and how long the call took."""

    token_ids: list[list[int]]
    seconds: float


class PlainVllm:
    """`LLM` on a generator's engine. While it is at work, the generator must have no requests.

    Example:
        >>> plain = PlainVllm(generator)
        >>> plain.generate(replayed).seconds
        4.7
    """

    def __init__(self, generator: VllmGenerator) -> None:
        from vllm import LLM
        from vllm.v1.engine.llm_engine import LLMEngine

        self._generator = generator
        self._thread = generator._thread
        self._engine: Any = generator._contact._engine
        with patch.object(LLMEngine, "from_engine_args", lambda **_: self._engine):
            self._llm = self.call(lambda: LLM(model=generator.settings.model, skip_tokenizer_init=True))
        self._number = FIRST_ID

    def call(self, function: Callable[[], T]) -> T:
        """In the engine's thread."""
        return self._thread.call(function)

    def generate(self, replayed: Sequence[Replayed]) -> Generated:
        """All requests in one call of `LLM.generate`: each one's own prompt, seed, temperature and adapter, and exactly
        `num_tokens` tokens."""
        arguments = self._arguments(replayed)
        started = perf_counter()
        outputs = self.call(lambda: self._llm.generate(**arguments))
        seconds = perf_counter() - started
        return Generated([list(output.outputs[0].token_ids) for output in outputs], seconds)

    def _arguments(self, replayed: Sequence[Replayed]) -> dict[str, Any]:
        from vllm import SamplingParams

        params = [
            SamplingParams(
                temperature=request.temperature,
                seed=request.seed & (1 << 62) - 1,
                max_tokens=number,
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            for request, number in replayed
        ]
        prompts = [self._prompt(request) for request, _ in replayed]
        return {
            "prompts": prompts,
            "sampling_params": params,
            "lora_request": [self._published(request.adapter) for request, _ in replayed],
            "use_tqdm": False,
        }

    def reset_prefix_cache(self) -> None:
        self.call(self._engine.reset_prefix_cache)

    def load(self, folder: Path, *, adapter: int, in_place: bool = False) -> None:
        """Loads the adapter in `folder` under the id; `in_place` replaces what the id stood for."""
        request = self._from_disk(folder, adapter, in_place=in_place)
        self.call(lambda: self._engine.add_lora(request))

    def unload(self, adapter: int) -> None:
        self.call(lambda: self._engine.remove_lora(adapter))

    def new_id(self) -> int:
        self._number += 1
        return self._number

    @contextmanager
    def own_lora_path(self) -> Iterator[None]:
        """On a CPU: inside, adapters are applied by vLLM's own code, not by `cpu_lora.py`'s."""
        self.call(lambda: self._engine.collective_rpc(_ungroup))
        try:
            yield
        finally:
            self.call(lambda: self._engine.collective_rpc("sparring_group_lora"))

    def _from_disk(self, folder: Path, adapter: int, *, in_place: bool) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest(lora_name=f"disk-{adapter}", lora_int_id=adapter, lora_path=str(folder), load_inplace=in_place)

    def _prompt(self, request: SampleRequest) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": request.prompt_ids}
        if request.adapter is not None:
            prompt["cache_salt"] = SALT + self._generator._find(request.adapter).label
        return prompt

    def _published(self, name: str | None) -> Any:
        from vllm.lora.request import LoRARequest

        if name is None:
            return None
        version = self._generator._find(name)
        return LoRARequest(lora_name=version.label, lora_int_id=version.number, lora_path=IN_MEMORY)


def _ungroup(worker: Any) -> None:
    for wrapper in worker._sparring_manager().punica_wrapper_mapping.values():
        for method in ("update_metadata", "add_lora_linear"):
            setattr(wrapper, method, MethodType(getattr(type(wrapper), method), wrapper))
