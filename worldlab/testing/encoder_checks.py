"""Checks of encoders: q(z | o, h)."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import HasEntropy, HasKL, HasLogProb
from worldlab.interfaces import Latent
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


def _memory(bench: Bench, rows: int) -> Tensor | None:
    """A random memory [rows, H] where the mix reads it."""
    if not bench.specs.use_memory:
        return None
    return torch.randn(rows, bench.specs.memory_dim, generator=stream(5))


def _infer(bench: Bench, rows: int, seed: int | None = 0) -> Latent:
    generator = None if seed is None else stream(seed)
    return bench.encoder.infer(bench.encoder.embed(bench.obs(rows)), _memory(bench, rows), generator)


@check("E1", role="encoder", title="shapes, dtypes and finite values on pictures of any size, vectors and both")
def shapes(subject: Subject) -> None:
    """embed gives [N, E] and infer z [N, D] as latent_spec says, for 16, 64 and 96 pixels, vectors, both; N = 1, 7.

    Catches hard-coded 64 x 64 pictures, squeezed batches of one, a latent wider than declared.
    Fix: take every size from specs.obs; test with N = 1.
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
    if not accepted:
        raise CheckFailure("it refuses every kind of observation", "support pictures or vectors")


def _cannot(name: str, exc: Exception) -> CheckFailure:
    return CheckFailure(
        f"it fails on {name} observations: {type(exc).__name__}: {str(exc)[:90]}",
        "take sizes from specs.obs, or raise ConfigError at build time for what you do not support",
    )


@check("E2", role="encoder", title="rows of a batch do not see each other")
def batch_independence(subject: Subject) -> None:
    """Row j of the observations and memory has no influence on row i's embedding and latent, in eval and train mode.

    Catches attention over the batch and BatchNorm: acting on one frame then differs from training on many.
    Fix: LayerNorm or ChannelNorm; batch_first=True in attention.
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


@check("E3", role="encoder", title="noise comes from the generator alone")
def determinism(subject: Subject) -> None:
    """Without a generator two calls agree; generators of one seed give one sample, and of two seeds two.

    Catches sampling where the most likely z was asked for, and hidden random streams: evaluation would not repeat.
    Fix: `if generator is None` return the mode; draw all noise from the generator.
    """
    bench = subject.bench()
    for seed, when in ((None, "generator=None"), (3, "one seed")):
        if not same(_infer(bench, 5, seed), _infer(bench, 5, seed), 0.0):
            raise CheckFailure(
                f"two calls with {when} give different latents",
                "draw noise from the generator only, none if it is None",
            )
    if bench.encoder.posterior_kind != "deterministic" and same(_infer(bench, 64, 3).z, _infer(bench, 64, 4).z, 0.0):
        raise CheckFailure("two seeds give the same latents", "draw from the generator that infer() is given")


@check("E4", role="encoder", title="the memory is read if and only if the mix says so")
def memory_use(subject: Subject) -> None:
    """With specs.use_memory z depends on the memory; without, infer works on memory=None.

    Catches an encoder that declares uses_memory and drops it, and one that cannot run in parallel over time.
    Fix: read `memory` in infer, or declare uses_memory = False.
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
            "read memory in infer, or declare uses_memory = False",
        )


@check("E5", role="encoder", title="z carries gradients from what is seen")
def differentiable(subject: Subject) -> None:
    """The gradient of a sampled z with respect to the embedding is not 0.

    Catches samples that are neither reparameterised nor straight-through: no loss on z trains the encoder.
    Fix: mean + std * noise, or onehot + probs - probs.detach().
    """
    bench = subject.bench()
    embed = bench.encoder.embed(bench.obs(4))
    memory = _memory(bench, 4)
    for generator in (0, None):
        given = None if generator is None else stream(generator)
        if generator is None and bench.specs.latent.kind == "categorical":
            continue  # the mode of a one-hot has no gradient, and acting needs none
        if not gradient_reaches(lambda e, g=given: bench.encoder.infer(e, memory, g).z, embed):
            raise CheckFailure(
                "no gradient reaches the embedding through z: the sample is not reparameterised",
                "mean + std * noise, or a straight-through one-hot",
            )


@check("E6", role="encoder", title="categorical latents are one-hots, tokens agree")
def one_hots(subject: Subject) -> None:
    """A categorical z is one-hot in each group, and tokens, where given, are its indices.

    Catches soft or unnormalised codes and tokens of another sample than z. Fix: derive both from one draw.
    """
    bench = subject.bench()
    spec = bench.specs.latent
    if spec.kind != "categorical":
        raise NotApplicable(f"the latent is {spec.kind}")
    if spec.dim != spec.groups * spec.classes:
        raise CheckFailure(
            f"latent dim {spec.dim} is not {spec.groups} groups x {spec.classes} classes", "dim = product"
        )
    for seed in (0, None):
        latent = _infer(bench, 6, seed)
        codes = latent.z.detach().unflatten(-1, (spec.groups, spec.classes))
        hot = torch.nn.functional.one_hot(codes.argmax(-1), spec.classes)
        if not same(codes, hot.float(), 1e-5):
            raise CheckFailure("a categorical z is not one-hot", "straight-through: onehot + probs - probs.detach()")
        if latent.tokens is not None and not torch.equal(latent.tokens, codes.argmax(-1)):
            raise CheckFailure("tokens are not the indices of z's one-hots", "derive tokens and z from one draw")


