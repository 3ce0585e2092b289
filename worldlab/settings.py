"""Settings: the base class of every configuration, and the settings of a run that belong to the core.

Parts add their own tables: [encoder], [dynamics], [decoder], [agent]. Every default of the core is written here and nowhere
else; presets (worldlab/config/presets/*.toml) override them. Importable without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:

    def field(default: Any = ..., **rules: Any) -> Any: ...
else:
    field = Field
"""Declare a setting: `latent_dim: int = field(32, gt=0)`; the docstring below it becomes its help."""


class Config(BaseModel):
    """A group of settings. Subclass it beside the component it configures.

    Frozen, so that nothing changes a run's configuration after it was resolved; `extra="forbid"`, so
    that a misspelt key is an error; NaN and infinity are refused. It must be importable without torch.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )


class EnvSettings(Config):
    """Which environment, and how its data is taken."""

    id: str = field("CartPole-v1", min_length=1)
    """Environment: a Gymnasium id, a short name ("CarRacing"), a registered name, or "package.module:Id"."""
    num_envs: int = field(1, ge=1, le=256)
    """Environments stepped together while collecting."""
    workers: int = field(0, ge=0, le=64)
    """Processes that step them; 0 steps them in this process (best for cheap environments)."""
    repeat: int = field(1, ge=1, le=32)
    """Each chosen action is repeated this many frames; rewards add up, only the last frame is drawn."""
    size: int | None = field(None, ge=8, le=512)
    """Images are resized to size x size; unset keeps the environment's own size."""
    pixels: bool = False
    """Observe rendered pictures instead of the environment's own observation."""
    distractors: float = field(0.0, ge=0, le=0.9)
    """Blobs that move by themselves are blended over every picture, this strongly (0.5: half blob, half picture); 0: none."""
    time_limit: int | None = field(None, ge=1)
    """Cut episodes after this many decisions (a truncation); unset keeps the environment's own limit."""
    collect_limit: int | None = field(None, ge=1)
    """While collecting, cut episodes (a truncation) after this many decisions already; unset never does."""
    patience: int | None = field(None, ge=1)
    """While collecting, cut episodes (a truncation) after this many decisions without a positive reward; unset never does."""
    same_episodes: bool = False
    """While collecting, every environment meets the same episodes, each in its turn: for agents that compare candidates."""


class ModelSettings(Config):
    """The parts of the world model that belong to no plugin."""

    memory_in_encoder: Literal["auto", "yes", "no"] = "auto"
    """Whether the encoder reads the memory h. auto: yes unless the dynamics runs in parallel over time, or later (staged)."""
    vector_scaling: Literal["symlog", "normalize", "none"] = "symlog"
    """Scaling of vector observations; "normalize" is symlog after the prefilled data's mean and std, saved with the model."""
    head_units: int = field(128, ge=1)
    """Width of the reward, continue and probe heads."""
    head_layers: int = field(1, ge=0)
    """Hidden layers of the reward and continue heads."""
    reward_scale: float = field(1.0, ge=0)
    """Weight of the reward loss; raise it where pictures say much and the reward hangs on little of it."""
    reward_grad: bool = True
    """Whether reward and continue losses train the representation; false makes them probes."""
    dyn_scale: float = field(1.0, ge=0)
    """Weight of the term that trains the dynamics' prediction of the latent."""
    rep_scale: float = field(0.1, ge=0)
    """Weight of the term that trains the encoder towards predictable latents."""
    free_nats: float = field(1.0, ge=0)
    """KL below this many nats per frame is not optimised: frame by frame where it is exact, by the batch's mean where sampled."""
    prior_anchor: float = field(0.01, ge=0)
    """Weight of KL(q || N(0, I)) for a posterior with a density whose prior has none."""
    frames_per_update: int | None = field(None, ge=0)
    """Random frames the decoder is trained on in one update; 0 means all of them, unset what the decoder asks for."""
    memory_in_decoder: Literal["auto", "yes", "no"] = "auto"
    """Whether the decoder sees the memory h beside z. auto: yes unless training is staged, where h comes later."""
    probe: Literal["auto", "yes", "no"] = "auto"
    """A small picture decoder on detached features. auto: only where the decoder cannot render."""


