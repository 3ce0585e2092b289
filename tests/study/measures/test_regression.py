"""Regressions and R2 against numpy, least squares and algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_kit import gen

from worldlab.study.measures.r2 import R2Scores
from worldlab.study.measures.regression import Examples, Standardiser, build_seeded, check_finite, fit_mlp, fit_ridge
from worldlab.study.measures.standard_errors import average_frames, jackknife, make_measurement, sum_by_episode
from worldlab.study.measures.undefined import Undefined


def examples(x, y, fit=300):
    return Examples((x[:fit], y[:fit]), (x[fit : fit + 100], y[fit : fit + 100]))


def test_ridge_with_little_noise_equals_least_squares():
    x = torch.randn(500, 5, generator=gen()).double() * torch.tensor([1.0, 10, 0.1, 3, 1]) + 4
    y = x @ torch.randn(5, 2, generator=gen(1)).double() + 0.1 * torch.randn(500, 2, generator=gen(2)) + 7
    read = fit_ridge(examples(x, y))
    design = np.column_stack([x[:300].numpy(), np.ones(300)])
    weight, *_ = np.linalg.lstsq(design, y[:300].numpy(), rcond=None)
    expected = np.column_stack([x[400:].numpy(), np.ones(100)]) @ weight
    np.testing.assert_allclose(read(x[400:]).numpy(), expected, rtol=1e-3)


def test_ridge_on_noise_shrinks_to_the_mean():
    """80 uninformative inputs, 100 frames: the error of least squares is 1 + 80 / 19 variances, that of the ridge about
    one."""
    x, y = torch.randn(400, 80, generator=gen()), torch.randn(400, 1, generator=gen(1)).double()
    read = fit_ridge(Examples((x[:100], y[:100]), (x[100:200], y[100:200])))
    assert float((read(x[200:]) - y[200:]).square().mean()) < 1.3
    with_constant = torch.cat([x, torch.full((400, 1), 3.0)], 1)  # a constant input changes nothing
    again = fit_ridge(Examples((with_constant[:100], y[:100]), (with_constant[100:200], y[100:200])))
    torch.testing.assert_close(again(with_constant[200:]), read(x[200:]))


def test_mlp_fits_a_nonlinear_target_and_is_reproducible():
    x = torch.randn(500, 2, generator=gen())
    y = (x[:, :1].abs() - 0.8).double() / 0.6
    state = torch.get_rng_state()
    read = fit_mlp(examples(x, y), 60, gen(3))
    assert torch.equal(torch.get_rng_state(), state)
    error = float((read(x[400:]) - y[400:]).square().mean())
    assert error < 0.1 < 0.9 < float((fit_ridge(examples(x, y))(x[400:]) - y[400:]).square().mean())
    torch.testing.assert_close(fit_mlp(examples(x, y), 60, gen(3))(x[400:]), read(x[400:]), rtol=0, atol=0)


def test_training_stops_at_the_smallest_validation_error():
    """The targets are noise: further training makes predictions of unseen frames worse."""
    x, y = torch.randn(500, 30, generator=gen()), torch.randn(500, 1, generator=gen(1)).double()
    few = Examples((x[:50], y[:50]), (x[50:150], y[50:150]))
    read = fit_mlp(few, 200, gen(3))
    assert float((read(x[150:]) - y[150:]).square().mean()) < 1.5  # without early stopping it is 2
    assert build_seeded(gen(5), lambda: torch.nn.Linear(2, 2)).weight.equal(
        build_seeded(gen(5), lambda: torch.nn.Linear(2, 2)).weight
    )


def test_standardiser_detects_constant_values():
    values = torch.stack([torch.arange(4.0), torch.full((4,), 1e6) + torch.tensor([0, 0.1, 0, 0.1])], 1)
    scaling = Standardiser.fit(values)
    assert scaling.varies.tolist() == [True, False]
    standard = scaling(values)
    assert standard[:, 0].mean() == 0 and standard[:, 0].std() == pytest.approx(1) and not standard[:, 1].any()
    with pytest.raises(Undefined, match="the latents are not finite"):
        check_finite(torch.tensor([1.0, torch.inf]), "the latents")


# ---- R2 ----


@pytest.fixture
def predicted():
    episode = torch.arange(60) // 6
    target = torch.randn(60, 3, generator=gen()) + episode[:, None] / 5
    target[:, 2] = 1.5  # constant
    predictions = {f"r{i}": target + 0.3 * (i + 1) * torch.randn(60, 3, generator=gen(i + 1)) for i in range(3)}
    return predictions, target, episode


def r2(reading, target):
    error, deviation = (reading - target) ** 2, (target - target.mean(0)) ** 2
    return np.mean(1 - error[:, :2].sum(0) / deviation[:, :2].sum(0))


def test_r2_matches_its_definition_and_its_error_is_the_jackknife(predicted):
    predictions, target, episode = predicted
    explained = R2Scores.compute(predictions, target, episode)
    y = target.double().numpy()
    for name, reading in predictions.items():
        x = reading.double().numpy()
        score = explained.score(name)
        assert score.value == pytest.approx(r2(x, y))
        without = [r2(x[episode != e], y[episode != e]) for e in range(10)]
        assert score.error == pytest.approx(np.sqrt(9 * np.var(without)))
    with pytest.raises(Undefined, match="constant"):
        R2Scores.compute(predictions, torch.ones(60, 3), episode)


def test_normalise_scales_between_two_scores_and_is_undefined_if_they_are_close(predicted):
    predictions, target, episode = predicted
    predictions["mean"] = target.mean(0).expand(60, 3)  # R2 = 0
    predictions["truth"] = target.clone()  # R2 = 1
    explained = R2Scores.compute(predictions, target, episode)
    own = explained.score("r0")
    placed = explained.normalise("r0", "mean", "truth")
    assert placed.value == pytest.approx(own.value) and placed.error == pytest.approx(own.error, rel=0.1)
    low, high = explained.score("r2").value, explained.score("r0").value
    assert explained.normalise("r1", "r2", "r0").value == pytest.approx(
        (explained.score("r1").value - low) / (high - low)
    )
    for zero, one in (("truth", "mean"), ("r0", "r0")):
        nothing = explained.normalise("r1", zero, one)
        assert nothing.value is None and "no scale" in nothing.why


# ---- standard errors ----


def test_error_of_a_mean_treats_episodes_as_independent():
    """With episodes of equal length, the jackknife of a mean is the standard error of the episodes' means."""
    values, episode = torch.randn(40, generator=gen()), torch.arange(40) // 4
    found = average_frames(values, episode)
    means = values.view(10, 4).mean(1)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.error == pytest.approx(float(means.std()) / 10**0.5, rel=1e-5)
    alone = average_frames(values, torch.zeros(40, dtype=torch.long))
    assert alone.value == found.value and alone.error is None


def test_jackknife_of_sums_by_episode():
    values, episode = torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.tensor([7, 2, 7])
    sums = sum_by_episode(values, episode)
    assert sums.tolist() == [[3, 4], [6, 8]]
    value, error = jackknife(sums, lambda total: total[:1] / total[1:])
    assert value.item() == pytest.approx(9 / 12)
    assert error.item() == pytest.approx(np.sqrt(np.var([6 / 8, 3 / 4])), abs=1e-12)


def test_values_that_are_not_finite_are_undefined():
    assert make_measurement(float("nan")).value is None and make_measurement(float("nan")).why
    assert make_measurement(1.0, float("nan")).error is None and make_measurement(1.0, 0.5).error == 0.5
