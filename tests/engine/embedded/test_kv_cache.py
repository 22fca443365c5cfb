"""What is reused, from where, and what makes room."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparring.engine.embedded.batch_layout import Ints
from sparring.engine.embedded.kv_cache import WORTH_WAITING, KVCache

CAPACITY = 64


def make(num_slots: int = 4) -> KVCache:
    return KVCache(
        num_layers=2,
        num_kv_heads=2,
        head_dim=4,
        num_slots=num_slots,
        capacity=CAPACITY,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def ids(*spans: tuple[int, int]) -> Ints:
    return np.concatenate([np.arange(start, stop) for start, stop in spans])


def compute(cache: KVCache, slot: int) -> None:
    """Pretends to be the model: the key and value of a token are its id."""
    start, stop = int(cache.num_computed[slot]), int(cache.num_known[slot])
    assert cache.storage is not None
    values = torch.from_numpy(cache.ids[slot, start:stop]).float()
    cache.storage[:, :, slot, :, start:stop] = values[:, None].expand(-1, 4)
    cache.num_computed[slot] = stop


def run(cache: KVCache, prompt: Ints, version: int = 0, session: str | None = None) -> tuple[int, int]:
    """A whole request: its slot, and how many tokens were reused."""
    slot = cache.claim(prompt, version, session)
    assert slot is not None
    reused = int(cache.num_computed[slot])
    compute(cache, slot)
    cache.free(slot, keep=True)
    return slot, reused


def held(cache: KVCache, slot: int) -> list[float]:
    assert cache.storage is not None
    (row,) = cache.storage[:, :, slot, :, : int(cache.num_computed[slot])].reshape(-1, cache.num_computed[slot], 4).unique(dim=0)
    values: list[float] = row[:, 0].tolist()
    return values


def test_a_session_extends_its_own_slot_in_place() -> None:
    cache = make()
    slot, _ = run(cache, ids((0, 10)), session="a")
    assert run(cache, ids((0, 20)), session="a") == (slot, 10)
    assert held(cache, slot) == list(range(20))


def test_a_session_that_went_back_keeps_the_common_part_only() -> None:
    cache = make()
    slot, _ = run(cache, ids((0, 20)), session="a")
    assert run(cache, ids((0, 8), (30, 40)), session="a") == (slot, 8)
    assert held(cache, slot) == [*range(8), *range(30, 40)]


def test_the_last_token_is_always_computed_again() -> None:
    cache = make()
    run(cache, ids((0, 10)), session="a")
    assert run(cache, ids((0, 10)), session="a")[1] == 9
    assert run(cache, ids((0, 10)), session="b")[1] == 9
    assert run(cache, ids((0, 4)), session="c")[1] == 3


def test_a_prefix_is_copied_from_idle_and_busy_slots() -> None:
    cache = make()
    busy = cache.claim(ids((0, 30)), 0, None)
    assert busy is not None
    compute(cache, busy)
    slot, reused = run(cache, ids((0, 20), (40, 45)))
    assert (slot != busy, reused) == (True, 20)
    assert held(cache, slot) == [*range(20), *range(40, 45)]
    cache.free(busy, keep=True)
    assert run(cache, ids((0, 29), (50, 52)))[1] == 29


def test_another_version_reuses_nothing() -> None:
    cache = make()
    run(cache, ids((0, 20)), version=0, session="a")
    assert run(cache, ids((0, 25)), version=1, session="a")[1] == 0
    assert run(cache, ids((0, 25)), version=0)[1] == 0


def test_a_prompt_waits_for_a_prefix_in_the_making_if_that_is_worth_it() -> None:
    cache = make()
    first = cache.claim(ids((0, 40)), 0, None)
    assert first is not None
    assert cache.claim(ids((0, 40)), 0, None) is None
    assert cache.claim(ids((0, WORTH_WAITING - 1), (50, 60)), 0, None) is not None
    assert cache.claim(ids((0, 40)), 1, None) is not None
    compute(cache, first)
    assert run(cache, ids((0, 40)))[1] == 39


def test_what_makes_room_is_empty_then_of_no_session_then_the_longest_unused_session() -> None:
    cache = make(num_slots=3)
    old, _ = run(cache, ids((0, 5)), session="old")
    young, _ = run(cache, ids((10, 15)), session="young")
    loose, _ = run(cache, ids((20, 25)))
    assert len({old, young, loose}) == 3
    assert run(cache, ids((30, 35)))[0] == loose
    assert run(cache, ids((40, 45)), session="new")[0] == loose
    assert run(cache, ids((50, 55)))[0] == old
    assert cache.sessions == {"young", "new"}
    cache.end_session("young")
    cache.end_session("unknown")
    assert run(cache, ids((20, 25)))[0] == young


def test_a_busy_slot_is_never_taken_even_by_its_own_session() -> None:
    cache = make(num_slots=2)
    first, second = (cache.claim(ids((0, 5)), 0, "a") for _ in range(2))
    assert {first, second} == {0, 1}
    assert not cache.has_room


@pytest.mark.parametrize("keep", [True, False])
def test_freeing_keeps_what_was_computed_or_nothing(keep: bool) -> None:
    cache = make()
    slot = cache.claim(ids((0, 10)), 0, "a")
    assert slot is not None
    compute(cache, slot)
    cache.append(np.array([slot]), np.array([10]))
    cache.free(slot, keep=keep)
    assert cache.num_known[slot] == (10 if keep else 0)
    assert cache.sessions == ({"a"} if keep else frozenset())


def test_a_dropped_version_is_forgotten_where_idle() -> None:
    cache = make()
    run(cache, ids((0, 10)), version=3, session="a")
    busy = cache.claim(ids((20, 30)), 3, "b")
    cache.drop_version(3)
    assert cache.sessions == {"b"}
    assert cache.num_known.sum() == 10
    assert busy is not None
    cache.free(busy, keep=False)
    assert cache.num_known.sum() == 0


def test_release_gives_the_memory_back_and_allocate_takes_it_empty() -> None:
    cache = make()
    num_bytes = cache.num_bytes
    assert num_bytes == 2 * 2 * 4 * 2 * CAPACITY * 4 * 4
    run(cache, ids((0, 10)), session="a")
    cache.release()
    assert (cache.num_bytes, cache.sessions) == (0, frozenset())
    cache.allocate()
    assert cache.num_bytes == num_bytes
    assert run(cache, ids((0, 10)))[1] == 0
