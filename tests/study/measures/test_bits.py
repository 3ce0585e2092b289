"""Bits per dimension of a linear-Gaussian VAE, whose evidence is known exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from measures_kit import TINY, GivenDecoder, GivenDynamics, GivenEncoder, build_given_model, make_subject
from torch import Tensor

from worldlab.distributions import Normal
from worldlab.interfaces import Latent
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec
from worldlab.study.measures import bits, latent
from worldlab.study.measures.recording import Recording
from worldlab.study.measures.undefined import Undefined

IMAGE = ObsSpec((("image", ArraySpec("image", (1, 2, 2))),))
W = torch.tensor([[0.3, 0.0], [0.3, 0.0], [0.0, 0.2], [0.0, -0.2]])
"""Orthogonal columns: the exact posterior has independent entries."""
NOISE = 0.1


class LinearDecoder(GivenDecoder):
    """log_mass returns a log density in place of the log probability of grey levels."""

    likelihood = "exact"

    def log_mass(self, features: Tensor, obs: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        mean = features[:, -2:] @ W.T
        return Normal(mean, torch.full_like(mean, NOISE)).log_prob(obs["image"].flatten(1))


class LinearEncoder(GivenEncoder):
    """Infers the exact posterior under z ~ N(0, I), with its std multiplied by `wide`."""

    posterior_kind = "analytic"

    def __init__(self, wide: float = 1.0):
        super().__init__(lambda obs: obs["image"].flatten(1))
        self.wide = wide

    def infer(self, embed: Tensor, memory: Tensor | None, generator: torch.Generator | None) -> Latent:
        precision = (W.T @ W).diagonal() / NOISE**2 + 1
        mean = embed @ W / NOISE**2 / precision
        dist = Normal(mean, (self.wide / precision.sqrt()).expand_as(mean))
        return Latent(dist.mode if generator is None else dist.sample(generator), dist=dist)


def build_subject(wide: float = 1.0, draws: int = 64, frames: int = 16):
    rng = np.random.default_rng(0)
    episodes, length = 20, 4
    data = {
        "image": rng.integers(0, 256, (episodes, length, 2, 2, 1)).astype(np.uint8),
        "prev_action": np.zeros((episodes, length, 1), np.float32),
        "reward": np.zeros((episodes, length), np.float32),
        "cont": np.ones((episodes, length), np.float32),
        "is_first": np.arange(length)[None].repeat(episodes, 0) == 0,
    }
    forget = GivenDynamics(1, lambda z, a: 0 * a, lambda h: Normal(h.new_zeros(len(h), 2), h.new_ones(len(h), 2)))
    model = build_given_model(
        IMAGE, ActionSpec("continuous", 1), 2, LinearEncoder(wide), forget, LinearDecoder(lambda f: {})
    )
    recording = Recording(data, np.full(episodes, length))
    return make_subject(model, recording, replace(TINY, draws=draws, frames=frames))


def evidence(subject) -> float:
    """Return the exact bits per dimension of the measured frames: -log2 N(x; 0, W W' + NOISE^2 I) / 4."""
    episode, time = subject.frames("test")
    chosen = torch.randperm(len(episode), generator=torch.Generator().manual_seed(0))[: subject.sizes.frames]
    levels = torch.from_numpy(subject.recording.data["image"])[episode[chosen], time[chosen]].flatten(1)
    x = levels.double() / 255 - 0.5
    cov = W.double() @ W.double().T + NOISE**2 * torch.eye(4)
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), cov).log_prob(x)
    return float(-exact.mean() / (4 * math.log(2)))


def test_every_bound_equals_the_evidence_with_the_exact_posterior():
    subject = build_subject()
    found = bits.measure(subject)
    for name in ("bound", "iw16", "iw64"):
        assert found[f"bits/{name}"].value == pytest.approx(evidence(subject), abs=1e-4)
    assert found["bits/gap"].value == pytest.approx(0, abs=1e-5)


def test_bounds_tighten_with_more_draws_and_never_cross_the_evidence():
    subject = build_subject(wide=2.0)
    found, exact = bits.measure(subject), evidence(subject)
    bound, few, many = (found[f"bits/{name}"].value for name in ("bound", "iw16", "iw64"))
    assert bound > few > many > exact - 0.01
    # KL(N(m, 4 v) || N(m, v)) in both entries: 2 (4 - 1 - log 4) / 2 nats.
    assert bound - exact == pytest.approx((3 - math.log(4)) / (4 * math.log(2)), rel=0.1)
    assert found["bits/gap"].value == pytest.approx(bound - many)
    assert many - exact < 0.05


def test_bound_is_distortion_plus_kl():
    """bound = distortion + KL / (dimensions log 2), on all test frames and with many samples."""
    subject = build_subject(wide=1.5, frames=32)
    found, kl = bits.measure(subject), latent.measure(subject)["latent/kl"]
    assert found["bits/bound"].value - found["bits/distortion"].value == pytest.approx(
        kl.value / (4 * math.log(2)), rel=0.02
    )


def test_bounds_with_more_draws_than_sampled_are_undefined():
    found = bits.measure(build_subject(draws=16))
    assert found["bits/iw16"].value is not None and found["bits/iw64"].value is None
    assert "16 draws" in found["bits/iw64"].why


@pytest.mark.parametrize(
    ("part", "ability", "value", "why"),
    [
        ("encoder", "posterior_kind", "implicit", "the encoder's posterior has samples"),
        ("encoder", "posterior_kind", "deterministic", "a point with channel noise"),
        ("dynamics", "prior_kind", "sampler", "the dynamics' prediction has samples"),
        ("dynamics", "prior_kind", "critic", "trained by contrast"),
        ("decoder", "likelihood", "undefined", "256 grey levels"),
    ],
)
def test_reports_which_density_is_missing(part, ability, value, why):
    subject = build_subject()
    setattr(subject.model.parts[part], ability, value)
    with pytest.raises(Undefined, match=why):
        bits.measure(subject)


@pytest.mark.parametrize(("kind", "why"), [("critic", "a critic, no density"), ("contrastive", "a ratio")])
def test_reports_why_a_decoder_has_no_density(kind, why):
    subject = build_subject()
    subject.model.decoder.score_kind, subject.model.decoder.likelihood = kind, "undefined"  # type: ignore[assignment]
    with pytest.raises(Undefined, match=why):
        bits.measure(subject)
