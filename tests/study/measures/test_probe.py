"""Probes of latents that contain the state, a part of it, or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from measures_kit import TINY, FullyObserved, build_true_model, make_subject, record_fully_observed

from worldlab.study.measures import distractor, probe
from worldlab.study.measures.r2 import R2Scores
from worldlab.study.measures.supervised import predict_supervised
from worldlab.study.measures.undefined import Undefined


def build_model_with_encoder(read):
    """Build the true model with the encoder z = read(obs)."""
    model = build_true_model(FullyObserved())
    model.encoder.read = lambda obs: read(obs["vector"])  # type: ignore[assignment]
    return model


@pytest.fixture(scope="module")
def recording():
    return record_fully_observed(episodes=20, length=40)


def test_a_latent_that_equals_the_state_is_predicted_fully_and_normalised(recording):
    blind = lambda: build_model_with_encoder(lambda x: 0 * x)  # noqa: E731
    found = probe.measure(
        make_subject(
            build_true_model(FullyObserved()), recording, replace(TINY, supervised_updates=150), build_untrained=blind
        )
    )
    assert found["probe/linear_r2"].value == pytest.approx(1, abs=1e-4)
    assert found["probe/linear_r2_features"].value == pytest.approx(1, abs=1e-4)
    assert found["probe/mlp_r2"].value > 0.95 and found["probe/supervised_r2"].value > 0.8
    assert found["probe/linear_r2_random"].value == pytest.approx(0, abs=0.1)  # a constant: the mean of other episodes
    for kind in ("linear", "mlp"):
        zero, one = found[f"probe/{kind}_r2_random"].value, found["probe/supervised_r2"].value
        expected = (found[f"probe/{kind}_r2"].value - zero) / (one - zero)
        assert found[f"probe/{kind}_normalised"].value == pytest.approx(expected)
    # The memory of a blind model still contains the last action, which predicts a part of the state.
    assert found["probe/linear_r2_random"].value < found["probe/linear_r2_features_random"].value < 0.3


def test_the_mlp_predicts_a_square_and_the_linear_probe_does_not(recording):
    """z = |x|: the MLP predicts x^2, the linear probe less of it, and neither predicts the sign."""
    model = build_model_with_encoder(lambda x: x.abs())
    folded = make_subject(model, replace(recording, truth=recording.truth**2))
    line, net = (r2(folded, read) for read in probe.predict_both(folded, folded.mode_trace.z, folded.truth))
    assert net > 0.9 > line
    signed = make_subject(model, recording)
    assert max(r2(signed, read) for read in probe.predict_both(signed, signed.mode_trace.z, signed.truth)) < 0.1


def r2(subject, read):
    frames = subject.frames("test")
    return R2Scores.compute({"it": read}, subject.truth[frames], frames[0]).score("it").value


def test_the_supervised_network_uses_past_frames_and_nothing_of_the_model(recording):
    """The change of the state is visible in four frames but not in one; the model has no influence on the result."""
    change = np.diff(recording.truth, axis=1, prepend=0)
    change[:, 0] = 0
    subject = make_subject(build_true_model(FullyObserved()), recording, replace(TINY, supervised_updates=200))
    target = subject.standardise(change)
    episode, time = subject.frames("test")
    later = time > 0
    read = predict_supervised(subject, target)[episode, time][later]
    truth = target[episode, time][later]
    assert float(1 - (read - truth).square().mean() / truth.var()) > 0.5
    other = make_subject(build_model_with_encoder(lambda x: 0 * x), recording, subject.sizes)
    other.model.preprocess.scaling = "symlog"
    again = predict_supervised(other, target)
    torch.testing.assert_close(again[episode, time][later], read, rtol=0, atol=0)


def test_is_undefined_without_a_state(recording):
    with pytest.raises(Undefined, match="exposes no state"):
        probe.measure(make_subject(build_true_model(FullyObserved()), replace(recording, truth=None)))


def test_distractor_detects_noise_only_in_a_latent_that_retains_it(recording):
    """The last two entries of the observation act as noise, which one encoder retains."""
    noisy = replace(recording, noise=recording.truth[..., 2:], noise_names=("a", "b"))
    keeps = build_model_with_encoder(lambda x: torch.cat([x[:, :2], x[:, 2:]], 1))
    other = np.random.default_rng(0).standard_normal((*recording.truth.shape[:2], 2))
    ignores = replace(recording, noise=other, noise_names=("a", "b"))
    fresh = lambda: build_model_with_encoder(lambda x: 0 * x)  # noqa: E731
    found = distractor.measure(make_subject(keeps, noisy, build_untrained=fresh))
    assert found["distractor/noise_r2"].value == pytest.approx(1, abs=1e-4)
    assert found["distractor/noise_mlp_r2"].value > 0.9 and found["distractor/supervised_r2"].value > 0.5
    assert found["distractor/noise_r2_random"].value == pytest.approx(0, abs=0.1)
    nothing = distractor.measure(make_subject(keeps, ignores, build_untrained=fresh))
    assert abs(nothing["distractor/noise_r2"].value) < 0.05 and nothing["distractor/noise_mlp_r2"].value < 0.05
    assert nothing["distractor/supervised_r2"].value < 0.05
    with pytest.raises(Undefined, match=r"env\.distractors"):
        distractor.measure(make_subject(keeps, recording, build_untrained=fresh))
