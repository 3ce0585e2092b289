"""What agents keep outside of their weights: with it, learning goes on with the same bits as if it had not stopped."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from bandit_kit import CONTINUOUS, DISCRETE, Bandit, experience, gen, specs_for
from config_kit import configured
from worldlab_agents.cma import CMAAgent
from worldlab_agents.configs import CMAConfig, SB3Config
from worldlab_agents.sb3 import SB3Agent

from worldlab.agent import HasOwnState
from worldlab.runs.optimizer_state import flatten_optimizer, restore_optimizer

SMALL: dict[str, Any] = {
    "steps": 48,
    "num_envs": 8,
    "every": 1,
    "units": 8,
    "layers": 1,
    "batch_size": 16,
    "horizon": 6,
}
SEARCH: dict[str, Any] = {"population": 6, "every": 1, "rollouts": 2, "horizon": 2, "settle": 3, "averaging": 0.5}


def made(name: str) -> tuple[Any, Any]:
    """Return an agent, always with the same weights, and its actions."""
    torch.manual_seed(0)
    if name.startswith("cma"):
        where = name.partition(" ")[2]
        return CMAAgent(CMAConfig(where=where, **SEARCH), specs_for(CONTINUOUS)), CONTINUOUS  # type: ignore[arg-type]
    action = DISCRETE if name in ("PPO", "A2C", "DQN") else CONTINUOUS
    more = {"buffer": 200} if name in ("DQN", "SAC", "TD3", "DDPG") else {}
    return SB3Agent(configured(SB3Config, algorithm=name, **SMALL, **more), specs_for(action)), action


def learn(agent: Any, action: Any, generator: torch.Generator, updates: int) -> None:
    """Learn in dreams, or by the scores of episodes that the agent plays."""
    for _ in range(updates):
        agent.learn(Bandit(action), experience(), generator)
        if isinstance(agent, CMAAgent) and agent.config.where != "dream":
            _, state = agent.act(None, {}, torch.ones(2, 2), agent.initial(2), generator, True)  # type: ignore[arg-type]
            for row in range(2):
                one = {"candidate": state["candidate"][row]}
                agent.after_episode(one, float(np.cos(int(state["candidate"][row]))))


def bits(agent: Any) -> dict[str, bytes]:
    found = {**agent.state_dict(), **agent.own_state()}
    for name, optimizer in agent.optimizers().items():
        found |= {f"{name} {key}": value for key, value in flatten_optimizer(optimizer)[0].items()}
    return {key: value.numpy().tobytes() for key, value in found.items()}


def stopped_and_resumed(agent: Any, fresh: Any) -> Any:
    """Return a fresh agent with everything that a checkpoint holds of another."""
    state = copy.deepcopy((agent.state_dict(), agent.own_state()))
    fresh.load_state_dict(state[0])
    for name, optimizer in fresh.optimizers().items():
        restore_optimizer(optimizer, *copy.deepcopy(flatten_optimizer(agent.optimizers()[name])))
    fresh.load_own_state(state[1])
    return fresh


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC", "TD3", "cma dream", "cma real", "cma both"])
def test_learning_goes_on_with_the_same_bits(name):
    (whole, action), (again, _) = made(name), made(name)
    streams = gen(), gen()
    learn(whole, action, streams[0], 9)
    learn(again, action, streams[1], 4)
    assert isinstance(again, HasOwnState)
    again = stopped_and_resumed(again, made(name)[0])
    learn(again, action, streams[1], 5)
    found, expected = bits(again), bits(whole)
    assert {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)} == set()


def test_a_buffer_that_is_full_goes_on_where_it_was():
    agent, action = made("SAC")
    learn(agent, action, gen(), 6)
    buffer = agent.algorithm.replay_buffer
    assert buffer.full and buffer.pos > 0
    again = stopped_and_resumed(agent, made("SAC")[0]).algorithm.replay_buffer
    assert (again.full, again.pos) == (True, buffer.pos) and np.array_equal(again.rewards, buffer.rewards)


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [
        ("SAC", "buffer_rewards", torch.zeros(3, 3)),
        ("SAC", "buffer_position", torch.tensor([10**6, 0])),
        ("SAC", "num_timesteps", torch.zeros(3)),
        ("cma dream", "scores", torch.zeros(4, 2)),
        ("cma real", "played", torch.tensor([9, 9])),
    ],
)
def test_a_state_of_another_form_is_an_error(name, entry, value):
    agent, action = made(name)
    learn(agent, action, gen(), 4)
    state = agent.own_state()
    with pytest.raises(Exception):  # noqa: B017  (the session turns any into a CheckpointError)
        made(name)[0].load_own_state({**state, entry: value})
    with pytest.raises(Exception):  # noqa: B017
        made(name)[0].load_own_state({key: part for key, part in state.items() if key != entry})
