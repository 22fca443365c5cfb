"""The embedded generator against plain Hugging Face and PEFT models, and its manners: company, publication, cancellation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sparring.engine.embedded.generator import TorchGenerator, TorchGeneratorConfig
from sparring.engine.errors import GeneratorError, GeneratorStopped
from sparring.engine.generator import Generator
from sparring.learner.adapter import Adapter, LoraSpec
from sparring.learner.lora import attach, export_tensors, fingerprint_model, share_base
from sparring.rollout.sampler import Sample, SampleRequest

VOCABULARY = 96
TOLERANCE = 1e-4
SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
}


def make_model(kind: str = "qwen2", seed: int = 0) -> PreTrainedModel:
    """Random weights, large enough that next tokens are neither certain nor uniform; biases and norms too."""
    torch.manual_seed(seed)
    model = MAKERS[kind]()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model()


def make_generator(model: PreTrainedModel, **settings: int) -> TorchGenerator:
    return TorchGenerator(model, TorchGeneratorConfig(**{"num_slots": 16, "max_context": 160, **settings}))


def make_adapter(model: PreTrainedModel, seed: int) -> tuple[Adapter, nn.Module]:
    """An adapter that matters, and the plain PEFT model with it."""
    spec = LoraSpec(rank=4, alpha=8.0)
    peft_model = attach(share_base(model), spec, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return Adapter(name=str(seed), spec=spec, tensors=export_tensors(peft_model)), peft_model


def reference(model: nn.Module, prompt: list[int], sample: Sample, temperature: float = 1.0) -> Tensor:
    """Log-probs of the sampled ids by one uncached forward pass of the plain model."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + sample.token_ids])).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / (temperature or 1.0), -1).gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]


def error(model: nn.Module, prompt: list[int], sample: Sample, temperature: float = 1.0) -> float:
    return (reference(model, prompt, sample, temperature) - torch.tensor(sample.logprobs)).abs().max().item()


def prompts(num: int, low: int = 1, high: int = 60, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(low, high))] for _ in range(num)]


def request(prompt: list[int], seed: int = 0, max_tokens: int = 12, **options: Any) -> SampleRequest:
    return SampleRequest(prompt_ids=prompt, seed=seed, max_tokens=max_tokens, **options)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 240))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def sample_all(generator: TorchGenerator, *requests: SampleRequest) -> list[Sample]:
    async def main() -> list[Sample]:
        return list(await asyncio.gather(*map(generator.sample, requests)))

    return list(run(main()))


def assert_idle(generator: TorchGenerator) -> None:
    assert generator.num_in_flight == 0
    assert not generator._cache.busy.any()
    assert generator._task is None or generator._task.done()


# --- the model ---


@pytest.mark.parametrize("kind", MAKERS)
def test_log_probs_of_several_turns_equal_the_uncached_model(kind: str) -> None:
    model = make_model(kind)
    generator: Generator = make_generator(model)
    rng = random.Random(1)
    worst = []

    async def game(index: int, prompt: list[int]) -> None:
        for turn in range(4):
            sample = await generator.sample(request(prompt, seed=100 * index + turn, max_tokens=8, session=str(index)))
            assert sample.policy == fingerprint_model(model)
            worst.append(error(model, prompt, sample))
            prompt = prompt + sample.token_ids + [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 15))]

    async def main() -> None:
        await asyncio.gather(*(game(index, prompt) for index, prompt in enumerate(prompts(12))))

    run(main())
    assert max(worst) < TOLERANCE
    assert generator.stats.cached_tokens > generator.stats.prompt_tokens


@pytest.mark.parametrize("temperature", [0.0, 0.4, 1.0, 2.0])
def test_log_probs_are_scaled_by_temperature_and_taken_before_top_p(model: PreTrainedModel, temperature: float) -> None:
    generator = make_generator(model)
    requests = [request(p, seed=i, temperature=temperature, top_p=0.5) for i, p in enumerate(prompts(8))]
    for asked, sample in zip(requests, sample_all(generator, *requests), strict=True):
        assert error(model, asked.prompt_ids, sample, temperature) < TOLERANCE


