"""How an engine ends: it fails, it is closed under its requests, it is refused. Each test opens its own."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from sparring.engine.errors import GeneratorError, GeneratorStopped
from sparring.engine.vllm.contact import Contact
from sparring.engine.vllm.generator import VllmGenerator
from sparring.engine.vllm.thread import EngineThread


@pytest.fixture
def generator(rig: Any) -> Iterator[VllmGenerator]:
    generator = rig.open(num_slots=2)
    try:
        generator.publish("policy", rig.adapter(1))
        yield generator
    finally:
        generator.close()


async def outcomes(generator: VllmGenerator, rig: Any, count: int) -> list[Any]:
    requests = [rig.request(p, max_tokens=50, adapter=(None, "policy")[i % 2]) for i, p in enumerate(rig.prompts(count))]
    return await asyncio.gather(*map(generator.sample, requests), return_exceptions=True)


def check_of_no_use(generator: VllmGenerator, rig: Any, how: str) -> None:
    """Every call says so, and none hangs."""
    calls = [
        lambda: rig.sample_all(generator, rig.request([1, 2, 3])),
        lambda: generator.publish("policy", rig.adapter(2)),
        lambda: generator.verify("policy"),
        generator.release,
        generator.parameters,
        lambda: generator.num_held,
    ]
    for call in calls:
        with pytest.raises(GeneratorError, match=f"the generator is {how}.*: make a new one"):
            call()
    generator.resume()


@pytest.mark.parametrize("where", ["step", "add"])
def test_a_failing_engine_fails_every_request_and_says_so_later(
    generator: VllmGenerator, rig: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    real, calls = getattr(generator._contact, where), 0

    def fail_at_the_third(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of luck")
        return real(*arguments)

    monkeypatch.setattr(generator._contact, where, fail_at_the_third)
    results = rig.run(outcomes(generator, rig, 9))
    assert len(results) == 9
    for result in results:
        assert isinstance(result, GeneratorStopped)
        assert str(result) == "the generator failed: RuntimeError: out of luck"
        assert isinstance(result.__cause__, RuntimeError)
    assert generator.num_in_flight == 0
    assert generator._table.num_free == 1
    check_of_no_use(generator, rig, r"of no use after it failed \(RuntimeError: out of luck\)")
    generator.close()
    check_of_no_use(generator, rig, "closed")


def test_closing_fails_what_is_in_flight_and_gives_cache_and_slots_back(rig: Any) -> None:
    generator = rig.open()
    generator.publish("policy", rig.adapter(1))
    worker = generator._contact._engine.engine_core.engine_core.model_executor.driver_worker.worker
    held = [weakref.ref(tensor.untyped_storage()) for tensor in worker.model_runner.kv_caches]
    held += [weakref.ref(buffer) for layer in generator._layers.values() for buffer in (layer.a, layer.b)]
    del worker

    async def main() -> None:
        task = asyncio.create_task(outcomes(generator, rig, 6))
        steps = generator.stats.steps
        await rig.until(lambda: generator.stats.steps > steps + 3)
        generator.close()
        for result in await task:
            assert isinstance(result, GeneratorStopped)
            assert "closed with this request in flight" in str(result)

    rig.run(main())
    generator.close()
    assert generator.num_in_flight == generator.cache_bytes == 0
    check_of_no_use(generator, rig, "closed")
    gc.collect()
    assert not [reference for reference in held if reference() is not None]


def test_one_engine_at_a_time_and_one_after_another(rig: Any, generator: VllmGenerator) -> None:
    with pytest.raises(GeneratorError, match=r"a process holds one vLLM engine.*: close the other generator first"):
        rig.open()
    ((_, before),) = rig.sample_all(generator, rig.request([1, 2, 3]))
    generator.close()
    again = rig.open()
    assert rig.sample_all(again, rig.request([1, 2, 3]))[0][1] == before
    again.close()


def test_requests_that_are_pushed_out_of_a_full_cache_come_back_with_the_same_tokens(rig: Any, bound: float) -> None:
    """A cache for two whole requests and sixteen at work: vLLM takes blocks from the youngest and computes them again later."""
    generator = rig.open(kv_cache_bytes=2**14 * 12)
    core = generator._contact._engine.engine_core.engine_core
    preempted, preempt = 0, core.scheduler._preempt_request

    def counted(*arguments: Any, **options: Any) -> None:
        nonlocal preempted
        preempted += 1
        preempt(*arguments, **options)

    core.scheduler._preempt_request = counted
    generator.publish("policy", rig.adapter(1))
    requests = [
        rig.request(p, seed=i, max_tokens=40 + i, adapter=(None, "policy")[i % 2]) for i, p in enumerate(rig.prompts(16, 10, 50))
    ]
    pairs = rig.sample_all(generator, *requests)
    assert preempted > 3
    assert rig.error(pairs) < bound
    for request, (_, sample) in list(zip(requests, pairs, strict=True))[::3]:
        ((_, alone),) = rig.sample_all(generator, request)
        assert sample.token_ids == alone.token_ids
    spent = generator.stats
    assert spent.sampled_tokens == sum(len(sample.token_ids) for _, sample in pairs) + sum(40 + i for i in range(0, 16, 3))
    generator.close()


def test_what_vllm_refuses_is_one_line_and_stands_in_nobodys_way(rig: Any) -> None:
    """A context that the model has no positions for, a cache that holds no request, an adapter rank without a kernel."""
    for changes, text in (
        ({"max_model_len": 300}, "vLLM cannot serve '.*': .*max_model_len"),
        ({"kv_cache_bytes": 2**12}, 'vLLM cannot serve .*: .*[Cc]ache.*set generator = "torch"'),
        ({"max_lora_rank": 600}, "rank 512 at most, not 600: set learner.lora.rank lower"),
    ):
        with pytest.raises(GeneratorError, match=text) as caught:
            rig.open(**changes)
        assert "\n" not in str(caught.value)
    generator = rig.open()
    assert rig.sample_all(generator, rig.request([1, 2, 3]))[0][1].policy == rig.base
    generator.close()


def test_an_engine_that_fails_while_a_request_is_made_or_a_publication_waits_leaves_neither_hanging(
    generator: VllmGenerator, rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's thread may stop between a request's checks and its start, and while every slot is busy."""
    waiting = threading.Event()

    def fail() -> None:
        waiting.wait(60)
        raise RuntimeError("out of luck")

    async def main() -> None:
        request = rig.request([1], max_tokens=150, adapter="policy")
        first = asyncio.create_task(generator.sample(request))
        await asyncio.sleep(0)
        generator.publish("policy", rig.adapter(2))
        second = asyncio.create_task(generator.sample(request))
        await asyncio.sleep(0)
        monkeypatch.setattr(generator._contact, "step", fail)
        wait_for = generator._changed.wait_for

        def tell(condition: Any) -> Any:
            waiting.set()
            return wait_for(condition)

        monkeypatch.setattr(generator._changed, "wait_for", tell)
        with pytest.raises(GeneratorError, match="of no use after it failed"):
            generator.publish("policy", rig.adapter(3))
        assert [type(r) for r in await asyncio.gather(first, second, return_exceptions=True)] == [GeneratorStopped] * 2
        assert generator._table.num_free == 1
        monkeypatch.setattr(generator, "_check", lambda _: None)  # as it was passed just before
        with pytest.raises(GeneratorError, match="of no use after it failed"):
            await generator.sample(request)
        assert generator._table.num_free == 1
        assert generator.num_in_flight == 0

    rig.run(main())


