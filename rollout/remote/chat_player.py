"""`ChatPlayer`: a seat that a model elsewhere plays, and what a game with such seats can cost.

What a seat may know and say is `scenarios`' business; how a call is answered is `remote.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from sparring.rollout.chat import SILENCE, line
from sparring.rollout.player import Player, Reply, Table
from sparring.rollout.player_spec import parse_player
from sparring.rollout.remote.call import ChatMessage, ChatModel, ChatRequest, Finish, Purpose
from sparring.rollout.remote.config import ChatSampling, Price
from sparring.rollout.remote.models import CALL_TOKENS, MESSAGE_TOKENS
from sparring.rollout.trajectory import Deal
from sparring.scenarios.game import GameState
from sparring.scenarios.scenario import Scenario

BYTES_PER_TOKEN = 8
"""The most that a token of talk is taken for; of English text it is 4 to 5."""
SCRIPT_BYTES = 512
"""The longest message of a script, with room."""
NOTICE_BYTES = 256
"""What the referee and a line's author may add to a message."""
MOST_TURNS = 1000


class ChatPlayer(Player):
    """A seat played through a `ChatModel`.

    The model reads the seat's instructions as the system's message, what was heard since its last message as one of the user, a
    line for each with its author's name, and its own messages as its own. A message that its limit cut is incomplete. A refusal
    is said like anything else. A call that fails raises `CallError`, which voids the game.
    """

    def __init__(
        self,
        model: ChatModel,
        spec: str,
        deal: Deal,
        seat: str,
        *,
        sampling: ChatSampling | None = None,
        phase: str = "",
        purpose: Purpose = "partner",
    ) -> None:
        """`phase` tells deals of one id in different phases of a run apart; `purpose` is what the ledger says of its calls."""
        self._model, self._spec, self._deal, self._seat = model, spec, deal, seat
        self._sampling, self._purpose = sampling or ChatSampling(), purpose
        self._game = f"{phase}/{deal.id}" if phase else deal.id
        self._messages: list[ChatMessage] = []
        self._heard = 0
        self._turn = 0

    async def act(self, table: Table) -> Reply:
        seen = table.observation
        if not self._messages:
            self._messages.append(ChatMessage("system", seen.instructions))
        heard = "\n".join(map(line, seen.heard[self._heard :])) or SILENCE
        asked = (*self._messages, ChatMessage("user", heard))
        turn, self._turn = self._turn, self._turn + 1
        request = ChatRequest(
            model=self._spec,
            messages=asked,
            max_tokens=self._sampling.max_tokens,
            temperature=self._sampling.temperature,
            key=f"{self._game}/{self._seat}/{turn}",
            game=self._deal.id,
            seat=self._seat,
            purpose=self._purpose,
        )
        reply = await self._model.chat(request)
        self._heard = len(seen.heard)
        self._messages = [*asked, ChatMessage("assistant", reply.text or SILENCE)]
        return Reply(reply.text, complete=reply.finish is not Finish.LENGTH)

    def called_off(self) -> None:
        self._model.called_off(self._game)


def deal_bound(deal: Deal, prices: Callable[[str], Price], *, partner: ChatSampling, policy_tokens: int) -> float:
    """US dollars that the calls of a deal can cost at most, each sent once; 0 where no model elsewhere plays.

    `prices` tells a model's, as `RemoteModels.price` does; `policy_tokens` is the length of a policy's message. Talk is taken for
    at most `BYTES_PER_TOKEN` bytes a token; where it is more, a game draws the rest from what is free of the budget.
    """
    specs = {seat: parse_player(spec) for seat, spec in deal.players.items()}
    models = [seat for seat, spec in specs.items() if spec.kind == "model"]
    if not models:
        return 0.0
    longest = {"script": SCRIPT_BYTES, "model": partner.max_tokens * BYTES_PER_TOKEN}
    said = {seat: longest.get(spec.kind, policy_tokens * BYTES_PER_TOKEN) for seat, spec in specs.items()}
    turns = most_turns(deal.scenario, deal.cast)
    total = 0.0
    for seat in models:
        total += game_bound(
            price=prices(specs[seat].name),
            calls=turns[seat],
            opening_bytes=len(deal.scenario.seats[deal.scenario.index(seat)].instructions.encode()),
            heard_bytes=NOTICE_BYTES + sum(bytes_ + NOTICE_BYTES for other, bytes_ in said.items() if other != seat),
            answer_bytes=partner.max_tokens * BYTES_PER_TOKEN,
            max_tokens=partner.max_tokens,
        )
    return total


def game_bound(*, price: Price, calls: int, opening_bytes: int, heard_bytes: int, answer_bytes: int, max_tokens: int) -> float:
    """US dollars that `calls` calls of one chat can cost at most, each sent once.

    Call i, from 0, sends the opening, i + 1 times what is heard between two calls, and i answers; a token is at least a byte.
    """
    prompts = sum(
        opening_bytes + (i + 1) * heard_bytes + i * answer_bytes + CALL_TOKENS + MESSAGE_TOKENS * (2 * i + 2)
        for i in range(calls)
    )
    dearest = max(price.input, price.cached or 0.0)
    return (prompts * dearest + calls * max_tokens * price.output) / 1e6


def most_turns(scenario: Scenario, cast: Mapping[str, str]) -> dict[str, int]:
    """How often each seat can be asked at most: all talk while the rules let them, commit when they must, and each once has to
    write a message again."""
    game = GameState(scenario, cast)
    strategies = list(game.family.strategies.values())
    turns = dict.fromkeys(scenario.seat_names, 1)  # the repair turn
    for _ in range(MOST_TURNS):
        if not (seats := game.to_move):
            break
        for seat in seats:
            due = game.observe(seat).must_commit and strategies
            game.submit(seat, strategies[0](game.view(seat), Random(0)) if due else "I see.")
            turns[seat] += 1
    return turns
