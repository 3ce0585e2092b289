"""Defines the contract between the core and the three components of a world model: encoder, dynamics and decoder.

    encoder    q(z_t | o_t, h_t)                              infers the latent from the observation
    dynamics   h_t = f(h_{t-1}, z_{t-1}, a_{t-1}),  p(z_t | h_t)   predicts the next latent before the observation
    decoder    p(o_t | h_t, z_t)                              reconstructs or scores the observation

Letters: B batch, T time, N rows of any batch, E embed, D latent, H memory, F features, A action.
Plugins implement the mathematics. The core owns time, resets, action encoding, observation scaling, the reward and
continue heads, optimisers, gradient routing, random streams and checkpoints. docs/design.md gives the reasons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.distributions import Distribution
from worldlab.settings import Config
from worldlab.specs import ActionSpec, LatentSpec, ObsSpec, Specs

Obs = dict[str, Tensor]
"""A preprocessed observation by key of ObsSpec: images [N, C, H, W] in [-0.5, 0.5], vectors [N, n]."""

State = dict[str, Any]
"""The state of a dynamics: a tree of tensors with leaves [N, ...]. A module keeps no other state between steps."""

PosteriorKind = Literal["analytic", "own_logq", "implicit", "deterministic"]
"""What an encoder provides for its posterior q.

"analytic": a distribution in closed form. "own_logq": the log-density of its own samples. "implicit": samples only.
"deterministic": a point plus fixed channel noise.
"""

PriorKind = Literal["analytic", "log_prob", "sampler", "critic"]
"""What a dynamics provides for its prior p.

"analytic": a distribution in closed form. "log_prob": a log-density. "sampler": samples only, trained by its own loss
(adversarial, flow matching). "critic": samples, trained by its own contrastive loss.
"""

ScoreKind = Literal["log_density", "critic", "contrastive"]
"""What `Decoder.score` returns.

"log_density": log p(x | h, z) in nats. "critic": the value of a critic. "contrastive": the log-ratio log p(x|z)/p(x) up
to a constant, learned contrastively or otherwise.
"""

Likelihood = Literal["exact", "bound", "undefined"]
"""What `HasLogMass.log_mass` computes of log P(o | h, z), the probability of an image's 256 grey levels.

"exact": its value. "bound": a lower bound. "undefined": the decoder has no log_mass.
"""

Draws = Literal["mode", "sample"]
"""How a decoder draws an image: the mode of its distribution, or a sample from it."""

DECLARATIONS: dict[str, dict[str, object]] = {
    "encoder": {"posterior_kind": PosteriorKind},
    "dynamics": {"prior_kind": PriorKind},
    "decoder": {"score_kind": ScoreKind, "likelihood": Likelihood, "draws": Draws},
}
"""The class attributes that a component of each role declares, and their accepted values."""


def declaration_error(part: Component) -> str:
    """Describe the first declaration of a component that is missing or not accepted; "" if all are valid."""
    for role, cls in (("encoder", Encoder), ("dynamics", Dynamics), ("decoder", Decoder)):
        for name, words in DECLARATIONS[role].items() if isinstance(part, cls) else ():
            value = getattr(part, name, None)
            if value not in get_args(words):
                return f"{name} is {value!r}, not one of {', '.join(get_args(words))}"
    return ""


@dataclass(frozen=True)
class Latent:
    """The latent that an encoder infers from an observation."""

    z: Tensor
    """The latent [N, D]: always float, flat and differentiable."""
    dist: Any = None
    """The posterior q, a distribution of tensors [N, ...]: in closed form with posterior_kind "analytic", where its KL trains
    the encoder; optional with "own_logq", where its entropy, if it has one, is used in place of -log_q."""
    log_q: Tensor | None = None
    """log q(z) [N] in nats of this z, for an encoder with posterior_kind "own_logq"."""
    tokens: Tensor | None = None
    """The code indices [N, G], long, for discrete latents."""
    aux: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Tensors [N, ...] that the encoder needs again in its own losses."""


