"""What `vllm/contact.py` relies on, one test for each: what fails here says what a new release of vLLM has changed."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from typing import Any, get_args

import pytest
import torch

from sparring.engine.vllm import support
from sparring.engine.vllm.contact import Served
from sparring.engine.vllm.generator import MIN_TEMPERATURE, VllmGenerator
from sparring.engine.vllm.worker import SparringWorker


class Inside:
    """An engine seen from its own thread; nothing steps it but the test."""

    def __init__(self, generator: VllmGenerator, rig: Any) -> None:
        self.generator, self.rig, self.contact = generator, rig, generator._contact
        self.core: Any = self.contact._engine.engine_core
        self.worker: Any = self.core.engine_core.model_executor.driver_worker.worker
        self.manager: Any = self.worker._sparring_manager()
        self.numbers = iter(range(10**6))

    def steps(self, *added: tuple[Any, Served | None], most: int = 50) -> dict[str, list[Any]]:
        """Deltas by request until all have ended."""
        names = [f"contract-{next(self.numbers)}" for _ in added]
        for name, (request, served) in zip(names, added, strict=True):
            self.contact.add(name, request, served)
        found: dict[str, list[Any]] = {name: [] for name in names}
        for _ in range(most):
            if not self.contact.busy:
                return found
            for delta in self.contact.step():
                found[delta.request_id].append(delta)
        raise AssertionError("the engine does not come to an end")


@pytest.fixture
def inside(vllm: VllmGenerator, rig: Any) -> Inside:
    return Inside(vllm, rig)


def test_versions_of_the_package_are_found_by_its_distribution(inside: Inside) -> None:
    import vllm

    assert support.installed() is not None
    assert support.unusable() is None
    assert str(support.installed()).split("+")[0] == vllm.__version__.split("+")[0]


def test_the_engine_lives_in_this_process(inside: Inside) -> None:
    assert type(inside.core).__name__ == "InprocClient"
    assert inside.worker.model_runner.device.type == "cpu"
    assert type(inside.worker).__mro__[1:].count(SparringWorker) == 1
    assert inside.core.collective_rpc("sparring_bound", None, ()) == [{}]


def test_opening_leaves_the_process_as_it_was(inside: Inside) -> None:
    assert torch.set_num_threads.__module__ in (None, "torch._C", "torch")  # its CPU worker puts a stand-in there
    assert not sys.excepthook.__module__.startswith("torch.distributed")  # where loading vLLM leaves it
    assert "LD_PRELOAD" not in os.environ
    assert logging.getLogger("vllm").handlers == []


def test_engine_arguments_keep_their_names() -> None:
    from vllm import EngineArgs

    wanted = ["model", "skip_tokenizer_init", "quantization", "dtype", "max_model_len", "max_num_seqs", "kv_cache_memory_bytes"]
    wanted += ["enable_prefix_caching", "logprobs_mode", "generation_config", "enable_lora", "max_loras", "max_cpu_loras"]
    wanted += ["max_lora_rank", "lora_target_modules", "worker_extension_cls", "use_tqdm_on_load", "disable_log_stats", "seed"]
    wanted += ["enforce_eager", "enable_chunked_prefill", "block_size", "max_num_batched_tokens", "enable_sleep_mode"]
    wanted += ["gpu_memory_utilization"]
    assert not set(wanted) - set(inspect.signature(EngineArgs).parameters)


def test_an_output_carries_ids_log_probs_a_reason_and_cached_tokens(inside: Inside) -> None:
    request = inside.rig.request(range(40), max_tokens=3)
    ((first, *deltas),) = inside.steps((request, None)).values()
    assert (first.cached_tokens, len(first.token_ids), len(first.logprobs)) == (0, 1, 1)
    assert [delta.finish_reason for delta in (first, *deltas)] == [None, None, "length"]
    assert sum(len(delta.token_ids) for delta in deltas) == 2
    assert all(logprob < 0 for delta in (first, *deltas) for logprob in delta.logprobs)
    ((again, *deltas),) = inside.steps((request, None)).values()
    assert again.cached_tokens == support.CPU_BLOCK_SIZE
    assert all(delta.cached_tokens == 0 for delta in deltas)
    assert again.token_ids == first.token_ids


def test_stop_ids_end_a_request_and_its_end_of_sequence_does_not(inside: Inside) -> None:
    request = inside.rig.request([1, 2, 3], max_tokens=4)
    (deltas,) = inside.steps((request, None)).values()
    second = deltas[1].token_ids[0]
    (deltas,) = inside.steps((inside.rig.request([1, 2, 3], max_tokens=4, stop_ids=(second,)), None)).values()
    assert [delta.finish_reason for delta in deltas] == [None, "stop"]
    assert deltas[-1].token_ids == [second]


def test_seeds_are_heeded_beside_greedy_requests(inside: Inside) -> None:
    """Before 0.29 vLLM's CPU sampler drops them in such a batch, which `sparring_heed_seeds` mends."""
    seeded, greedy = inside.rig.request([1, 2, 3], seed=7), inside.rig.request([4, 5], temperature=0.0)
    found = [next(iter(inside.steps(*batch).values())) for batch in ([(seeded, None)], [(seeded, None), (greedy, None)])]
    alone, beside = ([token for delta in deltas for token in delta.token_ids] for deltas in found)
    assert alone == beside


