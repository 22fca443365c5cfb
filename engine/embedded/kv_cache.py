"""The embedded generator's KV cache: a table of slots, each remembering the token ids whose keys and values it holds.

A request claims one slot. Whatever prefix of its prompt any slot already holds *under the same weights* is reused: its
session's own slot in place, another slot's by copying. That one rule serves turns of a game, groups of games with the same
first prompt, and rules texts shared by a family. Knows nothing of models and sampling.

Axes: L layers, S slots, K kv heads, C capacity in tokens, D head dim.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_VERSION = -1
WORTH_WAITING = 16
"""A prompt waits one step for a prefix being computed by another row if that saves at least this many tokens."""


class KVCache:
    """Tensors [S, K, C, D] per layer, and what is known of each slot.

    `num_known[s]` ids of slot s are known (prompt and sampled); the first `num_computed[s]` of them have keys and values. A
    busy slot belongs to a running request. An idle one keeps its contents until its place is needed: empty slots go first, then
    those of no session, then sessions, each least recently used first.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.shape = (num_layers, 2, num_slots, num_kv_heads, capacity, head_dim)
        self.dtype = dtype
        self.device = device
        self.num_slots = num_slots
        self.capacity = capacity
        self.ids: NDArray[np.int64] = np.zeros((num_slots, capacity), np.int64)
        self.num_known: NDArray[np.int64] = np.zeros(num_slots, np.int64)
        self.num_computed: NDArray[np.int64] = np.zeros(num_slots, np.int64)
        self.version: NDArray[np.int64] = np.full(num_slots, NO_VERSION, np.int64)
        self.busy: NDArray[np.bool_] = np.zeros(num_slots, np.bool_)
        self._used: NDArray[np.int64] = np.zeros(num_slots, np.int64)
        self._clock = 0
        self._session: list[str | None] = [None] * num_slots
        self._slot_of: dict[str, int] = {}
        self.storage: Tensor | None = None
        self.allocate()

    @property
    def num_bytes(self) -> int:
        """Size of the tensors: 0 while released."""
        return self.storage.nbytes if self.storage is not None else 0

    @property
    def sessions(self) -> frozenset[str]:
        return frozenset(self._slot_of)

    @property
    def has_room(self) -> bool:
        return not self.busy.all()

    def allocate(self) -> None:
        """Takes the memory. Zeroed, because masked positions are still multiplied by a weight of 0, which NaN would survive."""
        if self.storage is None:
            self.storage = torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def release(self) -> None:
        """Gives the memory back and forgets every slot; none may be busy."""
        assert not self.busy.any()
        self.storage = None
        self._empty(np.ones(self.num_slots, np.bool_))

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [S, K, C, D] of one layer."""
        assert self.storage is not None
        return self.storage[index, 0], self.storage[index, 1]

    def claim(self, prompt: NDArray[np.int64], version: int, session: str | None) -> int | None:
        """A busy slot that holds `prompt` with as much of it computed as could be reused, the last token never; needs `has_room`.

        `None` if waiting a step is better: another row is computing a much longer part of the same prompt.
        """
        own = self._own_slot(session)
        limit = len(prompt) - 1
        if own is not None and self.version[own] == version and self._holds_prefix(own, prompt):
            source, num_reused = own, min(int(self.num_computed[own]), limit)
        else:
            common = self._common_prefix(prompt, version)
            usable = np.minimum(common, self.num_computed)
            source = int(usable.argmax())
            num_reused = min(int(usable[source]), limit)
            if min(int((common * self.busy).max()), limit) - num_reused >= WORTH_WAITING:
                return None
            if own is not None and min(int(usable[own]), limit) == num_reused:
                source = own
        slot = own if own is not None else self._least_needed()
        if source != slot and num_reused > 0:
            assert self.storage is not None
            self.storage[:, :, slot, :, :num_reused] = self.storage[:, :, source, :, :num_reused]
        self._occupy(slot, prompt, num_reused, version, session)
        return slot

    def append(self, slots: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """One more known id for each of these slots."""
        self.ids[slots, self.num_known[slots]] = ids
        self.num_known[slots] += 1

    def free(self, slot: int, *, keep: bool) -> None:
        """The request of this slot is over. `keep` leaves what was computed for reuse."""
        self.busy[slot] = False
        self.num_known[slot] = self.num_computed[slot]
        if not keep:
            self._empty(np.arange(self.num_slots) == slot)

    def end_session(self, session: str) -> None:
        slot = self._slot_of.pop(session, None)
        if slot is not None:
            self._session[slot] = None

    def drop_version(self, version: int) -> None:
        """Forgets what idle slots hold of a version that is no longer served."""
        self._empty((self.version == version) & ~self.busy)

    def _own_slot(self, session: str | None) -> int | None:
        slot = self._slot_of.get(session) if session is not None else None
        return None if slot is None or self.busy[slot] else slot

    def _holds_prefix(self, slot: int, prompt: NDArray[np.int64]) -> bool:
        num = int(self.num_computed[slot])
        return 0 < num <= len(prompt) and bool((self.ids[slot, :num] == prompt[:num]).all())

    def _common_prefix(self, prompt: NDArray[np.int64], version: int) -> NDArray[np.int64]:
        """Length of what each slot's known ids share with the prompt, 0 for other versions. [S]"""
        differs = self.ids[:, : len(prompt)] != prompt
        first = np.where(differs.any(axis=1), differs.argmax(axis=1), len(prompt))
        common: NDArray[np.int64] = np.where(self.version == version, np.minimum(first, self.num_known), 0)
        return common

    def _least_needed(self) -> int:
        in_session = np.array([session is not None for session in self._session])
        rank = np.where(self.num_known == 0, -1, self._used + in_session * (1 << 40))
        return int(np.where(self.busy, np.iinfo(np.int64).max, rank).argmin())

    def _occupy(self, slot: int, prompt: NDArray[np.int64], num_computed: int, version: int, session: str | None) -> None:
        holder = self._session[slot]
        if holder is not None and holder != session:
            del self._slot_of[holder]
        if session is not None:
            former = self._slot_of.get(session)
            if former is not None:
                self._session[former] = None
            self._slot_of[session] = slot
        self._session[slot] = session
        self.ids[slot, : len(prompt)] = prompt
        self.num_known[slot] = len(prompt)
        self.num_computed[slot] = num_computed
        self.version[slot] = version
        self.busy[slot] = True
        self._clock += 1
        self._used[slot] = self._clock

    def _empty(self, mask: NDArray[np.bool_]) -> None:
        self.num_known[mask] = 0
        self.num_computed[mask] = 0
        self.version[mask] = NO_VERSION
        for slot in np.flatnonzero(mask).tolist():
            session = self._session[slot]
            if session is not None:
                del self._slot_of[session]
                self._session[slot] = None
