"""`Contest`: a family of tasks whose outcome a judge decides, not a referee.

Owns the rounds, what counts as handed in, what the other seat hears, and what a judge is given. The judges are `rollout`'s;
a contest's topics, wording and scripted speakers are its own file's.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import msgspec

from sparring.scenarios.commit import Line
from sparring.scenarios.contests.answer import escape_entry, format_reward, is_hollow, read_answer, words
from sparring.scenarios.contests.topics import Topic, content_words, in_order, is_held_out, one_line
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Certificate, Family, Record, Rejected, Setup, Split, Stage
from sparring.scenarios.family import Entry as Message
from sparring.scenarios.outcome import Evidence, Outcome, Reason, Verdict
from sparring.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from sparring.scenarios.game import GameState

FORMAT = "Write <reasoning>your notes</reasoning> and then <answer>your {kind}</answer>, nothing else. Only the answer is judged."
MAX_WORDS = 2000
NOTHING = "judged: no certificate"
_TOPIC_WORDS, _SUPPORT = "Topic words: ", "Points that support it: "


class Criterion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question that a judge is asked of two entries, and its weight among a contest's criteria."""

    name: str
    question: str
    weight: float = 1.0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one seat hands in: `text` is all that is judged, `reasoning` what it thought before, both escaped for a judge.

    `empty` says that there is nothing to judge: the entry loses without a call.

    Example:
        >>> registry.get("debate").entry(game, "pro").text
        'Trams are quiet, because they run on rails.'
    """

    brief: str
    """The task, as the judge reads it."""
    text: str
    reasoning: str
    form: float
    """Format reward in [0, 1]: 1 strict, 0.5 soft, 0 none."""
    empty: bool = False


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every contest's public part has: how many words of each answer are judged."""

    words: int


class NoSecret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A seat's private part: contests hide nothing from anyone."""


Pub = TypeVar("Pub", bound=Task)
Top = TypeVar("Top", bound=Topic)


