"""What vLLM samples against the learner: its log-probs are those of the policy that a sample names (float32, 1e-5 nats)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from sparring.engine.vllm.generator import VllmGenerator

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cold": {"temperature": 0.4},
    "hot": {"temperature": 2.0},
    "greedy": {"temperature": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_base_and_adapters_in_one_batch_each_have_their_own_log_probs(
    vllm: VllmGenerator, rig: Any, bound: float, options: dict[str, Any]
) -> None:
    adapters = [rig.adapter(1), rig.adapter(2), rig.adapter(3, modules=("q_proj", "down_proj"))]
    for number, adapter in enumerate(adapters):
        vllm.publish(str(number), adapter)
    policies = {None: rig.base} | {str(number): adapter.fingerprint for number, adapter in enumerate(adapters)}
    assert dict(vllm.adapters) == {name: policy for name, policy in policies.items() if name}
    names = list(policies)
    requests = [rig.request(p, seed=i, adapter=names[i % 4], **options) for i, p in enumerate(rig.prompts(24))]
    pairs = rig.sample_all(vllm, *requests)
    assert [sample.policy for _, sample in pairs] == [policies[request.adapter] for request in requests]
    assert rig.error(pairs) < bound
    for wrong in policies.values():
        others = [pair for pair in pairs if pair[1].policy != wrong]
        assert rig.error(others, policy=wrong) > 0.1


def test_tokens_without_an_adapter_have_none_though_every_slot_is_full(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """vLLM's own CPU path reads the last slot for them, which `vllm/cpu_lora.py` mends: it shows once that slot is used."""
    for seed in range(6):  # each of three names twice: all six slots have been written
        vllm.publish(str(seed % 3), rig.adapter(10 + seed))
    slots = {vllm._table.find(name).slot for name in vllm.adapters}  # type: ignore[union-attr]
    assert vllm.settings.num_slots - 1 in slots
    names = [None, *vllm.adapters]
    requests = [rig.request(p, seed=i, adapter=names[i % 4]) for i, p in enumerate(rig.prompts(12))]
    for batch in (requests, requests[::4]):  # in company, and nothing but base
        pairs = rig.sample_all(vllm, *batch)
        assert rig.error(pairs) < bound


def test_the_two_generators_agree(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """Token by token they draw differently, so the embedded one scores vLLM's ids: greedily, both must choose the same."""
    embedded = rig.torch()
    vllm.publish("policy", rig.adapter(1))
    embedded.publish("policy", rig.adapter(1))
    requests = [rig.request(p, temperature=0.0, adapter=("policy", None)[i % 2]) for i, p in enumerate(rig.prompts(10))]
    for (_, theirs), (_, ours) in zip(rig.sample_all(vllm, *requests), rig.sample_all(embedded, *requests), strict=True):
        assert theirs.token_ids == ours.token_ids
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=bound)
        assert (theirs.policy, theirs.finish_reason) == (ours.policy, ours.finish_reason)


def test_a_result_does_not_depend_on_its_companions(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """The same seed gives the same tokens alone, in a busy batch, and in another order."""
    vllm.publish("policy", rig.adapter(1))
    requests = [
        rig.request(p, seed=i, max_tokens=1 + i % 9, temperature=(0.0, 0.7, 1.0)[i % 3], adapter=(None, "policy")[i % 2])
        for i, p in enumerate(rig.prompts(24))
    ]
    together = rig.sample_all(vllm, *requests)
    backwards = rig.sample_all(vllm, *reversed(requests))[::-1]
    for request, (_, one), (_, other) in zip(requests, together, backwards, strict=True):
        ((_, alone),) = rig.sample_all(vllm, request)
        assert one.token_ids == other.token_ids == alone.token_ids
        assert one.logprobs == pytest.approx(alone.logprobs, abs=bound)
    assert len({tuple(sample.token_ids) for _, sample in together}) > 15


def test_seeds_tell_requests_apart(vllm: VllmGenerator, rig: Any) -> None:
    prompt = rig.prompts(1, 20, 20)[0]
    pairs = rig.sample_all(vllm, *(rig.request(prompt, seed=seed, max_tokens=12) for seed in (*range(8), -1, 2**63 - 2)))
    assert len({tuple(sample.token_ids) for _, sample in pairs}) == len(pairs)


def test_games_of_several_turns_in_company(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """Prompts that extend what was sampled: whole blocks are found in the cache, and nothing is lost by it."""
    vllm.publish("policy", rig.adapter(1))
    rng, pairs = random.Random(1), []

    async def game(index: int, prompt: list[int]) -> None:
        for turn in range(4):
            request = rig.request(prompt, seed=10 * index + turn, adapter=(None, "policy")[index % 2], session=str(index))
            sample = await vllm.sample(request)
            pairs.append((request, sample))
            prompt = prompt + sample.token_ids + [rng.randrange(96) for _ in range(rng.randint(0, 15))]
        vllm.end_session(str(index))

    async def main() -> None:
        await asyncio.gather(*(game(index, prompt) for index, prompt in enumerate(rig.prompts(12, 20, 50))))

    before = vllm.stats
    rig.run(main())
    assert rig.error(pairs) < bound
    spent = vllm.stats - before
    assert spent.cached_tokens > spent.prompt_tokens
    assert spent.cached_tokens + spent.prompt_tokens == sum(len(request.prompt_ids) for request, _ in pairs)
    assert spent.sampled_tokens == sum(len(sample.token_ids) for _, sample in pairs)
    assert spent.requests == len(pairs) == 48
    assert spent.seconds > 0
