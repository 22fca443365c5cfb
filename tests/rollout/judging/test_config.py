"""Settings of judging: what contradicts itself, families of judges, and which judges are opened."""

from __future__ import annotations

import msgspec
import pytest

from sparring.rollout.errors import RolloutError
from sparring.rollout.judging.config import JudgeSpec, JudgingConfig, family, same_family
from sparring.rollout.judging.embedded import EmbeddedJudge
from sparring.rollout.judging.judging import open_judging
from sparring.rollout.judging.llm import LlmJudge, ReasoningRubric
from sparring.rollout.remote.call import ChatReply, ChatRequest

FAMILIES = {
    "embedded": "embedded",
    "gpt-4o-mini": "openai",
    "openai:gpt-4o": "openai",
    "openai:o3-mini": "openai",
    "o1": "openai",
    "anthropic:claude-3-5-haiku-latest": "anthropic",
    "claude-sonnet-4-5": "anthropic",
    "local:/models/Qwen2.5-7B-Instruct/": "qwen",
    "mine:Qwen/QwQ-32B": "qwen",
    "mine:meta-llama/Llama-3.1-8B": "meta",
    "local:mistralai/Mixtral-8x7B": "mistral",
    "deepseek-chat": "deepseek",
    "mine:google/gemma-3-4b": "google",
    "mine:ours-7b": "ours",
}


@pytest.mark.parametrize("spec", FAMILIES)
def test_who_makes_a_model(spec: str) -> None:
    assert family(spec) == FAMILIES[spec]


def test_same_family() -> None:
    assert same_family("openai:gpt-4o", "gpt-4o-mini") and same_family("embedded", "embedded")
    assert not same_family("gpt-4o-mini", "claude-sonnet-4-5") and not same_family("embedded", "gpt-4o")


def test_a_judge_of_one_family_for_training_and_evaluation_is_told() -> None:
    alone = JudgingConfig(judges=(JudgeSpec(model="gpt-4o-mini"),), evaluation_judge="openai:gpt-4o")
    (warning,) = alone.warnings
    assert "openai:gpt-4o" in warning and "gpt-4o-mini" in warning and "judging.evaluation_judge" in warning
    assert JudgingConfig(judges=(JudgeSpec(model="gpt-4o-mini"),), evaluation_judge="claude-sonnet-4-5").warnings == ()
    assert len(JudgingConfig().warnings) == 1


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(RolloutError, match="judges is empty"):
        JudgingConfig(judges=()).check()
    with pytest.raises(RolloutError, match="twice"):
        JudgingConfig(judges=(JudgeSpec(), JudgeSpec(weight=2.0))).check()
    with pytest.raises(RolloutError, match="twice"):
        JudgingConfig(judges=(JudgeSpec(), JudgeSpec(criteria=("clarity",)))).check()
    with pytest.raises(RolloutError, match="comparison"):
        JudgingConfig(comparison="policy").check()
    JudgingConfig(judges=(JudgeSpec(criteria=("argument",)), JudgeSpec(criteria=("clarity",)))).check()
    JudgingConfig(comparison="gpt-4o-mini").check()


@pytest.mark.parametrize(
    "text",
    ["degree = 1", "judges = [{weight = 0}]", "format_weight = -1", "jugdes = []", 'pairing = "half"', "concurrency = 0"],
)
def test_what_is_out_of_bounds_or_misspelt(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode(text, type=JudgingConfig)


class Silent:
    async def chat(self, request: ChatRequest) -> ChatReply:
        raise AssertionError("nothing is asked before a comparison")


def test_opening_judges() -> None:
    plain = open_judging(JudgingConfig())
    assert [type(member.judge) for member in plain.panel.members] == [EmbeddedJudge]
    assert isinstance(plain.reasoning, EmbeddedJudge) and plain.evaluation.members[0].judge.name == "embedded-rubric"
    config = JudgingConfig(
        judges=(JudgeSpec(model="gpt-4o-mini", weight=2.0, criteria=("clarity",)), JudgeSpec()), evaluation_judge="claude-x"
    )
    opened = open_judging(config, Silent())
    assert [(m.judge.name, m.weight, m.criteria) for m in opened.panel.members] == [
        ("gpt-4o-mini", 2.0, ("clarity",)),
        ("embedded-rubric", 1.0, ()),
    ]
    assert isinstance(opened.reasoning, ReasoningRubric) and isinstance(opened.evaluation.members[0].judge, LlmJudge)
    with pytest.raises(RolloutError, match=r"judge 'gpt-4o-mini' is a model.*\[remote\]"):
        open_judging(config)
