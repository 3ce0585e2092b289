"""Settings: the base class of every configuration, and the settings of a run that belong to the core.

Parts add their own tables: [encoder], [dynamics], [decoder], [agent]. Every default of the core is written here and nowhere
else; presets (worldlab/config/presets/*.toml) override them. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

SIZES = ("nano", "tiny", "small", "medium", "large")
"""The positions of the dial `--size`. nano is for tests, large is DreamerV3's small model."""
DIAL: dict[str, dict[str, int]] = {
    "units": {"nano": 16, "tiny": 64, "small": 96, "medium": 256, "large": 512},
    "memory": {"nano": 16, "tiny": 64, "small": 96, "medium": 256, "large": 512},
    "width": {"nano": 4, "tiny": 8, "small": 16, "medium": 24, "large": 32},
}
"""What one size means in every part. units: of hidden layers. memory: width H of the dynamics' memory. width: channels of the
first convolution. `--model.units`, `--model.memory` and `--model.width` set one of them for all parts."""
Size = Literal["nano", "tiny", "small", "medium", "large"]

if TYPE_CHECKING:

    def field(default: Any = ..., *, expert: bool = False, **rules: Any) -> Any: ...
    def sized(dial: str = "", /, *, gt: Any = None, ge: Any = None, le: Any = None, **sizes: int) -> Any: ...

else:

    def field(default=..., *, expert=False, **rules):
        """Declare a setting: `std: float = field(1.0, gt=0)`; the docstring below it becomes its help.

        rules: bounds, as pydantic's Field takes them. expert: shown by --help-all only.
        """
        return Field(default, json_schema_extra={"expert": True} if expert else None, **rules)

    def sized(dial="", /, **sizes_and_rules):
        """Declare a size that follows `--size`: `units: int = sized("units", ge=1)`, or with values of its own for each size:
        `depth: int = sized(nano=1, tiny=2, small=3, medium=4, large=4, ge=1)`. A config built by hand has those of "medium".
        """
        sizes = {name: sizes_and_rules.pop(name) for name in SIZES if name in sizes_and_rules}
        if dial:
            sizes = DIAL[dial]
        assert set(sizes) == set(SIZES), (
            f"a sized setting names a dial ({', '.join(DIAL)}) or gives all of {', '.join(SIZES)}"
        )
        extra = {"expert": True, "sizes": sizes, "dial": dial}
        return Field(sizes["medium"], json_schema_extra=extra, **sizes_and_rules)


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

    @classmethod
    def sized(cls, size: Size, **values: Any) -> Self:
        """Build the configuration at a size of the dial. values: fields to set besides."""
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
        """Return the values of the sized settings at a size, by dotted path.

        dial: values that replace those of DIAL ("units", "memory", "width") for settings that follow it.
        """
        found: dict[str, int] = {}
        for name, info in cls.model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "sizes" in extra:
                found[name] = (dial or {}).get(str(extra["dial"]), extra["sizes"][size])  # type: ignore[index, call-overload]
            elif isinstance(info.annotation, type) and issubclass(info.annotation, Config):
                found.update({f"{name}.{path}": value for path, value in info.annotation.at_size(size, dial).items()})
        return found


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
    distractors: float = field(0.0, ge=0, le=0.9, expert=True)
    """Blobs that move by themselves are blended over every picture, this strongly (0.5: half blob, half picture); 0: none."""
    time_limit: int | None = field(None, ge=1)
    """Cut episodes after this many decisions (a truncation); unset keeps the environment's own limit."""
    collect_limit: int | None = field(None, ge=1, expert=True)
    """While collecting, cut episodes (a truncation) after this many decisions already; unset never does."""
    patience: int | None = field(None, ge=1, expert=True)
    """While collecting, cut episodes (a truncation) after this many decisions without a positive reward; unset never does."""
    same_episodes: bool = field(False, expert=True)
    """While collecting, every environment meets the same episodes, each in its turn: for agents that compare candidates."""


