"""A model that has learned to say a move, and little else: enough for games that differ, made in a few seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from sparring.engine.cli.main import app
from sparring.engine.tiny.build import TinyConfig, new_model, save, warm_start_loss
from sparring.engine.tiny.corpus import Teacher
from sparring.engine.tiny.games import PIECES, example, texts
from sparring.engine.tiny.tokenizer import train_tokenizer
from sparring.learner.attention import ATTENTION
from sparring.rollout.chat import ChatFormat

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(list(texts(10)), PIECES, 400)
    chat, teachers = ChatFormat(tokenizer), (Teacher("dilemma", {"tit_for_tat": 0.5, "always_defect": 0.5}),)
    config = TinyConfig(hidden=32, layers=1, heads=2, kv_heads=1, mlp=48, vocab_size=400)
    model = new_model(config, tokenizer)
    model.set_attn_implementation(ATTENTION)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        loss = warm_start_loss(model, [example(chat, teachers, 0, 8 * step + i) for i in range(8)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("model")
    save(model.eval(), tokenizer, config, folder)
    return folder


@pytest.fixture
def short(model: Path) -> list[str]:
    """Options of a run that takes less than a second."""
    settings = {
        "model": str(model),
        "families": '["dilemma"]',
        "scenarios_per_step": 4,
        "games_per_scenario": 4,
        "iterations": 2,
        "checkpoint_every": 1,
        "concurrency": 16,
        "sampling.max_tokens": 16,
        "sampling.context": 512,
        "evaluation.scenarios": 4,
        "evaluation.games": 1,
    }
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def sparring() -> Callable[..., Result]:
    """The command line in this process; stdout and stderr are apart."""
    return lambda *arguments, **more: CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


@pytest.fixture
def command() -> Callable[..., subprocess.Popen[str]]:
    """The command line in a process of its own."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", "from sparring.engine.cli.main import main; main()", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return start
