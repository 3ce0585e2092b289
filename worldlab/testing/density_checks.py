"""Checks of the distributions that dynamics and decoders return: their mode, their temperature, and log_mass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from worldlab.distributions import HasTemperature
from worldlab.interfaces import HasLogMass
from worldlab.model.noise import stream
from worldlab.testing.bench import Bench, Subject
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.dynamics_checks import warm_state
from worldlab.testing.probes import same

DENSE = ("analytic", "log_prob")
"""The kinds of prior that have a density."""
ROWS, DRAWS = 8, 128
"""Distributions whose modes are compared with samples, and samples of each."""
LEVELS = 256
"""Grey levels of a pixel."""


def _dense_benches(subject: Subject) -> Iterator[Bench]:
    """Yield a bench with eight Gaussian latents and one with two variables of four classes, if the prior has a density."""
    for settings in ({"kind": "gaussian", "latent_dim": 8}, {"kind": "categorical", "groups": 2, "classes": 4}):
        with suppress(NotApplicable):
            bench = subject.with_latent(**settings).bench("vector")
            if bench.dynamics.prior_kind in DENSE:
                yield bench


@check("D13", role="dynamics", title="the mode lies among the samples")
def mode_is_likely(subject: Subject) -> None:
    """The log-density of the prior's mode is not below that of most of its samples; and continuous modes are not shifted
    to one side of the samples' mean, in all entries alike.

    Catches a mode that was left behind when the distribution was shifted or rescaled: deterministic evaluation and
    imagination without noise read it. Fix: compute the mode from the parameters that `sample` uses.
    """
    tested = 0
    for bench in _dense_benches(subject):
        tested += 1
        with torch.no_grad():
            memory = bench.dynamics.memory(warm_state(bench, ROWS)).repeat_interleave(DRAWS, 0)
            prior: Any = bench.dynamics.predict(memory)
            whole = bench.specs.latent.kind == "categorical"
            _require_central_mode(prior.mode, prior.sample(stream(0)), prior.log_prob, whole, "the prior's mode")
    if not tested:
        raise NotApplicable(f"prior_kind is {subject.bench().dynamics.prior_kind}")


def _require_central_mode(
    mode: Tensor, samples: Tensor, log_prob: Callable[[Tensor], Tensor], whole: bool, what: str
) -> None:
    """Raise CheckFailure unless each mode is as likely as the median sample, and modes are not shifted to one side.

    mode, samples: [ROWS * DRAWS, ...], DRAWS of each distribution. whole: samples are discrete, so they have no mean.
    """
    at_mode, at_samples = (log_prob(x).double().view(ROWS, DRAWS) for x in (mode, samples))
    for peak, typical in zip(at_mode[:, 0].tolist(), at_samples.median(1).values.tolist(), strict=True):
        if peak < typical - 1e-3 * (1 + abs(typical)):
            raise CheckFailure(
                f"{what} has log-density {peak:.1f}, below that of most samples ({typical:.1f}): it lies beside them",
                "compute the mode from the parameters that sample() uses",
            )
    if whole:
        return
    drawn = samples.flatten(1).double().view(ROWS, DRAWS, -1)
    centre, spread = drawn.mean(1), drawn.std(1).clamp(min=1e-6)
    shift = ((mode.flatten(1).double().view(ROWS, DRAWS, -1)[:, 0] - centre) / spread).mean(0)
    # A mixture's mode may be far from its mean, but not on the same side in every entry.
    error = float(shift.std()) / len(shift) ** 0.5 if len(shift) > 3 else float("inf")
    if abs(float(shift.mean())) > max(0.1, 5 * error):
        raise CheckFailure(
            f"{what} is {float(shift.mean()):+.2f} standard deviations beside the mean of the samples",
            "compute the mode from the parameters that sample() uses",
        )


@check("D14", role="dynamics", title="a temperature widens and narrows the prior")
def temperature_matters(subject: Subject) -> None:
    """If the prior has `tempered`, its samples spread more at temperature 4 and less at temperature 1/4: by their
    standard deviation, or by how often the most frequent class is drawn.

    Catches a `tempered` that ignores its argument: an agent that dreams at a temperature would not. Fix: multiply the
    std by sqrt(temperature), or divide logits by the temperature.
    """
    tested = 0
    for bench in _tempered_benches(subject):
        memory = 10 * bench.dynamics.memory(warm_state(bench, 1)).detach()  # else untrained classes are equally likely
        prior: Any = bench.dynamics.predict(memory.expand(2000, -1))
        if not isinstance(prior, HasTemperature):
            continue
        tested += 1
        with torch.no_grad():
            cold, usual, hot = (_spread(bench, prior.tempered(t).sample(stream(0))) for t in (0.25, 1.0, 4.0))
        # All three have the same noise, so a temperature that is ignored gives exactly the same samples.
        if not cold < usual < hot:
            raise CheckFailure(
                f"samples spread by {cold:.3f}, {usual:.3f} and {hot:.3f} at temperatures 1/4, 1 and 4: they should grow",
                "multiply the std by sqrt(temperature), or divide logits by the temperature",
            )
    if not tested:
        raise NotApplicable("the prior has no tempered(temperature)")


def _tempered_benches(subject: Subject) -> Iterator[Bench]:
    for settings in ({"kind": "gaussian", "latent_dim": 8}, {"kind": "categorical", "groups": 2, "classes": 4}):
        with suppress(NotApplicable):
            yield subject.with_latent(**settings).bench("vector")


def _spread(bench: Bench, samples: Tensor) -> float:
    """Return the mean std of the entries, or the mean share of samples that are not of a variable's most frequent class."""
    if bench.specs.latent.kind != "categorical":
        return float(samples.std(0).mean())
    shares = samples.unflatten(-1, (bench.specs.latent.groups, bench.specs.latent.classes)).mean(0)
    return float(1 - shares.amax(-1).mean())


