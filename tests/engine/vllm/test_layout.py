"""What lies in a slot after an adapter was written to it, what is refused, and that a refusal touches nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparring.engine.errors import GeneratorError
from sparring.engine.vllm.layout import Slots, check_fit, read_back, slot_checksum, write
from sparring.learner.adapter import LORA_A, LORA_B, PREFIX, Adapter, LoraSpec

NUM_SLOTS, SLOT_RANK, RANK = 3, 8, 4
SHAPES = {  # out, in of one layer; q, k and v lie in one packed module, gate and up in another
    "model.layers.0.self_attn.q_proj": (16, 12),
    "model.layers.0.self_attn.k_proj": (8, 12),
    "model.layers.0.self_attn.v_proj": (8, 12),
    "model.layers.0.self_attn.o_proj": (12, 16),
    "model.layers.0.mlp.gate_proj": (20, 12),
    "model.layers.0.mlp.up_proj": (20, 12),
    "model.layers.0.mlp.down_proj": (12, 20),
}
ALL = tuple(SHAPES)
SOME = tuple(name for name in SHAPES if name.endswith(("q_proj", "v_proj", "down_proj")))


def make_layers(dtype: torch.dtype = torch.float32, *, noise: bool = True) -> dict[str, Slots]:
    """Buffers as vLLM stacks them, [slots, 1, ...] with the second axis dropped, full of something else."""
    rng = torch.Generator().manual_seed(0)
    layers = {}
    for name, (rows, columns) in SHAPES.items():
        a, b = (torch.randn(NUM_SLOTS, 1, *shape, generator=rng) * noise for shape in ((SLOT_RANK, columns), (rows, SLOT_RANK)))
        layers[name] = Slots(a.to(dtype)[:, 0], b.to(dtype)[:, 0])
    return layers


def make_adapter(
    modules: tuple[str, ...] = ALL, *, rank: int = RANK, alpha: float = 12.0, dtype: torch.dtype = torch.float32, seed: int = 1
) -> Adapter:
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in modules:
        rows, columns = SHAPES[name]
        tensors[PREFIX + name + LORA_A] = torch.randn(rank, columns, generator=rng).to(dtype)
        tensors[PREFIX + name + LORA_B] = torch.randn(rows, rank, generator=rng).to(dtype)
    return Adapter(name="policy", spec=LoraSpec(rank=rank, alpha=alpha), tensors=tensors)


def with_tensor(adapter: Adapter, suffix: str, change: Callable[[Tensor], Tensor]) -> Adapter:
    (name,) = (name for name in adapter.tensors if name.endswith(suffix))
    return replace(adapter, tensors={**adapter.tensors, name: change(adapter.tensors[name])})


def copies(layers: dict[str, Slots]) -> list[Tensor]:
    return [buffer.clone() for layer in layers.values() for buffer in (layer.a, layer.b)]


def unchanged(layers: dict[str, Slots], before: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(copies(layers), before, strict=True))


@pytest.mark.parametrize("rank", [1, RANK, SLOT_RANK])
@pytest.mark.parametrize("modules", [ALL, SOME], ids=["all", "some"])
def test_a_slot_computes_what_the_adapter_adds_and_nothing_more(modules: tuple[str, ...], rank: int) -> None:
    """B A of the slot against scaling * B A in float64; layers that the adapter leaves alone add nothing; other slots stay."""
    layers, adapter = make_layers(), make_adapter(modules, rank=rank)
    before = copies(layers)
    check_fit(adapter, layers)
    write(adapter, layers, 1)
    deltas = adapter.merged_deltas()
    for name, layer in layers.items():
        found = layer.b[1].double() @ layer.a[1].double()
        wanted = deltas[name].double() if name in modules else torch.zeros_like(found)
        assert torch.allclose(found, wanted, atol=1e-4)
        if name not in modules:
            assert not layer.a[1].any()
            assert not layer.b[1].any()
    for slot in (0, 2):
        assert all(torch.equal(found[slot], old[slot]) for found, old in zip(copies(layers), before, strict=True))
    assert holds(adapter, layers, 1)
    assert not holds(adapter, layers, 0)


def test_a_smaller_adapter_leaves_nothing_of_a_larger_one() -> None:
    layers = make_layers(noise=False)
    write(make_adapter(rank=SLOT_RANK), layers, 0)
    write(make_adapter(SOME, rank=2), layers, 0)
    fresh = make_layers(noise=False)
    write(make_adapter(SOME, rank=2), fresh, 0)
    assert unchanged(layers, copies(fresh))
    assert slot_checksum(layers, 0) == slot_checksum(fresh, 0)


@pytest.mark.parametrize("slots", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float64])
def test_values_are_rounded_once_to_the_slots_precision(slots: torch.dtype, given: torch.dtype) -> None:
    layers, adapter = make_layers(slots), make_adapter(dtype=given)
    check_fit(adapter, layers)
    write(adapter, layers, 2)
    name = ALL[0]
    a, b = (adapter.tensors[PREFIX + name + part] for part in (LORA_A, LORA_B))
    assert torch.equal(layers[name].a[2, :RANK], a.to(slots))
    assert torch.equal(layers[name].b[2, :, :RANK], (b * adapter.spec.scaling).to(slots))
    assert holds(adapter, layers, 2)


def test_one_changed_bit_anywhere_is_found() -> None:
    layers, adapter = make_layers(), make_adapter(SOME)
    write(adapter, layers, 1)
    written = slot_checksum(layers, 1)
    for layer in layers.values():
        for buffer in (layer.a, layer.b):
            for place in ((1, 0, 0), (1, -1, -1)):
                kept = buffer[place].clone()
                buffer[place] = torch.nextafter(kept, torch.tensor(math.inf))
                assert not holds(adapter, layers, 1)
                assert slot_checksum(layers, 1) != written
                buffer[place] = kept
    assert holds(adapter, layers, 1)
    assert slot_checksum(layers, 1) == written
    layers[ALL[0]].a[0].zero_()  # another slot
    assert slot_checksum(layers, 1) == written


def test_another_adapter_is_not_held() -> None:
    layers = make_layers()
    write(make_adapter(), layers, 1)
    assert not holds(make_adapter(seed=2), layers, 1)
    assert not holds(make_adapter(alpha=6.0), layers, 1)
    assert not holds(make_adapter(SOME), layers, 1)


def holds(adapter: Adapter, layers: dict[str, Slots], slot: int) -> bool:
    found = read_back(adapter, layers, slot)
    assert found in (None, slot_checksum(layers, slot))
    return found is not None


REFUSED = {
    "rank": (lambda: make_adapter(rank=16), "has rank 16 and the generator's slots hold 8: set vllm.max_lora_rank = 16"),
    "unknown module": (
        lambda: replace(
            make_adapter(), tensors={name.replace("down", "lateral"): tensor for name, tensor in make_adapter().tensors.items()}
        ),
        "adapts model.layers.0.mlp.lateral_proj, which the generator does not serve: it serves down_proj, gate_proj, k_proj, ",
    ),
    "nothing": (lambda: make_adapter(()), "holds no tensors: save the adapter again"),
    "no A": (
        lambda: replace(make_adapter(), tensors=dict(list(make_adapter().tensors.items())[1:])),
        r"does not hold pairs of lora_A and lora_B \(.*q_proj.lora_B.weight\): save the adapter again",
    ),
    "no B": (
        lambda: replace(make_adapter(), tensors=dict(list(make_adapter().tensors.items())[:-1])),
        r"does not hold pairs of lora_A and lora_B \(.*down_proj.lora_B.weight\): save",
    ),
    "A of another width": (
        lambda: with_tensor(make_adapter(), "down_proj" + LORA_A, lambda a: a[:, 1:]),
        r"down_proj has A \[4, 19\] and B \[12, 4\], the base model needs A \[4, 20\] and B \[12, 4\]: load the base model",
    ),
    "B of another height": (
        lambda: with_tensor(make_adapter(), "q_proj" + LORA_B, lambda b: b.repeat(2, 1)),
        r"q_proj has A \[4, 12\] and B \[32, 4\], the base model needs A \[4, 12\] and B \[16, 4\]",
    ),
    "another rank than it says": (
        lambda: with_tensor(make_adapter(), "q_proj" + LORA_A, lambda a: a[:2]),
        r"q_proj has A \[2, 12\]",
    ),
    "integers": (
        lambda: with_tensor(make_adapter(), "up_proj" + LORA_A, lambda a: a.long()),
        "up_proj holds torch.int64 and torch.float32, and only floating point can be served",
    ),
    "NaN": (
        lambda: with_tensor(make_adapter(), "k_proj" + LORA_A, lambda a: a.index_fill(0, torch.tensor([1]), math.nan)),
        "values that are not finite at the generator's precision: go back to an earlier one",
    ),
    "infinity": (lambda: with_tensor(make_adapter(), "k_proj" + LORA_B, lambda b: b - math.inf), "not finite"),
}


@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_says_what_to_change_and_touches_nothing(make: Callable[[], Adapter], text: str) -> None:
    layers = make_layers()
    before = copies(layers)
    with pytest.raises(GeneratorError, match=text) as caught:
        check_fit(make(), layers)
    assert str(caught.value).startswith("adapter 'policy'")
    assert unchanged(layers, before)


@pytest.mark.parametrize(
    ("slots", "given", "largest", "fits"),
    [
        (torch.float16, torch.float32, 2e4, True),
        (torch.float16, torch.float32, 3e4, False),  # times the scaling of 3
        (torch.float16, torch.float64, 3e4, False),
        (torch.bfloat16, torch.float32, 1e38, True),
        (torch.bfloat16, torch.float32, 2e38, False),
        (torch.float32, torch.float64, 1e39, False),
        (torch.float32, torch.float16, 2e4, True),
        (torch.float32, torch.float16, 3e4, False),  # B is scaled in its own precision
    ],
)
def test_what_overflows_on_the_way_into_the_slot_is_refused(
    slots: torch.dtype, given: torch.dtype, largest: float, fits: bool
) -> None:
    layers, adapter = make_layers(slots), make_adapter(dtype=given)
    adapter = with_tensor(adapter, "k_proj" + LORA_B, lambda b: b.index_fill(0, torch.tensor([0]), largest))
    if not fits:
        with pytest.raises(GeneratorError, match="not finite at the generator's precision"):
            check_fit(adapter, layers)
        return
    check_fit(adapter, layers)
    write(adapter, layers, 0)
    assert all(bool(layer.b[0].isfinite().all()) for layer in layers.values())
    assert holds(adapter, layers, 0)


def test_half_precision_adapters_are_scaled_in_their_own_precision_as_the_learner_does() -> None:
    """PEFT scales the product; powers of two are exact in every precision, so both ways agree there to the last bit."""
    layers, adapter = make_layers(torch.float32), make_adapter(dtype=torch.bfloat16, alpha=8.0)
    write(adapter, layers, 0)
    b = adapter.tensors[PREFIX + ALL[0] + LORA_B]
    assert torch.equal(layers[ALL[0]].b[0, :, :RANK], b.float() * 2.0)
