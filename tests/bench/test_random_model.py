"""Models with random weights: they load, compute ordinary numbers, and are the same for the same seed."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from sparring.bench import random_model
from sparring.bench.random_model import SIZES, write_model
from sparring.engine.errors import ConfigError
from sparring.engine.memory.model_shape import read_shape
from sparring.engine.models import load_model
from sparring.engine.tiny.shipped import TINY_FOLDER
from sparring.rollout.chat import ChatFormat

CPU = torch.device("cpu")
SHAPES = {"tied": (64, 3, 4, 2, 160, 2048), "untied": (128, 6, 4, 2, 320, 8192)}
MESSAGE_TOKENS = 24


def config_of(kind: str) -> dict[str, object]:
    tiny = json.loads((TINY_FOLDER / "config.json").read_bytes())
    sizes = dict(zip(SIZES, SHAPES[kind], strict=True))
    return tiny | sizes | {"layer_types": None, "tie_word_embeddings": kind == "tied"}


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param) / "model"
    return write_model(config_of(request.param), place, message_tokens=MESSAGE_TOKENS)


def sampled(model: PreTrainedModel, chat: ChatFormat, steps: int = 48) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Entropy and the share of the end of a message at every step of 16 messages, and the ids of each."""
    ids = torch.tensor([chat.opening("You sell a car.", [])] * 16)
    rng = torch.Generator().manual_seed(0)
    going = torch.ones(16, dtype=torch.bool)
    entropies, stops, start = [], [], ids.shape[1]
    for _ in range(steps):
        logp = model(ids).logits[:, -1].float().log_softmax(-1)
        entropies.append(-(logp.exp() * logp).sum(-1)[going])
        stops.append(logp[going, chat.turn_end].exp())
        drawn = torch.multinomial(logp.exp(), 1, generator=rng)
        going &= drawn[:, 0] != chat.turn_end
        ids = torch.cat([ids, drawn], 1)
    return torch.cat(entropies), torch.cat(stops), list(ids[:, start:])


@torch.no_grad()
def test_its_numbers_are_ordinary(folder: Path) -> None:
    """Entropy as a language model's, messages of about the length asked for, and ids that always decode, known or not."""
    model, tokenizer = load_model(str(folder), CPU)
    chat = ChatFormat(tokenizer)
    entropy, stop, messages = sampled(model, chat)
    assert 3 < float(entropy.mean()) < 7
    assert float(entropy.min()) > 0.3
    assert 0.5 / MESSAGE_TOKENS < float(stop.mean()) < 2 / MESSAGE_TOKENS
    assert max(int(ids.max()) for ids in messages) >= 1024  # the tokenizer's vocabulary
    texts = [chat.decode(ids.tolist()) for ids in messages]
    assert len(set(texts)) > 8
    assert chat.decode([2047]) == ""


def test_it_has_every_weight_once_in_bf16(folder: Path) -> None:
    shape = read_shape(folder)
    held = [tensor for file in folder.glob("*.safetensors") for tensor in load_file(file).values()]
    assert sum(tensor.numel() for tensor in held) == shape.counts.total
    assert {tensor.dtype for tensor in held} == {torch.bfloat16}
    index = json.loads((folder / "model.safetensors.index.json").read_bytes())
    assert index["metadata"]["total_size"] == 2 * shape.counts.total
    assert len(index["weight_map"]) == len(held)


def test_several_files_hold_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_model(config_of("untied"), tmp_path / "whole")
    monkeypatch.setattr(random_model, "SHARD_BYTES", 1 << 20)
    parts = write_model(config_of("untied"), tmp_path / "parts")
    assert len(list(whole.glob("*.safetensors"))) == 1
    assert len(list(parts.glob("*.safetensors"))) > 3
    one, other = (load_model(str(folder), CPU)[0].state_dict() for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_seeds_make_models(tmp_path: Path) -> None:
    same, again, other = (write_model(config_of("tied"), tmp_path / str(i), seed=seed) for i, seed in enumerate((5, 5, 6)))
    files = [next(folder.glob("*.safetensors")).read_bytes() for folder in (same, again, other)]
    assert files[0] == files[1] != files[2]


def test_what_cannot_be_written_is_said_before_anything_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no shape '8b': choose from 7b, "):
        write_model("8b", tmp_path / "model")
    with pytest.raises(ConfigError, match="made for Qwen2 with a vocabulary of 1,024 or more"):
        write_model(config_of("tied") | {"model_type": "llama"}, tmp_path / "model")
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        write_model(config_of("tied"), tmp_path / "there")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 5 << 30))
    with pytest.raises(ConfigError, match=r"takes 14.2 GB of disk and .* has 5.0: name a folder elsewhere"):
        write_model("7b", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
