"""The errors of `rollout`. Each is a `ValueError`: the user can mend what it names.

SparringError (scenarios/errors.py)
└── RolloutError            a tokenizer, player spec or setting that a rollout cannot work with
    ├── PlayerError         a player could not answer: its game is void, the run goes on
    │   └── CallError       a call of another model failed for good
    ├── BudgetError         the budget is spent: no new game may begin
    ├── CassetteError       a cassette that is damaged, or holds no answer to a call
    ├── RemoteError         a model, key or price that calls cannot do without
    ├── TranscriptError     a transcript that does not fit, with the place at fault
    └── TrainingFileError   a training file that is damaged, or belongs to another model
"""

from __future__ import annotations

from sparring.scenarios.errors import SparringError


class RolloutError(SparringError):
    """A tokenizer, player spec or setting that a rollout cannot work with."""


class PlayerError(RolloutError):
    """A player could not answer: its game is void, the run goes on."""


class CallError(PlayerError):
    """A call of another model failed for good: it voids its game, or its comparison."""


class BudgetError(RolloutError):
    """The budget is spent: no new game may begin. Ends the run, once the games in play have ended."""


class CassetteError(RolloutError):
    """A cassette that is damaged, or holds no answer to a call. Ends the run."""


class RemoteError(RolloutError):
    """A model, key or price that calls cannot do without. Ends the run."""


class TranscriptError(RolloutError):
    """A transcript that does not fit, with the place at fault."""


class TrainingFileError(RolloutError):
    """A training file that is damaged, or belongs to another model."""
