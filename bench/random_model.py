"""A model folder with random weights: the shape of a real one, for measuring where no real one can be fetched.

Owns the weights: how they are drawn, so that what is computed with them is of an ordinary size, and how they are written, one
tensor in memory at a time. The tokenizer is the tiny model's; ids beyond it decode to nothing. `python -m
sparring.bench.random_model 7b FOLDER` writes one.

How the numbers keep in bounds (V vocabulary): weights have std 1/sqrt(fan-in), so that every layer adds about MLP_SHARE to the
mean square of the residual stream, and embeddings are small beside it; the final norm scales logits to std s, for which the
entropy is about ln V - s^2 / 2 nats. Channel 0 of the stream is a constant that no layer writes: through it the head gives the id
that ends a message its share of 1 / `message_tokens`, whatever the context.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from sparring.engine.errors import ConfigError
from sparring.engine.memory.model_shape import CONFIGS, ModelShape, read_shape
from sparring.engine.tiny.shipped import TINY_FOLDER

SHAPES = {
    "7b": "Qwen/Qwen2.5-7B-Instruct",
    "1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
}
"""Shapes of real models by their short names."""
MADE_UP = {
    # hidden size, layers, heads, KV heads, intermediate size, vocabulary
    "small": (256, 8, 8, 2, 704, 4096),
    "medium": (1024, 24, 16, 4, 2816, 8192),
}
"""Shapes that no model has: what a CPU computes in seconds, and an adapter of a real one's size on few weights."""
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LOGIT_STD = 3.0
"""s: at most; smaller vocabularies get less, so that their entropy is at least `MIN_ENTROPY`."""
MIN_ENTROPY = 4.0
EMBEDDING_STD = 0.02
MLP_SHARE = 0.356
"""E[silu(g)^2] for a standard normal g: what each layer's MLP adds to the mean square of the stream."""
ATTENTION_SCALE = 0.1
"""Of what attention adds, so that MLP_SHARE alone says how large the stream is, however alike the tokens' values are."""
CONSTANT_SCALE = 0.25
"""Of channel 0, to the length of an embedding: a sixteenth of its square."""
SHARD_BYTES = 2 << 30
SPARE_BYTES = 1 << 30
"""Of the disk, left alone."""


def write_model(
    shape: str | Mapping[str, Any],
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    message_tokens: int = 48,
    device: str = "cpu",
) -> Path:
    """Writes the model into `folder`, which must not exist, and returns it.

    `shape` is a key of `SHAPES` or `MADE_UP`, the folder of a Qwen2 model, or a Qwen2 config. `message_tokens` is about how many
    tokens are sampled until a message ends. Numbers are drawn on `device`: the same seed gives the same model on the same kind of
    device. Raises `ConfigError` where the disk is too small, or the folder is there already.

    Example:
        >>> write_model("0.5b", Path("/tmp/random-0.5b"))
    """
    config = _config(shape)
    sizes = read_shape(config)
    need = sizes.counts.total * dtype.itemsize
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if folder.exists():
        raise ConfigError(f"{folder} is there already: name a new folder")
    if free < need + SPARE_BYTES:
        raise ConfigError(
            f"the model takes {need / 2**30:.1f} GB of disk and {folder.parent} has {free / 2**30:.1f}: name a folder elsewhere"
        )
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in TOKENIZER_FILES:
        shutil.copyfile(TINY_FOLDER / name, unfinished / name)
    (unfinished / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}, indent=2))
    weights = _Weights(sizes, seed=seed, message_tokens=message_tokens, stop_id=config["eos_token_id"], device=device)
    _write_shards(iter(weights), unfinished, dtype)
    return unfinished.rename(folder)