@dataclass(frozen=True)
class Batch:
    """Replayed sequences, aligned by arrival and read-only. The core builds them."""

    obs: Obs
    """Preprocessed observations, {key: [B, T, ...]}."""
    prev_action: Tensor
    """[B, T, A]. prev_action[t] led to obs[t]; it is 0 at a reset."""
    reward: Tensor
    """[B, T] float. reward[t] was received on arrival at obs[t]; it is 0 at a reset."""
    cont: Tensor
    """[B, T] float: 0 where the episode terminated on arrival, else 1. A truncation keeps 1."""
    is_first: Tensor
    """[B, T] bool: whether obs[t] is the first observation after a reset."""
    mask: Tensor
    """[B, T] float: 1 for a valid step; with `model.samples` K above 1, K times the row's share of its particles' weight."""


@dataclass(frozen=True)
class Context:
    """One forward pass over a batch: the input of a component's losses.

    Tensors carry gradients for the "main" player and are detached for all others. A decoder may receive a random subset
    of the frames; the leading shape is then [M, 1] instead of [B, T].
    """

    batch: Batch
    embed: Tensor
    """[B, T, E], from `Encoder.embed`."""
    memory: Tensor
    """[B, T, H], along the posterior."""
    latent: Latent
    """The posterior latent, leaves [B, T, ...]."""
    features: Tensor
    """[B, T, F] = cat(memory, z)."""
    prior: Distribution | None
    """The dynamics' distribution of z[t] given memory[t], over B * T rows; None in a subset of frames."""
    row: Tensor
    """[B, T] long: the row of each frame in the batch."""
    time: Tensor
    """[B, T] long: the time step of each frame in the batch."""
    generator: torch.Generator
    """Source of all random numbers in losses."""
    z_trains_through_dynamics: bool = False
    """Whether the dynamics' own loss may train z: only if the encoder is "deterministic"."""

    def detach(self) -> Context:
        """Return the same context, detached from the graph; the generator is shared."""
        return tree.detach(self)

    def frames(self, row: Tensor, time: Tensor) -> Context:
        """Return the frames at (row, time), each [M], as a context of shape [M, 1] without the prior."""
        subset = replace(self, prior=None)
        return tree.tree_map(lambda leaf: leaf[row, time][:, None], subset)


@dataclass(frozen=True)
class Alarm:
    """A warning that a part's metrics show a known failure."""

    says: str
    """A clause that describes the failure, for the user."""
    cure: str
    """A clause that gives the usual remedy, for the user."""


