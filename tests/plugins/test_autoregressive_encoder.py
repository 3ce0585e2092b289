import math

import pytest
import torch
from autoregressive_toys import IMAGE, VECTOR, all_codes, gen, make_specs
from worldlab_autoregressive.codes import CodeDistribution
from worldlab_autoregressive.configs import AutoregressiveEncoderConfig
from worldlab_autoregressive.encoder import AutoregressiveEncoder

from worldlab.specs import ArraySpec, LatentSpec


def build(obs=(VECTOR,), **config) -> AutoregressiveEncoder:
    torch.manual_seed(0)
    settings = AutoregressiveEncoderConfig(**({"groups": 4, "classes": 3, "width": 4, "units": 16} | config))
    return AutoregressiveEncoder(settings, make_specs(AutoregressiveEncoder.latent_spec(settings), obs=obs))


def test_it_declares_categorical_codes_with_a_density_of_their_own():
    spec = AutoregressiveEncoder.latent_spec(AutoregressiveEncoderConfig(groups=3, classes=5))
    assert spec == LatentSpec(15, "categorical", 3, 5)
    assert AutoregressiveEncoder.posterior == "own_logq" and not AutoregressiveEncoder.uses_memory


@pytest.mark.parametrize("seed", [None, 1])
def test_tokens_log_q_and_z_are_of_one_draw(seed: int | None):
    encoder = build((IMAGE, VECTOR))
    obs = {"image": torch.rand(6, 3, 8, 8, generator=gen()) - 0.5, "state": torch.randn(6, 4, generator=gen())}
    embed = encoder.embed(obs)
    latent = encoder.infer(embed, None, None if seed is None else gen(seed))
    codes = latent.z.detach().unflatten(-1, (4, 3))
    torch.testing.assert_close(codes.sum(-1), torch.ones(6, 4))
    assert latent.tokens is not None and torch.equal(latent.tokens, codes.argmax(-1))
    torch.testing.assert_close(latent.log_q, CodeDistribution(embed, encoder.codes).log_prob(latent.z))


@pytest.mark.slow
def test_the_posterior_of_an_xor_is_found_where_independent_codes_cannot():
    """Two fair bits, seen through their exclusive or alone: the true posterior has two modes, log 2 nats from any
    product of its factors. The gap is KL(q || p(c | x)), by enumeration."""
    obs = (("state", ArraySpec("vector", (1,))),)
    encoder = build(obs, groups=2, classes=2, units=16, layers=1, unimix=0.0)
    seen, codes = torch.tensor([[0.0], [1.0]]), all_codes(2, 2)
    bits = codes.unflatten(-1, (2, 2)).argmax(-1)
    fits = bits.sum(-1) % 2 == seen  # [2 observations, 4 codes]
    log_joint = torch.log(torch.where(fits, 0.999, 0.001)) - math.log(4)
    posterior = (log_joint - log_joint.logsumexp(1, keepdim=True)).detach()

    def gap(log_q: torch.Tensor) -> torch.Tensor:
        return (log_q.exp() * (log_q - posterior)).sum(1).mean()

    def log_q() -> torch.Tensor:
        embed = encoder.embed({"state": seen}).repeat_interleave(4, 0)
        return CodeDistribution(embed, encoder.codes).log_prob(codes.repeat(2, 1)).view(2, 4)

    logits = torch.zeros(2, 2, 2).normal_(generator=gen()).requires_grad_()
    parameters = [*encoder.parameters(), logits]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(300):
        split = torch.log_softmax(logits, -1)
        factorised = split[:, 0, bits[:, 0]] + split[:, 1, bits[:, 1]]
        optimizer.zero_grad()
        (gap(log_q()) + gap(factorised)).backward()
        optimizer.step()
    with torch.no_grad():
        split = torch.log_softmax(logits, -1)
        alone, together = float(gap(split[:, 0, bits[:, 0]] + split[:, 1, bits[:, 1]])), float(gap(log_q()))
    print(f"gap: independent codes {alone:.3f}, autoregressive {together:.4f} nats")
    assert alone == pytest.approx(math.log(2), abs=0.02)
    assert together <= 0.05
