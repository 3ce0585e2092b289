"""Readings and their R2 against numpy, least squares and algebra."""

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


def test_a_ridge_with_little_to_fear_is_least_squares():
    x = torch.randn(500, 5, generator=gen()).double() * torch.tensor([1.0, 10, 0.1, 3, 1]) + 4
    y = x @ torch.randn(5, 2, generator=gen(1)).double() + 0.1 * torch.randn(500, 2, generator=gen(2)) + 7
    read = fit_ridge(examples(x, y))
    design = np.column_stack([x[:300].numpy(), np.ones(300)])
    weight, *_ = np.linalg.lstsq(design, y[:300].numpy(), rcond=None)
    expected = np.column_stack([x[400:].numpy(), np.ones(100)]) @ weight
    np.testing.assert_allclose(read(x[400:]).numpy(), expected, rtol=1e-3)


def test_a_ridge_that_would_read_noise_is_pulled_to_the_mean():
    """80 inputs that say nothing, 100 frames: least squares would be wrong by 1 + 80 / 19 variances, the ridge hardly
    by one."""
    x, y = torch.randn(400, 80, generator=gen()), torch.randn(400, 1, generator=gen(1)).double()
    read = fit_ridge(Examples((x[:100], y[:100]), (x[100:200], y[100:200])))
    assert float((read(x[200:]) - y[200:]).square().mean()) < 1.3
    with_dead = torch.cat([x, torch.full((400, 1), 3.0)], 1)  # an input that never moves changes nothing
    again = fit_ridge(Examples((with_dead[:100], y[:100]), (with_dead[100:200], y[100:200])))
    torch.testing.assert_close(again(with_dead[200:]), read(x[200:]))


def test_a_network_reads_what_no_line_can_and_repeats_itself():
    x = torch.randn(500, 2, generator=gen())
    y = (x[:, :1].abs() - 0.8).double() / 0.6
    state = torch.get_rng_state()
    read = fit_mlp(examples(x, y), 60, gen(3))
    assert torch.equal(torch.get_rng_state(), state)
    error = float((read(x[400:]) - y[400:]).square().mean())
    assert error < 0.1 < 0.9 < float((fit_ridge(examples(x, y))(x[400:]) - y[400:]).square().mean())
    torch.testing.assert_close(fit_mlp(examples(x, y), 60, gen(3))(x[400:]), read(x[400:]), rtol=0, atol=0)


def test_fitting_stops_where_the_stopping_frames_say_so():
    """Targets that are noise: whatever is learned after the first epochs makes unseen frames worse."""
    x, y = torch.randn(500, 30, generator=gen()), torch.randn(500, 1, generator=gen(1)).double()
    few = Examples((x[:50], y[:50]), (x[50:150], y[50:150]))
    read = fit_mlp(few, 200, gen(3))
    assert float((read(x[150:]) - y[150:]).square().mean()) < 1.5  # let run on it comes to 2
    assert build_seeded(gen(5), lambda: torch.nn.Linear(2, 2)).weight.equal(
        build_seeded(gen(5), lambda: torch.nn.Linear(2, 2)).weight
    )


def test_scaling_knows_what_never_moves():
    values = torch.stack([torch.arange(4.0), torch.full((4,), 1e6) + torch.tensor([0, 0.1, 0, 0.1])], 1)
    scaling = Standardiser.fit(values)
    assert scaling.varies.tolist() == [True, False]
    standard = scaling(values)
    assert standard[:, 0].mean() == 0 and standard[:, 0].std() == pytest.approx(1) and not standard[:, 1].any()
    with pytest.raises(Undefined, match="the latents are not finite"):
        check_finite(torch.tensor([1.0, torch.inf]), "the latents")


# ---- R2 ----


@pytest.fixture
def judged():
    episode = torch.arange(60) // 6
    target = torch.randn(60, 3, generator=gen()) + episode[:, None] / 5
    target[:, 2] = 1.5  # does not move
    readings = {f"r{i}": target + 0.3 * (i + 1) * torch.randn(60, 3, generator=gen(i + 1)) for i in range(3)}
    return readings, target, episode


def r2(reading, target):
    error, deviation = (reading - target) ** 2, (target - target.mean(0)) ** 2
    return np.mean(1 - error[:, :2].sum(0) / deviation[:, :2].sum(0))


def test_r2_is_that_of_its_definition_and_its_error_leaves_out_episodes(judged):
    readings, target, episode = judged
    explained = R2Scores.compute(readings, target, episode)
    y = target.double().numpy()
    for name, reading in readings.items():
        x = reading.double().numpy()
        score = explained.score(name)
        assert score.value == pytest.approx(r2(x, y))
        without = [r2(x[episode != e], y[episode != e]) for e in range(10)]
        assert score.error == pytest.approx(np.sqrt(9 * np.var(without)))
    with pytest.raises(Undefined, match="constant"):
        R2Scores.compute(readings, torch.ones(60, 3), episode)


def test_a_score_between_two_others_and_no_scale_where_these_are_alike(judged):
    readings, target, episode = judged
    readings["mean"] = target.mean(0).expand(60, 3)  # R2 = 0
    readings["truth"] = target.clone()  # R2 = 1
    explained = R2Scores.compute(readings, target, episode)
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


# ---- intervals ----


def test_the_error_of_a_mean_is_that_of_independent_episodes():
    """Equal episodes: the jackknife of a mean is the standard error of the episodes' means."""
    values, episode = torch.randn(40, generator=gen()), torch.arange(40) // 4
    found = average_frames(values, episode)
    means = values.view(10, 4).mean(1)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.error == pytest.approx(float(means.std()) / 10**0.5, rel=1e-5)
    alone = average_frames(values, torch.zeros(40, dtype=torch.long))
    assert alone.value == found.value and alone.error is None


def test_sums_by_episode_and_a_statistic_of_them():
    values, episode = torch.tensor([[1.0, 2], [3, 4], [5, 6]]), torch.tensor([7, 2, 7])
    sums = sum_by_episode(values, episode)
    assert sums.tolist() == [[3, 4], [6, 8]]
    value, error = jackknife(sums, lambda total: total[:1] / total[1:])
    assert value.item() == pytest.approx(9 / 12)
    assert error.item() == pytest.approx(np.sqrt(np.var([6 / 8, 3 / 4])), abs=1e-12)


def test_what_is_not_finite_is_undefined():
    assert make_measurement(float("nan")).value is None and make_measurement(float("nan")).why
    assert make_measurement(1.0, float("nan")).error is None and make_measurement(1.0, 0.5).error == 0.5
