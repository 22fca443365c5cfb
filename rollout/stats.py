"""What a stream of games adds up to: verdicts of the seats in question, tokens, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from sparring.rollout.trajectory import Game
from sparring.scenarios.outcome import Outcome, Reason, Verdict

OPEN = (Reason.UNJUDGED, Reason.NO_ANSWER)
"""How a contest's games end before their judges have read them: no verdict to count yet."""


class Tally(msgspec.Struct, kw_only=True):
    """Verdicts counted by seat played. An `invalid` is a loss too, and counted in both."""

    win: int = 0
    draw: int = 0
    loss: int = 0
    invalid: int = 0
    void: int = 0
    score: float = 0.0
    """Sum over the games that were not void."""

    def add(self, outcome: Outcome) -> None:
        match outcome.verdict:
            case Verdict.WIN:
                self.win += 1
            case Verdict.DRAW:
                self.draw += 1
            case Verdict.LOSS:
                self.loss += 1
                self.invalid += outcome.reason is Reason.INVALID_COMMIT
            case Verdict.VOID:
                self.void += 1
                return
        self.score += outcome.score

    @property
    def games(self) -> int:
        return self.win + self.draw + self.loss + self.void

    @property
    def counted(self) -> int:
        """Games that were not void."""
        return self.games - self.void

    @property
    def win_rate(self) -> float:
        """Wins among the games that were not void; 0.0 where there are none."""
        return self.win / self.counted if self.counted else 0.0

    @property
    def mean_score(self) -> float:
        return self.score / self.counted if self.counted else 0.0


class RolloutStats:
    """Accumulates games. Seats whose player spec is `subject` are tallied, each on its own; the clock starts at once.

    Example:
        >>> stats = RolloutStats()
        >>> stats.add(game)
        >>> stats.tally.win_rate, stats.tokens_per_second, stats.games_per_hour
    """

    def __init__(self, subject: str = "policy", clock: Callable[[], float] = time.perf_counter) -> None:
        self.subject = subject
        self.tally = Tally()
        self.families: dict[str, Tally] = {}
        self.games = 0
        self.failed = 0
        """Games that a failed player or the time limit voided."""
        self.sampled_tokens = 0
        """Of trained seats."""
        self.truncated = 0
        """Messages of trained seats that the token or context limit cut."""
        self._clock = clock
        self._started = self._last = clock()

    def add(self, game: Game) -> None:
        self.games += 1
        self.failed += game.error is not None
        if not any(outcome.reason in OPEN for outcome in game.outcomes.values()):
            self._count(game)
        self.sampled_tokens += game.sampled_tokens
        self.truncated += sum(trajectory.truncated for trajectory in game.trajectories)
        self._last = self._clock()

    def _count(self, game: Game) -> None:
        for seat, spec in game.players.items():
            if spec == self.subject:
                self.tally.add(game.outcomes[seat])
                self.families.setdefault(game.scenario.family, Tally()).add(game.outcomes[seat])

    def recount(self, games: Iterable[Game]) -> None:
        """Counts all verdicts again: judges have decided what was open."""
        self.tally, self.families = Tally(), {}
        for game in games:
            self._count(game)

    @property
    def seconds(self) -> float:
        """From the start to the last game."""
        return self._last - self._started

    @property
    def tokens_per_second(self) -> float:
        return self.sampled_tokens / self.seconds if self.seconds else 0.0

    @property
    def games_per_hour(self) -> float:
        return 3600 * self.games / self.seconds if self.seconds else 0.0
