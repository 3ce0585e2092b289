"""Tests of the dream-to-real gap in environments where both returns are known."""

from __future__ import annotations

import pytest
import torch
from evaluation_kit import OBS, Constant, Evaluated, Steady
from model_kit import build_model, gen

from worldlab.evaluation.dream_gap import CONTEXT_STEPS, Gap
from worldlab.evaluation.episodes import evaluate
from worldlab.experience.acting import ActingAgent


def gap_of(reward: float, cont: float, horizon: int) -> Gap:
    Steady.made = 0
    model = build_model(obs=OBS)
    model.reward, model.cont = Constant(reward), Constant(cont)  # type: ignore[assignment]
    acting = ActingAgent(model, Evaluated(), Steady.action_space, gen())
    gap = evaluate(acting, Steady, episodes=4, seed=0, dream_horizon=horizon).gap
    assert gap is not None
    return gap


def test_both_returns_start_at_the_same_decision():
    """Episodes have 4, 6, 8 and 10 steps: the first ends before its dream begins, the others 1, 3 and 5 steps later."""
    gap = gap_of(reward=3.0, cont=0.5, horizon=4)
    assert CONTEXT_STEPS == 5
    assert gap.real == [2.0, 6.0, 8.0]  # the last is cut at the horizon of 4
    assert gap.dreamt == pytest.approx([3 * (1 + 0.5 + 0.25 + 0.125)] * 3)


def test_a_dream_of_a_truncated_episode_has_its_length(monkeypatch):
    """A perfect model of an environment with a time limit dreams beyond it, and exploits nothing."""
    monkeypatch.setattr(Steady, "cut", True)
    gap = gap_of(reward=2.0, cont=1.0, horizon=4)
    assert gap.real == gap.dreamt == [2.0, 6.0, 8.0] and not gap.exploited
    monkeypatch.setattr(Steady, "cut", False)
    assert gap_of(reward=2.0, cont=1.0, horizon=4).dreamt == [8.0] * 3  # ends that the model should have foreseen


def test_a_dream_that_pays_more_is_exploited_and_one_that_pays_less_is_not():
    assert gap_of(reward=50.0, cont=1.0, horizon=4).exploited
    assert not gap_of(reward=0.1, cont=1.0, horizon=4).exploited
    fair = Gap(10, [1.0, 2.1, 2.9, 4.0], [1.1, 2.0, 3.0, 3.9])
    assert not fair.exploited
    assert fair.summary()["difference"] == pytest.approx(0.0) and fair.summary()["starts"] == 4
    assert Gap(10, [1.0], [1.0]).summary()["standard_error"] is None


def test_measuring_the_gap_does_not_change_the_evaluation():
    returns = []
    for horizon in (0, 5):
        Steady.made = 0
        acting = ActingAgent(build_model(obs=OBS), Evaluated(), Steady.action_space, gen())
        outcome = evaluate(acting, Steady, episodes=4, seed=0, deterministic=False, dream_horizon=horizon)
        returns.append((outcome.returns, acting.generator.get_state()))
    assert returns[0][0] == returns[1][0] and torch.equal(returns[0][1], returns[1][1])