class TrainSettings(Config):
    """The training loop."""

    schedule: Literal["joint", "staged"] = "joint"
    """joint: all parts learn at once. staged: half of `pretrain` for encoder and decoder, half for the dynamics, then the agent."""
    freeze: tuple[Literal["encoder", "dynamics", "decoder"], ...] = ()
    """Parts whose weights stay as they were initialised: a control for what their training is worth."""

    prefill: int = field(1000, ge=1)
    """Environment steps taken with random actions before the first update."""
    prefill_hold: int = field(1, ge=1)
    """Each random action of the prefill is held for 1 to this many decisions: with inertia, single ones lead nowhere."""
    pretrain: int = field(100, ge=0)
    """Updates of the world model alone, right after the prefill; all it gets where training is staged."""
    pretrain_agent: int = field(0, ge=0)
    """Updates right after those, before the agent acts for the first time: where training is staged, of the agent alone."""
    ratio: float = field(0.5, gt=0)
    """Updates per environment step (decision)."""
    batch_size: int = field(16, ge=1)
    """Sequences in a batch (B)."""
    batch_length: int = field(32, ge=2)
    """Steps in a sequence (T)."""
    learning_rate: float = field(4e-4, gt=0)
    """Learning rate of the world model's main player."""
    final_rate: float = field(1.0, gt=0, le=1)
    """All learning rates fall linearly to this share of their start over the run's steps; 1 keeps them constant."""
    critic_learning_rate: float = field(2e-4, gt=0)
    """Learning rate of adversarial critics inside the world model."""
    clip: float = field(100.0, gt=0)
    """Global gradient norm at which updates are clipped."""
    starts: int = field(256, ge=1)
    """Posterior states from which the agent imagines in one update."""
    max_skips: int = field(10, ge=1)
    """Non-finite updates in a row after which the run stops as diverged."""
    threads: int = field(0, ge=0)
    """CPU threads for torch; 0 takes all cores, --strict takes one."""


class ReplaySettings(Config):
    """The store of experience."""

    capacity: int = field(1_000_000, ge=1000)
    """Environment steps kept; the oldest are dropped first."""
    storage: Literal["ram", "disk"] = "ram"
    """Where sampled data is read from. Every step is also appended to replay/ in the run folder."""
    source: str = ""
    """A run folder whose recorded experience is learned from, in its order, instead of playing: equal data for every model."""


class EvalSettings(Config):
    """How the agent is judged in the real environment."""

    every: int = field(5000, ge=0)
    """Environment steps between evaluations; 0 evaluates only at the end."""
    episodes: int = field(5, ge=1)
    """Episodes of an evaluation during training."""
    final_episodes: int = field(20, ge=1)
    """Episodes of the evaluation that ends a run."""
    dream_horizon: int = field(50, ge=0)
    """Decisions over which each evaluation also asks what the same policy earns in the dream, from the same starts; 0: never."""
    deterministic: bool = True
    """Judge the most likely action (Stable-Baselines3's custom); false judges the policy as it samples (DreamerV3's)."""


class LogSettings(Config):
    """What a run writes and when."""

    every: int = field(250, ge=1)
    """Environment steps between lines of metrics.jsonl."""
    pictures: int = field(5000, ge=0)
    """Environment steps between dream pictures; 0 draws only at the end."""
    checkpoint: int = field(5000, ge=1)
    """Environment steps between checkpoints."""
    keep: int = field(3, ge=2)
    """Checkpoints kept."""
    tensorboard: bool = True
    """Write TensorBoard events to tb/."""


class CoreSettings(Config):
    """Everything of a run but the parts' own tables."""

    seed: int = field(0, ge=0, lt=2**32)
    """Seeds every random stream of the run."""
    steps: int = field(10_000, ge=1)
    """Environment steps (decisions: one per chosen action) after which the run ends."""
    minutes: float | None = field(None, gt=0)
    """Wall-clock budget: training stops after this many minutes if steps are not reached; those before a resume count. Not
    bit-reproducible."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model trains."""
    strict: bool = False
    """Bit-reproducible on CPU: one thread, deterministic kernels."""
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
