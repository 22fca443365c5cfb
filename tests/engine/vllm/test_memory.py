"""What is released between phases, on a stand-in for vLLM's CUDA worker and allocator: the KV cache and nothing else."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sparring.engine.vllm.worker import SparringWorker


class Allocation(SimpleNamespace):
    tag: str
    handle: tuple[int, int, int]
    is_asleep: bool


class Allocator:
    """vLLM's: allocations by address, each under a tag."""

    def __init__(self) -> None:
        sizes = {"weights": (1000, 200), "kv_cache": (4000, 5000), "default": (7,)}
        self.pointer_to_data = {
            number: Allocation(tag=tag, handle=(0, size, number), is_asleep=False)
            for number, (tag, size) in enumerate((tag, size) for tag, found in sizes.items() for size in found)
        }
        self.unmapped: list[int] = []

    @property
    def asleep(self) -> set[str]:
        return {data.tag for data in self.pointer_to_data.values() if data.is_asleep}


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    found = Allocator()
    module: Any = ModuleType("vllm.device_allocator.cumem")
    module.CuMemAllocator = SimpleNamespace(get_instance=lambda: found)
    module.unmap_and_release = lambda handle: found.unmapped.append(handle[1])
    for name in ("vllm", "vllm.device_allocator"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.device_allocator.cumem", module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return found


class OldWorker(SparringWorker):
    """vLLM before 0.28, which cannot discard by tag."""

    def __init__(self, allocator: Allocator) -> None:
        self.model_runner = SimpleNamespace(device=torch.device("cuda"))
        self.allocator = allocator
        self.woken: list[list[str]] = []

    def wake_up(self, tags: list[str]) -> None:
        self.woken.append(tags)
        for data in self.allocator.pointer_to_data.values():
            if data.tag in tags:
                assert data.is_asleep, "mapping what is mapped fails"
                data.is_asleep = False


class NewWorker(OldWorker):
    """vLLM from 0.28 on."""

    def discard(self, tags: tuple[str, ...]) -> None:
        for data in self.allocator.pointer_to_data.values():
            if data.tag in tags:
                data.is_asleep = True


@pytest.mark.parametrize("kind", [OldWorker, NewWorker])
def test_only_the_kv_cache_goes_and_comes_back(kind: type[OldWorker], allocator: Allocator) -> None:
    worker = kind(allocator)
    assert worker.sparring_kv_cache_bytes() == 9000
    for _ in range(2):
        worker.sparring_release_kv()
        assert allocator.asleep == {"kv_cache"}
        assert worker.sparring_kv_cache_bytes() == 0
        worker.sparring_resume_kv()
        assert allocator.asleep == set()
        assert worker.sparring_kv_cache_bytes() == 9000
    assert worker.woken == [["kv_cache"], ["kv_cache"]]


def test_an_old_worker_unmaps_each_allocation_once(allocator: Allocator) -> None:
    worker = OldWorker(allocator)
    worker.sparring_release_kv()
    worker.sparring_release_kv()
    assert allocator.unmapped == [4000, 5000]


class CpuWorker(SparringWorker):
    def __init__(self, caches: list[torch.Tensor]) -> None:
        self.model_runner = SimpleNamespace(device=torch.device("cpu"), kv_caches=caches)


def test_on_a_cpu_the_storage_goes_and_comes_back_as_zeros() -> None:
    whole = torch.ones(24)
    caches = [whole[:8].view(2, 4), whole[8:], torch.ones(3, dtype=torch.bfloat16)]
    worker = CpuWorker(caches)
    assert worker.sparring_kv_cache_bytes() == 24 * 4 + 3 * 2
    worker.sparring_release_kv()
    assert worker.sparring_kv_cache_bytes() == 0
    worker.sparring_resume_kv()
    assert worker.sparring_kv_cache_bytes() == 24 * 4 + 3 * 2
    assert [cache.sum().item() for cache in caches] == [0, 0, 0]
    caches[0][1, 3] = 5
    assert whole[7] == 5
