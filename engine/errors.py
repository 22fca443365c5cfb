"""The errors of `engine`. Each `SparringError` is a `ValueError`: the user can mend what it names.

SparringError (scenarios/errors.py)
├── ConfigError        a setting that does not exist, has the wrong type, or contradicts another
│   └── MemoryPlanError  settings whose run does not fit the memory there is
├── RunError           a run folder that cannot be opened, written or read
│   └── Interrupted    a run that was asked to stop, and has saved a checkpoint
├── TrackerError       a metrics tracker that cannot start
├── GeneratorError     a request, adapter or model that the generator cannot serve
├── FenceError         the policy that plays is not the policy that learns
├── SharingError       learner and vLLM no longer train and serve the same memory (shared_weights.py)
├── AuthoringError     topics that could not be had from a model, or not be written
└── EvaluationError    an evaluation or comparison that cannot be made
RuntimeError
└── GeneratorStopped   the generator failed or was closed under its requests
"""

from __future__ import annotations

from sparring.scenarios.errors import SparringError


class ConfigError(SparringError):
    """A setting that does not exist, has the wrong type, or contradicts another."""


class MemoryPlanError(ConfigError):
    """Settings whose run does not fit the memory there is."""


class RunError(SparringError):
    """A run folder that cannot be opened, written or read."""


class Interrupted(RunError):
    """A run that was asked to stop, and has saved a checkpoint."""


class TrackerError(SparringError):
    """A metrics tracker that cannot start."""


class EvaluationError(SparringError):
    """An evaluation or comparison that cannot be made."""


class AuthoringError(SparringError):
    """Topics that could not be had from a model, or not be written."""


class GeneratorError(SparringError):
    """A request, adapter or model that the generator cannot serve."""


class FenceError(SparringError):
    """The policy that plays is not the policy that learns: nothing that it played may be learned from."""


class GeneratorStopped(RuntimeError):
    """The generator failed or was closed under its requests: nobody's game is to blame, so it ends the run and voids none."""
