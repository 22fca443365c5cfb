"""The ledgers: every item that takes memory in each phase of a run, for either generator, from sizes alone.

Owns the items and the constants that no shape gives. It imports neither vLLM nor CUDA. What the learner's step holds is counted
in `learner_memory.py`; what the items amount to is `plan.py`'s.

A gigabyte (GB) is 2**30 bytes throughout.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sparring.engine.config import RunConfig
from sparring.engine.memory.learner_memory import kept_activations, workspace, worst_rows
from sparring.engine.memory.model_shape import ModelShape
from sparring.learner.blocks import stacked_heads

GB, MB = 1 << 30, 1 << 20
FP32, BF16 = 4, 2
SLOTS_PER_ADAPTER = 2
"""One serves while the other is written."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM's slots come in; an adapter takes the next one."""
CUDA_GRAPHS_GB = 1.0
"""An allowance for vLLM's captured decoding graphs, with and without LoRA: their buffers cannot be computed from shapes."""
SAMPLER_BYTES = 22
"""A logit costs vLLM's sampler this much: bf16 and fp32 logits, log-probs, probabilities, random numbers, one scratch copy."""
TOP_P_BYTES = 20
"""And this much more where top_p is below 1: sorted values, their int64 places, probabilities and their sums."""
NF4_BYTES = {"vllm": 0.5 + 4 / 64, "torch": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes a weight: 4 bits and a scale for 64 weights. The learner's scales are 8 bits (double quantisation), vLLM unpacks its own
to fp32."""
CPU_BLOCK_TOKENS = 32
"""Tokens of a block of vLLM's KV cache on a CPU."""
GAMES_SHARE = 8
"""The KV cache must hold whole contexts of at least one game in this many in play; below that vLLM computes prompts again and
again, and a turn costs a prefill of the whole game."""
TORCH_BATCH_TOKENS = 4096
"""`TorchGeneratorConfig.max_batch_tokens`, which no setting of a run changes."""

Device = Literal["cpu", "cuda"]
GeneratorKind = Literal["torch", "vllm"]


class Item(msgspec.Struct, frozen=True):
    """Something that takes memory. `setting` is what sizes it, where a setting does."""

    name: str
    bytes: int
    setting: str = ""


class Phase(msgspec.Struct, frozen=True):
    """What is in memory at the same time."""

    name: str
    items: tuple[Item, ...]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


class KVCachePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache while games are played; it is released for learning."""

    bytes: int
    bytes_per_token: int
    tokens: int
    games: int
    """Games whose whole context it holds."""
    least_games: int
    """Fewer than these are refused."""


class _Ledger:
    """What both generators have in common: the learner's half."""

    def __init__(self, config: RunConfig, shape: ModelShape, device: Device, device_bytes: int) -> None:
        self.config, self.shape, self.device, self.device_bytes = config, shape, device, device_bytes
        self.itemsize = FP32 if device == "cpu" else BF16
        lora = config.learner.lora
        self.targets = lora.target_modules
        self.adapter = shape.adapter_parameters(lora.rank, self.targets)
        self.reserve = Item("reserve", int(config.memory.reserve_gb * GB), "memory.reserve_gb")

    def learner(self) -> tuple[Item, ...]:
        """What the learners keep at all times, one for each policy in training. Adapters are fp32 whatever the base model is."""
        held = self.config.population * FP32 * self.adapter
        return (
            Item("adapter", held, "learner.lora.rank"),
            Item("optimiser (AdamW moments)", 2 * held, "learner.lora.rank"),
        )

    def step(self) -> tuple[Item, ...]:
        """What a step of the learner takes on top."""
        learner = self.config.learner
        rows = worst_rows(learner.token_budget, self.config.sampling.context)
        kept = kept_activations(
            self.shape,
            rows,
            rank=learner.lora.rank,
            targets=self.targets,
            itemsize=self.itemsize,
            fused=not self.quantised,
            stacked=stacked_heads(self.device, self.shape.num_heads, self.shape.num_kv_heads),
            entropy_grad=learner.grpo.entropy_coef > 0,
        )
        dequantised = BF16 * max(linear.weights for linear in self.shape.linears.values()) if self.quantised else 0
        temporaries = workspace(self.shape, rows, itemsize=self.itemsize, fused=not self.quantised) + dequantised
        return (
            Item("gradients", FP32 * self.adapter, "learner.lora.rank"),
            Item("activations", kept, "learner.token_budget"),
            Item("log-prob and backward workspace", temporaries),
        )

    @property
    def quantised(self) -> bool:
        return self.config.quantization == "nf4"

    def published(self) -> Item:
        """The copies of the adapters that are handed over, and kept as what is served."""
        return Item("published adapter", self.config.population * FP32 * self.adapter, "learner.lora.rank")

    def cache(self, size: int, least_games: int) -> KVCachePlan:
        per_token = self.shape.kv_per_token * self.itemsize
        tokens = max(0, size) // per_token
        games = tokens // self.config.sampling.context
        return KVCachePlan(bytes=max(0, size), bytes_per_token=per_token, tokens=tokens, games=games, least_games=least_games)


class VllmLedger(_Ledger):
    """vLLM and the learner in one process."""

    def phases(self) -> tuple[Phase, ...]:
        held = (*self.weights(), self.slots(), *self.learner(), self.published())
        graphs = () if self.eager else (Item("CUDA graphs", int(CUDA_GRAPHS_GB * GB), "vllm.enforce_eager"),)
        play = (*held, *graphs, *self.forward(), self.reserve)
        cache = Item("KV cache", self.cache_bytes(play), "vllm.kv_cache_gb")
        return Phase("play", (*play, cache)), Phase("learn", (*held, *graphs, *self.step(), self.reserve))

    def kv_cache(self) -> KVCachePlan:
        (size,) = (item.bytes for item in self.phases()[0].items if item.name == "KV cache")
        return self.cache(size, least_games=max(1, -(-self.config.concurrency // GAMES_SHARE)))

    def cache_bytes(self, play: tuple[Item, ...]) -> int:
        asked = int(self.config.vllm.kv_cache_gb * GB)
        if asked:
            return asked
        if self.device == "cpu":
            return self.whole_games()
        return max(0, self.device_bytes - sum(item.bytes for item in play))

    def whole_games(self) -> int:
        """A whole context for every game in blocks of vLLM's, and one spare block each."""
        blocks = -(-self.config.sampling.context // CPU_BLOCK_TOKENS) + 1
        return self.config.concurrency * blocks * CPU_BLOCK_TOKENS * self.shape.kv_per_token * self.itemsize

    @property
    def eager(self) -> bool:
        return self.config.vllm.enforce_eager or self.device == "cpu"

    @property
    def shared(self) -> bool:
        return self.device == "cuda" and self.config.vllm.share_weights and not self.quantised

    def weights(self) -> tuple[Item, ...]:
        counts = self.shape.counts
        if self.shared:
            return (Item("base weights, shared", self.itemsize * counts.total, "model"),)
        items = []
        for name, user in (("generator", "vllm"), ("learner", "torch")):
            whole = self.itemsize * counts.total
            packed = int(NF4_BYTES[user] * counts.linears) + self.itemsize * counts.unquantised
            items.append(Item(f"base weights of the {name}", packed if self.quantised else whole, "model"))
        return tuple(items)

    def slots(self) -> Item:
        wanted = self.config.vllm.max_lora_rank or self.config.learner.lora.rank
        rank = next((rank for rank in LORA_RANKS if rank >= wanted), wanted)
        slots = SLOTS_PER_ADAPTER * self.config.vllm.max_adapters
        size = slots * self.shape.slot_parameters(rank, self.targets) * self.itemsize
        return Item("adapter slots", size, "vllm.max_adapters")

    def forward(self) -> tuple[Item, ...]:
        """vLLM's own peak: the widest layer at the token budget, or the sampler, which follows when the layers are done."""
        vllm, shape = self.config.vllm, self.shape
        tokens = max(vllm.max_num_batched_tokens, self.config.sampling.context if self.device == "cpu" else 0)
        hidden = tokens * shape.hidden_size * self.itemsize
        layers = tokens * (3 * shape.intermediate_size + 3 * shape.hidden_size) * self.itemsize
        each = SAMPLER_BYTES + (TOP_P_BYTES if self.config.sampling.top_p < 1 else 0)
        sampler = (vllm.max_num_seqs or self.config.concurrency) * shape.vocab_size * each
        setting = "vllm.max_num_batched_tokens" if layers >= sampler else "vllm.max_num_seqs"
        return (Item("generator's activations and sampler", hidden + max(layers, sampler), setting),)

    def notes(self) -> tuple[str, ...]:
        cache, notes = self.kv_cache(), []
        if cache.least_games <= cache.games < self.config.concurrency:
            notes.append(
                f"the KV cache holds {cache.games} whole contexts for concurrency = {self.config.concurrency} games: "
                "where games fill theirs, some are computed again"
            )
        if self.config.vllm.share_weights and not self.shared:
            why = 'quantization = "nf4"' if self.quantised else "a CPU, where vLLM repacks its weights,"
            notes.append(f"{why} gives generator and learner a copy of the base weights each")
        return tuple(notes)


class TorchLedger(_Ledger):
    """The embedded generator: one base model, fused copies of some of its matrices, merged ones of a published adapter."""

    def phases(self) -> tuple[Phase, ...]:
        held = (*self.weights(), *self.learner())
        cache = Item("KV cache", self.cache_bytes(), "concurrency")
        play = (*held, self.merged(), cache, self.forward(), self.reserve)
        learn = (*held, self.merged(), *self.step(), self.reserve)
        publish = (*held, self.merged(), self.published(), *self.merging(), self.reserve)
        return Phase("play", play), Phase("learn", learn), Phase("publish", publish)

    def kv_cache(self) -> KVCachePlan:
        return self.cache(self.cache_bytes(), least_games=self.config.concurrency)

    def cache_bytes(self) -> int:
        """`engine/embedded/kv_cache.py` holds a whole context for every game."""
        return self.config.concurrency * self.config.sampling.context * self.shape.kv_per_token * self.itemsize

    def weights(self) -> tuple[Item, ...]:
        """`engine/embedded/decoder.py` copies the packed matrices, and shares the others with the learner."""
        linears = self.shape.linears.values()
        fused = sum(ln.weights + ln.bias * ln.outputs for ln in linears if ln.pack in ("qkv_proj", "gate_up_proj"))
        return (
            Item("base weights, shared", self.itemsize * self.shape.counts.total, "model"),
            Item("fused copies of the generator", self.itemsize * self.shape.num_layers * fused, "model"),
        )

    def merged(self) -> Item:
        """The matrices that the adapters change, a set for each; a packed one as a whole."""
        linears = self.shape.linears
        packs = {linear.pack for name, linear in linears.items() if not self.targets or name in self.targets}
        weights = sum(linear.weights for linear in linears.values() if linear.pack in packs)
        size = self.config.population * self.itemsize * self.shape.num_layers * weights
        return Item("merged weights of the policy", size, "learner.lora.target_modules")

    def merging(self) -> tuple[Item, ...]:
        """A second set beside the one in service, from differences in fp32."""
        setting = "learner.lora.target_modules"
        changed = sum(linear.weights for name, linear in self.shape.linears.items() if not self.targets or name in self.targets)
        return (
            Item(
                "merged weights of the next policy", self.merged().bytes // self.config.population, "learner.lora.target_modules"
            ),
            Item("differences in fp32", FP32 * self.shape.num_layers * changed, setting),
        )

    def forward(self) -> Item:
        """A forward pass at its token budget, a copy of one layer's cache, and the logits of every game with their draws."""
        shape, games = self.shape, self.config.concurrency
        layers = TORCH_BATCH_TOKENS * (3 * shape.intermediate_size + 3 * shape.hidden_size) * self.itemsize
        rows = games * self.config.sampling.context * 2 * shape.kv_size * self.itemsize
        logits = games * shape.vocab_size * 4 * FP32
        return Item("generator's activations", layers + rows + logits, "concurrency")

    def notes(self) -> tuple[str, ...]:
        return ()
