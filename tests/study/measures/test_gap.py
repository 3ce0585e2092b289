"""The dream-to-real gap with known returns on both sides, and the temperature of dreams."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from evaluation_kit import OBS, Constant, Evaluated, Steady
from measures_kit import TINY, make_subject
from model_kit import build_model, gen

from worldlab.distributions import Normal
from worldlab.experience.acting import ActingAgent
from worldlab.study.measures import gap
from worldlab.study.measures.undefined import Undefined

SIZES = replace(TINY, gap_episodes=4, gap_horizon=4)


@pytest.fixture
def subject():
    """Rewards are 2 per step in reality and 3 in the dream; the n-th of four episodes ends after 4 + 2 n steps."""
    Steady.made = 0
    model = build_model(obs=OBS)
    model.reward, model.cont = Constant(3.0), Constant(1.0)  # type: ignore[assignment]
    acting = lambda seed: ActingAgent(model, Evaluated(), Steady.action_space, gen(seed))  # noqa: E731
    return make_subject(model, None, SIZES, make_env=Steady, make_agent=acting)  # type: ignore[arg-type]


def test_difference_compares_the_same_starts(subject):
    """From the sixth decision on, episodes of 6, 8 and 10 steps return 1, 3 and 4 (the horizon) times 2; dreams return
    4 times 3."""
    found = gap.measure(subject)
    assert found["gap/real"].value == pytest.approx((2 + 6 + 8) / 3)
    for t in ("0.5", "1", "1.5"):
        assert found[f"gap/difference_{t}"].value == pytest.approx(12 - 16 / 3)


def test_imagines_at_each_temperature(subject, monkeypatch):
    temperatures = []
    own = Normal.tempered
    monkeypatch.setattr(Normal, "tempered", lambda self, t: temperatures.append(t) or own(self, t))
    gap.measure(subject)
    assert temperatures == [0.5] * 4 + [1.5] * 4  # a temperature of 1 changes nothing


@dataclass(frozen=True)
class Plain:
    """A Normal without a temperature."""

    dist: Normal

    @property
    def mode(self):
        return self.dist.mode

    def sample(self, generator):
        return self.dist.sample(generator)


def test_a_prior_without_temperature_is_measured_at_one_only(subject, monkeypatch):
    own = subject.model.dynamics.predict
    monkeypatch.setattr(subject.model.dynamics, "predict", lambda memory: Plain(own(memory)))
    found = gap.measure(subject)
    assert found["gap/difference_1"].value == pytest.approx(12 - 16 / 3)
    assert found["gap/difference_0.5"].value is None and "no temperature" in found["gap/difference_0.5"].why


def test_is_undefined_if_every_episode_is_too_short(subject):
    with pytest.raises(Undefined, match="over within 5"):
        gap.measure(replace(subject, sizes=replace(SIZES, gap_episodes=1)))
