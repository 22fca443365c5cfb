"""`Adapter`: what the learner hands to a generator, and what lies on disk between them in plain PEFT format.

Owns the LoRA configuration, the record with its fingerprint and merged weights, and the files. How an adapter is attached to a
model and trained is `lora.py`'s and `learner.py`'s business.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparring.kernels.checksum import Survey, survey
from sparring.learner.errors import AdapterError
from sparring.learner.files import write_folder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
UNSERVED: dict[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "lora_bias": False,
    "layer_replication": None,
}
"""PEFT options that change what the tensors mean, and the only value of each that we serve."""


class LoraSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of an adapter. There is no dropout: a policy gradient is of the policy that sampled, not of a thinned one."""

    rank: int = 16
    alpha: float = 32.0
    """The update is scaled by alpha / rank, or alpha / sqrt(rank) with `rslora`."""
    target_modules: tuple[str, ...] = ()
    """Last parts of the names of the layers to adapt, such as "q_proj"; empty means every linear layer of the decoder."""
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise AdapterError(f"lora wants rank of at least 1 and alpha above 0, got {self.rank} and {self.alpha}")

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """LoRA tensors under their PEFT names, with what they belong to. The tensors must not be changed: what was read of them once
    is kept.

    Example:
        >>> adapter = learner.adapter()
        >>> adapter.tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape
        torch.Size([16, 128])
        >>> adapter.save(Path("runs/demo/adapter"))
    """

    name: str
    spec: LoraSpec
    tensors: dict[str, Tensor]
    step: int = 0
    base_model: str = ""
    """`fingerprint_model` of the model it was trained on; empty where an adapter of other origin does not say."""

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of the names, shapes, scaling and bits: equal policies share it, on whatever device they lie."""
        names = [(name, *tensor.shape, str(tensor.dtype)) for name, tensor in sorted(self.tensors.items())]
        digest = hashlib.sha256(f"{self.spec.scaling} {names} {self._survey.checksums}".encode())
        return digest.hexdigest()[:12]

    @property
    def largest(self) -> float:
        """The largest magnitude of all its values; NaN where one is NaN."""
        return self._survey.largest

    @cached_property
    def _survey(self) -> Survey:
        return survey([tensor for _, tensor in sorted(self.tensors.items())])

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted layers in the base model, such as "model.layers.0.self_attn.q_proj"."""
        return tuple(sorted(name.removeprefix(PREFIX).removesuffix(LORA_A) for name in self.tensors if name.endswith(LORA_A)))

    @cached_property
    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A [rank, in] and B [out, rank] of each adapted layer. Every A must have its B."""
        return {name: (self.tensors[PREFIX + name + LORA_A], self.tensors[PREFIX + name + LORA_B]) for name in self.modules}

    def merged_deltas(self) -> dict[str, Tensor]:
        """scaling * B @ A per module, in fp32: what to add to the base weight [out, in] to have the policy in one matrix."""
        return {name: self.spec.scaling * self._of(name, LORA_B) @ self._of(name, LORA_A) for name in self.modules}

    def _of(self, module: str, part: str) -> Tensor:
        return self.tensors[PREFIX + module + part].detach().float()

    def check_base(self, base_model: str) -> None:
        """Raises `AdapterError` if it says that it was trained on a model of another fingerprint."""
        if self.base_model not in ("", base_model):
            raise AdapterError(
                f"adapter {self.name!r} was trained on base model {self.base_model}, this one is {base_model}: "
                "load the base model it was trained on, or train a new adapter"
            )

    def files(self) -> dict[str, bytes]:
        """The two files of PEFT's format, as bytes."""
        config = LoraConfig(
            r=self.spec.rank,
            lora_alpha=self.spec.alpha,  # type: ignore[arg-type]
            use_rslora=self.spec.rslora,
            target_modules=sorted({name.rsplit(".", 1)[-1] for name in self.modules}),
            task_type="CAUSAL_LM",
            inference_mode=True,
        )
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
        metadata = {"format": "pt", "name": self.name, "step": str(self.step), "base_model": self.base_model}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        return {
            CONFIG_FILE: json.dumps(plain, indent=2, sort_keys=True).encode(),
            WEIGHTS_FILE: _ordered(safetensors.torch.save(tensors, metadata)),
        }

    def save(self, folder: Path) -> None:
        """Writes it where plain `PeftModel.from_pretrained(base, folder)` reads it; a killed process leaves no half of it."""
        write_folder(folder, self.files())


def load_adapter(folder: Path, *, base_model: str | None = None) -> Adapter:
    """The adapter in `folder`. Raises `AdapterError` if it is missing, broken, of a kind we do not serve, or, where the
    fingerprint `base_model` is given, trained on another model."""
    spec = _read_spec(folder / CONFIG_FILE)
    tensors, metadata = _read_tensors(folder / WEIGHTS_FILE)
    _check_shapes(folder, spec, tensors)
    step = metadata.get("step", "0")
    adapter = Adapter(
        name=metadata.get("name", folder.name),
        spec=spec,
        tensors=tensors,
        step=int(step) if step.isdecimal() and len(step) < 19 else 0,
        base_model=metadata.get("base_model", ""),
    )
    if base_model is not None:
        adapter.check_base(base_model)
    return adapter


def _read_spec(path: Path) -> LoraSpec:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise AdapterError(
            f"no adapter in {path.parent} ({error.strerror}: {path.name}): give a folder in PEFT format with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is not JSON ({error}): save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{path} does not describe a LoRA adapter (peft_type LORA): only LoRA can be loaded")
    for option, served in UNSERVED.items():
        found = config.get(option)
        if found not in (served, None):
            raise AdapterError(f"{path} sets {option} = {found!r}, which is not served: retrain with {option} = {served!r}")
    targets = config.get("target_modules") or ()
    try:
        return LoraSpec(
            rank=config["r"],
            alpha=float(config["lora_alpha"]),
            target_modules=tuple(sorted(targets)) if isinstance(targets, list) else (),
            rslora=bool(config.get("use_rslora", False)),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AdapterError(f"{path} lacks a usable r or lora_alpha ({error}): save the adapter again") from error


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its metadata in order, where the library writes it in another order each time: equal adapters are
    then equal files."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise AdapterError(
            f"no readable {path.name} in {path.parent}: adapters are loaded as safetensors only, so save other formats "
            "again with PEFT's save_pretrained"
        ) from error
    except SafetensorError as error:
        raise AdapterError(f"{path} is not a whole safetensors file ({error}): copy or save the adapter again") from error


def _check_shapes(folder: Path, spec: LoraSpec, tensors: dict[str, Tensor]) -> None:
    adapter = Adapter(name="", spec=spec, tensors=tensors)
    expected = {PREFIX + module + part for module in adapter.modules for part in (LORA_A, LORA_B)}
    odd = sorted(expected.symmetric_difference(tensors))
    if odd or not tensors:
        culprit = odd[0] if odd else "no tensor at all"
        raise AdapterError(f"{folder} does not hold pairs of lora_A and lora_B ({culprit}): save the adapter again")
    for name, tensor in tensors.items():
        rank = tensor.shape[0 if name.endswith(LORA_A) else -1] if tensor.ndim == 2 else 0
        if rank != spec.rank:
            raise AdapterError(
                f"{folder}: {name} is {list(tensor.shape)}, but {CONFIG_FILE} says rank {spec.rank}: the two files do not belong "
                "together, save the adapter again"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise AdapterError(f"{folder}: {name} holds values that are no finite floats: go back to an earlier checkpoint")
