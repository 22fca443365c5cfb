"""`RunConfig`: everything that decides a run, gathered from the structs beside the classes that they configure.

Reading and writing TOML is `settings.py`'s; this file owns the run's own settings and what they must agree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sparring.engine.contests import find_contest
from sparring.engine.errors import ConfigError
from sparring.engine.evaluation.decline import DeclineConfig
from sparring.engine.fence import FenceConfig
from sparring.engine.settings import load_config
from sparring.engine.vllm.config import MemoryConfig, VllmConfig
from sparring.learner.learner import LearnerConfig
from sparring.rollout.errors import RolloutError
from sparring.rollout.judging.config import JudgingConfig
from sparring.rollout.player import Sampling, find_strategy
from sparring.rollout.player_spec import parse_player
from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.models import resolve
from sparring.rollout.remote.secrets import Secrets
from sparring.scenarios import registry
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Split

Count = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
NonNegative = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Seconds = Annotated[float, Meta(gt=0)]
Seed = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

TRAINING_SCRIPTS = "scripts"
UNSEEN_SCRIPT = "unseen"
MEMBERS = "members"
RESERVED = ("policy", "base", "script", "local", "embedded")
"""What no endpoint may be called."""


class EvaluationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a policy is measured on. Baseline and trained policy play the same deals."""

    scenarios: NonNegative = 100
    """Held-out scenarios, spread evenly over the families; 0 skips evaluation."""
    split: Split = "seed"
    """How they are held out: by seed, by parameter range or by skin."""
    games: Count = 2
    """Games of each scenario from each seat. The partners take turns, so each meets about as many games."""
    partners: tuple[str, ...] = (TRAINING_SCRIPTS, UNSEEN_SCRIPT)
    """As `RunConfig.partners`; "unseen" is each family's script that training never meets."""
    seed: Seed = 0
    """Draws the scenarios and everything random in their games."""
    control: bool = True
    """Also play every game with the policy reading another instance's private values: what gain remains is value-blind."""
    every: NonNegative = 0
    """Steps between evaluations of a run's contests; 0 measures at the end alone. The best adapter so far is kept."""
    decline: DeclineConfig = DeclineConfig()
    """When a run stops because its held-out win rate has fallen from its best; it then ends with the best adapter."""


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training run.

    Example:
        >>> load_run_config("demo", overrides=["iterations=3", "families=[\\"haggle\\"]"]).iterations
        3
    """

    preset: str = ""
    """The preset that it came from, for the record."""
    name: str = "run"
    """The run's name in reports and trackers."""
    seed: Seed = 0
    model: str = "tiny"
    """The base model: "tiny" (games) or "tiny-talk" (contests) of the package, a local folder or a Hugging Face name."""
    quantization: Literal["none", "nf4"] = "none"
    """"nf4" keeps the base model's linear layers in 4 bits, a copy for the generator and one for the learner (bitsandbytes)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" takes the GPU where there is one."""
    generator: Literal["auto", "torch", "vllm"] = "auto"
    """What samples: "vllm", the embedded "torch", or "auto", which takes vLLM where it is installed and usable and says why."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 1
    """CPU threads of PyTorch; 0 leaves it to PyTorch. On a busy machine more threads than free cores are far slower than one."""

    families: tuple[str, ...] = msgspec.field(default_factory=registry.names)
    """The families of games, and the contests, to train and evaluate on."""
    contest_topics: dict[str, str] = {}
    """Files of further topics by contest, such as `{debate = "my-debate.toml"}` (`sparring scenarios author` writes them). Each
    topic falls into the split that its own text decides."""
    partners: tuple[str, ...] = (TRAINING_SCRIPTS,)
    """Who sits across: "scripts" (each family's training scripts), "script:NAME", "base", "policy" (self-play), "policy:NAME",
    "members" (another policy of the population), or a model elsewhere such as "gpt-4o"."""
    population: Annotated[int, Meta(ge=1, le=16)] = 1
    """Policies trained side by side on the one base model, each with its own adapter and optimiser; in contests they meet."""
    iterations: Count = 60
    scenarios_per_step: Count = 16
    games_per_scenario: Annotated[int, Meta(ge=2)] = 8
    """The size of a group: games of one scenario, seat and partner, compared with each other."""
    concurrency: Count = 128
    """Games in play at once."""
    time_limit: Seconds | None = 120.0
    """Seconds until a game is called off and void; "none" lets it take its time."""
    steps_ahead: Annotated[int, Meta(ge=0, le=16)] = 0
    """How many steps a game may begin before its own update. 0 plays, then learns: the same run whoever is slow. Above 0, games
    of later steps go on while slow partners, judges and the learner take their time, with policies that much older."""

    sampling: Sampling = Sampling()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    judging: JudgingConfig = JudgingConfig()
    remote: RemoteConfig = RemoteConfig()
    fence: FenceConfig = FenceConfig()
    vllm: VllmConfig = VllmConfig()
    memory: MemoryConfig = MemoryConfig()

    checkpoint_every: Count = 20
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: Count = 2
    tracker: Literal["none", "wandb"] = "none"
    """Where metrics go besides the run's database and the terminal."""

    def check(self) -> None:
        """Raises `ConfigError` where settings contradict each other, saying which one to change."""
        self._check_families()
        self._check_topics()
        self._check_partners()
        self._check_sampling()
        self._check_schedule()
        self._check_population()
        self._check_endpoints()
        self._check_judging()
        if self.quantization != "none" and self.generator == "torch":
            raise ConfigError(
                f'quantization = "{self.quantization}" is not for the embedded generator, which merges weights: set '
                'generator = "vllm", or quantization = "none"'
            )
        evaluation = self.evaluation
        if evaluation.split == "train":
            raise ConfigError('evaluation.split = "train" measures on training scenarios: set it to "seed", "range" or "skin"')
        if 0 < evaluation.scenarios < len(self.families):
            count = len(self.families)
            raise ConfigError(
                f"evaluation.scenarios = {evaluation.scenarios} leaves families out: set it to {count} or more, or to 0"
            )

    def _check_families(self) -> None:
        known = (*registry.names(), *registry.contests())
        if not self.families:
            raise ConfigError(f"families is empty: name some of {', '.join(known)}")
        for family in self.families:
            if family not in known:
                raise ConfigError(f"families: there is no {family!r}: choose from {', '.join(known)}")
        if len(set(self.families)) < len(self.families):
            raise ConfigError("families names one twice: name each once")

    def _check_topics(self) -> None:
        for name in self.contest_topics:
            try:
                find_contest(name, self.contest_topics)
            except ScenarioError as error:
                raise ConfigError(f"contest_topics.{name}: {error}") from error

    def _check_partners(self) -> None:
        for key, partners in (("partners", self.partners), ("evaluation.partners", self.evaluation.partners)):
            for family in self.families:
                try:
                    specs = partner_specs(family, partners)
                except (RolloutError, ScenarioError) as error:
                    raise ConfigError(f"{key}: {error}") from error
                unseen = f"script:{registry.get(family).unseen_partner}"
                if key == "partners" and unseen in specs:
                    raise ConfigError(f"partners: {family}'s {unseen} is kept for evaluation: take it out of training")

    def _check_sampling(self) -> None:
        sampling = self.sampling
        if sampling.temperature <= 0:
            raise ConfigError("sampling.temperature must be above 0: games of a group must differ to be compared")
        if not 0 < sampling.top_p <= 1:
            raise ConfigError(f"sampling.top_p = {sampling.top_p} is no share: set it above 0 and at most 1")
        if not 1 <= sampling.max_tokens < sampling.context:
            raise ConfigError(
                f"sampling.max_tokens = {sampling.max_tokens} must be at least 1 and below sampling.context = {sampling.context}"
            )

    def _check_population(self) -> None:
        if self.population == 1 and MEMBERS in self.partners:
            raise ConfigError('partners: "members" needs a population of at least 2')
        if MEMBERS in self.evaluation.partners:
            raise ConfigError('evaluation.partners: "members" change as they train: name partners that stay as they are')
        if self.population > self.vllm.max_adapters and self.generator == "vllm":
            raise ConfigError(
                f"vllm.max_adapters = {self.vllm.max_adapters} is too few for a population of {self.population}: set it to that"
            )

    def _check_endpoints(self) -> None:
        for name in self.remote.endpoints:
            if name in RESERVED:
                raise ConfigError(
                    f"remote.endpoints.{name}: player specs that begin with {name!r} mean something else: rename it"
                )

    def _check_judging(self) -> None:
        """What is asked for only after the games, or after the last step, is refused before the first."""
        try:
            self.judging.check()
            contests = [contest for contest in map(registry.get, self.contests) if isinstance(contest, Contest)]
            if contests:
                self.judging.check_contests({contest.name: contest.criteria for contest in contests})
        except RolloutError as error:
            raise ConfigError(str(error)) from error
        for family in self.contests:
            try:
                comparison = parse_player(self.judging.comparison)
                if comparison.kind == "script":
                    find_strategy(family, comparison.name)
            except RolloutError as error:
                raise ConfigError(f"judging.comparison: {error}") from error

    def _check_schedule(self) -> None:
        learner, updates = self.learner, self.updates
        if learner.schedule == "constant":
            return
        if 0 < learner.total_steps < updates:
            raise ConfigError(
                f"learner.total_steps = {learner.total_steps} ends the {learner.schedule} schedule before the run's "
                f"{updates} updates: set it to {updates} or more, to 0 for the run's length, or shorten the run"
            )
        if not learner.total_steps and learner.warmup_steps >= updates:
            raise ConfigError(
                f"learner.warmup_steps = {learner.warmup_steps} leaves nothing of the run's {updates} updates: set it lower"
            )

    @property
    def games(self) -> tuple[str, ...]:
        """The families that a referee decides."""
        return tuple(family for family in self.families if family in registry.names())

    @property
    def contests(self) -> tuple[str, ...]:
        """The families that judges decide."""
        return tuple(family for family in self.families if family in registry.contests())

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the policies in training, as deals give them: "" for one that is alone."""
        return ("",) if self.population == 1 else tuple(f"policy-{number}" for number in range(1, self.population + 1))

    @property
    def updates(self) -> int:
        """Updates of a run in which every step has something to learn from."""
        return self.iterations * self.learner.epochs * self.learner.minibatches

    @property
    def run_learner(self) -> LearnerConfig:
        """The learner's settings, with a schedule as long as the run where `total_steps` is 0."""
        return self.learner if self.learner.total_steps else msgspec.structs.replace(self.learner, total_steps=self.updates)


def load_run_config(*sources: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked `RunConfig` from presets, TOML files and `key=value` overrides, later ones winning. Raises `ConfigError`."""
    config = load_config(RunConfig, *sources, overrides=overrides)
    config.check()
    return config


def partner_specs(family: str, partners: Sequence[str]) -> tuple[str, ...]:
    """The player specs that `partners` stands for in a family, in order, each once.

    Raises `RolloutError` for a spec that nobody knows or a script that the family does not have, `ScenarioError` for the family.

    Example:
        >>> partner_specs("haggle", ("unseen", "script:holder"))
        ('script:linear', 'script:holder')
    """
    specs: list[str] = []
    for partner in partners:
        if partner == TRAINING_SCRIPTS:
            specs += [f"script:{name}" for name in registry.get(family).partners]
        elif partner == UNSEEN_SCRIPT:
            specs.append(f"script:{registry.get(family).unseen_partner}")
        elif partner == MEMBERS:
            specs.append(partner)
        else:
            parsed = parse_player(partner)
            if parsed.kind == "script":
                find_strategy(family, parsed.name)
            specs.append(partner)
    if not specs:
        raise RolloutError('nobody sits across the table: name a partner, such as "scripts"')
    return tuple(dict.fromkeys(specs))


def models_elsewhere(config: RunConfig) -> tuple[str, ...]:
    """The specs of all models that a run calls besides its policy: partners, judges, the comparison; each once."""
    specs = [*config.partners, *config.evaluation.partners]
    if config.contests:
        judging = config.judging
        specs += [judge.model for judge in judging.judges]
        specs += [judging.evaluation_judge, judging.reasoning_judge, judging.comparison]
    return tuple(dict.fromkeys(spec for spec in specs if _is_model(spec)))


def _is_model(spec: str) -> bool:
    try:
        return parse_player(spec).kind == "model"
    except RolloutError:  # "scripts", "embedded" and the like
        return False


def check_models_elsewhere(config: RunConfig, specs: Sequence[str] | None = None) -> None:
    """Raises `RemoteError` for a model elsewhere that nobody knows, that has no price, or whose key is not set. Opens nothing.

    `specs` are all that the settings name, unless they are given.
    """
    if config.remote.cassette_mode == "replay":
        return
    secrets = Secrets()
    try:
        for spec in models_elsewhere(config) if specs is None else specs:
            endpoint = resolve(spec, config.remote).endpoint
            if endpoint is not None and endpoint.api_key_env:
                secrets.read(endpoint.api_key_env, spec)
    finally:
        secrets.close()
