"""Energy scores of the true model of a linear-Gaussian system, and of models with a wrong variance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from measures_kit import TINY, FullyObserved, build_true_model, make_subject, record_fully_observed

from worldlab.study.measures import energy
from worldlab.study.measures.measured_model import CONTEXT, choose_dream_starts
from worldlab.study.measures.quantities import HORIZONS
from worldlab.study.measures.undefined import Undefined

SETTINGS = {"state_dim": 2, "process_std": 0.2}
SIZES = replace(TINY, starts=8, samples=39)


@pytest.fixture(scope="module")
def recording():
    return record_fully_observed(episodes=40, length=60, **SETTINGS)


def found(recording, std=None):
    return energy.measure(make_subject(build_true_model(FullyObserved(**SETTINGS), std), recording, SIZES))


def test_true_model_has_the_expected_score(recording):
    """The expected score of the true forecast is E|x - x'| / 2: x - x' ~ N(0, 2 S), S = sum over i < k of A^i Q A^i',
    standardised."""
    env, result = FullyObserved(**SETTINGS), found(recording)
    std = recording.truth[recording.frames("fit")].std(0, ddof=1)
    rng = np.random.default_rng(0)
    for k in HORIZONS:
        powers = [np.linalg.matrix_power(env.A, i) for i in range(k)]
        spread = sum(power @ env.Q @ power.T for power in powers) / np.outer(std, std)
        pairs = rng.multivariate_normal(np.zeros(2), 2 * spread, size=100_000)
        score = result[f"energy/score_{k}"]
        assert abs(score.value - np.linalg.norm(pairs, axis=1).mean() / 2) < 4 * score.error
        assert abs(result[f"energy/crps_{k}"].value - np.abs(pairs).mean() / 2) < 4 * result[f"energy/crps_{k}"].error
        assert abs(result[f"energy/inside90_{k}"].value - 0.9) < 4 * result[f"energy/inside90_{k}"].error
        assert score.error < 0.1 * score.value
        assert score.value < result[f"energy/persistence_{k}"].value
    assert result["energy/score_1"].value < result["energy/marginal_1"].value / 3


def test_over_and_underconfident_models_score_worse_and_coverage_tells_them_apart(recording):
    right, sure, unsure = found(recording), found(recording, 0.02), found(recording, 1.0)
    assert right["energy/score_5"].value < min(sure["energy/score_5"].value, unsure["energy/score_5"].value)
    assert sure["energy/inside90_5"].value < 0.5 and unsure["energy/inside90_5"].value > 0.98
    for name in ("persistence_5", "marginal_5"):  # baselines without a model
        assert right[f"energy/{name}"] == sure[f"energy/{name}"]


def test_persistence_scores_the_distance_travelled(recording):
    subject = make_subject(build_true_model(FullyObserved(**SETTINGS)), recording, SIZES)
    episode, time = choose_dream_starts(subject, 15)
    truth = subject.truth
    assert set(episode.tolist()) == set(recording.episodes("test").tolist()) and int(time.min()) == CONTEXT - 1
    distance = [float((truth[e, t + 5] - truth[e, t]).norm()) for e, t in zip(episode, time, strict=True)]
    assert found(recording)["energy/persistence_5"].value == pytest.approx(np.mean(distance))


def test_forecast_includes_the_residuals_of_the_regression():
    """The latent contains one half of the state: the other half, nearly independent of it, has its own spread as
    residual."""
    recording = record_fully_observed(episodes=20, length=40, **SETTINGS)
    model = build_true_model(FullyObserved(**SETTINGS))
    model.encoder.read = lambda obs: obs["vector"] * torch.tensor([1.0, 0.0])  # type: ignore[assignment]
    model.dynamics.step = lambda z, u: 0 * z  # type: ignore[assignment]
    reading = energy.StateForecaster.fit(make_subject(model, recording, SIZES))
    known, unknown = reading.residuals.std(0).tolist()
    states = make_subject(model, recording).truth[recording.frames("validation")]
    left = float(states[:, 1].std()) * (1 - np.corrcoef(states.T.numpy())[0, 1] ** 2) ** 0.5
    assert known < 0.01 and unknown == pytest.approx(left, rel=0.1)
    features = torch.tensor([[0.0, 0.0, 0.5, 0.0]]).expand(5000, -1)
    drawn = reading.sample(features, torch.Generator().manual_seed(0))
    assert float(drawn[:, 0].std()) < 0.01 and float(drawn[:, 1].std()) == pytest.approx(unknown, rel=0.05)


def test_short_episodes_leave_long_horizons_undefined():
    result = energy.measure(
        make_subject(build_true_model(FullyObserved()), record_fully_observed(episodes=10, length=CONTEXT + 5), SIZES)
    )
    assert result["energy/score_5"].value is not None
    assert result["energy/score_15"].value is None and "15 decisions" in result["energy/score_15"].why
    with pytest.raises(Undefined, match="continues"):
        energy.measure(
            make_subject(build_true_model(FullyObserved()), record_fully_observed(episodes=10, length=CONTEXT), SIZES)
        )
    blind = replace(record_fully_observed(episodes=10, length=30), truth=None)
    with pytest.raises(Undefined, match="exposes no state"):
        energy.measure(make_subject(build_true_model(FullyObserved()), blind, SIZES))
