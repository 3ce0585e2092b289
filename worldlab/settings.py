"""Defines `Config`, the base class of every configuration, and the core's settings of a run.

Parts add their own tables: [encoder], [dynamics], [decoder], [agent]. Every default of the core is written only here;
presets (worldlab/config/presets/*.toml) override them. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

Size = Literal["nano", "tiny", "small", "medium", "large"]
SIZES: tuple[Size, ...] = get_args(Size)
"""The values of `--size`. nano is for tests; large has the size of DreamerV3's small model."""
DIAL: dict[str, dict[str, int]] = {
    "units": {"nano": 16, "tiny": 64, "small": 96, "medium": 256, "large": 512},
    "memory": {"nano": 16, "tiny": 64, "small": 96, "medium": 256, "large": 512},
    "width": {"nano": 4, "tiny": 8, "small": 16, "medium": 24, "large": 32},
}
"""The value of each dial at each size.

units: hidden units of a layer. memory: width H of the memory. width: channels of the first convolution.
`--model.units`, `--model.memory` and `--model.width` set one dial for all parts.
"""

LARGEST = 2**16
"""The largest value of a setting that `--size` sets: a square layer of this width takes 17 GB."""

if TYPE_CHECKING:

    def field(default: Any = ..., *, expert: bool = False, nano: Any = None, **rules: Any) -> Any: ...
    def sized(dial: str = "", /, *, gt: Any = None, ge: Any = None, le: Any = None, **sizes: int) -> Any: ...
    def component(default: str) -> Any: ...

else:

    def field(default=..., *, expert=False, nano=None, **rules):
        """Declare a setting: `std: float = field(1.0, gt=0)`; the docstring below it becomes its help.

        rules: bounds, as in pydantic's Field. expert: whether only --help-all lists it. nano: its value at the size
        "nano", for a setting that only costs time, such as the candidates of a planner: the checks use this size.
        """
        extra = {"expert": True} if expert else {}
        if nano is not None:
            extra |= {"sizes": {"nano": nano}, "dial": ""}
        return Field(default, json_schema_extra=extra or None, **rules)

    def sized(dial="", /, **sizes_and_rules):
        """Declare a setting that follows `--size`.

        It either follows a dial, `units: int = sized("units", ge=1)`, or has its own value for each size,
        `depth: int = sized(nano=1, tiny=2, small=3, medium=4, large=4, ge=1)`. The default is the value for "medium".
        A value is at most LARGEST unless `le` sets another bound.
        """
        sizes_and_rules.setdefault("le", LARGEST)
        sizes = {name: sizes_and_rules.pop(name) for name in SIZES if name in sizes_and_rules}
        both = bool(dial and sizes)
        if dial:
            sizes = DIAL.get(dial, {})
        assert set(sizes) == set(SIZES) and not both, (
            f"a sized setting names a dial ({', '.join(DIAL)}) or gives all of {', '.join(SIZES)}"
        )
        extra = {"expert": True, "sizes": sizes, "dial": dial}
        return Field(sizes["medium"], json_schema_extra=extra, **sizes_and_rules)

    def component(default):
        """Declare a setting that names another component of the same role, which this one is built from.

        `member: str = component("vae")` of a dynamics: the member's own settings are those of [dynamics.vae], and
        `config.chosen("member")` returns its registration and its configuration.
        """
        return Field(default, min_length=1, json_schema_extra={"component": True})


