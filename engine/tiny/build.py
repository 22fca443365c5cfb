"""`sparring tiny build`: makes the embedded model, offline and reproducibly.

A Qwen2-architecture language model of about a million parameters, warm-started on the games of scripted players that are legal
but mediocre. It exists so that the whole loop runs, and learns, on any machine; it is no use for anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sparring.engine.tiny.corpus import Example, Teacher, examples, tokenizer_texts
from sparring.engine.tiny.tokenizer import IM_END, PAD, train_tokenizer
from sparring.rollout.chat import ChatFormat

TINY_MODEL = Path(__file__).parent / "weights"
"""Where the model that ships with the package lies."""

TEACHERS = (
    Teacher("haggle", {"naive": 0.5, "conceder": 0.2, "holder": 0.2, "tit_for_tat": 0.1}),
)


class TinyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The recipe. The defaults made the model that ships."""

    seed: int = 0
    vocab_size: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 384
    context: int = 512
    steps: int = 3000
    batch: int = 16
    """Games a step: numbers are copied only after some hundred small steps, not after a few large ones."""
    lr: float = 2.5e-3
    warmup: int = 50
    threads: int = 1
    device: str = "cpu"


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
        eos_token_id=tokenizer.convert_tokens_to_ids(IM_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return Qwen2ForCausalLM(shape).float()


def warm_start_loss(model: Qwen2ForCausalLM, batch: list[Example]) -> torch.Tensor:
    """Mean cross-entropy of the tokens that the imitated seats wrote."""
    device, longest = model.device, max(len(example.token_ids) for example in batch)
    ids = torch.tensor([example.token_ids + [0] * (longest - len(example.token_ids)) for example in batch], device=device)
    mask = torch.tensor([example.mask + [False] * (longest - len(example.mask)) for example in batch], device=device)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    written = mask[:, 1:]
    return functional.cross_entropy(model.lm_head(hidden[:, :-1][written]), ids[:, 1:][written])


def learning_rate(config: TinyConfig, step: int) -> float:
    """Linear warm-up, then linear decay to a twentieth."""
    return config.lr * min((step + 1) / config.warmup, 1.05 - step / config.steps)


def build(
    config: TinyConfig, teachers: tuple[Teacher, ...] = TEACHERS, on_step: Callable[[int, float], None] | None = None
) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast]:
    """The warm-started model and its tokenizer: the same weights for the same config on the same build of torch and processor."""
    torch.set_num_threads(config.threads)
    tokenizer = train_tokenizer(tokenizer_texts(300), config.vocab_size)
    chat = ChatFormat(tokenizer)
    model = new_model(config, tokenizer).to(config.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
    source = examples(chat, teachers, config.seed)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss = warm_start_loss(model, list(islice(source, config.batch)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step, float(loss))
    return model.cpu().eval(), tokenizer


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, config: TinyConfig, output: Path) -> str:
    """Writes model, tokenizer and card; returns the SHA-256 of `model.safetensors`."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    digest = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
    (output / "recipe.json").write_text(json.dumps(msgspec.to_builtins(config), indent=1) + "\n")
    return digest
