"""The nouns of a rollout: a `Deal` goes in, a `Game` with its `Trajectory`s comes out."""

from __future__ import annotations

import msgspec

from sparring.rollout.player_spec import scripts_of
from sparring.scenarios.game import Turn
from sparring.scenarios.outcome import Outcome, Verdict
from sparring.scenarios.scenario import Scenario


class Deal(msgspec.Struct, frozen=True, kw_only=True):
    """One game to play: who sits where, and the seed of everything random in it.

    Example:
        >>> Deal(id="3/0/1", scenario=scenario, players={"seller": "policy", "buyer": "script:boulware"}, seed=17)
    """

    id: str
    scenario: Scenario
    players: dict[str, str]
    """Seat to player spec: "policy" (the trained adapter), "policy:NAME", "base", "script:NAME", or a model's."""
    seed: int
    member: str = ""
    """Of a population: whose adapter "policy" stands for here; "" where one policy is trained."""

    @property
    def trained_seats(self) -> tuple[str, ...]:
        return tuple(seat for seat, player in self.players.items() if player == "policy")

    @property
    def cast(self) -> dict[str, str]:
        """Seat to script, for the seats that scripts play."""
        return scripts_of(self.players)


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly what one trained seat's model read and sampled in one game; never decoded and encoded again.

    The three lists are of equal length T. `loss_mask[t]` is true where token t was sampled by the policy; `logprobs[t]` is
    its log-prob under the sampling policy at `temperature`, and 0.0 elsewhere.
    """

    game_id: str
    scenario_id: str
    family: str
    seat: str
    partner: str
    token_ids: list[int]
    logprobs: list[float]
    loss_mask: list[bool]
    temperature: float
    policy: str
    """Fingerprint of the weights that sampled it, of the first message where they changed under the game."""
    later: tuple[str, ...] = ()
    """Fingerprints of the versions that sampled later messages, in order."""
    member: str = ""
    """The deal's."""
    reward: float | None
    """`None` for a void game: no gradient."""
    verdict: Verdict
    score: float
    truncated: int = 0
    """Messages that the token or context limit cut."""

    @property
    def group(self) -> str:
        """Trajectories of one group are compared with each other: same scenario, same seat, same partner."""
        return f"{self.scenario_id}/{self.seat}/{self.partner}"


class Game(msgspec.Struct, frozen=True, kw_only=True):
    """A finished game. `error` is set where a player failed or time ran out; every outcome is then void."""

    id: str
    scenario: Scenario
    players: dict[str, str]
    turns: tuple[Turn, ...]
    outcomes: dict[str, Outcome]
    trajectories: tuple[Trajectory, ...]
    seconds: float
    error: str | None = None

    @property
    def cast(self) -> dict[str, str]:
        """Seat to script, for the seats that scripts play."""
        return scripts_of(self.players)

    @property
    def sampled_tokens(self) -> int:
        return sum(sum(t.loss_mask) for t in self.trajectories)
