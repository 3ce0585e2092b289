"""Measures the health of a world model at every log line, and raises alarms with a remedy.

Losses do not show a collapse: the likelihood of the next latent is highest when the latent is constant. So the monitor
measures what a linear probe reads from the latent (compared to an untrained encoder), how many directions the latent
uses, whether the decoder's score distinguishes a frame's own features from those of another frame, and how much of the
reward its head knows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab import tree
from worldlab.interfaces import Alarm, Context, Decoder, Obs
from worldlab.model import matching

if TYPE_CHECKING:
    from worldlab.world_model import WorldModel

FRAMES = 64
"""Number of frames for the decoder's score and for bits per dimension."""
RIDGE = 0.01
"""Ridge penalty of the probe per row, for inputs of variance 1."""
SETTLED = 200
"""Number of updates before the first alarm: every latent looks collapsed at the start."""


def latent_health(signal: Tensor) -> dict[str, Tensor]:
    """Measure how much of the latent varies. signal: z [N, D] without sampling noise, which would hide a collapse.

    signal_std, min_std: mean and minimum over dimensions of the standard deviation over frames. active: number of
    dimensions whose variance exceeds 0.01
    (Burda et al. 2015, arXiv:1509.00519, section 5.2). effective_rank: exp of the entropy of the normalised singular
    values (Roy & Vetterli 2007).
    """
    z = signal.float()[:512]
    z = z - z.mean(0)
    singular = cast(Tensor, torch.linalg.svdvals(z))  # pyright: ignore[reportUnknownMemberType]
    share = singular / singular.sum().clamp(min=1e-12)
    return {
        "signal_std": z.std(0).mean(),
        "min_std": z.std(0).min(),
        "active": (z.var(0) > 0.01).sum().float(),
        "effective_rank": torch.exp(-(share * share.clamp(min=1e-12).log()).sum()),
    }


def thumbnail(obs: Obs) -> Tensor:
    """Return the targets [N, K] of the linear probe: vectors unchanged, images as 4 x 4 grey images."""
    parts = [F.adaptive_avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1) if x.dim() == 4 else x for x in obs.values()]
    return torch.cat(parts, -1).float()


def probe_r2(inputs: Tensor, target: Tensor) -> Tensor:
    """Return the R2, at least -1, of a ridge regression from inputs [N, D] to target [N, K].

    It is fitted to every second row and evaluated on the others. Rows are frames in order, so the neighbours of an
    evaluated frame are in the fit. A batch has too few sequences to evaluate new ones: fitted to half of 8 sequences,
    an encoder's R2 varied between -1 and 0.4 from one log line to the next.
    """
    seen = slice(0, None, 2)
    x, y = inputs.double(), target.double()
    x = (x - x[seen].mean(0)) / x[seen].std(0).clamp(min=1e-6)
    y = (y - y[seen].mean(0)) / y.std(0).clamp(min=1e-6)
    ridge = RIDGE * len(x[seen]) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    gram, moment = x[seen].mT @ x[seen] + ridge, x[seen].mT @ y[seen]
    weight = cast(Tensor, torch.linalg.solve(gram, moment))  # pyright: ignore[reportUnknownMemberType]
    unseen = y[1::2]
    error = (x[1::2] @ weight - unseen).square().mean()
    return (1 - error / unseen.square().mean().clamp(min=1e-12)).clamp(min=-1).float()


