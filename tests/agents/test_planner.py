"""Planners against exact optima: LQR on the linear-Gaussian system, the code of a combination lock; deadlines; warm starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from config_kit import configured
from pydantic import ValidationError
from true_worlds import Lock, TrueLinear
from worldlab_agents.actor import sample_action
from worldlab_agents.configs import ActorCriticConfig, PlannerConfig
from worldlab_agents.planner import PlannerAgent, make_search_rule
from worldlab_agents.plans import GaussianPlans, initial_plans
from worldlab_agents.search import Budget, PlanningTask, SearchRule, propose, search, weigh_boltzmann, weigh_elites
from worldlab_agents.stopwatch import Stopwatch
from worldlab_envs.linear_gaussian import LinearGaussian

from worldlab import tree
from worldlab.registry import load_registry
from worldlab.rollout import Carry
from worldlab.specs import ActionSpec
from worldlab.world_model import Dream

PLANNERS = ("cem", "icem", "mppi")
REGISTRY = load_registry()


def config_of(name: str, /, **values: Any) -> PlannerConfig:
    """The settings of the planner of that name, with other values or constants."""
    return configured(PlannerConfig, **{**REGISTRY.get("agent", name).preset, **values})


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("search_kind", PLANNERS)
def test_on_the_true_linear_system_the_cost_is_within_5_percent_of_lqr(search_kind):
    """64 systems side by side, 60 steps, the same disturbances for both: the ratio is that of the controllers."""
    env = LinearGaussian(2)
    world: Any = TrueLinear(env)
    gain = torch.from_numpy(env.lqr_gain().astype(np.float32))
    agent = PlannerAgent(
        config_of(search_kind, horizon=15, candidates=256, elites=24, gamma=1.0, min_std=0.02, noise=False), world.specs
    )
    disturbance = 0.1 * torch.randn(60, 64, 2, generator=gen(5))
    start = torch.randn(64, 2, generator=gen(6))
    costs = {}
    for name in ("lqr", "planner"):
        x, state, total = start, agent.initial(64), torch.zeros(64)
        for w in disturbance:
            if name == "lqr":
                u = (-x @ gain.T).clamp(-1, 1)
            else:
                u, state = agent.act(world, Carry({}, x), x, state, gen(int(total.sum() * 100)), False)
            x = x @ world.A.T + u @ world.B.T + w
            total = total + ((x @ world.W) * x).sum(-1) + ((u @ world.U) * u).sum(-1)
        costs[name] = total.mean().item()
    assert costs["planner"] < 1.05 * costs["lqr"], costs


@pytest.mark.parametrize("search_kind", PLANNERS)
def test_on_a_combination_lock_the_categorical_search_finds_the_code(search_kind):
    world: Any = Lock((2, 0, 3, 1, 1, 2))
    config = config_of(search_kind, horizon=6, candidates=512, elites=32, iterations=10, execute="best")
    agent = PlannerAgent(config, world.specs)
    start = Carry({}, torch.eye(7)[[0, 0, 2]])
    found = agent.plan(world, start, agent.initial(3), gen())
    assert found.best.argmax(-1)[:2].tolist() == [[2, 0, 3, 1, 1, 2]] * 2
    assert found.best.argmax(-1)[2, :4].tolist() == [3, 1, 1, 2]
    state, durations, z = agent.initial(1), [], start.z[:1]
    for _ in range(6):
        action, state = agent.act(world, Carry({}, z), z, state, gen(1), False)
        z = world.imagine(Carry({}, z), action[:, None], 1, None).features[:, 1]
        durations.append(int(action.argmax()))
    assert tuple(durations) == world.code


class Hill:
    """Reward 1 - (a - target)^2 a step; may end with each step."""

    def __init__(self, target: float, cont: float = 1.0):
        self.target, self.cont = target, cont
        self.calls: list[int] = []
        self.tick = lambda: None

    def fork(self, carry, count):
        return tree.repeat(carry, count)

    def imagine(self, carry, plan, horizon, generator):
        self.tick()
        self.calls.append(len(plan))
        reward = 1 - (plan[..., 0] - self.target).square()
        features = torch.cat([carry.z[:, None], plan[..., :1]], 1)
        return Dream(features, plan, reward, torch.full_like(reward, self.cont))


def hill(target=0.7, **options) -> Any:
    return Hill(target, **options)


def test_scores_discount_by_gamma_and_by_the_chance_of_having_ended_and_add_the_value_at_the_end():
    task = PlanningTask(hill(0.0, cont=0.5), Carry({}, torch.zeros(2, 1)), gamma=0.8, value=lambda f: 100 * f[..., 0])
    plans = torch.tensor([[[0.0], [1.0], [0.5]]])[None].expand(2, 1, 3, 1)
    # rewards 1, 0, 0.75 arrive while the dream is alive with probability 1, 0.4, 0.16; the end is worth 50
    torch.testing.assert_close(task.score(plans, gen()), torch.full((2, 1), 1 + 0.16 * 0.75 + 0.064 * 50))


@pytest.mark.parametrize("weigh", [weigh_elites(8), weigh_boltzmann(0.5, 8)])
def test_a_search_climbs_the_hill_and_never_ends_below_where_it_began(weigh):
    plans = initial_plans(1, 3, ActionSpec("continuous", 1), torch.device("cpu"))
    task = PlanningTask(hill(), Carry({}, torch.zeros(1, 1)), gamma=1.0)
    found = search(task, plans, SearchRule(weigh, floor=0.01), Budget(64, 8), gen())
    torch.testing.assert_close(found.plans.best, torch.full((1, 3, 1), 0.7), atol=0.05, rtol=0)
    good = GaussianPlans(torch.full((1, 3, 1), 0.7), torch.ones(1, 3, 1))
    assert search(task, good, SearchRule(weigh), Budget(2, 1), gen()).score.item() >= 3 - 1e-5


def test_proposals_compete_and_win_where_they_are_best():
    task = PlanningTask(hill(0.9), Carry({}, torch.zeros(1, 1)), gamma=1.0)
    narrow = GaussianPlans(torch.full((1, 3, 1), -0.9), torch.full((1, 3, 1), 0.01))
    proposal = torch.full((1, 1, 3, 1), 0.9)
    found = search(task, narrow, SearchRule(weigh_elites(1)), Budget(4, 1), gen(), proposals=proposal)
    torch.testing.assert_close(found.best, proposal[:, 0])
    kept = search(task, narrow, SearchRule(weigh_elites(1), elites=1), Budget(4, 2), gen(), previous_elites=proposal)
    torch.testing.assert_close(kept.elites, proposal)


def test_weights_are_those_of_cem_and_mppi():
    scores = torch.tensor([[1.0, 4.0, 3.0, 0.0, 0.5, -1.0]])
    assert weigh_elites(2)(scores).tolist() == [[0.0, 0.5, 0.5, 0.0, 0.0, 0.0]]
    soft = torch.softmax(torch.tensor([-1.0, 0.0, -1 / 3]) / 0.5, 0)
    torch.testing.assert_close(weigh_boltzmann(0.5, 3)(scores)[0, :3], soft)
    assert not weigh_boltzmann(0.5, 3)(scores)[0, 3:].any()


@pytest.mark.parametrize("weigh", [weigh_elites(64), weigh_boltzmann(0.5, 64)])
def test_of_few_candidates_half_are_chosen(weigh):
    """All of them would be no choice: the plans would stay where they were, as wide as they were."""
    plans = initial_plans(1, 3, ActionSpec("continuous", 1), torch.device("cpu"))
    found = search(
        PlanningTask(hill(), Carry({}, torch.zeros(1, 1)), gamma=1.0), plans, SearchRule(weigh), Budget(64, 8), gen()
    )
    torch.testing.assert_close(found.plans.best, torch.full((1, 3, 1), 0.7), atol=0.1, rtol=0)


@pytest.mark.parametrize("weigh", [weigh_elites(3), weigh_boltzmann(0.5, 3)])
def test_a_score_that_is_not_finite_never_wins(weigh):
    bad = torch.tensor([[torch.nan, 4.0, -torch.inf, 3.0, torch.inf, torch.nan]])
    weight = weigh(torch.where(torch.isfinite(bad), bad, -torch.inf))
    assert weight.sum() == pytest.approx(1.0) and weight[0, [0, 2, 4, 5]].eq(0).all()

    class Cliff(Hill):
        """Beyond 0 nobody knows."""

        def imagine(self, carry, plan, horizon, generator):
            dream = super().imagine(carry, plan, horizon, generator)
            return replace(dream, reward=torch.where(plan[..., 0] > self.edge, torch.nan, dream.reward))

    world: Any = Cliff(-0.5)
    for edge, mean in ((0.0, -0.5), (-2.0, 0.0)):
        world.edge = edge
        plans = initial_plans(1, 3, ActionSpec("continuous", 1), torch.device("cpu"))
        task = PlanningTask(world, Carry({}, torch.zeros(1, 1)), gamma=1.0)
        found = search(task, plans, SearchRule(weigh, floor=0.01), Budget(256, 6), gen())
        assert found.best[..., 0].max() <= max(edge, 0.0)
        if edge == 0.0:
            torch.testing.assert_close(found.plans.best, torch.full((1, 3, 1), mean), atol=0.15, rtol=0)
        else:
            assert torch.isfinite(found.plans.best).all() and found.score.item() == -torch.inf


def test_under_a_deadline_what_promises_most_is_dreamt_first(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("worldlab_agents.stopwatch.time.perf_counter", lambda: now[0])
    world = hill(0.9)
    world.tick = lambda: now.__setitem__(0, now[0] + 0.01)
    narrow = GaussianPlans(torch.full((1, 3, 1), -0.9), torch.full((1, 3, 1), 0.01))
    proposal = torch.full((1, 1, 3, 1), 0.9)
    task = PlanningTask(world, Carry({}, torch.zeros(1, 1)), gamma=1.0)
    stopwatch = Stopwatch(15)  # time for one chunk
    stopwatch.start()
    found = search(
        task, narrow, SearchRule(weigh_elites(8)), Budget(512, 6), gen(), proposals=proposal, stopwatch=stopwatch
    )
    assert len(world.calls) == 1 and found.best.tolist() == proposal[:, 0].tolist()


@pytest.mark.parametrize(("fixed", "each", "late", "least"), [(0.004, 0.0002, 1, 19_000), (0.03, 0.0, 14, 0)])
def test_a_stopwatch_fills_the_time_there_is_and_is_hardly_ever_late(monkeypatch, fixed, each, late, least):
    """A model that takes 4 ms and 0.2 ms a candidate, with a pause of 60 ms now and then; and one too slow for any chunk."""
    now, found = [0.0], []
    monkeypatch.setattr("worldlab_agents.stopwatch.time.perf_counter", lambda: now[0])
    stopwatch = Stopwatch(20)
    for search_number in range(1000):
        stopwatch.start()
        started_at, dreamt = now[0], 0
        while count := stopwatch.count_affordable(512 - dreamt):
            accident = 0.06 if search_number in (0, 500) and not dreamt else 0.0
            seconds = fixed + each * count + accident
            now[0] += seconds
            stopwatch.record(count, seconds)
            dreamt += count
        found.append((now[0] - started_at, dreamt))
        now[0] += 0.001
    assert sum(seconds > 0.02 for seconds, _ in found) <= late + 1
    assert sum(dreamt for _, dreamt in found) >= least


def test_candidates_decay_to_twice_the_elites_and_no_further():
    """iCEM, algorithm 1: max(N gamma^-i, 2 K); but never more than were asked for."""
    assert Budget(256, 5, decay=0.5, minimum=64).counts(minimum=22) == [256, 128, 64, 64, 64]
    assert Budget(40, 3, decay=0.5, minimum=64).counts(minimum=22) == [40, 40, 40]
    assert Budget(4, 2).counts(minimum=22) == [22, 22]


def test_a_guide_discounts_and_doubts_as_the_plans_do():
    specs = TrueLinear(LinearGaussian(2)).specs
    guide = PlannerAgent(config_of("cem", guide=True, gamma=0.95, pessimism=0.3), specs).guide
    assert guide is not None and (guide.config.gamma, guide.bonus) == (0.95, -0.3)


def test_a_deadline_is_kept_and_a_plan_comes_back_even_with_no_time_at_all(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("worldlab_agents.stopwatch.time.perf_counter", lambda: now[0])
    world = hill()
    world.tick = lambda: now.__setitem__(0, now[0] + 0.01)
    task = PlanningTask(world, Carry({}, torch.zeros(1, 1)), gamma=1.0)
    plans = GaussianPlans(torch.full((1, 3, 1), 0.25), torch.ones(1, 3, 1))
    stopwatch = Stopwatch(10)
    stopwatch.record(8, 0.02)  # the last search's chunk took longer than there is
    stopwatch.start()
    found = search(task, plans, SearchRule(weigh_elites(8)), Budget(512, 50), gen(), stopwatch=stopwatch)
    assert found.best.tolist() == plans.best.tolist() and not world.calls
    begin = now[0]
    found = search(task, plans, SearchRule(weigh_elites(8)), Budget(512, 50, milliseconds=100), gen())
    assert now[0] - begin <= 0.1  # chunks of ten milliseconds each, the last begun in time
    assert 7 <= len(world.calls) <= 10 and found.score.item() > 3 * (1 - 0.45**2)


def test_the_next_search_starts_from_the_last_plan_shifted():
    world: Any = hill(0.7)
    agent = PlannerAgent(
        config_of("icem", horizon=3, candidates=32, elites=4, reused=3), TrueLinear(LinearGaussian(2)).specs
    )
    z = torch.zeros(2, 1)
    _, state = agent.act(world, Carry({}, z), z, agent.initial(2), gen(), False)
    torch.testing.assert_close(state["plans"]["mean"], torch.full((2, 3, 1), 0.7), atol=0.15, rtol=0)
    assert state["elites"].shape == (2, 3, 3, 1) and (state["elites"] - 0.7).abs().max() < 0.3


def test_the_guide_learns_as_a_dreamer_and_its_actor_proposes():
    config = config_of("cem", guide=True, proposals=5, guide_with=ActorCriticConfig(units=8), horizon=3)
    specs = TrueLinear(LinearGaussian(2)).specs
    agent = PlannerAgent(config, specs)
    assert set(agent.players()) == {"actor", "critic"}
    world: Any = TrueLinear(LinearGaussian(2))
    guide = agent.guide
    assert guide is not None
    proposed = propose(world, Carry({}, torch.zeros(4, 2)), lambda f: sample_action(guide.actor, f, gen()), 5, 3, gen())
    assert proposed.shape == (4, 5, 3, 1) and proposed.abs().max() <= 1 and proposed.std() > 0.1
    assert PlannerAgent(config_of("cem"), specs).players() == {}


def test_every_planner_has_its_rule():
    assert make_search_rule(config_of("icem", beta=1.5)).beta == 1.5
    scores = torch.linspace(0, 1, 9)[None]
    weights = {
        search: make_search_rule(config_of(search, temperature=0.7, elites=3)).weigh(scores) for search in PLANNERS
    }
    assert torch.equal(weights["cem"], weigh_elites(3)(scores)) and torch.equal(
        weights["icem"], weigh_elites(3)(scores)
    )
    assert torch.equal(weights["mppi"], weigh_boltzmann(0.7, 3)(scores))
    with pytest.raises(ValidationError, match="search"):
        config_of("cem", search="luck")
