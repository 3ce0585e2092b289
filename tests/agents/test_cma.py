"""The evolved controller: its size and arithmetic, optima it must find in dreams and through episodes, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bandit_kit import CONTINUOUS, DISCRETE, Bandit, experience, gen, specs_for
from config_kit import configured
from worldlab_agents.cma import UNASSIGNED, CMAAgent, Controller
from worldlab_agents.components import PrincipalComponents
from worldlab_agents.configs import CMAConfig

from worldlab.errors import ConfigError
from worldlab.tree import select


def test_a_controller_has_the_papers_size_and_computes_what_it_says():
    assert Controller(32 + 256, 3, False).size == 867  # World Models on CarRacing
    wide = Controller(4, 2, False, hidden=3)
    assert wide.size == 3 * 5 + 2 * 4
    weights, features = torch.randn(6, wide.size, generator=gen()), torch.randn(6, 4, generator=gen(1))
    found = wide(weights, features)
    for row in range(6):
        first, second = weights[row, :15].view(3, 5), weights[row, 15:].view(2, 4)
        inner = torch.tanh(first[:, :4] @ features[row] + first[:, 4])
        torch.testing.assert_close(found[row], torch.tanh(second[:, :3] @ inner + second[:, 3]))
    choice = Controller(4, 3, True)(torch.randn(6, 15, generator=gen()), features)
    assert torch.equal(choice.sum(1), torch.ones(6)) and set(choice.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("hidden", [0, 3])
def test_the_first_candidates_act_around_the_action_that_is_given(hidden):
    controller = Controller(4, 2, False, hidden=hidden)
    weights = controller.constant_action_weights(torch.tensor([0.5, -0.9]))
    found = controller(weights.expand(6, -1), torch.randn(6, 4, generator=gen()))
    torch.testing.assert_close(found, torch.tensor([0.5, -0.9]).expand(6, 2))
    agent = CMAAgent(CMAConfig(first_action=(0.5,), hidden=hidden), specs_for(CONTINUOUS))
    chosen, _ = agent.act(None, {}, torch.ones(1, 2), agent.initial(1), gen(), False)  # type: ignore[arg-type]
    torch.testing.assert_close(chosen, torch.tensor([[0.5]]))


@pytest.mark.parametrize(("action", "given"), [(DISCRETE, (0.5,)), (CONTINUOUS, (0.5, 0.5)), (CONTINUOUS, (1.0,))])
def test_a_first_action_that_does_not_fit_is_refused(action, given):
    with pytest.raises(ConfigError, match="first_action"):
        CMAAgent(CMAConfig(first_action=given), specs_for(action))


@pytest.mark.parametrize("action", [DISCRETE, CONTINUOUS], ids=lambda a: a.kind)
def test_evolution_in_dreams_finds_the_best_action(action):
    config = CMAConfig(population=12, sigma=0.5, every=1, rollouts=4, horizon=3)
    agent, world, noise = CMAAgent(config, specs_for(action)), Bandit(action), gen()
    out: dict[str, Any] = {}
    for _ in range(30):
        out = agent.learn(world, experience(), noise)  # type: ignore[arg-type]
    features = torch.linspace(-1, 1, 9)[:, None].expand(-1, 2)
    chosen, _ = agent.act(None, {}, features, agent.initial(9), gen(), False)  # type: ignore[arg-type]
    if action is DISCRETE:
        assert (chosen.argmax(-1) == 2).all()
    else:
        torch.testing.assert_close(chosen, torch.full((9, 1), 0.5), atol=0.15, rtol=0)
    assert out["agent/generation"] == 30 and out["agent/best"] > out["agent/fitness"] - 1e-5


def test_judged_is_an_average_of_the_means_in_which_the_newest_weigh_most():
    config = CMAConfig(population=4, every=1, rollouts=2, horizon=2, averaging=0.75)
    agent, noise, means = CMAAgent(config, specs_for(CONTINUOUS)), gen(), []
    for _ in range(4):
        agent.learn(Bandit(CONTINUOUS), experience(), noise)  # type: ignore[arg-type]
        means.append(agent.mean.clone())
    weights = torch.tensor([0.75**3, 0.75**2, 0.75, 1.0])
    expected = (weights[:, None] * torch.stack(means)).sum(0) / weights.sum()
    torch.testing.assert_close(agent.average, expected)
    features = torch.ones(1, 2)
    chosen, _ = agent.act(None, {}, features, agent.initial(1), gen(), False)  # type: ignore[arg-type]
    torch.testing.assert_close(chosen, agent.controller(expected[None], features))


def test_the_mean_settles_by_ever_smaller_steps():
    config = CMAConfig(population=6, every=1, rollouts=2, horizon=2, settle=2)
    agent, noise = CMAAgent(config, specs_for(CONTINUOUS)), gen()
    for generation in range(1, 6):
        before = agent.mean.clone()
        agent._sample_generation(noise)
        scores = torch.randn(6, generator=noise)
        agent._update_strategy(scores.tolist())
        weights = torch.tensor(agent._strategy.sp.weights.positive_weights, dtype=torch.float32)
        best = agent._population[scores.argsort(descending=True)[: len(weights)]]
        step = min(1.0, 2 / generation) * ((weights[:, None] * best).sum(0) - before)
        torch.testing.assert_close(agent.mean - before, step, atol=1e-5, rtol=1e-3)


def test_a_dreams_score_is_discounted_and_weighed_by_going_on():
    agent = CMAAgent(configured(CMAConfig, horizon=3, rollouts=2, gamma=0.5), specs_for(DISCRETE))
    world: Any = Bandit(DISCRETE)
    always_last = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 1.0]])
    scores = agent.evaluate_in_dreams(world, experience(), torch.cat([always_last, -always_last]), gen())
    assert scores.tolist() == [1 + 0.5 + 0.25, 0]


def play(agent: CMAAgent, rows: int, episodes: int, noise: torch.Generator) -> None:
    """Episodes of one step in `rows` environments: the return is 1 - (a - 0.5)^2. Rows end one after another."""
    state: Any = agent.initial(rows)
    for number in range(episodes):
        action, state = agent.act(None, {}, torch.ones(rows, 2), state, noise, True)  # type: ignore[arg-type]
        row = number % rows
        agent.after_episode(select(state, row), float(1 - (action[row, 0] - 0.5) ** 2))
        state["candidate"][row] = UNASSIGNED


def test_evolution_by_episodes_finds_the_best_action_and_each_episode_has_one_controller():
    agent = CMAAgent(CMAConfig(where="real", population=8, sigma=0.5), specs_for(CONTINUOUS))
    noise = gen()
    state: Any = agent.initial(3)
    first, state = agent.act(None, {}, torch.ones(3, 2), state, noise, True)  # type: ignore[arg-type]
    again, state = agent.act(None, {}, torch.ones(3, 2), state, noise, True)  # type: ignore[arg-type]
    assert torch.equal(first, again) and len(set(state["candidate"].tolist())) == 3
    play(agent, rows=3, episodes=400, noise=noise)
    assert agent.generation >= 20
    chosen, _ = agent.act(None, {}, torch.ones(1, 2), agent.initial(1), noise, False)  # type: ignore[arg-type]
    assert chosen.item() == pytest.approx(0.5, abs=0.1)


def test_a_row_plays_its_candidates_in_turn_and_then_waits_for_the_others():
    agent = CMAAgent(CMAConfig(where="real", population=6, episodes=2), specs_for(CONTINUOUS))
    noise, rows = gen(), 4
    state: Any = agent.initial(rows)
    played: list[list[int]] = [[] for _ in range(rows)]
    for _ in range(4):  # rows 0 and 1 have two candidates of two episodes each, rows 2 and 3 have one
        _, state = agent.act(None, {}, torch.ones(rows, 2), state, noise, True)  # type: ignore[arg-type]
        rests = agent.idle(state)
        for row in range(rows):
            if not rests[row]:
                played[row].append(int(state["candidate"][row]) % 6)
            agent.after_episode(select(state, row), 1.0)
        state["candidate"][:] = UNASSIGNED
    assert played == [[0, 0, 4, 4], [1, 1, 5, 5], [2, 2], [3, 3]]
    assert agent.generation == 1


def test_dreams_come_first_and_episodes_begin_with_the_whole_step_size():
    agent = CMAAgent(CMAConfig(where="both", population=6, every=1, rollouts=2, horizon=2), specs_for(CONTINUOUS))
    noise = gen()
    for _ in range(5):
        agent.learn(Bandit(CONTINUOUS), experience(), noise)  # type: ignore[arg-type]
    assert agent.generation == 5 and agent.mean.any() and agent.sigma != pytest.approx(0.1)
    dreamt = agent.mean.clone()
    agent.act(None, {}, torch.ones(2, 2), agent.initial(2), noise, True)  # type: ignore[arg-type]
    assert agent.playing and agent.sigma == pytest.approx(0.1)
    assert agent.learn(Bandit(CONTINUOUS), experience(), noise) == {}  # type: ignore[arg-type]
    assert torch.equal(agent.mean, dreamt) and (agent._population - dreamt).std() == pytest.approx(0.1, rel=0.4)


def test_settling_and_averaging_begin_anew_with_the_episodes():
    """A hundred dreamt generations are no reason to move by little steps, nor their means one to be judged by."""
    config = CMAConfig(where="both", population=6, every=1, rollouts=2, horizon=2, settle=5, averaging=0.9)
    agent, noise = CMAAgent(config, specs_for(CONTINUOUS)), gen()
    for _ in range(30):
        agent.learn(Bandit(CONTINUOUS), experience(), noise)  # type: ignore[arg-type]
    assert agent._strategy.sp.cmean < 0.2 and not torch.equal(agent.average, agent.mean)
    played = False
    while agent.generation == 30 or not played:
        state = agent.initial(1)
        _, state = agent.act(None, {}, torch.ones(1, 2), state, noise, True)  # type: ignore[arg-type]
        agent.after_episode(select(state, 0), float(torch.randn((), generator=noise)))
        played = agent.generation == 31
    assert agent._strategy.sp.cmean == 1.0 and torch.equal(agent.average, agent.mean)


def test_the_same_seed_evolves_the_same_and_weights_are_saved():
    states = []
    for _ in range(2):
        agent = CMAAgent(CMAConfig(population=6, every=2, rollouts=2, horizon=2), specs_for(CONTINUOUS))
        noise = gen(3)
        for _ in range(6):
            agent.learn(Bandit(CONTINUOUS), experience(), noise)  # type: ignore[arg-type]
        states.append(agent.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["mean"].any() and states[0]["generation"] == 3


def test_components_are_the_leading_directions_of_equal_variance():
    mixing = torch.randn(6, 6, generator=gen()).double()
    rows = torch.randn(20, 500, 6, generator=gen(1)).double() @ mixing + 3
    found = PrincipalComponents(6, 2)
    for batch in rows:
        found.update(batch.float())
    before = found.basis.clone()
    found.update(torch.zeros(5, 6))
    assert found.fitted and torch.equal(found.basis, before)
    flat = rows.flatten(0, 1)
    out = found(flat.float()).double()
    torch.testing.assert_close(out.mean(0), torch.zeros(2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.T.cov(correction=0), torch.eye(2).double() / 2, atol=1e-4, rtol=0)
    _, _, oracle = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    cosine = (torch.nn.functional.normalize(found.basis.double(), dim=1) * oracle[:2]).sum(1).abs()
    torch.testing.assert_close(cosine, torch.ones(2).double(), atol=1e-5, rtol=0)


def test_a_direction_without_variance_is_not_magnified():
    found = PrincipalComponents(3, 3)
    for _ in range(20):
        found.update(torch.tensor([[1.0, 0, 5], [-1, 0, 5]]))
    assert found(torch.tensor([[0.0, 1e-3, 5.0]])).abs().max() < 1
    constant = PrincipalComponents(3, 2)
    for _ in range(20):
        constant.update(torch.tensor([[0.3, 0.7, 5]] * 2))
    assert constant(torch.tensor([[0.3, 0.7, 5.0]])).abs().max() < 0.1


def test_a_search_in_components_finds_the_best_action_and_waits_for_them():
    config = CMAConfig(population=12, sigma=0.5, every=1, rollouts=4, horizon=3, components=1)
    agent, world, noise = CMAAgent(config, specs_for(CONTINUOUS)), Bandit(CONTINUOUS), gen()
    for _ in range(20):
        assert agent.learn(world, experience(), noise) == {}  # type: ignore[arg-type]
    for _ in range(30):
        agent.learn(world, experience(), noise)  # type: ignore[arg-type]
    features = torch.linspace(-1, 1, 9)[:, None].expand(-1, 2)
    chosen, _ = agent.act(None, {}, features, agent.initial(9), gen(), False)  # type: ignore[arg-type]
    torch.testing.assert_close(chosen, torch.full((9, 1), 0.5), atol=0.15, rtol=0)
    early = CMAAgent(config.model_copy(update={"where": "real"}), specs_for(CONTINUOUS))
    with pytest.raises(ConfigError, match="measured") as error:
        early.act(None, {}, torch.ones(2, 2), early.initial(2), noise, True)  # type: ignore[arg-type]
    assert "--train.pretrain-agent 20" in str(error.value.fix)
