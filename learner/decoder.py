"""The decoder's forward pass over a `Batch`, with a last layer that computes only what the head will read.

Owns the way from token ids to the hidden states that predict trained tokens. Transformers' modules do the work; for the families
in `TRIMMED` the last layer's queries, output projection and MLP run on the predicting rows alone, which is exact: no later layer
reads the others. Every other model runs whole.

Axes: N rows, R rows that predict a trained token, M trained tokens, H hidden.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparring.learner.attention import attend, gather
from sparring.learner.batch import Batch
from sparring.learner.errors import LearnerError

TRIMMED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose layers are: norm, attention, add, norm, MLP, add; with rotary position embedding."""


def hidden_states(decoder: PreTrainedModel, batch: Batch) -> Tensor:
    """[M, H], for each trained token the final hidden state of the row that predicts it.

    Raises `LearnerError` for sequences that reach beyond the model's sliding window.
    """
    window, longest = getattr(decoder.config, "sliding_window", None), batch.paths.shape[1]
    if window is not None and longest > window:
        raise LearnerError(f"the model attends to {window} tokens only and a sequence has {longest}: play shorter games")
    if decoder.config.model_type not in TRIMMED:
        ids, positions = batch.token_ids[None], batch.position_ids[None]
        out = decoder(input_ids=ids, position_ids=positions, use_cache=False, batch=batch)
        return gather(out.last_hidden_state[0], batch.rows)
    x = cast(nn.Module, decoder.embed_tokens)(batch.token_ids[None])
    rotary = cast(nn.Module, decoder.rotary_emb)(x, batch.position_ids[None])
    *layers, last = cast(nn.ModuleList, decoder.layers)
    for layer in layers:
        x = layer(x, attention_mask=None, position_embeddings=rotary, batch=batch)
    x_RH = _last_layer(last, x[0], rotary, batch)
    return gather(cast(nn.Module, decoder.norm)(x_RH), batch.predictor)


def _last_layer(layer: nn.Module, x_NH: Tensor, rotary: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """[R, H]: keys and values of every row, everything else of the predicting rows."""
    attention = cast(nn.Module, layer.self_attn)
    sub = dict(attention.named_children())
    cos, sin = rotary[0][0, :, None], rotary[1][0, :, None]
    at = batch.predicting
    h_NH = _call(layer.input_layernorm, x_NH)

    def project(name: str, h: Tensor) -> Tensor:
        y = sub[f"{name}_proj"](h).view(len(h), -1, cast(int, attention.head_dim))
        return _call(sub[f"{name}_norm"], y) if f"{name}_norm" in sub else y

    query = _rotate(project("q", gather(h_NH, at)), cos[at], sin[at])
    key, value = _rotate(project("k", h_NH), cos, sin), project("v", h_NH)
    mixed = attend(query, key, value, batch.last_blocks, batch.last_home, scaling=cast(float, attention.scaling))
    x_RH = gather(x_NH, at) + _call(sub["o_proj"], mixed.flatten(1))
    return x_RH + _call(layer.mlp, _call(layer.post_attention_layernorm, x_RH))


def _call(module: Tensor | nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, cast(nn.Module, module)(x))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in half-split form: (a, b) -> (a cos - b sin, b cos + a sin). x [rows, h, d], cos and sin [rows, 1, d]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
