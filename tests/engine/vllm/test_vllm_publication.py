"""Publication to vLLM's slots: under requests, with every slot busy, when it fails, and what the prefix cache may give.

Scores are the learner's, with the adapter that a sample's `policy` names (float32, 1e-5 nats).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparring.engine.errors import FenceError, GeneratorError
from sparring.engine.vllm import layout as adapter_layout
from sparring.engine.vllm.generator import VllmGenerator
from sparring.learner.adapter import LoraSpec

Patch = pytest.MonkeyPatch
Idle = Callable[[VllmGenerator], None]


def contents(generator: VllmGenerator) -> list[tuple[int, ...]]:
    slots = range(generator.settings.num_slots)
    return generator._thread.call(lambda: [adapter_layout.slot_checksum(generator._layers, slot) for slot in slots])


def test_a_hundred_publications_in_a_row_under_requests(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """Eight players never pause; every sample has the log-probs of the version that it names."""
    pairs: list[Any] = []
    published: list[str] = []
    going = True

    async def player(number: int) -> None:
        for turn in range(10_000):
            if not going:
                return
            (prompt,) = rig.prompts(1, 1, 40, seed=number % 3)
            served = vllm.adapters["policy"]
            request = rig.request(prompt, seed=turn, max_tokens=1 + number % 5, adapter="policy")
            sample = await vllm.sample(request)
            assert sample.policy == served  # what was served when it was asked, whatever came since
            pairs.append((request, sample))

    async def main() -> None:
        nonlocal going
        vllm.publish("policy", rig.adapter(0))
        players = [asyncio.create_task(player(number)) for number in range(8)]
        for number in range(100):
            adapter = rig.adapter(number % 7)
            vllm.publish("policy", adapter)
            assert vllm.adapters["policy"] == adapter.fingerprint
            published.append(adapter.fingerprint)
            samples = len(pairs)
            await rig.until(lambda samples=samples: len(pairs) >= samples + 2)
        going = False
        await asyncio.gather(*players)

    rig.run(main())
    assert len(published) == 100
    assert {sample.policy for _, sample in pairs} >= set(published)
    assert rig.error(pairs) < bound
    wrong = published[0]
    assert rig.error([pair for pair in pairs if pair[1].policy != wrong], policy=wrong) > 0.1


def test_requests_in_flight_finish_on_the_version_they_began_with(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    (prompt,) = rig.prompts(1, 40, 40)
    old, new = rig.adapter(1), rig.adapter(2)
    vllm.publish("policy", old)

    async def main() -> list[Any]:
        request = rig.request(prompt, max_tokens=60, adapter="policy")
        steps = vllm.stats.steps
        started = asyncio.create_task(vllm.sample(request))
        await rig.until(lambda: vllm.stats.steps > steps + 3)
        vllm.publish("policy", new)
        assert not started.done()
        after = await vllm.sample(request)
        return [(request, await started), (request, after)]

    pairs = rig.run(main())
    assert [sample.policy for _, sample in pairs] == [old.fingerprint, new.fingerprint]
    assert rig.error(pairs) < bound


def test_unpublishing_leaves_those_in_flight_alone(vllm: VllmGenerator, rig: Any, bound: float, idle: Idle) -> None:
    vllm.publish("league", rig.adapter(1))
    request = rig.request(rig.prompts(1)[0], max_tokens=40, adapter="league")

    async def main() -> Any:
        steps = vllm.stats.steps
        started = asyncio.create_task(vllm.sample(request))
        await rig.until(lambda: vllm.stats.steps > steps + 2)
        vllm.unpublish("league")
        with pytest.raises(GeneratorError, match=r"published as 'league' \(published: none yet\): publish it first"):
            await vllm.sample(request)
        return await started

    assert rig.error([(request, rig.run(main()))]) < bound
    idle(vllm)
    with pytest.raises(GeneratorError, match="no adapter is published as 'league'"):
        vllm.unpublish("league")


def test_a_publication_that_finds_every_slot_busy_waits_for_one(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    """It blocks the event loop meanwhile: the requests it waits for end without it."""
    request = rig.request([1, 2, 3], max_tokens=60, adapter="policy")

    async def main() -> list[Any]:
        tasks = []
        for seed in range(6):
            vllm.publish("policy", rig.adapter(seed))
            tasks.append(asyncio.create_task(vllm.sample(request)))
            await asyncio.sleep(0)
        assert vllm._table.num_free == 0
        vllm.publish("policy", rig.adapter(6))
        assert vllm.num_in_flight < 6
        tasks.append(asyncio.create_task(vllm.sample(request)))
        return [(request, sample) for sample in await asyncio.gather(*tasks)]

    pairs = rig.run(main())
    assert [sample.policy for _, sample in pairs] == [rig.adapter(seed).fingerprint for seed in range(7)]
    assert rig.error(pairs) < bound


def test_a_waiting_publication_goes_on_when_a_request_is_cancelled_elsewhere(vllm: VllmGenerator, rig: Any) -> None:
    """Published from another thread while the loop lives: cancelling gives a slot back at once."""
    request = rig.request([1, 2, 3], max_tokens=150, adapter="policy")

    async def main() -> None:
        tasks = []
        for seed in range(6):
            vllm.publish("policy", rig.adapter(seed))
            tasks.append(asyncio.create_task(vllm.sample(request)))
            await asyncio.sleep(0)
        publication = threading.Thread(target=vllm.publish, args=("policy", rig.adapter(6)))
        publication.start()
        tasks[3].cancel()
        await rig.until(lambda: vllm.adapters["policy"] == rig.adapter(6).fingerprint)
        publication.join()
        assert tasks[3].cancelled()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    rig.run(main())
    assert vllm.adapters["policy"] == rig.adapter(6).fingerprint


def test_the_same_adapter_again_keeps_its_version_and_its_cache(vllm: VllmGenerator, rig: Any) -> None:
    (prompt,) = rig.prompts(1, 50, 50)
    for _ in range(2):
        vllm.publish("policy", rig.adapter(1))
        rig.sample_all(vllm, rig.request(prompt, adapter="policy"))
    assert vllm._table.find("policy").num_requests == 0  # type: ignore[union-attr]
    assert vllm._table.num_free == 5
    vllm.publish("policy", replace(rig.adapter(1), name="renamed", step=7))
    assert vllm._table.num_free == 5


# --- the prefix cache ---


def cached(generator: VllmGenerator, rig: Any, prompt: list[int], adapter: str | None) -> int:
    """Of a request's prompt; every prompt token is computed or reused, once."""
    before = generator.stats
    rig.sample_all(generator, rig.request(prompt, adapter=adapter))
    spent = generator.stats - before
    assert spent.cached_tokens + spent.prompt_tokens == len(prompt)
    return spent.cached_tokens


