"""A Transformers model in this process as a partner or judge. Calls that wait are answered together, in a thread of its own.

Owns loading and a plain batched decode loop; the policy's own generators are `engine`'s and know nothing of this. Each answer is
sampled with a generator of its own that its request seeds, so what other calls happen to share its batch hardly matters.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from sparring.rollout.errors import RemoteError
from sparring.rollout.remote.call import ChatMessage, ChatReply, ChatRequest, Finish, Result, Usage
from sparring.rollout.remote.models import ModelRef
from sparring.rollout.remote.providers.provider import Provider, ProviderFault, ProviderReply

MOST_TOGETHER = 32
"""Calls in one batch."""
GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Tokenizer classes that `AutoTokenizer` would replace by the one of the model's kind."""


@dataclass(eq=False)
class _Asked:
    request: ChatRequest
    prompt: list[int]
    answer: asyncio.Future[list[int]]
    ids: list[int] = field(default_factory=list)

    @property
    def temperature(self) -> float:
        return 1.0 if self.request.temperature is None else self.request.temperature


class LocalProvider(Provider):
    """One model. It costs nothing, so its usage is what it really read and wrote."""

    def __init__(self, ref: ModelRef) -> None:
        """Loads the model, on a GPU where there is one. Raises `RemoteError` for one that cannot be loaded."""
        self._ref = ref
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        logging.disable_progress_bar()
        try:
            self._tokenizer = _load_tokenizer(ref.model)
            dtype = torch.float32 if self._device.type == "cpu" else torch.bfloat16
            model: Any = AutoModelForCausalLM.from_pretrained(ref.model, dtype=dtype)
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RemoteError(f"cannot load {ref.spec}: {first} (give a local folder or a Hugging Face name)") from error
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._room = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
        self._stops = _stop_ids(self._tokenizer, model)
        self._marks = sorted((added.content for added in self._tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        self._waiting: deque[_Asked] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local model")
        self._worker: asyncio.Task[None] | None = None

    async def send(self, request: ChatRequest, *, within: float) -> ProviderReply:
        prompt = self._encode(request.messages)
        room = self._room - len(prompt)
        if room < 1:
            raise ProviderFault(
                Result.BAD_REQUEST, f"{self._ref.spec}: a prompt of {len(prompt)} tokens is beyond its {self._room}"
            )
        asked = _Asked(request, prompt, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        ids = await asked.answer
        stopped = bool(ids) and ids[-1] in self._stops
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(ids))
        reply = ChatReply(text=text, finish=Finish.STOP if stopped else Finish.LENGTH, model=self._ref.model)
        return ProviderReply(reply=reply, usage=usage)

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        """Answers all that wait, a batch at a time."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch: list[_Asked] = []
            while self._waiting and len(batch) < MOST_TOGETHER:
                asked = self._waiting.popleft()
                if not asked.answer.done():
                    batch.append(asked)
            try:
                await loop.run_in_executor(self._thread, self._generate, batch)
            except RuntimeError as error:  # out of memory, mostly
                fault = ProviderFault(Result.SERVER, f"{self._ref.spec}: {str(error).splitlines()[0]}")
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(fault)
            for asked in batch:
                if not asked.answer.done():
                    asked.answer.set_result(asked.ids)

    @torch.inference_mode()
    def _generate(self, batch: list[_Asked]) -> None:
        """Fills in `ids` of each. B calls, T columns; prompts are padded on the left."""
        if not batch:
            return
        width = max(len(asked.prompt) for asked in batch)
        pads = [width - len(asked.prompt) for asked in batch]
        ids_BT = torch.tensor([[0] * pad + asked.prompt for pad, asked in zip(pads, batch, strict=True)], device=self._device)
        mask_BT = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=self._device)
        cache, dice = DynamicCache(config=self._model.config), [_dice(asked.request) for asked in batch]
        limits = [min(asked.request.max_tokens, self._room - len(asked.prompt)) for asked in batch]
        open_ = set(range(len(batch)))
        while True:
            positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
            out = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits_BV = out.logits[:, -1].float().cpu()
            next_B = [0] * len(batch)
            for row in sorted(open_):
                asked = batch[row]
                next_B[row] = _draw(logits_BV[row], asked.temperature, dice[row])
                asked.ids.append(next_B[row])
                if next_B[row] in self._stops or len(asked.ids) >= limits[row]:
                    open_.discard(row)
            if not open_:
                return
            ids_BT = torch.tensor(next_B, device=self._device)[:, None]
            mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=-1)

    def _encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The ids of a chat. A template that knows no system's message gets it at the head of the first user's."""
        chat = [{"role": message.role, "content": self._plain(message.text)} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            text = self._tokenizer.apply_chat_template(_without_system(chat), tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _plain(self, text: str) -> str:
        """A text in which nothing reads as one of the tokenizer's own marks: a player must not write as somebody else."""
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text


def _load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    config = Path(source) / "tokenizer_config.json"
    generic = config.is_file() and json.loads(config.read_text()).get("tokenizer_class") in GENERIC
    tokenizer: PreTrainedTokenizerBase = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(source)
    if not tokenizer.chat_template:
        raise RemoteError("its tokenizer has no chat template")
    return tokenizer


def _stop_ids(tokenizer: PreTrainedTokenizerBase, model: Any) -> frozenset[int]:
    """Of the tokenizer, and of the model's generation settings, which name the end of a turn where that differs."""
    named = getattr(model.generation_config, "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return frozenset(int(token) for token in found if isinstance(token, int))


def _dice(request: ChatRequest) -> torch.Generator:
    return torch.Generator().manual_seed(int(request.digest[:15], 16))


def _draw(logits_V: torch.Tensor, temperature: float, dice: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=dice))


def _without_system(chat: list[dict[str, str]]) -> list[dict[str, str]]:
    system = "\n".join(message["content"] for message in chat if message["role"] == "system")
    rest = [message for message in chat if message["role"] != "system"]
    if system and rest:
        rest[0] = {"role": "user", "content": f"{system}\n{rest[0]['content']}"}
    return rest