class ModelSettings(Config):
    """The parts of the world model that belong to no plugin."""

    units: int = sized("units", ge=1)
    """Hidden units of the reward, continue and probe heads, and of every part that does not set its own."""
    memory: int = sized("memory", ge=1)
    """Width H of the memory of every dynamics that does not set its own."""
    width: int = sized("width", ge=1)
    """Channels of the first convolution in every part that does not set its own."""
    memory_in_encoder: Literal["auto", "yes", "no"] = field("auto", expert=True)
    """Whether the encoder reads the memory h. auto: yes unless the dynamics runs in parallel over time, or later (staged)."""
    vector_scaling: Literal["symlog", "normalize", "none"] = "symlog"
    """Scaling of vector observations; "normalize" is symlog after the prefilled data's mean and std, saved with the model."""
    reward_scale: float = field(1.0, ge=0)
    """Weight of the reward loss. Increase it if the image loss dominates and the reward depends on a few pixels."""
    reward_grad: bool = field(True, expert=True)
    """Whether reward and continue losses train the representation; false makes them probes."""
    dyn_scale: float = field(1.0, ge=0, expert=True)
    """Weight of the term that trains the dynamics' prediction of the latent."""
    rep_scale: float = field(0.1, ge=0)
    """Weight of the term that trains the encoder towards predictable latents."""
    free_nats: float = field(1.0, ge=0)
    """KL below this many nats per frame is not optimised: frame by frame where it is exact, by the batch's mean where sampled."""
    frames_per_update: int | None = field(None, ge=0, expert=True)
    """Random frames the decoder is trained on in one update; 0 means all of them, unset the decoder's own number."""
    probe: Literal["auto", "yes", "no"] = field("auto", expert=True)
    """A small picture decoder on detached features. auto: only where the decoder cannot render."""
    head_layers: ClassVar[int] = 1
    """Hidden layers of the reward and continue heads."""
    prior_anchor: ClassVar[float] = 0.01
    """Weight of KL(q || N(0, I)) for a posterior with a density whose prior has none. A score is a log-ratio to the latent's
    marginal, so it does not fix the latent's scale; this light pull does."""


class TrainSettings(Config):
    """The training loop."""

    schedule: Literal["joint", "staged"] = "joint"
    """joint: all parts learn at once. staged: half of `pretrain` for encoder and decoder, half for the dynamics, then the agent."""
    freeze: tuple[Literal["encoder", "dynamics", "decoder"], ...] = field((), expert=True)
    """Parts whose weights stay as they were initialised: a control for what their training is worth."""

    prefill: int = field(1000, ge=1)
    """Environment steps taken with random actions before the first update."""
    prefill_hold: int = field(1, ge=1, expert=True)
    """Each random action of the prefill is held for 1 to this many decisions: with inertia, single ones lead nowhere."""
    pretrain: int = field(100, ge=0)
    """Updates of the world model alone, right after the prefill; all it gets where training is staged."""
    pretrain_agent: int = field(0, ge=0, expert=True)
    """Updates right after those, before the agent acts for the first time: where training is staged, of the agent alone."""
    ratio: float = field(0.5, gt=0)
    """Updates per environment step (decision)."""
    batch_size: int = field(16, ge=1)
    """Sequences in a batch (B)."""
    batch_length: int = field(32, ge=2)
    """Steps in a sequence (T)."""
    learning_rate: float = field(4e-4, gt=0)
    """Learning rate of the world model's main player."""
    final_rate: float = field(1.0, gt=0, le=1, expert=True)
    """All learning rates fall linearly to this share of their start over the run's steps; 1 keeps them constant."""
    critic_learning_rate: float = field(2e-4, gt=0, expert=True)
    """Learning rate of adversarial critics inside the world model."""
    starts: int = field(256, ge=1)
    """Posterior states from which the agent imagines in one update."""
    threads: int = field(0, ge=0)
    """CPU threads for torch; 0 takes all cores, --strict takes one."""
    clip: ClassVar[float] = 100.0
    """Global gradient norm at which updates are clipped: far above a healthy update's, as in DreamerV3's first version."""
    max_skips: ClassVar[int] = 10
    """Non-finite updates in a row after which the run stops as diverged: one batch may be bad, ten are not."""


class ReplaySettings(Config):
    """The store of experience."""

    capacity: int = field(1_000_000, ge=1000)
    """Environment steps kept; the oldest are dropped first."""
    storage: Literal["ram", "disk"] = field("ram", expert=True)
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
    dream_horizon: int = field(50, ge=0, expert=True)
    """Decisions over which each evaluation also asks what the same policy earns in the dream, from the same starts; 0: never."""
    deterministic: bool = field(True, expert=True)
    """Judge the most likely action (Stable-Baselines3's custom); false judges the policy as it samples (DreamerV3's)."""


class LogSettings(Config):
    """What a run writes and when."""

    every: int = field(250, ge=1)
    """Environment steps between lines of metrics.jsonl."""
    pictures: int = field(5000, ge=0)
    """Environment steps between dream pictures; 0 draws only at the end."""
    checkpoint: int = field(5000, ge=1)
    """Environment steps between checkpoints."""
    keep: int = field(3, ge=2, expert=True)
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
    size: Size = "medium"
    """Size of every network: hidden units, memory, channels. Presets choose it; a part's own setting overrides it."""
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
