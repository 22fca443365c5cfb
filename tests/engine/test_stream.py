"""The stream of games, on players that wait for nothing and partners that wait as long as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from sparring.engine.config import load_run_config
from sparring.engine.deal import deal
from sparring.engine.gate import Gate
from sparring.engine.generator import GeneratorStats
from sparring.engine.stream import GameStream
from sparring.rollout.errors import BudgetError
from sparring.rollout.player import Reply, Seating, Table
from sparring.rollout.runner import Admit, play, play_game
from sparring.rollout.sampler import Sample, SampleRequest
from sparring.rollout.trajectory import Deal, Game

CONFIG = load_run_config(
    overrides=["families=['haggle']", "partners=['script:holder']", "scenarios_per_step=2", "games_per_scenario=2"]
)


class Slow:
    """Takes the place of a script, and answers once its step is let go."""

    waits = True

    def __init__(self, inner: object, opened: asyncio.Event) -> None:
        self.inner, self.opened = inner, opened

    async def act(self, table: Table) -> Reply:
        await self.opened.wait()
        return await self.inner.act(table)  # type: ignore[attr-defined]

    def trajectory(self, outcome: object) -> None:
        return None

    def close(self) -> None:
        return None


class Table4:
    """Steps of four scripted games each; a game of step n waits until `let_go[n]` is set."""

    def __init__(self, steps: int, ahead: int, **more: object) -> None:
        self.let_go = [asyncio.Event() for _ in range(steps)]
        self.begun: list[str] = []
        self.recorded: list[tuple[int, str]] = []
        self.stream = GameStream(
            self.play,
            lambda step: [scripted(one) for one in deal(CONFIG, step)],
            steps=range(steps),
            steps_ahead=ahead,
            record=lambda step, game: self.recorded.append((step, game.id)),
            **more,  # type: ignore[arg-type]
        )

    def play(self, deals: Iterator[Deal], admit: Admit) -> AsyncIterator[Game]:
        def seat(deal: Deal, seat: str) -> Slow:
            if deal.id not in self.begun:
                self.begun.append(deal.id)
            return Slow(Seating()(deal, seat), self.let_go[int(deal.id[0])])

        return play(deals, seat, concurrency=8, admit=admit)  # type: ignore[arg-type]


def scripted(one: Deal) -> Deal:
    return Deal(id=one.id, scenario=one.scenario, players=dict.fromkeys(one.players, "script:holder"), seed=one.seed)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def steps_of(ids: list[str]) -> set[int]:
    return {int(name[0]) for name in ids}


@pytest.mark.parametrize(("ahead", "first", "second"), [(0, {0}, {0, 1}), (1, {0, 1}, {0, 1, 2})])
def test_games_begin_no_more_than_so_many_steps_before_their_update(ahead: int, first: set[int], second: set[int]) -> None:
    async def main() -> None:
        table = Table4(3, ahead)
        async with table.stream as stream:
            await settle()
            assert steps_of(table.begun) == first
            table.let_go[0].set()
            assert sorted(game.id for game in await stream.games(0)) == ["0/0/0", "0/0/1", "0/1/0", "0/1/1"]
            await settle()
            assert steps_of(table.begun) == first
            stream.learned(1)
            await settle()
            assert steps_of(table.begun) == second

    asyncio.run(main())


def test_every_game_is_recorded_as_it_ends_whoever_waits_for_it() -> None:
    """The learner steps while games of the next step end: a process that dies then must not lose them."""

    async def main() -> None:
        table = Table4(2, 1)
        async with table.stream as stream:
            table.let_go[1].set()
            await settle()
            assert {step for step, _ in table.recorded} == {1}
            assert len(stream.ended(1)) == 4
            table.let_go[0].set()
            assert len(await stream.games(0)) == len(await stream.games(1)) == 4
        assert len(table.recorded) == 8

    asyncio.run(main())


def test_games_that_were_kept_are_handed_out_and_not_played() -> None:
    async def main() -> None:
        whole = Table4(2, 0)
        for event in whole.let_go:
            event.set()
        async with whole.stream as stream:
            first = await stream.games(0)
        table = Table4(2, 0, kept={0: first[:3], 1: []})
        for event in table.let_go:
            event.set()
        async with table.stream as stream:
            games = await stream.games(0)
            assert {game.id: game.turns for game in games} == {game.id: game.turns for game in first}
            assert len(table.begun) == 1
            stream.learned(1)
            assert len(await stream.games(1)) == 4
        assert len(table.recorded) == 5

    asyncio.run(main())


def test_a_step_that_was_wholly_kept_is_there_at_once() -> None:
    async def main() -> None:
        whole = Table4(1, 0)
        whole.let_go[0].set()
        async with whole.stream as stream:
            games = await stream.games(0)
        table = Table4(1, 0, kept={0: games})
        async with table.stream as stream:
            assert await asyncio.wait_for(stream.games(0), 5) == games
        assert table.begun == []

    asyncio.run(main())


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_spent_budget_ends_the_stream_once_games_in_play_have_ended(ahead: int) -> None:
    """Games of the next step were waiting for their turn, and the stream for them, for ever."""
    admitted: list[str] = []

    @asynccontextmanager
    async def admit(deal: Deal) -> AsyncIterator[None]:
        if len(admitted) == 3:
            raise BudgetError("spent")
        admitted.append(deal.id)
        yield

    async def main() -> None:
        table = Table4(3, ahead, admit=admit)
        async with table.stream as stream:
            await settle()
            for event in table.let_go:
                event.set()
            with pytest.raises(BudgetError, match="spent"):
                await asyncio.wait_for(stream.games(0), 10)
        assert len(table.recorded) == 3

    asyncio.run(main())


def test_an_error_of_the_program_reaches_whoever_waits_for_games() -> None:
    async def main() -> None:
        table = Table4(2, 0)
        table.stream._record = lambda step, game: 1 / 0  # type: ignore[assignment,return-value]
        async with table.stream as stream:
            table.let_go[0].set()
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(stream.games(0), 10)

    asyncio.run(main())


class Sampler:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = asyncio.Event()
        self.stats = GeneratorStats()

    async def sample(self, request: SampleRequest) -> Sample:
        self.asked += 1
        await self.answer.wait()
        self.stats = GeneratorStats(seconds=1e9)
        return Sample(token_ids=[1], logprobs=[0.0], finish_reason="stop", policy="p")

    def end_session(self, session: str) -> None:
        return None


def test_a_shut_gate_lets_nothing_in_and_what_is_inside_finish() -> None:
    request = SampleRequest(prompt_ids=[1], seed=0, max_tokens=1)

    async def main() -> None:
        sampler = Sampler()
        gate = Gate(sampler)  # type: ignore[arg-type]
        first = asyncio.create_task(gate.sample(request))
        await settle()
        assert sampler.asked == 0
        gate.open()
        await settle()
        assert sampler.asked == 1
        shut = asyncio.create_task(gate.shut())
        await settle()
        second = asyncio.create_task(gate.sample(request))
        await settle()
        assert not shut.done() and sampler.asked == 1
        sampler.answer.set()
        assert await shut == 0.0  # it computed longer than the gate was open, as far as its clock says
        assert (await first).policy == "p"
        await settle()
        assert not second.done()
        gate.open()
        assert (await second).token_ids == [1]
        assert await gate.shut() == 0.0  # too short a time to tell
        gate.open()
        await asyncio.sleep(0.02)
        assert await gate.shut() > 0.9

    asyncio.run(main())


def test_a_gate_that_opens_and_shuts_at_once_lets_nothing_in() -> None:
    """As where all games of a step had ended before: who was woken up asked a generator whose cache was released, and each of
    the games that were ahead was void."""
    request = SampleRequest(prompt_ids=[1], seed=0, max_tokens=1)

    async def main() -> None:
        sampler = Sampler()
        sampler.answer.set()
        gate = Gate(sampler)  # type: ignore[arg-type]
        waiting = asyncio.create_task(gate.sample(request))
        await settle()
        gate.open()
        await gate.shut()
        await settle()
        assert sampler.asked == 0
        gate.open()
        assert (await waiting).policy == "p"

    asyncio.run(main())


def test_a_game_that_waits_at_the_gate_does_not_run_out_of_time() -> None:
    """A learner's step longer than the time limit of a game made void every game that was ahead of it."""

    class Asks:
        waits = True

        def __init__(self, gate: Gate) -> None:
            self.gate = gate

        async def act(self, table: Table) -> Reply:
            await self.gate.sample(SampleRequest(prompt_ids=[1], seed=0, max_tokens=1))
            return Reply("NO_DEAL")

        def trajectory(self, outcome: object) -> None:
            return None

        def called_off(self) -> None:
            return None

        def close(self) -> None:
            return None

    async def main(shut: float, answering: float) -> Game:
        sampler = Sampler()
        gate = Gate(sampler)  # type: ignore[arg-type]
        game = asyncio.create_task(play_game(scripted(deal(CONFIG, 0)[0]), lambda deal, seat: Asks(gate), 0.2))  # type: ignore[arg-type,return-value]
        await asyncio.sleep(shut)
        gate.open()
        await asyncio.sleep(answering)
        sampler.answer.set()
        return await game

    assert asyncio.run(main(0.5, 0.0)).error is None
    late = asyncio.run(main(0.05, 0.6)).error
    assert late is not None
    assert "took longer than 0.2 s" in late
