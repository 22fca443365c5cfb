"""What to say of a memory plan that does not fit: which phase is over by how much, and which setting mends it, with a value.

Each suggestion is found by planning again with that one setting changed, so a value that is named is a value that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import msgspec

from sparring.engine.config import RunConfig
from sparring.engine.errors import MemoryPlanError
from sparring.engine.memory.ledger import GB, LORA_RANKS
from sparring.engine.memory.model_shape import ModelShape
from sparring.engine.memory.plan import MemoryPlan, draw_up

LARGEST = 3
"""Items that a refusal names."""


def refuse(config: RunConfig, shape: ModelShape, plan: MemoryPlan) -> NoReturn:
    """Raises `MemoryPlanError` for a plan that does not fit."""
    raise MemoryPlanError(refusal(config, shape, plan))


def refusal(config: RunConfig, shape: ModelShape, plan: MemoryPlan) -> str:
    """What does not fit, by how much, and the way out."""
    found = [
        " with ".join(f"{key} = {_toml(value)}" for key, value in changes.items()) for changes in suggestions(config, shape, plan)
    ]
    if found:
        way_out = f"any one of these makes it fit: {', '.join(found)}"
    else:
        way_out = f"no single setting is enough: lower several of {', '.join(_keys(config, plan))}, or take a smaller model"
    return f"model {config.model!r} does not fit: {'; '.join(problems(plan))}; {way_out}"


def problems(plan: MemoryPlan) -> list[str]:
    """What does not fit, one clause each; none for a plan that does."""
    where = "memory.device_gb" if plan.device == "cuda" else "RAM"
    found = []
    for phase in plan.phases:
        over = phase.bytes - plan.device_bytes
        if over > 0:
            largest = sorted(phase.items, key=lambda item: -item.bytes)[:LARGEST]
            names = ", ".join(f"{item.name} {item.bytes / GB:.1f}" for item in largest)
            need = f"{phase.bytes / GB:.1f} GB where {where} is {plan.device_gb:g}"
            found.append(f"the {phase.name} phase needs {need}, {over / GB:.2f} GB too much (largest: {names})")
    cache = plan.kv_cache
    if cache.games < cache.least_games:
        held = f"the KV cache of {cache.bytes / GB:.2f} GB holds {cache.games} games of a full sampling.context"
        found.append(f"{held}, and needs to hold {cache.least_games} for this concurrency")
    return found


def suggestions(config: RunConfig, shape: ModelShape, plan: MemoryPlan) -> Iterator[dict[str, Any]]:
    """Changes of one setting, or of two that go together, to the largest value below today's that makes the plan fit."""

    def fits(keys: Sequence[str], value: Any) -> bool:
        changed = config
        for key in keys:
            changed = _replace(changed, key.split("."), value)
        return draw_up(changed, shape, plan.device_gb, device=plan.device, generator=plan.generator).fits

    for keys, values in _candidates(config, plan):
        value = _largest(values, partial(fits, keys))
        if value is not None:
            yield dict.fromkeys(keys, value)


def _candidates(config: RunConfig, plan: MemoryPlan) -> Iterator[tuple[tuple[str, ...], Sequence[Any]]]:
    """Settings that may help, each with its values from the most frugal to the most lavish, all below the present one.

    A budget below the context saves nothing, since a game that fills its context makes a batch of its own.
    """
    context, budget, vllm = config.sampling.context, config.learner.token_budget, config.vllm
    yield ("learner.token_budget",), range(-(-context // 256) * 256, budget, 256)
    contexts = range(_least_context(config), context, 256)
    yield ("sampling.context",), contexts
    if budget > contexts.start:
        yield ("sampling.context", "learner.token_budget"), contexts
    yield ("learner.lora.rank",), [rank for rank in (1, 2, 4, *LORA_RANKS[1:]) if rank < config.learner.lora.rank]
    if plan.generator == "vllm":
        sequences = vllm.max_num_seqs or config.concurrency
        yield ("vllm.max_num_batched_tokens",), range(max(512, sequences), vllm.max_num_batched_tokens, 512)
        yield ("vllm.max_num_seqs",), range(8, sequences, 8)
        yield ("vllm.max_adapters",), range(1, vllm.max_adapters)
        yield ("vllm.kv_cache_gb",), [_other_cache(config, plan)]
    yield ("concurrency",), range(8, config.concurrency, 8)
    if plan.generator == "vllm" and plan.device == "cuda":
        if not vllm.share_weights and config.quantization == "none":
            yield ("vllm.share_weights",), [True]
        if not vllm.enforce_eager:
            yield ("vllm.enforce_eager",), [True]
        if config.quantization == "none":
            yield ("quantization",), ["nf4"]


def _other_cache(config: RunConfig, plan: MemoryPlan) -> float:
    """What a GPU leaves, where another size was asked for; otherwise as much as the games need."""
    if config.vllm.kv_cache_gb and plan.device == "cuda":
        return 0.0
    cache = plan.kv_cache
    return math.ceil(10 * cache.least_games * config.sampling.context * cache.bytes_per_token / GB) / 10


def _least_context(config: RunConfig) -> int:
    """Room for a prompt as long as a message, at least."""
    return -(-2 * config.sampling.max_tokens // 256) * 256


def _keys(config: RunConfig, plan: MemoryPlan) -> list[str]:
    return [keys[0] for keys, values in _candidates(config, plan) if values and len(keys) == 1]


def _largest(values: Sequence[Any], fits: Callable[[Any], bool]) -> Any:
    """By bisection: where a value fits, every one before it does. `None` where not even the first fits."""
    if not values or not fits(values[0]):
        return None
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle)
    return values[low]


def _replace(config: Any, keys: Sequence[str], value: Any) -> Any:
    """The settings with one of them changed."""
    first, *rest = keys
    inner = _replace(getattr(config, first), rest, value) if rest else value
    return msgspec.structs.replace(config, **{first: inner})


def _toml(value: Any) -> str:
    return msgspec.json.encode(value).decode()
