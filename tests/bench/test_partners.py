"""The benches of partners, small: what must hold of games under faults, and that the tables hold the figures."""

from __future__ import annotations

import msgspec
import pytest

from sparring.bench.partner_faults import FaultPlan, broken_promises, measure_faults
from sparring.bench.partner_idle import MODEL, IdleShare, enough
from sparring.bench.partner_limits import LimitPlan, LimitUse, measure_limits
from sparring.bench.partners import Partners, measure
from sparring.bench.provider.faults import Fault, Faults
from sparring.bench.provider.latency import Latency, RehearsalError
from sparring.bench.provider.ledger import ModelCount
from sparring.bench.provider.limits import RateLimit
from sparring.bench.workload import scripted_deals
from sparring.engine.run.ledger import CallTotals
from sparring.rollout.trajectory import Game
from sparring.scenarios.outcome import Outcome, Reason, Verdict

QUICK = FaultPlan(games=60, concurrency=60, scale=0.001, timeout=2.0)
PROMPT = Faults(rate=0.3, kinds={fault.value: 1.0 for fault in Fault if fault is not Fault.TIMEOUT})
PATIENT = FaultPlan(games=60, concurrency=60, scale=0.001, timeout=60.0, faults=PROMPT)
"""Nothing times out, however busy the machine: counts are equal to the last request."""


def test_no_fault_of_the_infrastructure_costs_a_game() -> None:
    """Every kind of fault, 30% of all requests: all games end, none is lost for it, and both ledgers have the same count."""
    run = measure_faults(QUICK)
    assert run.broken == ()
    assert (run.games, run.scored + run.void) == (60, 60)
    assert run.scored >= 50
    assert run.calls < run.provider_requests == sum(run.provider_outcomes.values())
    assert set(run.provider_outcomes) >= {"timeout", "cut", "malformed"}
    assert 0 < run.provider_dollars <= run.spent


def test_both_ledgers_count_the_same() -> None:
    run = measure_faults(PATIENT)
    assert (run.broken, run.scored, run.void, run.timeouts) == ((), 60, 0, 0)
    assert run.attempts == run.provider_requests > run.calls


def test_without_retries_games_are_void_and_never_lost() -> None:
    faults = Faults(rate=0.3, kinds={"server_error": 1, "cut": 1, "malformed": 1, "empty": 1, "disconnect": 1})
    run = measure_faults(msgspec.structs.replace(PATIENT, max_retries=0, faults=faults))
    assert run.broken == ()
    assert run.scored + run.void == 60
    assert 10 < run.void < 60
    assert run.attempts == run.calls == run.provider_requests


def test_the_budget_ends_the_run_before_it_is_exceeded() -> None:
    run = measure_faults(msgspec.structs.replace(PATIENT, games=400, budget=0.05))
    assert run.broken == ()
    assert run.ended_by_budget
    assert 0 < run.games < 400
    assert 0 < run.provider_dollars <= run.spent <= 0.05
    assert run.attempts == run.provider_requests


def test_a_broken_promise_is_named() -> None:
    """The check sees what it is there for: missing games, a scored failure, counts that differ, money that is not there."""
    plan = FaultPlan(games=2, budget=0.001)
    ledger = CallTotals(calls=3, attempts=3, failed_attempts=0, prompt_tokens=0, completion_tokens=0, cost=0.002)
    lost = Outcome.of(Verdict.LOSS, 0.0, Reason.MISMATCH)
    deal = scripted_deals("haggle", 1)[0]
    game = Game(
        id="g",
        scenario=deal.scenario,
        players=deal.players,
        turns=(),
        outcomes=dict.fromkeys(deal.players, lost),
        trajectories=(),
        seconds=0.0,
        error="the partner is gone",
    )
    assert list(broken_promises(plan, [game], False, ledger, ModelCount(requests=4, dollars=0.003), 0)) == [
        "1 games are missing",
        "g: a failure is scored",
        "g: a verdict although the partner is gone",
        "the ledger has 3 attempts, the provider counted 4 requests",
        "the ledger says $0.002000, the provider takes $0.003000",
        "$0.002000 are spent of $0.001000",
    ]
    unheard = ModelCount(requests=2, outcomes={"timeout": 1})
    fine = FaultPlan(games=0)
    assert list(broken_promises(fine, [], False, ledger, unheard, 2)) == []
    assert len(list(broken_promises(fine, [], False, ledger, unheard, 1))) == 1
    assert Partners(faults=[measure_faults(msgspec.structs.replace(QUICK, games=4, faults=Faults()))]).broken == []


def test_both_sides_are_counted_by_the_provider() -> None:
    plan = LimitPlan(
        games=4, latency=Latency(p50=0.01, p99=0.01), limit=RateLimit(requests_per_minute=1200, burst=1), warm_up=0.2, seconds=0.5
    )
    governed, plain = measure_limits(plan)
    assert (governed.name, plain.name) == ("governor", "gather, client's retries")
    for use in (governed, plain):
        assert use.share == pytest.approx(use.per_minute / 1200)
        assert 0 < use.share < 3.1  # a full bucket, and what came in since


def test_tables_hold_the_figures() -> None:
    uses = [LimitUse(name="governor", per_minute=3000.0, share=1.0, refused=0, failed_calls=0, games=347, seconds=30.0)]
    fields = {
        "games_per_second": 9.0,
        "calls_per_second": 30.0,
        "latency_p50": 0.1,
        "latency_p99": 1.0,
        "void": 0,
        "seconds": 9.0,
    }
    shares = [IdleShare(partner=MODEL, games=games, idle=idle, **fields) for games, idle in ((64, 0.3), (256, 0.1), (512, 0.02))]
    found = Partners(limits=uses, idle=shares)
    limits, idle = found.tables
    assert [list(column.cells) for column in limits.columns][:4] == [["governor"], ["3,000"], ["100.0%"], ["0"]]
    assert [list(column.cells) for column in idle.columns][1:3] == [["64", "256", "512"], ["30.0%", "10.0%", "2.0%"]]
    assert (enough(shares), enough(shares[:1])) == (256, None)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(RehearsalError, match="limits, idle, faults"):
        measure(["speed"])