def features_gap(decoder: Decoder, features: Tensor, obs: Obs) -> dict[str, Tensor]:
    """Return how much better a frame's own features explain it than another frame's, in units of the decoder's score.

    Returns mean and standard error. A mean of 0 or less shows that the decoder ignores its features, or that they carry
    no information.
    """
    step = max(1, len(features) // FRAMES)
    chosen = torch.arange(0, len(features), step, device=features.device)[:FRAMES]
    features, obs = features[chosen], tree.select(obs, chosen)
    # Shift by half of the frames, because neighbouring frames look alike.
    gap = decoder.score(features, obs) - decoder.score(features.roll(len(chosen) // 2, 0), obs)
    return {"features_gap": gap.mean(), "features_gap_se": gap.std() / len(gap) ** 0.5}


def reward_r2(model: WorldModel, ctx: Context) -> dict[str, Tensor]:
    """Return the R2, at least -1, of the rewards [B, T] that the head reads from the features; {} if they do not vary.

    Resets do not count, since their reward of 0 is a convention. The agent learns from this head's rewards of dreamt features.
    """
    arrived = ~ctx.batch.is_first & (ctx.batch.mask > 0)
    real = ctx.batch.reward[arrived].double()
    if real.numel() < 2 or real.std() < 1e-6:
        return {}
    read = model.reward(ctx.features[arrived]).mean.double()
    return {"reward/r2": (1 - (read - real).square().mean() / real.var(correction=0)).clamp(min=-1).float()}


def first_nonfinite(ctx: Context) -> str:
    """Return which value of a forward pass is the first that is not finite; "" if all that parts pass on are finite."""
    if not all(map(_finite, tree.leaves(ctx.batch.obs))):
        return "an observation"
    if not _finite(ctx.embed):
        return "the embedding of the encoder"
    # h[t] follows from z[t - 1], and z[t] from h[t].
    memory, latent = _first_bad_step(ctx.memory), _first_bad_step(ctx.latent.z)
    if memory < math.inf or latent < math.inf:
        return "the memory of the dynamics" if memory <= latent else "the latent of the encoder"
    if ctx.prior is not None and not all(map(_finite, tree.leaves(ctx.prior))):
        return "the prediction of the dynamics"
    return ""


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _first_bad_step(tensor: Tensor) -> float:
    """Return the first time step of [B, T, ...] with a value that is not finite, infinity if there is none."""
    bad = ~torch.isfinite(tensor.detach()).flatten(2).all(-1).all(0)
    return float(bad.nonzero()[0]) if bool(bad.any()) else math.inf


Values = Mapping[str, float]
_Rule = tuple[str, Callable[[Values], bool], Alarm]

RULES: tuple[_Rule, ...] = (
    (
        "latent_collapsed",
        lambda v: v.get("latent/signal_std", 1.0) < 0.02 or v.get("latent/effective_rank", 9.0) < 1.2,
        Alarm(
            "the latent has collapsed: it hardly differs between frames",
            "lower --model.rep-scale, or choose a decoder or encoder whose own loss keeps z informative",
        ),
    ),
    (
        "worse_than_untrained",
        lambda v: v.get("latent/probe_r2", 0.0) < v.get("latent/probe_r2_untrained", 0.0) - 0.2,
        Alarm(
            "a linear probe reads less from the latent than from that of an untrained encoder",
            "raise the decoder or contrastive losses relative to --model.rep-scale",
        ),
    ),
    (
        "features_ignored",
        lambda v: v.get("decoder/features_gap", 1.0) <= 2 * v.get("decoder/features_gap_se", 0.0),
        Alarm(
            "the decoder explains a frame equally well with another frame's features (posterior collapse)",
            "lower --model.rep-scale, raise --model.free-nats, or weaken a decoder that needs no latent",
        ),
    ),
    (
        "nothing_to_predict",
        lambda v: v.get("latent/kl", 1.0) < 0.05,
        Alarm(
            "posterior and prior are equal: the latent carries no new information",
            "raise --model.free-nats or lower --model.rep-scale",
        ),
    ),
    (
        "critic_wins",
        lambda v: any(value > 20 for name, value in v.items() if name.endswith("critic_gap")),
        Alarm(
            "a critic separates real from generated samples with ease: the part trained against it no longer learns",
            "lower --train.critic-learning-rate or raise the critic's gradient penalty",
        ),
    ),
)

EXPLOITED = Alarm(
    "from the same starts, the policy earns more in the dream than in the environment: it exploits model errors",
    "raise the dream temperature if the agent has one, shorten its horizon, or give the model more updates",
)
"""Raised by an evaluation (worldlab.evaluation.dream_gap)."""
UNPRETRAINED = Alarm(
    "the run ended before its pretraining: the evaluated agent never acted after any training",
    "set --steps above train.prefill, allow more --minutes, or lower train.pretrain",
)
"""Raised at the end of a run."""


class HealthMonitor:
    """Measures a model at every log line, and raises an alarm when a failure shows on two consecutive lines.

    Build it before the first update: it copies the untrained encoder as the baseline of the linear probe.
    frozen: roles that never learn; an untrained decoder is not examined. raised: names of all alarms so far.
    """

    def __init__(self, model: WorldModel, frozen: Sequence[str] = ()):
        self.model = model
        self.examines_decoder = "decoder" not in frozen
        self.raised: list[str] = []
        self._seen: dict[str, int] = {}
        self._untrained = copy.deepcopy(model.encoder)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as plain data."""
        return {"seen": self._seen, "raised": self.raised}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._seen, self.raised = dict(state["seen"]), list(state["raised"])

    @torch.no_grad()
    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return scalars: the health of the latent, the metrics of the parts, and where defined the R2 of the reward and bits
        per dimension.
        """
        model, ctx = self.model, ctx.detach()
        out = {f"latent/{name}": value for name, value in self._latent_metrics(ctx).items()}
        seen = replace(ctx, features=model.decoder_features(ctx.features))
        obs = tree.flatten_time(ctx.batch.obs)
        if self.examines_decoder:
            gap = features_gap(model.decoder, seen.features.flatten(0, 1), obs)
            out.update({f"decoder/{name}": value for name, value in gap.items()})
        for role, part in model.parts.items():
            own = part.metrics(seen if role == "decoder" else ctx)
            out.update({f"{role}/{name}": value for name, value in own.items()})
        return {**out, **reward_r2(model, ctx), **bits_per_dim(model, ctx)}

    def _latent_metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Measure the latent without sampling noise, which would hide a collapse, and that of the untrained encoder."""
        memory = ctx.memory.flatten(0, 1) if self.model.specs.use_memory else None
        signal = self.model.encoder.infer(ctx.embed.flatten(0, 1), memory, None).z
        obs = tree.flatten_time(ctx.batch.obs)
        blank = None if memory is None else torch.zeros_like(memory)
        untrained = self._untrained.to(self.model.device)
        baseline = untrained.infer(untrained.embed(obs), blank, None).z
        out = latent_health(signal)
        target = thumbnail(obs)
        out["probe_r2"] = probe_r2(signal, target)
        out["probe_r2_untrained"] = probe_r2(baseline, target)
        kl = matching.divergence(ctx)
        return out if kl is None else {**out, "kl": kl.mean()}

    def update(self, values: Values, updates: int) -> list[Alarm]:
        """Return the alarms that are new at this log line. values: the metrics as numbers. updates: number so far."""
        if updates < SETTLED:
            return []
        tripped = {name: alarm for name, rule, alarm in RULES if rule(values)} | self._part_alarms(values)
        self._seen = {name: self._seen.get(name, 0) + 1 for name in tripped}
        new = [alarm for name, alarm in tripped.items() if self._seen[name] == 2]
        for name, count in self._seen.items():
            if count >= 2:
                self.note(name)
        return new

    def _part_alarms(self, values: Values) -> dict[str, Alarm]:
        found: dict[str, Alarm] = {}
        for role, part in self.model.parts.items():
            own = {name.removeprefix(f"{role}/"): v for name, v in values.items() if name.startswith(f"{role}/")}
            found.update({f"{role}/{name}": alarm for name, alarm in part.alarms(own).items()})
        return found

    def note(self, name: str, updates: int = SETTLED) -> bool:
        """Record that an alarm was raised. Returns whether this is the first time.

        Before SETTLED updates it records nothing and returns False: a model that has hardly learned shows every failure.
        """
        first = name not in self.raised and updates >= SETTLED
        if first:
            self.raised.append(name)
        return first


def bits_per_dim(model: WorldModel, ctx: Context) -> dict[str, Tensor]:
    """Return the model's bound on -log2 P(images | actions) per pixel and channel; {} if a part has no density.

    It is a one-sample estimate of KL(q || p) - E[log P(o | h, z)], on every n-th frame.
    """
    kl = matching.divergence(ctx)
    if kl is None or not model.has_log_mass:
        return {}
    step = max(1, len(kl) // FRAMES)
    features = ctx.features.flatten(0, 1)[::step]
    obs = tree.select(tree.flatten_time(ctx.batch.obs), slice(None, None, step))
    # A separate generator: measuring must not advance the random stream of training.
    mass = model.log_mass(features, obs, torch.Generator(features.device).manual_seed(0))
    entries = sum(math.prod(spec.shape) for spec in model.specs.obs.images.values())
    return {"bits_per_dim": (kl[::step] - mass).mean() / (entries * math.log(2))}


__all__ = [
    "RULES",
    "HealthMonitor",
    "bits_per_dim",
    "features_gap",
    "latent_health",
    "probe_r2",
    "reward_r2",
    "thumbnail",
]