class Contest(Family[Pub, NoSecret], Generic[Pub, Top]):
    """A family without a verdict of its own. A subclass brings topics, the wording, the judge's brief and scripted speakers.

    By default every seat speaks once, in the table's order; `order` says otherwise.
    """

    commit_tags = ()
    private_type = NoSecret
    criteria: ClassVar[tuple[Criterion, ...]]
    """What judges are asked, with weights."""
    topic_guide: ClassVar[str] = ""
    """How a topic's fields are written, in a sentence or two, for whoever writes more of them."""

    @abstractmethod
    def load(self) -> tuple[Top, ...]:
        """Every topic there is; see `topics.load_topics`."""

    @abstractmethod
    def is_far(self, topic: Top) -> bool:
        """Whether the topic belongs to the held-out range: larger than any that training meets."""

    @abstractmethod
    def pose(self, rng: Random, topic: Top, skin: str, *, far: bool) -> tuple[Pub, tuple[str, ...]]:
        """The public part and the seats' names of an instance on the topic."""

    @abstractmethod
    def subject(self, public: Pub) -> str:
        """The topic in plain words: an answer that only repeats it is none."""

    @abstractmethod
    def task(self, public: Pub, seat: int) -> str:
        """What the seat was asked, in a sentence or two that a judge reads."""

    @abstractmethod
    def support(self, public: Pub, seat: int) -> Sequence[str]:
        """Points that speak for the seat's case: for judges and scripted speakers, never in a policy's prompt."""

    def order(self, public: Pub, seats: int) -> Sequence[tuple[tuple[int, ...], str]]:
        """The rounds: who speaks in each, at once where several do, and the referee's word to them."""
        return [((seat,), "") for seat in range(seats)]

    def brief(self, public: Pub, private: NoSecret, seat: int) -> str:
        """The task as the judge reads it: what was asked, the topic's words and the points that support the seat's case.

        The lists stand on a line each; `topic_words` and `support_points` read them back.
        """
        lines = [self.task(public, seat), _TOPIC_WORDS + one_line(content_words(self.subject(public)))]
        points = self.support(public, seat)
        return "\n".join([*lines, _SUPPORT + one_line(points)] if points else lines)

    def entry(self, game: GameState, seat: str) -> Entry:
        """What the seat has handed in so far, also in a replayed game: its answers in order, an empty line between two.

        Each answer is cut to the task's number of words. Raises `ScenarioError` for an unknown seat.
        """
        index, public = game.scenario.index(seat), game.setup.public
        answers = [read_answer(turn.text, turn.complete) for turn in game.turns if turn.seat == seat]
        handed = [answer for answer in answers if self.is_answer(public, answer.text)]
        return Entry(
            brief=self.brief(public, game.setup.private[index], index),
            text="\n\n".join(first_words(escape_entry(answer.text), public.words) for answer in handed),
            reasoning="\n\n".join(thought for answer in answers if (thought := escape_entry(answer.reasoning))),
            form=sum(map(format_reward, answers)) / len(answers) if answers else 0.0,
            empty=not handed,
        )

    def is_answer(self, public: Pub, text: str) -> bool:
        """Whether the text gives a judge anything to read: not empty, not boiler-plate, not the topic's own words alone."""
        return not is_hollow(text) and not set(words(text)) <= set(words(self.subject(public)))

    @cached_property
    def all_topics(self) -> tuple[Top, ...]:
        return self.load()

    @property
    def topic_type(self) -> type[Top]:
        return type(self.all_topics[0])

    def with_topics(self, more: Sequence[Top]) -> Self:
        """The contest with further topics (`topics.read_topics`): each falls into the split that its own text decides."""
        other = type(self)()
        other.all_topics = in_order((*self.all_topics, *more))
        return other

    @cached_property
    def _parts(self) -> tuple[tuple[Top, Split], ...]:
        return tuple((topic, self.part(topic)) for topic in self.all_topics)

    def topics(self, split: Split, skin: str | None = None) -> tuple[Top, ...]:
        """The topics of a split that suit one of its skins. No topic is in two of `train`, `seed` and `range`.

        Split `skin` shows held-out skins on the topics of `seed`, and the topics that suit a held-out skin alone.
        """
        open_skins = ("", *self.skins_of(split, skin))
        own = "seed" if split == "skin" else split
        return tuple(t for t, part in self._parts if t.skin in open_skins and (part == own or (t.skin and split == "skin")))

    def part(self, topic: Top) -> Split:
        """Which of `train`, `seed` and `range` the topic is for."""
        if self.is_far(topic):
            return "range"
        return "seed" if is_held_out(topic) else "train"

    def generate(self, seed: int, split: Split = "train", skin: str | None = None) -> Scenario:
        """Instance number `seed` of a split: consecutive seeds go through all its topics. The same on every machine.

        Raises `ScenarioError` for a skin that the contest or the split does not have.
        """
        topics, rng = self.topics(split, skin), Random(f"sparring/{self.name}/{split}/{seed}")
        topic = topics[seed % len(topics)]
        chosen = topic.skin or rng.choice(self.skins_of(split, skin))
        public, names = self.pose(rng, topic, chosen, far=split == "range")
        return self.build(seed, chosen, public, tuple(NoSecret() for _ in names), names)

    def draw(self, rng: Random, skin: str, *, far: bool) -> tuple[Pub, tuple[NoSecret, ...], tuple[str, ...]]:
        split: Split = "skin" if skin in self.held_out_skins else "range" if far else "train"
        public, names = self.pose(rng, rng.choice(self.topics(split, skin)), skin, far=far)
        return public, tuple(NoSecret() for _ in names), names

    def check(self, public: Pub, private: tuple[NoSecret, ...]) -> None:
        if not 1 <= public.words <= MAX_WORDS:
            raise ScenarioError(f"{self.name}: words must lie in 1..{MAX_WORDS}, not {public.words}")
        if not content_words(self.subject(public)):
            raise ScenarioError(f"{self.name}: the topic has no words")

    def stage(self, setup: Setup[Pub, NoSecret], record: Record) -> Stage | None:
        spoken = len(record)
        for seats, notice in self.order(setup.public, len(setup.names)):
            if spoken < len(seats):
                return Stage(seats, notice=notice)
            spoken -= len(seats)
        return None

    def said_aloud(self, text: str, *, complete: bool) -> str:
        """The others hear the answer alone, as a judge would read it, never the reasoning."""
        return escape_entry(read_answer(text, complete).text)

    def parse(self, setup: Setup[Pub, NoSecret], record: Record, seat: int, line: Line) -> None:
        raise Rejected("a contest has no commits")

    def settle(self, setup: Setup[Pub, NoSecret], record: Record) -> tuple[Outcome, ...]:
        """Void until a judge has read them for the seats that handed something in; a loss for the others."""
        return tuple(self._settle(setup.public, [said for said in record if said.seat == i]) for i in range(len(setup.names)))

    def certificate(self, setup: Setup[Pub, NoSecret]) -> Certificate:
        """Nothing can be proven: a judge decides."""
        return Certificate(witnesses=(), method=NOTHING)

    def should_win(self, setup: Setup[Pub, NoSecret]) -> frozenset[str]:
        return frozenset()

    def _settle(self, public: Pub, said: list[Message]) -> Outcome:
        answers = [(message.turn, read_answer(message.text, message.complete)) for message in said]
        handed = tuple(Evidence(turn, found.start, found.end) for turn, found in answers if self.is_answer(public, found.text))
        if handed:
            return Outcome.of(Verdict.VOID, 0.0, Reason.UNJUDGED, handed)
        return Outcome.of(Verdict.LOSS, 0.0, Reason.NO_ANSWER, tuple(message.evidence for message in said))


def topic_words(brief: str) -> tuple[str, ...]:
    """The words that carry the topic, from a contest's brief; without such a line, the brief's own."""
    return _listed(brief, _TOPIC_WORDS) or content_words(brief)


def support_points(brief: str) -> tuple[str, ...]:
    """The points that support the case, from a contest's brief; empty where it names none."""
    return _listed(brief, _SUPPORT)


def first_words(text: str, count: int) -> str:
    """The text up to the end of its word number `count`."""
    ends = [word.end() for _, word in zip(range(count), re.finditer(r"\S+", text), strict=False)]
    return text[: ends[-1]] if ends else ""


def _listed(brief: str, head: str) -> tuple[str, ...]:
    lines = [line.removeprefix(head) for line in brief.split("\n") if line.startswith(head)]
    return tuple(lines[0].split("; ")) if lines else ()
