"""Sparring trains language agents by letting them play.

Owns the version and the public face: the few names that most programs need, each imported on first use, so that
`import sparring` loads nothing heavy. Everything else is imported from the module that defines it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Deal", "Engine", "Game", "GameState", "Learner", "Outcome", "Scenario", "TorchGenerator", "Trajectory"]

if TYPE_CHECKING:
    from sparring.engine.engine import Engine
    from sparring.engine.embedded.generator import TorchGenerator
    from sparring.learner.learner import Learner
    from sparring.rollout.trajectory import Deal, Game, Trajectory
    from sparring.scenarios.game import GameState
    from sparring.scenarios.outcome import Outcome
    from sparring.scenarios.scenario import Scenario
else:
    _HOMES = {
        "Deal": "sparring.rollout.trajectory",
        "Engine": "sparring.engine.engine",
        "Game": "sparring.rollout.trajectory",
        "GameState": "sparring.scenarios.game",
        "Learner": "sparring.learner.learner",
        "Outcome": "sparring.scenarios.outcome",
        "Scenario": "sparring.scenarios.scenario",
        "TorchGenerator": "sparring.engine.embedded.generator",
        "Trajectory": "sparring.rollout.trajectory",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'sparring' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