def test_a_step_says_when_it_is_done_and_what_is_held(inside: Inside) -> None:
    contact = inside.contact
    assert not contact.busy
    assert contact.num_requests == 0
    contact.add("held", inside.rig.request([1, 2, 3], max_tokens=100), None)
    assert contact.busy
    assert contact.num_requests == 1
    assert not inside.core.engine_core.batch_queue
    contact.step()
    contact.abort(["held", "unknown"])
    assert contact.num_requests == 0
    while contact.busy:
        assert [delta.finish_reason for delta in contact.step()] in ([], [None])
    assert inside.worker.model_runner.input_batch.num_reqs == 0


def test_the_lora_manager_keeps_its_tables(inside: Inside) -> None:
    manager, served = inside.manager, Served(lora_id=901, name="contract")
    assert list(manager.lora_index_to_id) == [None] * 6
    assert len(manager._registered_adapters) == len(manager._active_adapters) == 0
    inside.contact.bind(2, served)
    assert inside.contact.bound() == {2: 901}
    assert manager.list_adapters().keys() == {901}
    assert 901 in manager._active_adapters
    request = inside.rig.request([1, 2, 3], adapter="contract")
    inside.steps((request, served))  # it is taken as loaded: nothing is read from its path
    assert inside.contact.bound() == {2: 901}
    inside.contact.unbind(served)
    inside.contact.unbind(served)  # one that was never bound, or no longer is
    assert inside.contact.bound() == {}
    assert len(manager._registered_adapters) == len(manager._active_adapters) == 0


def test_as_many_adapters_as_slots_may_be_in_one_batch(inside: Inside) -> None:
    all_served = [Served(lora_id=910 + slot, name=f"contract-{slot}") for slot in range(6)]
    for slot, served in enumerate(all_served):
        inside.contact.bind(slot, served)
    requests = [(inside.rig.request([1, 2, 3]), served) for served in all_served]
    assert len(inside.steps(*requests, *requests, (inside.rig.request([1]), None))) == 13
    assert inside.contact.bound() == {slot: 910 + slot for slot in range(6)}
    for served in all_served:
        inside.contact.unbind(served)


def test_wrapped_layers_hold_their_slots_in_stacked_buffers(inside: Inside) -> None:
    """By the names and shapes of the Hugging Face model; parts of packed layers apart."""
    slots = inside.contact.slots()
    linears = {name: m for name, m in inside.rig.model.named_modules() if name.endswith("_proj")}
    assert slots.keys() == linears.keys()
    for name, layer in slots.items():
        assert layer.a.shape == (6, 8, linears[name].in_features)
        assert layer.b.shape == (6, linears[name].out_features, 8)
        assert layer.a.dtype == layer.b.dtype == torch.float32
    packed = inside.manager.modules["model.layers.0.self_attn.qkv_proj"]
    part = slots["model.layers.0.self_attn.k_proj"]
    assert part.a.data_ptr() == packed.lora_a_stacked[1].data_ptr()
    assert part.b.data_ptr() == packed.lora_b_stacked[1].data_ptr()