def test_the_cache_is_hit_within_a_version_and_never_across(vllm: VllmGenerator, rig: Any) -> None:
    """Blocks of 32 tokens."""
    (prompt,) = rig.prompts(1, 70, 70)
    for name in ("policy", "league"):
        vllm.publish(name, rig.adapter(1))
    for name in (None, "policy", "league"):  # the same weights under two names are two versions
        assert cached(vllm, rig, prompt, name) == 0
        assert cached(vllm, rig, prompt, name) == 64
    vllm.publish("policy", rig.adapter(2))
    assert cached(vllm, rig, prompt, "policy") == 0
    vllm.publish("policy", rig.adapter(1))  # what it was before: published again, and so another version
    assert cached(vllm, rig, prompt, "policy") == 0
    assert cached(vllm, rig, prompt, "policy") == 64
    assert cached(vllm, rig, prompt, "league") == 64
    assert cached(vllm, rig, prompt, None) == 64
    assert cached(vllm, rig, prompt[:33], None) == 32
    assert cached(vllm, rig, [5, *prompt], None) == 0


def test_a_group_with_one_prompt_computes_its_blocks_once(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    (prompt,) = rig.prompts(1, 64, 64)
    prompt = [*prompt, 7]
    rig.sample_all(vllm, rig.request(prompt))
    before = vllm.stats
    pairs = rig.sample_all(vllm, *(rig.request(prompt, seed=seed) for seed in range(8)))
    assert (vllm.stats - before).cached_tokens == 8 * 64
    assert (vllm.stats - before).prompt_tokens == 8
    assert rig.error(pairs) < bound


# --- refusals and failures ---


def test_what_does_not_fit_is_refused_before_anything_is_touched(vllm: VllmGenerator, rig: Any, bound: float) -> None:
    good = rig.adapter(1)
    for name in ("policy", "two", "three"):
        vllm.publish(name, good)
    before = contents(vllm)
    tensors = good.tensors
    refused = {
        "has rank 9 and the generator's slots hold 8: set vllm.max_lora_rank = 9": replace(good, spec=LoraSpec(rank=9)),
        "adapts model.layers.9": replace(good, tensors={n.replace("layers.0", "layers.9"): t for n, t in tensors.items()}),
        "load the base model it was trained on": replace(good, tensors={n: t.repeat(1, 2) for n, t in tensors.items()}),
        "was trained on base model elsewhere": replace(good, base_model="elsewhere"),
        "not finite": replace(good, tensors={n: t / 0 for n, t in tensors.items()}),
    }
    for text, adapter in refused.items():
        with pytest.raises(GeneratorError, match=text):
            vllm.publish("policy", adapter)
    with pytest.raises(GeneratorError, match=r"'four' would be adapter 4 of at most 3: set vllm.max_adapters = 4, or unpublish "):
        vllm.publish("four", rig.adapter(2))
    assert contents(vllm) == before
    assert dict(vllm.adapters) == dict.fromkeys(("policy", "two", "three"), good.fingerprint)
    assert rig.error(rig.sample_all(vllm, rig.request([1, 2, 3], adapter="policy"))) < bound


@pytest.mark.parametrize("fault", ["raises half way", "writes something else", "does not write", "cannot bind"])
def test_a_failed_publication_leaves_the_old_version_serving(
    vllm: VllmGenerator, rig: Any, bound: float, idle: Idle, monkeypatch: Patch, fault: str
) -> None:
    old, new = rig.adapter(1), rig.adapter(99)  # which no slot holds from an earlier test
    vllm.publish("policy", old)
    write = adapter_layout.write

    def failing(adapter: Any, layers: Any, slot: int) -> None:
        if fault == "raises half way":
            write(replace(adapter, tensors=dict(list(adapter.tensors.items())[:4])), layers, slot)
            raise RuntimeError("out of luck")
        if fault != "does not write":
            write(rig.adapter(3), layers, slot)

    def refuse(*_: object) -> None:
        raise RuntimeError("out of luck")

    request = rig.request([1, 2, 3, 4], max_tokens=50, adapter="policy")

    async def main() -> list[Any]:
        started = asyncio.create_task(vllm.sample(request))
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            if fault == "cannot bind":
                patch.setattr(vllm._contact, "bind", refuse)
            else:
                patch.setattr(adapter_layout, "write", failing)
            expected, text = (FenceError, "not delivered") if "write" in fault else (RuntimeError, "out of luck")
            for _ in range(7):  # more often than there are slots
                with pytest.raises(expected, match=text):
                    vllm.publish("policy", new)
        assert vllm.adapters["policy"] == old.fingerprint
        return [(request, await started), (request, await vllm.sample(request))]

    pairs = rig.run(main())
    assert {sample.policy for _, sample in pairs} == {old.fingerprint}
    assert rig.error(pairs) < bound
    idle(vllm)
    vllm.verify("policy")
    vllm.publish("policy", rig.adapter(2))
    assert rig.error(rig.sample_all(vllm, request)) < bound


def test_verify_finds_a_slot_that_was_overwritten_or_bound_to_another(vllm: VllmGenerator, rig: Any) -> None:
    for name in ("policy", "league"):
        vllm.publish(name, rig.adapter(1))
        vllm.verify(name)
    version, other = (vllm._table.find(name) for name in ("policy", "league"))
    assert version is not None
    assert other is not None
    layer = vllm._layers["model.layers.1.mlp.down_proj"]
    kept = layer.b[version.slot].clone()
    layer.b[version.slot].zero_()
    with pytest.raises(
        FenceError, match=f"'policy' is no longer adapter {version.fingerprint}: its slot {version.slot} was overwritten"
    ):
        vllm.verify("policy")
    vllm.verify("league")
    layer.b[version.slot].copy_(kept)
    vllm.verify("policy")
    manager = vllm._contact._engine.engine_core.engine_core.model_executor.driver_worker.worker._sparring_manager()
    bindings, slots = manager.lora_index_to_id, (version.slot, other.slot)
    bindings[slots[0]], bindings[slots[1]] = bindings[slots[1]], bindings[slots[0]]  # both hold the same weights
    with pytest.raises(FenceError, match="'policy'"):
        vllm.verify("policy")
    bindings[slots[0]], bindings[slots[1]] = bindings[slots[1]], bindings[slots[0]]
    vllm.verify("policy")
    with pytest.raises(GeneratorError, match="no adapter is published as 'nobody'"):
        vllm.verify("nobody")


def test_publication_takes_little_time(vllm: VllmGenerator, rig: Any) -> None:
    """Nothing is written to disk and nothing waits for a step: well under 100 ms on an idle engine, whatever the machine."""
    adapters = [rig.adapter(seed) for seed in range(5)]
    taken = []
    for adapter in adapters:
        started = time.perf_counter()
        vllm.publish("policy", adapter)
        taken.append(time.perf_counter() - started)
    assert sorted(taken)[2] < 0.1
