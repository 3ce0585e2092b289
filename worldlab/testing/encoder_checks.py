"""Checks of encoders, q(z | o, h)."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import HasEntropy, HasKL, HasLogProb
from worldlab.interfaces import Batch, Latent
from worldlab.model.noise import stream
from worldlab.testing import toys
from worldlab.testing.bench import Bench, Subject
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.probes import (
    depends,
    gradient_reaches,
    linear_probe,
    log_density_bias,
    require_entropy,
    require_independent_rows,
    require_rows,
    require_shape,
    same,
)

FEW = 4
"""Number of distinct latents of 512 frames at or below which z is dead."""
CONSTANTS = (0.0, -0.5, 0.25)
"""Values of constant observations: mid-grey and zero velocity, black, and any other."""


def _memory(bench: Bench, rows: int) -> Tensor | None:
    """Return a random memory [rows, H], or None if the world model gives the encoder no memory."""
    if not bench.specs.use_memory:
        return None
    return torch.randn(rows, bench.specs.memory_dim, generator=stream(5))


def _infer(bench: Bench, rows: int, seed: int | None = 0) -> Latent:
    generator = None if seed is None else stream(seed)
    return bench.encoder.infer(bench.encoder.embed(bench.obs(rows)), _memory(bench, rows), generator)


@check(
    "E1", role="encoder", title="shapes, dtypes and finite values for images of any size, vectors, and both together"
)
def shapes(subject: Subject) -> None:
    """embed returns [N, E] and infer returns z [N, D] with the D of latent_spec, for N = 1 and 7: images of 16, 64 and
    96 pixels, vectors, and images with vectors.

    Black pictures, zero vectors and constant ones also give finite values and gradients.

    Catches a hard-coded image size of 64 x 64, squeeze() on a batch of one, a latent wider than latent_spec declares,
    and a division by the norm or the standard deviation of an observation. Fix: take every size from specs.obs; test
    with N = 1; add an epsilon below the root.
    """
    accepted = 0
    for name in toys.OBS:
        try:
            bench = subject.bench(name)
        except NotApplicable:
            continue
        except Exception as exc:
            raise _cannot(name, exc) from exc
        accepted += 1
        for rows in (1, 7):
            try:
                latent = _infer(bench, rows)
            except Exception as exc:
                raise _cannot(name, exc) from exc
            require_shape(latent.z, (rows, bench.specs.latent.dim), f"z on {name} observations")
        _require_finite_on_constants(bench, name)
    if not accepted:
        raise CheckFailure("it supports no kind of observation", "support images or vectors")


def _require_finite_on_constants(bench: Bench, name: str) -> None:
    for value in CONSTANTS:
        obs = {key: torch.full_like(x, value) for key, x in bench.obs(2).items()}
        z = bench.encoder.infer(bench.encoder.embed(obs), _memory(bench, 2), stream(0)).z
        weights = [p for p in bench.encoder.parameters() if p.requires_grad]
        grads = torch.autograd.grad(z.sum(), weights, allow_unused=True) if z.requires_grad and weights else ()
        for what, found in (("z", [z]), ("the gradient of z", [g for g in grads if g is not None])):
            if not all(bool(torch.isfinite(x).all()) for x in found):
                raise CheckFailure(
                    f"{what} is not finite on {name} observations whose numbers are all {value:g}",
                    "such observations are ordinary (black frames, zero velocities): add an epsilon to what you divide by",
                )


def _cannot(name: str, exc: Exception) -> CheckFailure:
    return CheckFailure(
        f"it fails on {name} observations: {type(exc).__name__}: {str(exc)[:90]}",
        "take sizes from specs.obs; raise ConfigError in __init__ for observations you do not support",
    )


@check("E2", role="encoder", title="rows of a batch are independent")
def batch_independence(subject: Subject) -> None:
    """Row j of the observations and of the memory does not influence the embedding and latent of row i, in eval and
    train mode.

    Catches attention over the batch dimension and BatchNorm: the latent of a frame would depend on which other frames
    are in the batch. Fix: use LayerNorm or ChannelNorm; set batch_first=True in attention.
    """
    bench = subject.bench()
    inputs = {"obs": bench.obs(4), "memory": _memory(bench, 4)}

    def run(given: dict) -> tuple:
        embed = bench.encoder.embed(given["obs"])
        latent = bench.encoder.infer(embed, given["memory"], stream(0))
        return embed, latent

    for mode in (False, True):
        bench.encoder.train(mode)
        require_independent_rows(run, inputs, f"the encoder in {'train' if mode else 'eval'} mode")


@check("E3", role="encoder", title="all noise comes from the generator")
def determinism(subject: Subject) -> None:
    """With generator=None two calls agree; the same seed gives the same sample, and different seeds give different
    samples unless the posterior is deterministic.

    Catches sampling where the most likely z is required, and hidden random generators: evaluation would not be
    reproducible.
    Fix: return the mode if generator is None; draw all noise from the generator.
    """
    bench = subject.bench()
    for seed, when in ((None, "generator=None"), (3, "the same seed")):
        if not same(_infer(bench, 5, seed), _infer(bench, 5, seed), 0.0):
            raise CheckFailure(
                f"two calls with {when} give different latents",
                "draw noise only from the generator, and none if it is None",
            )
    if bench.encoder.posterior_kind != "deterministic" and same(_infer(bench, 64, 3).z, _infer(bench, 64, 4).z, 0.0):
        raise CheckFailure("different seeds give the same latents", "draw from the generator that infer() is given")


@check("E12", role="encoder", title="z without a generator is the centre of the samples")
def centre_without_noise(subject: Subject) -> None:
    """With generator=None, z is the mode of `dist` if there is one. Otherwise each entry is within the samples' spread
    around their median, or each code is about as frequent as the most frequent one.

    Catches noise of a fixed seed where none is wanted: two calls agree, but evaluation acts on a random latent.
    Fix: return the mean, or the most likely code, if generator is None.
    """
    bench = subject.bench()
    rows, draws, spec = 8, 128, bench.specs.latent
    with torch.no_grad():
        embed, memory = bench.encoder.embed(bench.obs(rows)), _memory(bench, rows)
        still = bench.encoder.infer(embed, memory, None)
        many, remembered = (None if x is None else x.repeat_interleave(draws, 0) for x in (embed, memory))
        assert many is not None
        drawn = bench.encoder.infer(many, remembered, stream(0)).z.view(rows, draws, -1)
    mode = getattr(still.dist, "mode", None)
    if mode is not None:
        fits = same(mode, still.z, 1e-3)
    elif spec.kind == "categorical":
        share = drawn.mean(1).unflatten(-1, (spec.groups, spec.classes))
        own = (share * still.z.view(rows, spec.groups, spec.classes)).sum(-1)
        fits = float((own / share.amax(-1)).mean()) > 0.8
    else:
        spread = drawn.std(1)
        off = (still.z - drawn.median(1).values).abs() / spread.clamp(min=1e-6)
        off = off[spread > 1e-4]  # where there is noise: a standard normal is 0.8 off on average
        fits = not len(off) or float(off.mean()) < 0.4
    if not fits:
        raise CheckFailure(
            "z without a generator is not the most likely z: it looks like a sample with a fixed seed, or with noise from elsewhere",
            "return dist.mode (the mean, or the most likely code) if generator is None",
        )


@check("E4", role="encoder", title="the memory is used if and only if specs.use_memory")
def memory_use(subject: Subject) -> None:
    """If specs.use_memory is True, z depends on the memory; if it is False, infer works with memory=None.

    Catches an encoder that declares uses_memory = True and ignores the memory, and one that fails without a memory, so
    that it cannot encode whole sequences in one pass. Fix: use `memory` in infer, or declare uses_memory = False.
    """
    apart = subject.bench(use_memory=False)
    require_shape(_infer(apart, 3).z, (3, apart.specs.latent.dim), "z without memory")
    if not subject.choice.cls.uses_memory:
        raise NotApplicable("the encoder declares uses_memory = False")
    bench = subject.bench(use_memory=True)
    embed = bench.encoder.embed(bench.obs(3)).detach()
    memory = torch.randn(3, bench.specs.memory_dim, generator=stream(5))
    if not depends(lambda m: bench.encoder.infer(embed, m, stream(0)), memory):
        raise CheckFailure(
            "z does not depend on the memory although uses_memory is True",
            "use memory in infer, or declare uses_memory = False",
        )


@check("E5", role="encoder", title="z has a gradient with respect to the embedding")
def differentiable(subject: Subject) -> None:
    """The gradient of z with respect to the embedding is not 0, for a sample and (unless z is categorical) for the
    mode.

    Catches samples that are neither reparameterised nor straight-through: no loss on z would train the encoder.
    Fix: z = mean + std * noise, or z = onehot + probs - probs.detach().
    """
    bench = subject.bench()
    embed = bench.encoder.embed(bench.obs(4))
    memory = _memory(bench, 4)
    for generator in (0, None):
        given = None if generator is None else stream(generator)
        if generator is None and bench.specs.latent.kind == "categorical":
            continue  # the mode of a one-hot has no gradient, and acting does not need one
        if not gradient_reaches(lambda e, g=given: bench.encoder.infer(e, memory, g).z, embed):
            raise CheckFailure(
                "no gradient reaches the embedding through z: the sample is not reparameterised",
                "mean + std * noise, or a straight-through one-hot",
            )


@check("E6", role="encoder", title="categorical latents are one-hot and agree with their tokens")
def one_hots(subject: Subject) -> None:
    """A categorical z is one-hot in each group, and tokens, if returned, are the indices of the ones.

    Catches probabilities or unnormalised values in place of one-hots, and tokens that come from a different sample than
    z.
    Fix: derive z and tokens from the same sample.
    """
    bench = subject.bench()
    spec = bench.specs.latent
    if spec.kind != "categorical":
        raise NotApplicable(f"the latent is {spec.kind}")
    if spec.dim != spec.groups * spec.classes:
        raise CheckFailure(
            f"latent dim {spec.dim} is not {spec.groups} groups x {spec.classes} classes",
            "set dim = groups * classes in latent_spec",
        )
    for seed in (0, None):
        latent = _infer(bench, 6, seed)
        codes = latent.z.detach().unflatten(-1, (spec.groups, spec.classes))
        hot = torch.nn.functional.one_hot(codes.argmax(-1), spec.classes)
        if not same(codes, hot.float(), 1e-5):
            raise CheckFailure("a categorical z is not one-hot", "straight-through: onehot + probs - probs.detach()")
        if latent.tokens is not None and not torch.equal(latent.tokens, codes.argmax(-1)):
            raise CheckFailure("tokens are not the indices of z's one-hots", "derive tokens and z from the same sample")


@check("E7", role="encoder", title="the posterior offers what posterior_kind declares")
def declared_posterior(subject: Subject) -> None:
    """posterior_kind "analytic": dist, a class of worldlab.distributions, has log_prob, entropy and kl; "own_logq": log_q is
    a tensor [N]. Every tensor in the Latent has N rows.

    Catches a declared method that is missing, and a distribution whose tensors the core cannot see: the core stacks
    latents over time, and an opaque object would silently keep the values of the first step. Fix: make dist a frozen
    dataclass of tensors [N, ...]; declare only what it offers.
    """
    bench = subject.bench()
    latent = _infer(bench, 4)
    posterior = bench.encoder.posterior_kind
    require_rows(latent, 4, "the latent")
    if latent.dist is not None:
        require_rows(latent.dist, 4, "the latent's dist")
    if posterior == "analytic":
        missing = [ability for ability, has in _abilities(latent.dist).items() if not has]
        if missing:
            raise CheckFailure(
                f"posterior_kind is 'analytic' but dist has no {', '.join(missing)}",
                "implement it, or declare another posterior_kind",
            )
    if posterior == "own_logq":
        if latent.log_q is None:
            raise CheckFailure("posterior_kind is 'own_logq' but log_q is None", "return log q(z) of the z you return")
        require_shape(latent.log_q, (4,), "log_q")


def _abilities(dist: object) -> dict[str, bool]:
    return {
        "log_prob": isinstance(dist, HasLogProb),
        "entropy": hasattr(dist, "entropy"),
        "kl": isinstance(dist, HasKL),
    }


@check("E8", role="encoder", title="log q is the log-density of the samples")
def density_matches_samples(subject: Subject) -> None:
    """Over samples z of q, the mean of r(z) / q(z) is 1 for a known density r, and that of log r(z) - log q(z) is at most
    0. What a dist offers agrees: its log_prob is log q, its entropy the mean of -log q(z).

    Catches a missing log-determinant or log std, entries that are drawn together and scored apart, and a log q that belongs
    to a different distribution than the samples.
    Fix: for a Gaussian, sum -0.5 ((z - mean) / std)^2 - log std - 0.5 log 2 pi over D; for a flow, subtract log |det|.
    """
    bench = subject.bench()
    if bench.encoder.posterior_kind not in ("analytic", "own_logq"):
        raise NotApplicable(f"posterior_kind is {bench.encoder.posterior_kind}")
    spec, count = bench.specs.latent, 4000
    with torch.no_grad():
        embed = bench.encoder.embed(bench.obs(1)).expand(count, -1)
        memory = _memory(bench, 1)
        latent = bench.encoder.infer(embed, None if memory is None else memory.expand(count, -1), stream(0))
        log_q = latent.dist.log_prob(latent.z) if bench.encoder.posterior_kind == "analytic" else latent.log_q
    assert isinstance(log_q, Tensor)
    require_shape(log_q, (count,), "log q")
    codes = float(spec.classes**spec.groups) if spec.kind == "categorical" else 0.0
    if codes > count:
        raise NotApplicable("too many codes to estimate their probabilities from 4000 samples")
    bias = log_density_bias(latent.z, log_q, codes)
    if abs(bias) > 5:
        raise CheckFailure(
            f"log q is too {'low' if bias > 0 else 'high'} for the samples, by {abs(bias):.0f} standard errors",
            "add the missing log std, log-determinant or dependence of entries; evaluate log q of the distribution you sample",
        )
    if isinstance(latent.dist, HasLogProb) and not same(latent.dist.log_prob(latent.z), log_q, 1e-3):
        raise CheckFailure(
            "the log_prob of dist is not log_q, which is the log-density of the samples",
            "return dist.log_prob(z) as log_q, or no dist",
        )
    if isinstance(latent.dist, HasEntropy):
        require_entropy(latent.dist.entropy(), log_q)


@check("E9", role="encoder", title="the latent does not collapse", slow=True)
def no_collapse(subject: Subject) -> None:
    """Within 300 updates on a moving dot, a linear probe predicts the dot's position from a sampled z (R2 of at least
    0.2 on held-out frames).

    Catches representation collapse, for example when the likelihood of the next latent trains the encoder. Std and
    effective rank do not reveal it: sampling noise kept both at healthy values for collapsed latents. It tells collapse
    apart from a z that hardly differed between frames before any training, as of a quantiser that rounds every
    difference away. Fix: stop the gradient of prediction targets; add a contrastive or reconstruction term.
    """
    bench = subject.with_default_losses().bench("image vector dict", fresh=True)
    batch = toys.moving_dot(bench.specs.obs, bench.specs.action, 64, 8, stream(9))

    @torch.no_grad()
    def probe_r2() -> float:
        return linear_probe(bench.context(batch).latent.z.flatten(0, 1), batch.reward.flatten())

    frames, before, first = len(batch.reward.flatten()), _distinct_latents(bench, batch), probe_r2()
    updates = bench.fit(300, until=lambda: probe_r2() > 0.2)
    r2 = probe_r2()
    if r2 >= 0.2:
        return
    if before <= FEW:
        raise CheckFailure(
            f"z took {before} distinct value(s) on {frames} frames before any training, and {_distinct_latents(bench, batch)}"
            f" after {updates} updates: it is dead from the start",
            "spread what you round or quantise: scale up its input at initialisation, or use more levels",
        )
    raise CheckFailure(
        f"the latent collapses: a linear probe predicts the dot's position with R2 {r2:.2f} ({first:.2f} before training)",
        "stop the gradient of prediction targets; add a loss that keeps z informative",
    )


@torch.no_grad()
def _distinct_latents(bench: Bench, batch: Batch) -> int:
    """Return how many different z, without noise, the frames of a batch have."""
    ctx = bench.model.observe(batch, None)[0]
    return len(torch.unique((ctx.latent.z.flatten(0, 1) * 1e4).round(), dim=0))


@check("E11", role="encoder", title="z depends on every observation key")
def every_key_read(subject: Subject) -> None:
    """When the observation has an image and a vector, z depends on both.

    Catches an encoder that uses the image and ignores the vector. Fix: embed every key of specs.obs.
    """
    bench = subject.bench("dict")
    obs, memory = bench.obs(3), _memory(bench, 3)
    for key in obs:

        def run(x: Tensor, key: str = key) -> Tensor:
            return bench.encoder.infer(bench.encoder.embed({**obs, key: x}), memory, stream(0)).z

        if not depends(run, obs[key]):
            raise CheckFailure(f"z does not depend on the observation '{key}'", "embed every key of specs.obs")


@check("E10", role="encoder", title="inputs are not modified")
def inputs_unchanged(subject: Subject) -> None:
    """embed and infer modify neither the observations nor the embedding nor the memory.

    Catches in-place scaling of images, which also changes the decoder's targets. Fix: clone before writing.
    """
    bench = subject.bench()
    obs, memory = bench.obs(4), _memory(bench, 4)
    kept = tree.tree_map(torch.clone, obs)
    with torch.no_grad():
        embed = bench.encoder.embed(obs)
        before = embed.clone(), None if memory is None else memory.clone()
        bench.encoder.infer(embed, memory, stream(0))
    if not same(kept, obs, 0.0) or not same(before, (embed, memory), 0.0):
        raise CheckFailure("it modifies its inputs in place", "write x = x + 1, not x += 1; clone before writing")