@check("E7", role="encoder", title="what it declares of q is there")
def declared_posterior(subject: Subject) -> None:
    """analytic: dist has log_prob, entropy and kl; own_logq: log_q is [N]. The latent is a tree of rows.

    Catches abilities claimed and not given, and distributions hidden from the core, which stacks latents over time:
    an opaque object would silently stay that of the first step. Fix: a frozen dataclass of tensors [N, ...].
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
                f"posterior is 'analytic' but dist has no {', '.join(missing)}", "offer it, or declare less"
            )
    if posterior == "own_logq":
        if latent.log_q is None:
            raise CheckFailure("posterior is 'own_logq' but log_q is None", "return log q of the very z")
        require_shape(latent.log_q, (4,), "log_q")


def _abilities(dist: object) -> dict[str, bool]:
    return {
        "log_prob": isinstance(dist, HasLogProb),
        "entropy": hasattr(dist, "entropy"),
        "kl": isinstance(dist, HasKL),
    }


@check("E8", role="encoder", title="log q is the density of the samples")
def density_matches_samples(subject: Subject) -> None:
    """E over samples of r(z) / q(z) is 1 for a known density r; entropy, where it is offered, is what log q averages to.

    Catches a missing log-determinant or log std, and samples of another distribution than the one scored.
    Fix: -0.5 ((z - mean) / std)^2 - log std - 0.5 log 2 pi, summed over D; for flows minus log |det|.
    """
    bench = subject.bench()
    if bench.encoder.posterior_kind not in ("analytic", "own_logq"):
        raise NotApplicable(f"the posterior is {bench.encoder.posterior_kind}")
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
        raise NotApplicable("too many codes to sample each of them")
    bias = log_density_bias(latent.z, log_q, codes)
    if abs(bias) > 5:
        raise CheckFailure(
            f"log q is not the density of the samples ({bias:+.0f} standard errors)",
            "add the log std or log-determinant you left out; score the distribution you sample",
        )
    if isinstance(latent.dist, HasEntropy):
        require_entropy(latent.dist.entropy(), log_q)


@check("E9", role="encoder", title="the latent does not collapse", slow=True)
def no_collapse(subject: Subject) -> None:
    """Within 300 updates on a moving dot a linear probe reads the dot's place from a sampled z (R2 on unseen frames).

    Catches representations that training kills (a likelihood of the next latent that reaches the encoder). Std and
    effective rank do not show it where the sampling noise fills them: both looked healthy on dead latents.
    Fix: stop the gradient of prediction targets; add a contrastive or reconstruction term.
    """
    bench = subject.with_default_losses().bench("image vector dict", fresh=True)
    batch = toys.moving_dot(bench.specs.obs, bench.specs.action, 64, 8, stream(9))

    @torch.no_grad()
    def found() -> float:
        return linear_probe(bench.context(batch).latent.z.flatten(0, 1), batch.reward.flatten())

    bench.fit(300, until=lambda: found() > 0.2)
    r2 = found()
    if r2 < 0.2:
        raise CheckFailure(
            f"the latent collapses: a linear probe finds the dot with R2 {r2:.2f}",
            "stop gradients of prediction targets; add a term that keeps z informative",
        )


@check("E11", role="encoder", title="every observation is read")
def every_key_read(subject: Subject) -> None:
    """With a picture and a vector to see, z depends on each of them.

    Catches an encoder that sees the picture only and forgets the vector beside it. Fix: embed every key of specs.obs.
    """
    bench = subject.bench("dict")
    obs, memory = bench.obs(3), _memory(bench, 3)
    for key in obs:

        def run(x: Tensor, key: str = key) -> Tensor:
            return bench.encoder.infer(bench.encoder.embed({**obs, key: x}), memory, stream(0)).z

        if not depends(run, obs[key]):
            raise CheckFailure(f"z does not depend on the observation '{key}'", "embed every key of specs.obs")


@check("E10", role="encoder", title="what it is given stays as it was, frame by frame")
def inputs_unchanged(subject: Subject) -> None:
    """embed and infer change neither observations nor embedding nor memory.

    Catches in-place scaling of pictures, which the decoder's target then shares. Fix: clone before writing.
    """
    bench = subject.bench()
    obs, memory = bench.obs(4), _memory(bench, 4)
    kept = tree.tree_map(torch.clone, obs)
    with torch.no_grad():
        embed = bench.encoder.embed(obs)
        before = embed.clone(), None if memory is None else memory.clone()
        bench.encoder.infer(embed, memory, stream(0))
    if not same(kept, obs, 0.0) or not same(before, (embed, memory), 0.0):
        raise CheckFailure("it changes its inputs in place", "write x = x + 1, not x += 1; clone before writing")