@dataclass(frozen=True)
class Player:
    """Parameters that one Adam optimiser trains."""

    parameters: list[nn.Parameter]
    rate: float | None = None
    """Learning rate.

    None takes train.learning_rate for "main", and train.critic_learning_rate for any other player of a world model.
    """
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's betas.

    Adversarial critics often use a first beta of 0: no momentum (Karras et al. 2018, arXiv:1812.04948).
    """


class Component(nn.Module, ABC):
    """A part of the world model with weights.

    Concrete components are final: they implement one role and are not subclassed. Every component is built as
    `Cls(config, specs)` and registered by name with its `Config`.
    """

    Config: ClassVar[type[Config]]
    """The settings of the component."""

    loss_weights: Mapping[str, float] | None = None
    """The weight of every term that `losses` returns, for all players; None weighs each term 1.

    Set it if weights are settings.
    """

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def players(self) -> dict[str, Player]:
        """Return the parameters by player: "main", and "critic" for an adversarial part.

        Every parameter belongs to exactly one player.
        """
        return {"main": Player(list(self.parameters()))}

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the loss terms of one player by name; by default there are none.

        Each term is unweighted, unreduced, in nats per frame, with the shape of ctx.row.
        """
        return {}

    def after_step(self, player: str) -> None:
        """Update moving averages or code books. Called after each optimiser step of `player`."""

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return scalars to log, by name. Called without gradient and with a detached context."""
        return {}

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        """Return the failures, by name, that `values` (the last result of `metrics`) indicate.

        The core reports each once.
        """
        return {}


class Encoder(Component):
    """The posterior q(z | o, h): infers the latent from an observation."""

    posterior_kind: PosteriorKind
    """What the encoder provides for q; the core chooses the matching loss by it (worldlab.model.matching)."""
    uses_memory: bool = True
    """Whether `infer` can read the memory h."""

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def latent_spec(cls, config: Any) -> LatentSpec:
        """Return the latent that this configuration emits. Called before any component is built."""

    @abstractmethod
    def embed(self, obs: Obs) -> Tensor:
        """Embed each frame on its own: the expensive computation, parallel over time. obs: leaves [N, ...].

        Returns [N, E].
        """

    @abstractmethod
    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        """Infer the latent at one time step: the cheap computation.

        embed: [N, E]. memory: [N, H], or None if this mix does not read it (`specs.use_memory`). generator: None
        returns the most likely z without noise, for deterministic acting and evaluation.
        """


class Dynamics(Component):
    """The transition h' = f(h, z, a) and the prior p(z | h)."""

    prior_kind: PriorKind
    """What the dynamics provides for p; the core chooses the matching loss by it (worldlab.model.matching)."""
    reparameterised: bool = True
    """Whether samples have meaningful gradients with respect to the memory (pathwise or straight-through).

    Only then can an agent differentiate through imagination.
    """

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()

    @classmethod
    @abstractmethod
    def memory_size(cls, config: Any, latent: LatentSpec, action: ActionSpec) -> int:
        """Return the width H of the memory. Called before any component is built."""

    @classmethod
    def holds(cls, config: Any, latent: LatentSpec) -> int:
        """Return how many first entries of z this configuration holds between ticks of a slow clock (`Specs.held`)."""
        return 0

    @classmethod
    def runs_in_parallel(cls, config: Any) -> bool:
        """Return whether this configuration has `advance_sequence` (ParallelDynamics).

        Called before any component is built.
        """
        return hasattr(cls, "advance_sequence")

    @abstractmethod
    def initial(self, n: int) -> State:
        """Return the state of n rows before the first observation: leaves [n, ...] on this module's device."""

    @abstractmethod
    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        """Return the next state, from state [N, ...], z [N, D] and action [N, A] of the last step.

        The input is not modified.
        """

    @abstractmethod
    def memory(self, state: State) -> Tensor:
        """Return the memory h [N, H] of a state: all that the rest of the model reads of it."""

    @abstractmethod
    def predict(self, memory: Tensor) -> Distribution:
        """Return the prior p(z | h) for memory [N, H]."""


@dataclass(frozen=True)
class Unrolled:
    """The result of a dynamics that ran over a whole sequence."""

    memory: Tensor
    """[B, T, H]."""
    final: State
    """The state after the last step."""
    at: Callable[[Tensor, Tensor], State]
    """at(row, time) returns the states [M, ...] after step `time` of row `row`, both [M] long."""
    shared_at: Callable[[Tensor, Tensor], State] | None = None
    """The same for imagination only, row in ascending order: the states may share their past (SharesPast)."""