@check("C11", role="decoder", title="the mode of a decoded observation lies among its samples")
def decoded_mode_is_likely(subject: Subject) -> None:
    """With score_kind "log_density", the score of the mode is not below that of most samples; and unless samples are
    whole grey levels, modes are not shifted to one side of the samples' mean.

    Catches a mode that differs from what is sampled and scored: pictures and errors of predictions are computed from
    it. Fix: compute the mode from the parameters that `sample` uses.
    """
    tested = 0
    for name in ("vector", "grey"):
        with suppress(NotApplicable), torch.no_grad():
            bench = subject.bench(name)
            features = bench.features(ROWS).repeat_interleave(DRAWS, 0)
            decoded = bench.decoder.decode(features)
            if bench.decoder.score_kind != "log_density" or not decoded:
                continue
            tested += 1
            ((key, dist),) = decoded.items()
            mode, samples = dist.mode, dist.sample(stream(0))
            whole = name == "grey" and same(samples, _on_levels(samples), 1e-5)
            if whole:
                mode = _on_levels(mode)

            def score(x: Tensor, key: str = key, bench: Bench = bench, features: Tensor = features) -> Tensor:
                return bench.decoder.score(features, {key: x})

            _require_central_mode(mode, samples, score, whole, f"the mode of '{key}' on {name} observations")
    if not tested:
        raise NotApplicable("score is no log-density, or decode returns no distribution")


def _on_levels(image: Tensor) -> Tensor:
    """Return an image rounded to the 256 grey levels, as it is drawn."""
    return ((image + 0.5) * 255).round().clamp(0, 255) / 255 - 0.5


@check("C10", role="decoder", title="log_mass is normalised, and agrees with the score")
def mass_is_normalised(subject: Subject) -> None:
    """On images of 8 x 8 pixels. An "exact" log_mass whose pixels are independent is the sum of the logs of masses that
    add up to 1 over the 256 levels of each pixel. Any other log_mass agrees with a score that is a log-density: with the
    score itself if samples are whole grey levels (it is a mass then), else with score - D log 255 if the density is
    smooth. For a "bound", the log of the mean of exp(log_mass) over 64 draws takes its place. A mass with dependent
    pixels and no log-density beside it is not checked.

    Catches a constant too much, levels of twice the width, edges whose tails are missing, and a density in place of a
    mass. Fix: log(cdf(x + 1/510) - cdf(x - 1/510)), with the tails at the levels 0 and 255.
    """
    bench = subject.bench("grey")
    decoder = bench.decoder
    if decoder.likelihood == "undefined" or not isinstance(decoder, HasLogMass):
        raise NotApplicable("the likelihood is undefined")
    with torch.no_grad():
        masses = _Masses(bench)
        if decoder.likelihood == "exact" and masses.factorised():
            return _require_unit_masses(masses)
        if decoder.score_kind != "log_density":
            raise NotApplicable(f"score_kind is {decoder.score_kind}, and the pixels depend on each other")
        _require_agrees_with_score(masses)


