"""`ModelShape`: how large a decoder is and which layers it has, read from its config.json alone. No weight is loaded or fetched.

Owns the parameter counts of the architectures that Sparring trains (Qwen2, Qwen3, Llama, Mistral) and where a config is found.
What the numbers cost in memory is `plan.py`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sparring.engine.errors import ConfigError
from sparring.engine.tiny.shipped import SHIPPED

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
FOLDER = Path(__file__).parent
CONFIGS = {
    **{name: folder / "config.json" for name, folder in SHIPPED.items()},
    **{
        f"Qwen/{name}": FOLDER / "model_configs" / f"{name}.json"
        for name in ("Qwen2.5-0.5B-Instruct", "Qwen2.5-1.5B-Instruct", "Qwen2.5-7B-Instruct")
    },
}
"""Configs that ship with the package, by the name that `model` in the settings has, so that presets are planned anywhere."""
QWEN3_HEAD_DIM = 128
"""Qwen3's default; the others divide the hidden size by the heads."""


class Linear(msgspec.Struct, frozen=True):
    """A linear layer's sizes. `pack` names the matrix that vLLM keeps it in."""

    inputs: int
    outputs: int
    bias: bool
    pack: str

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


class ParameterCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of parameters. `head` is 0 where it is the embeddings' matrix."""

    embeddings: int
    head: int
    linears: int
    biases: int
    norms: int

    @property
    def total(self) -> int:
        return self.embeddings + self.head + self.linears + self.biases + self.norms

    @property
    def unquantised(self) -> int:
        """What stays as it is where the linear layers are quantised."""
        return self.total - self.linears


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a decoder.

    Example:
        >>> read_shape("Qwen/Qwen2.5-7B-Instruct").counts.total
        7615616512
    """

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    tied: bool
    """The head is the embeddings' matrix."""
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all keys, or all values, of a token in one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def kv_per_token(self) -> int:
        """Numbers in the KV cache for one token: keys and values of every layer."""
        return 2 * self.num_layers * self.kv_size

    @property
    def linears(self) -> dict[str, Linear]:
        """The linear layers of one decoder layer, which are the ones that LoRA adapts."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        return {
            "q_proj": Linear(hidden, self.attention_size, self.qkv_bias, "qkv_proj"),
            "k_proj": Linear(hidden, self.kv_size, self.qkv_bias, "qkv_proj"),
            "v_proj": Linear(hidden, self.kv_size, self.qkv_bias, "qkv_proj"),
            "o_proj": Linear(self.attention_size, hidden, self.out_bias, "o_proj"),
            "gate_proj": Linear(hidden, mlp, self.mlp_bias, "gate_up_proj"),
            "up_proj": Linear(hidden, mlp, self.mlp_bias, "gate_up_proj"),
            "down_proj": Linear(mlp, hidden, self.mlp_bias, "down_proj"),
        }

    @property
    def counts(self) -> ParameterCounts:
        """Exact numbers of parameters."""
        linears = self.linears.values()
        matrix = self.vocab_size * self.hidden_size
        norms_of_layer = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return ParameterCounts(
            embeddings=matrix,
            head=0 if self.tied else matrix,
            linears=self.num_layers * sum(linear.weights for linear in linears),
            biases=self.num_layers * sum(linear.outputs for linear in linears if linear.bias),
            norms=self.num_layers * norms_of_layer + self.hidden_size,
        )

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] = ()) -> int:
        """Parameters of a LoRA adapter: A [rank, in] and B [out, rank] of each target layer; no targets are all of them."""
        wanted = [linear for name, linear in self.linears.items() if not targets or name in targets]
        return self.num_layers * rank * sum(linear.inputs + linear.outputs for linear in wanted)

    def slot_parameters(self, rank: int, targets: tuple[str, ...] = ()) -> int:
        """Parameters of one of vLLM's LoRA slots: as an adapter, and a packed matrix has all its parts where one is a target."""
        packs = {linear.pack for name, linear in self.linears.items() if not targets or name in targets}
        return self.adapter_parameters(rank, tuple(name for name, linear in self.linears.items() if linear.pack in packs))


def read_shape(model: str | Path | Mapping[str, Any]) -> ModelShape:
    """The shape of `model`: one that ships, a local folder, a model of our presets, a Hugging Face name, or a config itself.

    Raises `ConfigError` for a config that cannot be found, or of an architecture that the plan does not know.
    """
    if isinstance(model, Mapping):
        return _shape(model, "the config")
    name = str(model)
    folder = Path(model)
    if folder.is_dir():
        return _shape(_read(folder / "config.json", name), name)
    if name in CONFIGS:
        return _shape(_read(CONFIGS[name], name), name)
    return _shape(_read(_fetch(name), name), name)


def _fetch(name: str) -> Path:
    """config.json of a model on the Hugging Face hub, from its cache where it is there."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"no config.json of model {name!r} is at hand ({reason}): set model to a local folder that holds it, or to one of "
            f"{', '.join(CONFIGS)}"
        ) from error


def _read(path: Path, name: str) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"model {name!r} has no readable config.json ({error.strerror}): give the model's own folder"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"model {name!r}: {path} is not JSON ({error}): download the model again") from error
    if not isinstance(config, dict):
        raise ConfigError(f"model {name!r}: {path} holds no settings: download the model again")
    return config


def _shape(config: Mapping[str, Any], name: str) -> ModelShape:
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ConfigError(
            f"model {name!r} is a {kind!r} model, and memory is planned for {', '.join(MODEL_TYPES)}: choose one of these"
        )

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise ConfigError(f"model {name!r}: its config.json has no usable {key} ({value!r}): download the model again")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    biased = bool(config.get("attention_bias", False)) and kind in ("llama", "qwen3")
    return ModelShape(
        model_type=kind,
        hidden_size=hidden,
        num_layers=number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", QWEN3_HEAD_DIM if kind == "qwen3" else hidden // heads),
        intermediate_size=number("intermediate_size"),
        vocab_size=number("vocab_size"),
        max_positions=number("max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=biased or kind == "qwen2",
        out_bias=biased,
        mlp_bias=bool(config.get("mlp_bias", False)) and kind == "llama",
        qk_norm=kind == "qwen3",
    )
