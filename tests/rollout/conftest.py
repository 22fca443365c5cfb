"""A tiny tokenizer with several chat templates, a sampler whose answers depend on the request alone, and deals."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparring.rollout.chat import ChatFormat
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Deal
from sparring.scenarios import registry
from sparring.scenarios.scenario import Scenario

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
KINDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "chatml": (CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>"),
    "llama3": (LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>"),
}
"""Kind of template: its text, its special tokens (the first begins a sequence), its eos token."""
CORPUS = ["user\nassistant\nYou are the seller. Talk prices from 0 to 99.\nbuyer: I say 40. How about 60?\nDEAL_PRICE: 12"] * 3


def build_tokenizer(kind: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 400 pieces with the special tokens and the template of a kind, and a plain added token."""
    own_template, specials, eos = KINDS[kind]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    text = own_template if template is None else template
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=specials[0], eos_token=eos, chat_template=text)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return build_tokenizer


@pytest.fixture(scope="session", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return build_tokenizer(request.param)


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    return build_tokenizer("chatml")


@pytest.fixture(scope="session")
def chat(chatml: PreTrainedTokenizerFast) -> ChatFormat:
    return ChatFormat(chatml)


class FakeSampler:
    """Answers with one of `texts`, chosen by a hash of what the result may depend on; counts what is open.

    It waits up to `delay` seconds, so that games end in another order than they began.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop_id: int, texts: list[str], delay: float) -> None:
        self.tokenizer, self.stop_id, self.texts, self.delay = tokenizer, stop_id, texts, delay
        self.requests: list[SampleRequest] = []
        self.samples: list[Sample] = []
        self.open_sessions: set[str] = set()
        self.running = self.most_running = 0

    async def sample(self, request: SampleRequest) -> Sample:
        self.requests.append(request)
        assert request.session is not None
        self.open_sessions.add(request.session)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        rng = Random(hashlib.sha256(json.dumps([request.prompt_ids, request.seed, request.adapter]).encode()).hexdigest())
        try:
            await asyncio.sleep(self.delay * rng.random())
        finally:
            self.running -= 1
        ids = [*self.tokenizer.encode(rng.choice(self.texts), add_special_tokens=False), self.stop_id]
        reason = "stop" if len(ids) <= request.max_tokens else "length"
        ids = ids[: request.max_tokens]
        logprobs = [-rng.random() for _ in ids]
        sample = Sample(token_ids=ids, logprobs=logprobs, finish_reason=reason, policy=f"{request.adapter}@1")
        self.samples.append(sample)
        return sample

    def end_session(self, session: str) -> None:
        self.open_sessions.discard(session)


HAGGLING = ("I say 40.", "How about 60?", "¿55?", "DEAL_PRICE: 50", "NO_DEAL", "DEAL_PRICE: -1")


@pytest.fixture
def make_sampler(chatml: PreTrainedTokenizerFast, chat: ChatFormat) -> Callable[..., FakeSampler]:
    def make(*texts: str, delay: float = 0.0) -> FakeSampler:
        return FakeSampler(chatml, chat.turn_end, list(texts or HAGGLING), delay)

    return make


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return registry.get("haggle").generate(seed=3)


@pytest.fixture(scope="session")
def sealed(scenario: Scenario) -> Scenario:
    """No talk: both seats commit at once."""
    return msgspec.structs.replace(scenario, public=scenario.public | {"messages": 0})


@pytest.fixture(scope="session")
def make_deals() -> Callable[..., list[Deal]]:
    """`count` deals of haggle, four of a scenario, seat 0 as `first`, seat 1 as `second`."""

    def make(count: int, first: str = "policy", second: str = "script:linear") -> list[Deal]:
        scenarios = [registry.get("haggle").generate(seed=seed) for seed in range((count + 3) // 4)]
        found = []
        for number in range(count):
            table = scenarios[number // 4]
            players = dict(zip(table.seat_names, (first, second), strict=True))
            found.append(Deal(id=f"d{number}", scenario=table, players=players, seed=number))
        return found

    return make
