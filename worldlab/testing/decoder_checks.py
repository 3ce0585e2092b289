"""Checks of decoders, p(o | h, z)."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from torch import Tensor

from worldlab.interfaces import HasLogMass, ScoreKind
from worldlab.model.noise import stream
from worldlab.testing import toys
from worldlab.testing.bench import Bench, Subject
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.probes import (
    depends,
    metropolis_drift,
    require_density,
    require_independent_rows,
    require_shape,
    same,
)
from worldlab.tree import tree_map


@check(
    "C1", role="decoder", title="decode returns a distribution of the right shape and range for each observation key"
)
def decoded_shapes(subject: Subject) -> None:
    """If `renders` is True, decode returns one distribution per observation key, with mode [N, *shape]; if it is False,
    an empty dict.

    Catches hard-coded sizes, missing keys, images in [0, 255] where the model uses [-0.5, 0.5], and a wrong `renders`.
    Fix: take keys and shapes from specs.obs.
    """
    for name in toys.OBS:
        try:
            bench = subject.bench(name, fresh=True)
        except NotApplicable:
            continue
        for rows in (1, 7):
            with torch.no_grad():
                out = bench.decoder.decode(bench.features(rows))
            _require_keys(bench, list(out))
            for key, dist in out.items():
                entry = bench.specs.obs[key]
                require_shape(dist.mode, (rows, *entry.shape), f"the mode of '{key}' on {name} observations")
                if entry.kind == "image" and dist.mode.abs().mean() > 2:
                    raise CheckFailure(
                        f"the mode of '{key}' is far outside [-0.5, 0.5]", "predict images in [-0.5, 0.5]"
                    )


def _require_keys(bench: Bench, found: list[str]) -> None:
    expected = list(bench.specs.obs.keys) if bench.decoder.renders else []
    if sorted(found) != sorted(expected):
        raise CheckFailure(
            f"decode returns {found}, not {expected}, with renders = {bench.decoder.renders}",
            "return every key of specs.obs, or declare renders = False and return {}",
        )


@check("C2", role="decoder", title="rows of a batch are independent in decode and score")
def batch_independence(subject: Subject) -> None:
    """Row j of the features or observations does not influence the mode and score of row i, in eval and train mode.

    Catches BatchNorm and attention over the batch dimension. Contrastive terms may compare rows, but only in losses.
    Fix: use LayerNorm or ChannelNorm; compare rows only in losses, not in score.
    """
    bench = subject.bench()
    inputs = {"features": bench.features(4), "obs": bench.obs(4)}

    def run(given: dict) -> list[Tensor]:
        score = bench.decoder.score(given["features"], given["obs"])
        return [score, *(dist.mode for dist in bench.decoder.decode(given["features"]).values())]

    for mode in (False, True):
        bench.decoder.train(mode)
        require_independent_rows(run, inputs, f"the decoder in {'train' if mode else 'eval'} mode")


@check("C3", role="decoder", title="score is one finite number per row, of a known score_kind")
def scores(subject: Subject) -> None:
    """score returns finite values [N] for every supported kind of observation, also with finite gradients for constant
    ones, and score_kind is one of the known kinds.

    Catches scores averaged over the batch or not summed over pixels, and a division by the norm or the standard
    deviation of an observation. Fix: sum over all dimensions except dim 0; add an epsilon below the root.
    """
    for name in toys.OBS:
        try:
            bench = subject.bench(name, fresh=True)
        except NotApplicable:
            continue
        if bench.decoder.score_kind not in get_args(ScoreKind):
            raise CheckFailure(
                f"score_kind is {bench.decoder.score_kind!r}", f"use one of {', '.join(get_args(ScoreKind))}"
            )
        for rows in (1, 7):
            with torch.no_grad():
                require_shape(bench.decoder.score(bench.features(rows), bench.obs(rows)), (rows,), "the score")
        for value in (0.0, -0.5, 0.25):  # mid-grey and zero velocity, black, and any other constant
            obs = {key: torch.full_like(x, value) for key, x in bench.obs(2).items()}
            score = bench.decoder.score(bench.features(2).requires_grad_(), obs)
            found = [score, *_gradients_of(bench, score)]
            if not all(bool(torch.isfinite(x).all()) for x in found):
                raise CheckFailure(
                    f"the score or its gradient is not finite on {name} observations whose numbers are all {value:g}",
                    "such observations are ordinary (black frames, zero velocities): add an epsilon to what you divide by",
                )


def _gradients_of(bench: Bench, score: Tensor) -> list[Tensor]:
    weights = [p for p in bench.decoder.parameters() if p.requires_grad]
    if not score.requires_grad or not weights:
        return []
    found = torch.autograd.grad(score.sum(), weights, allow_unused=True)
    return [grad for grad in found if grad is not None]


@check("C4", role="decoder", title="the decoder uses the memory and the latent, and trains both")
def features_matter(subject: Subject) -> None:
    """score, and decode for each key, depend on the memory and on the latent in the features; the main losses have a
    gradient with respect to both.

    Catches a decoder that models the observation without the features (posterior collapse by design) and a stray
    detach.
    Fix: condition every output on all features; do not detach them in the main losses.
    """
    bench = subject.bench()
    split, features, obs = bench.specs.memory_dim, bench.features(3), bench.obs(3)
    for part, what in ((slice(0, split), "memory"), (slice(split, None), "latent")):

        def given(x: Tensor, part: slice = part) -> Tensor:
            whole = features.clone()
            whole[:, part] = x
            return whole

        if not depends(lambda x, given=given: bench.decoder.score(given(x), obs), features[:, part].clone()):
            raise CheckFailure(
                f"the decoder's score ignores the {what} in its features", "condition every output on all features"
            )
        for key in bench.decoder.decode(features):

            def decoded(x: Tensor, given: Any = given, key: str = key) -> list[Tensor]:
                dist = bench.decoder.decode(given(x))[key]
                return [dist.mode, dist.sample(stream(0))]

            if not depends(decoded, features[:, part].clone()):
                raise CheckFailure(
                    f"the decoder ignores the {what} when it decodes '{key}'", "condition every output on all features"
                )
    ctx = bench.context()
    terms = bench.decoder.losses(ctx, "main")
    if not terms:
        raise CheckFailure("the decoder has no main losses", 'return {name: [B, T]} from losses(ctx, "main")')
    total = torch.stack([term.sum() for term in terms.values()]).sum()
    for x, what in ((ctx.memory, "memory"), (ctx.latent.z, "latent")):
        grad = torch.autograd.grad(total, x, allow_unused=True, retain_graph=True)[0] if total.requires_grad else None
        if grad is None or not grad.abs().sum() > 0:
            raise CheckFailure(
                f"the decoder's main losses give the {what} no gradient", "do not detach ctx.features for main"
            )


@check("C5", role="decoder", title="losses work on a random subset of frames")
def frame_subsets(subject: Subject) -> None:
    """On a context of M selected frames, shaped [M, 1], the losses of each player are finite and shaped [M, 1].

    Catches assumptions about neighbouring frames: expensive decoders are trained on a random subset of frames per
    update.
    Fix: read a frame's position in the batch from ctx.row and ctx.time, not from its index.
    """
    bench = subject.bench()
    ctx = bench.context()
    chosen = ctx.frames(torch.tensor([0, 1, 2, 2, 1]), torch.tensor([1, 0, 5, 2, 7]))
    for player in bench.decoder.players():
        terms = bench.decoder.losses(chosen if player == "main" else chosen.detach(), player)
        for name, term in terms.items():
            require_shape(term, (5, 1), f"loss '{name}' of 5 selected frames")


@check("C6", role="decoder", title="it learns to score the true observation above others", slow=True)
def learns(subject: Subject) -> None:
    """Within 150 updates on a moving dot, score(features, true obs) exceeds score(features, obs of another row) by more
    than four standard errors on average.

    Catches decoders that fit the average image, flipped signs, and a score unrelated to the losses.
    Fix: condition every output on the features; score must rise as the main losses fall.
    """
    bench = subject.with_default_losses().bench("vector image", fresh=True)
    batch = toys.moving_dot(bench.specs.obs, bench.specs.action, 64, 4, stream(9))

    @torch.no_grad()
    def margin() -> tuple[float, float]:
        features, obs = bench.context(batch).features[:, -1], tree_map(lambda leaf: leaf[:, -1], batch.obs)
        other = tree_map(lambda leaf: leaf.roll(1, 0), obs)
        gap = bench.decoder.score(features, obs) - bench.decoder.score(features, other)
        return float(gap.mean()), float(gap.std() / math.sqrt(len(gap)))

    bench.fit(150, until=lambda: margin()[0] > 4 * margin()[1])
    mean, error = margin()
    if not mean > 4 * error:
        raise CheckFailure(
            f"after 150 updates the true observation scores only {mean:.2f} +- {error:.2f} above another",
            "condition every output on the features; make score the quantity that the losses maximise",
        )


@check("C7", role="decoder", title="decode and score are reproducible and do not modify their inputs")
def repeatable(subject: Subject) -> None:
    """Two calls of decode(...).mode and of score agree bit for bit and do not modify the features and observations. A
    sample is [N, *shape], depends only on the given generator, and does not advance torch's global generator.

    Catches noise from another source than the generator, running statistics, and in-place scaling.
    Fix: draw noise only in `sample`, from its generator argument; clone before writing.
    """
    bench = subject.bench()
    features, obs = bench.features(3), bench.obs(3)
    kept = tree_map(torch.clone, (features, obs))
    with torch.no_grad():
        runs = [
            [bench.decoder.score(features, obs), *(d.mode for d in bench.decoder.decode(features).values())]
            for _ in range(2)
        ]
    if not same(runs[0], runs[1], 0.0):
        raise CheckFailure("two calls give different results", "draw noise only in sample(generator)")
    if not same(kept, (features, obs), 0.0):
        raise CheckFailure("decode or score modifies its inputs in place", "clone before writing")
    with torch.no_grad():
        for key, dist in bench.decoder.decode(features).items():
            before = torch.get_rng_state()
            drawn = dist.sample(stream(1))
            require_shape(drawn, tuple(obs[key].shape), f"a sample of '{key}'")
            if not torch.equal(before, torch.get_rng_state()) or not same(drawn, dist.sample(stream(1)), 0.0):
                raise CheckFailure(
                    f"two samples of '{key}' with the same seed differ, or sample() uses the global generator",
                    "draw from the generator that sample() is given",
                )


@check("C9", role="decoder", title="a declared likelihood comes with a valid log_mass")
def declared_mass(subject: Subject) -> None:
    """If likelihood is "exact" or "bound", log_mass returns [N] and differs for a different image; if it is "exact",
    log_mass is at most 0.

    Catches a density in place of a probability, a constant, and a declared likelihood without the method; bits per
    dimension are computed from log_mass. Fix: use the probability of each grey level, log(cdf(x + 1/510) - cdf(x -
    1/510)).
    """
    bench = subject.bench("image")
    if bench.decoder.likelihood == "undefined":
        raise NotApplicable("the likelihood is undefined")
    if not isinstance(bench.decoder, HasLogMass):
        raise CheckFailure(
            f"likelihood is '{bench.decoder.likelihood}' but there is no log_mass",
            "implement log_mass, or declare 'undefined'",
        )
    features = bench.features(5)
    obs = tree_map(lambda x: ((x + 0.5) * 255).round().clamp(0, 255) / 255 - 0.5, bench.obs(5))
    with torch.no_grad():
        mass = bench.decoder.log_mass(features, obs, stream(0))
        require_shape(mass, (5,), "log_mass")
        if bench.decoder.likelihood == "exact" and float(mass.max()) > 1e-3:
            raise CheckFailure(
                f"log_mass is {float(mass.max()):.1f}: no probability exceeds 1",
                "return the log-probability of the grey levels, not a density",
            )
        other = bench.decoder.log_mass(features, {key: -x for key, x in obs.items()}, stream(0))
        if same(mass, other, 0.0):
            raise CheckFailure(
                "log_mass is the same for a different image", "return the log-probability of the given observation"
            )


@check("C8", role="decoder", title="a log_density score is normalised and matches the samples")
def score_matches_samples(subject: Subject) -> None:
    """With score_kind "log_density": for scalar observations exp(score) integrates to 1; for vectors and images a
    Metropolis step under score does not change the distribution of the samples of decode.

    Catches a missing log std or log-determinant, an autoregressive mask that lets an entry depend on itself or on later
    entries, and samples from a different distribution than the one scored. Tails as heavy as Cauchy's are wrongly refused:
    the integral does not resolve them (a Student-t passed with 2 degrees of freedom and failed with 1.5). Fix: score and
    sample the same distribution.
    """
    tested = 0
    for name in ("scalar", "vector", "image"):
        try:
            bench = subject.bench(name)
        except NotApplicable:
            continue
        if bench.decoder.score_kind != "log_density":
            raise NotApplicable(f"score_kind is {bench.decoder.score_kind}")
        tested += 1
        bench.model.eval()
        with torch.no_grad():
            _require_score_matches_samples(bench, name)
    if not tested:
        raise NotApplicable("it supports neither vectors nor images of 16 x 16")


def _require_score_matches_samples(bench: Bench, name: str) -> None:
    count = 1000 if name == "image" else 4000
    one = bench.features(1)
    decoded = bench.decoder.decode(one.expand(count, -1))
    if not decoded:
        raise NotApplicable("decode returns no distribution")
    ((key, dist),) = decoded.items()
    samples = dist.sample(stream(0))

    def log_density(x: Tensor) -> Tensor:
        return bench.decoder.score(one.expand(len(x), -1), {key: x})

    if name == "scalar":
        return require_density(samples[:, 0], lambda x: log_density(x[:, None]), "the score")
    levels = (samples + 0.5) * 255
    whole = name == "image" and bool((levels - levels.round()).abs().max() < 1e-2)
    if whole and bench.decoder.likelihood != "exact":
        return  # a density on more values than the 256 grey levels: untrained, it puts most of its mass elsewhere
    drift = metropolis_drift(samples, log_density, whole)
    if drift > 5:
        raise CheckFailure(
            f"{name} samples of decode do not follow score: a Metropolis step moves them by {drift:.0f} errors",
            "score and sample the same distribution; no entry may depend on itself or on later entries",
        )
