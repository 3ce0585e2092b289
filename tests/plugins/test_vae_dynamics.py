"""The recurrent state-space model, its balanced KL, and the exact likelihood it should reach."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_kit import weighted_terms
from vae_toys import build_model, gen, grad_sum

from worldlab import tree
from worldlab.model import matching
from worldlab.model.noise import noise_batch
from worldlab.settings import ModelSettings

ROOT = Path(__file__).parents[2]


def kl_terms(model, seed: int = 0):
    batch = noise_batch(model.specs.obs, model.specs.action, 3, 5, gen(seed))
    ctx, _ = model.observe(batch, gen(seed))
    return ctx, weighted_terms(model, ctx)


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_each_half_of_the_balanced_kl_trains_one_side_exactly(latent):
    """One step, so that the memory depends on nothing learned before: dyn leaves the encoder, rep the prior, at 0."""
    model = build_model(ModelSettings(free_nats=0.0), latent=latent)
    batch = noise_batch(model.specs.obs, model.specs.action, 4, 2, gen())
    batch = tree.tree_map(lambda leaf: leaf[1:, :1], batch)
    encoder, prior = list(model.encoder.parameters()), list(model.dynamics.head.parameters())
    for name, trained, still in (("dyn", prior, encoder), ("rep", encoder, prior)):
        model.zero_grad(set_to_none=True)
        ctx, _ = model.observe(batch, gen())
        matching.terms(model.rule, ctx, model.dynamics, model.settings.free_nats)[name].sum().backward()
        assert grad_sum(still) == 0
        assert grad_sum(trained) > 0


@pytest.mark.parametrize("latent", ["gaussian", "categorical"])
def test_rep_never_reaches_the_prior_head_along_a_sequence(latent):
    model = build_model(ModelSettings(free_nats=0.0), latent=latent)
    _, terms = kl_terms(model)
    terms["rep"].sum().backward()
    assert grad_sum(model.dynamics.head.parameters()) == 0
    assert grad_sum(model.encoder.parameters()) > 0


def test_dyn_reaches_the_encoder_only_through_the_memory_of_later_steps():
    """The target of dyn is stopped: with the memory cut from the graph, nothing of the encoder is left in it."""
    model = build_model(ModelSettings(free_nats=0.0))
    ctx, _ = kl_terms(model)
    cut = replace(ctx, memory=ctx.memory.detach(), prior=model.dynamics.predict(ctx.memory.detach().flatten(0, 1)))
    matching.terms(model.rule, cut, model.dynamics, model.settings.free_nats)["dyn"].sum().backward()
    assert grad_sum(model.encoder.parameters()) == 0
    assert grad_sum(model.dynamics.head.parameters()) > 0


def test_terms_are_the_weighted_kl_and_free_nats_are_a_floor_without_gradient():
    settings = {"rep_scale": 0.3}
    ctx, open_terms = kl_terms(build_model(ModelSettings(free_nats=0.0, **settings)))
    exact = tree.flatten_time(ctx.latent.dist).kl(ctx.prior).unflatten(0, (3, 5))
    torch.testing.assert_close(open_terms["dyn"], exact)
    torch.testing.assert_close(open_terms["rep"], 0.3 * exact)
    floor = exact.median().item()
    model = build_model(ModelSettings(free_nats=floor, **settings))
    _, terms = kl_terms(model)
    torch.testing.assert_close(terms["dyn"], exact.clamp(min=floor))
    below = (exact < floor).float()
    assert 0 < below.sum() < below.numel()
    ((terms["dyn"] + terms["rep"]) * below).sum().backward()
    assert grad_sum(model.parameters()) == 0


def test_the_prior_matches_the_posterior_in_kind():
    for latent in ("gaussian", "categorical"):
        ctx, _ = kl_terms(build_model(latent=latent))
        assert type(ctx.prior) is type(ctx.latent.dist)


def load_benchmark(name: str):
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("samples", [1, 3])
def test_the_kalman_benchmark_scores_an_untrained_model_below_the_exact_likelihood(samples):
    benchmark = load_benchmark("kalman_gap")
    sizes = {"horizon": 4, "episodes": 8, "judged": 50, "updates": 1, "batch": 4, "memory": 8, "units": 8}
    out = benchmark.measure(benchmark.Setup(**sizes, samples=samples))
    assert out["gap"] == pytest.approx(out["kalman"] - out["elbo"]) and out["gap"] > 0.3
    assert out["gap"] == pytest.approx(sum(out["gap_by_step"]) / 5, abs=1e-3)


@pytest.mark.slow
def test_the_bound_comes_close_to_the_kalman_likelihood():
    """Per step, the first one counted. Measured 0.096 +- 0.010 (0.071 to 0.111 over three seeds); an
    untrained model is off by hundreds.

    The 0.05 of a tight bound is not reached at this budget: `Setup.scale` says why. Episodes a quarter as long as the
    benchmark's leave the filter as much to learn, for a fifteenth of the time.
    """
    torch.set_num_threads(1)
    benchmark = load_benchmark("kalman_gap")
    setup = benchmark.Setup(horizon=6, episodes=2000, judged=1000, updates=700, rate=0.01)
    out = benchmark.measure(setup)
    assert -3 * out["gap_se"] < out["gap"] < 0.13, out
