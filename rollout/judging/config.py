"""`JudgingConfig`: who judges contests, which pairs are judged, and what else a reward is made of.

Owns the settings and what they must agree on. Building judges from them is `panel.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sparring.rollout.errors import RolloutError
from sparring.rollout.player_spec import is_model
from sparring.scenarios.contests.contest import Criterion

EMBEDDED = "embedded"
"""The spec of the judge that needs no model."""

_MAKERS = {
    "openai": ("gpt", "chatgpt", "davinci", "o1", "o3", "o4"),
    "anthropic": ("claude",),
    "qwen": ("qwen", "qwq"),
    "meta": ("llama",),
    "mistral": ("mistral", "mixtral", "ministral", "magistral", "codestral"),
    "google": ("gemma", "gemini"),
    "deepseek": ("deepseek",),
    "microsoft": ("phi",),
}
"""Who makes models whose names hold one of these words."""

Weight = Annotated[float, Meta(ge=0, le=100)]


class JudgeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One member of the panel."""

    model: str = EMBEDDED
    """"embedded" for the rubric that needs no key, or a model such as "gpt-4o-mini", "anthropic:NAME", "local:FOLDER"."""
    weight: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Against the other judges of the same criterion."""
    criteria: tuple[str, ...] = ()
    """The criteria that it judges, by name; empty for all of a contest's."""


class JudgingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How contests are judged.

    A full round robin of G entries costs G(G-1) calls a judge and criterion, in both orders (240 at G=16); "regular" costs
    G x degree. Each judge's controls cost three calls each a step, and an entry's reasoning one where it has a weight.
    """

    judges: tuple[JudgeSpec, ...] = (JudgeSpec(),)
    """The panel of training."""
    evaluation_judge: str = EMBEDDED
    """Who judges evaluation: a model of another maker than the panel's, so that a gain is not that judge's taste."""
    reasoning_judge: str = ""
    """Who rates reasoning; empty for the first of `judges`."""
    comparison: str = "base"
    """Whose entries evaluation compares the policy's with: a player such as "base", "policy:NAME" or "gpt-4o-mini"."""
    pairing: Literal["full", "regular"] = "full"
    """"full" judges every pair of a group; "regular" gives each entry `degree` opponents and fits Bradley-Terry strengths."""
    degree: Annotated[int, Meta(ge=2, le=256)] = 4
    """Opponents of an entry under "regular"."""
    format_weight: Weight = 0.1
    """What a strict format adds to the reward, whose tournament part lies in [-1, 1]."""
    reasoning_weight: Weight = 0.1
    """What reasoning of full marks adds; 0 spares its calls."""
    controls: Annotated[int, Meta(ge=0, le=1000)] = 8
    """Identical pairs, and as many padded ones, that each judge is asked a step to test it."""
    concurrency: Annotated[int, Meta(ge=1, le=100_000)] = 64
    """Comparisons asked at once."""
    max_tokens: Annotated[int, Meta(ge=8, le=8192)] = 64
    """Of a verdict; raise it with `explain`."""
    explain: bool = False
    """Let models give a short reason before the verdict."""
    temperature: float | None = 0.0
    """Of judges; "none" for models that take no other than their own."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Draws pairings and controls."""

    def check(self) -> None:
        """Raises `RolloutError` where settings contradict each other, saying which one to change."""
        if not self.judges:
            raise RolloutError('judging.judges is empty: name at least one, such as {model = "embedded"}')
        for model in {spec.model for spec in self.judges}:
            names = [name for spec in self.judges if spec.model == model for name in spec.criteria or ("",)]
            if len(names) > 1 and ("" in names or len(set(names)) < len(names)):
                raise RolloutError(f"judging.judges names {model!r} twice for one criterion: name it once, with its whole weight")
        if self.comparison == "policy":
            raise RolloutError('judging.comparison = "policy" compares the policy with itself: set it to "base" or to a model')

    def check_contests(self, contests: Mapping[str, Sequence[Criterion]]) -> None:
        """Raises `RolloutError` where these contests, by name, cannot be judged so: judges that nobody knows, criteria that no
        contest has, and a contest that no judge takes."""
        judges = {"judges": [spec.model for spec in self.judges], "evaluation_judge": [self.evaluation_judge]}
        judges["reasoning_judge"] = [self.reasoning_judge or EMBEDDED]
        for setting, names in judges.items():
            for name in names:
                if name != EMBEDDED and not is_model(name):
                    raise RolloutError(
                        f'judging.{setting}: no judge is called {name!r}: choose "{EMBEDDED}" or a model such as "openai:gpt-4o"'
                    )
        known = dict.fromkeys(criterion.name for criteria in contests.values() for criterion in criteria)
        for name in (name for spec in self.judges for name in spec.criteria):
            if name not in known:
                raise RolloutError(f"judging.judges: these contests have no criterion {name!r}: choose from {', '.join(known)}")
        for contest, criteria in contests.items():
            own = [criterion.name for criterion in criteria]
            if not any(not spec.criteria or set(spec.criteria) & set(own) for spec in self.judges):
                raise RolloutError(
                    f"judging.judges: nobody judges {contest}: give a judge a criterion of {', '.join(own)}, or none"
                )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the settings allow but a reader of the results should know."""
        same = [spec.model for spec in self.judges if same_family(spec.model, self.evaluation_judge)]
        if not same:
            return ()
        return (
            f"evaluation is judged by {self.evaluation_judge}, of the same family as training's {same[0]}: a gain may be that "
            "judge's taste. Set judging.evaluation_judge to a model of another maker",
        )


def family(model: str) -> str:
    """Who makes the model of a spec, as far as its name tells; otherwise the first word of its own name, in lower case."""
    name = model.rstrip("/").rpartition("/")[2].rpartition(":")[2].lower()
    words = re.findall(r"[a-z]+\d?", name)
    for word in words:
        for maker, names in _MAKERS.items():
            if word.startswith(names):
                return maker
    return words[0] if words else name


def same_family(a: str, b: str) -> bool:
    """Whether two judges' specs are of one maker, and so likely of one taste.

    Example:
        >>> same_family("openai:gpt-4o", "gpt-4o-mini"), same_family("gpt-4o-mini", "claude-3-5-haiku")
        (True, False)
    """
    return family(a) == family(b)
