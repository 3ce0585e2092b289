"""The contract: what an encoder, a latent dynamics and a decoder are, and what the core gives and takes.

    encoder    q(z_t | o_t, h_t)                              infers the latent from what is seen
    dynamics   h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  p(z_t | h_t)   predicts the next latent before seeing it
    decoder    p(o_t | h_t, z_t)                              explains the observation

Letters: B batch, T time, N rows of any batch, E embed, D latent, H memory, F features, A action.
Plugins own mathematics. The core owns time, resets, action encoding, observation scaling, the reward and
continue heads, optimisers, gradient routing, random streams, checkpoints. docs/design.md says why.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import Distribution
from worldlab.settings import Config
from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs

Obs = dict[str, Tensor]
"""Preprocessed observation: images [N, C, H, W] in [-0.5, 0.5], vectors [N, n], by key of ObsSpec."""

State = dict[str, Any]
"""A dynamics' state: a tree of tensors, [N, ...] on every leaf, nothing hidden in the module."""

PosteriorKind = Literal["analytic", "own_logq", "implicit", "deterministic"]
"""What an encoder knows of q: a distribution in closed form; the log-density of its own samples; only samples;
a point plus fixed channel noise."""

PriorKind = Literal["analytic", "log_prob", "sampler", "critic"]
"""What a dynamics knows of p: a distribution in closed form; a log-density; only samples, trained by its own loss
(adversarial, flow matching); samples, trained by its own contrastive loss."""

ScoreKind = Literal["log_density", "critic", "contrastive"]
"""What `Decoder.score` returns: nats, a critic's value, or a log-ratio log p(x|z)/p(x) up to a constant, learned by
contrast or otherwise."""


Likelihood = Literal["exact", "bound", "undefined"]
"""What is known of P(o | h, z), the probability of a picture's 256 grey levels."""

Draws = Literal["mode", "sample"]
"""What a decoder's own picture is: its distribution's mode, or a sample."""

DECLARATIONS: dict[str, dict[str, Any]] = {
    "encoder": {"posterior_kind": PosteriorKind},
    "dynamics": {"prior_kind": PriorKind},
    "decoder": {"score_kind": ScoreKind, "likelihood": Likelihood, "draws": Draws},
}
"""What a component of each role declares of itself in words, and the words there are."""


def declaration_error(part: Component) -> str:
    """What is wrong with the words that a component declares; "" where nothing is."""
    for role, cls in (("encoder", Encoder), ("dynamics", Dynamics), ("decoder", Decoder)):
        for name, words in DECLARATIONS[role].items() if isinstance(part, cls) else ():
            value = getattr(part, name, None)
            if value not in get_args(words):
                return f"{name} is {value!r}, not one of {', '.join(get_args(words))}"
    return ""


@dataclass(frozen=True)
class Latent:
    """What is inferred from an observation.

    z: [N, D], always float, flat and differentiable. dist: q in closed form, where the family has it.
    log_q: [N], log q of this very z in nats, where only that is known. tokens: [N, G] long, for discrete codes.
    aux: tensors the family wants back in its own losses, [N, ...].
    """

    z: Tensor
    dist: Any = None
    log_q: Tensor | None = None
    tokens: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Replayed sequences, arrival-aligned and read-only. Built by the core.

    prev_action[t] led to obs[t]; reward[t] and cont[t] were received on arriving there. is_first[t] marks a reset:
    prev_action and reward are 0 there. cont is 0 only where the episode terminated (a truncation keeps 1).
    obs: {key: [B, T, ...]}; prev_action [B, T, A]; reward, cont, mask [B, T] float; is_first [B, T] bool.
    """

    obs: Obs
    prev_action: Tensor
    reward: Tensor
    cont: Tensor
    is_first: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Context:
    """What a component's losses may read: one forward pass over a batch.

    embed [B, T, E]; memory [B, T, H] and latent (leaves [B, T, ...]) are the posterior's; features [B, T, F];
    prior: the dynamics' distribution of z[t] given memory[t], over B * T rows. row, time: [B, T] long, where each
    frame stands in the batch (a decoder may be given a random subset, shaped [M, 1]).
    z_trains_through_dynamics: whether a dynamics' own loss may train z: only where the encoder is "deterministic".
    Tensors carry gradients for the main player and are detached for the others.
    """

    batch: Batch
    embed: Tensor
    memory: Tensor
    latent: Latent
    features: Tensor
    prior: Distribution | None
    row: Tensor
    time: Tensor
    generator: torch.Generator
    z_trains_through_dynamics: bool = False

    def detach(self) -> Context:
        """The same context, cut from the graph; the generator is shared."""
        return tree.detach(self)

    def frames(self, row: Tensor, time: Tensor) -> Context:
        """The frames at (row, time), each [M], as a context of shape [M, 1]; without the prior."""
        subset = replace(self, prior=None)
        return tree.tree_map(lambda leaf: leaf[row, time][:, None], subset)


@dataclass(frozen=True)
class Alarm:
    """A failure that shows in a part's metrics, and what usually cures it. Both are sentences for people."""

    says: str
    cure: str