def test_a_contact_says_why_vllm_cannot_be_used(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparring.engine.vllm.contact.unusable", lambda: "vLLM is too old")
    with pytest.raises(GeneratorError, match='generator = "vllm": vLLM is too old; or set generator = "torch"'):
        Contact(rig.settings())


def test_a_request_that_vllm_refuses_fails_alone(rig: Any, generator: VllmGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the engine, and with it every game."""
    add = generator._contact.add

    def choosy(number: str, request: Any, served: Any) -> None:
        if request.seed == 13:
            raise ValueError("not this one")
        add(number, request, served)

    monkeypatch.setattr(generator._contact, "add", choosy)

    async def main() -> list[Any]:
        requests = [rig.request([1, 2], seed=seed, adapter="policy") for seed in (12, 13, 14)]
        return await asyncio.gather(*map(generator.sample, requests), return_exceptions=True)

    first, refused, last = rig.run(main())
    assert first.policy == last.policy == rig.adapter(1).fingerprint
    assert isinstance(refused, GeneratorError)
    assert str(refused) == "vLLM refuses this request: not this one"
    assert generator.num_in_flight == generator.num_held == 0
    monkeypatch.undo()
    with pytest.raises(GeneratorError, match=r"vLLM refuses this request: .*stop_token_ids"):
        rig.sample_all(generator, rig.request([1, 2], stop_ids=("x",)))
    generator.publish("policy", rig.adapter(2))
    assert generator._table.num_free == 1


def test_an_engine_that_opens_after_ctrl_c_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed open for nobody, and no other could be opened in the process."""
    interrupted, closed = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, settings: Any) -> None:
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            interrupted.wait(20)

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr("sparring.engine.vllm.thread.Contact", Slow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            EngineThread(None, on_end=lambda job: None)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert not closed.is_set()
    interrupted.set()
    assert closed.wait(20)
