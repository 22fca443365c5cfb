"""The worker extension: what Sparring does inside vLLM's worker, between its steps.

With `contact.py` it is all that touches vLLM's internals, and the same tests stand for what it relies on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.engine.errors import GeneratorError
from sparring.engine.vllm.cpu_lora import GroupedLora
from sparring.engine.vllm.layout import Slots


class SparringWorker:
    """The worker extension: vLLM makes it a base of its worker class, so `self` is the worker."""

    model_runner: Any

    def sparring_slots(self) -> dict[str, Slots]:
        manager = self._sparring_manager()
        found: dict[str, Slots] = {}
        for name, module in manager.modules.items():
            prefix, _, last = name.rpartition(".")
            parts = manager.packed_modules_mapping.get(last) or [last]
            if len(parts) != len(module.lora_a_stacked):
                held = f"vLLM holds {len(module.lora_a_stacked)} parts of {name}, and {len(parts)} were expected"
                raise GeneratorError(f'{held}: take {last!r} out of learner.lora.target_modules, or set generator = "torch"')
            for part, a, b in zip(parts, module.lora_a_stacked, module.lora_b_stacked, strict=True):
                found[f"{prefix}.{part}"] = Slots(a[:, 0], b[:, 0])
        return found

    def sparring_group_lora(self) -> None:
        for wrapper in self._sparring_manager().punica_wrapper_mapping.values():
            GroupedLora(wrapper)

    def sparring_heed_seeds(self) -> None:
        self.model_runner.sampler.topk_topp_sampler.use_fp64_gumbel = True

    def sparring_bind(self, slot: int, lora_id: int, rank: int) -> None:
        from vllm.lora.lora_model import LoRAModel

        manager = self._sparring_manager()
        assert manager.lora_index_to_id[slot] is None, "the slot is in use"
        manager._registered_adapters[lora_id] = LoRAModel(lora_id, rank, {})
        manager._active_adapters[lora_id] = None
        manager.lora_index_to_id[slot] = lora_id

    def sparring_unbind(self, lora_id: int) -> None:
        self._sparring_manager().remove_adapter(lora_id)

    def sparring_bound(self) -> dict[int, int]:
        return {slot: found for slot, found in enumerate(self._sparring_manager().lora_index_to_id) if found is not None}

    def sparring_parameters(self) -> dict[str, Tensor]:
        named = self.model_runner.get_model().named_parameters(remove_duplicate=False)
        return {name.replace(".base_layer.", "."): parameter for name, parameter in named}

    def sparring_release_kv(self) -> None:
        if self._sparring_on_cpu():
            for storage in self._sparring_kv_storages():
                storage.resize_(0)
            return
        torch.cuda.synchronize()
        if hasattr(self, "discard"):
            self.discard(("kv_cache",))
        else:
            _discard_kv()

    def sparring_resume_kv(self) -> None:
        if self._sparring_on_cpu():
            for storage, size in zip(self._sparring_kv_storages(), self._sparring_kv_sizes, strict=True):
                storage.resize_(size)
                torch.tensor([], dtype=torch.uint8).set_(storage).zero_()
            return
        torch.cuda.empty_cache()
        self.wake_up(["kv_cache"])  # type: ignore[attr-defined]

    def sparring_kv_cache_bytes(self) -> int:
        if self._sparring_on_cpu():
            return sum(storage.nbytes() for storage in self._sparring_kv_storages())
        return sum(data.handle[1] for data in _kv_allocations() if not data.is_asleep)

    def _sparring_kv_storages(self) -> list[torch.UntypedStorage]:
        """Of the CPU's KV cache, each once."""
        held = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in self.model_runner.kv_caches}
        if not hasattr(self, "_sparring_kv_sizes"):
            self._sparring_kv_sizes = [storage.nbytes() for storage in held.values()]
        return list(held.values())

    def _sparring_on_cpu(self) -> bool:
        return bool(self.model_runner.device.type == "cpu")

    def _sparring_manager(self) -> Any:
        return self.model_runner.lora_manager._adapter_manager


def _kv_allocations() -> list[Any]:
    from vllm.device_allocator.cumem import CuMemAllocator

    return [data for data in CuMemAllocator.get_instance().pointer_to_data.values() if data.tag == "kv_cache"]


def _discard_kv() -> None:
    """What `discard` of later versions does, for vLLM before 0.31: unmaps the KV cache and keeps its addresses."""
    from vllm.device_allocator.cumem import unmap_and_release

    for data in _kv_allocations():
        if not data.is_asleep:
            unmap_and_release(data.handle)
            data.is_asleep = True
