"""`sparring tiny build`: a model that loads, with the hash that was told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import Result


def test_a_model_is_built(sparring: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    done = sparring("tiny", "build", "--output", folder, "--steps", 1, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert done.stdout.endswith(f" parameters, model.safetensors has SHA-256 {digest}\n")
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer)
