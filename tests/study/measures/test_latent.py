"""Rank and width of constructed latents."""

from __future__ import annotations

import pytest
import torch
from measures_kit import FullyObserved, build_true_model, make_subject, record_fully_observed

from worldlab.study.measures import latent


def test_a_latent_with_two_directions_has_rank_two():
    """z = (a, a, b, 0): two directions of equal variance, three active entries."""
    recording = record_fully_observed(episodes=20, length=100)
    model = build_true_model(FullyObserved())
    frames = recording.frames("test")
    std = torch.from_numpy(recording.truth[frames]).float().std(0)

    def read(obs):
        x = obs["vector"] / std
        return torch.stack([x[:, 0] / 2**0.5, x[:, 0] / 2**0.5, x[:, 1], 0 * x[:, 0]], -1)

    model.encoder.read = read  # type: ignore[assignment]
    found = latent.measure(make_subject(model, recording))
    assert found["latent/effective_rank"].value == pytest.approx(2, abs=0.05)
    assert found["latent/active"].value == 3 and found["latent/dims"].value == 4 and found["latent/ratio"].value == 1
    assert found["latent/kl"].value is None and "a point" in found["latent/kl"].why
