"""What every registered family promises: the same instances everywhere, certified, split apart, and not won by reflex."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import msgspec
import pytest

from sparring.scenarios import registry
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import SPLITS, Split, View
from sparring.scenarios.game import GameState, Turn, replay
from sparring.scenarios.outcome import Reason, Verdict
from sparring.scenarios.scenario import Scenario, canonical

every_family = pytest.mark.parametrize("name", registry.names())
Act = Callable[[View[Any, Any], Random], str]

GOLDEN = {
    "haggle": "474a75e378f96ec56c2e213a374ab1e65dd5b2dd3f4cb72362b9baca78ba9703",
    "split": "2f77c92a1484006c14e2032137ede779426a9f1c86d8585c5100e2bafd1989c5",
    "dilemma": "00466a336bd307abc855f74ec503217c271acb94932e84158388837bf69e9ef8",
    "auction": "3c1debf69c824460169eb46e202c6c46a3b4e762b6403363e6bd8cba720d34e5",
}
"""SHA-256 of the canonical lines of seeds 0..19 of each split. A change means other scenarios: every stored run and every
comparison with an earlier version is then about something else."""


@cache
def dealt(name: str, seed: int, split: Split) -> Scenario:
    return registry.get(name).generate(seed, split)


@every_family
def test_the_same_bytes_on_every_machine_and_version(name: str) -> None:
    lines = [canonical(registry.get(name).generate(seed, split)) for split in SPLITS for seed in range(20)]
    assert lines == [canonical(dealt(name, seed, split)) for split in SPLITS for seed in range(20)]
    assert hashlib.sha256(b"\n".join(lines)).hexdigest() == GOLDEN[name]


@every_family
def test_the_order_of_generation_does_not_matter(name: str) -> None:
    family = type(registry.get(name))()
    assert [family.generate(seed) for seed in (9, 3, 17)] == [dealt(name, seed, "train") for seed in (9, 3, 17)]


@every_family
@pytest.mark.parametrize("split", SPLITS)
def test_certificates_replay_to_wins(name: str, split: Split) -> None:
    family = registry.get(name)
    for seed in range(10):
        scenario = dealt(name, seed, split)
        setup = family.setup(scenario)
        certificate = family.certificate(setup)
        assert certificate.method and family.should_win(setup) <= certificate.winners <= set(scenario.seat_names)
        for witness in certificate.witnesses:
            outcome = replay(scenario, [Turn(*turn) for turn in witness.turns], witness.cast).outcome()
            assert outcome is not None and outcome[witness.seat].verdict is Verdict.WIN


@every_family
def test_training_never_meets_a_held_out_instance(name: str) -> None:
    train = {dealt(name, seed, "train").id for seed in range(1000)}
    held_out = {dealt(name, seed, "seed").id for seed in range(1000)}
    assert len(train) > 900 and len(held_out) > 500 and not train & held_out


@every_family
def test_held_out_skins_and_ranges_appear_in_their_split_only(name: str) -> None:
    family = registry.get(name)
    assert family.held_out_skins < set(family.skins) and len(family.skins) >= 4
    for split in SPLITS:
        skins = {dealt(name, seed, split).skin for seed in range(60)}
        assert skins == (family.held_out_skins if split == "skin" else set(family.skins) - family.held_out_skins)
    near = [largest(dealt(name, seed, "seed")) for seed in range(60)]
    far = [largest(dealt(name, seed, "range")) for seed in range(60)]
    assert max(far) > max(near) and sum(far) > 1.3 * sum(near)


def largest(scenario: Scenario) -> int:
    """The largest number of an instance: what the held-out range goes beyond."""
    texts = [msgspec.json.encode([scenario.public, scenario.seats[0].private]).decode()]
    return max(int(number) for text in texts for number in re.findall(r"\d+", text))


@every_family
def test_a_skin_can_be_asked_for_and_held_out_ones_only_in_their_split(name: str) -> None:
    family = registry.get(name)
    (held_out, *_), (skin, *_) = sorted(family.held_out_skins), sorted(set(family.skins) - family.held_out_skins)
    assert family.generate(1, skin=skin).skin == skin and family.generate(1, "skin", held_out).skin == held_out
    refused: tuple[tuple[Split, str], ...] = (("train", held_out), ("seed", held_out), ("range", "no such"), ("skin", skin))
    for split, wrong in refused:
        with pytest.raises(ScenarioError, match=f"{name} has no skin '{wrong}' in split '{split}': choose from "):
            family.generate(1, split, wrong)


@every_family
def test_a_family_is_described(name: str) -> None:
    family = registry.get(name)
    assert family.name == name == family.name.strip() and family.title and family.commit_tags
    assert (type(family).__module__.rsplit(".", 1)[-1]) == name
    for skin in family.skins:
        tags = msgspec.convert(msgspec.to_builtins(family.tags(skin)), type(family.tags(skin)))  # the axes' values are checked
        assert all(msgspec.to_builtins(tags).values()) and re.search(r"\d{4}", tags.theory)
    assert len({family.tags(skin).context for skin in family.skins}) >= 3
    assert len(family.partners) >= 4 and len(set(family.partners)) == len(family.partners)
    assert family.unseen_partner not in family.partners
    assert {*family.partners, family.unseen_partner, "naive"} <= set(family.strategies)


@every_family
def test_instructions_are_short_plain_and_name_every_tag(name: str) -> None:
    for split in SPLITS:
        for seed in range(10):
            for seat in dealt(name, seed, split).seats:
                assert seat.instructions.isascii() and "\n" not in seat.instructions
                assert 40 <= len(seat.instructions.split()) <= 100
                assert all(tag in seat.instructions for tag in registry.get(name).commit_tags)
                assert seat.name in seat.instructions


def win_rate(name: str, act: Act, count: int) -> float:
    """Share of wins over `count` training instances, seats and training partners in rotation."""
    family, wins = registry.get(name), 0
    for number in range(count):
        scenario = dealt(name, number, "train")
        seats = scenario.seat_names
        partner, mine = family.partners[number // 2 % len(family.partners)], seats[number % len(seats)]
        game = GameState(scenario, {seat: partner for seat in seats if seat != mine})
        while game.outcome() is None:
            for seat in game.to_move:
                strategy = act if seat == mine else family.strategies[partner]
                game.submit(seat, strategy(game.view(seat), Random(f"{number}/{seat}")))
        outcome = game.outcome()
        assert outcome is not None
        wins += outcome[mine].verdict is Verdict.WIN
    return wins / count


def at_once(line: str) -> Act:
    """Says one thing, whatever it is asked."""
    return lambda view, rng: line


def when_due(line: str) -> Act:
    return lambda view, rng: line if view.must_commit else "Hello."


CONSTANT_LINES = {
    "haggle": ("NO_DEAL", "DEAL_PRICE: 50"),
    "split": ("ALLOCATION: {0}=1,{1}=1,{2}=1",),
    "dilemma": ("MOVE: {0}",),
    "auction": ("FINAL_BID: 25",),
}


@every_family
@pytest.mark.parametrize("make", [at_once, when_due])
def test_no_constant_text_wins_more_than_55_percent(name: str, make: Callable[[str], Act]) -> None:
    """A shared floor; each family's own tests try the constants that suit it best."""
    for line in CONSTANT_LINES[name]:

        def act(view: View[Any, Any], rng: Random, line: str = line) -> str:
            words: tuple[str, ...] = getattr(view.public, "kinds", getattr(view.public, "labels", ()))
            return make(line.format(*words))(view, rng)

        assert win_rate(name, act, 1000) <= 0.55


@every_family
def test_never_committing_never_wins(name: str) -> None:
    assert win_rate(name, at_once("Hello."), 40) == 0


@every_family
def test_partners_play_legally_in_every_split(name: str) -> None:
    family = registry.get(name)
    for number in range(60):
        scenario = dealt(name, number % 10, SPLITS[number % 4])
        scripts = [(*family.partners, family.unseen_partner)[(number + i) % 5] for i in range(len(scenario.seats))]
        game = GameState(scenario, dict(zip(scenario.seat_names, scripts, strict=True)))
        while game.outcome() is None:
            for seat in game.to_move:
                script = family.strategies[scripts[scenario.index(seat)]]
                game.submit(seat, script(game.view(seat), Random(f"{number}/{seat}")))
        assert Reason.INVALID_COMMIT not in {outcome.reason for outcome in (game.outcome() or {}).values()}
        assert all(math.isfinite(outcome.score) for outcome in (game.outcome() or {}).values())