def test_layers_without_a_target_are_not_wrapped(inside: Inside) -> None:
    names = set(inside.manager.modules)
    assert {name.rpartition(".")[2] for name in names} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def test_layers_apply_adapters_through_the_punica_wrappers(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.engine.vllm.cpu_lora import GroupedLora

    wrappers = list(inside.manager.punica_wrapper_mapping.values())
    assert wrappers
    calls: list[Any] = []
    for wrapper in wrappers:
        replaced = wrapper.add_lora_linear
        assert isinstance(replaced.__self__, GroupedLora)
        monkeypatch.setattr(wrapper, "add_lora_linear", lambda *a, f=replaced, **k: (calls.append(k or a), f(*a, **k)))
    theirs = inspect.signature(type(wrappers[0]).add_lora_linear).parameters
    assert list(theirs)[1:7] == ["y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices"]
    served = Served(lora_id=902, name="contract")
    inside.contact.bind(0, served)
    inside.steps((inside.rig.request([1, 2, 3], max_tokens=1), served))
    inside.contact.unbind(served)
    assert len(calls) == 4 * 2  # wrapped modules of a layer, times layers


def test_the_batch_says_which_rows_have_which_slot(inside: Inside) -> None:
    wrapper = next(iter(inside.manager.punica_wrapper_mapping.values()))
    served = Served(lora_id=903, name="contract")
    inside.contact.bind(5, served)
    with_one, without = inside.rig.request([1, 2, 3], max_tokens=1), inside.rig.request([4, 5], max_tokens=1)
    inside.steps((with_one, served), (without, None))
    inside.contact.unbind(served)
    assert sorted(wrapper.token_lora_indices.tolist()) == [-1, -1, 5, 5, 5]


@pytest.mark.parametrize("differ", ["name", "salt", "nothing"])
def test_the_prefix_cache_is_keyed_by_adapter_name_and_by_salt(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, differ: str
) -> None:
    """Each alone tells two versions apart."""
    add = inside.core.add_request

    def only(request: Any) -> None:
        if differ != "salt":
            request.cache_salt = "one"
        if differ != "name":
            request.lora_request.lora_name = "one"
        add(request)

    monkeypatch.setattr(inside.core, "add_request", only)
    found = []
    for number in (904, 905):
        served = Served(lora_id=number, name=f"contract-{number}")
        inside.contact.bind(0, served)
        (deltas,) = inside.steps((inside.rig.request(range(64), max_tokens=1), served)).values()
        found.append(deltas[0].cached_tokens)
        inside.contact.unbind(served)
    assert found == [0, 32 if differ == "nothing" else 0]


def test_the_prefix_cache_forgets_and_refuses_to_while_it_is_used(inside: Inside) -> None:
    request = inside.rig.request(range(64), max_tokens=100)
    inside.contact.add("held", request, None)
    inside.contact.step()
    assert not inside.core.reset_prefix_cache()
    inside.contact.abort(["held"])
    while inside.contact.busy:
        inside.contact.step()
    assert inside.core.reset_prefix_cache()
    (deltas,) = inside.steps((inside.rig.request(range(64), max_tokens=1), None)).values()
    assert deltas[0].cached_tokens == 0


def test_the_kv_cache_on_a_cpu_lies_in_storages_that_can_be_resized(inside: Inside) -> None:
    runner = inside.worker.model_runner
    assert len(runner.kv_caches) == inside.rig.model.config.num_hidden_layers
    at = [tensor.untyped_storage().nbytes() for tensor in runner.kv_caches]
    inside.worker.sparring_release_kv()
    assert [tensor.untyped_storage().nbytes() for tensor in runner.kv_caches] == [0] * len(at)
    inside.worker.sparring_resume_kv()
    assert [tensor.untyped_storage().nbytes() for tensor in runner.kv_caches] == at
    assert not any(bool(tensor.any()) for tensor in runner.kv_caches)


def test_on_cuda_the_allocator_knows_memory_by_its_tag() -> None:
    """What of it can be seen without a GPU; `test_vllm_memory.py` runs the phases on a stand-in."""
    from vllm.device_allocator import cumem

    source = inspect.getsource(cumem)
    assert "self.pointer_to_data" in source
    assert hasattr(cumem.CuMemAllocator, "get_instance")
    assert callable(cumem.unmap_and_release)
    assert {"handle", "tag"} <= set(cumem.AllocationData.__dataclass_fields__)
    assert "is_asleep" in source
    from vllm.v1.worker import gpu_worker

    assert '"kv_cache"' in inspect.getsource(gpu_worker)
    assert hasattr(gpu_worker.Worker, "wake_up")


def test_parameters_have_the_names_that_sharing_reads(inside: Inside) -> None:
    names = set(inside.contact.parameters())
    wanted = {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.qkv_proj.bias"}
    wanted |= {f"model.layers.1.{part}.weight" for part in ("self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj")}
    assert wanted <= names
    assert not [name for name in names if "base_layer" in name or "lora" in name]


def test_sizes_that_are_written_down_are_theirs() -> None:
    from vllm import sampling_params
    from vllm.config import lora

    assert get_args(lora.MaxLoRARanks) == support.LORA_RANKS
    assert sampling_params._MAX_TEMP == MIN_TEMPERATURE
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert set(support.CPU_HEAD_SIZES) <= set(CPUAttentionBackend.get_supported_head_sizes())


def test_the_vocabulary_is_the_models_without_padding(inside: Inside) -> None:
    assert inside.contact.vocab_size == inside.rig.model.config.vocab_size
