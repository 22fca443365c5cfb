"""The errors of `scenarios`. Each is a `ValueError`: the user can mend what it names.

SparringError
└── ScenarioError          a scenario, transcript or family argument that does not fit
    ├── Rejected (family.py)   a commit that cannot stand
    ├── NotYourTurn        a seat spoke when the game waited for another, or after its end
    └── StoreError         the scenario database cannot do what was asked
"""

from __future__ import annotations


class SparringError(ValueError):
    """The root of every error that tells the user what to change."""


class ScenarioError(SparringError):
    """A scenario, transcript or family argument that does not fit."""


class NotYourTurn(ScenarioError):
    """A seat spoke when the game waited for another, or after its end."""


class StoreError(ScenarioError):
    """The scenario database cannot do what was asked."""
