"""The forward pass of a Hugging Face decoder (Qwen2, Qwen3, Llama, Mistral) over packed tokens and a slot cache.

Owns the weights' layout and the mathematics: q, k, v and gate, up are fused into one matrix each, tokens of all requests are
packed into one [N, H] matrix without padding, and only attention looks at rows. An adapter is served as merged weights W +
scaling * B A beside the base ones; which rows see which weights is said by `Segment`s, so switching costs nothing. The weights
are read when the decoder is made: the fused and the merged ones are copies, the others are shared with the model. What to
compute when is `batch_layout.py` and `generator.py`.

Axes: N packed tokens, H hidden, A attention heads, K kv heads, G = A / K, D head dim, S slots, T cached tokens, R rows, Q
queries, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
from transformers import PreTrainedModel

from sparring.engine.embedded.batch_layout import DecodeRows, Layout, PrefillRows
from sparring.engine.embedded.kv_cache import KVCache
from sparring.engine.errors import GeneratorError

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class Linear(NamedTuple):
    weight: Tensor
    bias: Tensor | None = None


class LayerWeights(NamedTuple):
    """What an adapter may change in one layer."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear


class Weights(NamedTuple):
    """What an adapter may change in the model."""

    layers: tuple[LayerWeights, ...]
    head: Linear


class _Norms(NamedTuple):
    """The norm weights of one layer; q and k [D] exist in Qwen3 only."""

    before_attention: Tensor
    before_mlp: Tensor
    q: Tensor | None
    k: Tensor | None


