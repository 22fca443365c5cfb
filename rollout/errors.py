"""The errors of `rollout`. Each is a `ValueError`: the user can mend what it names.

SparringError (scenarios/errors.py)
└── RolloutError            a tokenizer, player spec or setting that a rollout cannot work with
    ├── PlayerError         a player could not answer: its game is void, the run goes on
    ├── TranscriptError     a transcript that does not fit, with the place at fault
    └── TrainingFileError   a training file that is damaged, or belongs to another model
"""

from __future__ import annotations

from sparring.scenarios.errors import SparringError


class RolloutError(SparringError):
    """A tokenizer, player spec or setting that a rollout cannot work with."""


class PlayerError(RolloutError):
    """A player could not answer: its game is void, the run goes on."""


class TranscriptError(RolloutError):
    """A transcript that does not fit, with the place at fault."""


class TrainingFileError(RolloutError):
    """A training file that is damaged, or belongs to another model."""
