"""Scores on held-out sequences: the energy score of dreams against an independent computation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from model_kit import batch_for, build_model, gen

from worldlab import tree
from worldlab.evaluation.held_out import DREAMS, dream_scores


def test_the_energy_score_compares_dreams_with_the_step_they_predict_and_with_each_other():
    """Step the model by hand, DREAMS copies at once, then apply the definition E|x - y| - E|x - x'| / 2 to each pair."""
    model, start = build_model(), 3
    raw = batch_for(model, rows=2, length=9)
    batch = replace(raw, obs=model.preprocess(raw.obs))
    _, seen = model.observe(batch, gen())
    index = torch.arange(2)
    carry = seen.at(index, torch.full_like(index, start - 1))
    with torch.no_grad():
        found = dream_scores(model, batch, carry, start, gen(5))
        # The dreams are imagined to their end before anything is rendered, which draws no numbers for vectors.
        noise, state, drawn = gen(5), tree.repeat(carry, DREAMS), []
        for t in range(start, 9):
            state, features, _, _ = model.step(state, tree.repeat(batch.prev_action[:, t], DREAMS), noise)
            drawn.append(model.render(features)["vector"].double().unflatten(0, (2, DREAMS)))
    assert set(found["vector"]) == {1, 5}  # of six dreamt steps
    for step, score in found["vector"].items():
        x, y = drawn[step - 1], raw.obs["vector"][:, start - 1 + step].double()

        def gap(a, b):
            return (a - b).square().mean().sqrt()

        miss = sum(gap(x[row, i], y[row]) for row in range(2) for i in range(DREAMS)) / (2 * DREAMS)
        pairs = list(itertools.permutations(range(DREAMS), 2))
        spread = sum(gap(x[row, i], x[row, j]) for row in range(2) for i, j in pairs) / (2 * len(pairs))
        assert spread > 0
        assert score == pytest.approx(float(miss - spread / 2), rel=1e-4)
