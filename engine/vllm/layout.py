"""How an adapter lies in a generator's slots: what fits, what is written, and whether it is still there.

A slot holds, for every layer that may be adapted, A [rank, in] and B [out, rank] times the adapter's scaling, padded with zeros
up to the slots' rank; a layer that the adapter leaves alone is all zeros. Owns tensors only: which slot serves whom is
`slots.py`'s, the buffers are vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors
from torch.nn.functional import pad

from sparring.engine.errors import GeneratorError
from sparring.kernels.checksum import checksum, checksums, spans, words
from sparring.learner.adapter import LORA_A, LORA_B, PREFIX, Adapter


@dataclass(frozen=True)
class Slots:
    """The buffers of one layer over all slots."""

    a: Tensor
    """[slots, rank, in]"""
    b: Tensor
    """[slots, out, rank]"""

    @cached_property
    def each(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """A [rank * in] and B [out * rank] of each slot."""
        return tuple(zip(self.a.view(len(self.a), -1).unbind(), self.b.view(len(self.b), -1).unbind(), strict=True))


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
    for name, (a_RI, b_OR) in adapter.pairs.items():
        wanted = (adapter.spec.rank, layers[name].a.shape[2]), (layers[name].b.shape[1], adapter.spec.rank)
        if (a_RI.shape, b_OR.shape) != wanted:
            found = f"A {list(a_RI.shape)} and B {list(b_OR.shape)}"
            raise GeneratorError(
                f"{who}: {name} has {found}, the base model needs A {list(wanted[0])} and B {list(wanted[1])}: load the base "
                "model it was trained on"
            )
        if not (a_RI.is_floating_point() and b_OR.is_floating_point()):
            raise GeneratorError(f"{who}: {name} holds {a_RI.dtype} and {b_OR.dtype}, and only floating point can be served")
    # An adapter is scaled in its own precision, then cast.
    dtypes = {next(iter(layers.values())).a.dtype, *(tensor.dtype for tensor in adapter.tensors.values())}
    limit = min(torch.finfo(dtype).max for dtype in dtypes) / max(1.0, adapter.spec.scaling)
    if not adapter.largest <= limit:
        raise GeneratorError(f"{who} holds values that are not finite at the generator's precision: go back to an earlier one")


def write(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> None:
    """Makes the slot hold the adapter and nothing else. It must have passed `check_fit`."""
    for buffers, values in _contents(adapter, layers, slot):
        torch.split_with_sizes_copy(values, [buffer.numel() for buffer in buffers], out=buffers)


def read_back(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> tuple[int, ...] | None:
    """`slot_checksum` of a slot that holds exactly the adapter, to the last bit at the slots' precision; of any other, `None`."""
    found: list[Tensor] = []
    for buffers, values in _contents(adapter, layers, slot):
        held = torch.cat(buffers)
        if not torch.equal(words(held), words(values)):
            return None
        found.append(checksum(held))
    return tuple(torch.stack(found).tolist())


def slot_checksum(layers: Mapping[str, Slots], slot: int) -> tuple[int, ...]:
    """What tells the slot's contents from any others."""
    a, b = _buffers(layers, slot)
    return (*checksums(a), *checksums(b))


Part = tuple[list[Tensor], Tensor]
"""Some buffers of a slot, and what belongs in them, flat and laid end to end."""


def _contents(adapter: Adapter, layers: Mapping[str, Slots], slot: int) -> Iterator[Part]:
    """The whole slot: every A, then every B times the scaling (in the adapter's own precision)."""
    pairs = adapter.pairs
    some_a, some_b = next(iter(pairs.values()))
    spare = next(iter(layers.values())).a.shape[1] - adapter.spec.rank
    a, b = list[Tensor](), list[Tensor]()
    for name, layer in layers.items():
        if name not in pairs:
            a.append(some_a.new_zeros(layer.a.shape[1:]))
            b.append(some_b.new_zeros(layer.b.shape[1:]))
        elif spare:
            a.append(pad(pairs[name][0], (0, 0, 0, spare)))
            b.append(pad(pairs[name][1], (0, spare)))
        else:
            a.append(pairs[name][0])
            b.append(pairs[name][1])
    buffers_a, buffers_b = _buffers(layers, slot)
    yield from _parts(buffers_a, a, 1.0)
    yield from _parts(buffers_b, b, adapter.spec.scaling)


@torch.no_grad()
def _parts(buffers: list[Tensor], tensors: list[Tensor], scaling: float) -> Iterator[Part]:
    for span in spans(buffers):
        values = _flatten_dense_tensors(tensors[span])
        if scaling != 1.0:
            values = values * scaling
        yield buffers[span], values.to(buffers[0].device, buffers[0].dtype)


def _buffers(layers: Mapping[str, Slots], slot: int) -> tuple[list[Tensor], list[Tensor]]:
    """Every A and every B of the slot, flat."""
    each = [layer.each[slot] for layer in layers.values()]
    return [a for a, _ in each], [b for _, b in each]
