"""Handing an adapter over in memory, beside the public ways of vLLM, on one engine and with the same adapter in each round.

The public ways write PEFT's two files and let vLLM load them: in place of the adapter that is served (`load_inplace`, after
which the prefix cache must be emptied), or under a new id. `plain file` writes nothing but the tensors and a configuration that
is ready, and never waits for the disk; `save_pretrained` is what PEFT's users call. The time of an in-memory publication includes
the adapter's fingerprint, the check that it fits, and reading back every value that was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
import safetensors.torch

from sparring.bench.engine import run_config, shaped
from sparring.bench.plain_vllm import PlainVllm
from sparring.bench.rounds import Rounds
from sparring.engine.engine import POLICY, Engine
from sparring.engine.vllm.generator import VllmGenerator
from sparring.learner.adapter import CONFIG_FILE, WEIGHTS_FILE, Adapter

SIZES = {
    "tiny": ("tiny", ["vllm.kv_cache_gb=0.25"]),
    "1024x24": ("medium", ["learner.lora.rank=32", "concurrency=4", "vllm.kv_cache_gb=0.5"]),
}


@pytest.fixture(scope="module", params=SIZES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    shape, overrides = SIZES[request.param]
    if request.config.getoption("benchmark_disable"):
        shape = "tiny"
    with shaped(run_config("demo", overrides), shape) as config, Engine.open(config) as opened:
        yield opened


class Ways:
    """One adapter after the other, and every way to serve it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        generator = engine.generator
        assert isinstance(generator, VllmGenerator)
        self.engine, self.folder, self.plain = engine, folder, PlainVllm(generator)
        self.learner = engine.learner()
        self.adapter = self.learner.adapter()
        self.config = self.adapter.files()[CONFIG_FILE]
        self.loaded = self.plain.new_id()
        self.save()
        self.publish()
        self._stages = cycle((self._before_in_place, self._before_in_place, self._before_new_id, self._before_publish))

    def before(self) -> None:
        """Makes another adapter, and the side that comes next ready."""
        for tensor in self.adapter.tensors.values():
            tensor.add_(1e-4)
        given = self.adapter
        self.adapter = Adapter(name=given.name, spec=given.spec, tensors=dict(given.tensors), base_model=given.base_model)
        next(self._stages)()

    def publish(self) -> None:
        self.engine.publish(POLICY, self.adapter)

    def save_pretrained_and_load_in_place(self) -> None:
        self.learner._wrapped.save_pretrained(str(self.folder))
        self._load_in_place()

    def save_and_load_in_place(self) -> None:
        self.save()
        self._load_in_place()

    def save_and_load_as_new(self) -> None:
        self.save()
        self.loaded = self.plain.new_id()
        self.plain.load(self.folder, adapter=self.loaded)

    def save(self) -> None:
        safetensors.torch.save_file(self.adapter.tensors, self.folder / WEIGHTS_FILE)
        (self.folder / CONFIG_FILE).write_bytes(self.config)

    def _load_in_place(self) -> None:
        self.plain.load(self.folder, adapter=self.loaded, in_place=True)
        self.plain.reset_prefix_cache()

    def _before_in_place(self) -> None:
        self.save()
        self.plain.load(self.folder, adapter=self.loaded)

    def _before_new_id(self) -> None:
        self.plain.unload(self.loaded)

    def _before_publish(self) -> None:
        """vLLM must not hold the slot that the generator counts as free."""
        self.plain.unload(self.loaded)


@pytest.mark.benchmark(group="publication: in memory, and vLLM's public ways")
def test_publish(rounds: Rounds, engine: Engine, tmp_path: Path) -> None:
    ways = Ways(engine, tmp_path)
    beside = {
        "save_pretrained, load_inplace": ways.save_pretrained_and_load_in_place,
        "plain file, load_inplace": ways.save_and_load_in_place,
        "plain file, new id": ways.save_and_load_as_new,
    }
    rounds.time(ways.publish, rounds=30, before=ways.before, beside=beside)
    assert engine.generator.adapters[POLICY] == ways.adapter.fingerprint
    engine.generator.verify(POLICY)
    parameters = sum(tensor.numel() for tensor in ways.adapter.tensors.values())
    rounds.note(f"{parameters / 1e6:,.2f} million parameters", parameters=parameters)
    rounds.compare()
