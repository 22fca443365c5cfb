"""Who sits at the table: scripted players and policies. One object plays one seat of one game.

`Seating` turns the specs of a deal ("policy", "base", "policy:NAME", "script:NAME", a model's) into players. Running games is
`runner.py`'s business, and what a model reads is `chat.py`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import msgspec

from sparring.rollout.chat import ChatFormat
from sparring.rollout.errors import PlayerError, RolloutError
from sparring.rollout.player_spec import parse_player as parse_player
from sparring.rollout.remote.call import ChatModel, Purpose
from sparring.rollout.remote.config import ChatSampling
from sparring.rollout.sampler import Sampler, SampleRequest
from sparring.rollout.trajectory import Deal, Trajectory
from sparring.scenarios import registry
from sparring.scenarios.family import Strategy, View
from sparring.scenarios.game import GameState, Observation
from sparring.scenarios.outcome import Outcome


@dataclass(frozen=True)
class Table:
    """A game as one seat sees it."""

    game: GameState
    seat: str

    @property
    def observation(self) -> Observation:
        return self.game.observe(self.seat)

    @property
    def view(self) -> View[Any, Any]:
        return self.game.view(self.seat)


@dataclass(frozen=True)
class Reply:
    """A player's message; `complete` is false where a limit cut it, and a commit in it then does not count."""

    text: str
    complete: bool = True


class Player(Protocol):
    """One seat of one game. Subclass it for the defaults of a player that trains nothing and holds nothing."""

    waits: bool = True
    """Whether `act` waits for anything; one that does not is asked in turn even where seats move at once."""

    async def act(self, table: Table) -> Reply:
        """The next message. A `PlayerError`, `OSError` or other `ValueError` voids the game, but for those that end the run:
        `BudgetError`, `CassetteError` and `RemoteError`."""
        ...

    def trajectory(self, outcome: Outcome) -> Trajectory | None:
        """What the player's model read and sampled, with what came of it; `None` where there is nothing to train on."""
        return None

    def called_off(self) -> None:
        """Called, before `close`, where the game's time ran out."""
        return

    def close(self) -> None:
        """Called once, however the game ended."""
        return


PlayerFactory = Callable[[Deal, str], Player]
"""The player of a deal's seat."""


class ScriptedPlayer(Player):
    """A family's strategy. Its generator starts in the same state at every turn of a game, as strategies expect."""

    waits = False

    def __init__(self, strategy: Strategy, seed: int, seat: str) -> None:
        self._strategy = strategy
        self._seed = f"{seed}/{seat}"

    async def act(self, table: Table) -> Reply:
        return Reply(self._strategy(table.view, Random(self._seed)))


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How policies sample."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 64
    """Of one message."""
    context: int = 2048
    """Ids that a game may grow to, prompt and samples together."""