def _config(shape: str | Mapping[str, Any]) -> dict[str, Any]:
    """Of the model as it will be: a Qwen2 whose ends of text are the tokenizer's."""
    tiny = json.loads((TINY_FOLDER / "config.json").read_bytes())
    if isinstance(shape, Mapping):
        config = dict(shape)
    elif shape in MADE_UP:
        config = tiny | dict(zip(SIZES, MADE_UP[shape], strict=True)) | {"max_position_embeddings": 2048, "layer_types": None}
    else:
        name = SHAPES.get(shape, shape)
        path = CONFIGS.get(name, Path(name) / "config.json")
        if not path.is_file():
            known = ", ".join([*SHAPES, *MADE_UP, *CONFIGS])
            raise ConfigError(f"there is no shape {shape!r}: choose from {known}, or a Qwen2 model's folder")
        config = json.loads(path.read_bytes())
    if config.get("model_type") != "qwen2" or config["vocab_size"] < tiny["vocab_size"]:
        least = f"a vocabulary of {tiny['vocab_size']:,} or more"
        raise ConfigError(f"random weights are made for Qwen2 with {least}: choose from {', '.join(SHAPES)}")
    return config | {"eos_token_id": tiny["eos_token_id"], "pad_token_id": tiny["pad_token_id"], "bos_token_id": None}


class _Weights:
    """Draws every tensor in turn, in float32."""

    def __init__(self, shape: ModelShape, *, seed: int, message_tokens: int, stop_id: int, device: str) -> None:
        self.shape, self.stop_id, self.device = shape, stop_id, device
        self.rng = torch.Generator(device).manual_seed(seed)
        uniform = math.log(shape.vocab_size)
        variance = max(0.0, min(LOGIT_STD**2, 2 * (uniform - MIN_ENTROPY)))
        self.norm = math.sqrt(variance / shape.hidden_size) / EMBEDDING_STD
        self.constant = CONSTANT_SCALE * EMBEDDING_STD * math.sqrt(shape.hidden_size)
        stream = math.sqrt(EMBEDDING_STD**2 + MLP_SHARE * shape.num_layers)
        # ln p(stop) is its logit - (ln V + s^2 / 2), and channel 0 reaches the head as constant / stream.
        self.stop = (uniform + variance / 2 - math.log(message_tokens)) * stream / self.constant

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield "model.embed_tokens.weight", self._vocabulary(self.constant, has_stop=self.shape.tied)
        if not self.shape.tied:
            yield "lm_head.weight", self._vocabulary(0.0, has_stop=True)
        for layer in range(self.shape.num_layers):
            yield from self._layer(f"model.layers.{layer}.")
        yield "model.norm.weight", self._norm(self.norm, first=1.0)

    def _layer(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name, linear in self.shape.linears.items():
            part = "self_attn" if linear.pack in ("qkv_proj", "o_proj") else "mlp"
            scale = ATTENTION_SCALE if name == "o_proj" else 1.0
            weight = self._drawn(linear.outputs, linear.inputs, scale / math.sqrt(linear.inputs))
            if name in ("o_proj", "down_proj"):
                weight[0] = 0.0
            yield f"{prefix}{part}.{name}.weight", weight
            if linear.bias:
                yield f"{prefix}{part}.{name}.bias", torch.zeros(linear.outputs)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", self._norm(1.0, first=0.0)

    def _vocabulary(self, first: float, *, has_stop: bool) -> Tensor:
        rows = self._drawn(self.shape.vocab_size, self.shape.hidden_size, EMBEDDING_STD)
        rows[:, 0] = first
        if has_stop:
            rows[self.stop_id] = 0.0
            rows[self.stop_id, 0] = first + self.stop
        return rows

    def _norm(self, scale: float, *, first: float) -> Tensor:
        weight = torch.full((self.shape.hidden_size,), scale)
        weight[0] = first
        return weight

    def _drawn(self, rows: int, columns: int, std: float) -> Tensor:
        return torch.randn(rows, columns, generator=self.rng, device=self.device).mul_(std)


def _write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path, dtype: torch.dtype) -> None:
    """Files of about `SHARD_BYTES` with an index, as Transformers and vLLM read them."""
    held: dict[str, Tensor] = {}
    size, total, shards = 0, 0, list[list[str]]()

    def flush() -> None:
        safetensors.torch.save_file(held, folder / f"shard-{len(shards)}.safetensors", {"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        held[name] = tensor.to(dtype).cpu().contiguous()
        del tensor
        size += held[name].nbytes
        total += held[name].nbytes
        if size >= SHARD_BYTES:
            flush()
            size = 0
    if held:
        flush()
    where: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a model with random weights.")
    parser.add_argument("shape", help=f"{', '.join([*SHAPES, *MADE_UP])}, or the folder of a Qwen2 model with a config.json")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--message-tokens", type=int, default=48)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        write_model(args.shape, args.folder, seed=args.seed, message_tokens=args.message_tokens, device=device)
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
