"""`Judging`: the judges of a run, made from its configuration and opened over one `ChatModel`.

Owns which object stands for which spec. What judges are asked is `score.py`'s and `evaluation.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparring.rollout.errors import RolloutError
from sparring.rollout.judging.clerk import ReasoningJudge
from sparring.rollout.judging.config import EMBEDDED, JudgingConfig
from sparring.rollout.judging.embedded import EmbeddedJudge
from sparring.rollout.judging.judge import Judge
from sparring.rollout.judging.llm import LlmJudge, ReasoningRubric
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.remote.call import ChatModel


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Who judges a run's contests, and by which settings."""

    config: JudgingConfig
    panel: Panel
    """Of training."""
    evaluation: Panel
    reasoning: ReasoningJudge


def open_judging(config: JudgingConfig, chat: ChatModel | None = None) -> Judging:
    """The judges that the configuration names. Models are asked through `chat`; their names are checked when they are asked.

    Raises `RolloutError` where settings contradict each other, or name a model and there is no `chat`.

    Example:
        >>> judging = open_judging(config.judging, remote)
        >>> judged = await score_games(games, judging, step=3)
    """
    config.check()
    members = tuple(Member(_judge(spec.model, config, chat), spec.weight, spec.criteria) for spec in config.judges)
    rater = config.reasoning_judge or config.judges[0].model
    return Judging(
        config=config,
        panel=Panel(members),
        evaluation=Panel((Member(_judge(config.evaluation_judge, config, chat)),)),
        reasoning=EmbeddedJudge()
        if rater == EMBEDDED
        else ReasoningRubric(_need(chat, rater), rater, max_tokens=config.max_tokens, temperature=config.temperature),
    )


def _judge(model: str, config: JudgingConfig, chat: ChatModel | None) -> Judge:
    if model == EMBEDDED:
        return EmbeddedJudge()
    return LlmJudge(
        _need(chat, model), model, max_tokens=config.max_tokens, temperature=config.temperature, explain=config.explain
    )


def _need(chat: ChatModel | None, model: str) -> ChatModel:
    if chat is None:
        raise RolloutError(
            f"judge {model!r} is a model, and none can be reached here: configure [remote], or judge by {EMBEDDED!r}"
        )
    return chat
