"""`sparring bench partners`: games with partners over the network, against a fake provider on this machine.

Three parts, each in a file of its own: the use of a rate limit, the generator's idle share, and what must hold under faults. Owns
their tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from rich.table import Table

from sparring.bench.partner_faults import FaultPlan, FaultRun, measure_faults
from sparring.bench.partner_idle import IdlePlan, IdleShare, measure_idle
from sparring.bench.partner_limits import LimitPlan, LimitUse, measure_limits
from sparring.bench.provider.latency import RehearsalError

CAP = 0.05
"""US dollars of the run that its budget ends."""


class Partners(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; what was not asked for is empty."""

    limits: list[LimitUse] = []
    idle: list[IdleShare] = []
    faults: list[FaultRun] = []
    """Without a budget, and with one that ends it."""

    @property
    def broken(self) -> list[str]:
        """What must hold and does not."""
        return [line for run in self.faults for line in run.broken]

    @property
    def tables(self) -> list[Table]:
        made = [_limits(self.limits)] if self.limits else []
        made += [_idle(self.idle)] if self.idle else []
        return made + ([_faults(self.faults)] if self.faults else [])


def measure(parts: Sequence[str] = (), *, limits: LimitPlan | None = None, idle: IdlePlan | None = None) -> Partners:
    """The parts by name, all by default. Raises `RehearsalError` for a name that is none.

    Example:
        >>> measure(["limits"]).limits[0].share
        1.0006
    """
    known: dict[str, Callable[[], Any]] = {
        "limits": lambda: measure_limits(limits or LimitPlan()),
        "idle": lambda: measure_idle(idle or IdlePlan()),
        "faults": lambda: [measure_faults(FaultPlan()), measure_faults(FaultPlan(budget=CAP))],
    }
    for part in parts:
        if part not in known:
            raise RehearsalError(f"there is no part {part!r}: choose from {', '.join(known)}")
    return Partners(**{name: run() for name, run in known.items() if not parts or name in parts})


def _limits(rows: list[LimitUse]) -> Table:
    table = _table("use of the rate limit", "", "let in/min", "of the limit", "429s", "failed calls", "games ended", "seconds")
    for use in rows:
        figures = (f"{use.per_minute:,.0f}", f"{use.share:.1%}", f"{use.refused:,}", f"{use.failed_calls:,}", f"{use.games:,}")
        table.add_row(use.name, *figures, f"{use.seconds:.0f}")
    return table


def _idle(rows: list[IdleShare]) -> Table:
    table = _table("the generator's idle share", "partner", "games in flight", "idle", "games/s", "calls/s", "p50, s", "p99, s")
    for share in rows:
        times = (f"{share.latency_p50:.2f}", f"{share.latency_p99:.2f}") if share.calls_per_second else ("", "")
        rates = (f"{share.games_per_second:.1f}", f"{share.calls_per_second:.1f}")
        table.add_row(share.partner, f"{share.games}", f"{share.idle:.1%}", *rates, *times)
    return table


def _faults(rows: list[FaultRun]) -> Table:
    columns = ("budget", "games", "scored", "void", "calls", "attempts", "provider's count", "spent", "provider's bill", "holds")
    table = _table("30% of requests fail", *columns)
    for run in rows:
        games = (f"{run.games:,}", f"{run.scored:,}", f"{run.void:,}", f"{run.calls:,}", f"{run.attempts:,}")
        money = (f"{run.provider_requests:,}", f"${run.spent:.4f}", f"${run.provider_dollars:.4f}")
        table.add_row("none" if run.budget is None else f"${run.budget:.2f}", *games, *money, "no" if run.broken else "yes")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table
