"""A user's file of topics: read as those that ship, errors with file, entry and field, splits by the text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from sparring.scenarios import registry
from sparring.scenarios.contests.comedy import Comedy
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.contests.debate import Debate, Motion
from sparring.scenarios.contests.topics import MAX_TEXT, Seen, fault, format_topics, parse_topics, read_topics
from sparring.scenarios.errors import ScenarioError

CONTESTS = ("debate", "comedy", "recipes")
SIDES = 'pro = ["it is safe", "it is cheap", "it is fair"]\ncon = ["it is slow", "it is dull", "it is odd"]\n'


def contest(name: str) -> Contest[Any, Any]:
    return cast("Contest[Any, Any]", registry.get(name))


def read(path: Path, text: str | bytes) -> tuple[Motion, ...]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    debate = Debate()
    return read_topics(path, Motion, debate.all_topics, debate.skins)


def entry(text: str, sides: str = SIDES) -> str:
    return f'[[topics]]\ntext = "{text}"\n{sides}\n'


@pytest.mark.parametrize("name", CONTESTS)
def test_what_is_written_is_read_back(name: str) -> None:
    topics = contest(name).all_topics
    data = format_topics(topics, "Two lines\n\nof a comment")
    assert data.startswith(b"# Two lines\n#\n# of a comment\n\n[[topics]]\n")
    assert parse_topics(data, contest(name).topic_type, "x") == topics


@pytest.mark.parametrize("name", CONTESTS)
def test_topics_that_ship_pass_the_checks_of_a_users(name: str) -> None:
    own = contest(name)
    assert [problem for topic in own.all_topics if (problem := fault(topic, own.skins)) is not None] == []


def test_quotes_and_backslashes_survive() -> None:
    motion = Motion('Say "no" to C:\\temp', ("é", "日本語 text", "a'b"), ("x", "y", "z"))
    assert parse_topics(format_topics([motion], ""), Motion, "x") == (motion,)


def test_own_topics_are_played_and_split_by_their_text(tmp_path: Path) -> None:
    texts = [f"Robots of kind{number} should vote in town{number * 7}" for number in range(60)]
    debate = Debate()
    more = read(tmp_path / "my.toml", "".join(map(entry, texts)))
    extended = debate.with_topics(more)
    assert len(extended.all_topics) == len(debate.all_topics) + 60
    for split in ("train", "seed", "range"):
        own = [topic for topic in more if debate.part(topic) == split]
        assert set(extended.topics(split)) == {*debate.topics(split), *own}
        played = {extended.generate(seed, split).public["motion"] for seed in range(len(extended.topics(split)))}
        assert played >= {topic.text for topic in own}
    assert {debate.part(topic) for topic in more} == {"train", "seed"}
    assert extended.with_topics(()).all_topics == extended.all_topics
    assert debate.all_topics == Debate().all_topics


def test_the_same_scenario_whoever_wrote_its_topic(tmp_path: Path) -> None:
    """The content hash covers the topic itself: an instance of a shipped topic is the same beside further ones."""
    more = read(tmp_path / "my.toml", entry("Robots should vote in towns"))
    plain, extended = Debate(), Debate().with_topics(more)
    by_topic = [{s.public["motion"]: s for s in (c.generate(n) for n in range(300))} for c in (plain, extended)]
    shared = by_topic[0].keys() & by_topic[1].keys()
    assert len(shared) > 50
    for motion in shared:
        assert by_topic[0][motion].public["pro"] == by_topic[1][motion].public["pro"]
        assert plain.setup(by_topic[1][motion]).public.motion == motion


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a file of topics holds [[topics]] and nothing else"),
        ("topics = 3", "a file of topics holds [[topics]] and nothing else"),
        ("[[topics", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        ("x = " + "[" * 5000, "not TOML"),
        ("name = 1\n" + entry("Robots should vote in towns"), "holds [[topics]] and nothing else"),
        (entry("Robots should vote in towns") + entry("Cats should vote", 'pro = ["a"]'), "topic 2: missing required field con"),
        (entry("Robots should vote in towns", 'pro = "x"\ncon = []\n'), "topic 1: Expected array, got str - at pro"),
        (entry("Robots should vote in towns", SIDES + "more = 1\n"), "topic 1: contains unknown field more"),
        (entry("Robots should vote in towns", SIDES.replace('"it is fair"', "7")), "topic 1: Expected str, got int - at pro[2]"),
        (entry("Robots should vote."), "topic 1: text: 'Robots should vote.' holds ."),
        (entry("Robots  should vote"), "topic 1: text: 'Robots  should vote' is empty, or has blanks"),
        (entry("Robots should \\u200bvote"), "characters that nobody sees"),
        (entry("Robots " * 40 + "vote"), f"topic 1: text: has 284 characters, not up to {MAX_TEXT}"),
        (entry("Robots vote", SIDES.replace('"it is fair"', '"it is SAFE"')), "topic 1: pro: says one thing twice"),
        (entry("Robots vote", SIDES.replace(', "it is fair"', "")), "topic 1: pro: has 2 items, not 3 to 12"),
        (entry("It is what it was"), "has fewer than two words that carry a subject"),
        (entry("Robots should vote") + entry("robots, SHOULD vote!"), "topic 2: it is 'Robots should vote' in other words"),
        (entry("cities should BAN private cars"), "topic 1: it is 'Cities should ban private cars' in other words"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_file_entry_and_field(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path / "my.toml", text)
    assert str(caught.value).startswith(f"{tmp_path / 'my.toml'}: ")
    assert message in str(caught.value)


def test_a_style_that_the_contest_does_not_have(tmp_path: Path) -> None:
    path, comedy = tmp_path / "my.toml", Comedy()
    path.write_text('[[topics]]\ntext = "a goat on the bus"\nstyle = "opera"\nangles = ["a ticket", "a seat", "a bell"]\n')
    with pytest.raises(ScenarioError, match="topic 1: its skin 'opera' is none of observational, "):
        read_topics(path, comedy.topic_type, comedy.all_topics, comedy.skins)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot read the topics in .*none.toml: No such file"):
        read_topics(tmp_path / "none.toml", Motion, (), ())


def test_twins() -> None:
    seen = Seen([Motion("Cities should ban loud cars", (), ())])
    assert seen.twin(Motion("Loud cars: should cities ban?", (), ())) is not None
    assert seen.twin(Motion("Cities should ban cars", (), ())) is None  # four words of five: as alike as `SAME`, not above it
    assert seen.twin(Motion("Zoos should close", (), ())) is None