class Decoder:
    """A model's forward pass, with any number of merged versions of its weights.

    Raises `GeneratorError` for a model it cannot compute.
    """

    def __init__(self, model: PreTrainedModel, max_context: int) -> None:
        _check_supported(model, max_context)
        config = model.config
        body = model.model
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.head_dim: int = body.layers[0].self_attn.head_dim
        self.vocab_size: int = config.vocab_size
        self.scale: float = body.layers[0].self_attn.scaling
        self.eps: float = config.rms_norm_eps
        self.activation: Callable[[Tensor], Tensor] = body.layers[0].mlp.act_fn
        self.embedding_VH: Tensor = body.embed_tokens.weight.detach()
        self.norm_H: Tensor = body.norm.weight.detach()
        self.norms = tuple(_norms(layer) for layer in body.layers)
        self.dtype = self.embedding_VH.dtype
        self.device = self.embedding_VH.device
        positions = torch.arange(max_context, device=self.device)[None]
        cos, sin = body.rotary_emb(self.embedding_VH[:1, None], positions)
        self.cos_TD = cos[0].contiguous()
        self.half_sin_TD = sin[0, :, : self.head_dim // 2].contiguous()
        self.part_rows, layers = _fuse(body.layers)
        self.base = Weights(layers, _linear(model.lm_head))

    def merge(self, deltas: Mapping[str, Tensor]) -> Weights:
        """The base weights plus `deltas` (module name to [out, in]); unchanged matrices are shared. Sums in float32."""
        left = dict(deltas)
        layers = []
        for index, base in enumerate(self.base.layers):
            changed = {}
            for field, parts in _PARTS.items():
                found = {part: left.pop(name) for part in parts if (name := f"model.layers.{index}.{part}") in left}
                if found:
                    changed[field] = self._merge_parts(getattr(base, field), field, found)
            layers.append(base._replace(**changed))
        head = self.base.head
        if "lm_head" in left:
            head = Linear(_add(head.weight, left.pop("lm_head"), "lm_head"), head.bias)
        if left:
            raise GeneratorError(
                f"the embedded generator cannot apply an adapter to {sorted(left)[0]!r}: train linear layers of the decoder only"
            )
        return Weights(tuple(layers), head)

    def _merge_parts(self, base: Linear, field: str, deltas: Mapping[str, Tensor]) -> Linear:
        pieces = base.weight.split([self.part_rows[part] for part in _PARTS[field]])
        merged = [
            _add(piece, deltas[part], part) if part in deltas else piece
            for part, piece in zip(_PARTS[field], pieces, strict=True)
        ]
        return Linear(torch.cat(merged), base.bias)

    def forward(self, layout: Layout[Weights], cache: KVCache) -> Tensor:
        """Computes the tokens, writing their keys and values into the cache. Logits [M, V] float32 of its `last`."""
        segments = layout.segments
        x_NH = self.embedding_VH.index_select(0, layout.ids)
        cos_N1D, sin_N1D = (table.index_select(0, layout.positions)[:, None] for table in (self.cos_TD, self.half_sin_TD))
        for index, norms in enumerate(self.norms):
            h_NH = rms_norm(x_NH, self.norm_H.shape, norms.before_attention, self.eps)
            qkv = _apply(h_NH, [(s.start, s.stop, s.weights.layers[index].qkv) for s in segments])
            attended = self._attend(qkv, norms, cos_N1D, sin_N1D, layout, cache.layer(index))
            x_NH = x_NH + _apply(attended, [(s.start, s.stop, s.weights.layers[index].out) for s in segments])
            h_NH = rms_norm(x_NH, self.norm_H.shape, norms.before_mlp, self.eps)
            gate, up = _apply(h_NH, [(s.start, s.stop, s.weights.layers[index].gate_up) for s in segments]).chunk(2, dim=-1)
            x_NH = x_NH + _apply(self.activation(gate) * up, [(s.start, s.stop, s.weights.layers[index].down) for s in segments])
        if not layout.last_segments:
            return x_NH.new_empty(0, self.vocab_size, dtype=torch.float32)
        x_MH = rms_norm(x_NH.index_select(0, layout.last), self.norm_H.shape, self.norm_H, self.eps)
        return _apply(x_MH, [(s.start, s.stop, s.weights.head) for s in layout.last_segments]).to(torch.float32)

    def _attend(
        self, qkv: Tensor, norms: _Norms, cos_N1D: Tensor, sin_N1D: Tensor, layout: Layout[Weights], kv: tuple[Tensor, Tensor]
    ) -> Tensor:
        num_qk = self.num_heads + self.num_kv_heads
        qkv = qkv.view(qkv.shape[0], num_qk + self.num_kv_heads, self.head_dim)
        qk = _rotate(self._normalised(qkv[:, :num_qk], norms), cos_N1D, sin_N1D)
        query_NAD = qk[:, : self.num_heads]
        for cached, new in zip(kv, (qk[:, self.num_heads :], qkv[:, num_qk:]), strict=True):
            cached.view(-1, self.head_dim).index_copy_(0, layout.cache_rows, new.reshape(-1, self.head_dim))
        pieces = []
        if layout.decode is not None:
            pieces.append(self._attend_decode(query_NAD[: layout.num_decode], kv, layout.decode))
        for rows in layout.prefill:
            pieces.append(self._attend_prefill(query_NAD[rows.start : rows.stop], kv, rows))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _normalised(self, qk: Tensor, norms: _Norms) -> Tensor:
        if norms.q is None or norms.k is None:
            return qk
        query = rms_norm(qk[:, : self.num_heads], (self.head_dim,), norms.q, self.eps)
        key = rms_norm(qk[:, self.num_heads :], (self.head_dim,), norms.k, self.eps)
        return torch.cat((query, key), dim=1)

    def _attend_decode(self, query_RAD: Tensor, kv: tuple[Tensor, Tensor], rows: DecodeRows) -> Tensor:
        """One query per row."""
        keys, values = (_rows(cached, rows.slots, rows.num_tokens).flatten(0, 1) for cached in kv)
        query = query_RAD.reshape(-1, self.num_kv_heads, self.num_heads // self.num_kv_heads, self.head_dim)
        if rows.scatter is not None:
            query = query.new_zeros(rows.num_rows, *query.shape[1:]).index_copy_(0, rows.scatter, query)
        score = torch.baddbmm(rows.mask, query.flatten(0, 1), keys.transpose(1, 2), alpha=self.scale)
        mixed = torch.bmm(torch.softmax(score, dim=-1), values).view(-1, self.num_heads * self.head_dim)
        return mixed if rows.scatter is None else mixed.index_select(0, rows.scatter)

    def _attend_prefill(self, query_NAD: Tensor, kv: tuple[Tensor, Tensor], rows: PrefillRows) -> Tensor:
        """Several queries per row, padded to the bucket's longest by repeating a row's last query."""
        num_rows, num_queries = rows.num_rows, rows.num_queries
        keys, values = (_rows(cached, rows.slots, rows.num_tokens) for cached in kv)
        query = query_NAD if rows.pad is None else query_NAD.index_select(0, rows.pad)
        query = query.view(num_rows, num_queries, self.num_kv_heads, -1, self.head_dim).permute(0, 2, 3, 1, 4)
        query = query.reshape(num_rows, self.num_kv_heads, -1, self.head_dim)
        mixed = scaled_dot_product_attention(query, keys, values, attn_mask=rows.mask, scale=self.scale)
        mixed = mixed.view(num_rows, self.num_kv_heads, -1, num_queries, self.head_dim).permute(0, 3, 1, 2, 4)
        mixed = mixed.reshape(num_rows * num_queries, -1)
        return mixed if rows.unpad is None else mixed.index_select(0, rows.unpad)


def _apply(x: Tensor, runs: Sequence[tuple[int, int, Linear]]) -> Tensor:
    """Each run of rows through its own matrix."""
    if len(runs) == 1:
        return linear(x, *runs[0][2])
    return torch.cat([linear(x[start:stop], *matrix) for start, stop, matrix in runs])


def _rows(cached_SKCD: Tensor, slots: Tensor | slice, num_tokens: int) -> Tensor:
    """The first tokens of some slots: a view of a range of them, a copy of others."""
    cached_SKTD = cached_SKCD[:, :, :num_tokens]
    return cached_SKTD[slots] if isinstance(slots, slice) else cached_SKTD.index_select(0, slots)


def _rotate(x: Tensor, cos: Tensor, half_sin: Tensor) -> Tensor:
    """Rotary embedding, Hugging Face's half-split form: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], half_sin, value=-1)
    rotated[..., half:].addcmul_(x[..., :half], half_sin)
    return rotated


def _add(weight: Tensor, delta: Tensor, name: str) -> Tensor:
    if weight.shape != delta.shape:
        raise GeneratorError(
            f"the adapter changes {name} by {tuple(delta.shape)}, its weight is {tuple(weight.shape)}: publish one of this model"
        )
    return (weight.float() + delta.detach().to(weight.device).float()).to(weight.dtype)


def _linear(module: nn.Module) -> Linear:
    """The weights of a linear layer, also under a PEFT wrapper."""
    module = getattr(module, "base_layer", module)
    assert isinstance(module, nn.Linear)
    return Linear(module.weight.detach(), module.bias.detach() if module.bias is not None else None)


def _fuse(layers: nn.ModuleList) -> tuple[dict[str, int], tuple[LayerWeights, ...]]:
    """Rows of each part, and the fused weights of all layers."""
    part_rows: dict[str, int] = {}
    fused = []
    for layer in layers:
        fields = {}
        for field, parts in _PARTS.items():
            linears = [_linear(layer.get_submodule(part)) for part in parts]
            part_rows.update((part, linear.weight.shape[0]) for part, linear in zip(parts, linears, strict=True))
            fields[field] = linears[0] if len(linears) == 1 else _concatenate(linears)
        fused.append(LayerWeights(**fields))
    return part_rows, tuple(fused)


def _concatenate(linears: Sequence[Linear]) -> Linear:
    biases = [linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.weight.shape[0]) for linear in linears]
    has_bias = any(linear.bias is not None for linear in linears)
    return Linear(torch.cat([linear.weight for linear in linears]), torch.cat(biases) if has_bias else None)


def _norms(layer: nn.Module) -> _Norms:
    parameters = dict(layer.named_parameters())

    def weight(name: str) -> Tensor | None:
        return parameters[name].detach() if name in parameters else None

    return _Norms(
        before_attention=layer.get_parameter("input_layernorm.weight").detach(),
        before_mlp=layer.get_parameter("post_attention_layernorm.weight").detach(),
        q=weight("self_attn.q_norm.weight"),
        k=weight("self_attn.k_norm.weight"),
    )


def _check_supported(model: PreTrainedModel, max_context: int) -> None:
    config = model.config
    if config.model_type not in MODEL_TYPES:
        raise GeneratorError(
            f"the embedded generator serves {', '.join(MODEL_TYPES)}, not {config.model_type!r}: choose one of these"
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope in _LENGTH_DEPENDENT_ROPE:
        raise GeneratorError(f'the embedded generator has no {rope!r} rotary embedding: set generator = "vllm"')
    slides = config.model_type == "mistral" or "sliding_attention" in getattr(config, "layer_types", ())
    window = getattr(config, "sliding_window", None) if slides else None
    if window is not None and window < max_context:
        raise GeneratorError(
            f"the model attends to {window} tokens only, less than max_context {max_context}: set max_context={window}"
        )