def test_prompts_longer_than_a_batch_take_several_passes(model: PreTrainedModel) -> None:
    generator = make_generator(model, num_slots=4, max_batch_tokens=7)
    requests = [request(p, seed=i) for i, p in enumerate(prompts(6, 20, 60))]
    whole = sample_all(make_generator(model), *requests)
    for asked, sample, expected in zip(requests, sample_all(generator, *requests), whole, strict=True):
        assert sample.token_ids == expected.token_ids
        assert error(model, asked.prompt_ids, sample) < TOLERANCE


def test_bfloat16_stays_near_the_model() -> None:
    model = make_model()
    model.bfloat16()
    asked = request(prompts(1, 30, 30)[0], max_tokens=20)
    (sample,) = sample_all(make_generator(model), asked)
    assert error(model, asked.prompt_ids, sample) < 0.1


def test_greedy_takes_the_argmax(model: PreTrainedModel) -> None:
    prompt = prompts(1, 20, 20)[0]
    (sample,) = sample_all(make_generator(model), request(prompt, temperature=0.0))
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert sample.token_ids == ids[len(prompt) :]


def test_a_stop_id_ends_the_completion_and_is_part_of_it(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    prompt = prompts(1, 20, 20)[0]
    (free,) = sample_all(generator, request(prompt, seed=5))
    assert (free.finish_reason, len(free.token_ids)) == ("length", 12)
    stop = free.token_ids[4]
    (stopped,) = sample_all(generator, request(prompt, seed=5, stop_ids=(stop, VOCABULARY + 5)))
    first = free.token_ids.index(stop)
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop"


def test_a_model_that_is_wrapped_and_trained_later_does_not_disturb_the_generator() -> None:
    model = make_model()
    generator = make_generator(model)
    asked = request(prompts(1, 20, 20)[0])
    (before,) = sample_all(generator, asked)
    peft_model = attach(model, LoraSpec(rank=2), seed=0)
    loss = peft_model(torch.tensor([asked.prompt_ids])).logits.square().mean()
    loss.backward()
    assert any(p.grad is not None for p in peft_model.parameters())
    for again in (generator, make_generator(model)):
        (after,) = sample_all(again, asked)
        assert after.token_ids == before.token_ids
        assert after.logprobs == pytest.approx(before.logprobs, abs=1e-5)


# --- company ---


def test_a_result_does_not_depend_on_its_companions(model: PreTrainedModel) -> None:
    requests = [
        request(p, seed=i, max_tokens=1 + i % 20, temperature=(0.0, 0.7, 1.0)[i % 3], top_p=(1.0, 0.8)[i % 2])
        for i, p in enumerate(prompts(40))
    ]
    together = sample_all(make_generator(model, num_slots=64), *requests)
    backwards = sample_all(make_generator(model, num_slots=9), *reversed(requests))[::-1]
    for asked, one, other in zip(requests, together, backwards, strict=True):
        (alone,) = sample_all(make_generator(model, num_slots=1), asked)
        assert one.token_ids == other.token_ids == alone.token_ids
        assert one.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_a_group_with_one_prompt_computes_it_once(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    prompt = prompts(1, 50, 50)[0]
    samples = sample_all(generator, *(request(prompt, seed=seed, session=str(seed)) for seed in range(8)))
    assert generator.stats.prompt_tokens == 50 + 7
    assert generator.stats.cached_tokens == 7 * 49
    assert generator.stats.sampled_tokens == 8 * 12
    assert generator.stats.requests == 8
    assert len({tuple(sample.token_ids) for sample in samples}) == 8
    assert max(error(model, prompt, sample) for sample in samples) < TOLERANCE


def test_more_requests_than_slots_are_all_answered_in_order_of_arrival(model: PreTrainedModel) -> None:
    generator = make_generator(model, num_slots=3)
    order: list[int] = []

    async def one(index: int, prompt: list[int]) -> None:
        await generator.sample(request(prompt, seed=index, max_tokens=4))
        order.append(index)

    async def main() -> None:
        await asyncio.gather(*(one(index, prompt) for index, prompt in enumerate(prompts(11))))

    run(main())
    assert [index // 3 for index in order] == [index // 3 for index in range(11)]
    assert_idle(generator)


def test_games_more_than_slots_lose_their_cache_but_not_their_results(model: PreTrainedModel) -> None:
    generator = make_generator(model, num_slots=2)
    for turn in range(2):
        for index, prompt in enumerate(prompts(5, 10, 30)):
            prompt = prompt * (turn + 1)
            (sample,) = sample_all(generator, request(prompt, seed=index, session=str(index)))
            assert error(model, prompt, sample) < TOLERANCE
    for index in range(5):
        generator.end_session(str(index))
    assert generator._cache.sessions == frozenset()


# --- adapters ---


def test_base_and_three_adapters_in_one_batch_each_give_their_own_log_probs(model: PreTrainedModel) -> None:
    generator = make_generator(model, num_slots=32)
    references: dict[str | None, nn.Module] = {None: model}
    policies: dict[str | None, str] = {None: fingerprint_model(model)}
    for seed in range(3):
        adapter, references[str(seed)] = make_adapter(model, seed)
        generator.publish(str(seed), adapter)
        policies[str(seed)] = adapter.fingerprint
    assert generator.adapters == {name: policy for name, policy in policies.items() if name}
    names = list(references)
    rng = random.Random(3)
    worst = []

    async def game(index: int, prompt: list[int]) -> None:
        name = names[index % 4]
        for turn in range(3):
            sample = await generator.sample(request(prompt, seed=10 * index + turn, adapter=name, session=str(index)))
            assert sample.policy == policies[name]
            worst.append(error(references[name], prompt, sample))
            assert error(references[names[(index + 1) % 4]], prompt, sample) > 0.05
            prompt = prompt + sample.token_ids + [rng.randrange(VOCABULARY) for _ in range(index % 9)]

    async def main() -> None:
        shared = prompts(1, 40, 40)[0]
        await asyncio.gather(*(game(index, prompt if index % 3 else shared) for index, prompt in enumerate(prompts(24))))

    run(main())
    assert max(worst) < TOLERANCE


def test_requests_in_flight_finish_on_the_version_they_began_with(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    (old, old_model), (new, new_model) = (make_adapter(model, seed) for seed in range(2))
    generator.publish("policy", old)
    prompt = prompts(1, 40, 40)[0]

    async def main() -> tuple[Sample, Sample]:
        started = asyncio.create_task(generator.sample(request(prompt, seed=1, max_tokens=30, adapter="policy", session="a")))
        await until(lambda: generator.stats.sampled_tokens >= 5)
        generator.publish("policy", new)
        after = await generator.sample(request(prompt, seed=1, max_tokens=30, adapter="policy", session="b"))
        return await started, after

    before, after = run(main())
    assert (before.policy, after.policy) == (old.fingerprint, new.fingerprint)
    assert error(old_model, prompt, before) < TOLERANCE
    assert error(new_model, prompt, after) < TOLERANCE
    assert generator.stats.cached_tokens == 0
    assert generator._cache.sessions == {"b"}


def test_a_new_version_never_reads_the_cache_of_an_old_one(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    prompt = prompts(1, 40, 40)[0]
    for seed in range(4):
        adapter, peft_model = make_adapter(model, seed)
        generator.publish("policy", adapter)
        (sample,) = sample_all(generator, request(prompt, adapter="policy", session="game"))
        assert error(peft_model, prompt, sample) < TOLERANCE
        prompt = prompt + sample.token_ids
    assert generator.stats.cached_tokens == 0


def test_the_same_adapter_under_two_names_shares_weights_and_cache(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    adapter, _ = make_adapter(model, 0)
    generator.publish("policy", adapter)
    generator.publish("league-1", adapter)
    prompt = prompts(1, 40, 40)[0]
    first, second = (sample_all(generator, request(prompt, adapter=name))[0] for name in ("policy", "league-1"))
    assert first.token_ids == second.token_ids
    assert generator.stats.cached_tokens == 39
    generator.publish("policy", make_adapter(model, 1)[0])
    assert sample_all(generator, request(prompt, adapter="league-1"))[0].token_ids == first.token_ids
    assert generator.stats.cached_tokens == 2 * 39
    generator.unpublish("league-1")
    assert list(generator.adapters) == ["policy"]


def test_the_base_weights_are_never_overwritten(model: PreTrainedModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = make_generator(model)
    asked = request(prompts(1, 30, 30)[0])
    (base,) = sample_all(generator, asked)
    for seed in range(3):
        generator.publish("policy", make_adapter(model, seed)[0])
        sample_all(generator, request(asked.prompt_ids, adapter="policy"))
    generator.unpublish("policy")
    generator.release()
    generator.resume()
    assert sample_all(generator, asked) == [base]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_adapter_that_does_not_fit_leaves_the_former_version_serving(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    good, _ = make_adapter(model, 0)
    generator.publish("policy", good)
    other = make_model("mistral")
    wrong_shape = Adapter(name="x", spec=good.spec, tensors={name: tensor.repeat(2, 2) for name, tensor in good.tensors.items()})
    wrong_name = Adapter(
        name="x", spec=good.spec, tensors={name.replace("layers.0", "layers.9"): tensor for name, tensor in good.tensors.items()}
    )
    wrong_base = Adapter(name="x", spec=good.spec, tensors=good.tensors, base_model=fingerprint_model(other))
    for adapter, text in ((wrong_shape, "its weight is"), (wrong_name, "layers.9"), (wrong_base, "was trained on base model")):
        with pytest.raises(GeneratorError, match=text):
            generator.publish("policy", adapter)
    assert generator.adapters == {"policy": good.fingerprint}


# --- life and death ---


@pytest.mark.parametrize("started", [False, True])
def test_cancelling_frees_the_slot_at_once(model: PreTrainedModel, started: bool) -> None:
    generator = make_generator(model, num_slots=2)
    first, second, waiting, last = prompts(4, 20, 30)

    async def main() -> Sample:
        tasks = [asyncio.create_task(generator.sample(request(p, max_tokens=60))) for p in (first, second, waiting)]
        await asyncio.sleep(0)
        await until(lambda: not started or generator.stats.sampled_tokens >= 6)
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.gather(*tasks[::2], return_exceptions=True)
        assert generator.num_in_flight == 1
        sample = await generator.sample(request(last, max_tokens=3))
        assert not tasks[1].done()
        await tasks[1]
        return sample

    sample: Sample = run(main())
    assert error(model, last, sample) < TOLERANCE
    assert_idle(generator)


def test_cancelling_the_run_leaves_nothing_behind(model: PreTrainedModel) -> None:
    generator = make_generator(model)

    async def main() -> None:
        tasks = [asyncio.create_task(generator.sample(request(p, max_tokens=50))) for p in prompts(30)]
        await until(lambda: generator.stats.steps >= 5)
        del tasks

    run(main())
    assert_idle(generator)
    prompt = prompts(1)[0]
    assert error(model, prompt, sample_all(generator, request(prompt))[0]) < TOLERANCE


def test_a_failing_engine_fails_every_request_and_can_be_used_again(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(model, num_slots=4)
    forward = generator._decoder.forward
    calls = 0

    def fail_at_the_third(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of luck")
        return forward(*arguments)

    monkeypatch.setattr(generator._decoder, "forward", fail_at_the_third)

    async def main() -> list[Any]:
        return await asyncio.gather(*(generator.sample(request(p)) for p in prompts(9)), return_exceptions=True)

    results = run(main())
    assert len(results) == 9
    for result in results:
        assert isinstance(result, GeneratorStopped)
        assert "out of luck" in str(result)
        assert isinstance(result.__cause__, RuntimeError)
    assert_idle(generator)
    prompt = prompts(1)[0]
    assert error(model, prompt, sample_all(generator, request(prompt))[0]) < TOLERANCE


def test_release_gives_the_cache_back_and_refuses_while_requests_are_in_flight(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    prompt = prompts(1, 30, 30)[0]
    (before,) = sample_all(generator, request(prompt))
    assert generator.cache_bytes > 0

    async def main() -> None:
        task = asyncio.create_task(generator.sample(request(prompt)))
        await asyncio.sleep(0)
        with pytest.raises(GeneratorError, match="1 requests in flight"):
            generator.release()
        await task

    run(main())
    generator.release()
    generator.release()
    assert generator.cache_bytes == 0
    with pytest.raises(GeneratorError, match="resume"):
        sample_all(generator, request(prompt))
    generator.resume()
    generator.resume()
    assert sample_all(generator, request(prompt)) == [before]


def test_closing_fails_what_is_in_flight(model: PreTrainedModel) -> None:
    generator = make_generator(model)

    async def main() -> None:
        task = asyncio.create_task(generator.sample(request(prompts(1)[0], max_tokens=50)))
        await until(lambda: generator.stats.steps > 0)
        generator.close()
        with pytest.raises(GeneratorStopped, match="closed with this request in flight"):
            await task

    run(main())
    generator.close()
    assert generator.cache_bytes == 0
    with pytest.raises(GeneratorError, match="make a new one"):
        sample_all(generator, request([1]))


def test_one_generator_serves_one_event_loop_after_another(model: PreTrainedModel) -> None:
    generator = make_generator(model)
    prompt = prompts(1, 20, 20)[0]
    abandoned = asyncio.new_event_loop()
    task = abandoned.create_task(generator.sample(request(prompt, max_tokens=100)))
    abandoned.run_until_complete(until(lambda: generator.stats.steps > 0))

    async def elsewhere() -> None:
        with pytest.raises(GeneratorError, match="another event loop"):
            await generator.sample(request(prompt))

    run(elsewhere())
    assert abandoned.run_until_complete(task).finish_reason == "length"
    abandoned.close()
    assert sample_all(generator, request(prompt))[0].finish_reason == "length"
    assert_idle(generator)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prompt_ids": list(range(90)) * 2}, "exceed max_context 160: set max_context \\(sampling.context of a run\\) to 192"),
        ({"max_tokens": 158}, "to 161 or more"),
        ({"prompt_ids": []}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
        ({"prompt_ids": [1, VOCABULARY]}, "vocabulary of 96"),
        ({"prompt_ids": [-1]}, "vocabulary of 96"),
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"adapter": "nobody"}, "published: policy"),
    ],
)
def test_a_request_that_cannot_be_served_says_what_to_change(model: PreTrainedModel, options: dict[str, Any], text: str) -> None:
    generator = make_generator(model)
    generator.publish("policy", make_adapter(model, 0)[0])
    asked = SampleRequest(**{"prompt_ids": [1, 2, 3], "seed": 0, "max_tokens": 12, **options})
    with pytest.raises(GeneratorError, match=text):
        sample_all(generator, asked)
    assert_idle(generator)


def test_a_model_or_configuration_that_cannot_be_served_says_what_to_change(model: PreTrainedModel) -> None:
    with pytest.raises(GeneratorError, match="not 'gpt2'"):
        TorchGenerator(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=8)))
    with pytest.raises(GeneratorError, match="set max_context=256 or less"):
        make_generator(model, max_context=300)
    with pytest.raises(GeneratorError, match="set max_batch_tokens=16"):
        make_generator(model, max_batch_tokens=15)
    with pytest.raises(GeneratorError, match="num_slots is 0"):
        make_generator(model, num_slots=0)
    sliding = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=64))
    with pytest.raises(GeneratorError, match="set max_context=64"):
        make_generator(sliding)
    with pytest.raises(GeneratorError, match="no adapter is published as 'x'"):
        make_generator(model).unpublish("x")


@pytest.mark.parametrize("seed", range(8))
def test_any_mix_of_requests_cancellations_and_publications_leaks_nothing(model: PreTrainedModel, seed: int) -> None:
    rng = random.Random(seed)
    generator = make_generator(model, num_slots=rng.choice([1, 3, 8]), max_batch_tokens=rng.choice([16, 4096]))
    adapters = [make_adapter(model, index) for index in range(3)]
    references = {adapter.fingerprint: peft_model for adapter, peft_model in adapters}
    references[fingerprint_model(model)] = model
    generator.publish("policy", adapters[0][0])
    family = prompts(1, 30, 30, seed)[0]

    async def game(index: int) -> None:
        prompt = [*family[: rng.randint(1, 30)], rng.randrange(VOCABULARY)]
        for turn in range(rng.randint(1, 3)):
            name = rng.choice([None, "policy"])
            sample = await generator.sample(
                request(
                    prompt, seed=index * 7 + turn, max_tokens=rng.randint(1, 9), adapter=name, session=str(index), stop_ids=(5, 9)
                )
            )
            assert error(references[sample.policy], prompt, sample) < TOLERANCE
            prompt = prompt + sample.token_ids + [rng.randrange(VOCABULARY) for _ in range(rng.randint(0, 12))]
            if rng.random() < 0.2:
                generator.publish("policy", rng.choice(adapters)[0])
        generator.end_session(str(index))

    async def main() -> None:
        tasks = [asyncio.create_task(game(index)) for index in range(15)]
        for _ in range(6):
            for _ in range(rng.randint(1, 30)):
                await asyncio.sleep(0)
            rng.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [r for r in results if isinstance(r, Exception)]

    run(main())
    assert_idle(generator)
