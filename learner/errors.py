"""The errors of `learner`. Each is a `ValueError`: the user can mend what it names.

SparringError (scenarios/errors.py)
└── LearnerError       a setting, a trajectory or a saved state that the learner cannot work with
    └── AdapterError   an adapter that is missing, broken, or made for another model
"""

from __future__ import annotations

from sparring.scenarios.errors import SparringError


class LearnerError(SparringError):
    """A setting, a trajectory or a saved state that the learner cannot work with."""


class AdapterError(LearnerError):
    """An adapter that is missing, broken, or made for another model."""
