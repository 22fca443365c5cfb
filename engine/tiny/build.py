"""`sparring tiny build`: makes the embedded models, offline and reproducibly.

Qwen2-architecture language models of about a million parameters, warm-started on a corpus of scripted players that are legal but
mediocre. They exist so that the whole loop runs, and learns, on any machine; they are no use for anything else. Owns the recipe;
what the corpora hold is `games.py`'s and `contests.py`'s.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from sparring.engine.tiny.contests import CONTESTS
from sparring.engine.tiny.corpus import Lessons
from sparring.engine.tiny.games import GAMES
from sparring.engine.tiny.tokenizer import train_tokenizer
from sparring.learner.attention import ATTENTION
from sparring.learner.batch import pack
from sparring.rollout.chat import ChatFormat
from sparring.rollout.trajectory import Trajectory

CORPORA = {"games": GAMES, "contests": CONTESTS}


class TinyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The recipe. The defaults made the model of the games; see `RECIPES`."""

    corpus: Literal["games", "contests"] = "games"
    seed: int = 0
    vocab_size: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 256
    context: int = 512
    steps: int = 9500
    """Of which the last, by the corpus' share, are the finishing lessons, at half the learning rate."""
    batch: int = 16
    """Examples a step: what was read is copied only after some hundred small steps, not after a few large ones."""
    lr: float = 2.5e-3
    warmup: int = 50
    threads: int = 1


RECIPES: Mapping[str, TinyConfig] = {
    "games": TinyConfig(),
    "contests": TinyConfig(corpus="contests", vocab_size=2048, steps=5500, batch=24, lr=3e-3),
}
"""The recipes of the models that ship, by corpus."""


def new_model(config: TinyConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """The untrained model, from the config's seed."""
    torch.manual_seed(config.seed)
    shape = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.mlp,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=int(tokenizer.eos_token_id),
        pad_token_id=int(tokenizer.pad_token_id),
    )
    return Qwen2ForCausalLM(shape)


def warm_start_loss(model: Qwen2ForCausalLM, examples: list[Trajectory]) -> torch.Tensor:
    """Mean cross-entropy of the tokens that the imitated seats wrote."""
    none = [0.0] * len(examples)
    (batch,) = pack(examples, none, none, token_budget=sys.maxsize)
    ids, positions = batch.token_ids[None], batch.position_ids[None]
    hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False, batch=batch).last_hidden_state[0]
    return functional.cross_entropy(model.lm_head(hidden[batch.rows]), batch.targets)


@dataclass(frozen=True)
class Phase:
    """Part of the warm start: an optimiser of its own, linear warm-up, then linear decay to a twentieth."""

    first: int
    """How many steps came before."""
    steps: int
    lr: float
    warmup: int
    lessons: Lessons

    def rate(self, step: int) -> float:
        return self.lr * min((step + 1) / self.warmup, 1.05 - step / self.steps)


def phases(config: TinyConfig) -> tuple[Phase, Phase]:
    """The two parts of the recipe."""
    corpus = CORPORA[config.corpus]
    finishing = int(config.steps * corpus.finishing_share)
    first = config.steps - finishing
    return (
        Phase(0, first, config.lr, config.warmup, corpus.first),
        Phase(first, finishing, config.lr / 2, config.warmup, corpus.finishing),
    )


def build(
    config: TinyConfig, on_step: Callable[[int, float], None] | None = None
) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """The warm-started model and its tokenizer: the same weights for the same config on the same build of torch and processor.

    `on_step` is told each step's number, from 0, and loss.
    """
    torch.set_num_threads(config.threads)
    corpus = CORPORA[config.corpus]
    tokenizer = train_tokenizer(corpus.texts(), corpus.pieces, config.vocab_size)
    chat = ChatFormat(tokenizer)
    model = new_model(config, tokenizer)
    model.set_attn_implementation(ATTENTION)
    for phase in phases(config):
        optimizer = torch.optim.AdamW(model.parameters(), lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.01)
        for step in range(phase.steps):
            number = (phase.first + step) * config.batch
            examples = [corpus.example(chat, phase.lessons, config.seed, number + i) for i in range(config.batch)]
            for group in optimizer.param_groups:
                group["lr"] = phase.rate(step)
            loss = warm_start_loss(model, examples)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if on_step is not None:
                on_step(phase.first + step, float(loss.detach()))
    return model.eval(), tokenizer


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, config: TinyConfig, output: Path) -> str:
    """Writes model, tokenizer and card; returns the SHA-256 of `model.safetensors`."""
    output.mkdir(parents=True, exist_ok=True)
    model.set_attn_implementation("sdpa")
    logging.disable_progress_bar()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    digest = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    (output / "recipe.json").write_text(json.dumps(msgspec.to_builtins(config), indent=2) + "\n")
    card = (
        Path(__file__)
        .with_name(CORPORA[config.corpus].card)
        .read_text()
        .format(
            config=config, parameters=model.num_parameters(), vocabulary=len(tokenizer), torch=torch.__version__, digest=digest
        )
    )
    (output / "CARD.md").write_text(card)
    return digest