@dataclass(frozen=True)
class Player:
    """Parameters that one optimiser (Adam) steps.

    rate: its learning rate; None takes train.learning_rate for "main" and train.critic_learning_rate for any other player of
    a world model. betas: Adam's; an adversarial critic forgets fast with a first of 0 (Karras et al. 2018, arXiv:1812.04948).
    """

    parameters: list[nn.Parameter]
    rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)


class Component(nn.Module, ABC):
    """A part with weights. Concrete components are final: they implement a role and are not subclassed.

    Every component is built as `Cls(config, specs)` and registered by name with its `Config`.
    """

    Config: ClassVar[type[Config]]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    loss_weights: Mapping[str, float] | None = None
    """Weight of every term that `losses` returns, over all players; None: each weighs 1. Set it where a config has weights."""

    def players(self) -> dict[str, Player]:
        """Return the parameters by player: "main", and for an adversarial part "critic". Each belongs to exactly one."""
        return {"main": Player(list(self.parameters()))}

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return one player's terms by name: unweighted, unreduced, shaped as ctx.row, in nats per frame. None by default."""
        return {}

    def after_step(self, player: str) -> None:
        """Called after each optimiser step of `player`: moving averages, code books."""

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Scalars worth watching, computed without gradient from a detached context."""
        return {}

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        """Failures that `values`, what `metrics` last gave, are signs of, by name; the core tells the user once."""
        return {}


class Encoder(Component):
    """q(z | o, h). `posterior_kind` declares what is known of q; `uses_memory`, whether `infer` has a use for h at all."""

    posterior_kind: PosteriorKind
    uses_memory: bool = True

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def latent_spec(cls, config: Any) -> LatentSpec:
        """The latent this configuration emits; asked before anything is built."""

    @abstractmethod
    def embed(self, obs: Obs) -> Tensor:
        """Frame by frame, the heavy and parallel part. obs: [N, ...] leaves. Returns [N, E]."""

    @abstractmethod
    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """The light part. embed [N, E]; memory [N, H], or None if the mix does not read it (`specs.use_memory`).

        generator None asks for the most likely z, without noise: acting deterministically and evaluation.
        """


class Dynamics(Component):
    """h' = f(h, z, a) and p(z | h). `prior_kind` declares what is known of p.

    reparameterised: whether gradients of samples with respect to the memory are meaningful (pathwise or
    straight-through), so that an agent may differentiate through imagination.
    """

    prior_kind: PriorKind
    reparameterised: bool = True

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def memory_size(cls, config: Any, latent: LatentSpec, action: ActionSpec) -> int:
        """Width H of the memory; asked before anything is built."""

    @abstractmethod
    def initial(self, n: int) -> State:
        """State before anything was seen. Every leaf [n, ...], on this module's device."""

    @abstractmethod
    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        """One step: state [N, ...], z [N, D] and action [N, A] of the last step. Returns a new state; changes nothing."""

    @abstractmethod
    def memory(self, state: State) -> Tensor:
        """What the rest of the model may read of a state: [N, H]."""

    @abstractmethod
    def predict(self, memory: Tensor) -> Distribution:
        """p(z | h) for memory [N, H], before the observation is seen."""


