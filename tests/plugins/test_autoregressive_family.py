"""The three parts together: what they promise, in whole world models."""

import pytest
import torch
from autoregressive_toys import gen
from family_kit import registered_without_torch
from model_kit import weighted_terms
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig
from worldlab_autoregressive.decoder import AutoregressiveDecoder
from worldlab_autoregressive.dynamics import AutoregressiveDynamics
from worldlab_autoregressive.encoder import AutoregressiveEncoder

from worldlab.model import matching
from worldlab.testing import check_mix, checks_for, small_config
from worldlab.testing.bench import Bench, Choice
from worldlab.testing.runner import make_mix_subject

ROLES = {"encoder": AutoregressiveEncoder, "dynamics": AutoregressiveDynamics, "decoder": AutoregressiveDecoder}


def choices(**dynamics) -> list[Choice]:
    made = [Choice(cls, small_config(cls.Config)) for cls in ROLES.values()]
    if dynamics:
        made[1] = Choice(AutoregressiveDynamics, small_config(AutoregressiveDynamicsConfig, **dynamics))
    return made


def bench(**dynamics) -> Bench:
    return make_mix_subject(*choices(**dynamics), "autoregressive").bench("dict")


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
@pytest.mark.parametrize("check", [c for c in checks_for("world_model") if not c.slow], ids=repr)
def test_a_pure_model_passes(check, kind):
    (result,) = check_mix(*choices(memory_kind=kind), only={check.id})
    assert result.passed, result.cause


@pytest.mark.slow
@pytest.mark.parametrize("check", [c for c in checks_for("world_model") if c.slow], ids=repr)
def test_a_pure_model_learns(check):
    (result,) = check_mix(*choices(), only={check.id})
    assert result.passed, result.cause


def test_the_encoder_is_tied_by_its_entropy_and_to_the_frozen_density_of_the_dynamics():
    model = bench().model
    ctx, _ = model.observe(bench().batch(), gen())
    rule = matching.choose(model.encoder, model.dynamics)
    terms = matching.terms(rule, ctx, model.dynamics, model.settings.free_nats)
    assert (rule.dyn, rule.rep) == ("nll", "logq_nll")
    expected = model.settings.rep_scale * (
        -ctx.latent.dist.entropy() - ctx.prior.log_prob(ctx.latent.z.flatten(0, 1)).view_as(ctx.row)
    )
    torch.testing.assert_close(weighted_terms(model, ctx)["rep"], expected)

    def reached(name: str, part: torch.nn.Module) -> bool:
        found = torch.autograd.grad(terms[name].sum(), list(part.parameters()), allow_unused=True, retain_graph=True)
        return any(g is not None and g.abs().sum() > 0 for g in found)

    assert reached("dyn", model.dynamics) and reached("rep", model.encoder)
    assert not reached("rep", model.dynamics.head)


def test_likelihoods_of_a_whole_sequence_are_sums_of_exact_conditionals():
    """log p(z_1..T | a) = sum_t log p(z_t | z_<t, a_<t): the first t terms are those of the first t steps alone."""
    made = bench()
    dynamics, z, action = made.dynamics, made.latents(2, 6), made.actions(2, 6)
    assert isinstance(dynamics, AutoregressiveDynamics)

    def terms(length: int) -> torch.Tensor:
        before = torch.cat([torch.zeros_like(z[:, :1]), z[:, : length - 1]], 1)
        first = torch.zeros(2, length, dtype=torch.bool)
        first[:, 0] = True
        run = dynamics.advance_sequence(dynamics.initial(2), before, action[:, :length], first)
        return dynamics.predict(run.memory.flatten(0, 1)).log_prob(z[:, :length].flatten(0, 1)).view(2, length)

    torch.testing.assert_close(terms(6)[:, :3], terms(3))


def test_all_three_are_registered_by_the_name_of_the_family_without_torch():
    out = registered_without_torch("worldlab_autoregressive")
    for role, cls in ROLES.items():
        target = f"worldlab_autoregressive.{role}:{cls.__name__}"
        assert f"('{role}', 'autoregressive', '{target}', '{cls.__name__}Config')" in out
