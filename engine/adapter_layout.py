"""How an adapter lies in a generator's slots: what fits, what is written, and whether it is still there.

A slot holds, for every layer that may be adapted, A [rank, in] and B [out, rank] times the adapter's scaling, padded with zeros
up to the slots' rank; a layer that the adapter leaves alone is all zeros. Owns tensors only: which slot serves whom is
`adapter_slots.py`'s, the buffers are vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.engine.errors import GeneratorError
from sparring.kernels.checksum import checksums, joined
from sparring.learner.adapter import LORA_A, LORA_B, PREFIX, Adapter


@dataclass(frozen=True, slots=True)
class Slots:
    """The buffers of one layer over all slots."""

    a: Tensor
    """[slots, rank, in]"""
    b: Tensor
    """[slots, out, rank]"""


def check_fit(adapter: Adapter, layers: Mapping[str, Slots]) -> None:
    """Raises `GeneratorError`, saying what to change, for an adapter that the slots cannot hold. Touches nothing."""
    who = f"adapter {adapter.name!r}"
    paired = {PREFIX + name + part for name in adapter.modules for part in (LORA_A, LORA_B)}
    if odd := sorted(paired.symmetric_difference(adapter.tensors)):
        raise GeneratorError(f"{who} does not hold pairs of lora_A and lora_B ({odd[0]}): save the adapter again")
    if not paired:
        raise GeneratorError(f"{who} holds no tensors: save the adapter again")
    if unknown := sorted(set(adapter.modules) - set(layers)):
        served = ", ".join(sorted({name.rpartition(".")[2] for name in layers})) or "none"
        raise GeneratorError(f"{who} adapts {unknown[0]}, which the generator does not serve: it serves {served}")
    rank = next(iter(layers.values())).a.shape[1]
    if adapter.spec.rank > rank:
        raise GeneratorError(
            f"{who} has rank {adapter.spec.rank} and the generator's slots hold {rank}: set vllm.max_lora_rank = "
            f"{adapter.spec.rank}"
        )
    for name in adapter.modules:
        a_RI, b_OR = _pair(adapter, name)
        wanted = (adapter.spec.rank, layers[name].a.shape[2]), (layers[name].b.shape[1], adapter.spec.rank)
        if (a_RI.shape, b_OR.shape) != wanted:
            found = f"A {list(a_RI.shape)} and B {list(b_OR.shape)}"
            raise GeneratorError(
                f"{who}: {name} has {found}, the base model needs A {list(wanted[0])} and B {list(wanted[1])}: load the base "
                "model it was trained on"
            )
        if not (a_RI.is_floating_point() and b_OR.is_floating_point()):
            raise GeneratorError(f"{who}: {name} holds {a_RI.dtype} and {b_OR.dtype}, and only floating point can be served")
    largest = torch.stack([norm.to(torch.float32) for norm in torch._foreach_norm(_tensors(adapter), float("inf"))]).max()
    # An adapter is scaled in its own precision, then cast.
    dtypes = {next(iter(layers.values())).a.dtype, *(tensor.dtype for tensor in _tensors(adapter))}
    limit = min(torch.finfo(dtype).max for dtype in dtypes) / max(1.0, adapter.spec.scaling)
    if not bool(largest <= limit):
        raise GeneratorError(f"{who} holds values that are not finite at the generator's precision: go back to an earlier one")


def write(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> None:
    """Makes the slot hold the adapter and nothing else. It must have passed `check_fit`."""
    if spare := _spare(adapter, layers, slot):
        torch._foreach_zero_(spare)
    targets, values = _placed(adapter, layers, slot)
    torch._foreach_copy_(targets, values)


def holds(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> bool:
    """Whether the slot holds exactly the adapter, to the last bit at the slots' precision."""
    targets, values = _placed(adapter, layers, slot)
    pieces = zip(joined(targets), joined([value.to(targets[0].dtype) for value in values]), strict=True)
    return all(torch.equal(*pair) for pair in pieces) and not any(
        bool(piece.any()) for piece in joined(_spare(adapter, layers, slot))
    )


def slot_checksum(layers: Mapping[str, Slots], slot: int) -> tuple[int, ...]:
    """What tells the slot's contents from any others."""
    return tuple(checksums([buffer[slot] for layer in layers.values() for buffer in (layer.a, layer.b)]))


def _placed(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> tuple[list[Tensor], list[Tensor]]:
    """Views of the buffers, and what belongs there: every A, then every B times the scaling (in the adapter's own precision)."""
    rank, modules = adapter.spec.rank, adapter.modules
    pairs = [_pair(adapter, name) for name in modules]
    device = next(iter(layers.values())).a.device
    values = [a_RI.to(device) for a_RI, _ in pairs]
    values += torch._foreach_mul([b_OR.to(device) for _, b_OR in pairs], adapter.spec.scaling)
    targets = [layers[name].a[slot, :rank] for name in modules]
    targets += [layers[name].b[slot, :, :rank] for name in modules]
    return targets, values


def _spare(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> list[Tensor]:
    """What the adapter leaves of the slot: layers it does not adapt, ranks it does not have."""
    rank, modules = adapter.spec.rank, frozenset(adapter.modules)
    spare = [buffer[slot] for name, layer in layers.items() if name not in modules for buffer in (layer.a, layer.b)]
    for name in modules:
        spare += [layers[name].a[slot, rank:], layers[name].b[slot, :, rank:]]
    return [tensor for tensor in spare if tensor.numel()]


def _pair(adapter: Adapter, module: str) -> tuple[Tensor, Tensor]:
    return adapter.tensors[PREFIX + module + LORA_A], adapter.tensors[PREFIX + module + LORA_B]


def _tensors(adapter: Adapter) -> list[Tensor]:
    return [tensor for name in adapter.modules for tensor in _pair(adapter, name)]