class PolicyPlayer(Player):
    """A model behind a `Sampler`. Keeps exactly the ids it read and sampled; nothing sampled is encoded again.

    A message that meets `max_tokens` or the context limit is incomplete. Once the context is full the seat falls silent, and
    the referee's ordinary rules end the game. Both are counted in `Trajectory.truncated`.
    """

    def __init__(
        self, sampler: Sampler, chat: ChatFormat, deal: Deal, seat: str, *, adapter: str | None, sampling: Sampling
    ) -> None:
        self._sampler, self._chat, self._deal, self._seat = sampler, chat, deal, seat
        self._adapter, self._sampling = adapter, sampling
        self._session = f"{deal.id}/{seat}"
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._mask: list[bool] = []
        self._heard = 0
        self._turn = 0
        self._truncated = 0
        self._policies: list[str] = []

    async def act(self, table: Table) -> Reply:
        new_ids = self._read(table.observation)
        prompt, sampling = self._ids + new_ids, self._sampling
        room = min(sampling.max_tokens, sampling.context - len(prompt))
        turn, self._turn = self._turn, self._turn + 1
        if room <= 0:
            return self._fall_silent(len(prompt))
        request = SampleRequest(
            prompt_ids=prompt,
            seed=turn_seed(self._deal.seed, self._seat, turn),
            max_tokens=room,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop_ids=self._chat.stop_ids,
            adapter=self._adapter,
            session=self._session,
        )
        sample = await self._sampler.sample(request)
        assert len(sample.token_ids) == len(sample.logprobs)
        self._append(new_ids, [0.0] * len(new_ids), sampled=False)
        self._append(sample.token_ids, sample.logprobs, sampled=True)
        self._heard = len(table.observation.heard)
        if sample.policy not in self._policies[-1:]:
            self._policies.append(sample.policy)
        complete = sample.finish_reason == "stop"
        self._truncated += not complete
        return Reply(self._chat.decode(sample.token_ids), complete)

    def trajectory(self, outcome: Outcome) -> Trajectory | None:
        """`None` where the seat never sampled."""
        if not any(self._mask):
            return None
        deal = self._deal
        return Trajectory(
            game_id=deal.id,
            scenario_id=deal.scenario.id,
            family=deal.scenario.family,
            seat=self._seat,
            partner="+".join(spec for seat, spec in deal.players.items() if seat != self._seat),
            token_ids=self._ids,
            logprobs=self._logprobs,
            loss_mask=self._mask,
            temperature=self._sampling.temperature,
            policy=self._policies[0],
            later=tuple(self._policies[1:]),
            member=deal.member,
            reward=None if outcome.reward is None else float(outcome.reward),
            verdict=outcome.verdict,
            score=outcome.score,
            truncated=self._truncated,
        )

    def close(self) -> None:
        self._sampler.end_session(self._session)

    def _read(self, seen: Observation) -> list[int]:
        """The ids of what is new to the model."""
        if not self._ids:
            return self._chat.opening(seen.instructions, seen.heard)
        return self._chat.reply(seen.heard[self._heard :], finished=self._ids[-1] == self._chat.turn_end)

    def _append(self, ids: list[int], logprobs: list[float], *, sampled: bool) -> None:
        self._ids += ids
        self._logprobs += logprobs
        self._mask += [sampled] * len(ids)

    def _fall_silent(self, needed: int) -> Reply:
        if not self._ids:
            context = self._sampling.context
            raise PlayerError(f"the opening takes {needed} tokens, the context holds {context}: raise sampling.context")
        self._truncated += 1
        return Reply("", complete=False)


def turn_seed(seed: int, seat: str, turn: int) -> int:
    """A 63-bit seed for one message, unrelated to those of its neighbours."""
    digest = hashlib.blake2b(f"{seed}/{seat}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def find_strategy(family: str, name: str) -> Strategy:
    """Raises `RolloutError` listing the family's scripts."""
    strategies = registry.get(family).strategies
    if name not in strategies:
        raise RolloutError(f"{family} has no script {name!r}: choose from {', '.join(strategies)}")
    return strategies[name]


@dataclass(frozen=True, kw_only=True)
class Seating:
    """A `PlayerFactory` over one sampler. Without a sampler only scripts can sit down, and models elsewhere.

    `adapter` is the published adapter that "policy" stands for; `None` seats the base model there. `remote` answers for models
    elsewhere, which sample as `partner` says; `phase` tells deals of one id in different phases of a run apart for them, and
    `purpose` is what the ledger says of their calls.

    Example:
        >>> seating = Seating(sampler=generator, chat=ChatFormat(tokenizer), adapter="policy")
        >>> player = seating(deal, "seller")
    """

    sampler: Sampler | None = None
    chat: ChatFormat | None = None
    adapter: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    remote: ChatModel | None = None
    partner: ChatSampling = field(default_factory=ChatSampling)
    phase: str = ""
    purpose: Purpose = "partner"

    def __call__(self, deal: Deal, seat: str) -> Player:
        spec = parse_player(deal.players[seat])
        if spec.kind == "script":
            return ScriptedPlayer(find_strategy(deal.scenario.family, spec.name), deal.seed, seat)
        if spec.kind == "model":
            return self._seat_model(deal, seat)
        if self.sampler is None or self.chat is None:
            raise RolloutError(f"{deal.players[seat]!r} needs a model: give Seating a sampler and a chat format")
        adapter = None if spec.kind == "base" else spec.name or deal.member or self.adapter
        return PolicyPlayer(self.sampler, self.chat, deal, seat, adapter=adapter, sampling=self.sampling)

    def _seat_model(self, deal: Deal, seat: str) -> Player:
        from sparring.rollout.remote.chat_player import ChatPlayer  # which is a `Player` itself

        if self.remote is None:
            raise RolloutError(f"{deal.players[seat]!r} is a model elsewhere: give Seating a `remote` to call it through")
        return ChatPlayer(
            self.remote, deal.players[seat], deal, seat, sampling=self.partner, phase=self.phase, purpose=self.purpose
        )