@runtime_checkable
class ParallelDynamics(Protocol):
    """A dynamics that runs over time in one pass. The result must equal the step-by-step scan, including resets."""

    def advance_sequence(self, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
        """Run over a sequence from state [B, ...].

        z [B, T, D] and action [B, T, A] belong to the PREVIOUS step. is_first [B, T] bool: where true, the step starts
        from the initial state (z and action are already 0 there).
        """
        ...


@runtime_checkable
class SharesPast(Protocol):
    """A dynamics whose state is large (such as an attention cache), so that many futures of one row should share it."""

    def fork(self, state: State, count: int) -> State:
        """Return a state for `count` futures of each row of state [N, ...]; those of row i start at row i * count.

        `memory` and `advance` must see [N * count, ...]; shared leaves may have any shape. The core uses the result for
        imagination only and never indexes it.
        """
        ...


@runtime_checkable
class ScoresLatent(Protocol):
    """A dynamics that scores latents, by a critic or a log-ratio.

    The matching loss trains encoders through the frozen score.
    """

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        """Return the score [N] of z [N, D] given memory [N, H]; higher is more plausible."""
        ...


@runtime_checkable
class HasMembers(Protocol):
    """A dynamics of several members with one memory, each with a prior of its own: an ensemble.

    Its `predict` is the prior of the first member. In imagination the core samples a member for each row and keeps it.
    """

    def each(self) -> Sequence[Dynamics]:
        """Return the members. Each predicts from the memory that the ensemble computes."""
        ...

    def row_weights(self, ctx: Context) -> Tensor:
        """Draw how much each row of a batch trains each member: [K, B], with mean 1."""
        ...


class Decoder(Component):
    """The observation model p(o | h, z): reconstructs or scores an observation from features."""

    score_kind: ScoreKind
    """What `score` returns."""
    renders: bool = True
    """Whether `decode` returns observations.

    If not, the core trains a small probe decoder for pictures (`model.probe`).
    """
    draws: Draws = "mode"
    """How `WorldModel.render` draws images.

    "mode" suits distributions that add noise around an image; "sample" suits those whose samples are the images.
    """
    likelihood: Likelihood = "undefined"
    """What is known of the probability P(o | h, z) of an image's 256 grey levels.

    "exact" and "bound" require the method `log_mass` (HasLogMass).
    """
    frames: int = 0
    """Number of random frames of a batch that `losses` receives; 0 means all.

    Set it for a decoder that is expensive per frame. The setting `model.frames_per_update` overrides it.
    """

    @abstractmethod
    def __init__(self, config: Any, specs: Specs) -> None:
        super().__init__()

    @abstractmethod
    def decode(self, features: Tensor) -> dict[str, Distribution]:
        """Return distributions by observation key for features [N, F]; each `mode` is [N, *shape].

        A decoder that does not render returns {}.
        """

    @abstractmethod
    def score(self, features: Tensor, obs: Obs) -> Tensor:
        """Return how well obs fits features, [N] in nats; `score_kind` gives the meaning."""

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return -log p(o | features) by observation key, shaped as ctx.row, from the distributions of `decode`.

        Override this if the distributions have no log_prob, or if the decoder trains by another loss.
        """
        if player != "main":
            return {}
        obs = tree.flatten_time(ctx.batch.obs)
        parts: dict[str, Any] = self.decode(ctx.features.flatten(0, 1))
        return {key: -_sum_per_frame(dist.log_prob(obs[key]), ctx) for key, dist in parts.items()}


def _sum_per_frame(log_prob: Tensor, ctx: Context) -> Tensor:
    """Sum the log-probabilities [N, ...] of each frame; the result has the shape of ctx.row."""
    return log_prob.reshape(ctx.row.numel(), -1).sum(1).view_as(ctx.row)


@runtime_checkable
class HasLogMass(Protocol):
    """A decoder with a likelihood of images, from which the core computes bits per dimension."""

    def log_mass(self, features: Tensor, obs: Obs, generator: torch.Generator) -> Tensor:
        """Return log P(o | h, z) of the grey levels of the images, [N] in nats.

        Either exact, or a random number whose exponential has a mean of at most P(o | h, z) (a flow's dequantisation).
        The core calls it only where every observation is an image: vectors have no grey levels.
        """
        ...


def parameter_count(modules: Iterable[nn.Module]) -> int:
    """Count the trainable parameters of modules."""
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
    "HasMembers",
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
