"""The models that ship with the package, by the name that `model` in the settings has, and where they lie. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TINY, TALK = "tiny", "tiny-talk"
TINY_FOLDER = Path(__file__).with_name("weights")
"""Plays the verifiable games."""
TALK_FOLDER = Path(__file__).with_name("talk_weights")
"""Speaks in the contests."""
SHIPPED: Mapping[str, Path] = {TINY: TINY_FOLDER, TALK: TALK_FOLDER}