class Config(BaseModel):
    """A group of settings. Define the subclass next to the component that it configures.

    Instances are frozen, so nothing can change the configuration of a run. A misspelt key is an error, as are NaN and
    infinity. The module of a subclass must not import torch.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,  # a validator is built when it is first used: most parts of a start are not
    )
    _chosen: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def component_fields(cls) -> tuple[str, ...]:
        """Return the names of the settings that name a component (`component`)."""
        extras = {name: info.json_schema_extra for name, info in cls.model_fields.items()}
        return tuple(name for name, extra in extras.items() if isinstance(extra, dict) and "component" in extra)

    @property
    def is_complete(self) -> bool:
        """Whether the components that the settings name are known with their configurations."""
        return set(self.component_fields()) <= set(self._chosen)

    def with_chosen(self, chosen: Mapping[str, Any]) -> Self:
        """Return a copy that holds the component of each setting that names one (worldlab.registry.Chosen)."""
        copy = self.model_copy()
        copy._chosen = dict(chosen)
        return copy

    def chosen(self, name: str) -> Any:
        """Return the component that a setting names, with its configuration (worldlab.registry.Chosen).

        The core chooses it when it resolves a run; `worldlab.registry.with_components` does for a configuration that was
        built in Python.
        """
        assert name in self._chosen, (
            f"{type(self).__name__}.{name} is a name only: see worldlab.registry.with_components"
        )
        return self._chosen[name]

    @classmethod
    def sized(cls, size: Size, **values: Any) -> Self:
        """Build the configuration at a size: every `sized` setting has its value for it, the others their defaults.

        values: fields to set besides; they win. The checks use `sized("nano")`, so only settings that are declared with
        `sized`, or with `field(..., nano=...)`, are small there.
        """
        tree: dict[str, Any] = {}
        for path, value in cls.at_size(size).items():
            *groups, leaf = path.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[leaf] = value
        return cls(**{**tree, **values})

    @classmethod
    def at_size(cls, size: Size, dial: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return the values of all settings that have one for this size, by dotted path.

        dial: values that replace those of DIAL ("units", "memory", "width").
        """
        found: dict[str, int] = {}
        for name, info in cls.model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "sizes" in extra:
                entry = cast(dict[str, Any], extra)
                if size in entry["sizes"]:
                    value: int = entry["sizes"][size]
                    found[name] = (dial or {}).get(entry["dial"], value)
            elif isinstance(info.annotation, type) and issubclass(info.annotation, Config):
                found.update({f"{name}.{path}": value for path, value in info.annotation.at_size(size, dial).items()})
        return found


class EnvSettings(Config):
    """The environment and how data is collected in it."""

    id: str = field("CartPole-v1", min_length=1)
    """Environment: a Gymnasium id, a short name ("CarRacing"), a registered name, or "package.module:Id"; with --data,
    that of the data set, or "none"."""
    num_envs: int = field(1, ge=1, le=256)
    """Number of environments stepped in parallel during collection."""
    workers: int = field(0, ge=0, le=64)
    """Worker processes that step the environments; 0 uses the main process (best for cheap environments)."""
    timeout: float = field(300.0, gt=0, expert=True)
    """Seconds that an environment may take to reset or to step before it counts as hung; to be built, at least 60."""
    restarts: int = field(3, ge=0, expert=True)
    """Crashed or hung environments that a run replaces while it collects; 0 ends the run. --strict never replaces one."""
    repeat: int = field(1, ge=1, le=32)
    """Action repeat: frames per action. Rewards are summed; only the last frame is rendered."""
    size: int | None = field(None, ge=8, le=512)
    """Side length to which images are resized; none keeps the environment's size."""
    pixels: bool = False
    """Observe rendered images instead of the environment's own observation."""
    distractors: float = field(0.0, ge=0, le=0.9, expert=True)
    """Opacity of moving blobs blended over every image as distractors (0.5: half blob, half image); 0 adds none."""
    time_limit: int | None = field(None, ge=1)
    """Truncate episodes after this many decisions; none keeps the environment's limit."""
    collect_limit: int | None = field(None, ge=1, expert=True)
    """Truncate episodes after this many decisions during collection only; none does not."""
    patience: int | None = field(None, ge=1, expert=True)
    """Truncate episodes after this many decisions without a positive reward, during collection only; none does not."""
    same_episodes: bool = field(False, expert=True)
    """Give every environment the same sequence of episodes during collection, for agents that compare candidates."""