@dataclass(frozen=True)
class Unrolled:
    """A dynamics run over a whole sequence. memory [B, T, H]; final: State after the last step;
    at(row, time): the State [M, ...] after step `time` of row `row`, both [M] long."""

    memory: Tensor
    final: State
    at: Callable[[Tensor, Tensor], State]


@runtime_checkable
class ParallelDynamics(Protocol):
    """A dynamics that can run over time in one pass. Must equal the step-by-step scan, resets included."""

    def advance_sequence(self, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
        """state [B, ...]; z [B, T, D] and action [B, T, A] are those of the step BEFORE; is_first [B, T] bool: the
        state is the initial one there (z and action are already 0)."""
        ...


@runtime_checkable
class SharesPast(Protocol):
    """A dynamics whose state holds so much of the past that many futures of one row had better share it than copy it."""

    def fork(self, state: State, count: int) -> State:
        """state [N, ...] -> that of `count` futures of each row, row i's at i * count and on: [N * count, ...] where memory and
        advance look, and of any other shape besides. It serves imagination only; the core does not take it apart."""
        ...


@runtime_checkable
class ScoresLatent(Protocol):
    """A dynamics with a critic's score or a log-ratio of (memory [N, H], z [N, D]) -> [N], higher is more plausible.
    The matching rule trains encoders through it, with the score's own weights frozen."""

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor: ...


class Decoder(Component):
    """p(o | h, z). Declares what `score` means and whether `decode` gives pictures of its own.

    likelihood: what is known of P(o | h, z), the probability of a picture's 256 grey levels: "exact" or "bound" where the
    decoder offers `log_mass` (HasLogMass), else "undefined". frames: how many random frames of a batch its losses are
    given where the user does not say (`model.frames_per_update`); 0 means all. For decoders of which one frame costs as
    much as a rollout. draws: what a picture of its own is: the distribution's mode, where that is a picture and the rest noise
    around it; or a sample, where the distribution itself makes the picture.
    """

    score_kind: ScoreKind
    renders: bool = True
    draws: Draws = "mode"
    likelihood: Likelihood = "undefined"
    frames: int = 0

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()

    @abstractmethod
    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """features [N, F]. Returns by observation key a distribution whose `mode` is [N, *shape]; empty if it cannot."""

    @abstractmethod
    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """How well obs fits features, [N]; its meaning is `score_kind`, its unit nats."""

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return -log p(o | features) by observation key, shaped as ctx.row, from the distributions of `decode`.

        A decoder whose distributions have no log_prob, or that trains by another loss, overrides this.
        """
        if player != "main":
            return {}
        obs = tree.flatten_time(ctx.batch.obs)
        parts: dict[str, Any] = self.decode(ctx.features.flatten(0, 1))
        return {key: -_sum_per_frame(dist.log_prob(obs[key]), ctx) for key, dist in parts.items()}


def _sum_per_frame(log_prob: Tensor, ctx: Context) -> Tensor:
    """Sum what a distribution leaves of a picture's dimensions: [N, ...] -> shaped as ctx.row."""
    return log_prob.reshape(ctx.row.numel(), -1).sum(1).view_as(ctx.row)


@runtime_checkable
class HasLogMass(Protocol):
    """A decoder of pictures with a likelihood, from which bits per dimension follow."""

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """log P(o | h, z) of the observation's grey levels, [N] in nats: exact, or a random number whose exponential has
        at most that mean (a flow's dequantisation). Vectors have no levels: Raises ConfigError if there are any."""
        ...


def parameter_count(modules: Iterable[nn.Module]) -> int:
    """Trainable parameters of some modules."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


__all__ = [
    "ActionSpec",
    "Alarm",
    "Batch",
    "Component",
    "Context",
    "Decoder",
    "Dynamics",
    "Encoder",
    "HasLogMass",
    "Latent",
    "LatentSpec",
    "Obs",
    "ObsSpec",
    "ParallelDynamics",
    "Player",
    "ScoresLatent",
    "SharesPast",
    "Specs",
    "State",
    "Unrolled",
    "parameter_count",
]
