"""`VllmGenerator`: vLLM as a `Generator`, in this process, with adapters handed over in memory.

Owns what is served under which name and the KV cache's comings and goings. Requests and the engine's thread are
`thread.py`'s, the engine `contact.py`'s, what lies in a slot `layout.py`'s, which slot serves whom
`slots.py`'s.

A publication writes to a slot that serves nobody and then switches the name: requests in flight finish on the version they began
with. One that finds no free slot waits until the oldest version's requests have ended, which they do without the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Condition

from torch import Tensor

from sparring.engine.errors import FenceError, GeneratorError
from sparring.engine.generator import GeneratorStats, check_base, check_request
from sparring.engine.vllm import layout as adapter_layout
from sparring.engine.vllm.contact import EngineSettings, Served
from sparring.engine.vllm.slots import SlotTable, Version
from sparring.engine.vllm.thread import CLOSED, EngineThread, Job
from sparring.learner.adapter import Adapter
from sparring.rollout.sampler import Sample, SampleRequest

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
"""vLLM samples nothing between greedy and the first, and refuses what lies above the second."""
SLOTS_PER_ADAPTER = 2
"""One serves while the other is written."""


class VllmGenerator:
    """A `Generator` on vLLM. Raises `GeneratorError` where vLLM cannot be used or refuses the model.

    Example:
        >>> generator = VllmGenerator(EngineSettings(model="Qwen/Qwen2.5-7B-Instruct", ...))
        >>> generator.publish("policy", adapter)
        >>> sample = await generator.sample(SampleRequest(prompt_ids=ids, seed=1, max_tokens=16, adapter="policy"))
    """

    def __init__(self, settings: EngineSettings, *, base_model: str = "") -> None:
        self.settings = settings
        self.base_model = base_model
        """`fingerprint_model` of the base model; where weights are shared it is known only once they are loaded."""
        self._users: dict[str, Version] = {}
        """The version of each request in flight, by job."""
        self._changed = Condition()
        """Guards the slot table, and is told of every slot that becomes free."""
        self._table = SlotTable(settings.num_slots, on_free=self._unbind)
        self._released = False
        self._thread = EngineThread(settings, on_end=self._ended)
        self._contact = self._thread.contact
        try:
            self._layers = self._thread.call(self._contact.slots)
        except BaseException:
            self._thread.close()
            raise

    @property
    def adapters(self) -> Mapping[str, str]:
        return self._table.fingerprints

    @property
    def stats(self) -> GeneratorStats:
        return self._thread.stats

    @property
    def num_in_flight(self) -> int:
        return self._thread.num_in_flight

    @property
    def num_held(self) -> int:
        """Requests that vLLM itself still holds."""
        return self._thread.call(self._thread.num_held)

    @property
    def cache_bytes(self) -> int:
        """Memory of the KV cache: 0 while released, and once closed."""
        return 0 if self._thread.stopped == CLOSED else self._thread.call(self._contact.kv_cache_bytes)

    def parameters(self) -> dict[str, Tensor]:
        """vLLM's own weights by name, to train on views of them."""
        return self._thread.call(self._contact.parameters)

    async def sample(self, request: SampleRequest) -> Sample:
        """Raises `GeneratorError` for a request that cannot be served, `GeneratorStopped` if the engine fails."""
        self._check(request)
        with self._changed:
            version = None if request.adapter is None else self._find(request.adapter)
            if version is None:
                job = self._thread.start(request, None, self.base_model)
            else:
                job = self._thread.start(request, _served(version), version.fingerprint)
                self._table.begin(version)
                self._users[job.id] = version
        try:
            return await job.future
        finally:
            self._thread.cancel(job)

    def end_session(self, session: str) -> None:
        """Nothing is kept by session: vLLM finds the KV of a prompt's beginning by its tokens."""

    def publish(self, name: str, adapter: Adapter) -> None:
        """Serves `adapter` as `name`. A failure leaves the former version serving.

        Raises `GeneratorError` before anything is touched if the adapter does not fit, `FenceError` if what was written cannot be
        read back.
        """
        self._thread.check_running()
        check_base(adapter, self.base_model)
        adapter_layout.check_fit(adapter, self._layers)
        fingerprint = adapter.fingerprint
        with self._changed:
            former = self._table.find(name)
            if former is not None and former.fingerprint == fingerprint:
                return
            self._check_room(name)
            self._changed.wait_for(lambda: self._table.num_free > 0 or self._thread.stopped is not None)
            self._thread.check_running()
            version = self._table.reserve(name, fingerprint)
        delivered = False
        try:
            self._thread.call(self._deliver, adapter, version)
            delivered = True
        finally:
            with self._changed:
                if delivered:
                    self._table.publish(version)
                else:
                    self._table.cancel(version)
                self._changed.notify_all()

    def unpublish(self, name: str) -> None:
        with self._changed:
            self._find(name)
            self._table.unpublish(name)
            self._changed.notify_all()

    def verify(self, name: str) -> None:
        """Raises `FenceError` if the slot that serves `name` no longer holds what was published, to the last bit."""
        self._thread.call(self._verify, self._find(name))

    def release(self) -> None:
        self._thread.check_running()
        self._thread.cancel_abandoned()
        if self.num_in_flight:
            raise GeneratorError(
                f"the cache cannot be released with {self.num_in_flight} requests in flight: wait for them or cancel them"
            )
        if not self._released:
            self._thread.call(self._release)
            self._released = True

    def resume(self) -> None:
        if self._released and self._thread.stopped is None:
            self._thread.call(self._contact.resume_kv)
            self._released = False

    def close(self) -> None:
        """Fails what is in flight with `GeneratorStopped` and gives all memory back."""
        self._layers = {}
        self._thread.close()

    def _check(self, request: SampleRequest) -> None:
        self._thread.check_running()
        if self._released:
            raise GeneratorError("the cache is released: call resume() first")
        check_request(request, max_context=self.settings.max_model_len, vocab_size=self._contact.vocab_size)
        if request.top_p < 1:
            raise GeneratorError(
                f"top_p {request.top_p}: vLLM reports log-probs after top-p, which the learner cannot compare with its own: set "
                'sampling.top_p = 1, or generator = "torch"'
            )
        if request.temperature > MAX_TEMPERATURE or 0 < request.temperature < MIN_TEMPERATURE:
            raise GeneratorError(
                f"temperature {request.temperature}: vLLM serves 0, and {MIN_TEMPERATURE} to {MAX_TEMPERATURE}: set "
                'sampling.temperature to one of these, or generator = "torch"'
            )

    def _find(self, name: str) -> Version:
        if (version := self._table.find(name)) is None:
            known = ", ".join(sorted(self._table.fingerprints)) or "none yet"
            raise GeneratorError(
                f"no adapter is published as {name!r} (published: {known}): publish it first, or ask for None, the base model"
            )
        return version

    def _check_room(self, name: str) -> None:
        served, most = {*self._table.fingerprints, name}, self.settings.num_slots // SLOTS_PER_ADAPTER
        if len(served) > most:
            others = ", ".join(sorted(self._table.fingerprints))
            raise GeneratorError(
                f"{name!r} would be adapter {len(served)} of at most {most}: set vllm.max_adapters = {len(served)}, or unpublish "
                f"one of {others}"
            )

    def _ended(self, job: Job) -> None:
        """From either thread, once for every job."""
        with self._changed:
            if (version := self._users.pop(job.id, None)) is not None:
                self._table.end(version)
                self._changed.notify_all()

    def _unbind(self, version: Version) -> None:
        """Submitted before the slot can be reserved again, so it runs before the next version is written."""
        self._thread.post(self._contact.unbind, _served(version))

    # In the engine's thread

    def _deliver(self, adapter: Adapter, version: Version) -> None:
        adapter_layout.write(adapter, self._layers, version.slot)
        checksum = adapter_layout.read_back(adapter, self._layers, version.slot)
        if checksum is None:
            raise FenceError(
                f"adapter {version.fingerprint} was written to slot {version.slot} as {version.name!r} and something else is "
                "read back: it was not delivered, and what was served before goes on serving"
            )
        version.checksum = checksum
        self._contact.bind(version.slot, _served(version))

    def _verify(self, version: Version) -> None:
        bound = self._contact.bound().get(version.slot)
        if bound != version.number or adapter_layout.slot_checksum(self._layers, version.slot) != version.checksum:
            raise FenceError(
                f"what serves {version.name!r} is no longer adapter {version.fingerprint}: its slot {version.slot} was "
                "overwritten after it was published, so games would be played by another policy than the one that learns; resume "
                "the run from its last checkpoint, and report this with the versions that `sparring doctor` prints"
            )

    def _release(self) -> None:
        self._thread.drain()
        self._contact.release_kv()


def _served(version: Version) -> Served:
    return Served(lora_id=version.number, name=version.label)