class ModelSettings(Config):
    """The parts of the world model that belong to the core."""

    units: int = sized("units", ge=1)
    """Hidden units of the reward, continue and probe heads, and of every part without a setting of its own."""
    memory: int = sized("memory", ge=1)
    """Width H of the dynamics' memory, unless the dynamics sets its own."""
    width: int = sized("width", ge=1)
    """Channels of the first convolution in every part without a setting of its own."""
    memory_in_encoder: Literal["auto", "yes", "no"] = field("auto", expert=True)
    """Whether the encoder reads the memory h. auto: no for staged training or parallel dynamics, else yes."""
    vector_scaling: Literal["symlog", "normalize", "none"] = "symlog"
    """Scaling of vector observations. normalize: standardise with the prefill's statistics, then symlog."""
    reward_scale: float = field(1.0, ge=0)
    """Weight of the reward loss. Increase it if the image loss dominates and the reward depends on a few pixels."""
    reward_grad: bool = field(True, expert=True)
    """Whether the reward and continue losses train the representation; false detaches its features."""
    rep_scale: float = field(0.1, ge=0)
    """Weight of the loss that trains the encoder towards predictable latents."""
    beta: float = field(1.0, ge=0)
    """Weight of the information in the latent: multiplies dyn_scale and rep_scale. Above 1 the latent keeps less (beta-VAE)."""
    capacity: float = field(0.0, ge=0, expert=True)
    """Nats per frame that the encoder is held to, from 0 at first, instead of free nats; 0: none. Needs a posterior density."""
    samples: int = field(1, ge=1, le=1024, expert=True)
    """Latents K for each observation, weighted and resampled: in the bound (IWAE, FIVO) and in the filter that agents act
    on (DVRL). 1 is the plain bound. Needs densities of all parts, and up to K times the time."""
    free_nats: float = field(1.0, ge=0)
    """Nats per frame below which the KL is not optimised: for each frame if exact, for the batch mean if sampled."""
    frames_per_update: int | None = field(None, ge=0, expert=True)
    """Random frames that train the decoder in one update; 0 means all, none takes the decoder's own number."""
    probe: Literal["auto", "yes", "no"] = field("auto", expert=True)
    """Train a small image decoder on detached features. auto: only if the decoder does not render."""
    capacity_updates: ClassVar[int] = 1000
    """Updates over which the capacity rises linearly to its value."""
    dyn_scale: ClassVar[float] = 1.0
    """Weight of the loss that trains the dynamics to predict the latent: the unit of the other weights."""
    head_layers: ClassVar[int] = 1
    """Hidden layers of the reward and continue heads."""
    prior_anchor: ClassVar[float] = 0.01
    """Weight of KL(q || N(0, I)) if the posterior has a density and the prior has only a score.

    The score is a log-ratio to the latent's marginal, so it does not fix the latent's scale; this term does.
    """


class TrainSettings(Config):
    """The training loop."""

    schedule: Literal["joint", "staged"] = "joint"
    """joint: all parts together. staged: encoder and decoder (half of pretrain), dynamics (half), then the agent."""
    freeze: tuple[Literal["encoder", "dynamics", "decoder"], ...] = field((), expert=True)
    """Parts that keep their initial weights, as a control experiment."""

    prefill: int = field(1000, ge=1)
    """Environment steps with random actions before the first update."""
    prefill_hold: int = field(1, ge=1, expert=True)
    """Each random action of the prefill is held for 1 to this many decisions; increase it where inertia matters."""
    pretrain: int = field(100, ge=0)
    """Updates of the world model alone after the prefill. With schedule = staged, the model gets no others."""
    pretrain_agent: int = field(0, ge=0, expert=True)
    """Updates after pretrain and before the agent acts: of all parts, or of the agent alone if schedule = staged."""
    ratio: float = field(0.5, gt=0)
    """Updates per environment step (decision)."""
    batch_size: int = field(16, ge=1)
    """Sequences in a batch (B)."""
    batch_length: int = field(32, ge=2)
    """Steps in a sequence (T)."""
    learning_rate: float = field(4e-4, gt=0)
    """Learning rate of the world model, except adversarial critics."""
    final_rate: float = field(1.0, gt=0, le=1, expert=True)
    """Final learning rates as a fraction of the initial ones, with linear decay over the run; 1 keeps them constant."""
    critic_learning_rate: float = field(2e-4, gt=0, expert=True)
    """Learning rate of adversarial critics inside the world model."""
    starts: int = field(256, ge=1)
    """Posterior states from which the agent imagines, per update."""
    threads: int = field(0, ge=0, le=1024)
    """CPU threads of torch; 0 uses all cores. --strict always uses one."""
    parallel: bool = field(True, expert=True)
    """Let the agent learn in a second process of as many threads, where cores are free. --strict never does."""
    engine: Literal["auto", "graph", "bfloat16", "float32"] = field("auto", expert=True)
    """graph: one graph an update (on a CPU compiled for minutes), products in bfloat16; bfloat16: no graph; float32: neither.
    auto: graph on a GPU, float32 on a CPU."""
    clip: ClassVar[float] = 100.0
    """Global norm to which gradients are clipped: far above normal norms, as in DreamerV3's first version."""
    max_skips: ClassVar[int] = 10
    """Consecutive non-finite updates after which the run stops as diverged. A single bad batch is skipped."""