class _Masses:
    """log_mass of one row of features, on images that differ from a random one in single pixels."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        ((self.key, spec),) = bench.specs.obs.entries
        self.shape, self.count = spec.shape, math.prod(spec.shape)
        self.features = bench.features(1)
        self.draws = 1 if bench.decoder.likelihood == "exact" else 64
        # From the middle of the range: a density says nothing of the tails that the outer levels hold.
        self.base, self.other = torch.randint(64, 192, (2, self.count), generator=stream(3))

    def log_mass(self, levels: Tensor) -> Tensor:
        """Return log_mass [N], or the log of the mean of its draws, of levels [N, pixels]."""
        decoder: Any = self.bench.decoder
        image = self.image(levels).repeat_interleave(self.draws, 0)
        mass = decoder.log_mass(self.features.expand(len(image), -1), {self.key: image}, stream(0)).double()
        return torch.logsumexp(mass.view(-1, self.draws), 1) - math.log(self.draws)

    def image(self, levels: Tensor) -> Tensor:
        """Return images [N, *shape] of levels [N, pixels]."""
        return (levels.float() / 255 - 0.5).view(-1, *self.shape)

    def score(self, levels: Tensor) -> Tensor:
        """Return the score [N] of levels [N, pixels]."""
        return self.bench.decoder.score(self.features.expand(len(levels), -1), {self.key: self.image(levels)}).double()

    def by_level(self, base: Tensor, pixel: int) -> Tensor:
        """Return log_mass [256] of the image with one pixel set to each level."""
        levels = base.repeat(LEVELS, 1)
        levels[:, pixel] = torch.arange(LEVELS)
        return self.log_mass(levels)

    def samples_are_levels(self) -> bool | None:
        """Return whether samples of decode are whole grey levels, so that the score is a mass; None if it has none."""
        decoded = self.bench.decoder.decode(self.features)
        if self.key not in decoded:
            return None
        samples = decoded[self.key].sample(stream(0))
        return same(samples, _on_levels(samples), 1e-5)

    def factorised(self) -> bool:
        """Return whether what a pixel's level changes does not depend on the other pixels."""
        for pixel in (0, self.count // 2, self.count - 1):
            one, two = self.by_level(self.base, pixel), self.by_level(self.other, pixel)
            if float((one - one[0] - two + two[0]).abs().max()) > 0.02:
                return False
        return True


def _require_unit_masses(masses: _Masses) -> None:
    """Raise CheckFailure unless the masses of a pixel's levels add up to 1, in the geometric mean over pixels.

    If P = prod_i p_i, then p_i(o_i) = P(o) / sum_v P(o with level v at i), provided that the masses add up to 1.
    """
    whole = float(masses.log_mass(masses.base[None]))
    expected = sum(whole - float(torch.logsumexp(masses.by_level(masses.base, i), 0)) for i in range(masses.count))
    total = math.exp(min((whole - expected) / masses.count, 700.0))
    if abs(total - 1) > 0.01:
        raise CheckFailure(
            f"the masses of a pixel's 256 levels sum to {total:.3g}, not 1",
            "log(cdf(x + 1/510) - cdf(x - 1/510)), with the tails at the levels 0 and 255",
        )


def _require_agrees_with_score(masses: _Masses) -> None:
    base, count = masses.base[None], masses.count
    mass, score = float(masses.log_mass(base)), float(masses.score(base))
    push = 2 * torch.randint(2, base.shape, generator=stream(4)) - 1
    bend = abs(float(masses.score(base + push)) + float(masses.score(base - push)) - 2 * score) / count
    density, whole = score - count * math.log(255), masses.samples_are_levels()
    tolerance = (0.05 if masses.draws == 1 else 0.2) * count
    expected = [score] if whole else [density] if whole is False else [score, density]
    if min(abs(mass - value) for value in expected) <= tolerance:
        return
    if bend > 0.02 and not whole:
        raise NotApplicable("the score is not smooth between two grey levels")
    raise CheckFailure(
        f"log_mass is {mass:.0f} on an image of {count} pixels, where the score says {expected[-1]:.0f}"
        + ("" if whole else " (score - D log 255)"),
        "log_mass is the log of a probability: of a density, add the log of a level's width 1/255 for each pixel",
    )
