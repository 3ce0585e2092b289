"""Signs that a world model learns what it should not, measured at every log line, and named with their cure.

Losses do not show a collapse: a likelihood of the next latent looks its best while the latent dies. So the latent is
judged by what can be read from it (a linear probe, compared with an untrained encoder), by how many directions it
uses, and by whether the decoder can tell its features from another frame's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab import tree
from worldlab.interfaces import Alarm, Decoder, Obs

FRAMES = 64
"""Frames on which the decoder's score is asked twice."""
RIDGE = 0.01
"""Ridge of the probe a row, for inputs of variance 1."""
SETTLED = 200
"""Updates before which nothing is an alarm: everything is collapsed at first."""


def latent_health(signal: Tensor) -> dict[str, Tensor]:
    """How much of the latent is alive. signal: z without sampling noise [N, D], which would hide a collapse.

    signal_std: mean standard deviation over frames of a dimension. active: dimensions whose variance exceeds 0.01
    (Burda et al. 2015, arXiv:1509.00519, section 5.2). effective_rank: exp of the entropy of the normalised singular
    values (Roy & Vetterli 2007).
    """
    z = signal.float()[:512]
    z = z - z.mean(0)
    singular = torch.linalg.svdvals(z)
    share = singular / singular.sum().clamp(min=1e-12)
    return {
        "signal_std": z.std(0).mean(),
        "min_std": z.std(0).min(),
        "active": (z.var(0) > 0.01).sum().float(),
        "effective_rank": torch.exp(-(share * share.clamp(min=1e-12).log()).sum()),
    }


def thumbnail(obs: Obs) -> Tensor:
    """What a linear probe is asked for, [N, K]: vectors as they are, pictures as 4 x 4 grey ones."""
    parts = [F.adaptive_avg_pool2d(x.mean(1, keepdim=True), 4).flatten(1) if x.dim() == 4 else x for x in obs.values()]
    return torch.cat(parts, -1).float()


def probe_r2(inputs: Tensor, target: Tensor) -> Tensor:
    """Share of the variance of target [N, K] that a ridge regression on inputs [N, D] explains on every other row,
    fitted to the rest; -1 at least.

    Rows are frames in order, so each is judged with its neighbours known: a batch holds too few sequences to say anything
    of new ones (fitted to half of 8 sequences, an encoder's R2 strayed between -1 and 0.4 from one log line to the next).
    """
    seen = slice(0, None, 2)
    x, y = inputs.double(), target.double()
    x = (x - x[seen].mean(0)) / x[seen].std(0).clamp(min=1e-6)
    y = (y - y[seen].mean(0)) / y.std(0).clamp(min=1e-6)
    ridge = RIDGE * len(x[seen]) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(x[seen].mT @ x[seen] + ridge, x[seen].mT @ y[seen])
    unseen = y[1::2]
    error = (x[1::2] @ weight - unseen).square().mean()
    return (1 - error / unseen.square().mean().clamp(min=1e-12)).clamp(min=-1).float()


def features_gap(decoder: Decoder, features: Tensor, obs: Obs) -> dict[str, Tensor]:
    """How much better a frame's own features explain it than another frame's: mean and standard error, in units of
    the decoder's score. Not above 0: the decoder ignores its features, or they say nothing."""
    step = max(1, len(features) // FRAMES)
    chosen = torch.arange(0, len(features), step, device=features.device)[:FRAMES]
    features, obs = features[chosen], tree.select(obs, chosen)
    # Half a turn: the neighbours of a frame look like it.
    gap = decoder.score(features, obs) - decoder.score(features.roll(len(chosen) // 2, 0), obs)
    return {"features_gap": gap.mean(), "features_gap_se": gap.std() / len(gap) ** 0.5}


Values = Mapping[str, float]
_Rule = tuple[str, Callable[[Values], bool], Alarm]

RULES: tuple[_Rule, ...] = (
    (
        "latent_collapsed",
        lambda v: v.get("latent/signal_std", 1.0) < 0.02 or v.get("latent/effective_rank", 9.0) < 1.2,
        Alarm(
            "the latent has collapsed: frames hardly differ in it",
            "lower --model.rep-scale, or choose a decoder or encoder with a loss of its own that keeps z informative",
        ),
    ),
    (
        "worse_than_untrained",
        lambda v: v.get("latent/probe_r2", 0.0) < v.get("latent/probe_r2_untrained", 0.0) - 0.2,
        Alarm(
            "less can be read from the latent than from an untrained encoder's",
            "raise what trains the encoder to inform (decoder or contrastive terms) against --model.rep-scale",
        ),
    ),
    (
        "features_ignored",
        lambda v: v.get("decoder/features_gap", 1.0) <= 2 * v.get("decoder/features_gap_se", 0.0),
        Alarm(
            "the decoder explains a frame no better with its own features than with another's (posterior collapse)",
            "lower --model.rep-scale or raise --model.free-nats; weaken a decoder that needs no latent",
        ),
    ),
    (
        "nothing_to_predict",
        lambda v: v.get("latent/kl", 1.0) < 0.05,
        Alarm(
            "posterior and prior agree before anything is seen: the latent says nothing new",
            "raise --model.free-nats or lower --model.rep-scale",
        ),
    ),
    (
        "critic_wins",
        lambda v: any(value > 20 for name, value in v.items() if name.endswith("critic_gap")),
        Alarm(
            "a critic tells real from generated with ease: what it judges no longer learns from it",
            "lower --train.critic-learning-rate or raise the critic's gradient penalty",
        ),
    ),
)


@dataclass
class Watch:
    """Raises an alarm when a failure shows on two log lines in a row, once until it is gone.

    seen: on how many lines in a row, by name. raised: every name that ever was. Both are plain data that a checkpoint keeps.
    """

    seen: dict[str, int] = field(default_factory=dict)
    raised: list[str] = field(default_factory=list)

    def look(self, values: Values, updates: int, own: Mapping[str, Alarm]) -> list[Alarm]:
        """The alarms that are new at this log line. own: those that the parts raise by their own metrics."""
        if updates < SETTLED:
            return []
        tripped = {name: alarm for name, rule, alarm in RULES if rule(values)} | dict(own)
        self.seen = {name: self.seen.get(name, 0) + 1 for name in tripped}
        new = [alarm for name, alarm in tripped.items() if self.seen[name] == 2]
        for name, count in self.seen.items():
            if count >= 2:
                self.note(name)
        return new

    def note(self, name: str) -> bool:
        """Keep that an alarm was raised. Returns whether it is the first time."""
        first = name not in self.raised
        if first:
            self.raised.append(name)
        return first


__all__ = [
    "RULES",
    "Watch",
    "features_gap",
    "latent_health",
    "probe_r2",
    "thumbnail",
]
