"""What the health metrics say of latents and decoders whose state is known, and when an alarm is raised."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from model_kit import batch_for, build_model, gen
from torch import Tensor

from worldlab.interfaces import Alarm
from worldlab.model import health
from worldlab.model.health import HealthMonitor


def test_latent_health_knows_a_full_and_a_collapsed_latent():
    full = torch.randn(400, 4, generator=gen())
    seen = health.latent_health(full)
    assert seen["effective_rank"].item() > 3.9
    assert seen["min_std"].item() == pytest.approx(full.std(0).min().item())
    assert seen["active"].item() == 4
    line = health.latent_health(full[:, :1] * torch.tensor([1.0, 2.0, 0.05, 0.0]))
    assert line["effective_rank"].item() == pytest.approx(1, abs=1e-3)
    assert line["min_std"].item() == 0 and line["active"].item() == 2


def test_a_probe_reads_what_is_linear_and_nothing_else():
    x = torch.randn(2000, 5, generator=gen())
    y = torch.stack([x[:, 0] - 2 * x[:, 1], 3 * x[:, 2]], 1)
    assert health.probe_r2(x, y).item() > 0.999
    assert abs(health.probe_r2(x, torch.randn(2000, 2, generator=gen(1))).item()) < 0.02
    half = torch.stack([y[:, 0], torch.randn(2000, generator=gen(1)) * 100], 1)
    assert health.probe_r2(x, half).item() == pytest.approx(0.5, abs=0.03)  # every target counts alike


class Scorer:
    """Scores by the distance of the first feature to the first entry of the observation."""

    def score(self, features: Tensor, obs: Any) -> Tensor:
        return -(features[:, 0] - obs["v"][:, 0]).square()


def test_the_features_gap_is_that_of_a_known_score():
    x = torch.randn(64, 1, generator=gen())
    seen = health.features_gap(Scorer(), x, {"v": x})  # type: ignore[arg-type]
    assert seen["features_gap"].item() == pytest.approx((x - x.roll(32, 0)).square().mean().item(), rel=1e-5)
    blind = health.features_gap(Scorer(), torch.zeros(64, 1), {"v": x})  # type: ignore[arg-type]
    assert blind["features_gap"].item() == pytest.approx(0, abs=1e-6)


def test_the_r2_of_the_reward_is_that_of_a_head_with_a_known_error():
    """Rewards r, a head that reads r + e with e independent of r: R2 = 1 - var(e) / var(r). Resets are left out."""
    model = build_model()
    batch = batch_for(model)
    ctx, _ = model.observe(batch, gen())
    reward, error = torch.randn(2, *batch.reward.shape, generator=gen())
    first = batch.is_first.clone()
    first[:, 3] = True
    seen = replace(ctx, batch=replace(batch, reward=torch.where(first, 99.0, reward), is_first=first))
    read = (reward + 0.5 * error)[~first]
    model.reward.forward = lambda features: SimpleNamespace(mean=read)  # type: ignore[method-assign,assignment]
    expected = 1 - (0.5 * error[~first]).square().mean() / reward[~first].var(correction=0)
    assert health.reward_r2(model, seen)["reward/r2"].item() == pytest.approx(expected.item(), rel=1e-4)
    constant = replace(seen, batch=replace(seen.batch, reward=torch.ones_like(reward)))
    assert health.reward_r2(model, constant) == {}


HEALTHY = {
    "latent/signal_std": 0.5,
    "latent/effective_rank": 8.0,
    "latent/probe_r2": 0.9,
    "latent/kl": 3.0,
    "latent/probe_r2_untrained": 0.5,
    "decoder/features_gap": 9.0,
    "decoder/features_gap_se": 1.0,
}


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("latent_collapsed", {"latent/signal_std": 0.001}),
        ("latent_collapsed", {"latent/effective_rank": 1.0}),
        ("worse_than_untrained", {"latent/probe_r2": 0.1}),
        ("features_ignored", {"decoder/features_gap": 0.5}),
        ("nothing_to_predict", {"latent/kl": 0.0}),
        ("critic_wins", {"dynamics/critic_gap": 50.0}),
    ],
)
def test_each_failure_is_named_once_it_lasts_and_once_only(name, broken):
    monitor = HealthMonitor(build_model())
    sick = HEALTHY | broken
    assert monitor.update(sick, 10) == [] and monitor.update(sick, 10) == []  # too early to tell
    assert monitor.update(sick, 500) == []
    (alarm,) = monitor.update(sick, 501)
    assert alarm == next(a for rule, _, a in health.RULES if rule == name)
    assert monitor.update(sick, 502) == [] and monitor.raised == [name]
    monitor.update(HEALTHY, 503)
    monitor.update(sick, 504)
    assert monitor.update(sick, 505) == [alarm]  # it came back


def test_a_healthy_model_and_missing_values_raise_nothing():
    model = build_model()
    monitor = HealthMonitor(model)
    for values in (HEALTHY, {}):
        for _ in range(3):
            assert monitor.update(values, 500) == []
    alarm, given = Alarm("it is odd", "make it even"), []
    model.decoder.alarms = lambda values: given.append(values) or {"odd": alarm}  # type: ignore[method-assign]
    monitor.update(HEALTHY, 500)
    assert monitor.update(HEALTHY, 501) == [alarm] and monitor.raised == ["decoder/odd"]
    assert given == [{"features_gap": 9.0, "features_gap_se": 1.0}] * 2, (
        "a part is given its own metrics, by its own names"
    )


def test_a_restored_monitor_continues_the_count_and_raises_no_alarm_anew():
    sick = HEALTHY | {"latent/kl": 0.0}
    first = HealthMonitor(build_model())
    assert first.note("odd") and not first.note("odd")
    first.update(sick, 500)
    second = HealthMonitor(build_model())
    second.restore(json.loads(json.dumps(first.state())))
    assert len(second.update(sick, 501)) == 1 and second.update(sick, 502) == []
    assert second.raised == ["odd", "nothing_to_predict"] and not second.note("odd")


def test_an_alarm_of_an_evaluation_waits_for_enough_updates():
    monitor = HealthMonitor(build_model())
    assert not monitor.note("exploited", 69) and monitor.raised == []
    assert monitor.note("exploited", 200) and not monitor.note("exploited", 201)


def test_a_model_reports_its_health_and_the_untrained_encoder_is_no_part_of_it():
    model = build_model()
    ctx, _ = model.observe(batch_for(model), gen())
    values = HealthMonitor(model).metrics(ctx)
    told = {"kl", "probe_r2", "probe_r2_untrained", "effective_rank", "signal_std", "min_std", "active"}
    assert {f"latent/{name}" for name in told} <= set(values)
    assert all(torch.isfinite(value) for value in values.values())
    # With nothing trained yet both encoders are one; they differ only by the memory, which the untrained one is not given.
    plain = build_model(use_memory=False)
    ctx, _ = plain.observe(batch_for(plain), gen())
    values = HealthMonitor(plain).metrics(ctx)
    assert values["latent/probe_r2"] == values["latent/probe_r2_untrained"]
    assert len(list(plain.encoder.parameters())) == len([n for n in plain.state_dict() if n.startswith("encoder.")])


def test_a_frozen_decoder_is_not_examined():
    model = build_model()
    ctx, _ = model.observe(batch_for(model), gen())
    frozen = set(HealthMonitor(model, ("decoder",)).metrics(ctx))
    whole = set(HealthMonitor(model, ("encoder",)).metrics(ctx))
    assert whole - frozen == {"decoder/features_gap", "decoder/features_gap_se"} and frozen < whole
