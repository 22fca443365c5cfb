"""The record of an instance: canonical bytes, content hash, and refusing what is none."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest

from sparring.scenarios import registry
from sparring.scenarios.errors import ScenarioError, SparringError
from sparring.scenarios.scenario import Scenario, canonical, load_scenario

DEALT = registry.get("haggle").generate(seed=7)


def with_names(*names: str) -> Scenario:
    seats = tuple(msgspec.structs.replace(seat, name=name) for seat, name in zip(DEALT.seats, names, strict=True))
    return msgspec.structs.replace(DEALT, seats=seats)


def test_canonical_bytes_are_sorted_json_on_one_line() -> None:
    data = canonical(DEALT)
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert b"\n" not in data and load_scenario(data) == load_scenario(data.decode()) == load_scenario(json.loads(data)) == DEALT


def test_the_id_is_a_hash_of_the_content_without_the_seed() -> None:
    other = msgspec.structs.replace(DEALT, seed=8)
    assert other.id == DEALT.id and canonical(other) != canonical(DEALT)
    assert DEALT.id == hashlib.sha256(canonical(msgspec.structs.replace(DEALT, seed=0))).hexdigest()[:16]
    assert msgspec.structs.replace(DEALT, skin="salary").id != DEALT.id


def test_seats_by_name() -> None:
    assert DEALT.seat_names == ("tenant", "neighbour") and DEALT.index("neighbour") == 1
    with pytest.raises(ScenarioError, match="no seat is called 'nobody': this scenario has tenant, neighbour"):
        DEALT.index("nobody")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": "7"}, r"Expected `int`, got `str` - at `\$.seed`"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"tags": {}}, r"missing required field `\w+` - at `\$.tags`"),
        ({"seats": [{"name": "a", "private": {}}]}, r"missing required field `instructions` - at `\$.seats\[0\]`"),
    ],
)
def test_what_is_no_scenario_is_refused_with_the_place(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        load_scenario(json.loads(canonical(DEALT)) | change)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", "null"])
def test_broken_bytes_are_refused(data: bytes | str) -> None:
    with pytest.raises(SparringError, match="not a scenario"):
        load_scenario(data)


@pytest.mark.parametrize(
    "names", [("seller", "seller"), ("seller", "referee"), ("Referee", "buyer"), ("a: b", "c"), ("a\nb", "c"), ("", "c")]
)
def test_a_name_that_could_pose_as_another_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ScenarioError, match="seat"):
        registry.get("haggle").setup(with_names(*names))


def test_parameters_that_are_not_the_familys_are_refused() -> None:
    with pytest.raises(ScenarioError, match="scenario of family 'haggle'"):
        registry.get("haggle").setup(msgspec.structs.replace(DEALT, public={"high": "99"}))
    with pytest.raises(ScenarioError, match="no family is called 'poker': choose from haggle, split, dilemma, auction"):
        registry.get("poker")
