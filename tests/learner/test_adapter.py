"""Adapters: shared base weights, PEFT's format both ways, and one line for each way a folder can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from sparring.learner.adapter import CONFIG_FILE, WEIGHTS_FILE, LoraSpec, load_adapter
from sparring.learner.errors import AdapterError
from sparring.learner.learner import Learner, LearnerConfig
from sparring.learner.lora import fingerprint_model, share_base
from sparring.rollout.trajectory import Trajectory

IDS = torch.arange(10)[None]


@pytest.fixture
def learner(base: PreTrainedModel, warm: Callable[..., Learner]) -> Learner:
    return warm(base)


def plain_peft(base: PreTrainedModel, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(share_base(base), str(folder)).eval()


@torch.no_grad()
def test_the_saved_adapter_is_a_plain_peft_adapter(
    base: PreTrainedModel,
    learner: Learner,
    trajectories: list[Trajectory],
    tmp_path: Path,
    plain_logprobs: Callable[[PeftModel, Trajectory], torch.Tensor],
) -> None:
    learner.adapter().save(tmp_path / "adapter")
    model = plain_peft(base, tmp_path / "adapter")
    for t, found in zip(trajectories, learner.logprobs(trajectories), strict=True):
        torch.testing.assert_close(torch.tensor(found), plain_logprobs(model, t), atol=2e-6, rtol=0)


def test_a_round_trip_keeps_everything(learner: Learner, tmp_path: Path) -> None:
    adapter = learner.adapter()
    adapter.save(tmp_path / "a")
    adapter.save(tmp_path / "a")  # over itself
    back = load_adapter(tmp_path / "a", base_model=learner.base_model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert (back.name, back.step, back.base_model, back.fingerprint) == ("policy", 0, learner.base_model, adapter.fingerprint)
    assert back.spec == replace_targets(adapter.spec, back.spec.target_modules)
    assert all(torch.equal(tensor, back.tensors[name]) for name, tensor in adapter.tensors.items())


def test_equal_adapters_are_equal_files(learner: Learner, tmp_path: Path) -> None:
    """The library orders metadata anew in each file."""
    adapter = learner.adapter()
    assert len({adapter.files()[WEIGHTS_FILE] for _ in range(8)}) == 1
    adapter.save(tmp_path / "a")
    assert load_adapter(tmp_path / "a").files() == adapter.files()


def replace_targets(spec: LoraSpec, targets: tuple[str, ...]) -> LoraSpec:
    assert targets == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    return LoraSpec(rank=spec.rank, alpha=spec.alpha, target_modules=targets)


def test_adapters_of_plain_peft_load(base: PreTrainedModel, learner: Learner, tmp_path: Path) -> None:
    learner.adapter().save(tmp_path / "a")
    plain_peft(base, tmp_path / "a").save_pretrained(str(tmp_path / "b"))
    back = load_adapter(tmp_path / "b", base_model=learner.base_model)
    assert back.fingerprint == learner.adapter().fingerprint
    assert back.base_model == ""


@torch.no_grad()
@pytest.mark.parametrize("rslora", [False, True])
def test_merged_deltas_are_the_policy(base: PreTrainedModel, warm: Callable[..., Learner], tmp_path: Path, rslora: bool) -> None:
    adapter = warm(base, LearnerConfig(lora=LoraSpec(rank=4, alpha=6.0, rslora=rslora))).adapter()
    adapter.save(tmp_path / "a")
    merged = share_base(base)
    for name, delta in adapter.merged_deltas().items():
        module = merged.get_submodule(name)
        module.weight = torch.nn.Parameter(module.weight + delta)
    torch.testing.assert_close(merged(IDS).logits, plain_peft(base, tmp_path / "a")(IDS).logits, atol=3e-6, rtol=0)


def test_the_fingerprint_follows_every_value(learner: Learner) -> None:
    adapter = learner.adapter()
    assert len(adapter.fingerprint) == 12
    assert adapter.fingerprint == learner.adapter().fingerprint
    name = next(iter(adapter.tensors))
    changed = adapter.tensors[name].clone()
    changed.view(-1)[-1] += 1e-6
    assert replace(adapter, tensors=adapter.tensors | {name: changed}).fingerprint != adapter.fingerprint


def test_the_base_is_shared_and_stays_as_it_was(base: PreTrainedModel, trajectories: list[Trajectory]) -> None:
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    learner = Learner(base, LearnerConfig(), seed=0)
    assert learner.step(trajectories).updates == 1
    mine = {parameter.data_ptr() for parameter in learner.frozen_parameters()}
    assert {parameter.data_ptr() for parameter in base.parameters()} == mine
    assert all(torch.equal(before[name], parameter) and parameter.requires_grad for name, parameter in base.named_parameters())


def test_initial_values_depend_on_the_seed_alone(base: PreTrainedModel) -> None:
    torch.manual_seed(1)
    one = Learner(base, LearnerConfig(), seed=5).adapter()
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert Learner(base, LearnerConfig(), seed=5).adapter().fingerprint == one.fingerprint
    assert Learner(base, LearnerConfig(), seed=6).adapter().fingerprint != one.fingerprint
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(delta.abs().max() == 0 for delta in one.merged_deltas().values())


def test_a_model_fingerprint_survives_bf16_and_tells_models_apart(base: PreTrainedModel, other_base: PreTrainedModel) -> None:
    half = share_base(base).to(torch.bfloat16)
    assert fingerprint_model(half) == fingerprint_model(base) != fingerprint_model(other_base)


def break_config(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps(config | {key: value}))

    return change


def break_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        change(tensors)
        safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)

    return rewrite


def cut_tensors(folder: Path) -> None:
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(whole[:-100])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), "no adapter in"),
    "config cut": (lambda folder: (folder / CONFIG_FILE).write_text('{"r": '), "not JSON"),
    "not lora": (break_config("peft_type", "IA3"), "only LoRA"),
    "dora": (break_config("use_dora", True), "retrain with use_dora = False"),
    "no rank": (break_config("r", None), "lacks a usable r"),
    "other rank": (break_config("r", 8), "says rank 8"),
    "no tensors": (lambda folder: (folder / WEIGHTS_FILE).unlink(), "safetensors only"),
    "tensors cut": (cut_tensors, "not a whole"),
    "pickle": (lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"\x80\x04]q." * 50), "not a whole"),
    "half a pair": (break_tensors(lambda tensors: tensors.popitem()), "pairs of lora_A and lora_B"),
    "nan": (break_tensors(lambda tensors: next(iter(tensors.values())).fill_(float("nan"))), "no finite floats"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_adapter_is_named_in_one_line(learner: Learner, tmp_path: Path, kind: str) -> None:
    breaks, says = BROKEN[kind]
    learner.adapter().save(tmp_path / "a")
    breaks(tmp_path / "a")
    with pytest.raises(AdapterError, match=says) as caught:
        load_adapter(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_model_is_refused(
    base: PreTrainedModel, other_base: PreTrainedModel, learner: Learner, tmp_path: Path
) -> None:
    learner.adapter().save(tmp_path / "a")
    with pytest.raises(AdapterError, match="was trained on base model"):
        load_adapter(tmp_path / "a", base_model=fingerprint_model(other_base))
    smaller = Learner(base, LearnerConfig(lora=LoraSpec(rank=4, alpha=8.0)), seed=0)
    with pytest.raises(AdapterError, match=r"set lora.rank = 16"):
        smaller.load_adapter(learner.adapter())
    louder = Learner(base, LearnerConfig(lora=LoraSpec(alpha=64.0)), seed=0)
    with pytest.raises(AdapterError, match=r"is scaled by 2, the learner's by 4: .* lora.alpha = 32 "):
        louder.load_adapter(learner.adapter())
    other_layers = Learner(base, LearnerConfig(lora=LoraSpec(target_modules=("q_proj",))), seed=0)
    with pytest.raises(AdapterError, match="only the adapter has model"):
        other_layers.load_adapter(learner.adapter())
    with pytest.raises(AdapterError, match="linear layers are down_proj"):
        Learner(base, LearnerConfig(lora=LoraSpec(target_modules=("query",))), seed=0)
