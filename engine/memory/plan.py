"""`MemoryPlan`: what each phase of a run needs in memory, and what the KV cache is left with, before anything is loaded.

It reads settings and a model's config.json alone, so a run for any GPU is planned on any machine. The items are
`ledger.py`'s; what to change where a plan does not fit is `advice.py`'s.

A gigabyte (GB) is 2**30 bytes throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sparring.engine.config import RunConfig
from sparring.engine.machine import memory_gb
from sparring.engine.memory.ledger import GB, MB, Device, GeneratorKind, Item, KVCachePlan, Phase, TorchLedger, VllmLedger
from sparring.engine.memory.model_shape import ModelShape

if TYPE_CHECKING:
    from rich.table import Table


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The phases of a run on one device.

    Example:
        >>> memory_plan = plan(load_run_config("a6000-qwen2.5-7b"), read_shape("Qwen/Qwen2.5-7B-Instruct"), 47.5)
        >>> memory_plan.kv_cache.games
        258
    """

    model: str
    device: Device
    generator: GeneratorKind
    device_gb: float
    phases: tuple[Phase, ...]
    kv_cache: KVCachePlan
    notes: tuple[str, ...] = ()

    @property
    def device_bytes(self) -> int:
        return int(self.device_gb * GB)

    @property
    def kv_cache_bytes(self) -> int:
        """What the generator is to be opened with."""
        return self.kv_cache.bytes

    @property
    def fits(self) -> bool:
        return self.kv_cache.games >= self.kv_cache.least_games and all(p.bytes <= self.device_bytes for p in self.phases)

    @property
    def table(self) -> Table:
        """The plan for a reader: items down, phases across, in GB, or in MB where all is small."""
        from rich.table import Table

        where = "RAM" if self.device == "cpu" else "GPU memory"
        unit, name = (GB, "GB") if max(phase.bytes for phase in self.phases) > 4 * GB else (MB, "MB")
        title = f"{self.model}, generator {self.generator}: {self.device_gb:g} GB of {where}"
        table = Table(title=title, title_justify="left", show_footer=True)
        table.add_column(name, footer="together\nfree")
        for phase in self.phases:
            free = self.device_bytes - phase.bytes
            table.add_column(phase.name, footer=f"{phase.bytes / unit:,.2f}\n{free / unit:,.2f}", justify="right")
        table.add_column("set by", footer="")
        rows: dict[str, dict[str, Item]] = {}
        for phase in self.phases:
            for item in phase.items:
                rows.setdefault(item.name, {})[phase.name] = item
        for title, found in rows.items():
            cells = [f"{found[p.name].bytes / unit:,.2f}" if p.name in found else "" for p in self.phases]
            table.add_row(title, *cells, next(iter(found.values())).setting)
        return table

    @property
    def kv_cache_text(self) -> str:
        """One line on what the KV cache holds."""
        cache = self.kv_cache
        size = f"{cache.bytes / GB:.1f} GB" if cache.bytes >= GB else f"{cache.bytes / MB:.1f} MB"
        return f"The KV cache of {size} holds {cache.tokens:,} tokens: {cache.games} games of full context."


def plan(
    config: RunConfig,
    shape: ModelShape,
    device_gb: float | None = None,
    *,
    device: Device | None = None,
    generator: GeneratorKind | None = None,
) -> MemoryPlan:
    """The plan of a run that has `device_gb` GB of the device's memory; without it `memory.device_gb`, or all that there is.

    `device` and `generator` say what "auto" in the settings stands for; without them a run is planned for a GPU unless its
    settings name the CPU, and for vLLM on a GPU. Raises `MemoryPlanError` where a phase does not fit, naming by how much, the
    largest items, and settings with values that would fit.
    """
    from sparring.engine.memory.advice import refuse

    drawn = draw_up(config, shape, device_gb, device=device, generator=generator)
    if not drawn.fits:
        refuse(config, shape, drawn)
    return drawn


def draw_up(
    config: RunConfig,
    shape: ModelShape,
    device_gb: float | None = None,
    *,
    device: Device | None = None,
    generator: GeneratorKind | None = None,
) -> MemoryPlan:
    """As `plan`, without a verdict: whether it fits is the plan's own `fits`."""
    device = device or ("cpu" if config.device == "cpu" else "cuda")
    usual: GeneratorKind = "vllm" if device == "cuda" else "torch"
    kind = generator or (usual if config.generator == "auto" else config.generator)
    if device_gb is None:
        device_gb = (config.memory.device_gb if device == "cuda" else 0.0) or memory_gb(device)
    ledger = (VllmLedger if kind == "vllm" else TorchLedger)(config, shape, device, int(device_gb * GB))
    return MemoryPlan(
        model=config.model,
        device=device,
        generator=kind,
        device_gb=device_gb,
        phases=ledger.phases(),
        kv_cache=ledger.kv_cache(),
        notes=ledger.notes(),
    )