class ReplaySettings(Config):
    """The replay buffer."""

    capacity: int = field(1_000_000, ge=1000)
    """Environment steps in the buffer; the oldest are dropped first."""
    storage: Literal["auto", "ram", "disk"] = field("auto", expert=True)
    """Where batches are read from. auto: the GPU's memory if the replay takes at most a quarter of it, else ram. Every step is
    also written to replay/ in the run folder."""


class EvalSettings(Config):
    """Evaluation of the agent in the real environment."""

    every: int = field(5000, ge=0)
    """Environment steps between evaluations; 0 evaluates at the end only."""
    episodes: int = field(5, ge=1)
    """Episodes per evaluation during training."""
    final_episodes: int = field(20, ge=1)
    """Episodes of the final evaluation."""
    dream_horizon: int = field(50, ge=0, expert=True)
    """Decisions over which evaluations also measure the policy's return in the dream, from the same starts; 0: off."""
    deterministic: bool = field(True, expert=True)
    """Evaluate the most likely action, as Stable-Baselines3 does; false samples from the policy, as DreamerV3 does."""


class LogSettings(Config):
    """Logs, pictures and checkpoints."""

    every: int = field(250, ge=1)
    """Environment steps between lines of metrics.jsonl."""
    pictures: int = field(5000, ge=0)
    """Environment steps between pictures of dreams; 0 draws at the end only."""
    checkpoint: int = field(5000, ge=1)
    """Environment steps between checkpoints."""
    keep: int = field(3, ge=2, expert=True)
    """Number of checkpoints kept."""
    track: tuple[str, ...] = field(("tensorboard",), expert=True)
    """Trackers that also get the metrics: registered names, or none. The flag is --track."""


class CoreSettings(Config):
    """All settings of a run except those of the parts."""

    seed: int = field(0, ge=0, lt=2**32)
    """Seed of every random stream of the run."""
    steps: int = field(10_000, ge=1)
    """Length of the run in environment steps (decisions: one per chosen action)."""
    minutes: float | None = field(None, gt=0)
    """Wall-clock limit of training in minutes, including the time before a resume. Not bit-reproducible."""
    until: float | Literal["solved"] | None = None
    """End training at the first evaluation whose mean return reaches this; solved: the environment's own threshold."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model. auto: cuda if available and not strict."""
    size: Size = "medium"
    """Size of all networks: hidden units, memory, channels. Presets set it; a part's own setting overrides it."""
    strict: bool = False
    """Make the run bit-reproducible: CPU, one thread, deterministic kernels."""
    data: str = ""
    """Data set that replaces collection, in its own order: a path, or FORMAT:NAME (worldlab data inspect PATH)."""
    offline: bool = False
    """Learn from all of --data from the start, but for a held-out tenth of its episodes; no environment is stepped."""
    finetune: str = ""
    """Run whose weights the model and the agent begin with; a weight of another shape begins anew."""
    env: EnvSettings = EnvSettings()
    """Environment."""
    model: ModelSettings = ModelSettings()
    """World model."""
    train: TrainSettings = TrainSettings()
    """Training loop."""
    replay: ReplaySettings = ReplaySettings()
    """Replay."""
    eval: EvalSettings = EvalSettings()
    """Evaluation."""
    log: LogSettings = LogSettings()
    """Logging."""
